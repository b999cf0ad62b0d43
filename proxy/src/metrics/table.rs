//! Series by their labels: bounded in number, and dropped when nothing has touched them for long.
//!
//! Trips: a label set beyond the bound is counted in one overflow series. Recovers: series that were idle make room,
//! at each scrape and, when there is no room, at most once a minute. A series that comes back begins at zero, which
//! Prometheus takes for a restart.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;

/// The most series of one table: with two dozen labels each is about half a KiB here and 6 KiB on the page.
pub const SERIES_MAX: usize = 2000;
/// A series that nothing has touched for this long is dropped: many times longer than anybody's scrape interval.
pub const IDLE: Duration = Duration::from_secs(15 * 60);
/// How often a full table looks for idle series.
const SWEEP: Duration = Duration::from_secs(60);

/// What tells series apart.
pub trait Labels: Clone + Eq + Hash + Ord {
    /// The labels of what is counted together because there is no more room.
    fn overflow(&self) -> Self;
}

/// The series of one kind.
pub struct Table<L, S>(Mutex<Inner<L, S>>);

struct Inner<L, S> {
    /// By a hash that is quick: labels are names of the configuration, and nobody's who sends requests.
    slots: HashMap<L, Slot<S>, RandomState>,
    swept: Option<Instant>,
}

struct Slot<S> {
    series: Arc<S>,
    touched: Instant,
}

impl<L: Labels, S: Default> Table<L, S> {
    /// The series with these labels, made if it is new. One that somebody holds is never dropped.
    pub fn series(&self, labels: &L, now: Instant) -> Arc<S> {
        let mut inner = self.lock();
        if let Some(slot) = inner.slots.get_mut(labels) {
            slot.touched = now;
            return Arc::clone(&slot.series);
        }
        let labels = if inner.has_room(now) { labels.clone() } else { labels.overflow() };
        let slot = inner.slots.entry(labels).or_insert_with(|| Slot { series: Arc::default(), touched: now });
        slot.touched = now;
        Arc::clone(&slot.series)
    }

    /// Every series in the order of its labels. Those that were idle are in it once more, and are dropped.
    pub fn scrape(&self, now: Instant) -> Vec<(L, Arc<S>)> {
        let mut inner = self.lock();
        let all = inner.slots.iter().map(|(labels, slot)| (labels.clone(), Arc::clone(&slot.series)));
        let mut all: Vec<_> = all.collect();
        // The copies just made are holders, too.
        inner.sweep(now, 2);
        drop(inner);
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    fn lock(&self) -> MutexGuard<'_, Inner<L, S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<L: Labels, S> Inner<L, S> {
    fn has_room(&mut self, now: Instant) -> bool {
        let full = self.slots.len() >= SERIES_MAX;
        if full && self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP) {
            self.sweep(now, 1);
        }
        self.slots.len() < SERIES_MAX
    }

    /// Drops what is idle; what has more holders than `ours` is in use.
    fn sweep(&mut self, now: Instant, ours: usize) {
        self.swept = Some(now);
        self.slots.retain(|_, slot| {
            if Arc::strong_count(&slot.series) > ours {
                slot.touched = now;
            }
            now.saturating_duration_since(slot.touched) < IDLE
        });
    }
}

impl<L, S> Default for Table<L, S> {
    fn default() -> Self {
        Self(Mutex::new(Inner { slots: HashMap::default(), swept: None }))
    }
}

impl<L, S> fmt::Debug for Table<L, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    type Counted = Table<usize, AtomicU64>;
    const OVERFLOW: usize = usize::MAX;

    impl Labels for usize {
        fn overflow(&self) -> Self {
            OVERFLOW
        }
    }

    fn count(table: &Counted, labels: usize, now: Instant) {
        table.series(&labels, now).fetch_add(1, Ordering::Relaxed);
    }

    #[track_caller]
    fn check(table: &Counted, now: Instant, expected: &[(usize, u64)]) {
        let found = table.scrape(now);
        let found: Vec<_> = found.iter().map(|(l, s)| (*l, s.load(Ordering::Relaxed))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_comes_after_the_bound_is_counted_together() {
        let (table, now) = (Counted::default(), Instant::now());
        (0..SERIES_MAX + 10).for_each(|labels| count(&table, labels, now));
        (0..SERIES_MAX).for_each(|labels| count(&table, labels, now));
        let all = table.scrape(now);
        assert_eq!(all.len(), SERIES_MAX + 1);
        let value = |at: usize| all.get(at).map(|(l, s)| (*l, s.load(Ordering::Relaxed)));
        assert_eq!(value(0), Some((0, 2)), "those within it go on being counted by themselves");
        assert_eq!(value(SERIES_MAX), Some((OVERFLOW, 10)));
    }

    #[test]
    fn idle_series_are_shown_once_more_and_dropped() {
        let (table, now) = (Counted::default(), Instant::now());
        count(&table, 1, now);
        count(&table, 2, now + IDLE);
        check(&table, now + IDLE, &[(1, 1), (2, 1)]);
        check(&table, now + IDLE, &[(2, 1)]);
        count(&table, 1, now + IDLE);
        check(&table, now + IDLE, &[(1, 1), (2, 1)]);
    }

    #[test]
    fn idle_series_make_room_without_a_scrape() {
        let (table, now) = (Counted::default(), Instant::now());
        (0..SERIES_MAX).for_each(|labels| count(&table, labels, now));
        count(&table, SERIES_MAX, now + IDLE);
        check(&table, now + IDLE, &[(SERIES_MAX, 1)]);
    }

    #[test]
    fn a_series_in_use_is_never_dropped_and_outlives_its_user_by_the_idle_time() {
        let (table, now) = (Counted::default(), Instant::now());
        let held = table.series(&1, now);
        let late = now + 3 * IDLE;
        check(&table, late, &[(1, 0)]);
        held.fetch_add(5, Ordering::Relaxed);
        drop(held);
        check(&table, late + IDLE / 2, &[(1, 5)]);
        check(&table, late + IDLE, &[(1, 5)]);
        check(&table, late + IDLE, &[]);
    }
}
