//! The two ports without TLS: metrics and the source's report (15014), and the kubelet's probes (15021).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::answer::{Body, Refusal, json_of, whole};
use crate::index::Index;
use crate::metrics::Metrics;
use crate::serve::{Answer, IDLE, Port};
use crate::source::Report;
use crate::stay::Stay;

/// Port 15014.
pub struct Pages {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is known.
    pub index: Arc<Index>,
    /// What the source last reported.
    pub report: Arc<RwLock<Report>>,
}

impl Port for Pages {
    const STAY: Stay = Stay::Asked(IDLE);
}

impl Answer for Pages {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/metrics") => {
                let text = self.metrics.text(&self.index.read());
                whole(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text)
            }
            (&Method::GET, "/sources") => {
                let report = self.report.read().unwrap_or_else(PoisonError::into_inner);
                json_of(StatusCode::OK, &*report)
            }
            _ => Refusal::absent("only /metrics and /sources are served here").response(),
        }
    }
}

/// Port 15021: whether everything that there is has been read, and all other ports are open.
pub struct Health(pub Arc<AtomicBool>);

impl Port for Health {
    /// The kubelet opens a connection for each probe.
    const STAY: Stay = Stay::Asked(Duration::from_secs(10));
}

impl Answer for Health {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        match request.uri().path() {
            "/ready" if !self.0.load(Ordering::Relaxed) => {
                whole(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "not ready\n")
            }
            "/live" | "/ready" => whole(StatusCode::OK, "text/plain", "ok\n"),
            _ => Refusal::absent("only /live and /ready are served here").response(),
        }
    }
}
