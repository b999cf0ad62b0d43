//! The command line, and what it comes to.

use std::net::IpAddr;

use clap::{Parser, ValueEnum};
use ipnet::IpNet;
use mesh::contract::{INBOUND_PORT, OUTBOUND_PORT, PROXY_UID};
use mesh::settings::PortSet;

use crate::rules::Redirection;

/// Sets up the iptables redirection of a Heddle pod in the present network namespace, checks
/// that it took hold, and leaves. Applying it twice changes nothing. Needs NET_ADMIN (and, for
/// the legacy back end, NET_RAW).
#[derive(Debug, Parser)]
#[command(name = "heddle-init", version)]
pub struct Options {
    /// Port on which the proxy takes what the pod sends
    #[arg(long, value_name = "PORT", default_value_t = OUTBOUND_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    outbound_port: u16,

    /// Port on which the proxy takes what the pod receives
    #[arg(long, value_name = "PORT", default_value_t = INBOUND_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    inbound_port: u16,

    /// User and group of the proxy, whose own packets are left alone
    #[arg(long, value_name = "UID", default_value_t = PROXY_UID, value_parser = clap::value_parser!(u32).range(1..))]
    proxy_uid: u32,

    /// Ports of the pod that callers reach without the mesh, such as 3306,5000-5100
    #[arg(long, value_name = "PORTS", default_value = "", hide_default_value = true, value_parser = PortSet::parse)]
    skip_inbound_ports: PortSet,

    /// Destination ports that the pod dials without the mesh, such as 25,5000-5100
    #[arg(long, value_name = "PORTS", default_value = "", hide_default_value = true, value_parser = PortSet::parse)]
    skip_outbound_ports: PortSet,

    /// Destination networks that the pod dials without the mesh, such as 10.9.0.0/16,fd00:9::/64
    #[arg(long, value_name = "CIDRS", default_value = "", hide_default_value = true, value_parser = networks)]
    skip_outbound_cidrs: Networks,

    /// Which of the kernel's two iptables to use
    #[arg(long, value_enum, default_value_t = BackendChoice::Auto)]
    pub backend: BackendChoice,

    /// Print the iptables-restore text for a fresh pod, for both families, and change nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Do not check with a connection that the rules took hold
    #[arg(long)]
    pub no_verify: bool,
}

#[derive(Clone, Debug)]
struct Networks(Vec<IpNet>);

/// Which back end the caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BackendChoice {
    /// The one that has rules already, else nft if it works, else legacy
    Auto,
    /// iptables over nf_tables
    Nft,
    /// iptables over the older ip_tables
    Legacy,
}

impl Options {
    /// What is to be redirected.
    pub fn redirection(&self) -> Redirection {
        Redirection {
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            proxy_uid: self.proxy_uid,
            skip_inbound_ports: self.skip_inbound_ports.clone(),
            skip_outbound_ports: self.skip_outbound_ports.clone(),
            skip_outbound_cidrs: self.skip_outbound_cidrs.0.clone(),
        }
    }
}

/// A comma-separated list; an empty text is the empty list.
fn networks(text: &str) -> Result<Networks, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(network).collect::<Result<_, _>>().map(Networks)
}

/// A network, or an address as the network of itself.
fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let wrong = |_| {
        format!("{text:?} is no network; give an address and a prefix such as 10.9.0.0/16 or fd00:9::/64")
    };
    text.parse::<IpNet>().or_else(|_| address()).map_err(wrong)
}
