//! TokenReview: the API server says whether a service account token is good, and whose it is (security rule 10).
//!
//! A proxy that starts sends many requests at once with one new token: they wait for one review.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use http::StatusCode;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};
use mesh::contract::TOKEN_AUDIENCE;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::answer::Refusal;
use crate::review::{Bound, BoundPod, Claims, Digest, Named, check_length, digest, unauthorized};

/// Reviews on their way at a time: a restart of the whole mesh must not be an attack on the API server.
const AT_ONCE: usize = 32;
/// A review that takes longer is given up; its proxy asks again.
const PATIENCE: Duration = Duration::from_secs(5);

type Outcome = Result<Claims, Refusal>;

/// Asks the API server.
pub struct Tokens {
    api: Api<TokenReview>,
    places: Semaphore,
    pending: Mutex<HashMap<Digest, Shared<BoxFuture<'static, Outcome>>>>,
}

/// When a token was issued and ends. The API server has checked it and does not tell.
#[derive(Deserialize)]
struct Times {
    iat: u64,
    exp: u64,
}

impl Tokens {
    /// Asks by `client`.
    pub fn new(client: Client) -> Arc<Self> {
        let places = Semaphore::new(AT_ONCE);
        Arc::new(Self { api: Api::all(client), places, pending: Mutex::default() })
    }

    /// What `token` says, if the API server finds it good.
    pub async fn review(self: &Arc<Self>, token: &str) -> Outcome {
        check_length(token)?;
        let digest = digest(token);
        let review = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.entry(digest).or_insert_with(|| self.begin(digest, token.to_owned())).clone()
        };
        review.await
    }

    /// A review in a task of its own: it goes on when whoever asked gives up, and is forgotten when it is done.
    fn begin(self: &Arc<Self>, digest: Digest, token: String) -> Shared<BoxFuture<'static, Outcome>> {
        let this = Arc::clone(self);
        let task = tokio::spawn(async move {
            let outcome = this.ask(token).await;
            this.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&digest);
            outcome
        });
        task.map(|ended| ended.unwrap_or_else(|_| Err(unavailable("its review broke off")))).boxed().shared()
    }

    async fn ask(&self, token: String) -> Outcome {
        let Ok(_place) = self.places.acquire().await else { return Err(unavailable("reviews ended")) };
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
}
