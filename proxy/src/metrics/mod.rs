//! What the proxy counts, under OpenTelemetry's names where it has one.
//!
//! Labels come from configuration (routes, Services), from proven identities and from small enums, never from what a
//! client makes up, so the number of series follows what is in use. A bound stands behind that all the same, and what
//! is not used any more goes (`table.rs`).

mod labels;
mod process;
mod series;
mod table;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use mesh::route::BackendKey;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text::encode as encode_text},
    metrics::{MetricType, counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

pub use labels::{Direction, Exchange, Failed, RequestLabels, Rule, TcpLabels, Way, known_method};
pub use process::{Control, seconds_since_1970};
pub use series::{Connections, Durations};
use table::Table;

/// Labels of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    direction: Direction,
    reason: &'static str,
}

/// Labels of plaintext from outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PortLabels {
    port: u16,
}

/// Labels of an endpoint that was set aside.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EjectionLabels {
    backend_namespace: Arc<str>,
    backend_name: Arc<str>,
    reason: &'static str,
}

/// Everything that is counted.
#[derive(Default)]
pub struct Metrics {
    registry: Registry,
    requests: Arc<Requests>,
    tcp: Arc<Tcp>,
    refused: Family<RefusalLabels, Counter>,
    plaintext: Family<PortLabels, Counter>,
    ejections: Family<EjectionLabels, Counter>,
    ports: AtomicU64,
    certificate_expiry: Gauge,
    trusted_roots: Gauge,
    /// Tunnels that have outlived the certificates that they were made with.
    pub tunnels_beyond_certificate: Counter,
    /// Requests that run now.
    pub in_flight: Gauge,
    /// Lines of the access log that there was no room for.
    pub lines_dropped: Counter,
    /// Spans that there was no room for, or that the collector did not take.
    pub spans_dropped: Counter,
    /// What is known of the control plane.
    pub control: Control,
}

/// Every request, whatever its way and protocol: one table, so one bound.
#[derive(Debug, Default)]
struct Requests(Table<RequestLabels, Durations>);

/// Every connection that is carried as bytes.
#[derive(Debug, Default)]
struct Tcp(Table<TcpLabels, Connections>);

/// The most ports counted by themselves; all others are counted as port 0.
const PORTS_MAX: u64 = 64;

impl Metrics {
    /// All of it at zero.
    pub fn new() -> Self {
        let mut metrics = Self::default();
        metrics.register();
        metrics
    }

    /// Counts a request that ends `now`, and its duration.
    pub fn request(&self, labels: &RequestLabels, took: Duration, now: Instant) {
        self.requests.0.series(labels, now).observe(took);
    }

    /// The series of a connection that begins. It is the connection's to count in while it lasts.
    pub fn connections(&self, labels: &TcpLabels) -> Arc<Connections> {
        self.tcp.0.series(labels, Instant::now())
    }

    /// Counts a connection that was refused.
    pub fn refuse(&self, direction: Direction, reason: &'static str) {
        self.refused.get_or_create(&RefusalLabels { direction, reason }).inc();
    }

    /// Counts that an endpoint of a backend was set aside.
    pub fn ejected(&self, backend: &BackendKey, reason: &'static str) {
        let (backend_namespace, backend_name) =
            (Arc::clone(&backend.service.namespace), Arc::clone(&backend.service.name));
        let labels = EjectionLabels { backend_namespace, backend_name, reason };
        self.ejections.get_or_create(&labels).inc();
    }

    /// Counts a connection from outside the mesh.
    pub fn plaintext(&self, port: u16) {
        let known = self.plaintext.get(&PortLabels { port }).is_some();
        let port = if known || self.ports.fetch_add(1, Relaxed) < PORTS_MAX { port } else { 0 };
        self.plaintext.get_or_create(&PortLabels { port }).inc();
    }

    /// Notes when the present certificate ends, in seconds since 1970, and how many roots are trusted.
    pub fn certificate(&self, not_after: i64, roots: usize) {
        self.certificate_expiry.set(not_after);
        self.trusted_roots.set(i64::try_from(roots).unwrap_or(i64::MAX));
    }

    /// The page that Prometheus reads.
    ///
    /// # Errors
    /// When a label cannot be written, which is a defect of this program.
    pub fn page(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        encode_text(&mut page, &self.registry)?;
        Ok(page)
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register_collector(Box::new(Arc::clone(&self.requests)));
        registry.register_collector(Box::new(Arc::clone(&self.tcp)));
        registry.register("heddle_requests_in_flight", "Requests that run now", self.in_flight.clone());
        registry.register(
            "heddle_refused_connections",
            "Connections refused, by reason",
            self.refused.clone(),
        );
        registry.register(
            "heddle_plaintext_connections",
            "Connections accepted from outside the mesh",
            self.plaintext.clone(),
        );
        registry.register(
            "heddle_certificate_expiry_timestamp_seconds",
            "When the present certificate ends, in seconds since 1970",
            self.certificate_expiry.clone(),
        );
        registry.register(
            "heddle_trusted_roots",
            "Roots that are trusted: two while one is being replaced",
            self.trusted_roots.clone(),
        );
        registry.register(
            "heddle_tunnels_beyond_certificate",
            "Tunnels that went on after the end of the certificates that they were made with",
            self.tunnels_beyond_certificate.clone(),
        );
        registry.register(
            "heddle_endpoint_ejections",
            "Endpoints set aside because they failed",
            self.ejections.clone(),
        );
        self.control.register(registry);
        registry.register(
            "heddle_access_log_dropped_lines",
            "Lines of the access log that nobody took in time",
            self.lines_dropped.clone(),
        );
        registry.register(
            "heddle_trace_dropped_spans",
            "Spans that the collector did not take in time",
            self.spans_dropped.clone(),
        );
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("heddle_build", "The program", build);
        registry.register_collector(Box::new(process::Process::new()));
    }
}

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        type Is = fn(&Exchange) -> bool;
        let http: Is = |exchange| matches!(exchange, Exchange::Http { .. });
        let grpc: Is = |exchange| matches!(exchange, Exchange::Grpc { .. });
        let all = self.0.scrape(Instant::now());
        for (name, help, direction, is) in [
            ("http_client_request_duration", "HTTP requests of this pod", Direction::Outbound, http),
            ("http_server_request_duration", "HTTP requests to this pod", Direction::Inbound, http),
            ("rpc_client_call_duration", "gRPC calls of this pod", Direction::Outbound, grpc),
            ("rpc_server_call_duration", "gRPC calls to this pod", Direction::Inbound, grpc),
        ] {
            let mut these =
                all.iter().filter(|(l, _)| l.direction == direction && is(&l.exchange)).peekable();
            if these.peek().is_none() {
                continue;
            }
            let unit = Unit::Seconds;
            let mut family = encoder.encode_descriptor(name, help, Some(&unit), MetricType::Histogram)?;
            these.try_for_each(|(labels, series)| series.encode(family.encode_family(labels)?))?;
        }
        Ok(())
    }
}

impl Collector for Tcp {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        type Value = fn(&Connections) -> &AtomicU64;
        let families: [(&str, &str, Value); 4] = [
            ("connections_opened", "TCP connections carried to an endpoint", |of| &of.opened),
            ("connections_closed", "Those that have ended", |of| &of.closed),
            ("sent_bytes", "Bytes from callers to callees", |of| &of.sent),
            ("received_bytes", "Bytes from callees to callers", |of| &of.received),
        ];
        let all = self.0.scrape(Instant::now());
        for (name, help, value) in families.into_iter().filter(|_| !all.is_empty()) {
            let name = format!("heddle_tcp_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (labels, series) in &all {
                let count = value(series).load(Relaxed);
                family.encode_family(labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
