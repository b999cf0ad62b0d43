//! By what else than their names objects are found.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::mem::{Discriminant, discriminant};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use mesh::names::{ObjectName, ServiceName};
use mesh::pod::PodFacts;

use crate::object::{Key, Object, Typed};

/// The label by which an EndpointSlice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A property by which objects are found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Link {
    /// A Service by one of its own cluster addresses.
    ClusterAddress(IpAddr),
    /// A Service by one of its external or load-balancer addresses, which anybody may write.
    ExternalAddress(IpAddr),
    /// A pod by any of its addresses; pods that finished or use the node's network are not found.
    PodAddress(IpAddr),
    /// A Node by any of its addresses.
    NodeAddress(IpAddr),
    /// A pod by its node.
    OnNode(String),
    /// An EndpointSlice by its Service.
    SliceOf(ServiceName),
    /// An EndpointSlice of a Service by any of its endpoints' addresses.
    Endpoint(IpAddr),
    /// A route by a Service that it is bound to.
    Parent(ServiceName),
    /// A route by a Service that one of its rules names.
    Backend(ServiceName),
}

/// The objects that each link finds, in the order of their keys.
#[derive(Debug, Default)]
pub struct Links {
    /// By the links that are addresses: nearly all of them. Among the others each would take the room of a name, and a table
    /// doubles when it is full.
    by_address: HashMap<(Discriminant<Link>, IpAddr), Found>,
    by_name: HashMap<Link, Found>,
}

/// Nearly all find one, which needs no list.
#[derive(Debug)]
enum Found {
    One(Key),
    Many(Vec<Key>),
}

impl Link {
    /// The address that it is, and whose.
    fn address(&self) -> Option<(Discriminant<Self>, IpAddr)> {
        let (Self::ClusterAddress(ip)
        | Self::ExternalAddress(ip)
        | Self::PodAddress(ip)
        | Self::NodeAddress(ip)
        | Self::Endpoint(ip)) = self
        else {
            return None;
        };
        Some((discriminant(self), *ip))
    }
}

impl Links {
    /// The objects that `link` finds.
    pub fn of(&self, link: &Link) -> &[Key] {
        let found = match link.address() {
            Some(address) => self.by_address.get(&address),
            None => self.by_name.get(link),
        };
        found.map_or(&[], Found::keys)
    }

    /// From now on `link` finds the object `key`.
    pub fn add(&mut self, link: &Link, key: &Key) {
        match link.address() {
            Some(address) => add(&mut self.by_address, address, key),
            None => add(&mut self.by_name, link.clone(), key),
        }
    }

    /// From now on `link` does not find the object `key`.
    pub fn remove(&mut self, link: &Link, key: &Key) {
        match link.address() {
            Some(address) => remove(&mut self.by_address, &address, key),
            None => remove(&mut self.by_name, link, key),
        }
    }
}

fn add<L: Eq + Hash>(all: &mut HashMap<L, Found>, link: L, key: &Key) {
    match all.entry(link) {
        Entry::Vacant(free) => drop(free.insert(Found::One(key.clone()))),
        Entry::Occupied(found) => found.into_mut().add(key),
    }
}

fn remove<L: Eq + Hash>(all: &mut HashMap<L, Found>, link: &L, key: &Key) {
    if all.get_mut(link).is_some_and(|found| found.remove(key)) {
        all.remove(link);
    }
}

impl Found {
    fn keys(&self) -> &[Key] {
        match self {
            Self::One(key) => std::slice::from_ref(key),
            Self::Many(keys) => keys,
        }
    }

    fn add(&mut self, key: &Key) {
        let Err(place) = self.keys().binary_search(key) else { return };
        match self {
            Self::One(one) => {
                let mut keys = vec![one.clone()];
                keys.insert(place, key.clone());
                *self = Self::Many(keys);
            }
            Self::Many(keys) => keys.insert(place, key.clone()),
        }
    }

    /// Whether nothing is left.
    fn remove(&mut self, key: &Key) -> bool {
        match self {
            Self::One(one) => *one == *key,
            Self::Many(keys) => {
                if let Ok(place) = keys.binary_search(key) {
                    keys.remove(place);
                }
                keys.is_empty()
            }
        }
    }
}

/// Everything by which an object is found, besides its name. `pod` is what the mesh knows of it, if it is a Pod.
pub fn links(object: &Object, pod: Option<&PodFacts>) -> Vec<Link> {
    match &object.typed {
        Typed::Service(service) => {
            let own = parsed(cluster_addresses(service)).map(Link::ClusterAddress);
            own.chain(parsed(external_addresses(service)).map(Link::ExternalAddress)).collect()
        }
        Typed::Pod => pod.map(pod_links).unwrap_or_default(),
        Typed::EndpointSlice => slice_links(&object.text.read()),
        Typed::Route(route) => {
            let parents = route.parent_services().map(Link::Parent);
            parents.chain(route.backends().map(Link::Backend)).collect()
        }
        Typed::Node(node) => parsed(node_addresses(node)).map(Link::NodeAddress).collect(),
        Typed::Namespace(_) | Typed::ServiceCidr(_) | Typed::Plain => Vec::new(),
    }
}

fn slice_links(slice: &EndpointSlice) -> Vec<Link> {
    let Some(service) = service_of(slice) else { return Vec::new() };
    let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses).collect();
    std::iter::once(Link::SliceOf(service)).chain(parsed(addresses).map(Link::Endpoint)).collect()
}

/// The Service that a slice belongs to.
fn service_of(slice: &EndpointSlice) -> Option<ServiceName> {
    let namespace = slice.metadata.namespace.as_deref()?;
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ObjectName::new(namespace, service))
}

fn pod_links(pod: &PodFacts) -> Vec<Link> {
    let node = pod.node.clone().map(Link::OnNode);
    let reachable = !pod.host_network && !pod.finished;
    let addresses = pod.ips.iter().filter(|_| reachable).map(|ip| Link::PodAddress(ip.to_canonical()));
    addresses.chain(node).collect()
}

/// What of a Node's addresses are no names.
fn node_addresses(node: &Node) -> Vec<&String> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.map(|address| &address.address).collect()
}

/// The addresses that the cluster gave to `service`; "None" (headless) is none.
fn cluster_addresses(service: &Service) -> Vec<&String> {
    let spec = service.spec.as_ref();
    let all = spec.map(|spec| spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()));
    all.into_iter().flatten().collect()
}

/// The addresses that its author, or a load balancer's controller, wrote down for it.
fn external_addresses(service: &Service) -> Vec<&String> {
    let written = service.spec.iter().flat_map(|spec| spec.external_ips.iter().flatten());
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    written.chain(ingress.filter_map(|ingress| ingress.ip.as_ref())).collect()
}

/// An IPv4 address in IPv6's clothes (`::ffff:10.1.0.3`) is that IPv4 address.
fn parsed(texts: Vec<&String>) -> impl Iterator<Item = IpAddr> {
    texts.into_iter().filter_map(|text| text.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    #[track_caller]
    fn check_found(links: &Links, link: &Link, expected: &[&str]) {
        let found = links.of(link).iter().map(|key| &*key.name.name);
        assert_eq!(found.collect::<Vec<_>>(), expected, "{link:?}");
    }

    fn key(name: &str) -> Key {
        Key::new(Kind::Pod, "shop", name)
    }

    #[test]
    fn a_link_finds_each_object_once_in_the_order_of_names_until_it_is_removed() {
        let mut links = Links::default();
        for link in [Link::OnNode("a".to_owned()), Link::PodAddress(IpAddr::from([10, 1, 0, 3]))] {
            for name in ["b", "c", "a", "b"] {
                links.add(&link, &key(name));
            }
            check_found(&links, &link, &["a", "b", "c"]);
            for name in ["b", "b", "x"] {
                links.remove(&link, &key(name));
            }
            check_found(&links, &link, &["a", "c"]);
            for name in ["a", "c"] {
                links.remove(&link, &key(name));
            }
            assert!(links.by_name.is_empty() && links.by_address.is_empty());
        }
    }

    #[test]
    fn whose_an_address_is_tells_links_apart() {
        let (mut links, ip) = (Links::default(), IpAddr::from([10, 1, 0, 3]));
        links.add(&Link::PodAddress(ip), &key("a"));
        links.add(&Link::Endpoint(ip), &key("b"));
        check_found(&links, &Link::PodAddress(ip), &["a"]);
        check_found(&links, &Link::Endpoint(ip), &["b"]);
        check_found(&links, &Link::NodeAddress(ip), &[]);
    }
}
