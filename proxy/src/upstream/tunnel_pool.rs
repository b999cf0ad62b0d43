//! Connections to one peer that carry TCP connections, one after another.
//!
//! As with HTTP/2, a connection belongs to the generation of our certificate that made it, and takes no new tunnel near
//! the end of either side's.

use std::{
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::connect::Peer;
use crate::tunnel::Tunnels;

/// A connection that carries nothing for this long is closed: one whose peer has vanished without a word must not be given
/// to client after client, who would each wait for as long as the kernel does. What comes seldom can afford a handshake.
const IDLE: Duration = Duration::from_secs(1);
/// The most connections that are kept to one peer: what that many clients use at once again and again.
const IDLE_MAX: usize = 256;

/// The connections to one peer that carry nothing at the moment.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "they go in and out whole, and are large")]
pub(super) struct Pool(Mutex<Vec<Box<Kept>>>);

/// A connection that may carry another tunnel after the present one.
#[derive(Debug)]
pub struct Kept {
    tunnels: Tunnels<Peer>,
    generation: u64,
    /// When our certificate or the peer's is near its end: no new tunnel from then on.
    until: Instant,
    /// When the last tunnel ended; none while the first runs.
    idle: Option<Instant>,
}

impl Kept {
    pub(super) fn new(peer: Peer, generation: u64) -> Box<Self> {
        let until = Instant::now() + peer.usable();
        Box::new(Self { tunnels: Tunnels::new(peer), generation, until, idle: None })
    }

    /// Begins a tunnel.
    pub(super) fn open(mut self: Box<Self>) -> Box<Self> {
        self.tunnels.open();
        self
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now < self.until && self.idle.is_none_or(|since| now.duration_since(since) < IDLE)
    }
}

impl Deref for Kept {
    type Target = Tunnels<Peer>;

    fn deref(&self) -> &Self::Target {
        &self.tunnels
    }
}

impl DerefMut for Kept {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.tunnels
    }
}

impl Pool {
    /// The connection that was used last, so that those which are not needed end.
    pub(super) fn take(&self, generation: u64) -> Option<Box<Kept>> {
        let (mut idle, now) = (self.idle(), Instant::now());
        while let Some(mut kept) = idle.pop() {
            if kept.generation == generation && kept.is_fresh(now) && kept.is_alive() {
                return Some(kept);
            }
        }
        None
    }

    /// Keeps a connection whose tunnel has ended on both sides; any other is closed.
    pub(super) fn put(&self, mut kept: Box<Kept>) {
        let mut idle = self.idle();
        if kept.is_free() && idle.len() < IDLE_MAX {
            kept.idle = Some(Instant::now());
            idle.push(kept);
        }
    }

    /// Closes them all: one of them has failed, so that the others may be as dead.
    pub(super) fn clear(&self) {
        self.idle().clear();
    }

    /// Closes connections that nobody used for long, or that the peer has ended.
    pub(super) fn sweep(&self) {
        let now = Instant::now();
        self.idle().retain_mut(|kept| kept.is_fresh(now) && kept.is_alive());
    }

    #[expect(clippy::vec_box, reason = "as above")]
    fn idle(&self) -> MutexGuard<'_, Vec<Box<Kept>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
