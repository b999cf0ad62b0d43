//! Switching protocols (websockets and their like), across the mesh.
//!
//! HTTP/2 has no Upgrade, so between proxies the request is an extended CONNECT (RFC 8441) whose protocol is the
//! token that the client asked for. Bytes flow only after the server's own 101 has come back; the connection that
//! carried the switch is never used for another request.

use hyper::{
    Method, Request, Response, StatusCode,
    ext::Protocol,
    header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE},
    upgrade::{OnUpgrade, on},
};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tracing::debug;

use super::form::{STATUS, SWITCHED};
use crate::body::Body;

/// The status that carries a declined switch between proxies; the server's own is in [`STATUS`].
const DECLINED: StatusCode = StatusCode::CONFLICT;

/// Makes a client's request one that can cross the mesh.
pub fn into_connect(request: &mut Request<Body>, protocol: &HeaderValue) {
    if let Ok(protocol) = protocol.to_str() {
        request.extensions_mut().insert(Protocol::from(protocol));
    }
    *request.method_mut() = Method::CONNECT;
}

/// The protocol of a request that came across the mesh to switch; it becomes the client's own request again.
pub fn from_connect(request: &mut Request<Body>) -> Option<HeaderValue> {
    if *request.method() != Method::CONNECT {
        return None;
    }
    let protocol = request.extensions_mut().remove::<Protocol>()?;
    let protocol = HeaderValue::try_from(protocol.as_str()).ok()?;
    *request.method_mut() = Method::GET;
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(UPGRADE, protocol.clone());
    Some(protocol)
}

/// What a server's proxy answers to the client's: a success for a switch, [`DECLINED`] for all else that HTTP/2 would
/// mistake for one.
pub fn to_peer(mut response: Response<Body>) -> Response<Body> {
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let protocol = response.headers_mut().remove(UPGRADE).unwrap_or(HeaderValue::from_static("unknown"));
        response.headers_mut().remove(CONNECTION);
        response.headers_mut().insert(SWITCHED, protocol);
        *response.status_mut() = StatusCode::OK;
    } else if status.is_success() {
        response.headers_mut().insert(STATUS, HeaderValue::from(status.as_u16()));
        *response.status_mut() = DECLINED;
    }
    response
}

/// Undoes [`to_peer`] on the client's side.
pub fn from_peer(mut response: Response<Body>) -> Response<Body> {
    if let Some(protocol) = response.headers_mut().remove(SWITCHED) {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        switching(response.headers_mut(), protocol);
    } else if let Some(status) =
        response.headers_mut().remove(STATUS).filter(|_| response.status() == DECLINED)
    {
        *response.status_mut() = StatusCode::from_bytes(status.as_bytes()).unwrap_or(StatusCode::BAD_GATEWAY);
    }
    response
}

/// Joins the two sides once the 101 has gone out. What the switched streams carry is nobody's business but theirs.
pub fn join(client: OnUpgrade, response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let Some(server) = parts.extensions.remove::<OnUpgrade>() else {
        return Response::from_parts(parts, body);
    };
    tokio::spawn(async move {
        // The body holds the exchange, and so the load, for as long as the switched streams run.
        let _exchange = body;
        match tokio::try_join!(client, server) {
            Ok((client, server)) => {
                let ended = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(server)).await;
                debug!(?ended, "a switched connection ended");
            }
            Err(error) => debug!(%error, "a switch did not come about"),
        }
    });
    Response::from_parts(parts, Body::empty())
}

/// The client's side of a switch, to be taken before its request is sent on.
pub fn client_side<B>(request: &mut Request<B>) -> OnUpgrade {
    on(request)
}

fn switching(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol);
}
