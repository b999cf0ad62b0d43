//! What a leaf says (X.509-SVID, sections 4 and 5), and what a signing request may say.

use std::time::Duration;

use mesh::identity::Identity;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKey, PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use rustls::crypto::{SecureRandom, aws_lc_rs};

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
pub enum CsrError {
    /// Not a request, or its signature does not prove the key.
    #[error("the body is not a certificate signing request in PEM whose signature proves its key: {0}")]
    Unreadable(rcgen::Error),
    /// It asks for a name that its sender does not have.
    #[error("the request asks for {asked}, but its sender is {identity}")]
    OtherName {
        /// What it asks for.
        asked: String,
        /// Whom the token proves.
        identity: Identity,
    },
    /// A key of another kind.
    #[error("the key is not ECDSA P-256: make one of that kind")]
    OtherKey,
    /// Signing itself failed.
    #[error("signing failed: {0}")]
    Failed(#[from] rcgen::Error),
}

/// The key of a request that asks for nothing but `identity`, or for no name at all.
pub fn requested_key(csr: &str, identity: &Identity) -> Result<PublicKey, CsrError> {
    let request = CertificateSigningRequestParams::from_pem(csr).map_err(CsrError::Unreadable)?;
    let refused = |asked: String| CsrError::OtherName { asked, identity: identity.clone() };
    for name in &request.params.subject_alt_names {
        if !matches!(name, SanType::URI(uri) if uri.as_str() == identity.as_str()) {
            return Err(refused(format!("the name {}", shown(name))));
        }
    }
    if let Some((_, value)) = request.params.distinguished_name.iter().next() {
        return Err(refused(format!("the subject {value:?}")));
    }
    if !matches!(request.params.is_ca, IsCa::NoCa | IsCa::ExplicitNoCa) {
        return Err(refused("an authority's rights".to_owned()));
    }
    if !is_p256(&request.public_key) {
        return Err(CsrError::OtherKey);
    }
    Ok(request.public_key)
}

/// The algorithm is that of the request's signature, which does not name the curve: the point's size does.
fn is_p256(key: &PublicKey) -> bool {
    *key.algorithm() == PKCS_ECDSA_P256_SHA256
        && key.der_bytes().len() == 65
        && key.der_bytes().first() == Some(&4)
}

/// A name as people read it, not as rcgen prints it.
fn shown(name: &SanType) -> String {
    let text = match name {
        SanType::URI(text) | SanType::DnsName(text) | SanType::Rfc822Name(text) => text.as_str(),
        SanType::IpAddress(address) => return address.to_string(),
        SanType::OtherName(_) | _ => "of another kind",
    };
    format!("{text:?}")
}

/// An SVID: one URI, no subject, good for both sides of TLS and for nothing else.
pub fn svid(identity: &Identity, not_before: u64, not_after: u64) -> Result<CertificateParams, rcgen::Error> {
    let names = vec![SanType::URI(identity.as_str().try_into()?)];
    let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    leaf(names, &usages, not_before, not_after)
}

/// A server's certificate. It holds no URI, so it is nobody in the mesh.
pub fn server(
    names: Vec<SanType>,
    not_before: u64,
    not_after: u64,
) -> Result<CertificateParams, rcgen::Error> {
    leaf(names, &[ExtendedKeyUsagePurpose::ServerAuth], not_before, not_after)
}

fn leaf(
    names: Vec<SanType>,
    usages: &[ExtendedKeyUsagePurpose],
    not_before: u64,
    not_after: u64,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    params.use_authority_key_identifier_extension = true;
    limit(&mut params, not_before, not_after)?;
    Ok(params)
}

/// Gives a certificate its times (Unix seconds) and a random serial number.
pub fn limit(params: &mut CertificateParams, not_before: u64, not_after: u64) -> Result<(), rcgen::Error> {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
    params.serial_number = Some(serial()?);
    Ok(())
}

/// 126 random bits, positive and without a leading zero byte (RFC 5280, section 4.1.2.2).
fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0; 16];
    let random: &dyn SecureRandom = aws_lc_rs::default_provider().secure_random;
    random.fill(&mut bytes).map_err(|_| rcgen::Error::RingUnspecified)?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
