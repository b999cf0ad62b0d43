//! What people and machines ask of the proxy itself: its table, its metrics, its health.

mod probes;

use std::{convert::Infallible, future::Future, sync::Arc, time::UNIX_EPOCH};

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
use tokio::net::TcpStream;

pub use probes::Probes;

use crate::{body::Body, config::MtlsMode, proxy::Proxy};

/// How long a caller may take for a request's head: short, because anybody can reach the health port, and the kubelet
/// must find a place there.
const HEAD: std::time::Duration = std::time::Duration::from_secs(2);

/// Serves the admin port, which only this pod reaches: `/table`.
pub async fn admin(proxy: Arc<Proxy>, stream: TcpStream) {
    serve(stream, move |request| {
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
    serve(stream, move |request| {
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
    serve(stream, move |request| {
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

async fn serve<F, Fut>(stream: TcpStream, handle: F)
where
    F: Fn(Request<Incoming>) -> Fut + Send,
    Fut: Future<Output = Response<Body>> + Send,
{
    let service = service_fn(|request| {
        let response = handle(request);
        async { Ok::<_, Infallible>(response.await) }
    });
    // A caller that breaks off here is nobody's loss.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
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
