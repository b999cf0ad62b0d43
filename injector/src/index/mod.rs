//! Every object that the control plane knows, by name and by what else it is found by, with a version.
//!
//! Changes come in batches and are published at once: nobody sees an object without its status. Who waits for objects is
//! woken by what concerns them alone (`waiting`).

mod address;
mod apply;
mod entry;
mod links;
mod log;
mod ranges;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Service};
use mesh::names::{ObjectName, ServiceName};
use mesh::resolve::View;
use mesh::route::Route;
use tokio::sync::{Notify, watch};

pub use entry::Entry;
pub use links::{Link, SERVICE_NAME_LABEL};
pub use log::{Event, Expired, Log};
pub use waiting::{Interest, Topic};

use crate::object::{Key, Kind, Typed};
use crate::source::Change;
use links::Links;
use waiting::Waiting;

/// Versions are EPOCH * 10^9 + N, as plain digits: they grow over restarts, and never repeat. An epoch is a start, in
/// seconds; where several control planes may start in one second, the nanoseconds are part of N.
pub const VERSIONS_PER_EPOCH: u64 = 1_000_000_000;

/// Changes that a watcher may fall behind, as far as the log's bound on bytes allows.
pub const LOG_CAPACITY: usize = 16_384;

/// The index, shared between the source's thread and the servers.
#[derive(Debug)]
pub struct Index {
    state: RwLock<State>,
    waiting: Arc<Waiting>,
    head: watch::Sender<u64>,
    writer: Notify,
}

/// The objects at one moment.
#[derive(Debug)]
pub struct State {
    entries: HashMap<Kind, BTreeMap<ObjectName, Arc<Entry>>>,
    links: Links,
    log: Log,
    version: u64,
    /// The version before the first change.
    first: u64,
    /// Routes whose status at their source is not (yet) what it should be.
    unwritten: BTreeSet<Key>,
    /// The ranges that Service and pod addresses are of: as an operator gave them, or as the cluster's objects say.
    cluster: Vec<IpNet>,
    given: bool,
    /// The version from which on they are these.
    measured: u64,
}

impl Index {
    /// An empty index whose versions begin at `first` (larger than at every start before), and whose watchers may
    /// fall behind by `capacity` changes. `cluster` are the ranges of Service and pod addresses; without any, the
    /// cluster's Nodes and ServiceCIDRs tell them.
    pub fn new(first: u64, capacity: usize, cluster: Vec<IpNet>) -> Self {
        let state = State::new(first, capacity, cluster);
        let (head, _) = watch::channel(state.version);
        Self { state: RwLock::new(state), waiting: Arc::default(), head, writer: Notify::new() }
    }

    /// The objects as they are; hold it briefly and never across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes changes in as one, and wakes those whom they concern. `now` is RFC 3339, for conditions that change.
    pub fn apply(&self, changes: Vec<Change>, now: &str) {
        let (version, unwritten, told) = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let before = state.version;
            state.apply(changes, now);
            (state.version, !state.unwritten.is_empty(), self.waiting.tell(&state, before))
        };
        for waiter in told {
            waiter.wake();
        }
        self.head.send_if_modified(|head| std::mem::replace(head, version) != version);
        if unwritten {
            self.writer.notify_one();
        }
    }

    /// Waits until there may be status to write.
    pub async fn unwritten(&self) {
        self.writer.notified().await;
    }

    /// Waits for changes of `topics`, each named once. To be called before the index is read.
    pub fn wait_for(&self, topics: Vec<Topic>) -> Interest {
        self.waiting.join(topics)
    }

    /// Follows the version: for the few who wait for everything.
    pub fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }
}

impl State {
    fn new(first: u64, capacity: usize, cluster: Vec<IpNet>) -> Self {
        Self {
            entries: HashMap::new(),
            links: Links::default(),
            log: Log::new(capacity, first),
            version: first,
            first,
            unwritten: BTreeSet::new(),
            given: !cluster.is_empty(),
            cluster,
            measured: first,
        }
    }

    /// The version of the last change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The changes after `version`, which must be of this epoch.
    pub fn since(&self, version: u64) -> Result<impl Iterator<Item = &Event>, Expired> {
        match (self.first..=self.version).contains(&version) {
            true => self.log.since(version),
            false => Err(Expired),
        }
    }

    /// One object.
    pub fn get(&self, kind: Kind, name: &ObjectName) -> Option<&Arc<Entry>> {
        self.entries.get(&kind)?.get(name)
    }

    /// A namespace's objects of a kind, by name.
    pub fn in_namespace<'s>(&'s self, kind: Kind, namespace: &str) -> impl Iterator<Item = &'s Arc<Entry>> {
        let start = ObjectName::new(namespace, "");
        let space = Arc::clone(&start.namespace);
        let entries = self.entries.get(&kind);
        entries
            .into_iter()
            .flat_map(move |entries| entries.range((Bound::Included(start.clone()), Bound::Unbounded)))
            .take_while(move |(name, _)| name.namespace == space)
            .map(|(_, entry)| entry)
    }

    /// The objects that are found by `link`, in the order of their names.
    pub fn linked<'s>(&'s self, link: &Link) -> impl Iterator<Item = &'s Arc<Entry>> + use<'s> {
        self.links.of(link).iter().filter_map(|key| self.get(key.kind, &key.name))
    }

    /// The addresses in a Service's EndpointSlices.
    pub fn addresses_of(&self, service: &ServiceName) -> BTreeSet<IpAddr> {
        self.linked(&Link::SliceOf(service.clone())).flat_map(|slice| slice.endpoints()).collect()
    }

    /// The pods at the addresses of a Service's EndpointSlices, whatever their namespace.
    pub fn pods_of(&self, service: &ServiceName) -> BTreeMap<ObjectName, Arc<Entry>> {
        let links = self.addresses_of(service).into_iter().map(Link::PodAddress);
        let pods = links.flat_map(|link| self.linked(&link));
        pods.map(|entry| (entry.key.name.clone(), Arc::clone(entry))).collect()
    }

    /// A Namespace; one that no manifest describes has no labels.
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        let entry = self.get(Kind::Namespace, &ObjectName::new("", name))?;
        let Typed::Namespace(namespace) = &entry.object.typed else { return None };
        Some(namespace)
    }

    /// The routes whose status at their source is not what it should be.
    pub fn unwritten(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.unwritten.iter().filter_map(|key| self.get(key.kind, &key.name))
    }

    /// Every object of a kind.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.get(&kind).into_iter().flat_map(BTreeMap::values)
    }

    /// How many objects there are of each kind.
    pub fn counts(&self) -> impl Iterator<Item = (Kind, usize)> {
        Kind::all().map(|kind| (kind, self.entries.get(&kind).map_or(0, BTreeMap::len)))
    }
}

impl View for State {
    fn service(&self, name: &ServiceName) -> Option<&Service> {
        let Typed::Service(service) = &self.get(Kind::Service, name)?.object.typed else { return None };
        Some(service)
    }

    fn routes_bound_to<'a>(&'a self, service: &ServiceName) -> Box<dyn Iterator<Item = &'a Route> + 'a> {
        Box::new(self.linked(&Link::Parent(service.clone())).filter_map(|entry| {
            let Typed::Route(route) = &entry.object.typed else { return None };
            Some(&**route)
        }))
    }
}

#[cfg(test)]
pub mod tests;
