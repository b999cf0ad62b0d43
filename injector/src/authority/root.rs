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
    /// An application's certificate, not an authority's.
    #[error("it may not sign certificates: it is not an authority's")]
    NoAuthority,
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

/// A new root, as PEM.
#[derive(Debug)]
pub struct Made {
    /// Its key.
    pub key: String,
    /// Its certificate.
    pub certificate: String,
}

/// A new root of `domain`.
pub fn make(domain: &str, not_before: u64, now: u64) -> Result<Made, rcgen::Error> {
    let key = KeyPair::generate()?;
    let certificate = params(domain, not_before, now)?.self_signed(&key)?.pem();
    Ok(Made { key: key.serialize_pem(), certificate })
}

/// What a new root says. It carries its trust domain as its one URI (X.509-SVID, section 2).
fn params(domain: &str, not_before: u64, now: u64) -> Result<CertificateParams, rcgen::Error> {
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
    let (ends, found) = domain_of(&der, key)?;
    match found {
        Some(found) if found == domain => Ok(ends),
        found => {
            let found = found.unwrap_or_else(|| "no trust domain".to_owned());
            Err(RootError::OtherDomain { found, expected: domain.to_owned() })
        }
    }
}

/// The end of a signing certificate, whose key is `key`, in Unix seconds, and the trust domain that it names, if any.
pub fn domain_of(der: &CertificateDer<'_>, key: &KeyPair) -> Result<(u64, Option<String>), RootError> {
    let (_, certificate) = parse_x509_certificate(der).map_err(|_| RootError::Unreadable)?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err(RootError::OtherKey);
    }
    if !certificate.is_ca() {
        return Err(RootError::NoAuthority);
    }
    let names = certificate.subject_alternative_name().map_err(|_| RootError::Unreadable)?;
    let uri = names.into_iter().flat_map(|names| &names.value.general_names).find_map(|name| {
        let GeneralName::URI(uri) = name else { return None };
        Some(*uri)
    });
    let ends = certificate.validity().not_after.timestamp();
    Ok((u64::try_from(ends).map_err(|_| RootError::Unreadable)?, uri.map(str::to_owned)))
}
