//! Bodies that are still coming in. Whoever sends slowly waits for nobody but himself: each address has its own few
//! places, and all together take a bounded part of the memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The API server sends its reviews side by side, and each in one go.
const EACH: usize = 8;
/// As of 32 addresses that send slowly; at 3 MiB a body, 768 MiB at most.
const ALL: usize = 256;
/// Addresses that are remembered before those without a body are forgotten.
const REMEMBERED: usize = 1_024;

/// The places.
#[derive(Debug)]
pub struct Unread {
    all: Arc<Semaphore>,
    by_address: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// The place of one body, until it is read.
#[derive(Debug)]
pub struct Place {
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Unread {
    /// All places free.
    pub fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(ALL)), by_address: Mutex::default() }
    }

    /// Waits for a place for a body from `address`; nothing, if the program is ending.
    pub async fn place(&self, address: IpAddr) -> Option<Place> {
        // Its own first: who waits for that takes nothing from the others.
        let own = self.of(address).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Place { _own: own, _of_all: of_all })
    }

    fn of(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut places = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if places.len() >= REMEMBERED {
            places.retain(|_, place| Arc::strong_count(place) > 1); // permits and waiters hold it, too
        }
        Arc::clone(places.entry(address).or_insert_with(|| Arc::new(Semaphore::new(EACH))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 1, last / 250, last % 250])
    }

    #[test]
    fn who_sends_slowly_takes_the_places_of_nobody_else() {
        let unread = Unread::new();
        let place = |last| unread.place(address(last)).now_or_never().flatten();
        let mut held: Vec<Place> = (0..EACH).map(|_| place(1).unwrap()).collect();
        assert!(place(1).is_none());
        assert!(place(2).is_some());
        held.pop();
        assert!(place(1).is_some());
    }

    #[test]
    fn all_together_have_a_bound() {
        let unread = Unread::new();
        let place = |last| unread.place(address(last)).now_or_never().flatten();
        let held: Vec<Place> =
            (0..32).flat_map(|last| (0..EACH).map(move |_| last)).map(|last| place(last).unwrap()).collect();
        assert_eq!(held.len(), ALL);
        assert!(place(200).is_none());
    }

    #[test]
    fn addresses_without_a_body_are_forgotten() {
        let unread = Unread::new();
        for number in 0..5_000u32 {
            let _ = unread.place(IpAddr::from(number.to_be_bytes())).now_or_never();
            assert!(unread.by_address.lock().unwrap().len() <= REMEMBERED);
        }
    }
}
