//! Service account tokens, as the API server's TokenRequest makes them: ES256, bound to a pod, with the mesh's audience.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use mesh::contract::TOKEN_AUDIENCE;
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::cluster::{Pod, name};

/// As long as a token may live.
const LIFE: Duration = Duration::from_secs(3600);

/// The key that signs them.
pub struct Signer {
    key: EncodingKey,
    public: String,
}

impl Signer {
    /// A new key.
    pub fn new() -> Result<Self> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).context("cannot make a key")?;
        let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).context("cannot use the key")?;
        Ok(Self { key, public: pair.public_key_pem() })
    }

    /// Its public half, in PEM.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The token of a pod.
    pub fn token(&self, pod: Pod) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        encode(&Header::new(Algorithm::ES256), &claims(pod, now), &self.key).context("cannot sign a token")
    }
}

fn claims(pod: Pod, now: Duration) -> Value {
    let account = name(pod.service);
    json!({
        "aud": [TOKEN_AUDIENCE],
        "iat": now.as_secs(),
        "nbf": now.as_secs(),
        "exp": (now + LIFE).as_secs(),
        "iss": "https://kubernetes.default.svc.cluster.local",
        "sub": format!("system:serviceaccount:{}:{}", account.namespace, account.name),
        "kubernetes.io": {
            "namespace": *account.namespace,
            "serviceaccount": {"name": *account.name, "uid": format!("account-{}", pod.service)},
            "pod": {"name": pod.name(), "uid": pod.uid()},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation, decode};

    #[test]
    fn a_token_is_bound_to_its_pod() {
        let signer = Signer::new().unwrap();
        let token = signer.token(Pod { service: 1, endpoint: 2 }).unwrap();
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_audience(&[TOKEN_AUDIENCE]);
        let key = DecodingKey::from_ec_pem(signer.public().as_bytes()).unwrap();
        let claims = decode::<Value>(&token, &key, &rules).unwrap().claims;
        assert_eq!(claims["sub"], "system:serviceaccount:team-0:svc-1");
        assert_eq!(claims["kubernetes.io"]["pod"]["name"], "svc-1-2");
    }
}
