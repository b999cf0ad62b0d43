use super::*;

use rcgen::{CertificateParams, DistinguishedName, DnType, PKCS_ECDSA_P384_SHA384};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

struct Bed {
    folder: tempfile::TempDir,
    authority: Authority,
}

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn identity() -> Identity {
    Identity::new(&domain(), "shop", "web").unwrap()
}

fn open(folder: &tempfile::TempDir, domain: &str) -> Result<Authority, AuthorityError> {
    let state = StateDirectory::open(folder.path())?;
    let domain = TrustDomain::parse(domain).unwrap();
    Authority::open(&state, &domain, Duration::from_secs(86_400), SystemTime::now())
}

fn bed() -> Bed {
    let folder = tempfile::tempdir().unwrap();
    let authority = open(&folder, "cluster.local").unwrap();
    Bed { folder, authority }
}

fn csr(names: &[SanType], subject: &str, key: &KeyPair) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    if !subject.is_empty() {
        params.distinguished_name.push(DnType::CommonName, subject);
    }
    params.subject_alt_names = names.to_vec();
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

#[track_caller]
fn check_refused(names: &[SanType], subject: &str, reason: &str) {
    let key = KeyPair::generate().unwrap();
    let error = bed().authority.sign(&csr(names, subject, &key), &identity(), SystemTime::now()).unwrap_err();
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn an_svid_says_who_it_is_and_nothing_else() {
    let key = KeyPair::generate().unwrap();
    let signed = bed().authority.sign(&csr(&[], "", &key), &identity(), SystemTime::now()).unwrap();
    let der = CertificateDer::from_pem_slice(signed.chain.as_bytes()).unwrap();
    let (_, leaf) = parse_x509_certificate(&der).unwrap();
    let names = &leaf.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names, &[GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]);
    assert!(!leaf.is_ca());
    assert_eq!(leaf.subject().iter().count(), 0);
    assert_eq!(leaf.key_usage().unwrap().unwrap().value.flags, 1);
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.any);
    assert_eq!(leaf.public_key().raw, rcgen::PublicKeyData::subject_public_key_info(&key));
    assert_eq!(signed.not_after - signed.not_before, 86_400 + 60);
    assert_eq!(leaf.validity().not_before.timestamp().unsigned_abs(), signed.not_before);
}

#[test]
fn every_serial_number_is_another() {
    let (bed, key) = (bed(), KeyPair::generate().unwrap());
    let request = csr(&[], "", &key);
    let serial = || {
        let signed = bed.authority.sign(&request, &identity(), SystemTime::now()).unwrap();
        let der = CertificateDer::from_pem_slice(signed.chain.as_bytes()).unwrap();
        parse_x509_certificate(&der).unwrap().1.raw_serial_as_string()
    };
    assert_ne!(serial(), serial());
}

#[test]
fn a_request_may_name_the_sender() {
    let key = KeyPair::generate().unwrap();
    let request = csr(&[uri("spiffe://cluster.local/ns/shop/sa/web")], "", &key);
    assert!(bed().authority.sign(&request, &identity(), SystemTime::now()).is_ok());
}

#[test]
fn a_request_for_another_name_is_refused() {
    let other = uri("spiffe://cluster.local/ns/shop/sa/api");
    check_refused(std::slice::from_ref(&other), "", "spiffe://cluster.local/ns/shop/sa/api");
    check_refused(&[uri("spiffe://cluster.local/ns/shop/sa/web"), other], "", "asks for the name");
    check_refused(&[SanType::DnsName("web.shop.svc".try_into().unwrap())], "", "web.shop.svc");
    check_refused(&[], "admin", "admin");
}

#[test]
fn a_key_of_another_curve_is_refused() {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let error = bed().authority.sign(&csr(&[], "", &key), &identity(), SystemTime::now()).unwrap_err();
    assert!(matches!(error, CsrError::OtherKey), "{error}");
}

#[test]
fn a_request_that_does_not_prove_its_key_is_refused() {
    let bed = bed();
    for text in ["", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"] {
        let error = bed.authority.sign(text, &identity(), SystemTime::now()).unwrap_err();
        assert!(matches!(error, CsrError::Unreadable(_)), "{error}");
    }
}

#[test]
fn the_root_outlives_a_restart() {
    let bed = bed();
    let again = open(&bed.folder, "cluster.local").unwrap();
    assert_eq!(again.bundle(), bed.authority.bundle());
}

#[test]
fn a_vanished_root_is_never_replaced() {
    for file in ["ca.key", "ca.pem"] {
        let bed = bed();
        std::fs::remove_file(bed.folder.path().join(file)).unwrap();
        let error = open(&bed.folder, "cluster.local").err().unwrap();
        assert!(error.to_string().contains("is gone"), "{error}");
    }
}

#[test]
fn both_files_gone_are_noticed_by_the_count_of_starts() {
    let bed = bed();
    StateDirectory::open(bed.folder.path()).unwrap().next_epoch(7).unwrap();
    for file in ["ca.key", "ca.pem"] {
        std::fs::remove_file(bed.folder.path().join(file)).unwrap();
    }
    assert!(open(&bed.folder, "cluster.local").is_err());
}

#[test]
fn a_root_of_another_trust_domain_is_refused() {
    let bed = bed();
    let error = open(&bed.folder, "example.org").err().unwrap();
    assert!(error.to_string().contains("spiffe://cluster.local"), "{error}");
}

#[test]
fn an_epoch_is_larger_than_all_before() {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(folder.path()).unwrap();
    assert_eq!(state.next_epoch(100).unwrap(), 100);
    assert_eq!(state.next_epoch(100).unwrap(), 101);
    assert_eq!(state.next_epoch(5).unwrap(), 102);
    assert_eq!(state.next_epoch(200).unwrap(), 200);
}

#[test]
fn a_leaf_does_not_outlive_its_root() {
    let (bed, key) = (bed(), KeyPair::generate().unwrap());
    let late = SystemTime::now() + Duration::from_secs(10 * 365 * 86_400 - 3600);
    let signed = bed.authority.sign(&csr(&[], "", &key), &identity(), late).unwrap();
    assert_eq!(signed.not_after, bed.authority.ends);
}
