//! The root certificate: what it says when it is made, and whether a kept one can still be used.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::leaf::limit;

/// A root's life. Leaves live a day, so that the root is what an operator has to plan for.
const LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Why a kept root cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// Not a certificate.
    #[error("it cannot be read as a certificate in PEM")]
    Unreadable,
    /// The two files do not belong together.
    #[error("its key is another one's: restore both files from one backup")]
    OtherKey,
    /// Made for another mesh.
    #[error(
        "it is of {found:?}, not of {expected:?}: start with that --trust-domain, or with an empty --state directory"
    )]
    OtherDomain {
        /// The trust domain that it names.
        found: String,
        /// The trust domain of this mesh.
        expected: String,
    },
}

/// What a new root says. It carries its trust domain as its one URI (X.509-SVID, section 2).
pub fn params(domain: &str, not_before: u64, now: u64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Heddle root");
    params.subject_alt_names = vec![SanType::URI(domain.try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit(&mut params, not_before, now + LIFE.as_secs())?;
    Ok(params)
}

/// Checks a kept root; returns its end in Unix seconds.
pub fn check(pem: &str, key: &KeyPair, domain: &str) -> Result<u64, RootError> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| RootError::Unreadable)?;
    let (_, certificate) = parse_x509_certificate(&der).map_err(|_| RootError::Unreadable)?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err(RootError::OtherKey);
    }
    let names = certificate.subject_alternative_name().map_err(|_| RootError::Unreadable)?;
    let uri = names.into_iter().flat_map(|names| &names.value.general_names).find_map(|name| {
        let GeneralName::URI(uri) = name else { return None };
        Some(*uri)
    });
    if uri != Some(domain) {
        let found = uri.unwrap_or("no trust domain").to_owned();
        return Err(RootError::OtherDomain { found, expected: domain.to_owned() });
    }
    u64::try_from(certificate.validity().not_after.timestamp()).map_err(|_| RootError::Unreadable)
}
