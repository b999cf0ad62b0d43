//! The endpoints that are dialled, their balancing, and the connections that are kept to them.
//!
//! An endpoint is one address under one expected identity. It exists once, whoever routes to it, so that its
//! connections and its count of running requests are shared; when the identity changes it is another endpoint.

mod again;
mod connect;
mod h1_pool;
mod h2_pool;
mod send;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use arc_swap::ArcSwap;
use mesh::{
    balance::power_of_two,
    contract::{HEALTH_PORT, METRICS_PORT},
    identity::Identity,
    pod::PodFacts,
    route::BackendKey,
};
use serde_json::{Value, json};

pub use again::SendError;
pub use connect::Upstream;

use crate::{config::Config, identity::CurrentCredentials};

/// How an endpoint is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Mesh TLS; the peer must be exactly this.
    Mesh(Identity),
    /// As it is: the endpoint has no proxy, or this port is not the proxy's.
    Plain,
    /// Meshed, but under a name that is no identity: never dialled.
    Unnameable,
}

/// One address under one expected identity.
pub struct Endpoint {
    /// Where it is.
    pub addr: SocketAddr,
    /// How it is spoken to.
    pub transport: Transport,
    /// Its pod declares that the bytes of this port are not to be looked into.
    pub opaque: bool,
    load: AtomicU32,
    credentials: CurrentCredentials,
    h1: h1_pool::Pool,
    h2: h2_pool::Pool,
}

impl Endpoint {
    /// Counts one more request or connection until the guard goes.
    pub fn carry(self: &Arc<Self>) -> Load {
        self.load.fetch_add(1, Ordering::Relaxed);
        Load(Arc::clone(self))
    }

    /// Requests and connections that run now.
    pub fn load(&self) -> u32 {
        self.load.load(Ordering::Relaxed)
    }

    /// The expected identity, if the endpoint is meshed.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.transport {
            Transport::Mesh(identity) => Some(identity),
            Transport::Plain | Transport::Unnameable => None,
        }
    }

    fn to_json(&self) -> Value {
        json!({ "address": self.addr, "identity": self.identity().map(Identity::as_str), "state": "ready", "load": self.load() })
    }
}

/// A request or connection that an endpoint carries.
pub struct Load(Arc<Endpoint>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One port of one Service as a backend.
pub struct Backend {
    /// Its name.
    pub key: BackendKey,
    endpoints: ArcSwap<Endpoints>,
}

/// A backend's endpoints by address family: a client that dialled IPv4 is served over IPv4, because its server may listen
/// on nothing else (and the other way about).
#[derive(Default)]
struct Endpoints {
    v4: Vec<Arc<Endpoint>>,
    v6: Vec<Arc<Endpoint>>,
}

impl Backend {
    /// A backend without endpoints.
    pub fn new(key: BackendKey) -> Self {
        Self { key, endpoints: ArcSwap::default() }
    }

    /// Its endpoints from now on.
    pub fn set_endpoints(&self, endpoints: Vec<Arc<Endpoint>>) {
        let (v4, v6) = endpoints.into_iter().partition(|endpoint| endpoint.addr.is_ipv4());
        self.endpoints.store(Arc::new(Endpoints { v4, v6 }));
    }

    /// The less loaded of two endpoints drawn at random, leaving out those that were tried already. They are of the
    /// family that the client dialled, if there are any.
    pub fn pick(&self, dialled: IpAddr, tried: &[SocketAddr]) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        let (first, then) =
            if dialled.is_ipv4() { (&endpoints.v4, &endpoints.v6) } else { (&endpoints.v6, &endpoints.v4) };
        let family = if first.is_empty() { then } else { first };
        if tried.is_empty() {
            return pick(family);
        }
        let left: Vec<_> = family.iter().filter(|e| !tried.contains(&e.addr)).cloned().collect();
        pick(&left)
    }

    /// The endpoint at an address, if it is a meshed one.
    pub fn meshed_endpoint(&self, addr: SocketAddr) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        endpoints.all().find(|endpoint| endpoint.addr == addr && endpoint.identity().is_some()).cloned()
    }

    /// Whether the pods behind it declare the port opaque.
    pub fn is_opaque(&self) -> bool {
        self.endpoints.load().all().any(|endpoint| endpoint.opaque)
    }

    /// Its endpoints, for the admin port.
    pub fn to_json(&self) -> Value {
        self.endpoints.load().all().map(|endpoint| endpoint.to_json()).collect()
    }
}

impl Endpoints {
    fn all(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.v4.iter().chain(&self.v6)
    }
}

fn pick(endpoints: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
    let load = |i: usize| endpoints.get(i).map_or(u32::MAX, |endpoint| endpoint.load());
    let chosen = power_of_two(endpoints.len(), load, fastrand::u64(..))?;
    endpoints.get(chosen).cloned()
}

/// Every endpoint that somebody holds.
pub struct Registry {
    config: Arc<Config>,
    credentials: CurrentCredentials,
    endpoints: Mutex<HashMap<(SocketAddr, Transport, bool), Weak<Endpoint>>>,
}

impl Registry {
    /// An empty registry.
    pub fn new(config: Arc<Config>, credentials: CurrentCredentials) -> Self {
        Self { config, credentials, endpoints: Mutex::default() }
    }

    /// The endpoint at an address, of the pod that discovery knows there (if any).
    pub fn endpoint(&self, addr: SocketAddr, pod: Option<&PodFacts>) -> Arc<Endpoint> {
        let opaque = pod.is_some_and(|pod| pod.opaque_ports.contains(addr.port()));
        self.get(addr, self.transport(addr, pod), opaque)
    }

    fn get(&self, addr: SocketAddr, transport: Transport, opaque: bool) -> Arc<Endpoint> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = endpoints.entry((addr, transport.clone(), opaque)).or_default();
        slot.upgrade().unwrap_or_else(|| {
            let endpoint = Arc::new(Endpoint {
                addr,
                transport,
                opaque,
                load: AtomicU32::new(0),
                credentials: self.credentials.clone(),
                h1: h1_pool::Pool::default(),
                h2: h2_pool::Pool::default(),
            });
            *slot = Arc::downgrade(&endpoint);
            endpoint
        })
    }

    /// An address that must not be dialled, because nobody can say who should answer there.
    pub fn nobody(&self, addr: SocketAddr) -> Arc<Endpoint> {
        self.get(addr, Transport::Unnameable, false)
    }

    /// The application of this very pod, spoken to without the proxy's own detour.
    pub fn local(&self, addr: SocketAddr) -> Arc<Endpoint> {
        self.endpoint(addr, None)
    }

    /// Forgets endpoints that nobody holds, and connections that nobody used for long.
    pub fn sweep(&self) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|_, endpoint| {
            let Some(endpoint) = endpoint.upgrade() else { return false };
            endpoint.h1.sweep();
            endpoint.h2.sweep();
            true
        });
    }

    /// Mesh TLS for every meshed pod but this one (its inbound capture sees nothing that stays inside the pod), and
    /// for every port but those that the peer's proxy serves or skips.
    fn transport(&self, addr: SocketAddr, pod: Option<&PodFacts>) -> Transport {
        let Some(pod) = pod.filter(|pod| pod.meshed) else { return Transport::Plain };
        let beside_mesh = [METRICS_PORT, HEALTH_PORT].contains(&addr.port());
        if beside_mesh || pod.skip_inbound_ports.contains(addr.port()) || self.is_here(addr.ip()) {
            return Transport::Plain;
        }
        pod.identity(&self.config.trust_domain).map_or(Transport::Unnameable, Transport::Mesh)
    }

    fn is_here(&self, ip: IpAddr) -> bool {
        self.config.is_own_ip(ip)
    }
}
