//! A watch: the changes of what a query asks for, as Kubernetes' stream of JSON lines.
//!
//! A watcher holds its place in the index's log and nothing else, so a slow one costs no memory: it is read
//! for only when its connection can take more. It is woken by what concerns its query alone (`index::waiting`), and for its
//! bookmark. One that fell behind the log, or comes with a version of another epoch, gets an ERROR event of code 410 inside
//! its 200 stream: kube retries a *request* that answers 410 for ever, but lists anew upon that event.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::stream::unfold;
use tokio::time::{Instant, timeout_at};

use super::event::expired;
use super::follower::Follower;
use super::open::Watching;
use super::query::{Query, Start, WatchOptions};
use crate::index::{Expired, Index, Interest};

/// How often a watcher is told the version, so that it need not list anew later.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(30);
/// Watches that open together get their bookmarks apart, so that these never come together: a bookmark each 10 ms.
const BOOKMARK_PLACES: u32 = 3_000;

/// The events of `query`, from `options.start` on, for `options.timeout`.
pub fn watch(
    index: Arc<Index>,
    query: Query,
    options: &WatchOptions,
    watching: Watching,
) -> impl Stream<Item = Bytes> + use<> {
    let (now, interest) = (Instant::now(), index.wait_for(query.topics()));
    let watch = Box::new(Watch {
        bookmark_at: now + first_bookmark(interest.number()),
        interest,
        follower: Follower::new(query),
        index,
        start: Some(options.start),
        bookmarks: options.bookmarks,
        deadline: now + options.timeout,
        watching,
    });
    unfold(Some(watch), |watch| async move { watch?.next().await })
}

/// How long after the beginning of the watch of that number its first bookmark comes.
fn first_bookmark(number: u64) -> Duration {
    let place = u32::try_from(number % u64::from(BOOKMARK_PLACES)).unwrap_or_default();
    BOOKMARK_INTERVAL / BOOKMARK_PLACES * (place + 1)
}

struct Watch {
    index: Arc<Index>,
    interest: Interest,
    follower: Follower,
    start: Option<Start>,
    bookmarks: bool,
    deadline: Instant,
    bookmark_at: Instant,
    watching: Watching,
}

impl Watch {
    /// The next piece of the stream; the last one has no watch to go on with.
    async fn next(mut self: Box<Self>) -> Option<(Bytes, Option<Box<Self>>)> {
        loop {
            // Boxed: a watch hardly ever waits for this, and would be twice as large with it.
            let room = Box::pin(timeout_at(self.deadline, self.watching.room())).await.ok().flatten()?;
            match self.step() {
                Err(Expired) => return Some((room.hold(expired()), None)),
                Ok(events) if !events.is_empty() => return Some((room.hold(events), Some(self))),
                Ok(_) => {}
            }
            let now = Instant::now();
            if self.deadline <= now {
                // With it the next watch goes on from here, however long nothing concerned this one.
                return self.bookmarks.then(|| (room.hold(self.follower.bookmark(false)), None));
            }
            if self.bookmarks && self.bookmark_at <= now {
                self.bookmark_at = now + BOOKMARK_INTERVAL;
                return Some((room.hold(self.follower.bookmark(false)), Some(self)));
            }
            drop(room);
            let _ = timeout_at(self.next_look(), self.interest.woken()).await;
        }
    }

    fn step(&mut self) -> Result<Bytes, Expired> {
        let state = self.index.read();
        let first = self.interest.first(&state);
        match self.start.take() {
            None => self.follower.pass(first, &state),
            Some(Start::After(version)) => return self.follower.resume(&state, version),
            Some(Start::Present) => self.follower.begin(&state, false),
            Some(Start::PresentThenBookmark) => self.follower.begin(&state, true),
        }
        self.follower.advance(&state)
    }

    /// When it looks again, if nothing wakes it before.
    fn next_look(&self) -> Instant {
        match self.bookmarks {
            true => self.bookmark_at.min(self.deadline),
            false => self.deadline,
        }
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
