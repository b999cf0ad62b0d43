use std::time::Duration;

use mesh::identity::{Identity, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};

use super::*;
use crate::{
    identity::{Credentials, Inside, Trusted},
    net::relay::{pair, relay},
    tls::{self, Tls},
};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

struct Authority(Issuer<'static, KeyPair>, CertificateDer<'static>);

fn authority() -> Authority {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).expect("root");
    Authority(Issuer::new(params, key), root.der().clone())
}

fn store(authorities: &[&Authority]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    authorities.iter().for_each(|authority| roots.add(authority.1.clone()).expect("root"));
    roots
}

impl Authority {
    /// A leaf that is good from one year on until another begins.
    fn leaf(&self, years: (i32, i32)) -> (CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().expect("key");
        (self.signed(&key, years), key)
    }

    fn signed(&self, key: &KeyPair, years: (i32, i32)) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(WEB.try_into().expect("ascii"))];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.not_before, params.not_after) = (date_time_ymd(years.0, 1, 1), date_time_ymd(years.1, 1, 1));
        params.signed_by(key, &self.0).expect("leaf").der().clone()
    }

    fn credentials(&self, roots: RootCertStore) -> Credentials {
        let (leaf, key) = self.leaf((2000, 2900));
        credentials(leaf, &key, roots)
    }
}

fn credentials(leaf: CertificateDer<'static>, key: &KeyPair, roots: RootCertStore) -> Credentials {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let key = provider().key_provider.load_private_key(key).expect("key");
    let identity = Identity::parse(WEB).expect("identity");
    assert_eq!(identity.trust_domain(), &TrustDomain::parse("cluster.local").expect("trust domain"));
    Credentials::new(1, identity, CertifiedKey::new(vec![leaf], key), roots.into()).expect("credentials")
}

#[test]
fn a_leafs_times_are_read() {
    let (leaf, _) = authority().leaf((2001, 2002));
    let proven = Proven::new(vec![leaf]).expect("a chain");
    assert_eq!(proven.not_before.as_secs(), 978_307_200);
    assert_eq!(proven.ends(), UNIX_EPOCH + Duration::from_secs(1_009_843_200));
}

#[track_caller]
fn check_usable(left: u64, life: u64, expected: u64) {
    assert_eq!(usable(Duration::from_secs(left), Duration::from_secs(life)).as_secs(), expected);
}

#[test]
fn requests_end_before_the_certificate_does() {
    check_usable(86_400, 86_400, 77_760);
    check_usable(16, 90, 8);
    check_usable(30, 30, 27);
    check_usable(2, 86_400, 1);
    check_usable(0, 86_400, 0);
}

#[test]
fn a_leaf_that_has_ended_is_still_vouched_for_by_its_root_and_by_no_other() {
    let (ours, other) = (authority(), authority());
    let proven = Proven::new(vec![ours.leaf((2001, 2002)).0]).expect("a chain");
    assert!(proven.is_vouched_for(&store(&[&other, &ours])));
    assert!(!proven.is_vouched_for(&store(&[&other])));
}

/// Both ends of a mesh connection, and who changes their bundles.
struct Mesh {
    client: Trusted<Tls<TcpStream>>,
    server: Trusted<Tls<TcpStream>>,
    bundle: watch::Sender<Option<Arc<Credentials>>>,
}

type Side = std::io::Result<(Tls<TcpStream>, tls::Agreed)>;

/// What client and server each make of a handshake.
async fn handshake(client: &Credentials, server: &Credentials) -> (Side, Side) {
    let (near, far) = pair().await;
    let config = client.client_config(&server.identity, Inside::Tcp).expect("configuration");
    let name = ServerName::IpAddress(std::net::IpAddr::from([127, 0, 0, 1]).into());
    tokio::join!(tls::connect(config, name, near), tls::accept(server.server_config(), Vec::new(), far))
}

#[tokio::test]
async fn who_shows_a_known_leaf_must_hold_its_key() {
    let authority = authority();
    let (leaf, key) = authority.leaf((2000, 2900));
    let own = credentials(leaf.clone(), &key, store(&[&authority]));
    handshake(&own, &own).await.1.expect("it is known now");
    let other = KeyPair::generate().expect("key");
    let thief = credentials(leaf, &other, store(&[&authority]));
    let refused = handshake(&thief, &own).await.1.expect_err("refused");
    assert!(refused.to_string().contains("BadSignature"), "{refused}");
}

#[tokio::test]
async fn a_known_leaf_may_have_a_key_of_another_kind() {
    let authority = authority();
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).expect("key");
        let own = credentials(authority.signed(&key, (2000, 2900)), &key, store(&[&authority]));
        for meeting in ["first", "second"] {
            handshake(&own, &own).await.1.expect(meeting);
        }
    }
}

/// Client and server hold the same credentials.
async fn mesh(authority: &Authority) -> Mesh {
    let own = Arc::new(authority.credentials(store(&[authority])));
    let (bundle, current) = watch::channel(Some(Arc::clone(&own)));
    let (client, server) = handshake(&own, &own).await;
    let trusted = |(tls, agreed): (_, tls::Agreed)| {
        let peer = Proven::new(agreed.certificates).expect("the peer's chain");
        Trusted::new(tls, peer, &own, current.clone())
    };
    Mesh { client: trusted(client.expect("client")), server: trusted(server.expect("server")), bundle }
}

fn trust(bundle: &watch::Sender<Option<Arc<Credentials>>>, roots: RootCertStore) {
    let present = bundle.borrow().clone().expect("credentials");
    let next = present.with_roots(Arc::new(roots)).expect("credentials");
    bundle.send_replace(Some(Arc::new(next)));
}

impl Mesh {
    async fn check_carries(&mut self) {
        self.client.write_all(b"thread").await.expect("write");
        self.client.flush().await.expect("flush");
        let mut read = [0; 6];
        self.server.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"thread");
    }
}

#[tokio::test]
async fn a_connection_lives_as_long_as_its_root_and_is_then_reset_on_both_sides() {
    let (old, new) = (authority(), authority());
    let mut mesh = mesh(&old).await;
    mesh.check_carries().await;
    trust(&mesh.bundle, store(&[&new, &old]));
    mesh.check_carries().await;
    trust(&mesh.bundle, store(&[&new]));
    let (mut at_client, mut at_server) = ([0; 1], [0; 1]);
    let ends = tokio::join!(mesh.client.read(&mut at_client), mesh.server.read(&mut at_server));
    for end in [ends.0, ends.1] {
        assert_eq!(end.expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert!(mesh.client.write(b"more").await.is_err() || mesh.client.flush().await.is_err());
}

async fn check_reset(relaying: tokio::task::JoinHandle<std::io::Result<()>>) {
    let ended = tokio::time::timeout(Duration::from_secs(10), relaying).await.expect("it ends");
    assert_eq!(ended.expect("no panic").expect_err("a reset").kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_connection_that_nobody_reads_from_is_reset_too() {
    let (old, new) = (authority(), authority());
    let Mesh { mut client, mut server, bundle } = mesh(&old).await;
    let (mut application, _reads_nothing) = pair().await;
    let relaying = tokio::spawn(async move { relay(&mut server, &mut application, |_| ()).await });
    // Until nothing more fits anywhere.
    let fill = async {
        loop {
            client.write_all(&[7; 65_536]).await.expect("write");
        }
    };
    tokio::select! {
        biased;
        () = fill => {}
        () = tokio::time::sleep(Duration::from_millis(200)) => {}
    }
    trust(&bundle, store(&[&new]));
    check_reset(relaying).await;
}

#[tokio::test]
async fn a_connection_whose_peer_has_ended_is_reset_too() {
    let (old, new) = (authority(), authority());
    let Mesh { mut client, mut server, bundle } = mesh(&old).await;
    let (mut application, mut silent) = pair().await;
    let relaying = tokio::spawn(async move { relay(&mut server, &mut application, |_| ()).await });
    client.write_all(b"a question").await.expect("write");
    client.shutdown().await.expect("half-close");
    silent.read_to_end(&mut Vec::new()).await.expect("the half-close");
    trust(&bundle, store(&[&new]));
    check_reset(relaying).await;
}
