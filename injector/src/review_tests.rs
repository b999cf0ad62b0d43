use super::*;

use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};

use crate::index::Index;
use crate::index::tests::{index, pod, put, remove};

struct Bed {
    key: KeyPair,
    reviewer: Reviewer,
    index: Index,
    /// Where the tokens come from.
    from: IpAddr,
}

fn now() -> u64 {
    unix(SystemTime::now())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Bed {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let public = public_pem(&key);
        let reviewer =
            Reviewer::new(public.as_bytes(), TrustDomain::parse("cluster.local").unwrap()).unwrap();
        let index = index(100, &pod("web-0", "10.1.0.3"));
        Self { key, reviewer, index, from: ip("10.1.0.3") }
    }

    fn review(&mut self, claims: &Value) -> Result<Caller, Refusal> {
        let token = token(&self.key, claims);
        let now = (Instant::now(), SystemTime::now());
        self.reviewer.review(&token, &self.index.read(), self.from, now)
    }

    #[track_caller]
    fn check_refused(&mut self, claims: &Value, code: u16, message: &str) {
        let refusal = self.review(claims).unwrap_err();
        assert_eq!((refusal.code.as_u16(), refusal.message.as_str()), (code, message));
    }
}

fn public_pem(key: &KeyPair) -> String {
    let der = key.subject_public_key_info();
    let text = k8s_openapi::serde_json::to_value(k8s_openapi::ByteString(der)).unwrap();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", text.as_str().unwrap())
}

fn token(key: &KeyPair, claims: &Value) -> String {
    let key = EncodingKey::from_ec_pem(key.serialize_pem().as_bytes()).unwrap();
    encode(&Header::new(Algorithm::ES256), claims, &key).unwrap()
}

fn claims() -> Value {
    json!({
        "aud": ["heddle.dev"], "iss": "https://kubernetes.default.svc", "sub": "system:serviceaccount:shop:web",
        "iat": now(), "nbf": now(), "exp": now() + 3600,
        "kubernetes.io": {
            "namespace": "shop", "serviceaccount": {"name": "web", "uid": "u"}, "pod": {"name": "web-0", "uid": "uid-web-0"},
        },
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut claims = claims();
    *claims.pointer_mut(pointer).unwrap() = value;
    claims
}

#[test]
fn a_good_token_proves_pod_and_identity() {
    let caller = Bed::new().review(&claims()).unwrap();
    assert_eq!(caller.identity.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!((caller.pod.to_string().as_str(), caller.uid.as_str()), ("shop/web-0", "uid-web-0"));
}

#[test]
fn another_audience_is_refused() {
    let claims = with("/aud", json!(["https://kubernetes.default.svc"]));
    Bed::new().check_refused(&claims, 401, "the token's audience is not heddle.dev");
}

#[test]
fn an_expired_or_too_long_token_is_refused() {
    let mut bed = Bed::new();
    bed.check_refused(&with("/exp", json!(now() - 1)), 401, "the token has expired");
    let long = "the token lives longer than an hour: project it with expirationSeconds 3600";
    bed.check_refused(&with("/exp", json!(now() + 3700)), 401, long);
    let mut later = with("/exp", json!(now() + 90_000));
    later["iat"] = json!(now() + 89_000);
    bed.check_refused(&later, 401, long);
    bed.check_refused(&with("/nbf", json!(now() + 60)), 401, "the token is not valid yet");
}

#[test]
fn the_pod_must_be_the_very_one() {
    let mut bed = Bed::new();
    let uid = "/kubernetes.io/pod/uid";
    bed.check_refused(
        &with(uid, json!("other")),
        403,
        "pod shop/web-0 was replaced: the token is of the one before",
    );
    bed.check_refused(
        &with("/kubernetes.io/pod/name", json!("web-1")),
        403,
        "pod shop/web-1 is not known (yet)",
    );
    let mut other = with("/kubernetes.io/serviceaccount/name", json!("api"));
    other["sub"] = json!("system:serviceaccount:shop:api");
    bed.check_refused(&other, 403, "pod shop/web-0 has another service account than the token");
}

#[test]
fn a_token_is_taken_from_its_own_pod_alone() {
    let mut bed = Bed::new();
    put(&bed.index, &pod("web-1", "10.1.0.4"));
    bed.from = ip("10.1.0.4");
    bed.check_refused(
        &claims(),
        403,
        "pod shop/web-0 does not have the address 10.1.0.4, which is another pod's: send a token from its own pod only",
    );
    bed.from = ip("::ffff:10.1.0.3");
    assert!(bed.review(&claims()).is_ok());
}

#[test]
fn an_address_that_no_pod_has_says_nothing() {
    let mut bed = Bed::new();
    bed.from = ip("10.0.0.1");
    assert!(bed.review(&claims()).is_ok());
    // A pod on its node's network has no address of its own.
    let on_node = pod("agent", "10.0.0.1").replace("containers:", "hostNetwork: true, containers:");
    put(&bed.index, &on_node);
    assert!(bed.review(&claims()).is_ok());
}

#[test]
fn a_pod_that_never_ran_gets_nothing() {
    let mut bed = Bed::new();
    let begun = pod("web-0", "10.1.0.3").replace(", podIP: 10.1.0.3, podIPs: [{ip: 10.1.0.3}]", "");
    put(&bed.index, &begun.replace("nodeName: node-1, ", ""));
    for from in ["10.1.0.3", "10.0.0.1"] {
        bed.from = ip(from);
        bed.check_refused(&claims(), 403, "pod shop/web-0 is on no node (yet): ask again when it runs");
    }
    // Its kubelet has not said its address yet.
    put(&bed.index, &begun);
    assert!(bed.review(&claims()).is_ok());
}

#[test]
fn subject_and_service_account_must_agree() {
    let claims = with("/sub", json!("system:serviceaccount:shop:admin"));
    Bed::new().check_refused(&claims, 401, "the token's subject and its service account differ");
}

#[test]
fn a_remembered_token_ends_with_its_pod() {
    let mut bed = Bed::new();
    let claims = claims();
    assert!(bed.review(&claims).is_ok());
    put(&bed.index, &pod("web-0", "10.1.0.3").replace("Running", "Failed"));
    bed.check_refused(&claims, 403, "pod shop/web-0 has finished");
    remove(&bed.index, &pod("web-0", "10.1.0.3"));
    bed.check_refused(&claims, 403, "pod shop/web-0 is not known (yet)");
}

#[test]
fn a_remembered_token_still_expires() {
    let mut bed = Bed::new();
    let token = token(&bed.key, &claims());
    let moment = (Instant::now(), SystemTime::now());
    assert!(bed.reviewer.review(&token, &bed.index.read(), bed.from, moment).is_ok());
    assert_eq!(bed.reviewer.remembered.len(), 1);
    let claims = bed.reviewer.remembered.get_mut(&digest(&token)).unwrap();
    claims.0.exp = now() - 1;
    // Not answered from memory: the token itself is checked again, and is good.
    assert!(bed.reviewer.review(&token, &bed.index.read(), bed.from, moment).is_ok());
    assert!(bed.reviewer.remembered[&digest(&token)].0.exp > now());
}

#[test]
fn another_key_or_algorithm_proves_nothing() {
    let mut bed = Bed::new();
    let review = |bed: &mut Bed, token: &str| {
        bed.reviewer
            .review(token, &bed.index.read(), bed.from, (Instant::now(), SystemTime::now()))
            .unwrap_err()
            .message
    };
    let other = token(&KeyPair::generate().unwrap(), &claims());
    assert_eq!(review(&mut bed, &other), "the token is not signed by this cluster's key");
    let secret = EncodingKey::from_secret(public_pem(&bed.key).as_bytes());
    let confused = encode(&Header::new(Algorithm::HS256), &claims(), &secret).unwrap();
    assert_eq!(review(&mut bed, &confused), "the token is not signed with ES256");
    assert_eq!(review(&mut bed, "nonsense"), "it is not a token");
    assert_eq!(review(&mut bed, &"x".repeat(9000)), "the token is longer than 8 KiB");
}

#[test]
fn a_token_without_a_pod_is_refused() {
    let mut claims = claims();
    claims["kubernetes.io"].as_object_mut().unwrap().remove("pod");
    let refusal = Bed::new().review(&claims).unwrap_err();
    assert!(refusal.message.contains("bound to a pod"), "{}", refusal.message);
}
