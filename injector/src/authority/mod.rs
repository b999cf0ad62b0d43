//! The mesh's certificate authority: a root of its own, made at the first start and kept in the state directory or in a
//! Secret; or somebody else's, whose Secret says what to sign with and which roots to trust.
//!
//! A root that vanished is never replaced silently: every proxy would stop trusting every other.

mod issued;
mod leaf;
mod present;
mod root;
mod state;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh::identity::{Identity, TrustDomain};
use rcgen::{Issuer, KeyPair, SanType};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::Serialize;

pub use issued::Material;
pub use leaf::CsrError;
pub use present::Present;
pub use root::RootError;
pub use state::{StateDirectory, StateError, write_atomically};

/// Clocks of nodes differ a little; a leaf must be good at once everywhere.
const BACKDATE: Duration = Duration::from_secs(60);

/// The serving certificate's life; it is renewed long before its end.
const SERVING_LIFE: Duration = Duration::from_secs(86_400);

/// Why the authority cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Making or reading a certificate failed.
    #[error("certificate")]
    Certificate(#[from] rcgen::Error),
    /// A new key does not work for TLS.
    #[error("key")]
    Key(#[from] rustls::Error),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The root that was kept cannot be used.
    #[error("the root in the state directory: {0}")]
    Root(#[from] RootError),
    /// A Secret's certificates cannot be used.
    #[error(transparent)]
    Issued(#[from] issued::IssuedError),
}

/// The root, and what signs with it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Between the leaves and the roots, the signing one first; none if a root signs.
    intermediates: Vec<CertificateDer<'static>>,
    /// The roots to trust, as PEM.
    roots: String,
    /// When the signing certificate ends.
    ends: u64,
    leaf_life: Duration,
}

// A key has no place in a log.
impl std::fmt::Debug for Authority {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Authority(ends {})", self.ends)
    }
}

/// A signed certificate, as `POST /v1/sign` answers it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Signed {
    /// The leaf, as PEM.
    pub chain: String,
    /// The roots to trust, as PEM.
    pub bundle: String,
    /// Unix seconds from which the leaf is good.
    pub not_before: u64,
    /// Unix seconds until which it is good.
    pub not_after: u64,
}

impl Authority {
    /// The authority whose root is in `state`; it is made there at the first start.
    pub fn open(
        state: &StateDirectory,
        trust_domain: &TrustDomain,
        leaf_life: Duration,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let (key, root) = match state.root()? {
            Some((key, root)) => (KeyPair::from_pem(&key)?, root),
            None => {
                let made = root::make(&domain_uri(trust_domain), not_before(now), unix(now))?;
                state.keep_root(&made.key, &made.certificate)?;
                (KeyPair::from_pem(&made.key)?, made.certificate)
            }
        };
        let ends = root::check(&root, &key, &domain_uri(trust_domain))?;
        let issuer = Issuer::from_ca_cert_pem(&root, key)?;
        Ok(Self { issuer, intermediates: Vec::new(), roots: root, ends, leaf_life })
    }

    /// The roots to trust, as PEM.
    pub fn bundle(&self) -> &str {
        &self.roots
    }

    /// Signs the key in `csr` for `identity`, and only for that: the request's own wishes are checked, not met.
    pub fn sign(&self, csr: &str, identity: &Identity, now: SystemTime) -> Result<Signed, CsrError> {
        let key = leaf::requested_key(csr, identity)?;
        let not_before = not_before(now);
        let not_after = (unix(now) + self.leaf_life.as_secs()).min(self.ends);
        let params = leaf::svid(identity, not_before, not_after)?;
        let leaf = params.signed_by(&key, &self.issuer)?.pem();
        let chain = leaf + &issued::pem(&self.intermediates);
        Ok(Signed { chain, bundle: self.roots.clone(), not_before, not_after })
    }

    /// A certificate for this program's own servers, under `names` (DNS names or IP addresses).
    pub fn serving(&self, names: &[String], now: SystemTime) -> Result<Arc<CertifiedKey>, AuthorityError> {
        let key = KeyPair::generate()?;
        let not_before = not_before(now);
        let not_after = (unix(now) + SERVING_LIFE.as_secs()).min(self.ends);
        let params = leaf::server(alternative_names(names)?, not_before, not_after)?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let signer = aws_lc_rs::sign::any_ecdsa_type(&PrivatePkcs8KeyDer::from(key.serialize_der()).into())?;
        let chain = [vec![certificate.der().clone()], self.intermediates.clone()].concat();
        Ok(Arc::new(CertifiedKey::new(chain, signer)))
    }
}

fn alternative_names(names: &[String]) -> Result<Vec<SanType>, rcgen::Error> {
    let name = |name: &String| match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(name.as_str().try_into()?)),
    };
    names.iter().map(name).collect()
}

fn domain_uri(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}")
}

fn not_before(now: SystemTime) -> u64 {
    unix(now).saturating_sub(BACKDATE.as_secs())
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests;
