//! A line of the access log, with OpenTelemetry's names for what it has names for.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::{
    Method, Request, Uri, Version,
    body::Incoming,
    header::{HOST, HeaderValue},
    http::uri::Authority,
};
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime as _, SystemTime},
};

use super::{json::Object, log::Log, status};
use crate::{
    metrics::{Direction, Exchange, Failed, RequestLabels, Way},
    net::relay::Carried,
};

/// How much of a path is written.
const PATH_MAX: usize = 1024;
/// How much of a host is written.
const HOST_MAX: usize = 255;

/// What only the access log needs of a request; not made when the log is off. Everything in it is shared with the
/// request, not copied.
pub struct Line {
    log: Arc<Log>,
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    version: Version,
    destination: SocketAddr,
    /// Who is at the other end: the endpoint, or the caller.
    pub peer: Option<SocketAddr>,
    /// What the proxy says of its own failure.
    pub error: Option<String>,
    /// How much of the request's body has passed.
    pub request_bytes: Arc<AtomicU64>,
    /// How much of the response's body has passed.
    pub response_bytes: u64,
}

impl Line {
    /// What is known when a request has come.
    pub fn begin(log: &Arc<Log>, request: &Request<Incoming>, destination: SocketAddr) -> Self {
        Self {
            log: Arc::clone(log),
            method: request.method().clone(),
            uri: request.uri().clone(),
            host: request.headers().get(HOST).cloned(),
            version: request.version(),
            destination,
            peer: None,
            error: None,
            request_bytes: Arc::default(),
            response_bytes: 0,
        }
    }

    /// Writes itself, if it is one that is asked for.
    pub fn write(&self, labels: &RequestLabels, http_status: Option<u16>, took: Duration) {
        let failed = labels.failed != Failed::No && is_news(labels);
        if failed || !self.log.errors_only {
            self.log.line(self.object(labels, http_status, took));
        }
    }

    fn object(&self, labels: &RequestLabels, http_status: Option<u16>, took: Duration) -> Vec<u8> {
        let mut object = begin(labels.direction);
        object.bounded("http.request.method", self.method.as_str(), HOST_MAX);
        object.bounded("url.path", self.uri.path(), PATH_MAX);
        object.bounded("server.address", self.host(), HOST_MAX);
        object.number("server.port", self.destination.port().into());
        object.text("network.protocol.version", version(self.version));
        if let Some(status) = http_status {
            object.number("http.response.status_code", status.into());
        }
        if let Exchange::Grpc { status } = labels.exchange {
            object.text("rpc.system.name", "grpc");
            object.bounded("rpc.method", self.uri.path().trim_start_matches('/'), PATH_MAX);
            object.text("rpc.status_code", status.unwrap_or_default());
        }
        failure(&mut object, labels.failed, labels.exchange);
        object.text("error.message", self.error.as_deref().unwrap_or_default());
        object.number("http.request.body.size", self.request_bytes.load(Relaxed));
        object.number("http.response.body.size", self.response_bytes);
        end(&mut object, &labels.way, self.peer, took);
        object.finish()
    }

    fn host(&self) -> &str {
        let named = self.host.as_ref().and_then(|host| host.to_str().ok());
        named.or_else(|| self.uri.authority().map(Authority::as_str)).unwrap_or_default()
    }
}

/// A connection that was carried as bytes, or was to be.
pub struct TcpLine<'a> {
    /// Which way it went.
    pub direction: Direction,
    /// Where it went.
    pub way: &'a Way,
    /// The address that was dialled.
    pub destination: SocketAddr,
    /// Who is at the other end: the endpoint, or the caller.
    pub peer: Option<SocketAddr>,
    /// What went wrong: a short token, and the words.
    pub error: Option<(&'static str, String)>,
    /// What it carried.
    pub carried: Carried,
    /// How long it lasted.
    pub took: Duration,
}

impl TcpLine<'_> {
    /// Writes itself, if it is one that is asked for.
    pub fn write(&self, log: &Log) {
        if self.error.is_none() && log.errors_only {
            return;
        }
        let mut object = begin(self.direction);
        object.text("network.transport", "tcp");
        object.text("server.address", &self.destination.ip().to_canonical().to_string());
        object.number("server.port", self.destination.port().into());
        if let Some((reason, words)) = &self.error {
            object.text("error.type", reason);
            object.text("error.message", words);
        }
        object.number("heddle.sent_bytes", self.carried.sent);
        object.number("heddle.received_bytes", self.carried.received);
        end(&mut object, self.way, self.peer, self.took);
        log.line(object.finish());
    }
}

/// Whether an error is one for people who asked for errors alone: not a 404 that an application means, but all that the
/// mesh could not do, and what OpenTelemetry takes for a server's fault.
fn is_news(labels: &RequestLabels) -> bool {
    match (labels.failed, labels.exchange) {
        (Failed::Reason(_), _) => true,
        (Failed::Status, Exchange::Grpc { status }) => status::is_servers_fault(status.unwrap_or_default()),
        (Failed::Status, Exchange::Http { status, .. }) => status.is_some_and(|status| status >= 500),
        (Failed::No, _) => false,
    }
}

fn begin(direction: Direction) -> Object {
    let mut object = Object::new();
    let mut now = String::with_capacity(32);
    if SystemTime.format_time(&mut Writer::new(&mut now)).is_ok() {
        object.text("timestamp", &now);
    }
    object.text("heddle.direction", direction.as_str());
    object
}

fn failure(object: &mut Object, failed: Failed, exchange: Exchange) {
    match (failed, exchange) {
        (Failed::No, _) => {}
        (Failed::Reason(reason), _) => object.text("error.type", reason),
        (Failed::Status, Exchange::Grpc { status }) => object.text("error.type", status.unwrap_or_default()),
        (Failed::Status, Exchange::Http { status, .. }) => {
            object.text("error.type", &status.map(|status| status.to_string()).unwrap_or_default());
        }
    }
}

fn end(object: &mut Object, way: &Way, peer: Option<SocketAddr>, took: Duration) {
    object.seconds("heddle.duration_seconds", took.as_secs_f64());
    if let Some(peer) = peer {
        object.text("network.peer.address", &peer.ip().to_canonical().to_string());
        object.number("network.peer.port", peer.port().into());
    }
    let named = |key: &Option<mesh::route::BackendKey>| key.as_ref().map(ToString::to_string);
    object.text("heddle.parent", &named(&way.parent).unwrap_or_default());
    if let Some(rule) = &way.rule {
        object.text("heddle.route", &format!("{}/{}", rule.route.kind.as_str(), rule.route.name));
        match &rule.name {
            Some(name) => object.text("heddle.rule", name),
            None => object.text("heddle.rule", &rule.index.to_string()),
        }
    }
    object.text("heddle.backend", &named(&way.backend).unwrap_or_default());
    object.text("heddle.peer.identity", way.peer.as_deref().unwrap_or_default());
    object.text("heddle.security", way.security.as_str());
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        _ => "",
    }
}
