//! Port 15012: signing and discovery, for callers that prove who they are.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::header::AUTHORIZATION;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::answer::{Body, Refusal, json_of, whole};
use crate::authority::Present;
use crate::discovery::{self, Open};
use crate::index::Index;
use crate::limit::{Limit, Rate};
use crate::metrics::Metrics;
use crate::peer::Peer;
use crate::review::{Caller, Reviewer};
use crate::said::worth_a_review;
use crate::serve::{Answer, Port};
use crate::stay::Stay;
use crate::tokens::Tokens;

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
/// A new token's signature costs about 0.2 ms, for anybody who sends one: by address, as nobody is proved yet.
const CHECK_EACH: Rate = Rate { burst: 200, per_second: 20 };
/// A fifth of a core at most.
const CHECK_ALL: Rate = Rate { burst: 5_000, per_second: 1_000 };
/// A body that takes longer than this is given up.
const BODY: Duration = Duration::from_secs(10);
/// Callers remembered for their rates.
const MOST_CALLERS: usize = 20_000;

/// What port 15012 works with.
pub struct Control {
    index: Arc<Index>,
    authority: Arc<Present>,
    metrics: Arc<Metrics>,
    open: Arc<Open>,
    reviewer: Mutex<Reviewer>,
    /// Who reviews what the reviewer does not know; nobody in the lab, where it has the key.
    tokens: Option<Arc<Tokens>>,
    checking: Mutex<Limit>,
    signing: Mutex<Limit>,
    reading: Mutex<Limit>,
}

impl Control {
    /// The service, with fresh limits.
    pub fn new(
        index: Arc<Index>,
        authority: Arc<Present>,
        metrics: Arc<Metrics>,
        (reviewer, tokens): (Reviewer, Option<Arc<Tokens>>),
    ) -> Self {
        let now = Instant::now();
        let limit = |each, all| Mutex::new(Limit::new(each, all, MOST_CALLERS, now));
        let (signing, reading) = (limit(SIGN_EACH, SIGN_ALL), limit(READ_EACH, READ_ALL));
        let (checking, open) = (limit(CHECK_EACH, CHECK_ALL), Arc::new(Open::new(Arc::clone(&metrics))));
        let reviewer = Mutex::new(reviewer);
        Self { index, authority, metrics, open, reviewer, tokens, checking, signing, reading }
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
                Ok(whole(StatusCode::OK, "application/x-pem-file", self.authority.last().bundle().to_owned()))
            }
            _ => {
                allow(&self.reading, &caller.uid)?;
                let uri = request.uri();
                let query = uri.query().unwrap_or_default();
                discovery::answer(&self.index, &self.open, &caller, uri.path(), query).await
            }
        }
    }

    async fn review(&self, request: &Request<Incoming>) -> Result<Caller, Refusal> {
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer ")).ok_or_else(|| {
            Refusal::new(StatusCode::UNAUTHORIZED, "send the pod's token: Authorization: Bearer TOKEN")
        })?;
        let peer: &Peer = request.extensions().get().ok_or_else(|| {
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "it is not known where the request came from")
        })?;
        let (token, now) = (token.trim(), (Instant::now(), SystemTime::now()));
        if !self.reviewer().remembers(token, now) {
            allow(&self.checking, &peer.ip().to_string())?;
            self.ask_about(token, peer.ip(), now).await?;
        }
        let caller = self.reviewer().review(token, &self.index.read(), peer.ip(), now)?;
        match peer.prove(&caller.uid) {
            true => Ok(caller),
            false => Err(Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "the pod has too many connections open: use one for all requests",
            )),
        }
    }

    /// Has the API server say whose `token` is, where nobody here can.
    async fn ask_about(&self, token: &str, from: IpAddr, now: (Instant, SystemTime)) -> Result<(), Refusal> {
        let Some(tokens) = &self.tokens else { return Ok(()) };
        let pod = worth_a_review(token, &self.index.read(), from, now.1)?;
        let claims = tokens.review(token, &pod).await?;
        self.reviewer().learn(token, &claims, now)
    }

    fn reviewer(&self) -> MutexGuard<'_, Reviewer> {
        self.reviewer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn sign(&self, caller: &Caller, body: Incoming) -> Result<Response<Body>, Refusal> {
        allow(&self.signing, &caller.uid)?;
        let csr = text(body, LONGEST_CSR, BODY).await?;
        let signed = self.authority.signer()?.sign(&csr, &caller.identity, SystemTime::now());
        let signed = signed.map_err(|error| {
            tracing::warn!(pod = %caller.pod, "refused to sign: {error}");
            Refusal::bad(error.to_string())
        })?;
        tracing::info!(pod = %caller.pod, identity = %caller.identity, not_after = signed.not_after, "signed");
        Ok(json_of(StatusCode::OK, &signed))
    }
}

impl Port for Control {
    /// One proxy's watches share one connection: as many as discovery allows one pod.
    const STREAMS: u32 = 8_192;
    const STAY: Stay = Stay::Proved;
    const LAST: &'static [StatusCode] = &[StatusCode::UNAUTHORIZED];
}

impl Answer for Control {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let what = match request.uri().path() {
            "/v1/sign" => "sign",
            "/v1/bundle" => "bundle",
            _ => "read",
        };
        let response = match self.review(&request).await {
            Ok(caller) => self.serve(what, caller, request).await,
            Err(refusal) => Err(refusal),
        };
        let response = response.unwrap_or_else(|refusal| refusal.response());
        self.metrics.answered(what, response.status().as_u16());
        response
    }
}

fn allow(limit: &Mutex<Limit>, caller: &str) -> Result<(), Refusal> {
    let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
    match limit.allow(caller, Instant::now()) {
        true => Ok(()),
        false => Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many requests: ask again in a second")),
    }
}

/// The body as text, if it is not longer than `longest` bytes and comes in `time`.
pub async fn text<B>(body: B, longest: usize, time: Duration) -> Result<String, Refusal>
where
    B: HttpBody,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let collected = timeout(time, Limited::new(body, longest).collect()).await;
    let collected =
        collected.map_err(|_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body takes too long"))?;
    let whole = collected.map_err(|error| match error.is::<LengthLimitError>() {
        true => {
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is longer than {longest} bytes"))
        }
        false => Refusal::bad("the body broke off"),
    })?;
    String::from_utf8(whole.to_bytes().to_vec()).map_err(|_| Refusal::bad("the body is not UTF-8"))
}
