//! Port 15017: the API server asks what is to be done with a new pod (AdmissionReview v1).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, Client};
use mesh::contract::INJECT_LABEL;
use rustls::crypto::aws_lc_rs;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::answer::{Body, Refusal, json_of};
use crate::control::text;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::patch::{Config, Decision, Nonce, decide};
use crate::peer::Peer;
use crate::place::Places;
use crate::serve::{Answer, IDLE, Port};
use crate::stay::Stay;

/// The version of AdmissionReview that is understood.
const API_VERSION: &str = "admission.k8s.io/v1";

/// The API server's own limit for a request body.
const LONGEST_REVIEW: usize = 3 * 1024 * 1024;

/// Bodies on their way from one address: the API server sends its reviews side by side, each in one go.
const UNREAD_EACH: usize = 8;
/// As of 32 addresses that send slowly: 768 MiB at most.
const UNREAD_ALL: usize = 256;
/// The API server waits 5 s for the whole answer: 2 s of it for a place, 2 s for the body.
const BODY: Duration = Duration::from_secs(2);
/// A look at a new namespace has half of the rest, with the wait for its turn.
const LOOK_UP: Duration = Duration::from_millis(500);
/// Looks at namespaces at once: whoever sends garbage must not make us a burden to the API server.
const LOOKS: usize = 16;

/// What port 15017 works with.
pub struct Webhook {
    index: Arc<Index>,
    metrics: Arc<Metrics>,
    config: Config,
    /// Asked about namespaces that are too new to be known.
    client: Option<Client>,
    unread: Places<IpAddr>,
    looks: Semaphore,
}

#[derive(Deserialize)]
struct Review<'b> {
    #[serde(default, rename = "apiVersion")]
    api_version: String,
    #[serde(borrow)]
    request: Admission<'b>,
}

#[derive(Deserialize)]
struct Admission<'b> {
    uid: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    operation: String,
    /// As it came: read whole, an object can take a hundred times its room.
    #[serde(borrow)]
    object: Option<&'b RawValue>,
}

/// What of an object has to be known before the rest is read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Head {
    kind: String,
    metadata: HeadMeta,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct HeadMeta {
    namespace: Option<String>,
    labels: Option<BTreeMap<String, String>>,
}

impl Webhook {
    /// The service.
    pub fn new(index: Arc<Index>, metrics: Arc<Metrics>, config: Config, client: Option<Client>) -> Self {
        let unread = Places::new(UNREAD_EACH, UNREAD_ALL);
        Self { index, metrics, config, client, unread, looks: Semaphore::new(LOOKS) }
    }

    async fn inject(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        if request.uri().path() != "/inject" {
            return Err(Refusal::absent("only /inject is served here"));
        }
        if request.method() != Method::POST {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "/inject takes POST only"));
        }
        // Held until the answer is made: a body is in memory for as long.
        let peer = request.extensions().get().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), Peer::ip);
        let place = self.unread.take(peer).await;
        let _place = place.ok_or_else(|| {
            Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too many bodies are on their way: ask again in a second",
            )
        })?;
        let body = text(request.into_body(), LONGEST_REVIEW, BODY).await?;
        let review: Review = serde_json::from_str(&body)
            .map_err(|error| Refusal::bad(format!("the body is not an AdmissionReview: {error}")))?;
        if !matches!(review.api_version.as_str(), "" | API_VERSION) {
            return Err(Refusal::bad(format!("{} is not {API_VERSION}", review.api_version)));
        }
        Ok(json_of(StatusCode::OK, &self.review(&review.request).await?))
    }

    /// The AdmissionReview that answers `request`.
    async fn review(&self, request: &Admission<'_>) -> Result<Value, Refusal> {
        let decision = match about(request) {
            Ok(About { namespace: name, asks }) => {
                let namespace = self.namespace(&name, asks).await?;
                self.decide(request, &name, namespace.as_ref())
            }
            Err(decision) => decision,
        };
        let (outcome, mut response) = match decision {
            Decision::Patch { operations, warnings } => ("patched", patched(&operations, &warnings)),
            Decision::Skip(reason) => ("skipped", warned(&[format!("not injected: {reason}")])),
            Decision::Leave => ("skipped", json!({"allowed": true})),
            Decision::Deny(reason) => ("denied", denied(&reason)),
        };
        self.metrics.injected(outcome);
        response["uid"] = json!(request.uid);
        Ok(json!({"apiVersion": API_VERSION, "kind": "AdmissionReview", "response": response}))
    }

    /// Never waits: of the objects that are read whole, there is one at a time.
    fn decide(&self, request: &Admission<'_>, name: &str, namespace: Option<&Namespace>) -> Decision {
        let object = request.object.map_or("null", RawValue::get);
        let pod: Pod = match serde_json::from_str(object) {
            Ok(pod) => pod,
            Err(error) => return Decision::Deny(format!("the Pod cannot be read: {error}")),
        };
        let Some(nonce) = nonce() else {
            return Decision::Deny("the control plane gets no random numbers from its kernel".to_owned());
        };
        let cluster_cidrs = self.index.read().cluster().iter().map(ToString::to_string).collect();
        let config = Config { cluster_cidrs, ..self.config.clone() };
        decide(&pod, name, namespace, &config, nonce)
    }

    /// The namespace. One that does not ask for the mesh, as far as we know, may have been labelled a moment ago: the API
    /// server asks us, so it knows more. Where it cannot be asked, the pod is not let through without its proxy.
    async fn namespace(&self, name: &str, pod_asks: bool) -> Result<Option<Namespace>, Refusal> {
        let known = self.index.read().namespace(name).cloned();
        let asks = |namespace: &Namespace| pod_asks || says_enabled(namespace.metadata.labels.as_ref());
        let Some(client) = self.client.clone().filter(|_| !known.as_ref().is_some_and(asks)) else {
            return Ok(known);
        };
        let look = async {
            let _turn = self.looks.acquire().await;
            Api::<Namespace>::all(client).get_opt(name).await
        };
        match timeout(LOOK_UP, look).await {
            Ok(Ok(fresh)) => Ok(fresh.or(known)),
            Ok(Err(_)) | Err(_) => Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("the namespace {name} cannot be looked up at the moment: ask again"),
            )),
        }
    }
}

/// What decides whether the pod's namespace has to be known better than it is.
struct About {
    namespace: String,
    /// The pod itself asks for the mesh.
    asks: bool,
}

/// The pod that is asked about, or what is decided without a look at it.
fn about(request: &Admission<'_>) -> Result<About, Decision> {
    if !matches!(request.operation.as_str(), "" | "CREATE") {
        return Err(Decision::Skip("only new pods are injected".to_owned()));
    }
    let unread =
        |why: &str| Decision::Deny(format!("the AdmissionReview holds no object that can be read: {why}"));
    let object = request.object.ok_or_else(|| unread("it is missing"))?;
    let head: Head = serde_json::from_str(object.get()).map_err(|error| unread(&error.to_string()))?;
    match head.kind.as_str() {
        "Pod" => {}
        "" => return Err(unread("it has no kind")),
        _ => return Err(Decision::Skip("it is not a Pod".to_owned())),
    }
    let asks = says_enabled(head.metadata.labels.as_ref());
    let own = head.metadata.namespace.unwrap_or_else(|| "default".to_owned());
    let namespace = if request.namespace.is_empty() { own } else { request.namespace.clone() };
    Ok(About { namespace, asks })
}

fn says_enabled(labels: Option<&BTreeMap<String, String>>) -> bool {
    labels.and_then(|labels| labels.get(INJECT_LABEL)).is_some_and(|wish| wish == "enabled")
}

impl Port for Webhook {
    const STAY: Stay = Stay::Asked(IDLE);
    /// API servers ask for nothing but `POST /inject`.
    const LAST: &'static [StatusCode] = &[StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED];
}

impl Answer for Webhook {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.inject(request).await.unwrap_or_else(|refusal| refusal.response())
    }
}

/// A number that nobody can guess.
fn nonce() -> Option<Nonce> {
    let mut bytes = [0; 16];
    aws_lc_rs::default_provider().secure_random.fill(&mut bytes).ok()?;
    Some(Nonce(u128::from_ne_bytes(bytes)))
}

fn patched(operations: &[Value], warnings: &[String]) -> Value {
    let patch = ByteString(json!(operations).to_string().into_bytes());
    let mut response = warned(warnings);
    response["patchType"] = json!("JSONPatch");
    response["patch"] = json!(patch);
    response
}

/// Allowed, with what the user should know: `kubectl` shows it.
fn warned(warnings: &[String]) -> Value {
    let warnings: Vec<String> = warnings.iter().map(|warning| format!("heddle: {warning}")).collect();
    match warnings.is_empty() {
        true => json!({"allowed": true}),
        false => json!({"allowed": true, "warnings": warnings}),
    }
}

fn denied(reason: &str) -> Value {
    let message = format!("heddle: {reason}");
    json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "status": "Failure", "message": message}})
}
