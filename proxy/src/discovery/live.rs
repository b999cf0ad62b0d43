//! Destinations as connections hold them: values that change under their holders, without a lock.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use mesh::{
    names::ServiceName,
    pod::PodFacts,
    route::{AppProtocol, ServiceTable},
};
use tokio::time::Instant;

use crate::upstream::{Backend, Endpoint, Registry};

/// A Service in use, with the routes that apply to this pod.
pub struct LiveService {
    table: ArcSwap<Table>,
    used: Used,
}

/// How a Service's traffic is routed, with the balancers of its backends at hand.
pub struct Table {
    /// The routes.
    pub routes: ServiceTable,
    /// One for each of `routes.backends`, in its order.
    pub backends: Vec<Arc<Backend>>,
    /// What the Service of each says is spoken there, in the same order.
    pub declared: Vec<Option<AppProtocol>>,
}

impl Table {
    /// The table of a Service that is gone: nothing goes anywhere.
    pub fn empty(service: &ServiceName) -> Self {
        let routes = ServiceTable { service: service.clone(), ports: BTreeMap::new(), backends: Vec::new() };
        Self { routes, backends: Vec::new(), declared: Vec::new() }
    }
}

impl LiveService {
    /// A Service with its first table.
    pub fn new(table: Table) -> Self {
        Self { table: ArcSwap::from_pointee(table), used: Used::default() }
    }

    /// The present table; cheap, for every request.
    pub fn table(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// Puts a new table in the place of the old, for the next request on.
    pub fn publish(&self, table: Table) {
        self.table.store(Arc::new(table));
    }

    pub(super) fn touch(&self) {
        self.used.touch();
    }

    pub(super) fn unused_for(&self) -> Duration {
        self.used.since()
    }
}

/// The most ports of one pod whose connections are kept between uses.
const PORTS_MAX: usize = 64;

/// A pod that is dialled by its own address.
pub struct LivePod {
    ip: IpAddr,
    facts: ArcSwapOption<PodFacts>,
    /// Held so that connections outlive the requests that they were made for.
    endpoints: Mutex<BTreeMap<u16, Arc<Endpoint>>>,
    used: Used,
}

impl LivePod {
    /// A pod at an address, as it is known now.
    pub fn new(ip: IpAddr, facts: Option<PodFacts>) -> Self {
        Self {
            ip,
            facts: ArcSwapOption::new(facts.map(Arc::new)),
            endpoints: Mutex::default(),
            used: Used::default(),
        }
    }

    /// What is known of the pod; nothing when it is gone.
    pub fn facts(&self) -> Option<Arc<PodFacts>> {
        self.facts.load_full()
    }

    /// One port of the pod, to be dialled.
    pub fn endpoint(&self, port: u16, registry: &Registry) -> Arc<Endpoint> {
        let addr = SocketAddr::new(self.ip, port);
        let endpoint = match self.facts() {
            Some(facts) => registry.endpoint(addr, Some(&facts)),
            // Gone between the question and its answer: whoever has the address next is not who was meant.
            None => registry.nobody(addr),
        };
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        if endpoints.len() < PORTS_MAX {
            endpoints.insert(port, Arc::clone(&endpoint));
        }
        endpoint
    }

    pub(super) fn publish(&self, facts: Option<PodFacts>) {
        self.facts.store(facts.map(Arc::new));
    }

    pub(super) fn touch(&self) {
        self.used.touch();
    }

    pub(super) fn unused_for(&self) -> Duration {
        self.used.since()
    }
}

/// When something was last used, in seconds since the program began.
struct Used(AtomicU64);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Default for Used {
    fn default() -> Self {
        Self(AtomicU64::new(START.elapsed().as_secs()))
    }
}

impl Used {
    fn touch(&self) {
        self.0.store(START.elapsed().as_secs(), Ordering::Relaxed);
    }

    fn since(&self) -> Duration {
        Duration::from_secs(START.elapsed().as_secs().saturating_sub(self.0.load(Ordering::Relaxed)))
    }
}
