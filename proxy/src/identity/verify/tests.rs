use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    string::Ia5String,
};

use super::*;

struct Authority(Issuer<'static, KeyPair>, CertificateDer<'static>);

fn authority() -> Authority {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).expect("root");
    Authority(Issuer::new(params, key), root.der().clone())
}

impl Authority {
    fn leaf(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names =
            uris.iter().map(|uri| SanType::URI(Ia5String::try_from(*uri).expect("ascii"))).collect();
        change(&mut params);
        let key = KeyPair::generate().expect("key");
        params.signed_by(&key, &self.0).expect("leaf").der().clone()
    }

    fn verifier(&self, expected: &str) -> Verifier {
        let mut roots = RootCertStore::empty();
        roots.add(self.1.clone()).expect("root");
        let trust_domain = TrustDomain::parse("cluster.local").expect("trust domain");
        Verifier::exactly(Arc::new(roots), trust_domain, Identity::parse(expected).expect("identity"))
    }
}

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

#[track_caller]
fn check(leaf: &CertificateDer<'_>, verifier: &Verifier) -> Result<(), Error> {
    verifier.check(leaf, &[], UnixTime::now())
}

#[track_caller]
fn refuses(leaf: &CertificateDer<'_>, verifier: &Verifier, words: &str) {
    let error = check(leaf, verifier).expect_err("refused");
    assert!(format!("{error:?}").contains(words), "{error:?} does not say {words}");
}

#[test]
fn the_expected_identity_is_accepted() {
    let ca = authority();
    check(&ca.leaf(&[WEB], |_| ()), &ca.verifier(WEB)).expect("accepted");
}

#[test]
fn another_identity_is_refused_and_both_are_named() {
    let ca = authority();
    let leaf = ca.leaf(&["spiffe://cluster.local/ns/shop/sa/evil"], |_| ());
    refuses(&leaf, &ca.verifier(WEB), "evil");
    refuses(&leaf, &ca.verifier(WEB), "sa/web");
}

#[test]
fn exactly_one_uri_name() {
    let ca = authority();
    refuses(&ca.leaf(&[], |_| ()), &ca.verifier(WEB), "UriNames(0)");
    refuses(&ca.leaf(&[WEB, WEB], |_| ()), &ca.verifier(WEB), "UriNames(2)");
}

#[test]
fn another_trust_domain_is_refused() {
    let ca = authority();
    let leaf = ca.leaf(&["spiffe://elsewhere.example/ns/shop/sa/web"], |_| ());
    refuses(&leaf, &ca.verifier(WEB), "TrustDomain");
}

#[test]
fn another_root_is_refused() {
    refuses(&authority().leaf(&[WEB], |_| ()), &authority().verifier(WEB), "Signature");
}

#[test]
fn a_certificate_for_clients_only_is_no_server() {
    let ca = authority();
    let leaf =
        ca.leaf(&[WEB], |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
    refuses(&leaf, &ca.verifier(WEB), "RequiredEkuNotFound");
}

#[test]
fn a_chain_has_few_certificates_and_few_bytes() {
    let ca = authority();
    let (leaf, verifier) = (ca.leaf(&[WEB], |_| ()), ca.verifier(WEB));
    let check = |intermediates: &[Vec<u8>]| {
        let intermediates: Vec<_> = intermediates.iter().cloned().map(CertificateDer::from).collect();
        verifier.check(&leaf, &intermediates, UnixTime::now()).map_err(|error| format!("{error:?}"))
    };
    let room = CHAIN_BYTES_MAX - leaf.len();
    check(&vec![vec![0]; CHAIN_MAX - 1]).expect("nobody looks at what is not needed");
    check(&[vec![0; room]]).expect("as many as may be");
    check(&[vec![0; room + 1]]).expect_err("too many bytes");
    let error = check(&vec![vec![0]; CHAIN_MAX]).expect_err("too many certificates");
    assert!(error.contains("Chain(6"), "{error}");
}

#[test]
fn a_ca_is_no_peer() {
    let ca = authority();
    let leaf = ca.leaf(&[WEB], |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    refuses(&leaf, &ca.verifier(WEB), "CaUsedAsEndEntity");
}

#[test]
fn a_leaf_that_is_known_is_good_for_its_own_time_and_its_own_verifier() {
    let ca = authority();
    let leaf = ca.leaf(&[WEB], |_| ());
    let verifier = ca.verifier(WEB);
    let ends = Proven::new(vec![leaf.clone()]).expect("a leaf").ends();
    let ends = ends.duration_since(std::time::UNIX_EPOCH).expect("its end").as_secs();
    let at = |seconds| {
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        verifier.check(&leaf, &[], now)
    };
    check(&leaf, &verifier).expect("new");
    let known = verifier.known.get(&leaf).expect("known");
    assert!(known.proven.identity().as_str() == WEB && known.key.is_some());
    at(ends).expect("known, to its last second");
    at(ends + 1).expect_err("its time is over");
    at(0).expect_err("its time has not begun");
    check(&leaf, &authority().verifier(WEB)).expect_err("another root");
}
