//! HTTP servers for captured connections, with every limit set.

use std::{convert::Infallible, future::Future, pin::pin, time::Duration};

use hyper::{
    Request, Response,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{body::Body, drain::Draining};

/// A request's head, decoded, at most.
const HEAD_MAX: usize = 64 * 1024;

/// How much a kind of caller may do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a connection may wait for a request's whole head, idle time included.
    pub head: Duration,
    /// HTTP/2 streams at once.
    pub streams: u32,
    /// What one HTTP/2 stream may have in flight.
    pub stream_window: u32,
    /// What an HTTP/2 connection may have in flight.
    pub connection_window: u32,
}

impl Limits {
    /// The own application, which is trusted: limits only bound memory.
    pub const APPLICATION: Self = Self {
        head: Duration::from_secs(3600),
        streams: 1000,
        stream_window: 64 * 1024,
        connection_window: 1024 * 1024,
    };
    /// A peer's proxy.
    pub const PEER: Self = Self {
        head: Duration::from_secs(60),
        streams: 256,
        stream_window: 512 * 1024,
        connection_window: 4 * 1024 * 1024,
    };
    /// A caller from outside the mesh.
    pub const UNMESHED: Self =
        Self { streams: 256, ..Self { head: Duration::from_secs(60), ..Self::APPLICATION } };
}

/// Serves HTTP/1.1 on a connection until it ends, or drains.
///
/// # Errors
/// What broke the connection.
pub async fn http1<I, F, Fut>(io: I, limits: Limits, draining: Draining, handle: F) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> Fut + Send,
    Fut: Future<Output = Response<Body>> + Send,
{
    let service = service_fn(|request| {
        let response = handle(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    // hyper's own bound of 100 headers stays: its default array is on the stack, a set one is not.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD_MAX)
        .half_close(true)
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = draining.begins() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// Serves HTTP/2 on a connection until it ends, drains, or `until` comes.
///
/// # Errors
/// What broke the connection.
pub async fn http2<I, F, Fut>(
    io: I,
    limits: Limits,
    until: Option<Duration>,
    draining: Draining,
    handle: F,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> Fut + Send,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(|request| {
        let response = handle(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEAD_MAX).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(3))
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let expiry = async {
        match until {
            Some(until) => tokio::time::sleep(until).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = draining.begins() => connection.as_mut().graceful_shutdown(),
        () = expiry => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
