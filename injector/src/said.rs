//! What a token says of itself, while nobody vouches for it. It decides on one thing only: whether the token is worth a
//! question to the API server. What cannot be good costs nothing but a look.

use std::net::IpAddr;
use std::time::SystemTime;

use jsonwebtoken::dangerous::insecure_decode_claims;
use jsonwebtoken::errors::ErrorKind;
use mesh::contract::TOKEN_AUDIENCE;
use serde::Deserialize;

use crate::answer::Refusal;
use crate::index::State;
use crate::review::{Claims, check_claims, check_length, check_life, reason, unauthorized, unix};

#[derive(Deserialize)]
struct Said {
    aud: Audience,
    #[serde(flatten)]
    claims: Claims,
}

/// One or several, as RFC 7519 has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn is_ours(&self) -> bool {
        match self {
            Self::One(name) => name == TOKEN_AUDIENCE,
            Self::Several(names) => names.iter().any(|name| name == TOKEN_AUDIENCE),
        }
    }
}

/// The UID of the pod that `token`, sent from the address `from`, says it is bound to, if a review may find it good: it
/// is for us, has not ended, and names a pod that is known and where the caller is.
pub fn worth_a_review(token: &str, state: &State, from: IpAddr, now: SystemTime) -> Result<String, Refusal> {
    check_length(token)?;
    let refused = |kind: &ErrorKind| unauthorized(&reason(kind));
    let Said { aud, claims } =
        insecure_decode_claims(token.as_bytes()).map_err(|error| refused(error.kind()))?;
    if !aud.is_ours() {
        return Err(refused(&ErrorKind::InvalidAudience));
    }
    if claims.exp <= unix(now) {
        return Err(refused(&ErrorKind::ExpiredSignature));
    }
    check_life(&claims, unix(now))?;
    check_claims(&claims, state, from)?;
    Ok(claims.kubernetes.pod.uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use crate::index::tests::{index, pod};

    /// A token that anybody could have made.
    fn forged(change: impl FnOnce(&mut Value)) -> String {
        let now = unix(SystemTime::now());
        let mut claims = json!({
            "aud": ["heddle.dev"], "sub": "system:serviceaccount:shop:web", "iat": now, "exp": now + 3600,
            "kubernetes.io": {
                "namespace": "shop", "serviceaccount": {"name": "web"}, "pod": {"name": "web-0", "uid": "uid-web-0"},
            },
        });
        change(&mut claims);
        encode(&Header::default(), &claims, &EncodingKey::from_secret(b"anybody's")).unwrap()
    }

    fn ask(token: &str) -> Result<String, Refusal> {
        let index = index(100, &(pod("web-0", "10.1.0.3") + &pod("web-1", "10.1.0.4")));
        worth_a_review(token, &index.read(), "10.1.0.3".parse().unwrap(), SystemTime::now())
    }

    #[track_caller]
    fn check_refused(token: &str, code: u16, message: &str) {
        let refusal = ask(token).unwrap_err();
        assert_eq!(refusal.code.as_u16(), code);
        assert!(refusal.message.contains(message), "{}", refusal.message);
    }

    #[test]
    fn what_may_be_good_is_asked_about_in_the_name_of_its_pod() {
        assert_eq!(ask(&forged(|_| {})).unwrap(), "uid-web-0");
        assert_eq!(ask(&forged(|claims| claims["aud"] = json!("heddle.dev"))).unwrap(), "uid-web-0");
    }

    #[test]
    fn what_is_no_token_is_refused_unasked() {
        for text in ["", "nonsense", "a.b.c", "e30.e30"] {
            check_refused(text, 401, "it is not a token");
        }
        check_refused("e30.e30.e30", 401, "not that of a service account, bound to a pod");
        check_refused(&"x".repeat(9_000), 401, "longer than 8 KiB");
    }

    #[test]
    fn what_cannot_be_good_is_refused_unasked() {
        let now = unix(SystemTime::now());
        check_refused(&forged(|claims| claims["aud"] = json!(["other"])), 401, "audience is not heddle.dev");
        check_refused(&forged(|claims| claims["exp"] = json!(now)), 401, "has expired");
        check_refused(&forged(|claims| claims["exp"] = json!(now + 90_000)), 401, "longer than an hour");
        let bare = |claims: &mut Value| drop(claims["kubernetes.io"].as_object_mut().unwrap().remove("pod"));
        check_refused(&forged(bare), 401, "bound to a pod");
    }

    #[test]
    fn who_names_a_pod_that_is_not_his_is_refused_unasked() {
        let uid = |uid: &str| forged(|claims| claims["kubernetes.io"]["pod"]["uid"] = json!(uid));
        check_refused(&uid("made-up"), 403, "was replaced");
        let other = json!({"name": "web-1", "uid": "uid-web-1"});
        check_refused(&forged(|claims| claims["kubernetes.io"]["pod"] = other), 403, "another pod's");
        let unknown = json!({"name": "web-2", "uid": "uid-web-2"});
        check_refused(&forged(|claims| claims["kubernetes.io"]["pod"] = unknown), 403, "is not known");
    }
}
