//! The certificates of a peer, as a handshake has proven them: how long they may be used, and for how long they are trusted.
//!
//! Three things end a connection that was made with them, each in its own way. Near a certificate's end it takes no new
//! requests. At its end a tunnel that still runs is counted. When its root has left the bundle, it is cut.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mesh::identity::Identity;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, UnixTime},
};
use webpki::{EndEntityCert, Error, KeyUsage};

use super::{CurrentCredentials, provider, verify::identity_of};

/// A chain that a handshake (or our own renewal) has proven, the leaf first, and what its leaf says.
#[derive(Debug, Clone)]
pub struct Proven {
    chain: Arc<[CertificateDer<'static>]>,
    identity: Identity,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl Proven {
    /// A chain that was verified, the leaf first; none of a leaf that cannot be read.
    pub fn new(chain: Vec<CertificateDer<'static>>) -> Option<Self> {
        let leaf = EndEntityCert::try_from(chain.first()?).ok()?;
        let (identity, (not_before, not_after)) = (identity_of(&leaf).ok()?, validity(&leaf)?);
        Some(Self { chain: chain.into(), identity, not_before, not_after })
    }

    /// Who it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether its leaf is good at this time.
    pub(super) fn is_in_time(&self, now: UnixTime) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }

    /// When its leaf ends.
    pub fn ends(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.not_after.as_secs())
    }

    /// How long new requests may go over a connection that was made with it.
    pub(super) fn usable(&self, now: SystemTime) -> Duration {
        let life = self.not_after.as_secs().saturating_sub(self.not_before.as_secs());
        usable(self.ends().duration_since(now).unwrap_or_default(), Duration::from_secs(life))
    }

    /// Whether it still chains to one of these roots. That the leaf has ended since does not matter here.
    pub(super) fn is_vouched_for(&self, roots: &RootCertStore) -> bool {
        let Some((leaf, intermediates)) = self.chain.split_first() else { return false };
        let Ok(leaf) = EndEntityCert::try_from(leaf) else { return false };
        let algorithms = provider().signature_verification_algorithms.all;
        [KeyUsage::client_auth(), KeyUsage::server_auth()].into_iter().any(|usage| {
            let now = self.not_before;
            leaf.verify_for_usage(algorithms, &roots.roots, intermediates, now, usage, None, None).is_ok()
        })
    }

    /// Returns when its root has left the bundle; `roots` are those that the handshake went by.
    pub(super) async fn distrusted(self, mut roots: Arc<RootCertStore>, mut current: CurrentCredentials) {
        loop {
            let present = current.borrow_and_update().as_ref().map(|credentials| credentials.roots());
            // A renewal with the same roots is no reason to look at every connection.
            if let Some(present) = present.filter(|present| !Arc::ptr_eq(present, &roots)) {
                if !self.is_vouched_for(&present) {
                    return;
                }
                roots = present;
            }
            if current.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// A tenth of the life is kept back, or half of what is left if that is less: while the authority is away connections
/// get shorter and shorter, but never serve one request alone.
pub(super) fn usable(left: Duration, life: Duration) -> Duration {
    left.saturating_sub((life / 10).min(left / 2))
}

/// A leaf's times. webpki tells them only by what it refuses: before all else it finds the beginning of time too early,
/// and its end too late.
fn validity(leaf: &EndEntityCert<'_>) -> Option<(UnixTime, UnixTime)> {
    let refusal = |seconds| {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        leaf.verify_for_usage(&[], &[], &[], now, KeyUsage::client_auth(), None, None).err()
    };
    match (refusal(0)?, refusal(u64::MAX)?) {
        (Error::CertNotValidYet { not_before, .. }, Error::CertExpired { not_after, .. }) => {
            Some((not_before, not_after))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
