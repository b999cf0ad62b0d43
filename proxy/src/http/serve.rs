//! HTTP servers for captured connections, with every limit set.

use std::{future::Future, time::Duration};

use hyper::{
    Request, Response, StatusCode,
    header::{CONNECTION, HeaderValue},
};
use tracing::debug;

use super::{Error, HttpVersion, respond::Answer, serve_h1, serve_h2};
use crate::{
    body::Body,
    clock::in_turns,
    drain::{Draining, Stage},
    net::{batch::Batch, frames::Frames, peek::Peeked, stream::Stream},
};

/// A request's head, decoded, at most.
pub(super) const HEAD_MAX: usize = 64 * 1024;

/// How much a kind of caller may do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long an HTTP/1 connection may wait for a request's whole head, idle time included; none for the own
    /// application (a timer for each request costs more than it defends there).
    pub(super) head: Option<Duration>,
    /// HTTP/2 streams at once.
    pub(super) streams: u32,
    /// What one HTTP/2 stream may have in flight.
    pub(super) stream_window: u32,
    /// HTTP/2 streams that may be reset before they were looked at; none for the own application, of which neither
    /// these nor other resets are counted, nor idle connections closed.
    pub(super) resets: Option<usize>,
    /// Whether protocols may be switched by extended CONNECT (RFC 8441), which only proxies do.
    pub(super) switches: bool,
    /// From when on callers are asked to go elsewhere: the own application has nowhere to go while it works.
    pub(super) leaves: Stage,
}

impl Limits {
    /// The own application, which is trusted: limits only bound memory.
    pub const APPLICATION: Self = Self {
        head: None,
        streams: 1000,
        stream_window: 64 * 1024,
        resets: None,
        switches: false,
        leaves: Stage::Ending,
    };
    /// A peer's proxy.
    pub const PEER: Self = Self {
        head: Some(Duration::from_secs(60)),
        streams: 256,
        stream_window: 128 * 1024,
        resets: Some(1000),
        switches: true,
        leaves: Stage::Leaving,
    };
    /// A caller from outside the mesh.
    pub const UNMESHED: Self = Self {
        head: Some(Duration::from_secs(60)),
        streams: 256,
        resets: Some(1000),
        leaves: Stage::Leaving,
        ..Self::APPLICATION
    };

    /// Whether it is the own application.
    pub(super) const fn is_trusted(self) -> bool {
        self.resets.is_none()
    }

    /// What an HTTP/2 connection may have in flight: as much as all of its streams, so that bodies which nobody reads
    /// hold up no other stream. It is a bound, not a reservation.
    pub(super) const fn connection_window(self) -> u32 {
        self.streams * self.stream_window
    }
}

/// Serves a connection until it ends, drains or, over HTTP/2, `until` is over. Each request is boxed once, and lent to
/// whatever handles it.
pub async fn serve<S, F, Fut>(
    io: Peeked<S>,
    version: HttpVersion,
    limits: Limits,
    until: Option<Duration>,
    draining: Draining,
    handle: F,
) where
    S: Stream + 'static,
    F: Fn(Box<Request<Body>>) -> Fut + Send,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let ended = match version {
        // Boxed, or each would hold room for the other.
        HttpVersion::Http1 => {
            in_turns(Box::pin(serve_h1::serve(io, limits, draining, handle))).await.map_err(Error::from)
        }
        HttpVersion::Http2 => {
            let batch = Batch::of(io, Frames::of_client());
            in_turns(Box::pin(serve_h2::serve(batch, limits, until, draining, handle)))
                .await
                .map_err(Error::from)
        }
    };
    if let Err(error) = ended {
        debug!(%error, "an HTTP connection ended early");
    }
}

/// Marks an answer that says: not here. Its caller's next connection may go to another pod, so that this one should end.
#[derive(Debug, Clone, Copy)]
struct Elsewhere;

/// Ends the connection of this answer with it, over HTTP/2 with its last stream.
pub fn send_elsewhere(answer: &mut Response<Body>) {
    answer.extensions_mut().insert(Elsewhere);
}

pub(super) fn sends_elsewhere(answer: &Response<Body>) -> bool {
    answer.extensions().get::<Elsewhere>().is_some()
}

/// An answer after which the connection ends (RFC 9112 section 9.6). One that switches protocols ends it anyhow.
pub(super) fn last(mut answer: Response<Body>) -> Response<Body> {
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

#[cfg(test)]
mod tests {
    use hyper::client::conn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::time::Instant;

    use super::*;
    use crate::clock;

    /// Asks once; the client's connection ends because of the answer, and nothing else.
    async fn check_sent_elsewhere(version: HttpVersion) {
        let (client, server) = crate::net::relay::pair().await;
        let handle = async |_: Box<Request<Body>>| {
            let (time, asked) = (clock::now(), Instant::now());
            while Instant::now() == asked {}
            assert_eq!(clock::now(), time, "this is one turn");
            let mut answer = Response::new(Body::empty());
            send_elsewhere(&mut answer);
            Ok(answer)
        };
        let (_drain, draining) = crate::drain::channel();
        let serving = tokio::spawn(serve(
            Peeked::new(server),
            version,
            Limits::UNMESHED,
            None,
            draining,
            move |request| Box::pin(handle(request)),
        ));
        let request = Request::get("http://web/").body(Body::empty()).expect("a request");
        match version {
            HttpVersion::Http1 => {
                let (mut sender, connection) =
                    conn::http1::handshake(TokioIo::new(client)).await.expect("a connection");
                let connection = tokio::spawn(connection);
                sender.send_request(request).await.expect("an answer");
                connection.await.expect("no panic").expect("a clean end");
            }
            HttpVersion::Http2 => {
                let (mut sender, connection) =
                    conn::http2::handshake(TokioExecutor::new(), TokioIo::new(client))
                        .await
                        .expect("a connection");
                let connection = tokio::spawn(connection);
                sender.send_request(request).await.expect("an answer");
                connection.await.expect("no panic").expect("a clean end");
            }
        }
        serving.await.expect("the server ends, too");
    }

    #[tokio::test]
    async fn an_answer_can_end_its_connection() {
        check_sent_elsewhere(HttpVersion::Http1).await;
        check_sent_elsewhere(HttpVersion::Http2).await;
    }
}
