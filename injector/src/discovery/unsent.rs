//! The events that were made for a pod and that its connection has not taken yet: bounded by pod, so that one that opens
//! thousands of watches and reads none of them holds no more than its share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::answer::PIECE;

const KIB: usize = 1_024;
/// A pod's share, in KiB: sixteen whole pieces. A proxy that reads has hardly one at a time.
const SHARE: usize = 1_024;
/// What a piece takes of it at most. The object that makes it longer than that is bounded by the API server.
const WHOLE_PIECE: u32 = 64;
const _: () = assert!(WHOLE_PIECE as usize * KIB == PIECE);

/// The shares, by the UID of the pod. Each is there as long as somebody holds it.
#[derive(Debug, Default)]
pub struct Unsent {
    by_pod: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// What one pod may have unsent.
#[derive(Debug)]
pub struct Share(Arc<Semaphore>);

/// Room for a piece that is going to be made.
#[derive(Debug)]
pub struct Room(OwnedSemaphorePermit);

/// A piece that was made, with its room.
struct Held {
    piece: Bytes,
    _room: Option<OwnedSemaphorePermit>,
}

impl Unsent {
    /// The share of `pod`.
    pub fn of(&self, pod: &str) -> Share {
        let mut shares = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(pod).and_then(Weak::upgrade) {
            return Share(share);
        }
        // Before it grows, so seldom.
        if shares.len() == shares.capacity() {
            shares.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Semaphore::new(SHARE));
        shares.insert(pod.to_owned(), Arc::downgrade(&share));
        Share(share)
    }
}

impl Share {
    /// Room for one more piece, as soon as enough of those before it was taken.
    pub async fn room(&self) -> Option<Room> {
        Arc::clone(&self.0).acquire_many_owned(WHOLE_PIECE).await.ok().map(Room)
    }
}

impl Room {
    /// The piece. It takes as much of the room as it needs, until its last byte was sent or given up.
    pub fn hold(mut self, piece: Bytes) -> Bytes {
        let needed = piece.len().div_ceil(KIB).clamp(1, WHOLE_PIECE as usize);
        let room = self.0.split(needed);
        Bytes::from_owner(Held { piece, _room: room })
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    /// A piece of so many KiB, if there is room for it.
    fn piece(share: &Share, size: usize) -> Option<Bytes> {
        let room = share.room().now_or_never().flatten()?;
        Some(room.hold(Bytes::from(vec![7; size * KIB])))
    }

    /// How many pieces of that size a pod can have that takes none of them.
    #[track_caller]
    fn check(size: usize, expected: usize) {
        let share = Unsent::default().of("a");
        let mut held: Vec<Bytes> = std::iter::from_fn(|| piece(&share, size)).collect();
        assert_eq!(held.len(), expected, "{size} KiB");
        assert!(held.iter().all(|piece| piece.len() == size * KIB));
        let part = held.pop().unwrap().split_off(size * KIB / 2);
        assert!(piece(&share, 1).is_none(), "a part of it is still to be sent");
        drop(part);
        assert!(piece(&share, 1).is_some());
    }

    #[test]
    fn a_pod_has_its_share_and_no_more_until_pieces_are_taken() {
        check(64, 16);
        check(640, 16);
        check(32, 31);
        check(1, SHARE - 63);
    }

    #[test]
    fn a_pods_watches_have_one_share_and_other_pods_others() {
        let unsent = Unsent::default();
        let (first, second, other) = (unsent.of("a"), unsent.of("a"), unsent.of("b"));
        let held: Vec<Bytes> = std::iter::from_fn(|| piece(&first, 64)).collect();
        assert!(piece(&second, 1).is_none() && piece(&other, 1).is_some());
        drop((first, second));
        assert!(piece(&unsent.of("a"), 1).is_none());
        drop(held);
        assert!(piece(&unsent.of("a"), 1).is_some());
    }

    #[test]
    fn pods_that_hold_nothing_are_forgotten() {
        let unsent = Unsent::default();
        for number in 0..5_000 {
            drop(unsent.of(&number.to_string()));
        }
        assert!(unsent.by_pod.lock().unwrap().len() < 10);
    }
}
