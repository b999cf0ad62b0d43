//! Checking a peer's certificate (security rules 1, 2 and 5).
//!
//! The chain must end in the mesh's bundle, the leaf must not be a CA and must be meant for its side of TLS, and
//! its one URI name must be a canonical SPIFFE ID of the trust domain. A client also knows which ID to expect.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use foldhash::fast::RandomState;
use mesh::identity::{Identity, TrustDomain};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::verify_tls13_signature,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use tracing::warn;
use webpki::{EndEntityCert, KeyUsage};

use super::Proven;

/// The extended key usages of a TLS server and of a client (RFC 5280 section 4.2.1.12), which a certificate must say: one that
/// says nothing was made for something else.
const SERVER_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];
const CLIENT_AUTH: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];

/// Checks peers against a bundle.
pub(super) struct Verifier {
    roots: Arc<RootCertStore>,
    trust_domain: TrustDomain,
    /// What a leaf must be meant for.
    usage: &'static [u8],
    expected: Option<Identity>,
    known: Known,
}

/// Leaves that this verifier has found good, by their bytes: a peer's next handshake costs one signature check less, and who
/// called is known without reading. (That the peer holds the leaf's key is proven each time.) Other roots, another usage, or
/// another expectation are another verifier.
#[derive(Default)]
struct Known(Mutex<HashMap<CertificateDer<'static>, Leaf, RandomState>>);

/// A leaf that is known.
#[derive(Clone)]
struct Leaf {
    proven: Proven,
    /// Its public key, if that is written as [`P256`] begins.
    key: Option<Arc<ParsedPublicKey>>,
}

/// How the public key of a peer begins: named curve P-256, uncompressed point (RFC 5480 section 2), 64 bytes of which follow.
/// aws-lc reads more than that, and rustls does not take all of it.
const P256: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// The most certificates that a peer may send: its own, and those of authorities between that and a root.
const CHAIN_MAX: usize = 5;
/// The most bytes that they may have together.
const CHAIN_BYTES_MAX: usize = 16 * 1024;
/// The most leaves that are known at a time, about two kilobytes each; past it they are learned anew.
const KNOWN_MAX: usize = 1024;

impl Known {
    fn get(&self, leaf: &CertificateDer<'_>) -> Option<Leaf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(leaf).cloned()
    }

    fn note(&self, der: &CertificateDer<'_>, leaf: &EndEntityCert<'_>) {
        let key = leaf.subject_public_key_info();
        let key = key.starts_with(P256).then(|| ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key));
        let der = der.clone().into_owned();
        let Some(proven) = Proven::new(vec![der.clone()]) else { return };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(der, Leaf { proven, key: key.and_then(Result::ok).map(Arc::new) });
    }
}

/// Why a certificate that chains to the bundle is still refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// Not exactly one URI name.
    #[error("the certificate has {0} URI names, an identity is exactly one")]
    UriNames(usize),
    /// More certificates, or larger ones, than a mesh needs.
    #[error("the peer sends {0} certificates of {1} bytes; the most is {CHAIN_MAX} of {CHAIN_BYTES_MAX}")]
    Chain(usize, usize),
    /// The URI is not a canonical identity.
    #[error("the certificate's name is no identity")]
    Identity(#[from] mesh::identity::IdentityError),
    /// Another mesh's identity.
    #[error("the peer is {0}, of another trust domain")]
    TrustDomain(Identity),
    /// Somebody else answers at this address than discovery says.
    #[error("the peer is {}, but {} was expected", .0.found, .0.expected)]
    NotExpected(Box<Mismatch>),
}

/// Who was met, and who should have been.
#[derive(Debug, PartialEq, Eq)]
pub struct Mismatch {
    found: Identity,
    expected: Identity,
}

impl Verifier {
    /// Accepts every client of the trust domain.
    pub(super) fn any(roots: Arc<RootCertStore>, trust_domain: TrustDomain) -> Self {
        Self { roots, trust_domain, usage: CLIENT_AUTH, expected: None, known: Known::default() }
    }

    /// Accepts the server of one identity.
    pub(super) fn exactly(roots: Arc<RootCertStore>, trust_domain: TrustDomain, expected: Identity) -> Self {
        Self { roots, trust_domain, usage: SERVER_AUTH, expected: Some(expected), known: Known::default() }
    }

    /// Who a peer is that this verifier has accepted, by its certificates, the leaf first; none of a leaf that cannot be read.
    pub(super) fn accepted(&self, chain: Vec<CertificateDer<'static>>) -> Option<Proven> {
        let known = if let [alone] = &chain[..] { self.known.get(alone) } else { None };
        known.map(|known| known.proven).or_else(|| Proven::new(chain))
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        check_size(leaf, intermediates).map_err(refused)?;
        // With intermediates there are more times to look at than the leaf's.
        let alone = intermediates.is_empty();
        if alone && self.known.get(leaf).is_some_and(|known| known.proven.is_in_time(now)) {
            return Ok(());
        }
        let der = leaf;
        let leaf = EndEntityCert::try_from(leaf).map_err(chain_error)?;
        let algorithms = super::provider().signature_verification_algorithms;
        let usage = KeyUsage::required(self.usage);
        leaf.verify_for_usage(algorithms.all, &self.roots.roots, intermediates, now, usage, None, None)
            .map_err(chain_error)?;
        self.check_identity(identity_of(&leaf)).map_err(refused)?;
        if alone {
            self.known.note(der, &leaf);
        }
        Ok(())
    }

    fn check_identity(&self, found: Result<Identity, Refused>) -> Result<(), Refused> {
        let found = found?;
        if found.trust_domain() != &self.trust_domain {
            return Err(Refused::TrustDomain(found));
        }
        match &self.expected {
            Some(expected) if *expected != found => {
                Err(Refused::NotExpected(Box::new(Mismatch { found, expected: expected.clone() })))
            }
            _ => Ok(()),
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // As rustls checks it, with a key that has been read.
        if dss.scheme == SignatureScheme::ECDSA_NISTP256_SHA256
            && let Some(key) = self.known.get(cert).and_then(|known| known.key)
        {
            let checked = key.verify_sig(message, dss.signature());
            return checked
                .map(|()| HandshakeSignatureValid::assertion())
                .map_err(|_| CertificateError::BadSignature.into());
        }
        verify_tls13_signature(message, cert, dss, &super::provider().signature_verification_algorithms)
    }

    fn schemes() -> Vec<SignatureScheme> {
        super::provider().signature_verification_algorithms.supported_schemes()
    }

    fn no_tls12() -> Error {
        Error::General("mesh TLS is 1.3 only".into())
    }
}

/// The identity that a certificate carries. Says nothing of its signature.
///
/// # Errors
/// When the certificate does not hold exactly one canonical SPIFFE ID.
pub(super) fn identity_of(leaf: &EndEntityCert<'_>) -> Result<Identity, Refused> {
    let mut names = leaf.valid_uri_names();
    match (names.next(), names.count()) {
        (Some(name), 0) => Ok(Identity::parse(name)?),
        (first, more) => Err(Refused::UriNames(usize::from(first.is_some()) + more)),
    }
}

fn chain_error(error: webpki::Error) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// Refuses what nobody needs before it is looked at: a connection keeps the certificates of its peer, and of one byte each
/// thousands would fit into a handshake.
fn check_size(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Result<(), Refused> {
    let bytes = intermediates.iter().fold(leaf.len(), |bytes, intermediate| bytes + intermediate.len());
    let certificates = 1 + intermediates.len();
    let fits = certificates <= CHAIN_MAX && bytes <= CHAIN_BYTES_MAX;
    if fits { Ok(()) } else { Err(Refused::Chain(certificates, bytes)) }
}

/// What rustls is told, and the log.
fn refused(why: Refused) -> Error {
    warn!(%why, "refused a peer's certificate");
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _address: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(leaf, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Self::no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(leaf, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Self::no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("expected", &self.expected).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
