//! The accept loops, which no error ends and which never hold more connections than they may.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tracing::warn;

use super::socket;

/// How long the kernel may queue connections that we have not accepted yet.
const BACKLOG: i32 = 4096;
/// How long to wait after an accept error such as "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Listens on a port of every address, IPv6 and IPv4 with one socket (IPv4 alone where there is no IPv6).
///
/// # Errors
/// When the port is taken; the message names it.
pub fn bind(port: u16) -> io::Result<TcpListener> {
    let wildcard6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let wildcard4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    match bind_to(wildcard6) {
        Err(e) if e.kind() != io::ErrorKind::AddrInUse => bind_to(wildcard4),
        bound => bound,
    }
    .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on port {port}: {e}")))
}

/// Listens on one address.
///
/// # Errors
/// When the address is taken or not ours.
pub fn bind_to(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Whatever is accepted inherits it.
    socket::tune(&socket);
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts for ever; each connection is served by a task of its own, so that its panic ends it alone.
///
/// Each connection takes a place of every limit; without one it waits, and the kernel's queue holds the next back.
pub async fn serve<F, Fut>(listener: TcpListener, limits: Vec<Arc<Semaphore>>, serve: F)
where
    F: Fn(TcpStream, SocketAddr) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    loop {
        let (stream, peer) = accept(&listener).await;
        let mut places = Vec::with_capacity(limits.len());
        for limit in &limits {
            let Ok(place) = Arc::clone(limit).acquire_owned().await else { return };
            places.push(place);
        }
        begin(stream, peer, places, &serve);
    }
}

/// As [`serve`], but nobody waits behind somebody else: `place` gives each connection its place by its caller's address,
/// and one that gets none is reset at once.
pub async fn serve_or_reset<P, F, Fut>(listener: TcpListener, place: impl Fn(IpAddr) -> Option<P>, serve: F)
where
    P: Send + 'static,
    F: Fn(TcpStream, SocketAddr) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    loop {
        let (stream, peer) = accept(&listener).await;
        match place(peer.ip()) {
            Some(place) => begin(stream, peer, place, &serve),
            None => socket::reset_on_close(&stream),
        }
    }
}

/// The next connection, however many errors come before it.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, socket::canonical(peer)),
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves a connection, which holds its places as long as it lasts.
fn begin<P, F, Fut>(stream: TcpStream, peer: SocketAddr, places: P, serve: &F)
where
    P: Send + 'static,
    F: Fn(TcpStream, SocketAddr) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    // Not an async block, which would hold room for the connection twice.
    tokio::spawn(serve(stream, peer).map(move |()| drop(places)));
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    #[tokio::test]
    async fn what_is_accepted_is_tuned_as_its_listener() {
        let listener = bind_to((Ipv4Addr::LOCALHOST, 0).into()).expect("a listener");
        let to = listener.local_addr().expect("its address");
        let dial = socket::connect_here(to, None);
        let (dialled, (accepted, _)) = tokio::join!(dial, accept(&listener));
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().expect("an option") && socket.keepalive().expect("an option"));
        assert!(dialled.expect("a connection").nodelay().expect("an option"));
    }
}
