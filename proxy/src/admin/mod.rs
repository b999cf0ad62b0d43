//! What people and machines ask of the proxy itself: its table, its metrics, its health.

mod gateways;
mod places;
mod probes;

use std::{
    convert::Infallible,
    future::{Future, pending},
    net::IpAddr,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use mesh::identity::Identity;
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::Notify, time::sleep};

use places::{Place, Places};
pub use probes::Probes;

use crate::{body::Body, config::MtlsMode, metrics::Direction, net::socket, proxy::Proxy};

/// How long a caller may take for a request's head: short, because anybody can reach the health port, and a place there
/// is not for keeping.
const HEAD: Duration = Duration::from_secs(2);
/// How long a caller of a port that everybody reaches may take to read its answer: one that never reads would keep its
/// place for ever.
const READING: Duration = Duration::from_secs(10);
/// The reason of connections that there was no place for.
const NO_PLACE: &str = "caller_limit_reached";

/// Who has a place at one of the ports that everybody reaches. Beside the pod itself, the addresses known there are those
/// that the kubelet may call from: its node's, or the pod network's gateway.
pub fn places(proxy: Arc<Proxy>) -> impl Fn(IpAddr) -> Option<Place> {
    let config = &proxy.config;
    let known = config.host_ips.iter().chain(&config.pod_ips).copied();
    let places = Places::new(known.chain(gateways::gateways()));
    move |caller| {
        let place = places.take(caller);
        if place.is_none() {
            proxy.metrics.refuse(Direction::Inbound, NO_PLACE);
        }
        place
    }
}

/// Serves the admin port, which only this pod reaches: `/table`. Somebody may read it page by page.
pub async fn admin(proxy: Arc<Proxy>, stream: TcpStream) {
    serve(stream, None, move |request| {
        let proxy = Arc::clone(&proxy);
        async move {
            match (request.method(), request.uri().path()) {
                (&Method::GET, "/table") => document(&table(&proxy).await),
                (&Method::GET, "/metrics") => metrics_page(&proxy),
                _ => text(StatusCode::NOT_FOUND, "this port has /table and /metrics\n"),
            }
        }
    })
    .await;
}

/// Serves the metrics port: `/metrics`.
pub async fn metrics(proxy: Arc<Proxy>, stream: TcpStream) {
    serve(stream, Some(READING), move |request| {
        let proxy = Arc::clone(&proxy);
        async move {
            match request.uri().path() {
                "/metrics" | "/stats/prometheus" => metrics_page(&proxy),
                _ => text(StatusCode::NOT_FOUND, "this port has /metrics\n"),
            }
        }
    })
    .await;
}

/// Serves the health port: `/ready`, `/live`, and the application's probes.
pub async fn health(proxy: Arc<Proxy>, probes: Arc<Probes>, stream: TcpStream) {
    serve(stream, Some(READING), move |request| {
        let (proxy, probes) = (Arc::clone(&proxy), Arc::clone(&probes));
        async move {
            let path = request.uri().path();
            match path {
                "/live" => text(StatusCode::OK, "live\n"),
                "/ready" if proxy.credentials.borrow().is_some() => text(StatusCode::OK, "ready\n"),
                "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "has no certificate yet\n"),
                _ => match path.strip_prefix("/app-probe/") {
                    Some(probe) => probes.replay(probe).await,
                    None => text(StatusCode::NOT_FOUND, "this port has /ready, /live and /app-probe/...\n"),
                },
            }
        }
    })
    .await;
}

/// Answers one request; whoever has not read its answer after `reading` is reset.
async fn serve<F, Fut>(mut stream: TcpStream, reading: Option<Duration>, handle: F)
where
    F: Fn(Request<Incoming>) -> Fut + Send,
    Fut: Future<Output = Response<Body>> + Send,
{
    let answered = &Notify::new();
    let service = service_fn(|request| {
        let response = handle(request);
        async move {
            let response = response.await;
            answered.notify_one();
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(&mut stream), service);
    tokio::select! {
        // A caller that breaks off here is nobody's loss.
        _ = connection => return,
        () = left_unread(answered, reading) => (),
    }
    socket::reset_on_close(&stream);
}

/// Returns when there has been an answer for so long that its caller must have read it.
async fn left_unread(answered: &Notify, reading: Option<Duration>) {
    answered.notified().await;
    match reading {
        Some(reading) => sleep(reading).await,
        None => pending().await,
    }
}

async fn table(proxy: &Proxy) -> Value {
    let config = &proxy.config;
    let credentials = proxy.credentials.borrow().clone();
    let certificate = credentials.as_ref().map(|credentials| {
        let not_after = credentials.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        json!({ "generation": credentials.generation, "notAfter": not_after })
    });
    let mut known = proxy.discovery.table().await;
    json!({
        "pod": { "namespace": config.pod_namespace, "name": config.pod_name, "uid": config.pod_uid },
        "identity": credentials.as_ref().map(|credentials| Identity::as_str(&credentials.identity).to_owned()),
        "certificate": certificate,
        "mtlsMode": match config.mtls_mode { MtlsMode::Strict => "strict", MtlsMode::Permissive => "permissive" },
        "objects": known["objects"].take(),
        "services": known["services"].take(),
    })
}

fn metrics_page(proxy: &Proxy) -> Response<Body> {
    match proxy.metrics.page() {
        Ok(page) => with_type(
            text(StatusCode::OK, page),
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn document(value: &Value) -> Response<Body> {
    with_type(text(StatusCode::OK, format!("{value:#}\n")), "application/json")
}

fn text(status: StatusCode, words: impl Into<hyper::body::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::words(words));
    *response.status_mut() = status;
    with_type(response, "text/plain; charset=utf-8")
}

fn with_type(mut response: Response<Body>, content_type: &'static str) -> Response<Body> {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// More than the kernel takes for somebody who does not read.
    const PAGE: usize = 64 << 20;

    /// Asks, and leaves the answer unread until the server has given up, or has been waited for in vain.
    async fn unread(reading: Option<Duration>) -> (TcpStream, bool) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let mut caller =
            TcpStream::connect(listener.local_addr().expect("address")).await.expect("connected");
        caller.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.expect("written");
        let (stream, _) = listener.accept().await.expect("accepted");
        let serving = serve(stream, reading, |_| async { text(StatusCode::OK, vec![b' '; PAGE]) });
        let ended = tokio::time::timeout(Duration::from_millis(500), serving).await.is_ok();
        (caller, ended)
    }

    #[tokio::test]
    async fn who_never_reads_its_answer_is_reset() {
        let (mut caller, ended) = unread(Some(Duration::from_millis(50))).await;
        assert!(ended, "its place is free");
        let read = caller.read_to_end(&mut Vec::new()).await;
        assert_eq!(read.expect_err("no clean end").kind(), ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn who_may_take_its_time_is_waited_for() {
        let (_caller, ended) = unread(None).await;
        assert!(!ended);
    }
}
