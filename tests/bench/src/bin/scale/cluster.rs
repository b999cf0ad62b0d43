//! The generated cluster, as arithmetic: which Services, pods and routes there are, and what each sidecar follows. Pure.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use mesh::names::ServiceName;

use crate::watch::WatchKey;

/// Services in one namespace.
const OF_NAMESPACE: usize = 100;
/// Every so many-th Service has a route, which splits its traffic with the next Service.
const ROUTED: usize = 20;
/// Pods on one node.
const ON_NODE: usize = 100;
/// One namespace, so that every sidecar finds Services to use.
pub const FEWEST_SERVICES: usize = OF_NAMESPACE;
/// The Service that every sidecar uses, as everybody does the one that signs users in: what changes here must reach all.
pub const COMMON: usize = 0;
/// The ranges of Service and pod addresses.
pub const RANGES: [&str; 2] = ["10.96.0.0/12", "10.128.0.0/9"];

/// How large it is.
#[derive(Debug, Clone, Copy)]
pub struct Cluster {
    /// Services.
    pub services: usize,
    /// Endpoints of each.
    pub endpoints_each: usize,
    /// Sidecars that follow the control plane, each in another pod.
    pub sidecars: usize,
}

/// A pod: the Service that it is an endpoint of, and which of its endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    /// The Service.
    pub service: usize,
    /// Counts the Service's pods. One past the last is the pod that takes the last one's place and gives it back.
    pub endpoint: usize,
}

impl Cluster {
    /// How many namespaces there are.
    pub fn namespaces(&self) -> usize {
        self.services.div_ceil(OF_NAMESPACE)
    }

    /// The Services of a namespace.
    pub fn services_of(&self, namespace: usize) -> std::ops::Range<usize> {
        let first = namespace * OF_NAMESPACE;
        first..(first + OF_NAMESPACE).min(self.services)
    }

    /// How many nodes its pods need.
    pub fn nodes(&self) -> usize {
        (self.services * (self.endpoints_each + 1)).div_ceil(ON_NODE)
    }

    /// The Services that have a route.
    pub fn routed(&self) -> impl Iterator<Item = usize> {
        (0..self.services).step_by(ROUTED)
    }

    /// The Services that get a Service's traffic.
    pub fn backends(&self, service: usize) -> BTreeSet<usize> {
        let second = (service.is_multiple_of(ROUTED) && service + 1 < self.services).then_some(service + 1);
        BTreeSet::from([service]).into_iter().chain(second).collect()
    }

    /// The pod of a sidecar; they are spread over the whole cluster.
    pub fn pod_of(&self, sidecar: usize) -> Pod {
        let place = sidecar * self.services * self.endpoints_each / self.sidecars;
        Pod { service: place / self.endpoints_each, endpoint: place % self.endpoints_each }
    }

    /// The five Services that a sidecar's application calls: the common one, three of its own team, one of another's.
    pub fn used_by(&self, sidecar: usize) -> BTreeSet<usize> {
        let own = self.pod_of(sidecar).service / OF_NAMESPACE;
        let some_of = |namespace: usize, number: usize| {
            let services = self.services_of(namespace);
            services.start + number % services.len()
        };
        let of_team = (1..=3).map(|number| some_of(own, 37 * sidecar + 11 * number));
        let others = some_of((own + 1) % self.namespaces(), 13 * sidecar + 7);
        [COMMON, others].into_iter().chain(of_team).collect()
    }

    /// What a sidecar watches, just as heddle-proxy does: each Service that it uses, and each that one of its routes names,
    /// with endpoints and pods; the routes of the Services' namespaces and of its own; its pod.
    pub fn watched_by(&self, sidecar: usize) -> BTreeSet<WatchKey> {
        let used = self.used_by(sidecar);
        let own = namespace(self.pod_of(sidecar).service);
        let namespaces: BTreeSet<String> =
            used.iter().map(|service| namespace(*service)).chain([own]).collect();
        let routes = namespaces.iter().flat_map(|namespace| WatchKey::routes(namespace));
        let backends: BTreeSet<usize> = used.iter().flat_map(|service| self.backends(*service)).collect();
        let services = backends.into_iter().flat_map(|service| WatchKey::of_service(&name(service)));
        let pod = self.pod_of(sidecar);
        let own = WatchKey::own_pod(&namespace(pod.service), &pod.name());
        routes.chain(services).chain([own]).collect()
    }
}

impl Pod {
    /// Its name.
    pub fn name(self) -> String {
        format!("svc-{}-{}", self.service, self.endpoint)
    }

    /// Its UID.
    pub fn uid(self) -> String {
        format!("{:08x}-0000-4000-8000-{:012x}", self.service, self.endpoint)
    }

    /// Counts the cluster's pods.
    fn number(self, cluster: &Cluster) -> usize {
        self.service * (cluster.endpoints_each + 1) + self.endpoint
    }

    /// Its address.
    pub fn ip(self, cluster: &Cluster) -> Ipv4Addr {
        address(Ipv4Addr::new(10, 128, 1, 0), self.number(cluster))
    }

    /// Its node.
    pub fn node(self, cluster: &Cluster) -> usize {
        self.number(cluster) % cluster.nodes()
    }
}

/// The namespace of a Service.
pub fn namespace(service: usize) -> String {
    namespace_name(service / OF_NAMESPACE)
}

/// The name of a namespace.
pub fn namespace_name(number: usize) -> String {
    format!("team-{number}")
}

/// The name of a Service. Its service account is called the same.
pub fn name(service: usize) -> ServiceName {
    ServiceName::new(&namespace(service), &format!("svc-{service}"))
}

/// The cluster address of a Service.
pub fn cluster_ip(service: usize) -> Ipv4Addr {
    address(Ipv4Addr::new(10, 96, 1, 0), service)
}

/// The address of a node, outside of the ranges of Services and pods.
pub fn node_ip(node: usize) -> Ipv4Addr {
    address(Ipv4Addr::new(10, 0, 1, 0), node)
}

/// The address of loopback that a sidecar calls from: the control plane counts callers by address until they have proved who
/// they are, and this one is nobody's pod.
pub fn caller(sidecar: usize) -> Ipv4Addr {
    address(Ipv4Addr::new(127, 1, 0, 1), sidecar)
}

/// The address that is so many after `first`.
pub fn address(first: Ipv4Addr, number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first).saturating_add(u32::try_from(number).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Cluster = Cluster { services: 10_000, endpoints_each: 5, sidecars: 1_000 };

    #[test]
    fn every_sidecar_is_another_pod_and_uses_five_services() {
        let pods: BTreeSet<Pod> = (0..FULL.sidecars).map(|sidecar| FULL.pod_of(sidecar)).collect();
        assert_eq!(pods.len(), FULL.sidecars);
        let used = (0..FULL.sidecars).map(|sidecar| FULL.used_by(sidecar));
        assert!(used.clone().all(|used| used.contains(&COMMON)));
        assert!(used.map(|used| used.len()).filter(|used| *used == 5).count() > 990);
    }

    #[test]
    fn a_sidecar_watches_what_a_proxy_of_its_pod_would() {
        let watched = FULL.watched_by(500);
        // Own, common and other namespace, four kinds of route each; five Services and the common one's second backend; the pod.
        assert_eq!(watched.len(), 3 * 4 + (5 + 1) * 3 + 1);
        assert!(WatchKey::of_service(&name(COMMON)).iter().all(|key| watched.contains(key)));
    }

    #[test]
    fn addresses_are_in_their_ranges_and_differ() {
        let last = Pod { service: 9_999, endpoint: 5 };
        assert_eq!(cluster_ip(9_999), Ipv4Addr::new(10, 96, 40, 15));
        assert_eq!(last.ip(&FULL), Ipv4Addr::new(10, 128, 235, 95));
        assert_eq!(node_ip(FULL.nodes()), Ipv4Addr::new(10, 0, 3, 88));
        assert_ne!(Pod { service: 0, endpoint: 5 }.ip(&FULL), Pod { service: 1, endpoint: 0 }.ip(&FULL));
    }
}
