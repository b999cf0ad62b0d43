//! The few things that this proxy asks of the kernel about one TCP socket.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    time::Duration,
};

use mesh::contract::{ADMIN_PORT, INBOUND_PORT, OUTBOUND_PORT};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use crate::failure::ConnectError;

/// How long an endpoint, or the own application, may take to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Idle tunnels are probed after this long…
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// …this often…
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// …and given up after this many unanswered probes.
const KEEPALIVE_PROBES: u32 = 6;

/// Where a captured connection was going before iptables redirected it to us. Its caller's address, [`canonical`], is of the
/// same family.
///
/// # Errors
/// When the connection was not redirected: somebody dialled the proxy itself.
pub fn original_destination(stream: &TcpStream, caller: SocketAddr) -> io::Result<SocketAddr> {
    let socket = SockRef::from(stream);
    let address = if caller.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() }?;
    address
        .as_socket()
        .map(canonical)
        .ok_or_else(|| io::Error::other("the original destination is no IP address"))
}

/// Whether a port is one of those that only captured connections may come to.
pub fn is_own_port(port: u16) -> bool {
    [OUTBOUND_PORT, INBOUND_PORT, ADMIN_PORT].contains(&port)
}

/// An address as people write it: IPv4 in IPv6 becomes plain IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(unmapped(address.ip()), address.port())
}

/// Dials an address, waiting at most `limit` (none: as long as the kernel does).
///
/// # Errors
/// What the kernel says, or [`ConnectError::Timeout`].
pub async fn connect(address: SocketAddr, limit: Option<Duration>) -> Result<TcpStream, ConnectError> {
    let socket = new_socket(address).map_err(ConnectError::Io)?;
    tune(&socket);
    dial(socket, address, limit).await
}

/// Dials an address of this very pod, as [`connect`]: its kernel is ours, and needs no probes.
///
/// # Errors
/// As [`connect`].
pub async fn connect_here(address: SocketAddr, limit: Option<Duration>) -> Result<TcpStream, ConnectError> {
    let socket = new_socket(address).map_err(ConnectError::Io)?;
    let _ = socket.set_nodelay(true);
    dial(socket, address, limit).await
}

fn new_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

async fn dial(
    socket: TcpSocket,
    address: SocketAddr,
    limit: Option<Duration>,
) -> Result<TcpStream, ConnectError> {
    let dial = socket.connect(address);
    let stream = match limit {
        None => dial.await,
        Some(limit) => {
            tokio::time::timeout(limit, dial).await.map_err(|_| ConnectError::Timeout(limit.as_secs()))?
        }
    };
    stream.map_err(ConnectError::Io)
}

/// Sets what every socket of the proxy has: no Nagle delay, and keep-alive probes that find dead peers. What is accepted
/// has what its listener has.
pub fn tune(socket: &impl AsFd) {
    let socket = SockRef::from(socket);
    // Both can only fail on a socket that is already dead, which the next read tells.
    let _ = socket.set_tcp_nodelay(true);
    let probes = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    let _ = socket.set_tcp_keepalive(&probes);
}

/// Makes the coming close a reset, so that the other side never takes a broken stream for a whole one.
pub fn reset_on_close(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

fn unmapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}
