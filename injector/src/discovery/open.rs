//! The watches that are open: counted, and bounded by pod, since each costs memory for up to an hour.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::metrics::Metrics;

/// Six for each destination that a proxy keeps, and some: about 1 KiB each.
const MOST_EACH: usize = 8_192;
/// All of a large cluster's.
const MOST_ALL: usize = 500_000;

/// The open watches, by the UID of the pod that opened them.
#[derive(Debug)]
pub struct Open {
    counts: Mutex<HashMap<String, usize>>,
    metrics: Arc<Metrics>,
    most_each: usize,
    most_all: usize,
}

/// One open watch; it counts for as long as it lives.
#[derive(Debug)]
pub struct Watching {
    open: Arc<Open>,
    caller: String,
}

impl Open {
    /// None yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { counts: Mutex::default(), metrics, most_each: MOST_EACH, most_all: MOST_ALL }
    }

    /// One more watch of `caller`, unless it has too many, or all have.
    pub fn open(self: &Arc<Self>, caller: &str) -> Option<Watching> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let own = counts.get(caller).copied().unwrap_or_default();
        if own >= self.most_each || self.metrics.watches() >= self.most_all {
            return None;
        }
        counts.insert(caller.to_owned(), own + 1);
        self.metrics.watch_opened();
        Some(Watching { open: Arc::clone(self), caller: caller.to_owned() })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut counts = self.open.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.caller) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.caller);
            }
        }
        self.open.metrics.watch_closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watches_are_bounded_by_pod_and_altogether() {
        let open = Open { most_each: 2, most_all: 3, ..Open::new(Arc::new(Metrics::new())) };
        let open = Arc::new(open);
        let first = [open.open("a"), open.open("a")];
        assert!(first.iter().all(Option::is_some));
        assert!(open.open("a").is_none());
        let other = open.open("b");
        assert!(other.is_some() && open.open("b").is_none());
        drop(first);
        assert!(open.open("a").is_some());
        drop(other);
        assert!(open.counts.lock().unwrap().is_empty());
    }
}
