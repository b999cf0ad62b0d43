//! Whose an address is. Everybody may write any address into a Service's `externalIPs`, so these come last, and
//! never count where the cluster itself gives the addresses out: nobody draws another's traffic to himself.

use std::net::IpAddr;
use std::sync::Arc;

use super::{Entry, Link, State};

impl State {
    /// The Service that clients who dial `ip` mean: the one whose own cluster address it is; if it is no pod's
    /// either, the one that has it as an external or load-balancer address. Of several, the oldest.
    pub fn service_at(&self, ip: IpAddr) -> Option<&Arc<Entry>> {
        let ip = ip.to_canonical();
        if let Some(own) = self.oldest(&Link::ClusterAddress(ip)) {
            return Some(own);
        }
        // What listens at a node's own address answers more than Services: kubelets, agents, the API server.
        let owned = [Link::PodAddress(ip), Link::NodeAddress(ip)];
        if self.is_given_out(ip) || owned.iter().any(|link| self.linked(link).next().is_some()) {
            return None;
        }
        self.oldest(&Link::ExternalAddress(ip))
    }

    /// Everything that decides on whose `ip` is.
    pub fn links_at(ip: IpAddr) -> [Link; 4] {
        let ip = ip.to_canonical();
        [Link::ClusterAddress(ip), Link::PodAddress(ip), Link::NodeAddress(ip), Link::ExternalAddress(ip)]
    }

    fn oldest(&self, link: &Link) -> Option<&Arc<Entry>> {
        self.linked(link).min_by_key(|entry| (entry.created(), &entry.key.name))
    }

    /// Whether only the cluster, or the kernel, says whose an address is.
    fn is_given_out(&self, ip: IpAddr) -> bool {
        let link_local = match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let special = ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local;
        special || self.cluster.iter().any(|range| range.contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use crate::index::Index;
    use crate::index::tests::{index, pod, put, remove, service};

    /// A Service with an external and a load-balancer address, both `ip`, made in `year`.
    fn external(name: &str, ip: &str, year: u16) -> String {
        format!(
            "apiVersion: v1\nkind: Service\n\
             metadata: {{name: {name}, namespace: shop, creationTimestamp: '{year}-01-01T00:00:00Z'}}\n\
             spec: {{externalIPs: ['{ip}'], ports: [{{port: 80}}]}}\n\
             status: {{loadBalancer: {{ingress: [{{ip: '{ip}'}}]}}}}\n---\n"
        )
    }

    #[track_caller]
    fn check(index: &Index, ip: &str, expected: Option<&str>) {
        let state = index.read();
        let found = state.service_at(ip.parse().unwrap());
        assert_eq!(found.map(|entry| &*entry.key.name.name), expected, "{ip}");
    }

    #[test]
    fn a_services_own_address_outranks_an_external_one() {
        let index = index(100, &(external("thief", "10.200.0.5", 2000) + &service("web", "10.200.0.5")));
        check(&index, "10.200.0.5", Some("web"));
        remove(&index, &service("web", "10.200.0.5"));
        check(&index, "10.200.0.5", Some("thief"));
    }

    #[test]
    fn a_pods_address_is_no_services() {
        let index = index(100, &external("thief", "192.0.2.7", 2000));
        check(&index, "192.0.2.7", Some("thief"));
        put(&index, &pod("web-0", "192.0.2.7"));
        check(&index, "192.0.2.7", None);
    }

    #[test]
    fn a_nodes_address_is_no_services() {
        let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n\
                    status: {addresses: [{type: Hostname, address: n}, {type: InternalIP, address: 192.0.2.7}]}\n---\n";
        let index = index(100, &external("thief", "192.0.2.7", 2000));
        put(&index, node);
        check(&index, "192.0.2.7", None);
    }

    #[test]
    fn external_addresses_of_the_clusters_ranges_do_not_count() {
        for ip in ["10.96.0.77", "10.1.0.9", "fd00::9"] {
            check(&index(100, &external("thief", ip, 2000)), ip, None);
        }
        check(&index(100, &external("thief", "::ffff:10.1.0.9", 2000)), "10.1.0.9", None);
    }

    #[test]
    fn external_addresses_that_no_network_routes_do_not_count() {
        for ip in ["127.0.0.1", "::1", "169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"]
        {
            check(&index(100, &external("thief", ip, 2000)), ip, None);
        }
    }

    #[test]
    fn of_several_with_an_external_address_the_oldest_has_it() {
        let all = external("a-late", "192.0.2.7", 2020) + &external("early", "192.0.2.7", 2010);
        let index = index(100, &all);
        check(&index, "192.0.2.7", Some("early"));
        remove(&index, &external("early", "192.0.2.7", 2010));
        check(&index, "192.0.2.7", Some("a-late"));
    }
}
