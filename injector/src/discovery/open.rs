//! The answers that are under way: watches and lists, bounded by pod, since each costs memory while it lasts.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::query::Query;
use super::unsent::{Room, Share, Unsent};
use crate::count::{Counts, Held};
use crate::metrics::Metrics;
use crate::place::{Place, Places};

/// Six for each destination that a proxy keeps, and some: about 3 KiB each, and what was made for them has its own bound
/// (`unsent`).
const WATCHES_EACH: usize = 8_192;
/// All of a large cluster's.
const WATCHES_ALL: usize = 500_000;
/// A list costs its whole text until it is sent. Proxies look up addresses so, many at a time, and wait in turn.
const LISTS_EACH: usize = 8;
/// As of 32 pods that read nothing of what they asked for.
const LISTS_ALL: usize = 256;

/// The open watches and lists, by the UID of the pod that asked.
#[derive(Debug)]
pub struct Open {
    watches: Arc<Counts<String>>,
    lists: Places<String>,
    unsent: Unsent,
    metrics: Arc<Metrics>,
    latest: Mutex<Option<(Query, u64, Bytes)>>,
}

/// One open watch; it counts for as long as it lives.
#[derive(Debug)]
pub struct Watching {
    metrics: Arc<Metrics>,
    share: Share,
    _held: Held<String>,
}

impl Open {
    /// None yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let watches = Arc::new(Counts::new(WATCHES_EACH, WATCHES_ALL));
        let lists = Places::new(LISTS_EACH, LISTS_ALL);
        Self { watches, lists, unsent: Unsent::default(), metrics, latest: Mutex::default() }
    }

    /// One more watch of `caller`, unless it has too many, or all have.
    pub fn watch(&self, caller: &str) -> Option<Watching> {
        let held = self.watches.take(caller.to_owned())?;
        self.metrics.watch_opened();
        let (metrics, share) = (Arc::clone(&self.metrics), self.unsent.of(caller));
        Some(Watching { metrics, share, _held: held })
    }

    /// One more list of `caller`, as soon as it has few enough under way, and all have.
    pub async fn list(&self, caller: &str) -> Option<Place> {
        self.lists.take(caller.to_owned()).await
    }

    /// The text of a list as of `version`. Those who ask for the same at the same time share it.
    pub fn text(&self, query: &Query, version: u64, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match &*latest {
            Some((known, at, text)) if known == query && *at == version => text.clone(),
            _ => {
                let text = make();
                *latest = Some((query.clone(), version, text.clone()));
                text
            }
        }
    }
}

impl Watching {
    /// Room for a piece of its events, as soon as its pod has taken enough of those before it.
    pub async fn room(&self) -> Option<Room> {
        self.share.room().await
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.metrics.watch_closed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lists_are_bounded_by_pod_until_they_are_sent() {
        let open = Open::new(Arc::new(Metrics::new()));
        let mut lists = Vec::new();
        for _ in 0..LISTS_EACH {
            lists.push(open.list("a").await.unwrap());
        }
        assert!(open.list("a").await.is_none() && open.list("b").await.is_some());
        drop(lists);
        assert!(open.list("a").await.is_some());
    }

    #[test]
    fn the_same_list_of_the_same_version_is_one_text() {
        let open = Open::new(Arc::new(Metrics::new()));
        let query =
            |namespace: &str| Query::parse(&format!("/api/v1/namespaces/{namespace}/pods"), "").unwrap();
        let text = |text: &'static str| move || Bytes::from_static(text.as_bytes());
        assert_eq!(open.text(&query("shop"), 1, text("one")), "one");
        assert_eq!(open.text(&query("shop"), 1, text("again")), "one");
        assert_eq!(open.text(&query("shop"), 2, text("two")), "two");
        assert_eq!(open.text(&query("other"), 2, text("other")), "other");
    }
}
