//! Who asks: the review of a service account token (security rule 10).
//!
//! The token proves namespace, service account and pod; the index must hold that very pod, so that a token
//! outlives its pod by nothing, and the pod must be where the caller is. Whether the token itself is good is checked
//! with the key that signs tokens (in the lab) or by the API server (`tokens`); only that is remembered, and for a minute
//! at most.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::StatusCode;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
use mesh::contract::TOKEN_AUDIENCE;
use mesh::identity::{Identity, TrustDomain};
use mesh::names::ObjectName;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use serde::Deserialize;

use crate::answer::Refusal;
use crate::index::{Entry, Link, State};
use crate::object::Kind;

/// A caller, proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The pod that the token is bound to.
    pub pod: ObjectName,
    /// That pod's UID.
    pub uid: String,
    /// The identity of its service account.
    pub identity: Identity,
}

/// The longest life of a token, from its issue to its end.
const LONGEST_LIFE: u64 = 3600;

/// How long a checked signature is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);

/// How many are remembered at once; about 1 KiB each.
const MOST_REMEMBERED: usize = 4096;

/// A bound token has about 1 KiB.
const LONGEST_TOKEN: usize = 8 * 1024;

/// A token's SHA-256: what is remembered of it is good for nothing else.
pub type Digest = [u8; 32];

/// Says who sends a token.
pub struct Reviewer {
    key: Option<(DecodingKey, Validation)>,
    trust_domain: TrustDomain,
    remembered: HashMap<Digest, (Claims, Instant)>,
}

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
    /// When it was issued, in Unix seconds.
    pub iat: u64,
    /// When it ends.
    pub exp: u64,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
}

/// What a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Bound {
    /// The pod's and the service account's namespace.
    pub namespace: String,
    /// The service account.
    pub serviceaccount: Named,
    /// The pod.
    pub pod: BoundPod,
}

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Named {
    /// Its name.
    pub name: String,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BoundPod {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Reviewer {
    /// A reviewer of tokens that `key` (a public key in PEM) signs.
    pub fn new(key: &[u8], trust_domain: TrustDomain) -> Result<Self, jsonwebtoken::errors::Error> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[TOKEN_AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        validation.validate_nbf = true;
        validation.leeway = 0;
        let key = Some((DecodingKey::from_ec_pem(key)?, validation));
        Ok(Self { key, trust_domain, remembered: HashMap::new() })
    }

    /// A reviewer that knows only what it is told by `learn`.
    pub fn told(trust_domain: TrustDomain) -> Self {
        Self { key: None, trust_domain, remembered: HashMap::new() }
    }

    /// Takes in that `token` is good, and says `claims`, as of `now`.
    pub fn learn(&mut self, token: &str, claims: &Claims, now: (Instant, SystemTime)) -> Result<(), Refusal> {
        check_life(claims, unix(now.1))?;
        self.remember(token, claims, now.0);
        Ok(())
    }

    /// Who sends `token` from the address `from`, if it is good and its pod is there.
    pub fn review(
        &mut self,
        token: &str,
        state: &State,
        from: IpAddr,
        now: (Instant, SystemTime),
    ) -> Result<Caller, Refusal> {
        let claims = self.claims(token, now)?;
        let pod = check_claims(&claims, state, from)?;
        let bound = &claims.kubernetes;
        let identity = Identity::new(&self.trust_domain, &bound.namespace, &bound.serviceaccount.name)
            .map_err(|error| unauthorized(&format!("the token's names make no identity: {error}")))?;
        Ok(Caller { pod, uid: bound.pod.uid.clone(), identity })
    }

    /// Whether the signature of `token` was checked a moment ago: its review then costs next to nothing.
    pub fn remembers(&self, token: &str, now: (Instant, SystemTime)) -> bool {
        self.recall(token, now).is_some()
    }

    fn recall(&self, token: &str, (instant, clock): (Instant, SystemTime)) -> Option<&Claims> {
        let (claims, checked) = self.remembered.get(&digest(token))?;
        let fresh = instant.saturating_duration_since(*checked) < REMEMBERED && unix(clock) < claims.exp;
        fresh.then_some(claims)
    }

    fn claims(&mut self, token: &str, (instant, clock): (Instant, SystemTime)) -> Result<Claims, Refusal> {
        check_length(token)?;
        if let Some(claims) = self.recall(token, (instant, clock)) {
            return Ok(claims.clone());
        }
        let claims = self.check(token, unix(clock))?;
        self.remember(token, &claims, instant);
        Ok(claims)
    }

    fn check(&self, token: &str, now: u64) -> Result<Claims, Refusal> {
        let (key, validation) =
            self.key.as_ref().ok_or_else(|| unauthorized("the token was not reviewed"))?;
        let decoded = decode::<Claims>(token, key, validation);
        let claims = decoded.map_err(|error| unauthorized(&reason(error.kind())))?.claims;
        check_life(&claims, now)?;
        Ok(claims)
    }

    fn remember(&mut self, token: &str, claims: &Claims, now: Instant) {
        if self.remembered.len() >= MOST_REMEMBERED {
            self.remembered.retain(|_, (_, checked)| now.saturating_duration_since(*checked) < REMEMBERED);
        }
        if self.remembered.len() >= MOST_REMEMBERED {
            self.remembered.clear();
        }
        self.remembered.insert(digest(token), (claims.clone(), now));
    }
}

/// Nothing is done with a token that cannot be one.
pub fn check_length(token: &str) -> Result<(), Refusal> {
    match token.len() > LONGEST_TOKEN {
        true => Err(unauthorized("the token is longer than 8 KiB")),
        false => Ok(()),
    }
}

/// The pod that `claims` name: they must agree with each other and with what is known of the pod, and it must be where
/// the caller is.
pub fn check_claims(claims: &Claims, state: &State, from: IpAddr) -> Result<ObjectName, Refusal> {
    let bound = &claims.kubernetes;
    let account = &bound.serviceaccount.name;
    if claims.sub != format!("system:serviceaccount:{}:{account}", bound.namespace) {
        return Err(unauthorized("the token's subject and its service account differ"));
    }
    let name = ObjectName::new(&bound.namespace, &bound.pod.name);
    let pod = check_pod(state, &name, &bound.pod.uid, account)?;
    check_address(state, pod, from)?;
    Ok(name)
}

/// A token must not live longer than an hour.
pub fn check_life(claims: &Claims, now: u64) -> Result<(), Refusal> {
    match claims.exp.saturating_sub(claims.iat.min(now)) > LONGEST_LIFE {
        true => {
            Err(unauthorized("the token lives longer than an hour: project it with expirationSeconds 3600"))
        }
        false => Ok(()),
    }
}

/// The token's digest; no token is kept where it could be read.
pub fn digest(token: &str) -> Digest {
    let mut digest = Digest::default();
    if let Some(suite) = TLS13_AES_128_GCM_SHA256.tls13() {
        digest.copy_from_slice(suite.common.hash_provider.hash(token.as_bytes()).as_ref());
    }
    digest
}

/// The pod must be the one that the token was made for, and still running.
fn check_pod<'s>(
    state: &'s State,
    name: &ObjectName,
    uid: &str,
    account: &str,
) -> Result<&'s Entry, Refusal> {
    let refused = |reason: &str| Err(Refusal::forbidden(format!("pod {name} {reason}")));
    let known = state.get(Kind::Pod, name).and_then(|entry| Some((entry, entry.pod.as_ref()?)));
    let Some((entry, pod)) = known else { return refused("is not known (yet)") };
    if entry.uid() != Some(uid) {
        refused("was replaced: the token is of the one before")
    } else if *pod.account != *account {
        refused("has another service account than the token")
    } else if pod.finished {
        refused("has finished")
    } else {
        Ok(entry)
    }
}

/// The pod must have the address that the caller has. Everything here is shared out by pod, and whoever may make pods
/// and tokens in one namespace could make as many as he likes that never run, and take all there is in their names.
///
/// On its way a caller's address may become another one: a node's, or that of a gateway of the pod network (SNAT, pods
/// on their node's network); and a pod that has just begun has an address before its kubelet has said which. So an address
/// that no pod has says nothing, and it is enough that a node has taken the pod in.
fn check_address(state: &State, pod: &Entry, from: IpAddr) -> Result<(), Refusal> {
    let from = from.to_canonical();
    let is_own = pod.pod_addresses().any(|ip| ip == from);
    let is_anothers = || state.linked(&Link::PodAddress(from)).next().is_some();
    if !is_own && is_anothers() {
        return Err(Refusal::forbidden(format!(
            "pod {} does not have the address {from}, which is another pod's: send a token from its own pod only",
            pod.key.name
        )));
    }
    let runs = |link: &Link| matches!(link, Link::OnNode(_) | Link::PodAddress(_));
    if !pod.links().iter().any(runs) {
        let name = &pod.key.name;
        return Err(Refusal::forbidden(format!("pod {name} is on no node (yet): ask again when it runs")));
    }
    Ok(())
}

/// Seconds since 1970.
pub fn unix(clock: SystemTime) -> u64 {
    clock.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// 401: nobody knows who this is.
pub fn unauthorized(message: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, message)
}

/// What is wrong with a token, in a sentence.
#[allow(clippy::wildcard_enum_match_arm, reason = "every other fault makes it no token at all")]
pub fn reason(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::ExpiredSignature => "the token has expired".to_owned(),
        ErrorKind::ImmatureSignature => "the token is not valid yet".to_owned(),
        ErrorKind::InvalidAudience => format!("the token's audience is not {TOKEN_AUDIENCE}"),
        ErrorKind::InvalidSignature => "the token is not signed by this cluster's key".to_owned(),
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => {
            "the token is not signed with ES256".to_owned()
        }
        ErrorKind::MissingRequiredClaim(claim) => format!("the token has no claim {claim:?}"),
        ErrorKind::Json(error) => {
            format!("the token is not that of a service account, bound to a pod: {error}")
        }
        _ => "it is not a token".to_owned(),
    }
}

#[cfg(test)]
#[path = "review_tests.rs"]
mod tests;
