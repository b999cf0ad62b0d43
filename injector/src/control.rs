//! Port 15012: signing and discovery, for callers that prove who they are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use http::header::AUTHORIZATION;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use crate::answer::{Body, Refusal, json_of, whole};
use crate::authority::Authority;
use crate::discovery;
use crate::index::Index;
use crate::limit::{Limit, Rate};
use crate::metrics::Metrics;
use crate::review::{Caller, Reviewer};
use crate::serve::Answer;

/// A signing request has less than 1 KiB.
const LONGEST_CSR: usize = 16 * 1024;

/// A proxy asks twice at its start and then every eight hours; a crashing one, every few seconds.
const SIGN_EACH: Rate = Rate { burst: 10, per_second: 1 };
/// One signature costs about 0.2 ms: a tenth of a core at most.
const SIGN_ALL: Rate = Rate { burst: 2_000, per_second: 500 };
/// A destination costs a proxy about six reads; all are opened anew when the control plane was away.
const READ_EACH: Rate = Rate { burst: 2_000, per_second: 200 };
/// A read costs about 0.05 ms.
const READ_ALL: Rate = Rate { burst: 50_000, per_second: 5_000 };
/// Callers remembered for their rates.
const MOST_CALLERS: usize = 20_000;

/// What port 15012 works with.
pub struct Control {
    index: Arc<Index>,
    authority: Arc<Authority>,
    metrics: Arc<Metrics>,
    reviewer: Mutex<Reviewer>,
    signing: Mutex<Limit>,
    reading: Mutex<Limit>,
}

impl Control {
    /// The service, with fresh limits.
    pub fn new(
        index: Arc<Index>,
        authority: Arc<Authority>,
        metrics: Arc<Metrics>,
        reviewer: Reviewer,
    ) -> Self {
        let now = Instant::now();
        let limit = |each, all| Mutex::new(Limit::new(each, all, MOST_CALLERS, now));
        let (signing, reading) = (limit(SIGN_EACH, SIGN_ALL), limit(READ_EACH, READ_ALL));
        Self { index, authority, metrics, reviewer: Mutex::new(reviewer), signing, reading }
    }

    async fn serve(
        &self,
        what: &str,
        caller: Caller,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Refusal> {
        let method = if what == "sign" { Method::POST } else { Method::GET };
        if request.method() != method {
            let message = format!("{} takes {method} only", request.uri().path());
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message));
        }
        match what {
            "sign" => self.sign(&caller, request.into_body()).await,
            "bundle" => {
                Ok(whole(StatusCode::OK, "application/x-pem-file", self.authority.bundle().to_owned()))
            }
            _ => {
                allow(&self.reading, &caller)?;
                let uri = request.uri();
                discovery::answer(&self.index, &self.metrics, uri.path(), uri.query().unwrap_or_default())
            }
        }
    }

    fn review(&self, request: &Request<Incoming>) -> Result<Caller, Refusal> {
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(|| {
            Refusal::new(StatusCode::UNAUTHORIZED, "send the pod's token: Authorization: Bearer TOKEN")
        })?;
        let mut reviewer = self.reviewer.lock().unwrap_or_else(PoisonError::into_inner);
        reviewer.review(token.trim(), &self.index.read(), (Instant::now(), SystemTime::now()))
    }

    async fn sign(&self, caller: &Caller, body: Incoming) -> Result<Response<Body>, Refusal> {
        allow(&self.signing, caller)?;
        let csr = text(body, LONGEST_CSR).await?;
        let signed = self.authority.sign(&csr, &caller.identity, SystemTime::now());
        let signed = signed.map_err(|error| {
            tracing::warn!(pod = %caller.pod, "refused to sign: {error}");
            Refusal::bad(error.to_string())
        })?;
        tracing::info!(pod = %caller.pod, identity = %caller.identity, not_after = signed.not_after, "signed");
        Ok(json_of(StatusCode::OK, &signed))
    }
}

impl Answer for Control {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let what = match request.uri().path() {
            "/v1/sign" => "sign",
            "/v1/bundle" => "bundle",
            _ => "read",
        };
        let response = match self.review(&request) {
            Ok(caller) => self.serve(what, caller, request).await,
            Err(refusal) => Err(refusal),
        };
        let response = response.unwrap_or_else(|refusal| refusal.response());
        self.metrics.answered(what, response.status().as_u16());
        response
    }
}

fn allow(limit: &Mutex<Limit>, caller: &Caller) -> Result<(), Refusal> {
    let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
    match limit.allow(&caller.uid, Instant::now()) {
        true => Ok(()),
        false => Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many requests: ask again in a second")),
    }
}

/// The body as text, if it is not longer than `longest` bytes.
pub async fn text<B>(body: B, longest: usize) -> Result<String, Refusal>
where
    B: HttpBody,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let whole = Limited::new(body, longest).collect().await.map_err(|error| {
        match error.is::<LengthLimitError>() {
            true => Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body is longer than {longest} bytes"),
            ),
            false => Refusal::bad("the body broke off"),
        }
    })?;
    String::from_utf8(whole.to_bytes().to_vec()).map_err(|_| Refusal::bad("the body is not UTF-8"))
}
