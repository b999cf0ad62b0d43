//! An authority whose certificate and key come in a Secret of type kubernetes.io/tls, as cert-manager writes it or
//! heddle-injector itself: `tls.crt` (the signing certificate, and what is between it and the root), `tls.key`, and in
//! `ca.crt` the roots to trust. Several roots there are how a root is replaced without an interruption.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mesh::identity::{Identity, TrustDomain};
use rcgen::{Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};

use super::root::{Made, make};
use super::{Authority, AuthorityError, domain_uri, leaf, not_before, root, unix};

/// What a Secret holds, as PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// `tls.crt`.
    pub certificates: String,
    /// `tls.key`.
    pub key: String,
    /// `ca.crt`; without it, the last of `tls.crt` is the root.
    pub roots: Option<String>,
}

/// Why a Secret's certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuedError {
    /// Nothing to sign with.
    #[error("tls.crt holds no certificate in PEM")]
    Empty,
    /// The key cannot be read.
    #[error("tls.key holds no usable private key in PEM: {0}")]
    Key(rcgen::Error),
    /// The certificate cannot be used.
    #[error("tls.crt: {0}")]
    Certificate(#[from] root::RootError),
    /// A root cannot be used.
    #[error("ca.crt holds what is no certificate in PEM")]
    Roots,
    /// Who trusts the roots would not trust what is signed.
    #[error(
        "what tls.crt signs is not trusted by the roots in ca.crt ({0}): they must hold the root of tls.crt"
    )]
    Untrusted(String),
}

impl Material {
    /// A new root of the trust domain.
    pub fn new_root(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, rcgen::Error> {
        let Made { key, certificate } = make(&domain_uri(trust_domain), not_before(now), unix(now))?;
        Ok(Self { certificates: certificate, key, roots: None })
    }
}

impl Authority {
    /// The authority that `material` makes, proven: what it signs is trusted by its own roots.
    pub fn issued(
        material: &Material,
        trust_domain: &TrustDomain,
        leaf_life: Duration,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let chain = certificates(&material.certificates).map_err(|_| IssuedError::Empty)?;
        let (Some(signing), Some(last)) = (chain.first(), chain.last()) else {
            return Err(IssuedError::Empty.into());
        };
        let roots = match material.roots.as_deref().filter(|text| !text.trim().is_empty()) {
            Some(text) => certificates(text).map_err(|_| IssuedError::Roots)?,
            None => vec![last.clone()],
        };
        let key = KeyPair::from_pem(&material.key).map_err(IssuedError::Key)?;
        let ends = check(signing, &key, trust_domain).map_err(IssuedError::Certificate)?;
        let issuer = Issuer::from_ca_cert_der(signing, key)?;
        let intermediates =
            chain.iter().filter(|certificate| !roots.contains(certificate)).cloned().collect();
        let authority = Self { issuer, intermediates, roots: pem(&roots), ends, leaf_life };
        authority.prove(trust_domain, &roots, now)?;
        Ok(authority)
    }

    /// Signs a leaf for nobody, and asks whether the roots trust it: so a wrong key, a certificate that may not sign, one
    /// that has ended and a foreign root are all found before a proxy finds them.
    fn prove(
        &self,
        trust_domain: &TrustDomain,
        roots: &[CertificateDer<'static>],
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        let untrusted = |error: rustls::Error| IssuedError::Untrusted(error.to_string());
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(untrusted)?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).build();
        let verifier = verifier.map_err(|error| IssuedError::Untrusted(error.to_string()))?;
        let leaf = self.leaf_for_nobody(trust_domain, now)?;
        let at = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
        verifier.verify_client_cert(&leaf, &self.intermediates, at).map_err(untrusted)?;
        Ok(())
    }

    fn leaf_for_nobody(
        &self,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        let key = KeyPair::generate()?;
        let nobody = Identity::new(trust_domain, "heddle-system", "nobody");
        let nobody = nobody.map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let params = leaf::svid(&nobody, not_before(now), unix(now) + 60)?;
        Ok(params.signed_by(&key, &self.issuer)?.der().clone())
    }
}

/// The end of the signing certificate. It names our trust domain or (as those of most issuers) none.
fn check(
    signing: &CertificateDer<'_>,
    key: &KeyPair,
    trust_domain: &TrustDomain,
) -> Result<u64, root::RootError> {
    let expected = domain_uri(trust_domain);
    match root::domain_of(signing, key)? {
        (_, Some(found)) if found != expected => Err(root::RootError::OtherDomain { found, expected }),
        (ends, _) => Ok(ends),
    }
}

fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, ()> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or(())
}

/// Certificates as PEM.
pub fn pem(certificates: &[CertificateDer<'_>]) -> String {
    certificates.iter().map(|certificate| pem_of(certificate)).collect()
}

fn pem_of(certificate: &CertificateDer<'_>) -> String {
    let json = serde_json::to_value(k8s_openapi::ByteString(certificate.to_vec())).unwrap_or_default();
    let base64 = json.as_str().unwrap_or_default();
    let lines: Vec<&str> =
        (0..base64.len()).step_by(64).map(|at| &base64[at..base64.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose};

    fn domain() -> TrustDomain {
        TrustDomain::parse("cluster.local").unwrap()
    }

    fn root() -> Material {
        Material::new_root(&domain(), SystemTime::now()).unwrap()
    }

    fn open(material: &Material) -> Result<Authority, AuthorityError> {
        Authority::issued(material, &domain(), Duration::from_secs(3600), SystemTime::now())
    }

    /// A CA that `root` signs, without a trust domain, as cert-manager's.
    fn intermediate(root: &Material) -> Material {
        let issuer =
            Issuer::from_ca_cert_pem(&root.certificates, KeyPair::from_pem(&root.key).unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificates = params.signed_by(&key, &issuer).unwrap().pem();
        Material { certificates, key: key.serialize_pem(), roots: Some(root.certificates.clone()) }
    }

    #[track_caller]
    fn check_refused(material: &Material, message: &str) {
        let error = open(material).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }

    /// A root that allows what is between it and the leaves.
    fn long_root() -> Material {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificates = params.self_signed(&key).unwrap().pem();
        Material { certificates, key: key.serialize_pem(), roots: None }
    }

    #[test]
    fn a_new_root_is_its_own_bundle() {
        let root = root();
        let authority = open(&root).unwrap();
        assert_eq!(certificates(authority.bundle()), certificates(&root.certificates));
        assert!(authority.intermediates.is_empty());
    }

    #[test]
    fn what_is_between_the_root_and_the_leaves_goes_with_them() {
        let root = long_root();
        let issued = intermediate(&root);
        let authority = open(&issued).unwrap();
        assert_eq!(authority.intermediates, certificates(&issued.certificates).unwrap());
        assert_eq!(certificates(authority.bundle()), certificates(&root.certificates));
    }

    #[test]
    fn several_roots_are_one_bundle() {
        let (old, new) = (root(), root());
        let both = old.certificates.clone() + &new.certificates;
        for signing in [old, new] {
            let authority = open(&Material { roots: Some(both.clone()), ..signing }).unwrap();
            assert_eq!(certificates(authority.bundle()).unwrap().len(), 2);
        }
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_reason() {
        let (good, other) = (root(), root());
        check_refused(
            &Material { certificates: String::new(), ..good.clone() },
            "tls.crt holds no certificate",
        );
        check_refused(
            &Material { key: "x".to_owned(), ..good.clone() },
            "tls.key holds no usable private key",
        );
        check_refused(&Material { key: other.key, ..good.clone() }, "tls.crt: its key is another one's");
        check_refused(&Material { roots: Some("x".to_owned()), ..good.clone() }, "ca.crt holds what is no");
        let foreign = Material { roots: Some(other.certificates), ..good };
        check_refused(&foreign, "what tls.crt signs is not trusted");
        let elsewhere = Material::new_root(&TrustDomain::parse("else.where").unwrap(), SystemTime::now());
        check_refused(&elsewhere.unwrap(), "tls.crt: it is of \"spiffe://else.where\"");
    }

    #[test]
    fn a_certificate_that_may_not_sign_is_refused() {
        let key = KeyPair::generate().unwrap();
        let certificates = CertificateParams::default().self_signed(&key).unwrap().pem();
        let leaf = Material { certificates, key: key.serialize_pem(), roots: None };
        check_refused(&leaf, "tls.crt: it may not sign certificates");
    }
}
