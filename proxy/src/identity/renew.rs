//! Getting a certificate, and getting the next one long before it ends.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mesh::identity::Identity;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{Credentials, provider};
use crate::{
    control::{ControlError, ControlPlane, roots},
    failure::chain,
};

/// The first wait after a failed signing; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How long the authority may take.
const SIGNING: Duration = Duration::from_secs(10);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("the authority did not sign")]
    Control(#[from] ControlError),
    #[error("the authority did not answer within {} s", SIGNING.as_secs())]
    Timeout,
    #[error("cannot make a signing request")]
    Request(#[from] rcgen::Error),
    #[error("the authority's answer is not understood: {0}")]
    Answer(String),
    #[error("the authority's certificate cannot be used")]
    Certificate(#[from] rustls::Error),
    #[error("the authority's certificate cannot be read")]
    Pem(#[source] io::Error),
}

/// Renews for ever, from a third of a certificate's life on, each proxy at its own moment.
///
/// What is current stays current until the next is whole: a dead authority costs nothing before the end of a life.
pub async fn keep_renewed(
    control: ControlPlane,
    identity: Identity,
    current: watch::Sender<Option<Arc<Credentials>>>,
) {
    let mut retry = RETRY_MIN;
    let mut generation = 1;
    loop {
        let obtained = timeout(SIGNING, obtain(&control, &identity, generation)).await;
        match obtained.unwrap_or(Err(RenewError::Timeout)) {
            Ok(credentials) => {
                info!(%identity, generation, life_seconds = credentials.life.as_secs(), "has a certificate");
                let wait = renewal_wait(credentials.life, fastrand::f64());
                current.send_replace(Some(Arc::new(credentials)));
                (generation, retry) = (generation + 1, RETRY_MIN);
                sleep(wait).await;
            }
            Err(error) => {
                warn!(error = chain(&error), retry_seconds = retry.as_secs_f64(), "has no new certificate");
                sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

/// How long to wait before renewing: between a third and a half of the life.
fn renewal_wait(life: Duration, jitter: f64) -> Duration {
    life.mul_f64(1.0 / 3.0 + jitter.clamp(0.0, 1.0) / 6.0)
}

async fn obtain(
    control: &ControlPlane,
    identity: &Identity,
    generation: u64,
) -> Result<Credentials, RenewError> {
    let key = KeyPair::generate()?;
    let request = signing_request(&key)?;
    let answer = control.post("/v1/sign", request.into_bytes()).await?;
    let answer = Answer::parse(&answer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = provider().key_provider.load_private_key(key)?;
    let roots = roots(answer.bundle.as_bytes()).map_err(RenewError::Pem)?;
    let certified = CertifiedKey::new(answer.chain, key);
    Ok(Credentials::new(generation, identity.clone(), certified, roots, answer.not_after)?)
}

/// A request that gives only its key: the authority takes the name from the token that it reviews.
fn signing_request(key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(key)?.pem()
}

struct Answer {
    chain: Vec<CertificateDer<'static>>,
    bundle: String,
    not_after: SystemTime,
}

impl Answer {
    fn parse(body: &[u8]) -> Result<Self, RenewError> {
        let json: serde_json::Value =
            serde_json::from_slice(body).map_err(|e| RenewError::Answer(e.to_string()))?;
        let text = |key: &str| json[key].as_str().ok_or_else(|| RenewError::Answer(format!("no {key}")));
        let time = |key: &str| {
            let seconds = json[key].as_u64().ok_or_else(|| RenewError::Answer(format!("no {key}")))?;
            Ok::<_, RenewError>(UNIX_EPOCH + Duration::from_secs(seconds))
        };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text("chain")?.as_bytes()).collect();
        Ok(Self {
            chain: chain.map_err(|e| RenewError::Pem(io::Error::other(e)))?,
            bundle: text("bundle")?.to_owned(),
            not_after: time("notAfter")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_starts_between_a_third_and_half_of_the_life() {
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(renewal_wait(day, 0.0).as_secs(), 8 * 3600);
        assert_eq!(renewal_wait(day, 1.0).as_secs(), 12 * 3600);
    }

    #[test]
    fn an_answer_without_a_chain_is_named() {
        let error = Answer::parse(br#"{"bundle":"x"}"#).err().expect("refused");
        assert!(error.to_string().contains("no chain"));
    }
}
