//! Getting a certificate, and getting the next one long before it ends.

use std::{io, sync::Arc, time::Duration};

use mesh::identity::Identity;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

use super::{BundleFile, Credentials, provider};
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

/// What keeps this proxy's certificate young, and its bundle as the file says.
pub struct Renewal {
    /// The authority.
    pub control: ControlPlane,
    /// Who this proxy is.
    pub identity: Identity,
    /// The roots to trust; the authority's answers tell them, too. What changed last counts.
    pub bundle: BundleFile,
    /// Where the present generation is published.
    pub current: watch::Sender<Option<Arc<Credentials>>>,
}

impl Renewal {
    /// Renews for ever, from a third of a certificate's life on, each proxy at its own moment.
    ///
    /// What is current stays current until the next is whole: a dead authority costs nothing before the end of a life.
    pub async fn keep(mut self) {
        let mut retry = RETRY_MIN;
        let mut generation = 1;
        loop {
            let obtained = timeout(SIGNING, self.obtain(generation)).await;
            match obtained.unwrap_or(Err(RenewError::Timeout)) {
                Ok(credentials) => {
                    let (identity, life) = (&self.identity, credentials.life);
                    info!(%identity, generation, life_seconds = life.as_secs(), "has a certificate");
                    self.current.send_replace(Some(Arc::new(credentials)));
                    (generation, retry) = (generation + 1, RETRY_MIN);
                    self.wait(renewal_wait(life, fastrand::f64())).await;
                }
                Err(error) => {
                    warn!(
                        error = chain(&error),
                        retry_seconds = retry.as_secs_f64(),
                        "has no new certificate"
                    );
                    self.wait(retry).await;
                    retry = (retry * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Waits, and follows the bundle meanwhile. Returns early, but not with everybody else, when the bundle does not
    /// vouch for our certificate any more.
    async fn wait(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            let roots = tokio::select! {
                () = sleep_until(until) => return,
                roots = self.bundle.changes() => roots,
            };
            if self.trust(roots).is_some_and(|credentials| !credentials.is_vouched_for()) {
                return sleep(RETRY_MAX.mul_f64(fastrand::f64()).min(until - Instant::now())).await;
            }
        }
    }

    /// Goes by other roots from now on, if they are others.
    fn trust(&self, roots: RootCertStore) -> Option<Arc<Credentials>> {
        let present = self.current.borrow().clone()?;
        if present.roots().roots == roots.roots {
            return None;
        }
        let next = present
            .with_roots(Arc::new(roots))
            .inspect_err(|error| warn!(%error, "the bundle cannot be used"));
        let next = Arc::new(next.ok()?);
        info!(roots = next.roots().len(), "the bundle has changed");
        self.current.send_replace(Some(Arc::clone(&next)));
        Some(next)
    }

    async fn obtain(&self, generation: u64) -> Result<Credentials, RenewError> {
        let key = KeyPair::generate()?;
        let request = signing_request(&key)?;
        let answer = self.control.post("/v1/sign", request.into_bytes()).await?;
        let answer = Answer::parse(&answer)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = provider().key_provider.load_private_key(key)?;
        let roots = self.same_or(roots(answer.bundle.as_bytes()).map_err(RenewError::Pem)?);
        let certified = CertifiedKey::new(answer.chain, key);
        Ok(Credentials::new(generation, self.identity.clone(), certified, roots)?)
    }

    /// The present roots if these are the same, so that connections see that nothing has changed.
    fn same_or(&self, roots: RootCertStore) -> Arc<RootCertStore> {
        let present = self.current.borrow().as_ref().map(|credentials| credentials.roots());
        present.filter(|present| present.roots == roots.roots).unwrap_or_else(|| Arc::new(roots))
    }
}

/// How long to wait before renewing: between a third and a half of the life.
fn renewal_wait(life: Duration, jitter: f64) -> Duration {
    life.mul_f64(1.0 / 3.0 + jitter.clamp(0.0, 1.0) / 6.0)
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
}

impl Answer {
    fn parse(body: &[u8]) -> Result<Self, RenewError> {
        let json: serde_json::Value =
            serde_json::from_slice(body).map_err(|e| RenewError::Answer(e.to_string()))?;
        let text = |key: &str| json[key].as_str().ok_or_else(|| RenewError::Answer(format!("no {key}")));
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text("chain")?.as_bytes()).collect();
        Ok(Self {
            chain: chain.map_err(|e| RenewError::Pem(io::Error::other(e)))?,
            bundle: text("bundle")?.to_owned(),
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
