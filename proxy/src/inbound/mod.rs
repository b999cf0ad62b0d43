//! Connections to this pod: from peers in mesh TLS, from everybody else as the mode allows.
//!
//! What arrives is delivered to the address that was dialled, never to loopback: a server that trusts 127.0.0.1 must
//! not come to trust the world.

mod http;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use mesh::{
    contract::{ADMIN_PORT, ALPN_H2, ALPN_TCP, INBOUND_PORT, OUTBOUND_PORT},
    detect::{ClientHello, Detected, client_hello},
    identity::Identity,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{debug, info, warn};

use crate::{
    config::MtlsMode,
    http::HttpVersion,
    identity::{Credentials, Inside, peer_identity},
    metrics::{Direction, Security, TcpLabels},
    net::{
        peek::Peeked,
        relay::{Stream, relay, relay_peeked},
        socket::{connect, original_destination, reset_on_close},
    },
    proxy::Proxy,
};

/// How long a caller may take to say who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long an unmeshed caller may be silent before the application is asked whether it speaks first.
const SILENCE: Duration = Duration::from_millis(10);
/// How long the application may take to accept.
const CONNECT: Duration = Duration::from_secs(3);

/// Serves one captured connection from `caller`.
pub async fn serve(proxy: Arc<Proxy>, stream: TcpStream, caller: SocketAddr) {
    let Some(server) = original_destination(&stream).ok().filter(|to| !is_own_port(*to)) else {
        return refuse(&proxy, &stream, caller, "not_captured", "it dialled the proxy's own port");
    };
    let mut stream = Peeked::new(stream);
    match caller_kind(&proxy, &mut stream, caller, server).await {
        Ok(Caller::Peer) => peer(&proxy, stream, caller, server).await,
        Ok(Caller::Unmeshed(first)) => unmeshed(&proxy, stream, server, first).await,
        Ok(Caller::Refused(reason, why)) => refuse(&proxy, stream.socket(), caller, reason, why),
        Err(error) => debug!(%caller, %server, %error, "a caller left before it said anything"),
    }
}

/// Who calls, by its first bytes.
enum Caller {
    /// A peer's proxy: its ClientHello offers mesh TLS.
    Peer,
    /// Anybody else, who may come in; and what it speaks.
    Unmeshed(First),
    /// Anybody else, who may not.
    Refused(&'static str, &'static str),
}

/// How an unmeshed caller's connection begins.
enum First {
    Http1,
    Http2,
    Bytes,
    /// The application spoke first, on a connection that was made to listen.
    Server(TcpStream),
}

async fn caller_kind(
    proxy: &Proxy,
    stream: &mut Peeked,
    caller: SocketAddr,
    server: SocketAddr,
) -> io::Result<Caller> {
    let accepts_plaintext = proxy.config.mtls_mode == MtlsMode::Permissive
        || proxy.config.plaintext_inbound_ports.contains(server.port());
    if !accepts_plaintext {
        let peer = timeout(HANDSHAKE, offers_mesh_tls(stream)).await;
        return Ok(match peer {
            Ok(Ok(true)) => Caller::Peer,
            Ok(Ok(false)) => {
                Caller::Refused("plaintext_in_strict_mode", "it does not speak mesh TLS, in strict mode")
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => Caller::Refused("plaintext_in_strict_mode", "it was silent, in strict mode"),
        });
    }
    match timeout(SILENCE, stream.detect()).await {
        Ok(detected) => first(stream, detected?).await,
        Err(_silent) => silent_caller(proxy, stream, caller, server).await,
    }
}

/// A caller that says nothing: a peer's proxy on its way, or the client of a server that speaks first.
async fn silent_caller(
    proxy: &Proxy,
    stream: &mut Peeked,
    caller: SocketAddr,
    server: SocketAddr,
) -> io::Result<Caller> {
    // A peer always speaks first, however late: its server's greeting must not come before its ClientHello.
    if proxy.discovery.is_meshed(caller.ip()).await {
        let detected = timeout(HANDSHAKE, stream.detect()).await.map_err(|_| io::ErrorKind::TimedOut)?;
        return first(stream, detected?).await;
    }
    let Ok(application) = connect(server, Some(CONNECT)).await else {
        return Ok(Caller::Refused("connection_refused", "the application does not accept"));
    };
    let mut greeting = [0; 1];
    tokio::select! {
        biased;
        _ = application.peek(&mut greeting) => (),
        detected = stream.detect() => return first(stream, detected?).await,
    }
    Ok(Caller::Unmeshed(First::Server(application)))
}

async fn first(stream: &mut Peeked, detected: Option<Detected>) -> io::Result<Caller> {
    Ok(match detected {
        Some(Detected::Tls) if offers_mesh_tls(stream).await? => Caller::Peer,
        Some(Detected::Http1) => Caller::Unmeshed(First::Http1),
        Some(Detected::Http2) => Caller::Unmeshed(First::Http2),
        Some(Detected::Tls | Detected::Opaque) | None => Caller::Unmeshed(First::Bytes),
    })
}

/// Whether a connection begins with a ClientHello whose ALPN is the mesh's.
async fn offers_mesh_tls(stream: &mut Peeked) -> io::Result<bool> {
    loop {
        match client_hello(stream.ahead()) {
            ClientHello::Hello { alpn, .. } => {
                return Ok(alpn.iter().any(|p| [ALPN_H2, ALPN_TCP].contains(&p.as_slice())));
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
    let Some(credentials) = proxy.credentials.borrow().clone() else {
        return refuse(
            proxy,
            stream.socket(),
            caller,
            "proxy_configuration_error",
            "this proxy has no certificate yet",
        );
    };
    let handshake = TlsAcceptor::from(credentials.server_config()).accept(stream);
    let tls = match timeout(HANDSHAKE, handshake).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            warn!(%caller, %server, %error, "refused a peer: the handshake failed");
            return proxy.metrics.refuse(Direction::Inbound, "tls_certificate_error");
        }
        Err(_) => return proxy.metrics.refuse(Direction::Inbound, "tls_handshake_timeout"),
    };
    let Some((peer, inside)) = agreed(&tls) else {
        return refuse(proxy, tls.socket(), caller, "tls_protocol_error", "it agreed on no mesh protocol");
    };
    match inside {
        Inside::H2 => http::serve_peer(proxy, tls, peer, server, remaining(&credentials)).await,
        Inside::Tcp => tunnel(proxy, tls, &peer, server).await,
    }
}

fn agreed(tls: &TlsStream<Peeked>) -> Option<(Identity, Inside)> {
    let session = tls.get_ref().1;
    let certificate = session.peer_certificates()?.first()?;
    Some((peer_identity(certificate).ok()?, Inside::agreed(session.alpn_protocol())?))
}

/// How long a connection may take new requests: until a tenth of our certificate's life is left.
fn remaining(credentials: &Credentials) -> Duration {
    let left = credentials.not_after.duration_since(std::time::SystemTime::now()).unwrap_or_default();
    left.saturating_sub(credentials.life / 10)
}

async fn tunnel(proxy: &Arc<Proxy>, mut tls: TlsStream<Peeked>, peer: &Identity, server: SocketAddr) {
    let mut application = match connect(server, Some(CONNECT)).await {
        Ok(application) => application,
        Err(error) => {
            info!(%peer, %server, error = crate::failure::chain(&error), "the application does not accept");
            proxy.metrics.refuse(Direction::Inbound, "connection_refused");
            return reset_on_close(tls.socket());
        }
    };
    debug!(%peer, %server, "carries a peer's bytes");
    let labels = TcpLabels::new(Direction::Inbound, None, Security::Mtls);
    proxy.metrics.tcp_opened(&labels);
    let carried = relay(&mut tls, &mut application).await;
    let (sent, received) = carried.map_or((0, 0), |carried| (carried.sent, carried.received));
    proxy.metrics.tcp_closed(&labels, sent, received);
}

async fn unmeshed(proxy: &Arc<Proxy>, stream: Peeked, server: SocketAddr, first: First) {
    proxy.metrics.plaintext(server.port());
    let opaque = proxy.config.opaque_ports.contains(server.port());
    let application = match first {
        First::Http1 if !opaque => {
            return http::serve_unmeshed(proxy, stream, server, HttpVersion::Http1).await;
        }
        First::Http2 if !opaque => {
            return http::serve_unmeshed(proxy, stream, server, HttpVersion::Http2).await;
        }
        First::Server(application) => Ok(application),
        First::Http1 | First::Http2 | First::Bytes => connect(server, Some(CONNECT)).await,
    };
    match application {
        Ok(mut application) => {
            let labels = TcpLabels::new(Direction::Inbound, None, Security::None);
            proxy.metrics.tcp_opened(&labels);
            let carried = relay_peeked(stream, &mut application).await;
            let (sent, received) = carried.map_or((0, 0), |carried| (carried.sent, carried.received));
            proxy.metrics.tcp_closed(&labels, sent, received);
        }
        Err(_) => reset_on_close(stream.socket()),
    }
}

fn is_own_port(to: SocketAddr) -> bool {
    [OUTBOUND_PORT, INBOUND_PORT, ADMIN_PORT].contains(&to.port())
}

fn refuse(proxy: &Proxy, stream: &TcpStream, caller: SocketAddr, reason: &'static str, why: &str) {
    warn!(%caller, reason, "refused a caller: {why}");
    proxy.metrics.refuse(Direction::Inbound, reason);
    reset_on_close(stream);
}
