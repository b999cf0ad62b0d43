//! A pod and a peer as two network namespaces of this machine, joined by one wire.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{SockaddrIn, SockaddrIn6, getsockopt, sockopt};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

const PREFIX: &str = "heddle-init-";
const NAMESPACES: &str = "/run/netns";

pub const POD_V4: &str = "10.77.0.1";
pub const PEER_V4: &str = "10.77.0.2";
pub const POD_V6: &str = "fd77::1";
pub const PEER_V6: &str = "fd77::2";

/// Removed with all that is in it when it goes out of scope.
pub struct World {
    pub pod: Namespace,
    pub peer: Namespace,
}

impl World {
    pub fn new() -> Self {
        static LEFTOVERS: Once = Once::new();
        LEFTOVERS.call_once(remove_leftovers);
        let world = Self { pod: Namespace::new("pod"), peer: Namespace::new("peer") };
        let (pod, peer) = (&world.pod.name, &world.peer.name);
        run(&format!("ip link add eth0 netns {pod} type veth peer name eth0 netns {peer}"));
        world.pod.connect(&[POD_V4, POD_V6]);
        world.peer.connect(&[PEER_V4, PEER_V6]);
        world.pod.ip(&format!("route add default via {PEER_V4}"));
        world.pod.ip(&format!("-6 route add default via {PEER_V6}"));
        world
    }
}

pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new(role: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        run(&format!("ip netns add {name}"));
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    pub fn ip(&self, arguments: &str) {
        run(&format!("ip -n {} {arguments}", self.name));
    }

    fn connect(&self, addresses: &[&str]) {
        for address in addresses {
            let flags = if address.contains(':') { "/64 dev eth0 nodad" } else { "/24 dev eth0" };
            self.ip(&format!("address add {address}{flags}"));
        }
        self.ip("link set eth0 up");
    }

    /// Runs `command` with `arguments` split at white space.
    pub fn exec(&self, command: &str) -> Output {
        let mut words = command.split_whitespace();
        let mut process = Command::new("ip");
        process.args(["netns", "exec", &self.name]).args(words.by_ref());
        process.output().expect("ip netns exec runs")
    }

    pub fn init(&self, arguments: &str) -> Output {
        self.exec(&format!("{} {arguments}", env!("CARGO_BIN_EXE_heddle-init")))
    }

    /// Runs `heddle-init`, which must succeed, and returns what it said.
    #[track_caller]
    pub fn redirect(&self, arguments: &str) -> String {
        let output = self.init(arguments);
        let said = said(&output);
        assert!(output.status.success(), "{said}");
        said
    }

    /// The rules of the nat table, without counters and dates.
    pub fn rules(&self, tool: &str) -> String {
        let saved = said(&self.exec(&format!("{tool}-save -t nat")));
        let lines: Vec<_> = saved.lines().filter(|line| line.starts_with("-A ")).collect();
        lines.join("\n")
    }

    /// Runs `action` on a thread that is in this namespace.
    pub fn inside<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(Path::new(NAMESPACES).join(&self.name)).expect("the namespace");
        let enter = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter");
            action()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().expect("the action returns"))
    }

    pub fn listen(&self, address: &str) -> TcpListener {
        let address: SocketAddr = address.parse().expect("an address");
        let listener = self.inside(|| TcpListener::bind(address).expect("a free port"));
        listener.set_nonblocking(true).expect("non-blocking");
        listener
    }

    /// A connection's client, or why there is none.
    pub fn dial(&self, address: &str) -> std::io::Result<TcpStream> {
        let address: SocketAddr = address.parse().expect("an address");
        self.inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)))
    }

    /// The same from a socket that belongs to `uid` and `gid`.
    pub fn dial_as(&self, uid: u32, gid: u32, address: &str) -> std::io::Result<TcpStream> {
        let address: SocketAddr = address.parse().expect("an address");
        self.inside(|| {
            setfsgid(Gid::from_raw(gid));
            setfsuid(Uid::from_raw(uid));
            TcpStream::connect_timeout(&address, Duration::from_secs(2))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Where the kernel says that the connection which waits at `listener` was going; a completed
/// connect has put it in the queue.
#[track_caller]
pub fn original(listener: &TcpListener) -> String {
    let (stream, _) = listener.accept().expect("a connection waits");
    let local = stream.local_addr().expect("an address");
    let original: Option<SocketAddr> = match local.ip() {
        IpAddr::V4(_) => {
            getsockopt(&stream, sockopt::OriginalDst).ok().map(|raw| SockaddrIn::from(raw).into())
        }
        IpAddr::V6(_) => getsockopt(&stream, sockopt::Ip6tOriginalDst)
            .ok()
            .map(|raw| SocketAddr::V6(SockaddrIn6::from(raw).into())),
    };
    original.unwrap_or(local).to_string()
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[track_caller]
fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a program")).args(words).output();
    let output = output.expect("Debian's package iproute2 is installed");
    assert!(output.status.success(), "{command}: {} (these tests need root)", said(&output));
}

fn remove(name: &str) {
    let removed = Command::new("ip").args(["netns", "delete", name]).output();
    drop(removed);
}

/// Namespaces of test processes that were killed before they could clean up.
fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else { return };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    for name in names.filter(|name| is_leftover(name)) {
        remove(&name);
    }
}

fn is_leftover(name: &str) -> bool {
    let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    pid.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
}
