//! The endpoints of a Service's port, from its EndpointSlices.
//!
//! Slices can be written by hand by whoever may write in a namespace, so addresses that only mean something to the
//! dialling pod or its node are never endpoints.

mod hints;

pub use hints::{has_hints, near};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// The label that ties a slice to its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Something that serves a Service's port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address and target port.
    pub addr: SocketAddr,
    /// It wants new connections.
    pub ready: bool,
    /// It can serve, perhaps while it terminates.
    pub serving: bool,
    /// It terminates.
    pub terminating: bool,
    /// Its slice says that it is a pod; whose, only the pod itself says.
    pub is_pod: bool,
    /// The zones whose clients should use it.
    pub for_zones: Vec<String>,
    /// The nodes whose clients should use it.
    pub for_nodes: Vec<String>,
}

impl Endpoint {
    fn can_serve(&self) -> bool {
        self.ready || self.serving
    }
}

/// The usable endpoints of a Service's port, ordered by address, each once: those that are ready; if there are none, those
/// that still serve while they terminate (as kube-proxy does, KEP-1669).
pub fn endpoints<'a>(
    service: &Service,
    service_port: u16,
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> Vec<Endpoint> {
    let Some(name) = port_name(service, service_port) else { return Vec::new() };
    let mut all: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
    for slice in slices.filter(|slice| belongs(slice, service)) {
        for endpoint in of_slice(slice, name) {
            keep_better(&mut all, endpoint);
        }
    }
    let ready = |endpoint: &Endpoint| endpoint.ready && !endpoint.terminating;
    let lingering = |endpoint: &Endpoint| endpoint.can_serve() && endpoint.terminating;
    let any_ready = all.values().any(ready);
    all.into_values()
        .filter(|endpoint| if any_ready { ready(endpoint) } else { lingering(endpoint) })
        .collect()
}

/// The name of a Service's TCP port: slices name their ports by it, as their numbers are target ports.
fn port_name(service: &Service, number: u16) -> Option<&str> {
    let mut ports = service.spec.as_ref()?.ports.as_ref()?.iter();
    let wanted = |port: &&ServicePort| port.port == i32::from(number) && is_tcp(port.protocol.as_deref());
    ports.find(wanted).map(|port| port.name.as_deref().unwrap_or_default())
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

fn belongs(slice: &EndpointSlice, service: &Service) -> bool {
    let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL));
    slice.metadata.namespace == service.metadata.namespace
        && label.is_none_or(|label| Some(label) == service.metadata.name.as_ref())
}

fn of_slice<'a>(slice: &'a EndpointSlice, name: &'a str) -> impl Iterator<Item = Endpoint> + 'a {
    let ports = slice.ports.iter().flatten();
    let named = ports.filter(move |port| port.name.as_deref().unwrap_or_default() == name);
    let tcp = named.filter(|port| is_tcp(port.protocol.as_deref())).filter_map(|port| port.port);
    let numbers = tcp.filter_map(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    numbers.flat_map(|number| slice.endpoints.iter().flat_map(move |endpoint| addresses(endpoint, number)))
}

fn addresses(endpoint: &SliceEndpoint, port: u16) -> impl Iterator<Item = Endpoint> {
    let ips = endpoint.addresses.iter().filter_map(|text| text.parse::<IpAddr>().ok());
    let ips = ips.map(|ip| ip.to_canonical()).filter(is_dialable);
    ips.map(move |ip| read(endpoint, SocketAddr::new(ip, port)))
}

/// Unknown conditions count as the best ("a nil value should be interpreted as true", EndpointConditions).
fn read(endpoint: &SliceEndpoint, addr: SocketAddr) -> Endpoint {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let hints = endpoint.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_ref()).into_iter().flatten();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_ref()).into_iter().flatten();
    Endpoint {
        addr,
        ready,
        serving: conditions.and_then(|conditions| conditions.serving).unwrap_or(ready),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or(false),
        is_pod: endpoint.target_ref.as_ref().is_some_and(|target| target.kind.as_deref() == Some("Pod")),
        for_zones: zones.map(|zone| zone.name.clone()).collect(),
        for_nodes: nodes.map(|node| node.name.clone()).collect(),
    }
}

/// An address that is the same host for everyone.
fn is_dialable(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast() || ip.octets().first() == Some(&0),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

/// While an endpoint moves from one slice to another it is in both ("clients must \[...\] deduplicate").
fn keep_better(all: &mut BTreeMap<SocketAddr, Endpoint>, new: Endpoint) {
    let rank = |endpoint: &Endpoint| (endpoint.ready && !endpoint.terminating, endpoint.can_serve());
    match all.get(&new.addr) {
        Some(old) if (rank(old), &new) >= (rank(&new), old) => {}
        Some(_) | None => {
            all.insert(new.addr, new);
        }
    }
}

#[cfg(test)]
mod tests;
