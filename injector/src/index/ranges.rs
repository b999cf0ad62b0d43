//! The ranges of the cluster's own addresses, as its objects tell them: ServiceCIDRs, and the pod ranges of Nodes.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;

use super::State;
use crate::object::{Key, Kind, Typed};

/// More than these do not fit well into a pod's environment: a thousand nodes have a thousand ranges.
const MOST: usize = 32;

impl State {
    /// The ranges of Service and pod addresses.
    pub fn cluster(&self) -> &[IpNet] {
        &self.cluster
    }

    /// Learns the ranges anew if an object that tells them changed, unless an operator gave them. It is called before the
    /// changes are published: the next version is theirs.
    pub(super) fn measure(&mut self, touched: &BTreeSet<Key>) {
        let tells = |key: &Key| matches!(key.kind, Kind::Node | Kind::ServiceCidr);
        if self.given || !touched.iter().any(tells) {
            return;
        }
        let of = |kind| -> Vec<IpNet> {
            let texts = self.all(kind).flat_map(|entry| ranges(&entry.object.typed));
            texts.filter_map(|text| text.parse().ok()).collect()
        };
        let cluster = IpNet::aggregate(&[of(Kind::ServiceCidr), fewer(&of(Kind::Node))].concat());
        if cluster != self.cluster {
            self.cluster = cluster;
            self.measured = self.version + 1;
        }
    }

    /// The version from which on the ranges are what they are.
    pub fn measured(&self) -> u64 {
        self.measured
    }
}

fn ranges(typed: &Typed) -> Vec<&str> {
    match typed {
        Typed::Node(node) => of_node(node),
        Typed::ServiceCidr(range) => of_services(range),
        Typed::Namespace(_)
        | Typed::Service(_)
        | Typed::Pod
        | Typed::EndpointSlice
        | Typed::Route(_)
        | Typed::Plain => Vec::new(),
    }
}

/// `podCIDRs` holds `podCIDR`, too, in every cluster since 1.16.
fn of_node(node: &Node) -> Vec<&str> {
    let texts = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten());
    texts.map(String::as_str).collect()
}

fn of_services(range: &ServiceCIDR) -> Vec<&str> {
    let texts = range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    texts.map(String::as_str).collect()
}

/// The same ranges in as few networks as hold them exactly; if those are too many, one for each family.
fn fewer(ranges: &[IpNet]) -> Vec<IpNet> {
    let exact = IpNet::aggregate(&ranges.to_vec());
    if exact.len() <= MOST {
        return exact;
    }
    let (v4, v6): (Vec<_>, Vec<_>) = exact.into_iter().partition(|net| net.addr().is_ipv4());
    [covering(v4), covering(v6)].into_iter().flatten().collect()
}

/// The smallest network that holds all of `nets`, which are of one family.
fn covering(nets: Vec<IpNet>) -> Option<IpNet> {
    nets.into_iter().reduce(|a, b| match (a, b) {
        (IpNet::V4(a), IpNet::V4(b)) => {
            let common = (u32::from(a.addr()) ^ u32::from(b.addr())).leading_zeros();
            let length = common.min(a.prefix_len().into()).min(b.prefix_len().into());
            let length = u8::try_from(length).unwrap_or_default();
            IpNet::V4(Ipv4Net::new(a.addr(), length).unwrap_or_default().trunc())
        }
        (IpNet::V6(a), IpNet::V6(b)) => {
            let common = (u128::from(a.addr()) ^ u128::from(b.addr())).leading_zeros();
            let length = common.min(a.prefix_len().into()).min(b.prefix_len().into());
            let length = u8::try_from(length).unwrap_or_default();
            IpNet::V6(Ipv6Net::new(a.addr(), length).unwrap_or_default().trunc())
        }
        (a, _) => a,
    })
}

#[cfg(test)]
mod tests {
    use crate::index::Index;
    use crate::index::tests::{put, remove};

    fn node(name: &str, ranges: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDRs: [{ranges}]}}\n---\n"
        )
    }

    const SERVICES: &str = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\n\
         spec: {cidrs: [10.96.0.0/16, 'fd00:96::/112']}\n---\n";

    #[track_caller]
    fn check(index: &Index, expected: &[&str]) {
        let found: Vec<String> = index.read().cluster().iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn nodes_and_service_ranges_tell_what_is_the_clusters_own() {
        let index = Index::new(1, 100, Vec::new());
        put(&index, SERVICES);
        put(&index, &(node("a", "10.244.0.0/24") + &node("b", "10.244.1.0/24")));
        check(&index, &["10.96.0.0/16", "10.244.0.0/23", "fd00:96::/112"]);
        remove(&index, &node("b", ""));
        check(&index, &["10.96.0.0/16", "10.244.0.0/24", "fd00:96::/112"]);
    }

    #[test]
    fn what_an_operator_gave_counts_alone() {
        let index = Index::new(1, 100, vec!["10.0.0.0/8".parse().unwrap()]);
        put(&index, SERVICES);
        check(&index, &["10.0.0.0/8"]);
    }

    #[test]
    fn very_many_ranges_become_one_of_each_family() {
        let index = Index::new(1, 100, Vec::new());
        let nodes: String =
            (0..100).map(|n| node(&format!("n{n}"), &format!("10.244.{}.0/24", 2 * n))).collect();
        put(&index, &(nodes + SERVICES));
        check(&index, &["10.96.0.0/16", "10.244.0.0/16", "fd00:96::/112"]);
    }
}
