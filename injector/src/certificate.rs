//! The certificate of our own servers, renewed while they serve: clients never see an old one.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use tokio::time::timeout;

use crate::authority::{AuthorityError, Present};

/// How often it is renewed; it lives for a day.
const RENEWAL: Duration = Duration::from_secs(3600);

/// The present certificate.
pub struct Serving {
    authority: Arc<Present>,
    names: Vec<String>,
    current: RwLock<Arc<CertifiedKey>>,
}

// rustls asks for it; a key has no place in a log.
impl std::fmt::Debug for Serving {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Serving({:?})", self.names)
    }
}

impl Serving {
    /// A first certificate under `names`.
    pub fn new(authority: Arc<Present>, names: Vec<String>) -> Result<Self, AuthorityError> {
        let current = RwLock::new(authority.last().serving(&names, SystemTime::now())?);
        Ok(Self { authority, names, current })
    }

    /// Renews it for ever: every hour, and at once when another authority signs.
    pub async fn keep(self: Arc<Self>) {
        let mut changes = self.authority.changes();
        loop {
            let _ = timeout(RENEWAL, changes.next()).await;
            if let Err(error) = self.renew() {
                tracing::error!(
                    "cannot renew the serving certificate: {error}; it is tried again in an hour"
                );
            }
        }
    }

    /// Takes a new key and certificate into use.
    fn renew(&self) -> Result<(), AuthorityError> {
        let fresh = self.authority.last().serving(&self.names, SystemTime::now())?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// TLS 1.3 only; HTTP/2 and HTTP/1.1; no resumption. Callers prove themselves by tokens, not by certificates.
pub fn tls(serving: Arc<Serving>) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(serving);
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
