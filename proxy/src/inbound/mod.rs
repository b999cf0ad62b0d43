//! Connections to this pod: from peers in mesh TLS, from everybody else as the mode allows.
//!
//! What arrives is delivered to the address that was dialled, never to loopback: a server that trusts 127.0.0.1 must
//! not come to trust the world. Whatever way HTTP comes, it is read as HTTP, so that nobody's claims of identity reach
//! the application.

mod guard;
mod http;
mod tunnels;

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use mesh::{
    contract::ALPN_MESH,
    detect::{ClientHello, Detected, client_hello},
    identity::Identity,
};
use tokio::{net::TcpStream, time::timeout};
use tracing::{debug, info, warn};

use guard::{Verdict, Watched};

use crate::{
    carry::{Trip, carry},
    config::MtlsMode,
    http::{HttpVersion, serve::Limits},
    identity::{Inside, Trusted},
    metrics::{Direction, Way},
    net::{
        peek::{Peeked, Settled},
        socket::{CONNECT_TIMEOUT, connect_here, is_own_port, original_destination, reset_on_close},
        stream::Stream,
    },
    proxy::Proxy,
    tls,
    tunnel::Peer,
};

/// How long a caller may take to say who it is, once it has begun.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a caller from outside the mesh may be silent before the application is asked whether it speaks first. A
/// peer's proxy has waited already: what its client says comes with the tunnel, or the application is asked at once.
const SILENCE: Duration = Duration::from_millis(5);
/// How long a silent caller from a meshed pod is waited for: a peer's ClientHello follows its handshake at once, but for
/// what it costs a busy proxy.
const SILENT_PEER: Duration = Duration::from_secs(1);
/// How long a caller that has begun in a way that many protocols begin may take to go on, before its bytes are passed on
/// (and looked at).
const PATIENCE: Duration = Duration::from_millis(50);
/// The first byte of every ClientHello: a TLS record of the handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Serves one captured connection from `caller`. Each phase is boxed, as on the way out.
pub async fn serve(proxy: Arc<Proxy>, stream: TcpStream, caller: SocketAddr) {
    let Some(server) = original_destination(&stream, caller).ok().filter(|to| !is_own_port(to.port())) else {
        return refuse(&proxy, &stream, caller, "not_captured", "it dialled the proxy's own port");
    };
    let mut stream = Peeked::new(stream);
    match Box::pin(who(&proxy, &mut stream, caller, server)).await {
        Ok(Caller::Peer) => Box::pin(peer(&proxy, stream, caller, server)).await,
        Ok(Caller::Unmeshed(first)) => Box::pin(deliver(&proxy, stream, None, server, first)).await,
        Ok(Caller::Refused(reason, why)) => refuse(&proxy, stream.socket(), caller, reason, why),
        Err(error) => debug!(%caller, %server, %error, "a caller left before it said anything"),
    }
}

/// Who calls, by its first bytes.
enum Caller {
    /// A peer's proxy: its ClientHello offers mesh TLS.
    Peer,
    /// Anybody else, who may come in; and how its connection begins.
    Unmeshed(First),
    /// Anybody else, who may not.
    Refused(&'static str, &'static str),
}

/// How a connection begins.
enum First {
    /// With a request.
    Http(HttpVersion),
    /// With bytes of another kind.
    Bytes,
    /// With what the application says, on a connection that was made to listen.
    Server(TcpStream),
    /// With bytes that may be the beginning of anything, HTTP included; the application has been dialled.
    Unclear(TcpStream),
}

async fn who(
    proxy: &Proxy,
    stream: &mut Peeked,
    caller: SocketAddr,
    server: SocketAddr,
) -> io::Result<Caller> {
    let accepts_plaintext = proxy.config.mtls_mode == MtlsMode::Permissive
        || proxy.config.plaintext_inbound_ports.contains(server.port());
    if !accepts_plaintext {
        let peer = begun(offers_mesh_tls(stream)).await.unwrap_or(false);
        let refused =
            Caller::Refused("plaintext_in_strict_mode", "it does not speak mesh TLS, in strict mode");
        return Ok(if peer { Caller::Peer } else { refused });
    }
    // A peer speaks first, however late: its server's greeting must not come before its ClientHello.
    let unclear = timeout(SILENCE, stream.detect()).await.is_err();
    if unclear && stream.ahead().is_empty() && proxy.discovery.is_meshed(caller.ip()).await {
        // Or it went past its proxy (a skipped port) and waits for its server: then nothing comes.
        let _ = timeout(SILENT_PEER, stream.read_more()).await;
    }
    let Some(first) = first(proxy, stream, server).await? else {
        return Ok(Caller::Refused("connection_refused", "the application does not accept"));
    };
    let tls = stream.ahead().first() == Some(&TLS_HANDSHAKE);
    let peer = tls && begun(offers_mesh_tls(stream)).await.is_ok_and(|peer| peer);
    Ok(if peer { Caller::Peer } else { Caller::Unmeshed(first) })
}

/// How a connection to the application begins; none when the application does not accept.
async fn first<S: Stream>(
    proxy: &Proxy,
    stream: &mut Peeked<S>,
    server: SocketAddr,
) -> io::Result<Option<First>> {
    if proxy.config.opaque_ports.contains(server.port()) {
        return Ok(Some(First::Bytes));
    }
    let application = tokio::select! {
        biased;
        detected = stream.detect() => {
            let detected = detected?;
            return First::of(detected, stream.ahead(), server).await;
        }
        application = connect_here(server, Some(CONNECT_TIMEOUT)) => application,
    };
    let Ok(application) = application else { return Ok(None) };
    let mut greeting = [0; 1];
    let settled = tokio::select! {
        biased;
        _ = application.peek(&mut greeting) => return Ok(Some(First::Server(application))),
        settled = stream.settle(patience) => settled?,
    };
    Ok(Some(match settled {
        Settled::Undecided => First::Unclear(application),
        Settled::Ended => First::Server(application),
        Settled::Speaks(Detected::Http2) => First::Http(HttpVersion::Http2),
        Settled::Speaks(_) => match guard::verdict(stream.ahead()) {
            Verdict::Http => First::Http(HttpVersion::Http1),
            Verdict::Unclear => First::Unclear(application),
            Verdict::Clear => First::Server(application),
        },
    }))
}

/// How long a caller that has begun may take to make clear what it speaks.
fn patience(first_byte: u8) -> Duration {
    if first_byte == TLS_HANDSHAKE { HANDSHAKE } else { PATIENCE }
}

impl First {
    /// What cannot be routed as HTTP may still be HTTP to the application: then it is read, and refused, as HTTP.
    async fn of(detected: Option<Detected>, ahead: &[u8], server: SocketAddr) -> io::Result<Option<Self>> {
        Ok(match (detected, guard::verdict(ahead)) {
            (Some(Detected::Http2), _) => Some(Self::Http(HttpVersion::Http2)),
            (None, _) | (_, Verdict::Clear) => Some(Self::Bytes),
            (_, Verdict::Http) => Some(Self::Http(HttpVersion::Http1)),
            (_, Verdict::Unclear) => {
                connect_here(server, Some(CONNECT_TIMEOUT)).await.ok().map(Self::Unclear)
            }
        })
    }
}

/// What a caller has begun must go on.
async fn begun<T>(what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(HANDSHAKE, what).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Whether a connection begins with a ClientHello whose ALPN is the mesh's. A connection that has said nothing yet is
/// waited for; one that says anything else is told by its first byte.
async fn offers_mesh_tls(stream: &mut Peeked) -> io::Result<bool> {
    loop {
        match client_hello(stream.ahead()) {
            ClientHello::Hello { alpn, .. } => {
                return Ok(alpn.iter().any(|name| ALPN_MESH.contains(&name.as_slice())));
            }
            ClientHello::Invalid => return Ok(false),
            ClientHello::NeedMore => {
                if !stream.read_more().await? {
                    return Ok(false);
                }
            }
        }
    }
}

/// A peer's proxy: both identities are proven before anything is carried.
async fn peer(proxy: &Arc<Proxy>, stream: Peeked, caller: SocketAddr, server: SocketAddr) {
    let Some((mut connection, peer, inside)) = Box::pin(meet(proxy, stream, caller, server)).await else {
        return;
    };
    match inside {
        Inside::H2 => {
            // Its preface follows its handshake at once (RFC 9113 section 3.4). So our first word goes out with the answer to
            // it, in one write, and to a peer that has left nothing is said.
            let there = connection.get_mut().look().await;
            if !matches!(there, Ok(true)) {
                return debug!(%caller, %server, ?there, "a peer's connection ended before it said anything");
            }
            let context = http::Context::peer(proxy, peer, server);
            let until = Some(connection.usable());
            let connection = Peeked::new(connection as Box<dyn Stream>);
            Box::pin(http::serve(context, connection, HttpVersion::Http2, Limits::PEER, until)).await;
        }
        Inside::Tcp => Box::pin(tunnel(proxy, Peeked::new(connection), peer, caller, server)).await,
        Inside::Tunnels => Box::pin(tunnels::serve(proxy, connection, peer, caller, server)).await,
    }
}

/// The connection of a caller that proved who it is, and what it wants to speak.
async fn meet(
    proxy: &Proxy,
    stream: Peeked,
    caller: SocketAddr,
    server: SocketAddr,
) -> Option<(Peer, Identity, Inside)> {
    let Some(credentials) = proxy.credentials.borrow().clone() else {
        let why = "this proxy has no certificate yet";
        refuse(proxy, stream.socket(), caller, "proxy_configuration_error", why);
        return None;
    };
    let (ahead, stream) = stream.into_parts();
    let handshake = tls::accept(credentials.server_config(), ahead.into(), stream);
    let (tls, agreed) = match timeout(HANDSHAKE, handshake).await {
        Ok(Ok(met)) => met,
        Ok(Err(error)) => {
            warn!(%caller, %server, %error, "refused a peer: the handshake failed");
            proxy.metrics.refuse(Direction::Inbound, "tls_certificate_error");
            return None;
        }
        Err(_) => {
            proxy.metrics.refuse(Direction::Inbound, "tls_handshake_timeout");
            return None;
        }
    };
    let chain = credentials.met(agreed.certificates);
    let (Some(chain), Some(inside)) = (chain, Inside::agreed(agreed.alpn.as_deref())) else {
        refuse(proxy, tls.socket(), caller, "tls_protocol_error", "it agreed on no mesh protocol");
        return None;
    };
    let peer = chain.identity().clone();
    let connection = Trusted::new(tls, chain, &credentials, proxy.credentials.clone());
    Some((Box::new(connection), peer, inside))
}

/// The bytes of one connection of a peer's application.
async fn tunnel<S: Stream + 'static>(
    proxy: &Arc<Proxy>,
    mut stream: Peeked<S>,
    peer: Identity,
    caller: SocketAddr,
    server: SocketAddr,
) {
    match Box::pin(first(proxy, &mut stream, server)).await {
        Ok(Some(first)) => Box::pin(deliver(proxy, stream, Some(peer), server, first)).await,
        Ok(None) => {
            refuse(proxy, stream.socket(), caller, "connection_refused", "the application does not accept");
        }
        Err(error) => {
            debug!(%caller, %server, %error, "a peer left before it said anything");
            reset_on_close(stream.socket());
        }
    }
}

/// Hands a connection to the application, whose caller is `peer` or nobody that could be named.
async fn deliver<S: Stream + 'static>(
    proxy: &Arc<Proxy>,
    mut stream: Peeked<S>,
    peer: Option<Identity>,
    server: SocketAddr,
    first: First,
) {
    let unclear = matches!(first, First::Unclear(_));
    let mut application = match first {
        First::Http(version) => {
            let context = match peer {
                Some(peer) => http::Context::tunnelled(proxy, peer, server, version),
                None => http::Context::unmeshed(proxy, server, version),
            };
            return Box::pin(http::serve(context, stream.boxed(), version, Limits::UNMESHED, None)).await;
        }
        First::Server(application) | First::Unclear(application) => application,
        First::Bytes => match Box::pin(connect_here(server, Some(CONNECT_TIMEOUT))).await {
            Ok(application) => application,
            Err(error) => {
                info!(%server, error = crate::failure::chain(&error), "the application does not accept");
                proxy.metrics.refuse(Direction::Inbound, error.reason());
                return reset_on_close(stream.socket());
            }
        },
    };
    if peer.is_none() {
        proxy.metrics.plaintext(server.port());
    }
    let way = Way { server_port: Some(server.port()), ..Way::with_peer(peer.as_ref()) };
    let trip = Box::new(Trip { direction: Direction::Inbound, way, destination: server });
    if unclear {
        let mut watched = Watched::new(&mut stream, || {
            info!(%server, "cut a caller off: it began like no HTTP client, and speaks HTTP");
            proxy.metrics.refuse(Direction::Inbound, "http_protocol_error");
        });
        Box::pin(carry(proxy, trip, &mut watched, &mut application)).await;
    } else {
        Box::pin(carry(proxy, trip, &mut stream, &mut application)).await;
    }
}

fn refuse(proxy: &Proxy, stream: &TcpStream, caller: SocketAddr, reason: &'static str, why: &str) {
    warn!(%caller, reason, "refused a caller: {why}");
    proxy.metrics.refuse(Direction::Inbound, reason);
    reset_on_close(stream);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::Lent;

    type Proxied = &'static Arc<Proxy>;
    type Tunnel = Peeked<Lent<Peer>>;

    fn size<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[track_caller]
    fn check(phases: &[usize]) {
        let size: usize = phases.iter().sum();
        assert!(size < 2560, "{size} bytes: box what is moved into these phases: {phases:?}");
    }

    #[test]
    fn the_phases_of_an_idle_connection_are_small() {
        let serve = size(|(a, b, c)| serve(a, b, c));
        let peer = size(|(a, b, c, d): (Proxied, _, _, _)| peer(a, b, c, d));
        let tunnels = size(|(a, b, c, d, e): (Proxied, Peer, _, _, _)| tunnels::serve(a, b, c, d, e));
        let tunnel = size(|(a, b, c, d, e): (Proxied, Tunnel, _, _, _)| tunnel(a, b, c, d, e));
        let tunnelled = size(|(a, b, c, d, e): (Proxied, Tunnel, _, _, _)| deliver(a, b, c, d, e));
        let plain = size(|(a, b, c, d, e): (Proxied, Peeked, _, _, _)| deliver(a, b, c, d, e));
        check(&[serve, peer, tunnels, tunnel, tunnelled]);
        check(&[serve, plain]);
    }
}
