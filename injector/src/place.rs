//! Places for what costs memory while it lasts (bodies that come in, lists that go out): whoever is slow waits for nobody
//! but himself. Each owner has its own few, and all together take a bounded part of the memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Owners that are remembered, at least, before those without a place are forgotten.
const REMEMBERED: usize = 1_024;
/// Who waits longer than this is refused.
const PATIENCE: Duration = Duration::from_secs(2);

/// The places.
#[derive(Debug)]
pub struct Places<K> {
    all: Arc<Semaphore>,
    owners: Mutex<Owners<K>>,
    each: usize,
}

#[derive(Debug)]
struct Owners<K> {
    places: HashMap<K, Arc<Semaphore>>,
    /// How many there are when those without a place are looked for: at each newcomer it would cost too much where nearly
    /// all have one.
    forget_at: usize,
}

/// One place; it is free again when this is dropped.
#[derive(Debug)]
pub struct Place {
    _own: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl<K: Hash + Eq> Places<K> {
    /// `each` for one owner and `all` together, all free.
    pub fn new(each: usize, all: usize) -> Self {
        let owners = Owners { places: HashMap::new(), forget_at: REMEMBERED };
        Self { all: Arc::new(Semaphore::new(all)), owners: Mutex::new(owners), each }
    }

    /// A place for `owner`, waiting a little for it if there is none.
    pub async fn take(&self, owner: K) -> Option<Place> {
        timeout(PATIENCE, self.wait(owner)).await.ok().flatten()
    }

    /// A place for `owner`, however long it takes.
    pub async fn wait(&self, owner: K) -> Option<Place> {
        // Its own first: who waits for that takes nothing from the others.
        let own = self.of(owner).acquire_owned().await.ok()?;
        let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Place { _own: own, _of_all: of_all })
    }

    fn of(&self, owner: K) -> Arc<Semaphore> {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.places.len() >= owners.forget_at {
            owners.places.retain(|_, place| Arc::strong_count(place) > 1); // permits and waiters hold it, too
            owners.forget_at = REMEMBERED.max(2 * owners.places.len());
        }
        Arc::clone(owners.places.entry(owner).or_insert_with(|| Arc::new(Semaphore::new(self.each))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn take(places: &Places<u32>, owner: u32) -> Option<Place> {
        places.wait(owner).now_or_never().flatten()
    }

    #[test]
    fn who_is_slow_takes_the_places_of_nobody_else() {
        let places = Places::new(2, 100);
        let mut held = vec![take(&places, 1).unwrap(), take(&places, 1).unwrap()];
        assert!(take(&places, 1).is_none());
        assert!(take(&places, 2).is_some());
        held.pop();
        assert!(take(&places, 1).is_some());
    }

    #[test]
    fn all_together_have_a_bound() {
        let places = Places::new(2, 3);
        let held: Vec<Option<Place>> = (0..4).map(|owner| take(&places, owner)).collect();
        assert_eq!(held.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, true, false]);
    }

    #[test]
    fn owners_without_a_place_are_forgotten() {
        let places = Places::new(2, 3);
        for owner in 0..5_000 {
            drop(take(&places, owner));
            assert!(places.owners.lock().unwrap().places.len() <= REMEMBERED);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for_but_not_for_ever() {
        let places = Places::new(1, 1);
        let held = places.take(1).await.unwrap();
        assert!(places.take(1).await.is_none());
        let (late, ()) = tokio::join!(places.take(1), async { drop(held) });
        assert!(late.is_some());
    }
}
