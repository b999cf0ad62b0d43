//! Accepting connections: TLS, HTTP/1.1 and HTTP/2, and the limits of both.
//!
//! Every limit that hyper leaves open or generous is set here. An accept error never ends the loop, and a
//! fault in one connection ends that connection alone, since each is a task of its own.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::answer::Body;
use crate::peer::{Peer, Peers};
use crate::stay::{Stay, until_end, until_given_up};
use crate::turns::{Turn, Turns};

/// A ClientHello and its answer take two round trips.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Between two requests on one connection: API servers keep theirs, and Prometheus comes once a minute.
pub const IDLE: Duration = Duration::from_secs(90);
/// A request's head once begun, and the time between requests on HTTP/1, where nothing else ends a connection.
const HEAD: Duration = IDLE;
/// A bound token has 1 KiB; the rest of a head is small.
const HEAD_BYTES: u32 = 32 * 1024;
/// Whoever else asks has a few questions at a time.
const FEW_STREAMS: u32 = 256;
/// A dead peer is found out by PING.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(10);
/// Bytes waiting for one stream's reader.
const SEND_BUFFER: usize = 256 * 1024;
/// Out of files or memory: waiting lets connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What answers the requests of a port.
pub trait Answer: Send + Sync + 'static {
    /// Answers one request; what goes wrong is an answer, too.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;
}

/// What callers of a port may ask at a time, and how long they stay.
pub trait Port {
    /// The HTTP/2 streams that one connection may have open.
    const STREAMS: u32 = FEW_STREAMS;
    /// What keeps a connection open.
    const STAY: Stay;
    /// The answers after which a connection is closed: those to callers whom the port is not for.
    const LAST: &'static [StatusCode] = &[];
}

/// Listens on `address`. Where there is no IPv6, all of IPv4 stands for all of both.
pub async fn listen(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::new(address, port)).await {
        Err(error) if address.is_ipv6() && address.is_unspecified() && no_ipv6(&error) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        outcome => outcome,
    }
}

fn no_ipv6(error: &io::Error) -> bool {
    // EAFNOSUPPORT has no kind of its own (97 on Linux); without any address it is EADDRNOTAVAIL.
    error.raw_os_error() == Some(97) || error.kind() == io::ErrorKind::AddrNotAvailable
}

/// Serves `answer` on `listener` for ever to `peers`, over TLS if there is an acceptor.
pub async fn serve<A: Answer + Port>(
    listener: TcpListener,
    peers: Peers,
    tls: Option<TlsAcceptor>,
    answer: Arc<A>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // One for which there is no place is closed at once.
                if let Some(peer) = peers.arrive(peer, Instant::now()) {
                    tokio::spawn(connection(stream, peer, tls.clone(), Arc::clone(&answer)));
                }
                // Its turn comes before the next arrives: of many that arrive at once, none is displaced unheard.
                yield_now().await;
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<A: Answer + Port>(
    stream: TcpStream,
    peer: Peer,
    tls: Option<TlsAcceptor>,
    answer: Arc<A>,
) {
    // Events are small and urgent: waiting for more bytes (Nagle) would delay them.
    let _ = stream.set_nodelay(true);
    // Boxed, each: a connection lives long, and what it took to begin it is not to stay with it.
    let served = match tls {
        None => http(stream, peer, answer),
        Some(tls) => match Box::pin(handshake(stream, &peer, &tls)).await {
            Some(stream) => http(stream, peer, answer),
            None => return,
        },
    };
    served.await;
}

async fn handshake(stream: TcpStream, peer: &Peer, tls: &TlsAcceptor) -> Option<TlsStream<TcpStream>> {
    let accepted = tokio::select! {
        accepted = timeout(HANDSHAKE, tls.accept(stream)) => accepted,
        () = peer.displaced() => {
            tracing::debug!(%peer, "another connection has its place");
            return None;
        }
    };
    match accepted {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!(%peer, "TLS handshake: {error}"),
        Err(_) => tracing::debug!(%peer, "TLS handshake took too long"),
    }
    None
}

fn http<A: Answer + Port>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: Peer,
    answer: Arc<A>,
) -> BoxFuture<'static, ()> {
    let answered = Arc::new(Notify::new());
    let (from, last) = (peer.clone(), Arc::clone(&answered));
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (answer, last, peer) = (Arc::clone(&answer), Arc::clone(&last), from.clone());
        from.ask(Instant::now());
        request.extensions_mut().insert(from.clone());
        // Boxed: the task of a stream lives as long as its watch, and what it took to answer is not to stay with it.
        Box::pin(async move {
            let response = answer.answer(request).await;
            // Who has proved to be a pod keeps its connection, though one of its tokens is refused.
            if A::LAST.contains(&response.status()) && !peer.is_proved() {
                last.notify_one();
            }
            Ok::<_, Infallible>(response)
        })
    });
    let turn = Turn::default();
    let stream = TokioIo::new(Turns::new(stream, &turn));
    let connection = builder(A::STREAMS).serve_connection(stream, service).into_owned();
    let mut connection = Box::pin(connection);
    Box::pin(async move {
        let outcome = tokio::select! {
            outcome = turn.each(connection.as_mut()) => outcome,
            end = until_end(A::STAY, &peer, &answered) => {
                tracing::debug!(%peer, ?end, "a connection has to end");
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    biased; // first it says so to the caller
                    outcome = turn.each(connection.as_mut()) => outcome,
                    () = until_given_up(&peer, end) => Ok(()),
                }
            }
        };
        if let Err(error) = outcome {
            tracing::debug!(%peer, "connection: {error}");
        }
    })
}

fn builder(streams: u32) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_header_list_size(HEAD_BYTES)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG);
    builder
}
