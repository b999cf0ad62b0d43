//! HTTP servers for captured connections, with every limit set.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    HttpVersion,
    respond::Answer,
    serve_h1,
    streams::{self, Streams},
};
use crate::{
    body::Body,
    drain::{Draining, Stage},
    net::{batch::Batch, peek::Peeked, stream::Stream},
};

/// A request's head, decoded, at most.
pub(super) const HEAD_MAX: usize = 64 * 1024;
const HEAD_MAX_H2: u32 = 64 * 1024;
/// What one stream may have buffered towards a slow reader.
const SEND_BUFFER: usize = 64 * 1024;
/// A silent HTTP/2 connection is asked for a sign of life this often…
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// …and given up when none comes for this long.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an HTTP/2 connection is served whose caller did not know yet that the pod is being deleted. Telling it at once
/// would cost it a handshake for each few requests until it knows; endpoints are updated within about this time.
const LATE: Duration = Duration::from_secs(1);

/// How much a kind of caller may do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long an HTTP/1 connection may wait for a request's whole head, idle time included; none for the own
    /// application (a timer for each request costs more than it defends there).
    pub(super) head: Option<Duration>,
    /// HTTP/2 streams at once.
    streams: u32,
    /// What one HTTP/2 stream may have in flight.
    stream_window: u32,
    /// HTTP/2 streams that may be reset before they were looked at; none for the own application, of which neither
    /// these nor other resets are counted, nor idle connections closed.
    resets: Option<usize>,
    /// Whether protocols may be switched by extended CONNECT (RFC 8441), which only proxies do.
    switches: bool,
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

    /// What an HTTP/2 connection may have in flight: as much as all of its streams, so that bodies which nobody reads
    /// hold up no other stream. It is a bound, not a reservation.
    const fn connection_window(self) -> u32 {
        self.streams * self.stream_window
    }
}

/// Serves a connection's requests until it ends, drains, or (HTTP/2 only) `until` is over.
pub async fn serve<S, F, Fut>(
    io: Peeked<S>,
    version: HttpVersion,
    limits: Limits,
    until: Option<Duration>,
    draining: Draining,
    handle: F,
) where
    S: Stream + 'static,
    F: Fn(Request<Incoming>) -> Fut + Send,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let ended = match version {
        // Boxed, or each would hold room for the other.
        HttpVersion::Http1 => Box::pin(serve_h1::serve(io, limits, draining, handle)).await,
        HttpVersion::Http2 => Box::pin(http2(io, limits, until, draining, handle)).await,
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

async fn http2<I, F, Fut>(
    io: I,
    limits: Limits,
    until: Option<Duration>,
    draining: Draining,
    handle: F,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> Fut + Send,
    Fut: Future<Output = Answer> + Send + 'static,
{
    let streams = Streams::new();
    let service = service_fn(|request| {
        let head = *request.method() == Method::HEAD;
        // Boxed: hyper and tokio move what this returns several times before they run it.
        let (mut stream, answer) = (streams.begin(), Box::pin(handle(request)));
        async move {
            let answer = answer.await;
            stream.answered();
            if answer.as_ref().is_ok_and(sends_elsewhere) {
                stream.sends_elsewhere();
            }
            answer.map(|answer| answer.map(|body| of_stream(body, stream, head)))
        }
    });
    let batch = Batch::new(io);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    if limits.switches {
        builder.enable_connect_protocol();
    }
    let connection = builder
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_MAX_H2)
        .max_concurrent_streams(limits.streams)
        .max_pending_accept_reset_streams(limits.resets)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window())
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(batch.clone()), service);
    let mut connection = pin!(connection);
    let over = async {
        match until {
            Some(until) => tokio::time::sleep(until).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        ended = poll_fn(|cx| batch.poll(connection.as_mut(), cx)) => return ended,
        () = streams.too_many_resets(), if limits.resets.is_some() => {
            warn!("cut a caller off that resets its streams");
            return Ok(());
        }
        () = streams.idle(), if limits.resets.is_some() => connection.as_mut().graceful_shutdown(),
        () = streams.go_elsewhere() => connection.as_mut().graceful_shutdown(),
        () = left(draining, limits.leaves) => connection.as_mut().graceful_shutdown(),
        () = over => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        biased;
        ended = poll_fn(|cx| batch.poll(connection.as_mut(), cx)) => ended,
        () = streams.too_many_resets(), if limits.resets.is_some() => Ok(()),
    }
}

/// Returns when an HTTP/2 connection's caller must be told to go elsewhere. The GOAWAY that tells it costs no request:
/// what was sent before it arrived is served (RFC 9113 section 6.8).
async fn left(mut draining: Draining, from: Stage) {
    let late = draining.stage() >= from;
    draining.reaches(from).await;
    if late {
        // Its end does not matter, only that it comes no later than LATE.
        let _ = timeout(LATE, draining.reaches(Stage::Ending)).await;
    }
}

/// hyper leaves it to us that an answer to HEAD has no body (RFC 9110 section 9.3.2).
fn of_stream(body: Body, stream: streams::Stream, head: bool) -> Body {
    let body = body.of_stream(stream);
    if head { body.withheld() } else { body }
}

#[cfg(test)]
mod tests {
    use hyper::client::conn;

    use super::*;

    /// Asks once; the client's connection ends because of the answer, and nothing else.
    async fn check_sent_elsewhere(version: HttpVersion) {
        let (client, server) = crate::net::relay::pair().await;
        let handle = async |_: Request<Incoming>| {
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
