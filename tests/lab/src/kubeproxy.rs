//! kube-proxy: Services and EndpointSlices in, one `iptables-restore` text per family out. Pure.
//!
//! Only packets that pods send through the node are touched (PREROUTING and FORWARD); the node's own probes are not.
//! What goes to no pod leaves by the interface `void` and is refused there, so that nothing waits for a timeout.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::endpoints::belongs;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, `iptables-restore`.
    V4,
    /// IPv6, `ip6tables-restore`.
    V6,
}

impl Family {
    fn holds(self, ip: &str) -> bool {
        ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == (self == Self::V6))
    }

    fn target(self, ip: &str, port: i32) -> String {
        match self {
            Self::V4 => format!("{ip}:{port}"),
            Self::V6 => format!("[{ip}]:{port}"),
        }
    }

    fn icmp(self, what: &str) -> String {
        match self {
            Self::V4 => format!("icmp-{what}-unreachable"),
            Self::V6 => format!("icmp6-{}-unreachable", if what == "host" { "addr" } else { what }),
        }
    }
}

/// The whole text for a family; `node` is the node's address of that family.
pub fn rules(family: Family, services: &[Service], slices: &[EndpointSlice], node: IpAddr) -> String {
    let (mut nat, mut refuse) = (String::new(), String::new());
    let mut pods = BTreeSet::new();
    for service in services {
        for ip in addresses(service).filter(|ip| family.holds(ip)) {
            for port in service.spec.iter().flat_map(|s| s.ports.iter().flatten()) {
                let found = endpoints(family, service, port, slices);
                one_port(family, service, ip, port, &found, &mut nat, &mut refuse);
                pods.extend(found.into_iter().map(|(pod, _)| pod));
            }
        }
    }
    // What a pod sends to itself through a Service gets the node's source, as with kube-proxy: no pod accepts packets
    // from its own address.
    for pod in pods {
        let _ = writeln!(nat, "-A POSTROUTING -s {pod} -d {pod} -j SNAT --to-source {node}");
    }
    let host = family.icmp("host");
    format!(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n{nat}COMMIT\n\
         *filter\n:FORWARD ACCEPT [0:0]\n{refuse}\
         -A FORWARD -o void -j REJECT --reject-with {host}\nCOMMIT\n"
    )
}

fn addresses(service: &Service) -> impl Iterator<Item = &str> {
    let spec = service.spec.as_ref();
    let cluster = spec.and_then(|s| s.cluster_ips.as_deref()).unwrap_or_default();
    let external = spec.and_then(|s| s.external_ips.as_deref()).unwrap_or_default();
    cluster.iter().chain(external).map(String::as_str)
}

/// Where a port's connections go: ready endpoints, or if there are none those that still serve while they end.
fn endpoints(
    family: Family,
    service: &Service,
    port: &ServicePort,
    slices: &[EndpointSlice],
) -> Vec<(String, i32)> {
    let (mut ready, mut ending) = (Vec::new(), Vec::new());
    for slice in slices.iter().filter(|slice| belongs(slice, service)) {
        let name = port.name.as_deref().unwrap_or_default();
        let same = |p: &&k8s_openapi::api::discovery::v1::EndpointPort| {
            p.name.as_deref().unwrap_or_default() == name
                && protocol(p.protocol.as_deref()) == protocol(port.protocol.as_deref())
        };
        let Some(number) = slice.ports.iter().flatten().find(same).and_then(|p| p.port) else { continue };
        for endpoint in &slice.endpoints {
            let list = match state(endpoint) {
                State::Ready => &mut ready,
                State::Ending => &mut ending,
                State::Away => continue,
            };
            // All addresses of an endpoint are the same pod's: the first is enough, as for kube-proxy.
            list.extend(
                endpoint.addresses.first().filter(|ip| family.holds(ip)).map(|ip| (ip.clone(), number)),
            );
        }
    }
    let mut found = if ready.is_empty() { ending } else { ready };
    found.sort();
    found.dedup();
    found
}

enum State {
    Ready,
    Ending,
    Away,
}

fn state(endpoint: &Endpoint) -> State {
    let conditions = endpoint.conditions.as_ref();
    let is = |value: Option<bool>, unset| value.unwrap_or(unset);
    match (
        is(conditions.and_then(|c| c.ready), true),
        is(conditions.and_then(|c| c.serving), true) && is(conditions.and_then(|c| c.terminating), false),
    ) {
        (true, _) => State::Ready,
        (false, true) => State::Ending,
        (false, false) => State::Away,
    }
}

fn protocol(written: Option<&str>) -> String {
    written.unwrap_or("TCP").to_lowercase()
}

fn one_port(
    family: Family,
    service: &Service,
    ip: &str,
    port: &ServicePort,
    endpoints: &[(String, i32)],
    nat: &mut String,
    refuse: &mut String,
) {
    let meta = &service.metadata;
    let name = format!(
        "{}/{}",
        meta.namespace.as_deref().unwrap_or_default(),
        meta.name.as_deref().unwrap_or_default()
    );
    let protocol = protocol(port.protocol.as_deref());
    let matches =
        format!("-d {ip} -p {protocol} -m {protocol} --dport {} -m comment --comment \"{name}\"", port.port);
    if endpoints.is_empty() {
        let icmp = family.icmp("port");
        let _ = writeln!(refuse, "-A FORWARD {matches} -j REJECT --reject-with {icmp}");
    }
    for (index, (endpoint, number)) in endpoints.iter().enumerate() {
        let chance = match endpoints.len() - index {
            1 => String::new(),
            // Of those that are left, each gets the same share.
            left => format!(" -m statistic --mode random --probability {:.10}", 1.0 / left_as_f64(left)),
        };
        let to = family.target(endpoint, *number);
        let _ = writeln!(nat, "-A PREROUTING {matches}{chance} -j DNAT --to-destination {to}");
    }
}

fn left_as_f64(left: usize) -> f64 {
    f64::from(u32::try_from(left).unwrap_or(u32::MAX))
}

#[cfg(test)]
#[path = "kubeproxy_tests.rs"]
mod tests;
