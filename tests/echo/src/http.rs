//! The HTTP server: every answer says who answered and what arrived.
//!
//! | path | answers |
//! | --- | --- |
//! | `/status/503` | that status |
//! | `/delay/250` | after so many milliseconds |
//! | `/bytes/1000000` | so many bytes, streamed |
//! | `POST /echo` | the request's body, chunk by chunk, and its trailers |
//! | `/trailers` | a body, then the trailer `x-sum` |
//! | `/upgrade` | 101, then every byte back |
//! | `/counts` | what the server has done so far, as JSON: `requests` (but for these), bytes `sent` of `/bytes/N`, and answers `abandoned` by their clients |
//! | `/become/503` | 200, and from then on that status to everything but `/become`, `/counts` and `/ready` |
//! | `/grpc.health.v1.Health/Check` | gRPC's health protocol: SERVING, or NOT_SERVING when it has become something else than 200 |
//! | anything else | what was received, as JSON |

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, TRAILER, UPGRADE};
use hyper::http::uri::{Authority, PathAndQuery};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};

/// One chunk of `/bytes/N`.
const CHUNK: &[u8] = &[b'.'; 16 * 1024];
/// `/bytes/N` and `/delay/MS` stop here, so that a typing error cannot hold a server for ever.
const MOST: u64 = 1 << 32;

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// What the server is told.
#[derive(clap::Args)]
pub struct Options {
    /// Port to listen on
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Address to listen on [default: all, of IPv4 and IPv6]
    #[arg(long, default_value = "::", hide_default_value = true)]
    address: IpAddr,
    /// Wait so many milliseconds before every answer
    #[arg(long, default_value_t = 0)]
    delay: u64,
    /// Name to answer with [default: the pod's]
    #[arg(long)]
    name: Option<String>,
}

/// Who answers, and what it has done.
struct Server {
    name: String,
    pod: String,
    delay: Duration,
    /// The status of every answer, as it was last told to become.
    becomes: AtomicU16,
    requests: AtomicU64,
    sent: AtomicU64,
    abandoned: AtomicU64,
}

impl Server {
    fn new(options: &Options) -> Self {
        let pod = crate::tcp::pod_name();
        let name = options.name.clone().unwrap_or_else(|| pod.clone());
        let [requests, sent, abandoned] = Default::default();
        let (delay, becomes) = (Duration::from_millis(options.delay), AtomicU16::new(200));
        Self { name, pod, delay, becomes, requests, sent, abandoned }
    }
}

/// An answer on its way: its client has abandoned it if it is dropped before it is finished.
struct Unfinished(Option<Arc<Server>>);

impl Unfinished {
    fn new(server: &Arc<Server>) -> Self {
        Self(Some(Arc::clone(server)))
    }

    fn sent(&self, bytes: u64) {
        if let Some(server) = &self.0 {
            server.sent.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn finish(&mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(server) = &self.0 {
            server.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Serves until SIGTERM, then finishes the requests that have begun.
pub async fn serve(options: Options) -> Result<()> {
    let server = Arc::new(Server::new(&options));
    let listener = crate::tcp::listen(options.address, options.port).await?;
    let graceful = GracefulShutdown::new();
    let mut term = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    loop {
        tokio::select! {
            stream = accept(&listener) => converse(stream, &server, &graceful),
            _ = term.recv() => break,
        }
    }
    drop(listener);
    graceful.shutdown().await;
    Ok(())
}

/// The next connection; one that fails to arrive does not end the server.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn converse((stream, peer): (TcpStream, SocketAddr), server: &Arc<Server>, graceful: &GracefulShutdown) {
    let server = Arc::clone(server);
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        let bodiless = request.version() == Version::HTTP_2 && *request.method() == Method::HEAD;
        async move {
            let answer = answer(&server, peer, request).await;
            // hyper takes the body off an answer to HEAD over HTTP/1 alone.
            Ok::<_, Infallible>(if bodiless { answer.map(|_| full(String::new())) } else { answer })
        }
    });
    let watcher = graceful.watcher();
    tokio::spawn(async move {
        let _ = stream.set_nodelay(true);
        let http = Builder::new(TokioExecutor::new());
        let connection = http.serve_connection_with_upgrades(TokioIo::new(stream), service);
        // A caller that goes away in mid-request is its own affair.
        let _ = watcher.watch(connection.into_owned()).await;
    });
}

async fn answer(server: &Arc<Server>, peer: SocketAddr, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let path = path.trim_start_matches('/');
    let (first, argument) = path.split_once('/').unwrap_or((path, ""));
    let number = || argument.parse::<u64>().unwrap_or(0).min(MOST);
    if first == "counts" {
        return counts(server);
    }
    server.requests.fetch_add(1, Ordering::Relaxed);
    if first == "become" {
        server.becomes.store(argument.parse().unwrap_or(200), Ordering::Relaxed);
        return describe(server, peer, &request);
    }
    if !server.delay.is_zero() {
        tokio::time::sleep(server.delay).await;
    }
    let becomes = server.becomes.load(Ordering::Relaxed);
    if first == "grpc.health.v1.Health" {
        return health(becomes == 200);
    }
    if becomes != 200 && first != "ready" {
        return status(server, peer, &request, &becomes.to_string());
    }
    match first {
        "status" => status(server, peer, &request, argument),
        "delay" => {
            let mut unfinished = Unfinished::new(server);
            tokio::time::sleep(Duration::from_millis(number())).await;
            unfinished.finish();
            describe(server, peer, &request)
        }
        "bytes" => Response::new(Frames(bytes(number(), Unfinished::new(server))).boxed()),
        "echo" => echo(request),
        "trailers" => trailers(server),
        "upgrade" => upgrade(request),
        _ => describe(server, peer, &request),
    }
}

/// Who answers and what arrived, as JSON.
fn describe(server: &Server, peer: SocketAddr, request: &Request<Incoming>) -> Answer {
    let address = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let headers: Vec<Value> = request
        .headers()
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let said = json!({
        "server": server.name,
        "pod": server.pod,
        "version": format!("{:?}", request.version()),
        "method": request.method().as_str(),
        "path": request.uri().path_and_query().map_or("/", PathAndQuery::as_str),
        "authority": request.uri().authority().map(Authority::as_str),
        "headers": headers,
        "peer": address.to_string(),
    });
    let mut answer = Response::new(full(format!("{said}\n")));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    name_server(answer.headers_mut(), server);
    answer
}

/// What the server has done so far.
fn counts(server: &Server) -> Answer {
    let [requests, sent, abandoned] =
        [&server.requests, &server.sent, &server.abandoned].map(|count| count.load(Ordering::Relaxed));
    let said = json!({"requests": requests, "sent": sent, "abandoned": abandoned});
    Response::new(full(format!("{said}\n")))
}

/// Also in a header, for clients that count servers without reading bodies.
fn name_server(headers: &mut HeaderMap, server: &Server) {
    if let Ok(name) = HeaderValue::from_str(&server.name) {
        headers.insert("x-server", name);
    }
}

fn status(server: &Server, peer: SocketAddr, request: &Request<Incoming>, code: &str) -> Answer {
    let code = code.parse::<StatusCode>().ok().filter(|code| !code.is_informational());
    let mut answer = describe(server, peer, request);
    *answer.status_mut() = code.unwrap_or(StatusCode::BAD_REQUEST);
    answer
}

fn echo(request: Request<Incoming>) -> Answer {
    let declared = request.headers().get(TRAILER).cloned();
    let mut answer = Response::new(request.into_body().boxed());
    if let Some(names) = declared {
        answer.headers_mut().insert(TRAILER, names);
    }
    answer
}

fn trailers(server: &Server) -> Answer {
    let mut fields = HeaderMap::new();
    fields.insert("x-sum", HeaderValue::from_static("42"));
    let text = Frame::data(Bytes::from_static(b"a body, then a trailer\n"));
    let body = Frames([text, Frame::trailers(fields)].into_iter());
    let mut answer = Response::new(body.boxed());
    answer.headers_mut().insert(TRAILER, HeaderValue::from_static("x-sum"));
    name_server(answer.headers_mut(), server);
    answer
}

/// One message, `HealthCheckResponse { status: 1 }` or `2`, in gRPC's framing, and the status of the call.
fn health(serving: bool) -> Answer {
    let message = Bytes::from_static(if serving { &[0, 0, 0, 0, 2, 8, 1] } else { &[0, 0, 0, 0, 2, 8, 2] });
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Frames([Frame::data(message), Frame::trailers(fields)].into_iter());
    let mut answer = Response::new(body.boxed());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

/// Agrees to whatever protocol the client names, then sends back every byte.
fn upgrade(mut request: Request<Incoming>) -> Answer {
    let Some(protocol) = request.headers().get(UPGRADE).cloned() else {
        let mut answer = Response::new(full("name a protocol in Upgrade\n".to_owned()));
        *answer.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return answer;
    };
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(&mut request).await {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    });
    let mut answer = Response::new(full(String::new()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(UPGRADE, protocol);
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answer
}

fn full(text: String) -> BoxBody<Bytes, hyper::Error> {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()
}

/// So many bytes, made as they are read.
fn bytes(mut left: u64, mut unfinished: Unfinished) -> impl Iterator<Item = Frame<Bytes>> {
    std::iter::from_fn(move || {
        let size = usize::try_from(left).map_or(CHUNK.len(), |left| left.min(CHUNK.len()));
        left -= size as u64;
        unfinished.sent(size as u64);
        if left == 0 {
            unfinished.finish();
        }
        (size > 0).then(|| Frame::data(Bytes::from_static(CHUNK).slice(..size)))
    })
}

/// A body without a declared length: its frames, one after another.
struct Frames<I>(I);

impl<I: Iterator<Item = Frame<Bytes>> + Unpin> Body for Frames<I> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Poll::Ready(self.0.next().map(Ok))
    }
}
