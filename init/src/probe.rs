//! Proves that the rules took hold, by connections that are made to run into them.
//!
//! A rule that the kernel accepted may still redirect nothing: a chain of somebody else's that
//! comes first, a module that half works. So a socket of ours dials an address that only the
//! redirection can answer, and the other end asks the kernel where the connection was going.
//! Nothing leaves the machine: the packet's time to live ends at the first hop.

use std::io;
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::rules::{Family, INBOUND_CHAIN, OUTBOUND_CHAIN, Redirection, nat_rules};
use crate::tool::{Backend, ToolError};

/// How long a connection to our own listener may take. It takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// Connections of others that may be waiting on the proxy's port before ours.
const STRANGERS: usize = 16;

/// What the check found.
#[derive(Debug)]
pub enum Proof {
    /// A connection to `destination` arrived at the proxy's port.
    Connected {
        /// An address where nothing answers.
        destination: SocketAddr,
    },
    /// The rules are there, but no connection could try them.
    RulesOnly {
        /// Why not.
        because: String,
    },
}

/// What is wrong with rules that the kernel took.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// A jump or the proxy's exception is gone or behind another rule.
    #[error(
        "{family}: {rule} is not where it was put; does another program change the pod's nat table at the same time?"
    )]
    NotInPlace { family: Family, rule: &'static str },
    /// The connection was not redirected.
    #[error(
        "{family}: the rules are in place, but a connection to {destination} did not reach 127.0.0.1 or ::1 port {port} ({reason}); \
         is the loopback interface up, and does a rule of another program in the nat table come first?"
    )]
    NotRedirected { family: Family, destination: SocketAddr, port: u16, reason: String },
    /// A connection arrived, but for somewhere else.
    #[error("{family}: the kernel says that a connection to {destination} was going to {original}")]
    WrongDestination { family: Family, destination: SocketAddr, original: SocketAddr },
    /// What must be left alone was redirected or lost.
    #[error("{family}: {whose} must not be redirected, but {reason}")]
    NotLeftAlone { family: Family, whose: &'static str, reason: String },
    /// The sockets or the tool that the check needs failed.
    #[error("{family}: cannot check the rules")]
    Io { family: Family, source: io::Error },
    /// The rules could not be read back.
    #[error("cannot read the rules back")]
    Tool(#[from] ToolError),
}

/// Checks what `apply` did for `family`.
pub fn verify(redirection: &Redirection, family: Family, backend: Backend) -> Result<Proof, ProbeError> {
    in_place(&backend.save(family)?, redirection, family)?;
    let failed = |source| ProbeError::Io { family, source };
    let proxy = match TcpListener::bind((loopback(family), redirection.outbound_port)) {
        Ok(listener) => listener,
        Err(error) => return unbound(&error, redirection.outbound_port).ok_or(failed(error)),
    };
    proxy.set_nonblocking(true).map_err(failed)?;
    let destination = destination(redirection, family);
    if let Some(destination) = destination {
        redirected(&proxy, destination, family)?;
    }
    loopback_is_left_alone(family)?;
    proxy_is_left_alone(redirection, family, backend)?;
    let because = || "the pod has no route for a connection that would try them".to_owned();
    Ok(destination.map_or_else(
        || Proof::RulesOnly { because: because() },
        |destination| Proof::Connected { destination },
    ))
}

/// The proxy may run already (the container is started again), and a namespace may have a
/// family without addresses; both leave the rules right and the check without its listener.
fn unbound(error: &io::Error, port: u16) -> Option<Proof> {
    let because = if error.kind() == io::ErrorKind::AddrInUse {
        format!("port {port} is taken; heddle-proxy seems to run already")
    } else if error.kind() == io::ErrorKind::AddrNotAvailable {
        "the loopback interface has no address of this family".to_owned()
    } else {
        return None;
    };
    Some(Proof::RulesOnly { because })
}

fn in_place(saved: &str, redirection: &Redirection, family: Family) -> Result<(), ProbeError> {
    let uid = redirection.proxy_uid.to_string();
    let jumps_to = |chain: &str| nat_rules(saved).any(|rule| rule.ends_with(&format!("-j {chain}")));
    let mut outbound = nat_rules(saved).filter(|rule| rule.starts_with(&format!("-A {OUTBOUND_CHAIN} ")));
    let exempt = |rule: &str| rule.contains("--gid-owner") && rule.contains(&uid) && rule.ends_with("RETURN");
    let missing = |rule| Err(ProbeError::NotInPlace { family, rule });
    match () {
        () if !jumps_to(INBOUND_CHAIN) => missing("the jump to HEDDLE_INBOUND"),
        () if !jumps_to(OUTBOUND_CHAIN) => missing("the jump to HEDDLE_OUTBOUND"),
        () if !outbound.next().is_some_and(exempt) => missing("the exception for the proxy's own packets"),
        () => Ok(()),
    }
}

/// Dials `destination`; `proxy` must receive it.
fn redirected(proxy: &TcpListener, destination: SocketAddr, family: Family) -> Result<(), ProbeError> {
    let port = proxy.local_addr().map_or(0, |address| address.port());
    let not = |reason: String| ProbeError::NotRedirected { family, destination, port, reason };
    let client = dial(destination).map_err(|error| not(explain(&error)))?;
    let source = client.local_addr().map_err(|error| not(error.to_string()))?;
    let accepted = accept_from(proxy, source).ok_or_else(|| not("something else answered".to_owned()))?;
    let original = original_destination(&accepted, family).map_err(|error| not(error.to_string()))?;
    if original == destination {
        Ok(())
    } else {
        Err(ProbeError::WrongDestination { family, destination, original })
    }
}

fn explain(error: &io::Error) -> String {
    // The send timeout of a connect that has only begun says "in progress".
    if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) {
        return format!("no answer in {} s", PATIENCE.as_secs());
    }
    error.to_string()
}

/// The handshake is complete when `dial` returns, so the connection is in the queue already.
fn accept_from(listener: &TcpListener, source: SocketAddr) -> Option<TcpStream> {
    let accepted = std::iter::repeat_with(|| listener.accept()).take(STRANGERS);
    let ours = accepted.map_while(Result::ok).find(|(_, peer)| peer.port() == source.port());
    ours.map(|(stream, _)| stream)
}

fn original_destination(stream: &TcpStream, family: Family) -> nix::Result<SocketAddr> {
    Ok(match family {
        Family::V4 => SocketAddr::V4(SocketAddrV4::from(SockaddrIn::from(socket::getsockopt(
            stream,
            sockopt::OriginalDst,
        )?))),
        Family::V6 => SocketAddr::V6(SocketAddrV6::from(SockaddrIn6::from(socket::getsockopt(
            stream,
            sockopt::Ip6tOriginalDst,
        )?))),
    })
}

/// A connection whose packets die at the first hop, should they not be redirected.
fn dial(destination: SocketAddr) -> io::Result<TcpStream> {
    let family = if destination.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd: OwnedFd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    match destination {
        SocketAddr::V4(_) => socket::setsockopt(&fd, sockopt::Ipv4Ttl, &1)?,
        SocketAddr::V6(_) => socket::setsockopt(&fd, sockopt::Ipv6Ttl, &1)?,
    }
    // On Linux the send timeout bounds a blocking connect, too (socket(7)).
    socket::setsockopt(&fd, sockopt::SendTimeout, &TimeVal::seconds(PATIENCE.as_secs().cast_signed()))?;
    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(destination))?;
    Ok(TcpStream::from(fd))
}

fn loopback_is_left_alone(family: Family) -> Result<(), ProbeError> {
    let not = |reason| ProbeError::NotLeftAlone { family, whose: "traffic over loopback", reason };
    let dialled = TcpListener::bind((loopback(family), 0)).and_then(|listener| dial(listener.local_addr()?));
    dialled.map(drop).map_err(|error| not(explain(&error)))
}

/// Dials over loopback as the proxy's user and looks at the counter of the rule that exempts it:
/// no packet leaves the pod. Becoming another user needs SETUID and SETGID, which an injected
/// pod does not give; then the rule's place in its chain has to do.
fn proxy_is_left_alone(
    redirection: &Redirection,
    family: Family,
    backend: Backend,
) -> Result<(), ProbeError> {
    let Some(exempted_before) = exempted(backend, family)? else {
        return Ok(());
    };
    let failed = |source| ProbeError::Io { family, source };
    let listener = TcpListener::bind((loopback(family), 0)).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let Some(dialled) = as_user(redirection.proxy_uid, || dial(address)) else {
        return Ok(());
    };
    dialled.map_err(failed)?;
    if exempted(backend, family)? > Some(exempted_before) {
        return Ok(());
    }
    let reason = "its packets do not match the exception".to_owned();
    Err(ProbeError::NotLeftAlone { family, whose: "the proxy's own traffic", reason })
}

/// Packets that the first rule of the outbound chain, the proxy's exception, has seen.
fn exempted(backend: Backend, family: Family) -> Result<Option<u64>, ToolError> {
    let saved = backend.save_counters(family)?;
    let rule = format!("] -A {OUTBOUND_CHAIN} ");
    let line = saved.lines().find(|line| line.contains(&rule));
    Ok(line.and_then(|line| line.strip_prefix('[')?.split(':').next()?.parse().ok()))
}

/// Runs `action` with the file system identity, which is a socket's owner, of `uid`; `None` if
/// the kernel does not let us. It is this thread's alone, so nothing else notices.
fn as_user<T>(uid: u32, action: impl FnOnce() -> T) -> Option<T> {
    let (group, user) = (setfsgid(Gid::from_raw(uid)), setfsuid(Uid::from_raw(uid)));
    // An impossible value changes nothing and returns the present one.
    let (now_group, now_user) = (setfsgid(Gid::from_raw(u32::MAX)), setfsuid(Uid::from_raw(u32::MAX)));
    let became = now_group.as_raw() == uid && now_user.as_raw() == uid;
    let result = became.then(action);
    setfsuid(user);
    setfsgid(group);
    result
}

/// An address that a packet could be sent to and that the options do not exempt: one of those
/// reserved for documentation (RFC 5737, RFC 3849), which the default route covers, else a
/// neighbour on an interface's own network.
fn destination(redirection: &Redirection, family: Family) -> Option<SocketAddr> {
    let reserved: [IpAddr; 4] = [
        Ipv4Addr::new(192, 0, 2, 1).into(),
        Ipv4Addr::new(198, 51, 100, 1).into(),
        Ipv4Addr::new(203, 0, 113, 1).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    ];
    let addresses = reserved.into_iter().chain(neighbours()).filter(|address| family.holds(*address));
    let ports = [80, 443, 8080, 9];
    let every = addresses.flat_map(|address| ports.map(|port| SocketAddr::new(address, port)));
    let captured = every.filter(|to| !redirection.skips_outbound(to.ip(), to.port()));
    captured.into_iter().find(|to| has_route(*to))
}

/// A UDP socket that connects asks for a route and sends nothing.
fn has_route(to: SocketAddr) -> bool {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect(to).is_ok())
}

/// For every address of an interface that others share, the two beside it (one of them may be
/// the network's own or its broadcast address).
fn neighbours() -> Vec<IpAddr> {
    let shared = |flags: InterfaceFlags| {
        flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
    };
    let interfaces = getifaddrs().into_iter().flatten().filter(|interface| shared(interface.flags));
    let addresses = interfaces.filter_map(|interface| interface.address);
    addresses.flat_map(|address| [1, 2].map(|bit| beside(&address, bit))).flatten().collect()
}

fn beside(address: &SockaddrStorage, bit: u8) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(Ipv4Addr::from_bits(v4.ip().to_bits() ^ u32::from(bit)).into());
    }
    let v6 = address.as_sockaddr_in6()?.ip();
    (!v6.is_unicast_link_local()).then(|| Ipv6Addr::from_bits(v6.to_bits() ^ u128::from(bit)).into())
}

const fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}
