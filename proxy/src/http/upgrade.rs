//! Switching protocols (websockets and their like), across the mesh.
//!
//! HTTP/2 has no Upgrade, so between proxies the request is an extended CONNECT (RFC 8441) whose protocol is the
//! token that the client asked for. Bytes flow only after the server's own 101 has come back; the connection that
//! carried the switch is never used for another request.

use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    ext::Protocol,
    header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, UPGRADE},
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tracing::debug;

use super::serve_h1::Noted;
use crate::{
    body::Body,
    net::{relay::copy, socket::reset_on_close, stream::Stream},
    upstream::Upstream,
};

/// The client's own method, which CONNECT hides.
const METHOD: HeaderName = HeaderName::from_static("heddle-method");
/// The protocol that a server switched to.
const SWITCHED: HeaderName = HeaderName::from_static("heddle-switched");
/// The status of a response that declined a switch with a success (which HTTP/2 would take for an acceptance).
const STATUS: HeaderName = HeaderName::from_static("heddle-status");
/// The status that carries such a response between proxies.
const DECLINED: StatusCode = StatusCode::CONFLICT;

/// Asks a server to switch, in HTTP/1.1's own words.
pub fn ask<B>(request: &mut Request<B>, protocol: &HeaderValue) {
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    request.headers_mut().insert(UPGRADE, protocol.clone());
}

/// Makes a client's request one that can cross the mesh.
pub fn into_connect<B>(request: &mut Request<B>, protocol: &HeaderValue) {
    if let Ok(protocol) = protocol.to_str() {
        request.extensions_mut().insert(Protocol::from(protocol));
    }
    if let Ok(method) = HeaderValue::from_str(request.method().as_str()) {
        request.headers_mut().insert(METHOD, method);
    }
    // It can only be zero, and CONNECT has none.
    request.headers_mut().remove(CONTENT_LENGTH);
    *request.method_mut() = Method::CONNECT;
}

/// The protocol of a request that came across the mesh to switch; it becomes the client's own request again.
pub fn from_connect<B>(request: &mut Request<B>) -> Option<HeaderValue> {
    if *request.method() != Method::CONNECT {
        return None;
    }
    let protocol = request.extensions_mut().remove::<Protocol>()?;
    let method = request.headers_mut().remove(METHOD);
    *request.method_mut() = method.and_then(|m| Method::from_bytes(m.as_bytes()).ok()).unwrap_or(Method::GET);
    HeaderValue::try_from(protocol.as_str()).ok()
}

/// What a server's proxy answers to the client's: a success for a switch, [`DECLINED`] for all else that HTTP/2 would
/// mistake for one.
pub fn to_peer(response: &mut Response<Body>) {
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
}

/// Undoes [`to_peer`] on the client's side; nothing to do for an answer that came straight from a server.
pub fn from_peer<B>(response: &mut Response<B>) {
    if let Some(protocol) = response.headers_mut().remove(SWITCHED) {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, protocol);
    } else if let Some(status) =
        response.headers_mut().remove(STATUS).filter(|_| response.status() == DECLINED)
    {
        *response.status_mut() = StatusCode::from_bytes(status.as_bytes()).unwrap_or(StatusCode::BAD_GATEWAY);
    }
}

/// Joins the two sides of an answer that switches; any other passes as it is.
pub fn join(client: OnUpgrade, response: Response<Body>) -> Response<Body> {
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switches { joined(client, response) } else { response }
}

/// Joins the two sides of a CONNECT's answer, if it opened a tunnel (RFC 9110 section 9.3.6).
pub fn join_connect(client: OnUpgrade, response: Response<Body>) -> Response<Body> {
    if response.status().is_success() { joined(client, response) } else { response }
}

fn joined(client: OnUpgrade, response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let server = parts.extensions.remove::<OnUpgrade>();
    tokio::spawn(async move {
        // The body holds the exchange, and so stream and load, for as long as the switched streams run.
        let _exchange = body;
        let Some(server) = server else { return };
        match tokio::try_join!(client, server) {
            Ok((client, server)) => {
                let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
                let ended = copy(&mut client, Bytes::new(), &mut server, |_| ()).await;
                debug!(?ended, "a switched connection ended");
                if ended.is_err() {
                    cut(client.into_inner());
                    cut(server.into_inner());
                }
            }
            Err(error) => debug!(%error, "a switch did not come about"),
        }
    });
    Response::from_parts(parts, Body::empty())
}

/// Ends a connection in a reset. A stream of HTTP/2 has no socket of its own: letting it go before its end resets it.
fn cut(side: Upgraded) {
    let _ = cut_if::<Noted<TcpStream>>(side)
        .or_else(cut_if::<Noted<Box<dyn Stream>>>)
        .or_else(cut_if::<Upstream>);
}

fn cut_if<S: Stream + 'static>(side: Upgraded) -> Result<(), Upgraded> {
    side.downcast::<TokioIo<S>>().map(|parts| reset_on_close(parts.io.inner().socket()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: StatusCode) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        response
    }

    #[track_caller]
    fn check_crosses(status: StatusCode) {
        let mut crossing = response(status);
        crossing.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        to_peer(&mut crossing);
        assert_eq!(crossing.status() == StatusCode::OK, status == StatusCode::SWITCHING_PROTOCOLS);
        from_peer(&mut crossing);
        assert_eq!(crossing.status(), status);
    }

    #[test]
    fn every_answer_to_a_switch_crosses_the_mesh_as_it_is() {
        for status in [101, 200, 204, 400, 403, 409, 426, 500] {
            check_crosses(StatusCode::from_u16(status).expect("status"));
        }
    }

    #[test]
    fn a_request_comes_out_of_connect_with_its_own_method() {
        let mut request = Request::post("/attach").body(()).expect("request");
        into_connect(&mut request, &HeaderValue::from_static("tcp"));
        assert_eq!(request.method(), Method::CONNECT);
        assert_eq!(from_connect(&mut request), Some(HeaderValue::from_static("tcp")));
        assert_eq!(request.method(), Method::POST);
        assert!(request.headers().is_empty());
    }
}
