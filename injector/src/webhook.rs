//! Port 15017: the API server asks what is to be done with a new pod (AdmissionReview v1).

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Pod;
use rustls::crypto::aws_lc_rs;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answer::{Body, Refusal, json_of};
use crate::control::text;
use crate::index::Index;
use crate::metrics::Metrics;
use crate::patch::{Config, Decision, Nonce, decide};
use crate::peer::Peer;
use crate::place::Places;
use crate::serve::Answer;

/// The API server's own limit for a request body.
const LONGEST_REVIEW: usize = 3 * 1024 * 1024;

/// Bodies on their way from one address: the API server sends its reviews side by side, each in one go.
const UNREAD_EACH: usize = 8;
/// As of 32 addresses that send slowly: 768 MiB at most.
const UNREAD_ALL: usize = 256;
/// The API server waits 5 s for the whole answer: 2 s of it for a place, 2 s for the body.
const BODY: Duration = Duration::from_secs(2);

/// What port 15017 works with.
pub struct Webhook {
    index: Arc<Index>,
    metrics: Arc<Metrics>,
    config: Config,
    unread: Places<IpAddr>,
}

#[derive(Deserialize)]
struct Review {
    request: Admission,
}

#[derive(Deserialize)]
struct Admission {
    uid: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    object: Value,
}

impl Webhook {
    /// The service.
    pub fn new(index: Arc<Index>, metrics: Arc<Metrics>, config: Config) -> Self {
        Self { index, metrics, config, unread: Places::new(UNREAD_EACH, UNREAD_ALL) }
    }

    async fn inject(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        if request.uri().path() != "/inject" {
            return Err(Refusal::absent("only /inject is served here"));
        }
        if request.method() != Method::POST {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "/inject takes POST only"));
        }
        let body = self.read(request).await?;
        // From here on nothing waits: reviews are decided one after the other.
        let review: Review = serde_json::from_str(&body)
            .map_err(|error| Refusal::bad(format!("the body is not an AdmissionReview: {error}")))?;
        Ok(json_of(StatusCode::OK, &self.review(&review.request)))
    }

    async fn read(&self, request: Request<Incoming>) -> Result<String, Refusal> {
        let peer = request.extensions().get().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), Peer::ip);
        let place = self.unread.take(peer).await;
        let _place = place.ok_or_else(|| {
            Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too many bodies are on their way: ask again in a second",
            )
        })?;
        text(request.into_body(), LONGEST_REVIEW, BODY).await
    }

    /// The AdmissionReview that answers `request`.
    fn review(&self, request: &Admission) -> Value {
        let (outcome, mut response) = match self.decide(request) {
            Decision::Patch(operations) => ("patched", patched(&operations)),
            Decision::Skip(reason) => {
                ("skipped", json!({"allowed": true, "warnings": [format!("heddle: not injected: {reason}")]}))
            }
            Decision::Deny(reason) => ("denied", denied(&reason)),
        };
        self.metrics.injected(outcome);
        response["uid"] = json!(request.uid);
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    fn decide(&self, request: &Admission) -> Decision {
        if request.object["kind"] != "Pod" {
            return Decision::Skip("it is not a Pod".to_owned());
        }
        let pod = match Pod::deserialize(&request.object) {
            Ok(pod) => pod,
            Err(error) => return Decision::Deny(format!("the Pod cannot be read: {error}")),
        };
        let own = pod.metadata.namespace.as_deref().unwrap_or("default");
        let namespace = if request.namespace.is_empty() { own } else { &request.namespace };
        let Some(nonce) = nonce() else {
            return Decision::Deny("the control plane gets no random numbers from its kernel".to_owned());
        };
        decide(&pod, namespace, self.index.read().namespace(namespace), &self.config, nonce)
    }
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

fn patched(operations: &[Value]) -> Value {
    let patch = ByteString(json!(operations).to_string().into_bytes());
    json!({"allowed": true, "patchType": "JSONPatch", "patch": patch})
}

fn denied(reason: &str) -> Value {
    let message = format!("heddle: {reason}");
    json!({"allowed": false, "status": {"code": 403, "reason": "Forbidden", "status": "Failure", "message": message}})
}
