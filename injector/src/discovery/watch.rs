//! A watch: the changes of what a query asks for, as Kubernetes' stream of JSON lines.
//!
//! A watcher holds its place in the index's log and nothing else, so a slow one costs no memory: it is read
//! for only when its connection can take more. One that fell behind the log, or comes with a version of
//! another epoch, gets an ERROR event of code 410 inside its 200 stream: kube retries a *request* that
//! answers 410 for ever, but lists anew upon that event.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::vec;

use bytes::{BufMut, Bytes, BytesMut};
use futures::Stream;
use futures::stream::unfold;
use http::StatusCode;
use mesh::names::{ObjectName, ServiceName};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::open::Watching;
use super::query::{Query, Selector, Start, WatchOptions};
use super::select;
use crate::answer::{PIECE, Refusal};
use crate::index::{Entry, Expired, Index, Link, State};
use crate::object::Kind;

/// How often a watcher without news is told the version, so that it need not list anew later.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(30);

/// The events of `query`, from `options.start` on, for `options.timeout`.
pub fn watch(
    index: Arc<Index>,
    query: Query,
    options: &WatchOptions,
    watching: Watching,
) -> impl Stream<Item = Bytes> + use<> {
    let now = Instant::now();
    let watch = Watch {
        head: index.head(),
        follower: Follower::new(query),
        index,
        start: Some(options.start),
        bookmarks: options.bookmarks,
        deadline: now + options.timeout,
        bookmark_at: now + BOOKMARK_INTERVAL,
        _watching: watching,
    };
    unfold(Some(watch), |watch| async move { watch?.next().await })
}

struct Watch {
    index: Arc<Index>,
    head: watch::Receiver<u64>,
    follower: Follower,
    start: Option<Start>,
    bookmarks: bool,
    deadline: Instant,
    bookmark_at: Instant,
    _watching: Watching,
}

impl Watch {
    /// The next piece of the stream; the last one has no watch to go on with.
    async fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        loop {
            self.head.borrow_and_update();
            match self.step() {
                Err(Expired) => return Some((expired(), None)),
                Ok(events) if !events.is_empty() => return Some((events, Some(self))),
                Ok(_) => {}
            }
            tokio::select! {
                news = self.head.changed() => news.ok()?,
                () = sleep_until(self.deadline) => return None,
                () = sleep_until(self.bookmark_at), if self.bookmarks => {
                    self.bookmark_at = Instant::now() + BOOKMARK_INTERVAL;
                    return Some((self.follower.bookmark(false), Some(self)));
                }
            }
        }
    }

    fn step(&mut self) -> Result<Bytes, Expired> {
        let state = self.index.read();
        match self.start.take() {
            None => {}
            Some(Start::After(version)) => return self.follower.resume(&state, version),
            Some(Start::Present) => self.follower.begin(&state, false),
            Some(Start::PresentThenBookmark) => self.follower.begin(&state, true),
        }
        self.follower.advance(&state)
    }
}

/// A place in the index's log, and what was sent: turns changes into events, in pieces of about [`PIECE`], so that a slow
/// reader costs no more than that. Pure.
struct Follower {
    query: Query,
    place: u64,
    /// What was sent, with its versions, if the query is decided by more than the object itself: a change of a
    /// slice adds and removes pods that did not change, a pod takes an address from a Service.
    members: BTreeMap<ObjectName, Arc<Entry>>,
    /// What was there at the beginning, and is still to be sent.
    unsent: vec::IntoIter<Arc<Entry>>,
    /// Whether a bookmark is to follow that.
    announce: bool,
}

impl Follower {
    fn new(query: Query) -> Self {
        let (members, unsent) = (BTreeMap::new(), Vec::new().into_iter());
        Self { query, place: 0, members, unsent, announce: false }
    }

    /// Begins with all objects as they are, and then, if it is to `announce` it, a bookmark.
    fn begin(&mut self, state: &State, announce: bool) {
        self.place = state.version();
        let entries = select(state, &self.query);
        if self.depends_on_others() {
            self.members = entries.iter().map(|entry| (entry.key.name.clone(), Arc::clone(entry))).collect();
        }
        self.unsent = entries.into_iter();
        self.announce = announce;
    }

    /// A piece of what was there at the beginning; empty once all of it was sent.
    fn present(&mut self) -> Bytes {
        let mut events = BytesMut::new();
        while events.len() < PIECE
            && let Some(entry) = self.unsent.next()
        {
            put(&mut events, "ADDED", &entry.body);
        }
        if self.unsent.as_slice().is_empty() && std::mem::take(&mut self.announce) {
            events.put_slice(&self.bookmark(true));
        }
        events.freeze()
    }

    /// Goes on where another watch ended. Where others decide, this works only while none of them has
    /// changed since: what was sent then is not known.
    fn resume(&mut self, state: &State, version: u64) -> Result<Bytes, Expired> {
        self.place = version;
        if self.depends_on_others() {
            if self.concerned(state)? {
                return Err(Expired);
            }
            self.begin(state, false);
            self.unsent = Vec::new().into_iter();
            return Ok(Bytes::new());
        }
        self.advance(state)
    }

    /// What is still to be sent of the beginning; then, what changed since the last time.
    fn advance(&mut self, state: &State) -> Result<Bytes, Expired> {
        let present = self.present();
        if !present.is_empty() {
            return Ok(present);
        }
        match &self.query.selector {
            Selector::PodsOf(_) | Selector::ServiceAt(_) => self.compare(state),
            Selector::All | Selector::Name(_) | Selector::Linked(_) => self.read_on(state),
        }
    }

    fn read_on(&mut self, state: &State) -> Result<Bytes, Expired> {
        let mut events = BytesMut::new();
        for event in state.since(self.place)? {
            if events.len() >= PIECE {
                return Ok(events.freeze());
            }
            let [before, after] = [&event.before, &event.after]
                .map(|side| side.as_ref().filter(|entry| self.query.matches(entry)));
            put_change(&mut events, before, after, event.version);
            self.place = event.version;
        }
        self.place = state.version();
        Ok(events.freeze())
    }

    /// The objects now, against those that were sent.
    fn compare(&mut self, state: &State) -> Result<Bytes, Expired> {
        let concerned = self.concerned(state)?;
        self.place = state.version();
        if !concerned {
            return Ok(Bytes::new());
        }
        let now: BTreeMap<_, _> =
            select(state, &self.query).into_iter().map(|entry| (entry.key.name.clone(), entry)).collect();
        let mut events = BytesMut::new();
        for (name, old) in self.members.iter().filter(|(name, _)| !now.contains_key(*name)) {
            let _ = name;
            put(&mut events, "DELETED", &old.at(self.place));
        }
        for (name, new) in &now {
            let old = self.members.get(name);
            if old.is_none_or(|old| old.version != new.version) {
                put_change(&mut events, old, Some(new), self.place);
            }
        }
        self.members = now;
        Ok(events.freeze())
    }

    /// Whether objects are selected by more than what they are themselves.
    fn depends_on_others(&self) -> bool {
        matches!(self.query.selector, Selector::PodsOf(_) | Selector::ServiceAt(_))
    }

    /// Whether something changed since that can add or remove an object, or is one of them.
    fn concerned(&self, state: &State) -> Result<bool, Expired> {
        match &self.query.selector {
            Selector::PodsOf(service) => self.concerns_pods_of(service, state),
            Selector::ServiceAt(ip) => {
                let links = State::links_at(*ip);
                let decides = |entry: &Arc<Entry>| entry.links().iter().any(|link| links.contains(link));
                Ok(self.news(state)?.any(decides))
            }
            Selector::All | Selector::Name(_) | Selector::Linked(_) => Ok(false),
        }
    }

    /// The objects that changed, as they were and as they are.
    fn news<'s>(&self, state: &'s State) -> Result<impl Iterator<Item = &'s Arc<Entry>> + use<'s>, Expired> {
        Ok(state.since(self.place)?.flat_map(|event| event.before.iter().chain(&event.after)))
    }

    fn concerns_pods_of(&self, service: &ServiceName, state: &State) -> Result<bool, Expired> {
        let entries = || self.news(state);
        if !entries()?.any(|entry| matches!(entry.key.kind, Kind::Pod | Kind::EndpointSlice)) {
            return Ok(false); // most news; the rest costs a look at every endpoint
        }
        let slice = Link::SliceOf(service.clone());
        let addresses = state.addresses_of(service);
        let decides = |entry: &Arc<Entry>| match &entry.pod {
            Some(pod) => {
                pod.ips.iter().any(|ip| addresses.contains(ip)) || self.members.contains_key(&pod.name)
            }
            None => entry.key.kind == Kind::EndpointSlice && entry.links().contains(&slice),
        };
        Ok(entries()?.any(decides))
    }

    /// The version up to which everything was sent.
    fn bookmark(&self, initial_events_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": self.place.to_string()});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": self.query.kind.as_str(), "apiVersion": self.query.api_version, "metadata": metadata});
        let mut event = BytesMut::new();
        put(&mut event, "BOOKMARK", object.to_string().as_bytes());
        event.freeze()
    }
}

/// What a watcher is told of an object that was `before` and is `after`, as far as its query matches them.
fn put_change(events: &mut BytesMut, before: Option<&Arc<Entry>>, after: Option<&Arc<Entry>>, version: u64) {
    match (before, after) {
        (None, None) => {}
        (None, Some(after)) => put(events, "ADDED", &after.body),
        (Some(before), None) => put(events, "DELETED", &before.at(version)),
        // Replaced: to its watchers the new one is another object.
        (Some(before), Some(after)) if before.uid() != after.uid() => {
            put(events, "DELETED", &before.at(version));
            put(events, "ADDED", &after.body);
        }
        (Some(_), Some(after)) => put(events, "MODIFIED", &after.body),
    }
}

fn put(events: &mut BytesMut, kind: &str, object: &[u8]) {
    events.put_slice(b"{\"type\":\"");
    events.put_slice(kind.as_bytes());
    events.put_slice(b"\",\"object\":");
    events.put_slice(object);
    events.put_slice(b"}\n");
}

fn expired() -> Bytes {
    let refusal = Refusal::new(StatusCode::GONE, Expired.to_string());
    let mut event = BytesMut::new();
    put(&mut event, "ERROR", refusal.status().to_string().as_bytes());
    event.freeze()
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
