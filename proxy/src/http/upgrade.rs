//! Switching protocols (websockets and their like), across the mesh.
//!
//! HTTP/2 has no Upgrade, so between proxies the request is an extended CONNECT (RFC 8441) whose protocol is the
//! token that the client asked for. Bytes flow only after the server's own 101 has come back; the connection that
//! carried the switch is never used for another request.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use h2::ext::Protocol;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, UPGRADE},
    http::Extensions,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
};
use tracing::debug;

use super::{duplex::Duplex, serve_h1::Noted};
use crate::{
    body::Body,
    net::{relay::copy, socket::reset_on_close, stream::Stream},
    proxy::Room,
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

/// One side of a switch: what will carry its bytes once the server has agreed.
pub enum Side {
    /// A connection that hyper gives up.
    Http1(OnUpgrade),
    /// A stream.
    Http2(Promise),
}

/// A stream that goes with its request or response, for whoever takes it first.
#[derive(Clone)]
pub struct Promise(Arc<Mutex<Option<oneshot::Receiver<Duplex>>>>);

/// A promise, and what keeps it.
pub fn promise() -> (oneshot::Sender<Duplex>, Promise) {
    let (keep, promised) = oneshot::channel();
    (keep, Promise(Arc::new(Mutex::new(Some(promised)))))
}

/// The client's side of a request that may switch; `None` where nothing can come of it.
pub fn side_of<B>(request: &mut Request<B>) -> Option<Side> {
    Side::take(request.extensions_mut())
}

impl Side {
    fn take(extensions: &mut Extensions) -> Option<Self> {
        let http1 = extensions.remove::<OnUpgrade>().map(Self::Http1);
        http1.or_else(|| extensions.remove::<Promise>().map(Self::Http2))
    }

    async fn open(self) -> Option<Switched> {
        match self {
            Self::Http1(side) => match side.await {
                Ok(side) => Some(Switched::Http1(TokioIo::new(side))),
                Err(error) => {
                    debug!(%error, "a switch did not come about");
                    None
                }
            },
            Self::Http2(Promise(promised)) => {
                let promised = promised.lock().unwrap_or_else(PoisonError::into_inner).take();
                promised?.await.ok().map(Switched::Http2)
            }
        }
    }
}

/// Joins the two sides of an answer that switches, which have the `room` for as long as they run; any other passes as it is.
pub fn join(client: Option<Side>, response: Response<Body>, room: Option<Room>) -> Response<Body> {
    let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switches { joined(client, response, room) } else { response }
}

/// Joins the two sides of a CONNECT's answer, if it opened a tunnel (RFC 9110 section 9.3.6); otherwise as [`join`].
pub fn join_connect(client: Option<Side>, response: Response<Body>, room: Option<Room>) -> Response<Body> {
    if response.status().is_success() { joined(client, response, room) } else { response }
}

fn joined(client: Option<Side>, response: Response<Body>, room: Option<Room>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let server = Side::take(&mut parts.extensions);
    tokio::spawn(async move {
        // The body holds the exchange, and so stream and load, for as long as the switched streams run.
        let _exchange = (body, room);
        let (Some(client), Some(server)) = (client, server) else { return };
        let (Some(mut client), Some(mut server)) = tokio::join!(client.open(), server.open()) else { return };
        let ended = copy(&mut client, Bytes::new(), &mut server, |_| ()).await;
        debug!(?ended, "a switched connection ended");
        if ended.is_err() {
            client.cut();
            server.cut();
        }
    });
    Response::from_parts(parts, Body::empty())
}

/// One side of a switch that has come about.
enum Switched {
    Http1(TokioIo<Upgraded>),
    Http2(Duplex),
}

impl Switched {
    /// Ends it in a reset. A stream of HTTP/2 has no socket of its own: letting it go before its end resets it.
    fn cut(self) {
        if let Self::Http1(side) = self {
            let _ = cut_if::<Noted<TcpStream>>(side.into_inner())
                .or_else(cut_if::<Noted<Box<dyn Stream>>>)
                .or_else(cut_if::<Upstream>);
        }
    }
}

fn cut_if<S: Stream + 'static>(side: Upgraded) -> Result<(), Upgraded> {
    side.downcast::<TokioIo<S>>().map(|parts| reset_on_close(parts.io.inner().socket()))
}

impl AsyncRead for Switched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http1(side) => Pin::new(side).poll_read(cx, buf),
            Self::Http2(side) => Pin::new(side).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Switched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Http1(side) => Pin::new(side).poll_write(cx, buf),
            Self::Http2(side) => Pin::new(side).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http1(side) => Pin::new(side).poll_flush(cx),
            Self::Http2(side) => Pin::new(side).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Http1(side) => Pin::new(side).poll_shutdown(cx),
            Self::Http2(side) => Pin::new(side).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hot_path::World, metrics::Direction};

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

    #[tokio::test]
    async fn what_was_switched_has_a_place_until_it_ends() {
        let world = World::new();
        let places = || std::iter::from_fn(|| world.proxy.room(Direction::Inbound)).collect::<Vec<_>>().len();
        let room = world.proxy.room(Direction::Inbound);
        let all = places();
        let ((client, promised), (server, from_server)) = (promise(), promise());
        let mut response = response(StatusCode::SWITCHING_PROTOCOLS);
        response.extensions_mut().insert(from_server);
        join(Some(Side::Http2(promised)), response, room);
        tokio::task::yield_now().await;
        assert_eq!(places(), all);
        drop((client, server));
        tokio::task::yield_now().await;
        assert_eq!(places(), all + 1);
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
