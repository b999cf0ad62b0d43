//! One request's account: its metrics and its line in the access log.

use std::{net::SocketAddr, sync::Arc};

use hyper::{Method, Request, Response, body::Incoming};
use mesh::route::{BackendKey, RouteRef};
use tokio::time::Instant;
use tracing::info;

use crate::{
    body::Body,
    config::AccessLog,
    failure::Failure,
    metrics::{Direction, Metrics, RequestLabels, Security},
    proxy::Proxy,
    upstream::Endpoint,
};

/// What is noted while a request is served.
pub struct Access {
    direction: Direction,
    metrics: Arc<Metrics>,
    began: Instant,
    labels: RequestLabels,
    line: Option<Line>,
}

/// What only the access log needs; not made when the log is off.
struct Line {
    errors_only: bool,
    method: Method,
    path: String,
    destination: SocketAddr,
    endpoint: Option<SocketAddr>,
    error: Option<String>,
}

impl Access {
    /// A request has come.
    pub fn begin(
        direction: Direction,
        proxy: &Proxy,
        request: &Request<Incoming>,
        destination: SocketAddr,
    ) -> Self {
        proxy.metrics.in_flight.inc();
        let line = (proxy.config.access_log == AccessLog::All).then(|| Line {
            errors_only: false,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            destination,
            endpoint: None,
            error: None,
        });
        let line = line.or_else(|| {
            (proxy.config.access_log == AccessLog::Errors).then(|| Line {
                errors_only: true,
                method: request.method().clone(),
                path: String::new(),
                destination,
                endpoint: None,
                error: None,
            })
        });
        Self {
            direction,
            metrics: Arc::clone(&proxy.metrics),
            began: Instant::now(),
            labels: RequestLabels::unknown(Security::None),
            line,
        }
    }

    /// The route that matched.
    pub fn route(&mut self, route: &RouteRef) {
        self.labels.set_route(route);
    }

    /// The backend that was chosen.
    pub fn backend(&mut self, backend: &BackendKey) {
        self.labels.set_backend(backend);
    }

    /// The endpoint that is tried.
    pub fn endpoint(&mut self, endpoint: &Endpoint) {
        self.security(if endpoint.identity().is_some() { Security::Mtls } else { Security::None });
        if let Some(line) = &mut self.line {
            line.endpoint = Some(endpoint.addr);
        }
    }

    /// Security towards the other pod.
    pub fn security(&mut self, security: Security) {
        self.labels.security = security;
    }

    /// The proxy answers by itself.
    pub fn failed(&mut self, failure: &Failure) {
        self.labels.error_type = failure.reason();
        if let Some(line) = &mut self.line {
            line.error = Some(failure.chain());
        }
    }

    /// The response's head goes out.
    pub fn end(&mut self, response: &Response<Body>) {
        self.labels.http_response_status_code = response.status().as_u16();
    }
}

impl Drop for Access {
    /// Also when the client left before there was a response: its status is then 0.
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        if let Some(line) = self.line.take() {
            line.write(self);
        }
        self.metrics.request(self.direction, self.labels.clone(), self.began.elapsed());
    }
}

impl Line {
    fn write(&self, access: &Access) {
        if self.errors_only && self.error.is_none() {
            return;
        }
        info!(
            target: "access",
            direction = ?access.direction,
            method = %self.method,
            path = self.path,
            destination = %self.destination,
            endpoint = self.endpoint.map(tracing::field::display),
            route = %access.labels.route_name,
            status = access.labels.http_response_status_code,
            seconds = access.began.elapsed().as_secs_f64(),
            reason = access.labels.error_type,
            error = self.error,
        );
    }
}
