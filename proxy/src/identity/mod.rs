//! Who this proxy is: a key that never leaves the process, and the certificate that the authority signs for it.
//!
//! Each renewal is a new generation: a new key, a new certificate, the bundle of that moment. Pools are keyed by
//! it, so that a connection made with one generation never serves another.

mod bundle;
mod proven;
mod renew;
mod trusted;
mod verify;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use mesh::{
    contract::{ALPN_H2, ALPN_MESH, ALPN_TCP, ALPN_TUNNELS},
    identity::{Identity, TrustDomain},
};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::CertificateDer,
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::sync::watch;

pub use bundle::BundleFile;
pub use proven::Proven;
pub use renew::Renewal;
pub use trusted::Trusted;

use verify::Verifier;

/// What is inside a mesh TLS connection, as its ALPN says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inside {
    /// HTTP/2, whose streams are requests.
    H2,
    /// The bytes of one TCP connection.
    Tcp,
    /// TCP connections, one after another.
    Tunnels,
}

impl Inside {
    fn alpn(self) -> &'static [u8] {
        match self {
            Self::H2 => ALPN_H2,
            Self::Tcp => ALPN_TCP,
            Self::Tunnels => ALPN_TUNNELS,
        }
    }

    /// What a client that wants it offers. A proxy from before there were tunnels takes one connection.
    fn offered(self) -> Vec<Vec<u8>> {
        let older = (self == Self::Tunnels).then_some(Self::Tcp);
        [Some(self), older].into_iter().flatten().map(|inside| inside.alpn().to_vec()).collect()
    }

    /// What a finished handshake agreed on.
    pub fn agreed(alpn: Option<&[u8]>) -> Option<Self> {
        [Self::H2, Self::Tunnels, Self::Tcp].into_iter().find(|inside| alpn == Some(inside.alpn()))
    }
}

/// One generation of this proxy's certificate, and the TLS configurations made of it.
pub struct Credentials {
    /// Counts renewals from 1.
    pub generation: u64,
    /// Who this proxy is.
    pub identity: Identity,
    /// When the certificate ends.
    pub not_after: SystemTime,
    /// How long the certificate had to live when it came (its beginning is dated back, for clocks that differ).
    pub life: Duration,
    /// The chain that we show.
    own: Proven,
    server: Arc<ServerConfig>,
    /// What `server` checks its callers with.
    callers: Arc<Verifier>,
    template: ClientTemplate,
    /// One configuration per expected peer: its verifier accepts that identity alone.
    clients: Mutex<HashMap<(Identity, Inside), Arc<ClientConfig>>>,
}

/// The most client configurations kept; past it the cache starts anew (they are cheap to make again).
const CLIENTS_MAX: usize = 4096;

#[derive(Clone)]
struct ClientTemplate {
    roots: Arc<RootCertStore>,
    key: Arc<SingleCertAndKey>,
    trust_domain: TrustDomain,
}

impl Credentials {
    fn new(
        generation: u64,
        identity: Identity,
        key: CertifiedKey,
        roots: Arc<RootCertStore>,
    ) -> Result<Self, rustls::Error> {
        let own = Proven::new(key.cert.clone()).ok_or(CertificateError::BadEncoding)?;
        if own.identity() != &identity {
            let why = format!("the certificate is {}'s, but this is {identity}", own.identity());
            return Err(rustls::Error::General(why));
        }
        let trust_domain = identity.trust_domain().clone();
        let template = ClientTemplate { roots, key: Arc::new(SingleCertAndKey::from(key)), trust_domain };
        let not_after = own.ends();
        let callers = Arc::new(template.any());
        Ok(Self {
            generation,
            identity,
            not_after,
            life: not_after.duration_since(SystemTime::now()).unwrap_or_default(),
            own,
            server: Arc::new(template.server_config(Arc::clone(&callers))?),
            callers,
            template,
            clients: Mutex::default(),
        })
    }

    /// The same certificate beside other roots. It stays the same generation: connections that these roots still vouch
    /// for go on.
    fn with_roots(&self, roots: Arc<RootCertStore>) -> Result<Self, rustls::Error> {
        let template = ClientTemplate { roots, ..self.template.clone() };
        let callers = Arc::new(template.any());
        Ok(Self {
            identity: self.identity.clone(),
            own: self.own.clone(),
            server: Arc::new(template.server_config(Arc::clone(&callers))?),
            callers,
            template,
            clients: Mutex::default(),
            ..*self
        })
    }

    /// How many roots these credentials trust.
    pub fn trusted(&self) -> usize {
        self.template.roots.len()
    }

    /// Whom these credentials trust.
    fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.template.roots)
    }

    /// Whether peers with the same roots trust us.
    fn is_vouched_for(&self) -> bool {
        self.own.is_vouched_for(&self.template.roots)
    }

    /// How long new requests may go over a connection that was made with it.
    fn usable(&self, now: SystemTime) -> Duration {
        proven::usable(self.not_after.duration_since(now).unwrap_or_default(), self.life)
    }

    /// How peers are met: any identity of the trust domain, TLS 1.3, no resumption.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Who a peer is whose handshake by [`Credentials::server_config`] is done, by its certificates, the leaf first; none of a
    /// leaf that cannot be read.
    pub fn met(&self, chain: Vec<CertificateDer<'static>>) -> Option<Proven> {
        self.callers.accepted(chain)
    }

    /// How one peer is dialled: the handshake fails unless it is exactly `expected` (decision: identity per endpoint).
    ///
    /// # Errors
    /// When rustls refuses the configuration, which is a defect of this program.
    pub fn client_config(
        &self,
        expected: &Identity,
        inside: Inside,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = clients.get(&(expected.clone(), inside)) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.template.client_config(expected, inside)?);
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert((expected.clone(), inside), Arc::clone(&config));
        Ok(config)
    }
}

impl ClientTemplate {
    fn any(&self) -> Verifier {
        Verifier::any(Arc::clone(&self.roots), self.trust_domain.clone())
    }

    fn server_config(&self, callers: Arc<Verifier>) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(callers)
            .with_cert_resolver(Arc::clone(&self.key) as _);
        config.alpn_protocols = ALPN_MESH.map(<[u8]>::to_vec).to_vec();
        // Our order of ciphers: SHA-256 is in the CPU, and SHA-384, which many clients put first, is not.
        config.ignore_client_order = true;
        // No tickets, no store: every connection proves both identities anew, and an idle one holds no session.
        config.send_tls13_tickets = 0;
        config.enable_secret_extraction = true; // for `tls`, which never shows them to anybody
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(config)
    }

    fn client_config(&self, expected: &Identity, inside: Inside) -> Result<ClientConfig, rustls::Error> {
        let verifier =
            Verifier::exactly(Arc::clone(&self.roots), self.trust_domain.clone(), expected.clone());
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous() // "custom": the verifier checks the chain and then the identity instead of a host name
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&self.key) as _);
        config.alpn_protocols = inside.offered();
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.enable_secret_extraction = true; // as above
        Ok(config)
    }
}

/// Where the present generation is found; `None` until the authority first answers.
pub type CurrentCredentials = watch::Receiver<Option<Arc<Credentials>>>;

/// The cryptography of every TLS connection: X25519 before P-256, AES of 128 bits before all other ciphers, because it is
/// as safe here and takes a quarter less time than that of 256.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> = std::sync::LazyLock::new(|| {
        let kx_groups = vec![aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
        let mut provider = CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() };
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}
