//! What the proxy counts, under OpenTelemetry's names where it has one.
//!
//! Labels come from configuration (routes, backends) and from small enums, never from what a client sends, so the
//! number of series follows the routes in use. A bound stands behind that all the same.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mesh::route::{BackendKey, RouteRef};
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Bounds of the request duration's buckets, in seconds (OpenTelemetry's advice for HTTP).
const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Which way a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Direction {
    /// From this pod.
    Outbound,
    /// To this pod.
    Inbound,
}

/// Whether the other side is in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// Mesh TLS, both identities proven.
    Mtls,
    /// Plaintext, or the application's own TLS.
    None,
}

impl EncodeLabelValue for Security {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self {
            Self::Mtls => "mutual_tls".encode(encoder),
            Self::None => "none".encode(encoder),
        }
    }
}

/// Labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// Namespace of the route that matched.
    pub route_namespace: Arc<str>,
    /// The route that matched.
    pub route_name: Arc<str>,
    /// Its kind.
    pub route_kind: &'static str,
    /// Namespace of the Service that it went to.
    pub backend_namespace: Arc<str>,
    /// The Service that it went to.
    pub backend_name: Arc<str>,
    /// Status of the response.
    pub http_response_status_code: u16,
    /// Why the proxy answered by itself; empty if it did not.
    pub error_type: &'static str,
    /// Security towards the other pod.
    pub security: Security,
}

/// Labels of a TCP connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TcpLabels {
    /// Which way.
    pub direction: Direction,
    /// Namespace of the Service that it went to.
    pub backend_namespace: Arc<str>,
    /// The Service that it went to.
    pub backend_name: Arc<str>,
    /// Security towards the other pod.
    pub security: Security,
}

/// Labels of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabels {
    /// Which way.
    pub direction: Direction,
    /// Why.
    pub reason: &'static str,
}

/// Labels of plaintext from outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PortLabels {
    /// The port of this pod.
    pub port: u16,
}

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    client: Family<RequestLabels, Histogram>,
    server: Family<RequestLabels, Histogram>,
    opened: Family<TcpLabels, Counter>,
    closed: Family<TcpLabels, Counter>,
    sent: Family<TcpLabels, Counter>,
    received: Family<TcpLabels, Counter>,
    refused: Family<RefusalLabels, Counter>,
    plaintext: Family<PortLabels, Counter>,
    certificate_expiry: Gauge<i64>,
    /// Requests that run now.
    pub in_flight: Gauge<i64>,
    series: AtomicU64,
    ports: AtomicU64,
}

/// The most ports counted by themselves; all others are counted as port 0.
const PORTS_MAX: u64 = 64;

/// The most series of one kind; what comes after is counted without labels of its own.
const SERIES_MAX: u64 = 2000;

impl Default for Metrics {
    fn default() -> Self {
        let histogram =
            || Family::<RequestLabels, Histogram>::new_with_constructor(|| Histogram::new(BUCKETS));
        let mut metrics = Self {
            registry: Registry::default(),
            client: histogram(),
            server: histogram(),
            opened: Family::default(),
            closed: Family::default(),
            sent: Family::default(),
            received: Family::default(),
            refused: Family::default(),
            plaintext: Family::default(),
            certificate_expiry: Gauge::default(),
            in_flight: Gauge::default(),
            series: AtomicU64::new(0),
            ports: AtomicU64::new(0),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    /// Counts a request and its duration.
    pub fn request(&self, direction: Direction, labels: RequestLabels, took: Duration) {
        let family = match direction {
            Direction::Outbound => &self.client,
            Direction::Inbound => &self.server,
        };
        if let Some(histogram) = family.get(&labels) {
            return histogram.observe(took.as_secs_f64());
        }
        let labels = if self.has_room() { labels } else { labels.overflow() };
        family.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a connection that has been carried to an endpoint.
    pub fn tcp_opened(&self, labels: &TcpLabels) {
        self.opened.get_or_create(labels).inc();
    }

    /// Counts its end, and what it carried.
    pub fn tcp_closed(&self, labels: &TcpLabels, sent: u64, received: u64) {
        self.closed.get_or_create(labels).inc();
        self.sent.get_or_create(labels).inc_by(sent);
        self.received.get_or_create(labels).inc_by(received);
    }

    /// Counts a connection that was refused.
    pub fn refuse(&self, direction: Direction, reason: &'static str) {
        self.refused.get_or_create(&RefusalLabels { direction, reason }).inc();
    }

    /// Counts a connection from outside the mesh.
    pub fn plaintext(&self, port: u16) {
        let known = self.plaintext.get(&PortLabels { port }).is_some();
        let port = if known || self.ports.fetch_add(1, Ordering::Relaxed) < PORTS_MAX { port } else { 0 };
        self.plaintext.get_or_create(&PortLabels { port }).inc();
    }

    /// Notes when the present certificate ends, in seconds since 1970.
    pub fn certificate(&self, not_after: i64) {
        self.certificate_expiry.set(not_after);
    }

    /// The page that Prometheus reads.
    ///
    /// # Errors
    /// When a label cannot be written, which is a defect of this program.
    pub fn page(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        encode(&mut page, &self.registry)?;
        Ok(page)
    }

    fn has_room(&self) -> bool {
        self.series.fetch_add(1, Ordering::Relaxed) < SERIES_MAX
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        let seconds =
            |registry: &mut Registry, name: &str, help: &str, family: &Family<RequestLabels, Histogram>| {
                registry.register_with_unit(name, help, Unit::Seconds, family.clone());
            };
        seconds(
            registry,
            "http_client_request_duration",
            "Requests of this pod, by route and backend",
            &self.client,
        );
        seconds(registry, "http_server_request_duration", "Requests to this pod", &self.server);
        let tcp: [(&str, &str, &Family<TcpLabels, Counter>); 4] = [
            ("heddle_tcp_connections_opened", "TCP connections carried to an endpoint", &self.opened),
            ("heddle_tcp_connections_closed", "Those that have ended", &self.closed),
            ("heddle_tcp_sent_bytes", "Bytes from callers to callees", &self.sent),
            ("heddle_tcp_received_bytes", "Bytes from callees to callers", &self.received),
        ];
        for (name, help, family) in tcp {
            registry.register(name, help, family.clone());
        }
        registry.register(
            "heddle_refused_connections",
            "Connections refused, by reason",
            self.refused.clone(),
        );
        registry.register(
            "heddle_plaintext_connections",
            "Accepted from outside the mesh",
            self.plaintext.clone(),
        );
        registry.register(
            "heddle_certificate_expiry_timestamp_seconds",
            "When the present certificate ends, in seconds since 1970",
            self.certificate_expiry.clone(),
        );
        registry.register("heddle_requests_in_flight", "Requests that run now", self.in_flight.clone());
    }
}

impl RequestLabels {
    /// Labels of a request that nothing is known of yet.
    pub fn unknown(security: Security) -> Self {
        let nothing = nothing();
        Self {
            route_namespace: Arc::clone(&nothing),
            route_name: Arc::clone(&nothing),
            route_kind: "",
            backend_namespace: Arc::clone(&nothing),
            backend_name: nothing,
            http_response_status_code: 0,
            error_type: "",
            security,
        }
    }

    /// Notes the route that matched.
    pub fn set_route(&mut self, route: &RouteRef) {
        self.route_namespace = Arc::clone(&route.name.namespace);
        self.route_name = Arc::clone(&route.name.name);
        self.route_kind = route.kind.as_str();
    }

    /// Notes the backend that was chosen.
    pub fn set_backend(&mut self, backend: &BackendKey) {
        self.backend_namespace = Arc::clone(&backend.service.namespace);
        self.backend_name = Arc::clone(&backend.service.name);
    }

    fn overflow(self) -> Self {
        Self { error_type: "overflow", ..Self::unknown(self.security) }
    }
}

impl TcpLabels {
    /// Labels of a connection to a backend, or to no Service.
    pub fn new(direction: Direction, backend: Option<&BackendKey>, security: Security) -> Self {
        let name = |part: fn(&BackendKey) -> &Arc<str>| backend.map_or_else(nothing, |b| Arc::clone(part(b)));
        Self {
            direction,
            backend_namespace: name(|b| &b.service.namespace),
            backend_name: name(|b| &b.service.name),
            security,
        }
    }
}

/// The empty label, made once.
fn nothing() -> Arc<str> {
    static NOTHING: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(|| "".into());
    Arc::clone(&NOTHING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_bounded_and_the_rest_is_counted_together() {
        let metrics = Metrics::default();
        for i in 0..SERIES_MAX + 10 {
            let labels =
                RequestLabels { route_name: i.to_string().into(), ..RequestLabels::unknown(Security::None) };
            metrics.request(Direction::Outbound, labels, Duration::from_millis(1));
        }
        let page = metrics.page().expect("page");
        let count = |line: &&str| line.starts_with("http_client_request_duration_seconds_count");
        assert_eq!(page.lines().filter(count).count() as u64, SERIES_MAX + 1);
        assert!(page.lines().filter(count).any(|line| line.contains("overflow") && line.ends_with(" 10")));
    }
}
