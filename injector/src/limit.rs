//! How often a caller may ask: token buckets, one a pod and one for all.
//!
//! Pure: the time is an argument. The map is bounded; buckets that are full again are forgotten first,
//! since a new one would be as full.

use std::collections::HashMap;
use std::time::Instant;

use mesh::bucket::Bucket;
pub use mesh::bucket::Rate;

/// Buckets by caller (a pod's UID) under one for all.
#[derive(Debug)]
pub struct Limit {
    each: Rate,
    all: Bucket,
    callers: HashMap<String, Bucket>,
    most_callers: usize,
}

impl Limit {
    /// A limit of `each` a caller and `all` together, which remembers at most `most_callers`.
    pub fn new(each: Rate, all: Rate, most_callers: usize, now: Instant) -> Self {
        Self { each, all: Bucket::new(all, now), callers: HashMap::new(), most_callers }
    }

    /// Whether `caller` may ask once more.
    pub fn allow(&mut self, caller: &str, now: Instant) -> bool {
        if !self.callers.contains_key(caller) {
            self.make_room(now);
            self.callers.insert(caller.to_owned(), Bucket::new(self.each, now));
        }
        // The caller's own first: one that asks too much takes nothing from the others.
        self.callers.get_mut(caller).is_some_and(|bucket| bucket.take(now)) && self.all.take(now)
    }

    fn make_room(&mut self, now: Instant) {
        if self.callers.len() < self.most_callers {
            return;
        }
        self.callers.retain(|_, bucket| !bucket.is_full(now));
        if self.callers.len() >= self.most_callers {
            self.callers.clear(); // all of them busy: the limit for all has to do
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const EACH: Rate = Rate { burst: 2, per_second: 1 };
    const ALL: Rate = Rate { burst: 3, per_second: 100 };

    #[track_caller]
    fn check(limit: &mut Limit, caller: &str, at: Instant, allowed: bool) {
        assert_eq!(limit.allow(caller, at), allowed, "{caller}");
    }

    #[test]
    fn a_caller_has_a_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut limit = Limit::new(EACH, ALL, 10, start);
        check(&mut limit, "a", start, true);
        check(&mut limit, "a", start, true);
        check(&mut limit, "a", start, false);
        check(&mut limit, "a", start + Duration::from_secs(1), true);
        check(&mut limit, "a", start + Duration::from_secs(1), false);
    }

    #[test]
    fn one_caller_takes_nothing_from_another_but_all_have_a_bound() {
        let start = Instant::now();
        let mut limit = Limit::new(EACH, ALL, 10, start);
        for allowed in [true, true, false, false] {
            check(&mut limit, "a", start, allowed);
        }
        check(&mut limit, "b", start, true);
        check(&mut limit, "c", start, false);
    }

    #[test]
    fn the_map_is_bounded() {
        let start = Instant::now();
        let mut limit = Limit::new(EACH, ALL, 2, start);
        for caller in ["a", "b", "c", "d", "e"] {
            limit.allow(caller, start);
            assert!(limit.callers.len() <= 2);
        }
    }

    #[test]
    fn a_clock_that_steps_back_gives_nothing() {
        let start = Instant::now() + Duration::from_secs(60);
        let mut limit = Limit::new(EACH, ALL, 10, start);
        check(&mut limit, "a", start, true);
        check(&mut limit, "a", start, true);
        check(&mut limit, "a", start - Duration::from_secs(30), false);
        check(&mut limit, "a", start, false);
    }
}
