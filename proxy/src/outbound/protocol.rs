//! What a connection speaks: told by declaration first, by its first bytes otherwise.
//!
//! In this order: the Service port's `appProtocol` or the pods' opaque ports; a route that names the port; the first
//! bytes. A client that stays silent may be waiting for the server to speak first (MySQL, SMTP): then an endpoint is
//! dialled and both sides are listened to. Silence alone never makes a connection opaque.

use std::{io, net::SocketAddr, time::Duration};

use mesh::{
    detect::Detected,
    route::{AppProtocol, Governing},
};
use tokio::time::timeout;

use super::{Target, tcp};
use crate::{
    http::HttpVersion,
    net::peek::{Peeked, Settled},
};

/// How long a client may be silent before the server is asked whether it speaks first. A client that speaks first
/// does so with the handshake's last packet or right after it; for one that is slower a connection is dialled in vain.
const SILENCE: Duration = Duration::from_millis(5);

/// How long a client that has begun in a way that many protocols begin (`hello`) may take to go on, before its bytes
/// are carried as they are: it may be waiting for its answer…
const PATIENCE: Duration = Duration::from_millis(50);
/// …and where a route waits for HTTP, so that a slow typist is routed, too.
const ROUTED_PATIENCE: Duration = Duration::from_secs(3);

/// What is to be done with a connection.
pub enum Speaks {
    /// Requests, each routed by itself.
    Http(HttpVersion),
    /// Bytes, routed once. A connection may have been dialled already, to listen.
    Bytes(Option<Box<tcp::Dialled>>),
}

/// Works out what a client speaks.
///
/// # Errors
/// When the client leaves before it is clear.
pub async fn of(client: &mut Peeked, target: &Target, destination: SocketAddr) -> io::Result<Speaks> {
    match declared(target) {
        Declared::Bytes => Ok(Speaks::Bytes(None)),
        Declared::Http => Ok(match client.detect().await? {
            Some(Detected::Http2) => Speaks::Http(HttpVersion::Http2),
            _ => Speaks::Http(HttpVersion::Http1),
        }),
        Declared::Nothing { http_route } => match timeout(SILENCE, client.detect()).await {
            Ok(detected) => Ok(by_bytes(detected?, client, http_route)),
            Err(_silent) => ask_both(client, target, destination, http_route).await,
        },
    }
}

/// Whether neither a declaration nor a route says what a target speaks: what its clients ask of a proxy is then none
/// of the mesh's business.
pub fn is_unclaimed(target: &Target) -> bool {
    matches!(declared(target), Declared::Nothing { http_route: false })
}

enum Declared {
    Bytes,
    Http,
    Nothing { http_route: bool },
}

fn declared(target: &Target) -> Declared {
    let (service, port) = match target {
        Target::Pod(endpoint) if endpoint.opaque => return Declared::Bytes,
        Target::Pod(_) => return Declared::Nothing { http_route: false },
        Target::Service(service, port) => (service, port),
    };
    let table = service.table();
    let Some(port) = table.routes.ports.get(port) else { return Declared::Bytes };
    let opaque = || table.backends.get(port.default).is_some_and(|backend| backend.is_opaque());
    match (port.declared, &port.governing) {
        (Some(AppProtocol::Tcp | AppProtocol::Tls), _) | (_, Governing::Tcp { .. }) => Declared::Bytes,
        (Some(AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::WebSocket), _) => Declared::Http,
        (None, _) if opaque() => Declared::Bytes,
        (None, Governing::Http { port_named: true, .. }) => Declared::Http,
        (None, Governing::Http { .. }) => Declared::Nothing { http_route: true },
        (None, Governing::Default | Governing::Tls { .. } | Governing::Refused { .. }) => {
            Declared::Nothing { http_route: false }
        }
    }
}

fn by_bytes(detected: Option<Detected>, client: &Peeked, http_route: bool) -> Speaks {
    match detected {
        // What an explicit proxy is asked is between it and its client where no route says HTTP.
        Some(Detected::Http1) if !http_route && asks_a_proxy(client.ahead()) => Speaks::Bytes(None),
        Some(Detected::Http1) => Speaks::Http(HttpVersion::Http1),
        Some(Detected::Http2) => Speaks::Http(HttpVersion::Http2),
        Some(Detected::Tls | Detected::Opaque) | None => Speaks::Bytes(None),
    }
}

/// CONNECT, or a target that names a scheme (RFC 9112 sections 3.2.2 and 3.2.3).
fn asks_a_proxy(head: &[u8]) -> bool {
    let mut words = head.split(|byte| *byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    method == b"CONNECT" || target.get(..4).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"http"))
}

/// Listens to the client and to an endpoint until one of them speaks. The client is listened to while the endpoint is
/// still being dialled.
async fn ask_both(
    client: &mut Peeked,
    target: &Target,
    destination: SocketAddr,
    http_route: bool,
) -> io::Result<Speaks> {
    let patience = |_| if http_route { ROUTED_PATIENCE } else { PATIENCE };
    let dialled = tokio::select! {
        biased;
        detected = client.detect() => return Ok(by_bytes(detected?, client, http_route)),
        dialled = tcp::dial(target, destination, false) => dialled,
    };
    let Ok(mut dialled) = dialled else {
        // No endpoint to listen to: the client's own bytes must tell, so that a request still gets its answer.
        let detected = client.detect().await?;
        return Ok(by_bytes(detected, client, http_route));
    };
    let settled = tokio::select! {
        // A server that speaks first is believed even when the client's first bytes come at the same moment.
        biased;
        () = dialled.upstream.readable() => return Ok(Speaks::Bytes(Some(dialled))),
        settled = client.settle(patience) => settled?,
    };
    let detected = match settled {
        Settled::Speaks(detected) => Some(detected),
        Settled::Ended | Settled::Undecided => None,
    };
    match by_bytes(detected, client, http_route) {
        Speaks::Bytes(_) => Ok(Speaks::Bytes(Some(dialled))),
        http @ Speaks::Http(_) => Ok(http),
    }
}
