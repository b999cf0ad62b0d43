//! TokenReview: the API server says whether a service account token is good, and whose it is (security rule 10).
//!
//! A proxy that starts sends many requests at once with one new token: they wait for one review. Of other tokens in the
//! name of one pod there is one review at a time, and what was refused is refused again without another.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http::StatusCode;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};
use mesh::contract::TOKEN_AUDIENCE;
use serde::Deserialize;
use tokio::time::timeout;

use crate::answer::Refusal;
use crate::place::Places;
use crate::review::{Bound, BoundPod, Claims, Digest, Named, digest, unauthorized};

/// Reviews on their way at a time: a restart of the whole mesh must not be an attack on the API server.
const AT_ONCE: usize = 32;
/// Of them, in the name of one pod: it sends one token, and another one every 48 minutes.
const OF_ONE_POD: usize = 1;
/// A review that takes longer is given up; its proxy asks again.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a refusal is remembered; short, since the API server may know more in a moment.
const REFUSED: Duration = Duration::from_secs(10);
/// How many are remembered at once; about 300 bytes each.
const MOST_REFUSED: usize = 4096;

type Outcome = Result<Claims, Refusal>;

/// Asks the API server.
pub struct Tokens {
    api: Api<TokenReview>,
    /// By the UID of the pod that a token names.
    places: Places<String>,
    pending: Mutex<HashMap<Digest, Shared<BoxFuture<'static, Outcome>>>>,
    refused: Mutex<Refused>,
}

/// Tokens that the API server has refused a moment ago.
#[derive(Default)]
struct Refused(HashMap<Digest, (Refusal, Instant)>);

/// When a token was issued and ends. The API server has checked it and does not tell.
#[derive(Deserialize)]
struct Times {
    iat: u64,
    exp: u64,
}

impl Tokens {
    /// Asks by `client`.
    pub fn new(client: Client) -> Arc<Self> {
        let places = Places::new(OF_ONE_POD, AT_ONCE);
        Arc::new(Self { api: Api::all(client), places, pending: Mutex::default(), refused: Mutex::default() })
    }

    /// What `token` says, if the API server finds it good. `pod` is the UID of the pod that it names: who sends token
    /// after token in its name waits for himself.
    pub async fn review(self: &Arc<Self>, token: &str, pod: &str) -> Outcome {
        let digest = digest(token);
        let refusal = self.refused().recall(&digest, Instant::now());
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let review = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = || self.begin(digest, token.to_owned(), pod.to_owned());
            pending.entry(digest).or_insert_with(begin).clone()
        };
        review.await
    }

    /// A review in a task of its own: it goes on when whoever asked gives up, and is forgotten when it is done.
    fn begin(
        self: &Arc<Self>,
        digest: Digest,
        token: String,
        pod: String,
    ) -> Shared<BoxFuture<'static, Outcome>> {
        let this = Arc::clone(self);
        let task = tokio::spawn(async move {
            let outcome = this.ask(token, pod).await;
            if let Err(refusal) = &outcome {
                this.refused().remember(digest, refusal, Instant::now());
            }
            this.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
            outcome
        });
        task.map(|ended| ended.unwrap_or_else(|_| Err(unavailable("its review broke off")))).boxed().shared()
    }

    async fn ask(&self, token: String, pod: String) -> Outcome {
        let Some(_place) = self.places.wait(pod).await else { return Err(unavailable("reviews ended")) };
        let spec =
            TokenReviewSpec { audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]), token: Some(token.clone()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let parameters = PostParams::default();
        let asked = timeout(PATIENCE, self.api.create(&parameters, &review)).await;
        let reviewed = asked.map_err(|_| unavailable("the API server takes too long"))?;
        let reviewed = reviewed.map_err(|error| unavailable(&error.to_string()))?;
        let times = jsonwebtoken::dangerous::insecure_decode_claims::<Times>(&token);
        let times = times.map_err(|_| unauthorized("the token is no JWT with the claims iat and exp"))?;
        claims(&reviewed.status.unwrap_or_default(), &times)
    }

    fn refused(&self) -> MutexGuard<'_, Refused> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refused {
    fn recall(&self, digest: &Digest, now: Instant) -> Option<Refusal> {
        let (refusal, at) = self.0.get(digest)?;
        is_fresh(*at, now).then(|| refusal.clone())
    }

    /// Keeps what was said of the token itself. That nobody could say anything may be over in a moment.
    fn remember(&mut self, digest: Digest, refusal: &Refusal, now: Instant) {
        if refusal.code != StatusCode::UNAUTHORIZED {
            return;
        }
        if self.0.len() >= MOST_REFUSED {
            self.0.retain(|_, (_, at)| is_fresh(*at, now));
        }
        if self.0.len() >= MOST_REFUSED {
            self.0.clear();
        }
        self.0.insert(digest, (refusal.clone(), now));
    }
}

fn is_fresh(refused: Instant, now: Instant) -> bool {
    now.saturating_duration_since(refused) < REFUSED
}

/// What a review says. It must name our audience: a token for anything else says nothing to us.
fn claims(status: &TokenReviewStatus, times: &Times) -> Outcome {
    if status.authenticated != Some(true) {
        let reason = status.error.as_deref().unwrap_or("it is not a token of this cluster");
        return Err(unauthorized(&format!("the API server refused the token: {reason}")));
    }
    if !status.audiences.iter().flatten().any(|audience| audience == TOKEN_AUDIENCE) {
        return Err(unauthorized(&format!("the token's audience is not {TOKEN_AUDIENCE}")));
    }
    let user = status.user.clone().unwrap_or_default();
    let sub = user.username.clone().unwrap_or_default();
    let Some((namespace, account)) =
        sub.strip_prefix("system:serviceaccount:").and_then(|text| text.split_once(':'))
    else {
        return Err(unauthorized("the token is not that of a service account"));
    };
    let bound = Bound {
        namespace: namespace.to_owned(),
        serviceaccount: Named { name: account.to_owned() },
        pod: BoundPod { name: extra(&user, "pod-name")?, uid: extra(&user, "pod-uid")? },
    };
    Ok(Claims { sub, iat: times.iat, exp: times.exp, kubernetes: bound })
}

/// What the token is bound to (KEP-1205, since Kubernetes 1.22).
fn extra(user: &UserInfo, name: &str) -> Result<String, Refusal> {
    let no_extra = BTreeMap::new();
    let values =
        user.extra.as_ref().unwrap_or(&no_extra).get(&format!("authentication.kubernetes.io/{name}"));
    match values.map(Vec::as_slice) {
        Some([value]) => Ok(value.clone()),
        _ => Err(unauthorized("the token is not bound to a pod")),
    }
}

fn unavailable(reason: &str) -> Refusal {
    let message = format!("the token cannot be reviewed now: {reason}");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use http::Response;
    use http_body_util::Full;
    use serde_json::{Value, json};

    const TIMES: Times = Times { iat: 1, exp: 2 };

    fn status() -> Value {
        json!({
            "authenticated": true, "audiences": ["heddle.dev"],
            "user": {
                "username": "system:serviceaccount:shop:web",
                "extra": {
                    "authentication.kubernetes.io/pod-name": ["web-0"],
                    "authentication.kubernetes.io/pod-uid": ["u"],
                },
            },
        })
    }

    #[track_caller]
    fn check_refused(change: impl FnOnce(&mut Value), message: &str) {
        let mut status = status();
        change(&mut status);
        let refusal = claims(&serde_json::from_value(status).unwrap(), &TIMES).unwrap_err();
        assert_eq!((refusal.code.as_u16(), refusal.message.as_str()), (401, message));
    }

    #[test]
    fn a_good_token_names_the_pod_and_its_service_account() {
        let claims = claims(&serde_json::from_value(status()).unwrap(), &TIMES).unwrap();
        let bound = &claims.kubernetes;
        assert_eq!((bound.namespace.as_str(), bound.serviceaccount.name.as_str()), ("shop", "web"));
        assert_eq!((bound.pod.name.as_str(), bound.pod.uid.as_str()), ("web-0", "u"));
    }

    #[test]
    fn what_the_api_server_does_not_vouch_for_is_refused() {
        check_refused(
            |status| status["authenticated"] = json!(false),
            "the API server refused the token: it is not a token of this cluster",
        );
        check_refused(
            |status| status["audiences"] = json!(["other"]),
            "the token's audience is not heddle.dev",
        );
        check_refused(
            |status| drop(status.as_object_mut().unwrap().remove("audiences")),
            "the token's audience is not heddle.dev",
        );
        check_refused(
            |status| status["user"]["username"] = json!("system:node:a"),
            "the token is not that of a service account",
        );
        check_refused(|status| status["user"]["extra"] = json!({}), "the token is not bound to a pod");
    }

    #[test]
    fn a_refused_token_is_refused_again_for_a_moment() {
        let (mut refused, start) = (Refused::default(), Instant::now());
        let refusal = unauthorized("it is not a token of this cluster");
        refused.remember(digest("bad"), &refusal, start);
        refused.remember(digest("slow"), &unavailable("the API server takes too long"), start);
        assert_eq!(refused.recall(&digest("bad"), start + REFUSED / 2), Some(refusal));
        assert_eq!(refused.recall(&digest("slow"), start), None);
        assert_eq!(refused.recall(&digest("bad"), start + REFUSED), None);
    }

    #[test]
    fn what_is_remembered_of_refusals_is_bounded() {
        let (mut refused, start) = (Refused::default(), Instant::now());
        for number in 0..=MOST_REFUSED {
            refused.remember(digest(&number.to_string()), &unauthorized("no"), start);
            assert!(refused.0.len() <= MOST_REFUSED);
        }
        assert!(refused.recall(&digest(&MOST_REFUSED.to_string()), start).is_some());
    }

    /// An API server that finds no token good, and counts: reviews that run, the most that ran at once, and all.
    #[derive(Default)]
    struct Server([AtomicUsize; 3]);

    impl Server {
        async fn refuse(&self) -> Response<Full<Bytes>> {
            let [running, most, all] = &self.0;
            all.fetch_add(1, Ordering::Relaxed);
            most.fetch_max(running.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
            running.fetch_sub(1, Ordering::Relaxed);
            let review = json!({
                "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": {},
                "status": {"authenticated": false},
            });
            Response::new(Full::from(review.to_string()))
        }

        /// Has all `tokens` reviewed, each with its pod; says how many reviews ran at once, and how many there were.
        async fn review(tokens: &[(&str, &str)]) -> [usize; 2] {
            let server = Arc::new(Self::default());
            let asked = Arc::clone(&server);
            let service = tower::service_fn(move |_: http::Request<kube::client::Body>| {
                let asked = Arc::clone(&asked);
                async move { Ok::<_, Infallible>(asked.refuse().await) }
            });
            let reviews = Tokens::new(Client::new(service, "default"));
            let all = tokens.iter().map(|(token, pod)| reviews.review(token, pod));
            let outcomes = futures::future::join_all(all).await;
            assert!(
                outcomes.iter().all(|outcome| outcome.as_ref().is_err_and(|refusal| refusal.code == 401))
            );
            let [_, most, all] = &server.0;
            [most.load(Ordering::Relaxed), all.load(Ordering::Relaxed)]
        }
    }

    // Each is a JWT that says {"iat":1,"exp":2}.
    const FIRST: &str = "a.eyJpYXQiOjEsImV4cCI6Mn0.a";
    const SECOND: &str = "b.eyJpYXQiOjEsImV4cCI6Mn0.b";

    #[tokio::test(start_paused = true)]
    async fn a_token_that_comes_often_is_reviewed_once() {
        assert_eq!(Server::review(&[(FIRST, "uid-0"), (FIRST, "uid-0"), (FIRST, "uid-0")]).await, [1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_one_pod_there_is_one_review_at_a_time() {
        assert_eq!(Server::review(&[(FIRST, "uid-0"), (SECOND, "uid-0")]).await, [1, 2]);
        assert_eq!(Server::review(&[(FIRST, "uid-0"), (SECOND, "uid-1")]).await, [2, 2]);
    }
}
