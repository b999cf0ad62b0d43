//! Service account tokens, as the API server's TokenRequest makes them: ES256, bound to a pod, with an audience.

use std::path::Path;

use anyhow::{Context, Result};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::paths::{Place, write_atomically};
use crate::store::new_uid;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Who a token is for.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Namespace of pod and service account.
    pub namespace: String,
    /// The service account's name.
    pub service_account: String,
    /// Its UID.
    pub service_account_uid: String,
    /// The pod's name.
    pub pod: String,
    /// Its UID.
    pub pod_uid: String,
}

/// The world's signing key.
pub struct Signer {
    key: EncodingKey,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

impl Signer {
    /// Makes a key for a new world and writes its public half for the control plane.
    pub fn create(place: &Place, public: &Path) -> Result<Self> {
        let pair =
            rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).context("cannot make a key")?;
        write_atomically(&place.staging(), public, pair.public_key_pem().as_bytes())?;
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).context("cannot use the key")?;
        Ok(Self { key })
    }

    /// A token with an audience that lives `seconds` from `now` (seconds since 1970).
    pub fn token(&self, subject: &Subject, audience: &str, seconds: u64, now: u64) -> Result<String> {
        let header = Header::new(Algorithm::ES256);
        encode(&header, &claims(subject, audience, seconds, now), &self.key).context("cannot sign a token")
    }
}

fn claims(subject: &Subject, audience: &str, seconds: u64, now: u64) -> Value {
    let Subject { namespace, service_account, service_account_uid, pod, pod_uid } = subject;
    json!({
        "aud": [audience],
        "exp": now + seconds,
        "iat": now,
        "nbf": now,
        "iss": ISSUER,
        "jti": new_uid(),
        "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
        "kubernetes.io": {
            "namespace": namespace,
            "serviceaccount": {"name": service_account, "uid": service_account_uid},
            "pod": {"name": pod, "uid": pod_uid},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation, decode};

    #[test]
    fn a_token_is_bound_to_audience_and_pod() {
        let dir = tempfile::tempdir().expect("a directory");
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let signer =
            Signer { key: EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).expect("a key") };
        let text = |s: &str| s.to_owned();
        let subject = Subject {
            namespace: text("shop"),
            service_account: text("web"),
            service_account_uid: text("u1"),
            pod: text("web-1"),
            pod_uid: text("u2"),
        };
        let token = signer.token(&subject, "heddle.dev", 600, crate::store::unix_now()).expect("signed");
        let key = DecodingKey::from_ec_pem(pair.public_key_pem().as_bytes()).expect("a key");
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_audience(&["heddle.dev"]);
        let claims = decode::<Value>(&token, &key, &rules).expect("valid").claims;
        assert_eq!(claims["sub"], "system:serviceaccount:shop:web");
        assert_eq!(claims["kubernetes.io"]["pod"]["uid"], "u2");
        rules.set_audience(&["other"]);
        assert!(decode::<Value>(&token, &key, &rules).is_err());
        drop(dir);
    }
}
