//! What is open at a moment (connections, watches, lists): counted by who opened it, and bounded for each and for all,
//! since each costs memory for as long as its owner likes.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// The counts, and their bounds.
#[derive(Debug)]
pub struct Counts<K> {
    open: Mutex<Open<K>>,
    most_each: usize,
    most_all: usize,
}

#[derive(Debug)]
struct Open<K> {
    by_owner: HashMap<K, usize>,
    all: usize,
}

/// One that is open; it counts for as long as this lives.
#[derive(Debug)]
pub struct Held<K: Hash + Eq> {
    counts: Arc<Counts<K>>,
    owner: K,
}

impl<K: Hash + Eq + Clone> Counts<K> {
    /// None yet; at most `most_each` for one owner, and `most_all` altogether.
    pub fn new(most_each: usize, most_all: usize) -> Self {
        Self { open: Mutex::new(Open { by_owner: HashMap::new(), all: 0 }), most_each, most_all }
    }

    /// One more of `owner`, unless it has too many, or all have.
    pub fn take(self: &Arc<Self>, owner: K) -> Option<Held<K>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.by_owner.get(&owner).copied().unwrap_or_default();
        if own >= self.most_each || open.all >= self.most_all {
            return None;
        }
        open.by_owner.insert(owner.clone(), own + 1);
        open.all += 1;
        Some(Held { counts: Arc::clone(self), owner })
    }
}

impl<K: Hash + Eq> Held<K> {
    /// Who opened it.
    pub fn owner(&self) -> &K {
        &self.owner
    }
}

impl<K: Hash + Eq> Drop for Held<K> {
    fn drop(&mut self) {
        let mut open = self.counts.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all = open.all.saturating_sub(1);
        if let Some(count) = open.by_owner.get_mut(&self.owner) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.by_owner.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_is_bounded_by_owner_and_altogether() {
        let counts = Arc::new(Counts::new(2, 3));
        let first = [counts.take("a"), counts.take("a")];
        assert!(first.iter().all(Option::is_some));
        assert!(counts.take("a").is_none());
        let other = counts.take("b");
        assert!(other.is_some() && counts.take("b").is_none());
        drop(first);
        assert!(counts.take("a").is_some());
        drop(other);
        assert!(counts.open.lock().unwrap().by_owner.is_empty());
    }
}
