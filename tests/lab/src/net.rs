//! The network of a world: a node namespace, and a veth from it to each pod, routed, without a bridge.
//!
//! One capture in the node namespace sees all traffic between pods. Neighbours are fixed, so no ARP or neighbour
//! discovery delays a first packet, and IPv6 addresses skip duplicate detection. There is no way out of the node.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use crate::paths::Place;
use crate::process::{Held, Ns};

/// Pods' addresses.
pub const POD_RANGES: [&str; 2] = ["10.1.0.0/16", "fd00:1::/64"];
/// Services' addresses, for those that name none.
pub const SERVICE_RANGES: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];
/// The node's own addresses: what probes come from.
pub const NODE: Addresses =
    Addresses { v4: Ipv4Addr::new(10, 0, 0, 1), v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1) };
/// The control plane's addresses.
pub const CONTROL: Addresses =
    Addresses { v4: Ipv4Addr::new(10, 0, 0, 2), v6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2) };

/// Every veth's end in the node has this hardware address, so that pods can know it beforehand.
const NODE_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// An IPv4 and an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// The addresses of the nth pod, counted from 2. A world holds 65,000 pods in its life.
    pub fn of_pod(n: u16) -> Self {
        let [high, low] = n.to_be_bytes();
        Self { v4: Ipv4Addr::new(10, 1, high, low), v6: Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, n) }
    }

    /// Both as text, IPv4 first.
    pub fn texts(&self) -> [String; 2] {
        [self.v4.to_string(), self.v6.to_string()]
    }
}

/// The file of a network namespace.
pub fn netns_file(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Makes the node's namespace: forwarding, no redirects, and nowhere to go but to pods.
pub fn make_node(place: &Place) -> Result<()> {
    let node = place.node_netns();
    make_netns(place, &node)?;
    inside(&node, || {
        for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/default/forwarding"] {
            sysctl(name, "1")?;
        }
        for name in
            ["ipv4/conf/all/send_redirects", "ipv4/conf/default/send_redirects", "ipv4/conf/all/rp_filter"]
        {
            sysctl(name, "0")?;
        }
        quiet_ipv6()
    })?;
    // What is for no pod leaves by `void`, where the packet filter refuses it: without a route it would never get there.
    let Addresses { v4, v6 } = NODE;
    ip(
        &node,
        &format!(
            "link set lo up\n\
         addr add {v4}/32 dev lo\n\
         addr add {v6}/128 dev lo nodad\n\
         link add void type veth peer name void-end\n\
         link set void up\n\
         route add default dev void src {v4}\n\
         route add ::/0 dev void src {v6}\n"
        ),
    )
}

/// Makes a namespace with a veth to the node, `link` being the name of the node's end (at most 15 bytes).
pub fn make_pod(place: &Place, netns: &str, link: &str, addresses: Addresses) -> Result<()> {
    make_netns(place, netns)?;
    inside(netns, || {
        sysctl("ipv4/ip_unprivileged_port_start", "0")?;
        quiet_ipv6()
    })?;
    let Addresses { v4, v6 } = addresses;
    let [_, _, a, b] = v4.octets();
    let mac = format!("0a:58:{:02x}:{:02x}:{a:02x}:{b:02x}", v4.octets()[0], v4.octets()[1]);
    let (node4, node6) = (NODE.v4, NODE.v6);
    ip(
        &place.node_netns(),
        &format!(
            "link add {link} address {NODE_MAC} type veth peer name eth0 address {mac} netns {netns}\n\
         link set {link} up\n\
         route add {v4}/32 dev {link} src {node4}\n\
         route add {v6}/128 dev {link} src {node6}\n\
         neigh add {v4} lladdr {mac} dev {link} nud permanent\n\
         neigh add {v6} lladdr {mac} dev {link} nud permanent\n"
        ),
    )?;
    ip(
        netns,
        &format!(
            "link set lo up\n\
         link set eth0 up\n\
         addr add {v4}/32 dev eth0\n\
         addr add {v6}/128 dev eth0 nodad\n\
         neigh add 169.254.1.1 lladdr {NODE_MAC} dev eth0 nud permanent\n\
         route add default via 169.254.1.1 dev eth0 onlink\n\
         neigh add fe80::1 lladdr {NODE_MAC} dev eth0 nud permanent\n\
         route add default via fe80::1 dev eth0 onlink\n"
        ),
    )
}

/// Makes a network namespace and writes it down first, for clearing up.
fn make_netns(place: &Place, name: &str) -> Result<()> {
    if netns_file(name).exists() {
        bail!(
            "the network namespace {name} exists and is not this world's: remove it with `ip netns del {name}`"
        );
    }
    File::create(place.netns_records().join(name)).context("cannot write in the world's directory")?;
    run(Command::new("ip").args(["netns", "add", name]), "")
}

/// Kills what is in a network namespace and removes it, if this world has made it: one that had the name before
/// is somebody else's.
pub fn clear_netns(place: &Place, name: &str) -> Result<()> {
    let record = place.netns_records().join(name);
    if !record.exists() {
        return Ok(());
    }
    if let Some(held) = Held::open(Ns::Net, netns_file(name)) {
        held.kill_members();
    }
    if netns_file(name).exists() {
        run(Command::new("ip").args(["netns", "del", name]), "")?;
    }
    fs::remove_file(record).context("cannot write in the world's directory")
}

/// Runs something in a network namespace: on a thread of its own, which ends with it. A socket keeps its namespace.
pub fn inside<T: Send>(netns: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file =
        File::open(netns_file(netns)).with_context(|| format!("there is no network namespace {netns}"))?;
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter the network namespace")?;
            work()
        });
        worker.join().unwrap_or_else(|_| bail!("a thread in {netns} panicked"))
    })
}

/// No waiting for duplicate addresses, no asking for routers.
fn quiet_ipv6() -> Result<()> {
    for conf in ["all", "default"] {
        sysctl(&format!("ipv6/conf/{conf}/accept_dad"), "0")?;
        sysctl(&format!("ipv6/conf/{conf}/accept_ra"), "0")?;
        sysctl(&format!("ipv6/conf/{conf}/router_solicitations"), "0")?;
    }
    Ok(())
}

/// Sets a network parameter (a path under `/proc/sys/net`) of the namespace that the thread is in.
pub fn sysctl(name: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/net/{name}"), value).with_context(|| format!("cannot set net/{name}"))
}

/// Runs `ip` commands, a line each, in a namespace.
fn ip(netns: &str, commands: &str) -> Result<()> {
    run(Command::new("ip").args(["-n", netns, "-batch", "-"]), commands)
}

/// Runs a command with some input; its error is what it said.
pub fn run(command: &mut Command, input: &str) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}: is it installed?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that ended early says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("cannot wait for {name}"))?;
    match output.status.success() {
        true => Ok(()),
        false => bail!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_have_an_address_of_each_family_with_the_same_number() {
        let [v4, v6] = Addresses::of_pod(258).texts();
        assert_eq!((v4.as_str(), v6.as_str()), ("10.1.1.2", "fd00:1::102"));
    }
}
