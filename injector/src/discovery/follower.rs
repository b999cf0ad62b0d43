//! A place in the index's log, and what was sent: turns changes into events, in pieces of about [`PIECE`], so that a slow
//! reader costs no more than that. Pure.
//!
//! Most queries are answered by what an object is itself, and their events are those of the log. Whose an address is, and
//! which pods a Service has, is decided by other objects, too: a slice adds and removes pods that did not change, a pod takes
//! an address from a Service. There, what was sent is remembered, and what became of it is compared with that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::vec;

use bytes::{BufMut, Bytes, BytesMut};
use mesh::names::{ObjectName, ServiceName};
use serde_json::json;

use super::event::{put, put_change};
use super::query::{Query, Selector};
use super::select;
use crate::answer::PIECE;
use crate::index::{Entry, Expired, Link, State};
use crate::object::Kind;

/// What an object was, if it was sent, and what it is, if it is still one of those.
type Change = (Option<Arc<Entry>>, Option<Arc<Entry>>);

/// The follower of one query.
pub struct Follower {
    query: Query,
    /// The version up to which everything that concerns the query was sent, or is `unsent`.
    place: u64,
    /// Whether something after that concerns it, and was not read yet.
    behind: bool,
    /// What was sent, if the query is decided by more than the object itself.
    members: BTreeMap<ObjectName, Arc<Entry>>,
    /// The addresses in the slices of the Service whose pods are asked for.
    addresses: BTreeSet<IpAddr>,
    /// What is still to be sent, of what was there at the beginning or of a comparison.
    unsent: vec::IntoIter<Change>,
    /// Whether a bookmark is to follow that.
    announce: bool,
}

impl Follower {
    /// One that has not begun.
    pub fn new(query: Query) -> Self {
        Self {
            query,
            place: 0,
            behind: false,
            members: BTreeMap::new(),
            addresses: BTreeSet::new(),
            unsent: Vec::new().into_iter(),
            announce: false,
        }
    }

    /// Begins with all objects as they are, and then, if it is to `announce` it, a bookmark.
    pub fn begin(&mut self, state: &State, announce: bool) {
        (self.place, self.behind) = (state.version(), false);
        let entries = select(state, &self.query);
        if self.depends_on_others() {
            self.members = entries.iter().map(|entry| (entry.key.name.clone(), Arc::clone(entry))).collect();
        }
        if let Selector::PodsOf(service) = &self.query.selector {
            self.addresses = state.addresses_of(service);
        }
        let unsent: Vec<Change> = entries.into_iter().map(|entry| (None, Some(entry))).collect();
        (self.unsent, self.announce) = (unsent.into_iter(), announce);
    }

    /// Goes on where another watch ended. Where others decide, this works only while none of them has
    /// changed since: what was sent then is not known.
    pub fn resume(&mut self, state: &State, version: u64) -> Result<Bytes, Expired> {
        if !self.depends_on_others() {
            self.place = version;
            return self.advance(state);
        }
        self.begin(state, false);
        self.unsent = Vec::new().into_iter();
        match self.concerned(state, version)? {
            true => Err(Expired),
            false => Ok(Bytes::new()),
        }
    }

    /// Passes over what does not concern the query: everything before the version `first`, or, without one, everything that
    /// there is. What was not read yet of an earlier time is read before that.
    pub fn pass(&mut self, first: Option<u64>, state: &State) {
        if !self.behind {
            self.place = first.map_or(state.version(), |first| first.saturating_sub(1));
        }
        self.behind |= first.is_some();
    }

    /// A piece of what is still to be sent; then, of what changed since the last time. Empty once all was sent.
    pub fn advance(&mut self, state: &State) -> Result<Bytes, Expired> {
        let unsent = self.piece();
        if !unsent.is_empty() {
            return Ok(unsent);
        }
        match &self.query.selector {
            Selector::All | Selector::Name(_) | Selector::Linked(_) => return self.read_on(state),
            Selector::ServiceAt(_) => self.compare_all(state)?,
            Selector::PodsOf(service) => {
                let service = service.clone();
                self.compare_pods(&service, state)?;
            }
        }
        (self.place, self.behind) = (state.version(), false);
        Ok(self.piece())
    }

    /// The version up to which everything was sent.
    pub fn bookmark(&self, initial_events_end: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": self.place.to_string()});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": self.query.kind.as_str(), "apiVersion": self.query.api_version, "metadata": metadata});
        let mut event = BytesMut::new();
        put(&mut event, "BOOKMARK", object.to_string().as_bytes());
        event.freeze()
    }

    fn piece(&mut self) -> Bytes {
        let mut events = BytesMut::new();
        while events.len() < PIECE
            && let Some((before, after)) = self.unsent.next()
        {
            // As of its last version, not of its end: see `note`.
            let version = before.as_ref().map_or(self.place, |before| before.version);
            put_change(&mut events, before.as_deref(), after.as_deref(), version);
        }
        if self.unsent.as_slice().is_empty() && std::mem::take(&mut self.announce) {
            events.put_slice(&self.bookmark(true));
        }
        events.freeze()
    }

    fn read_on(&mut self, state: &State) -> Result<Bytes, Expired> {
        let mut events = BytesMut::new();
        for event in state.since(self.place)? {
            if events.len() >= PIECE {
                self.behind = true;
                return Ok(events.freeze());
            }
            let [before, after] = [&event.before, &event.after]
                .map(|side| side.as_deref().filter(|entry| self.query.matches(entry)));
            put_change(&mut events, before, after, event.version);
            self.place = event.version;
        }
        (self.place, self.behind) = (state.version(), false);
        Ok(events.freeze())
    }

    /// Compares what is there with what was sent, if anything has changed that decides on it.
    fn compare_all(&mut self, state: &State) -> Result<(), Expired> {
        if !self.concerned(state, self.place)? {
            return Ok(());
        }
        let mut now: BTreeMap<_, _> = self.members.keys().map(|name| (name.clone(), None)).collect();
        now.extend(select(state, &self.query).into_iter().map(|entry| (entry.key.name.clone(), Some(entry))));
        self.note(now);
        Ok(())
    }

    /// Compares those of a Service's pods that can have come, changed or gone.
    fn compare_pods(&mut self, service: &ServiceName, state: &State) -> Result<(), Expired> {
        let (slices, mut names) = self.news_of_pods(service, state, self.place)?;
        if slices {
            let addresses = state.addresses_of(service);
            let moved = addresses.symmetric_difference(&self.addresses).map(|ip| Link::PodAddress(*ip));
            names.extend(moved.flat_map(|link| state.linked(&link)).map(|pod| pod.key.name.clone()));
            self.addresses = addresses;
        }
        let now = names.into_iter().map(|name| {
            let pod = state.get(Kind::Pod, &name).filter(|pod| self.has(pod)).cloned();
            (name, pod)
        });
        let now: BTreeMap<_, _> = now.collect();
        self.note(now);
        Ok(())
    }

    /// Takes in what is there now of some objects, and what of it is to be sent: what went, then the others by their
    /// versions. So whoever breaks off between two of these events, and comes back with the version of the last that he saw, is
    /// told that he missed something: what is still to be sent changed after that version, or was changed by something that
    /// did.
    fn note(&mut self, now: BTreeMap<ObjectName, Option<Arc<Entry>>>) {
        let version = |entry: Option<&Arc<Entry>>| entry.map(|entry| entry.version);
        let mut changes: Vec<Change> = Vec::new();
        for (name, after) in now {
            let before = match &after {
                Some(after) => self.members.insert(name, Arc::clone(after)),
                None => self.members.remove(&name),
            };
            if version(before.as_ref()) != version(after.as_ref()) {
                changes.push((before, after));
            }
        }
        changes.sort_by_key(|(_, after)| version(after.as_ref()));
        self.unsent = changes.into_iter();
    }

    /// Whether objects are selected by more than what they are themselves.
    fn depends_on_others(&self) -> bool {
        matches!(self.query.selector, Selector::PodsOf(_) | Selector::ServiceAt(_))
    }

    /// Whether something changed after `version` that can add or remove an object, or is one of them, where others decide.
    fn concerned(&self, state: &State, version: u64) -> Result<bool, Expired> {
        match &self.query.selector {
            Selector::PodsOf(service) => {
                let (slices, pods) = self.news_of_pods(service, state, version)?;
                Ok(slices || !pods.is_empty())
            }
            Selector::ServiceAt(ip) => {
                let links = State::links_at(*ip);
                let decides = |entry: &Arc<Entry>| {
                    matches!(entry.key.kind, Kind::Service | Kind::Pod | Kind::Node)
                        && entry.links().iter().any(|link| links.contains(link))
                };
                Ok(news(state, version)?.any(decides) || state.measured() > version)
            }
            Selector::All | Selector::Name(_) | Selector::Linked(_) => Ok(false),
        }
    }

    /// Whether a slice of the Service changed after `version`, and the pods that did at its addresses or were sent before.
    fn news_of_pods(
        &self,
        service: &ServiceName,
        state: &State,
        version: u64,
    ) -> Result<(bool, BTreeSet<ObjectName>), Expired> {
        let (mut slices, mut pods) = (false, BTreeSet::new());
        for entry in news(state, version)? {
            if entry.key.kind == Kind::EndpointSlice {
                slices |= entry.service() == Some(service);
            } else if entry.key.kind == Kind::Pod
                && (self.has(entry) || self.members.contains_key(&entry.key.name))
            {
                pods.insert(entry.key.name.clone());
            }
        }
        Ok((slices, pods))
    }

    /// Whether a pod is at an address of the Service whose pods are asked for.
    fn has(&self, pod: &Entry) -> bool {
        pod.pod_addresses().any(|ip| self.addresses.contains(&ip))
    }
}

/// The objects that changed after `version`, as they were and as they are.
fn news(state: &State, version: u64) -> Result<impl Iterator<Item = &Arc<Entry>>, Expired> {
    Ok(state.since(version)?.flat_map(|event| event.before.iter().chain(&event.after)))
}

#[cfg(test)]
#[path = "follower_tests.rs"]
pub mod tests;
