//! The pod network's gateways. On a bridge, or with a router of the CNI's own, the kubelet calls from there, and not from an
//! address that Kubernetes knows of the node.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Where a default route of IPv6 leads: everywhere.
const ANYWHERE: &str = "00000000000000000000000000000000";

/// The gateways of this pod's default routes.
pub fn gateways() -> Vec<IpAddr> {
    // A table that cannot be read is one of a family that the pod does not have.
    let [v4, v6] = ["route", "ipv6_route"].map(|table| fs::read_to_string(format!("/proc/net/{table}")));
    of_v4(&v4.unwrap_or_default()).chain(of_v6(&v6.unwrap_or_default())).collect()
}

/// `/proc/net/route`: a head, then interface, destination, gateway, flags, three counts, mask…; addresses are in hex as the
/// machine has them in memory.
fn of_v4(table: &str) -> impl Iterator<Item = IpAddr> {
    table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, "00000000", gateway, _, _, _, _, "00000000", ..] = fields[..] else { return None };
        let gateway = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
        (!gateway.is_unspecified()).then_some(IpAddr::V4(gateway))
    })
}

/// `/proc/net/ipv6_route`: destination and its length, source and its length, gateway…; addresses are in hex.
fn of_v6(table: &str) -> impl Iterator<Item = IpAddr> {
    table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [ANYWHERE, "00", _, _, gateway, ..] = fields[..] else { return None };
        let gateway = Ipv6Addr::from(u128::from_str_radix(gateway, 16).ok()?);
        (!gateway.is_unspecified()).then_some(IpAddr::V6(gateway))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_default_routes_have_the_gateway() {
        let hex = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let table = format!(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
             eth0\t00000000\t{}\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
             eth0\t{}\t00000000\t0001\t0\t0\t0\t{}\t0\t0\t0\n\
             eth0\t{}\t{}\t0003\t0\t0\t0\t{}\t0\t0\t0\n",
            hex([10, 1, 0, 1]),
            hex([10, 1, 0, 0]),
            hex([255, 255, 255, 0]),
            hex([10, 0, 0, 0]),
            hex([10, 1, 0, 2]),
            hex([255, 0, 0, 0]),
        );
        assert_eq!(of_v4(&table).collect::<Vec<_>>(), [IpAddr::from([10, 1, 0, 1])]);
    }

    #[test]
    fn a_route_that_only_refuses_has_no_gateway() {
        let table = format!(
            "{ANYWHERE} 00 {ANYWHERE} 00 fd000001000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
             fd000001000000000000000000000000 40 {ANYWHERE} 00 {ANYWHERE} 00000100 00000001 00000000 00000001     eth0\n\
             {ANYWHERE} 00 {ANYWHERE} 00 {ANYWHERE} ffffffff 00000001 00000000 00200200       lo\n"
        );
        let gateway: IpAddr = "fd00:1::1".parse().expect("address");
        assert_eq!(of_v6(&table).collect::<Vec<_>>(), [gateway]);
    }
}
