//! What a connection speaks: told by declaration first, by its first bytes otherwise.
//!
//! In this order: the Service port's `appProtocol` or the pods' opaque ports; a route that names the port; the first
//! bytes. A client that stays silent may be waiting for the server to speak first (MySQL, SMTP): then an endpoint is
//! dialled and both sides are listened to. Silence alone never makes a connection opaque.

use std::{io, time::Duration};

use mesh::{
    detect::Detected,
    route::{AppProtocol, Governing},
};
use tokio::time::timeout;

use super::{Target, tcp};
use crate::{http::HttpVersion, net::peek::Peeked, upstream::Upstream};

/// How long a client may be silent before the server is asked whether it speaks first. A client that speaks first
/// does so with the handshake's last packet; the sum with a local dial stays far below what a person notices.
const SILENCE: Duration = Duration::from_millis(10);

/// What is to be done with a connection.
pub enum Speaks {
    /// Requests, each routed by itself.
    Http(HttpVersion),
    /// Bytes, routed once. A connection may have been dialled already, to listen.
    Bytes(Option<tcp::Dialled>),
}

/// Works out what a client speaks.
///
/// # Errors
/// When the client leaves before it is clear.
pub async fn of(client: &mut Peeked, target: &Target) -> io::Result<Speaks> {
    match declared(target) {
        Declared::Bytes => Ok(Speaks::Bytes(None)),
        Declared::Http => Ok(match client.detect().await? {
            Some(Detected::Http2) => Speaks::Http(HttpVersion::Http2),
            _ => Speaks::Http(HttpVersion::Http1),
        }),
        Declared::Nothing { http_route } => match timeout(SILENCE, client.detect()).await {
            Ok(detected) => Ok(by_bytes(detected?, client, http_route)),
            Err(_silent) => ask_both(client, target, http_route).await,
        },
    }
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
        // An explicit proxy's CONNECT is a tunnel of the application's own where nothing says HTTP.
        Some(Detected::Http1) if !http_route && client.ahead().starts_with(b"CONNECT ") => {
            Speaks::Bytes(None)
        }
        Some(Detected::Http1) => Speaks::Http(HttpVersion::Http1),
        Some(Detected::Http2) => Speaks::Http(HttpVersion::Http2),
        Some(Detected::Tls | Detected::Opaque) | None => Speaks::Bytes(None),
    }
}

/// Listens to the client and to an endpoint until one of them speaks.
async fn ask_both(client: &mut Peeked, target: &Target, http_route: bool) -> io::Result<Speaks> {
    let Ok(mut dialled) = tcp::dial(target, false).await else {
        // No endpoint to listen to: the client's own bytes must tell, so that a request still gets its answer.
        let detected = client.detect().await?;
        return Ok(by_bytes(detected, client, http_route));
    };
    tokio::select! {
        // A server that speaks first is believed even when the client's first bytes come at the same moment.
        biased;
        () = speaks(&mut dialled.upstream) => Ok(Speaks::Bytes(Some(dialled))),
        detected = client.detect() => match by_bytes(detected?, client, http_route) {
            Speaks::Bytes(_) => Ok(Speaks::Bytes(Some(dialled))),
            http @ Speaks::Http(_) => Ok(http),
        },
    }
}

/// Returns when the endpoint has sent something, or has ended: both are for the client to see.
async fn speaks(upstream: &mut Upstream) {
    upstream.readable().await;
}
