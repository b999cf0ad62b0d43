//! Hints of topology: which of a Service's endpoints are for the clients of one node or zone.
//!
//! The control plane of Kubernetes writes them where a Service asks for it (`trafficDistribution`), and kube-proxy honours
//! them (KEP-2433, KEP-3015). So does this, by the same rule: node before zone; only if every endpoint has a hint, since
//! some are missing while a change is under way; and only if somebody is there for the client.

use super::Endpoint;
use std::borrow::Cow;

/// Whether anybody hints at anything, so that it matters where the client is.
pub fn has_hints(endpoints: &[Endpoint]) -> bool {
    endpoints.iter().any(|endpoint| !(endpoint.for_nodes.is_empty() && endpoint.for_zones.is_empty()))
}

/// Those endpoints that are for clients on this node and in this zone, or else all; for each address family by itself.
pub fn near(endpoints: Vec<Endpoint>, node: Option<&str>, zone: Option<&str>) -> Vec<Endpoint> {
    let (v4, v6): (Vec<_>, Vec<_>) = endpoints.into_iter().partition(|endpoint| endpoint.addr.is_ipv4());
    let near = |family: &[Endpoint]| of_family(family, node, zone).into_owned();
    [near(&v4), near(&v6)].concat()
}

fn of_family<'a>(endpoints: &'a [Endpoint], node: Option<&str>, zone: Option<&str>) -> Cow<'a, [Endpoint]> {
    let mine = |hints: fn(&Endpoint) -> &[String], here: Option<&str>| hinted(endpoints, hints, here?);
    let near = mine(|e| &e.for_nodes, node).or_else(|| mine(|e| &e.for_zones, zone));
    near.map_or(Cow::Borrowed(endpoints), Cow::Owned)
}

/// The endpoints that are for `here`, if all have hints and any is.
fn hinted(endpoints: &[Endpoint], hints: fn(&Endpoint) -> &[String], here: &str) -> Option<Vec<Endpoint>> {
    let whole = endpoints.iter().all(|endpoint| !hints(endpoint).is_empty());
    let is_mine = |endpoint: &&Endpoint| hints(endpoint).iter().any(|name| name == here);
    let mine: Vec<_> = endpoints.iter().filter(is_mine).cloned().collect();
    (whole && !mine.is_empty()).then_some(mine)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An endpoint with the last part of its address, its zones and its nodes.
    type Given = (u8, &'static [&'static str], &'static [&'static str]);

    fn endpoint((last, zones, nodes): &Given) -> Endpoint {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Endpoint {
            addr: ([10, 1, 0, *last], 80).into(),
            ready: true,
            serving: true,
            terminating: false,
            is_pod: false,
            for_zones: names(zones),
            for_nodes: names(nodes),
        }
    }

    /// For a client on node `n1` in zone `east`.
    #[track_caller]
    fn check(given: &[Given], expected: &[u8]) {
        let found = near(given.iter().map(endpoint).collect(), Some("n1"), Some("east"));
        let expected: Vec<_> = expected.iter().map(|last| endpoint(&(*last, &[], &[])).addr).collect();
        assert_eq!(found.iter().map(|endpoint| endpoint.addr).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_own_zone_is_enough() {
        check(&[(1, &["west"], &[]), (2, &["east"], &[]), (3, &["west", "east"], &[])], &[2, 3]);
    }

    #[test]
    fn a_hint_that_is_missing_makes_all_of_them_void() {
        check(&[(1, &["west"], &[]), (2, &["east"], &[]), (3, &[], &[])], &[1, 2, 3]);
    }

    #[test]
    fn a_zone_without_an_endpoint_uses_all() {
        check(&[(1, &["west"], &[]), (2, &["north"], &[])], &[1, 2]);
    }

    #[test]
    fn the_own_node_comes_before_the_zone() {
        check(&[(1, &["east"], &["n1"]), (2, &["east"], &["n2"])], &[1]);
        check(&[(1, &["east"], &["n3"]), (2, &["west"], &["n2"])], &[1]);
    }

    #[test]
    fn who_does_not_know_where_it_is_uses_all() {
        let given = [(1, &["west"][..], &[][..]), (2, &["east"][..], &[][..])];
        let all: Vec<_> = given.iter().map(endpoint).collect();
        assert!(has_hints(&all));
        assert_eq!(near(all.clone(), None, None), all);
    }

    #[test]
    fn each_family_is_looked_at_by_itself() {
        let mut far = endpoint(&(2, &[], &[]));
        far.addr = "[fd00::2]:80".parse().expect("address");
        let all = vec![endpoint(&(1, &["east"], &[])), endpoint(&(3, &["west"], &[])), far.clone()];
        assert_eq!(near(all, None, Some("east")), [endpoint(&(1, &["east"], &[])), far]);
    }
}
