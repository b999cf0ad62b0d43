//! The redirection as text: what a pod's options mean in `iptables-restore`'s language.
//!
//! Everything here is pure, so that each rule can be read, compared with a golden and reasoned
//! about without a kernel. Two chains of our own hold all the rules; the built-in chains get one
//! jump each. Declaring a chain flushes it, even under `--noflush`, so a second application
//! replaces the first and touches nobody else's rules.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use mesh::contract::{HEALTH_PORT, METRICS_PORT};
use mesh::settings::PortSet;

#[cfg(test)]
mod tests;

/// The chain that sees what the pod receives.
pub const INBOUND_CHAIN: &str = "HEDDLE_INBOUND";
/// The chain that sees what the pod sends.
pub const OUTBOUND_CHAIN: &str = "HEDDLE_OUTBOUND";

const INBOUND_JUMP: &str = "-A PREROUTING -p tcp -j HEDDLE_INBOUND";
const OUTBOUND_JUMP: &str = "-A OUTPUT -p tcp -j HEDDLE_OUTBOUND";

/// DNS is never captured (design, decision 7), over TCP neither.
pub const DNS_PORT: u16 = 53;

/// An address family; each has rules of its own and a tool of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4, spoken to by `iptables`.
    V4,
    /// IPv6, spoken to by `ip6tables`.
    V6,
}

impl Family {
    /// Whether `address` is of this family.
    pub const fn holds(self, address: IpAddr) -> bool {
        matches!((self, address), (Self::V4, IpAddr::V4(_)) | (Self::V6, IpAddr::V6(_)))
    }

    const fn loopback(self) -> &'static str {
        match self {
            Self::V4 => "127.0.0.0/8",
            Self::V6 => "::1/128",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What is to be redirected in a pod, and what is left alone.
#[derive(Clone, Debug)]
pub struct Redirection {
    /// Where the proxy takes what the pod sends.
    pub outbound_port: u16,
    /// Where the proxy takes what the pod receives.
    pub inbound_port: u16,
    /// The proxy's own user and group, whose packets are never redirected.
    pub proxy_uid: u32,
    /// Ports of the pod whose callers reach the application directly.
    pub skip_inbound_ports: PortSet,
    /// Destination ports that the pod dials directly.
    pub skip_outbound_ports: PortSet,
    /// Destination networks that the pod dials directly.
    pub skip_outbound_cidrs: Vec<IpNet>,
}

impl Redirection {
    /// The text for `iptables-restore --noflush` (or `ip6tables-restore`). `present` is what
    /// `iptables-save` says now: a jump that it holds already is not added again.
    pub fn restore_text(&self, family: Family, present: &str) -> String {
        let mut text = format!("*nat\n:{INBOUND_CHAIN} - [0:0]\n:{OUTBOUND_CHAIN} - [0:0]\n");
        let missing = |jump: &&str| !nat_rules(present).any(|rule| rule == *jump);
        let jumps = [INBOUND_JUMP, OUTBOUND_JUMP].into_iter().filter(missing).map(str::to_owned);
        let rules = self.outbound_rules(family).into_iter().chain(self.inbound_rules());
        for rule in jumps.chain(rules) {
            text.push_str(&rule);
            text.push('\n');
        }
        text + "COMMIT\n"
    }

    /// Whether the pod dials `port` directly.
    pub fn skips_outbound(&self, address: IpAddr, port: u16) -> bool {
        port == DNS_PORT
            || self.skip_outbound_ports.contains(port)
            || self.skip_outbound_cidrs.iter().any(|cidr| cidr.contains(&address))
    }

    fn outbound_rules(&self, family: Family) -> Vec<String> {
        let chain = format!("-A {OUTBOUND_CHAIN}");
        let uid = self.proxy_uid;
        let mut rules = vec![
            format!("{chain} -m owner --uid-owner {uid} --gid-owner {uid} -j RETURN"),
            // A pod that calls itself, by loopback or by its own address, needs no mesh.
            format!("{chain} -o lo -j RETURN"),
            format!("{chain} -d {} -j RETURN", family.loopback()),
        ];
        if family == Family::V6 {
            // The original destination does not say which interface a link-local address is of.
            rules.push(format!("{chain} -d fe80::/10 -j RETURN"));
        }
        rules.push(skip_ports(&chain, &DNS_PORT.to_string()));
        rules.extend(port_ranges(&self.skip_outbound_ports).map(|ports| skip_ports(&chain, &ports)));
        let cidrs = self.skip_outbound_cidrs.iter().filter(|cidr| family.holds(cidr.addr()));
        rules.extend(cidrs.map(|cidr| format!("{chain} -d {} -j RETURN", cidr.trunc())));
        rules.push(redirect(&chain, self.outbound_port));
        rules
    }

    fn inbound_rules(&self) -> Vec<String> {
        let chain = format!("-A {INBOUND_CHAIN}");
        let mut rules = vec![
            format!("{chain} -i lo -j RETURN"),
            // What the pod merely forwards (containers inside a container) is not its own.
            format!("{chain} -m addrtype ! --dst-type LOCAL -j RETURN"),
        ];
        let own = [METRICS_PORT, HEALTH_PORT].map(|port| port.to_string());
        let skipped = port_ranges(&self.skip_inbound_ports);
        rules.extend(own.into_iter().chain(skipped).map(|ports| skip_ports(&chain, &ports)));
        rules.push(redirect(&chain, self.inbound_port));
        rules
    }
}

/// The text for `iptables-restore` (which flushes) that brings the `nat` table back to what
/// `iptables-save` said before we touched it.
pub fn undo_text(before: &str) -> String {
    let mut text = String::from("*nat\n");
    for line in nat_lines(before) {
        text.push_str(line);
        text.push('\n');
    }
    text + "COMMIT\n"
}

/// The rules of the `nat` table in an `iptables-save`.
pub fn nat_rules(saved: &str) -> impl Iterator<Item = &str> {
    nat_lines(saved).filter(|line| line.starts_with("-A "))
}

fn nat_lines(saved: &str) -> impl Iterator<Item = &str> {
    let table = saved.lines().map(str::trim_end).skip_while(|line| *line != "*nat").skip(1);
    table.take_while(|line| *line != "COMMIT").filter(|line| !line.starts_with('#'))
}

/// One match per port or range: `multiport` stops at 15 and needs one more kernel module.
fn port_ranges(ports: &PortSet) -> impl Iterator<Item = String> {
    let text = ports.to_string();
    let ranges: Vec<_> =
        text.split(',').filter(|range| !range.is_empty()).map(|range| range.replace('-', ":")).collect();
    ranges.into_iter()
}

fn skip_ports(chain: &str, ports: &str) -> String {
    format!("{chain} -p tcp -m tcp --dport {ports} -j RETURN")
}

fn redirect(chain: &str, port: u16) -> String {
    format!("{chain} -p tcp -j REDIRECT --to-ports {port}")
}
