//! What is said of a request or connection, under OpenTelemetry's names for what it has names for: once for the access
//! log and for spans.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use hyper::{
    Method, Request, Uri, Version,
    body::Body as _,
    header::{HOST, HeaderValue},
    http::uri::Authority,
};
use opentelemetry::KeyValue;

use crate::{
    body::Body,
    metrics::{Exchange, Failed, RequestLabels, Way},
    net::relay::Carried,
    trace::Context,
};

/// How much of a path is said.
const PATH_MAX: usize = 1024;
/// How much of a host or method is said.
const HOST_MAX: usize = 255;

/// Takes fields, one after the other.
pub trait Fields {
    /// A text, which is not empty.
    fn put_text(&mut self, key: &'static str, value: &str);
    /// A whole number.
    fn put_number(&mut self, key: &'static str, value: u64);

    /// A text; an empty one is left out.
    fn text(&mut self, key: &'static str, value: &str) {
        if !value.is_empty() {
            self.put_text(key, value);
        }
    }

    /// The beginning of a text that somebody else made as long as they liked.
    fn bounded(&mut self, key: &'static str, value: &str, bytes: usize) {
        let end = value.floor_char_boundary(bytes);
        self.text(key, value.get(..end).unwrap_or_default());
    }

    /// A whole number, if there is one.
    fn number(&mut self, key: &'static str, value: Option<impl Into<u64>>) {
        if let Some(value) = value {
            self.put_number(key, value.into());
        }
    }

    /// An address with its port.
    fn address(&mut self, keys: [&'static str; 2], addr: SocketAddr) {
        let [address, port] = keys;
        self.text(address, &addr.ip().to_canonical().to_string());
        self.number(port, Some(addr.port()));
    }
}

impl Fields for Vec<KeyValue> {
    fn put_text(&mut self, key: &'static str, value: &str) {
        self.push(KeyValue::new(key, value.to_owned()));
    }

    fn put_number(&mut self, key: &'static str, value: u64) {
        self.push(KeyValue::new(key, i64::try_from(value).unwrap_or(i64::MAX)));
    }
}

/// What only the log and spans need of a request; not made when nobody wants either. Everything in it is shared with
/// the request, not copied.
pub struct Details {
    method: Method,
    uri: Uri,
    host: Option<HeaderValue>,
    version: Version,
    destination: SocketAddr,
    /// Who is at the other end: the endpoint, or the caller.
    pub peer: Option<SocketAddr>,
    /// What the proxy says of its own failure.
    pub error: Option<String>,
    traceparent: Option<HeaderValue>,
    /// How much of the request's body has passed, if it has one.
    request_bytes: Option<Arc<AtomicU64>>,
    /// How much of the response's body has passed.
    pub response_bytes: u64,
}

impl Details {
    /// What is known when a request has come.
    pub fn of(request: &Request<impl Sized>, destination: SocketAddr) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            host: request.headers().get(HOST).cloned(),
            version: request.version(),
            destination,
            peer: None,
            error: None,
            traceparent: Context::sent(request.headers()).cloned(),
            request_bytes: None,
            response_bytes: 0,
        }
    }

    /// Counts the request's body as it passes.
    pub fn count(&mut self, body: &mut Body) {
        if !body.is_end_stream() {
            body.count_in(Arc::clone(self.request_bytes.get_or_insert_default()));
        }
    }

    /// Where the request's sender stands in a trace.
    pub fn trace(&self) -> Option<Context> {
        self.traceparent.as_ref().and_then(Context::read)
    }

    /// A name that many requests share: the method's, or that of gRPC's method.
    pub fn name(&self, labels: &RequestLabels) -> String {
        match labels.exchange {
            Exchange::Http { method: "_OTHER", .. } => "HTTP".to_owned(),
            Exchange::Http { method, .. } => method.to_owned(),
            Exchange::Grpc { .. } => self.rpc_method().chars().take(HOST_MAX).collect(),
        }
    }

    /// Says all of it.
    pub fn say(&self, labels: &RequestLabels, http_status: Option<u16>, to: &mut impl Fields) {
        to.bounded("http.request.method", self.method.as_str(), HOST_MAX);
        to.bounded("url.path", self.uri.path(), PATH_MAX);
        to.bounded("server.address", self.host(), HOST_MAX);
        to.number("server.port", Some(self.destination.port()));
        to.text("network.protocol.version", version(self.version));
        to.number("http.response.status_code", http_status);
        if let Exchange::Grpc { status } = labels.exchange {
            to.text("rpc.system.name", "grpc");
            to.bounded("rpc.method", self.rpc_method(), PATH_MAX);
            to.text("rpc.status_code", status.unwrap_or_default());
        }
        to.text("error.type", &error_type(labels));
        to.text("error.message", self.error.as_deref().unwrap_or_default());
        let request_bytes = self.request_bytes.as_ref().map_or(0, |bytes| bytes.load(Relaxed));
        to.number("http.request.body.size", Some(request_bytes));
        to.number("http.response.body.size", Some(self.response_bytes));
        say_way(&labels.way, self.peer, to);
    }

    fn host(&self) -> &str {
        let named = self.host.as_ref().and_then(|host| host.to_str().ok());
        named.or_else(|| self.uri.authority().map(Authority::as_str)).unwrap_or_default()
    }

    fn rpc_method(&self) -> &str {
        self.uri.path().trim_start_matches('/')
    }
}

/// Says all of a connection that was carried as bytes, or was to be.
pub fn say_tcp(
    way: &Way,
    destination: SocketAddr,
    peer: Option<SocketAddr>,
    error: Option<(&'static str, &str)>,
    carried: Carried,
    to: &mut impl Fields,
) {
    to.text("network.transport", "tcp");
    to.address(["server.address", "server.port"], destination);
    let (reason, words) = error.unwrap_or_default();
    to.text("error.type", reason);
    to.text("error.message", words);
    to.number("heddle.sent_bytes", Some(carried.sent));
    to.number("heddle.received_bytes", Some(carried.received));
    say_way(way, peer, to);
}

/// What went wrong, as the label has it; empty if nothing did.
pub fn error_type(labels: &RequestLabels) -> String {
    match (labels.failed, labels.exchange) {
        (Failed::No, _) => String::new(),
        (Failed::Reason(reason), _) => reason.to_owned(),
        (Failed::Status, Exchange::Grpc { status }) => status.unwrap_or_default().to_owned(),
        (Failed::Status, Exchange::Http { status, .. }) => status.map_or_else(String::new, |s| s.to_string()),
    }
}

fn say_way(way: &Way, peer: Option<SocketAddr>, to: &mut impl Fields) {
    if let Some(peer) = peer {
        to.address(["network.peer.address", "network.peer.port"], peer);
    }
    if let Some(parent) = &way.parent {
        to.text("heddle.parent", &parent.to_string());
    }
    if let Some(rule) = &way.rule {
        to.text("heddle.route", &format!("{}/{}", rule.route.kind.as_str(), rule.route.name));
        match &rule.name {
            Some(name) => to.text("heddle.rule", name),
            None => to.text("heddle.rule", &rule.index.to_string()),
        }
    }
    if let Some(backend) = &way.backend {
        to.text("heddle.backend", &backend.to_string());
    }
    to.text("heddle.peer.identity", way.peer.as_deref().unwrap_or_default());
    to.text("heddle.security", way.security.as_str());
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        _ => "",
    }
}
