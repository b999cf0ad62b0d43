//! Every endpoint, once.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
};

use mesh::{
    contract::{HEALTH_PORT, METRICS_PORT},
    pod::PodFacts,
};

use super::{
    endpoint::{Endpoint, Transport},
    h1_pool, h2_pool, tunnel_pool,
};
use crate::{config::Config, identity::CurrentCredentials, metrics::Metrics};

/// Every endpoint that somebody holds.
pub struct Registry {
    config: Arc<Config>,
    credentials: CurrentCredentials,
    metrics: Arc<Metrics>,
    endpoints: Mutex<HashMap<(SocketAddr, Transport, bool), Weak<Endpoint>>>,
}

impl Registry {
    /// An empty registry.
    pub fn new(config: Arc<Config>, credentials: CurrentCredentials, metrics: Arc<Metrics>) -> Self {
        Self { config, credentials, metrics, endpoints: Mutex::default() }
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
                here: self.is_here(addr.ip()),
                backend: OnceLock::new(),
                state: Mutex::default(),
                credentials: self.credentials.clone(),
                metrics: Arc::clone(&self.metrics),
                h1: h1_pool::Pool::default(),
                h2: h2_pool::Pool::default(),
                tunnels: tunnel_pool::Pool::default(),
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
            endpoint.tunnels.sweep();
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
