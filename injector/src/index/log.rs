//! The last changes, in order: watchers read along at their own pace.
//!
//! It is bounded, and a watcher holds nothing but its place in it. One that falls behind the oldest change
//! has missed something; it is told so (410) and lists anew, as Kubernetes does it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Entry;

/// One change of one object.
#[derive(Debug, Clone)]
pub struct Event {
    /// The index's version from this change on.
    pub version: u64,
    /// The object before it, unless it is new.
    pub before: Option<Arc<Entry>>,
    /// The object after it, unless it went.
    pub after: Option<Arc<Entry>>,
}

/// What the typed form of an object takes besides what it says: it has room for all that it could say.
const TYPED: usize = 2 * 1024;

impl Event {
    /// About what it keeps in memory that nobody else does: the object before the change, which is held as text and as it was
    /// understood.
    fn bytes(&self) -> usize {
        self.before.as_ref().map_or(0, |before| TYPED + 4 * before.text.len())
    }
}

/// A watcher's place is no longer (or never was) in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the resourceVersion is too old: list again")]
pub struct Expired;

/// What the objects of the log may hold that are not there any more, in all. Somebody who changes a large object again and
/// again makes others list anew, and no more.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// The last changes.
#[derive(Debug)]
pub struct Log {
    events: VecDeque<Event>,
    capacity: usize,
    bytes: usize,
    /// The version before the oldest event that is kept.
    floor: u64,
}

impl Log {
    /// An empty log that keeps `capacity` changes, beginning after version `floor`.
    pub fn new(capacity: usize, floor: u64) -> Self {
        Self { events: VecDeque::new(), capacity, bytes: 0, floor }
    }

    /// Adds a change; versions only grow.
    pub fn push(&mut self, event: Event) {
        self.bytes += event.bytes();
        self.events.push_back(event);
        while (self.events.len() > self.capacity || self.bytes > MOST_BYTES)
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= oldest.bytes();
            self.floor = oldest.version;
        }
    }

    /// The changes after `version`.
    pub fn since(&self, version: u64) -> Result<impl Iterator<Item = &Event>, Expired> {
        if version < self.floor {
            return Err(Expired);
        }
        let start = self.events.partition_point(|event| event.version <= version);
        Ok(self.events.range(start..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(since: u64, expected: Result<&[u64], Expired>) {
        let mut log = Log::new(2, 10);
        for version in 11..=13 {
            log.push(Event { version, before: None, after: None });
        }
        let found: Result<Vec<u64>, Expired> =
            log.since(since).map(|events| events.map(|event| event.version).collect());
        assert_eq!(found, expected.map(<[u64]>::to_vec));
    }

    #[test]
    fn a_watcher_reads_on_from_its_place() {
        check(13, Ok(&[]));
        check(12, Ok(&[13]));
        check(11, Ok(&[12, 13]));
    }

    #[test]
    fn a_watcher_behind_the_oldest_change_is_told_so() {
        check(10, Err(Expired));
        check(0, Err(Expired));
    }
}
