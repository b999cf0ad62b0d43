//! One request's account: its metrics and its line in the access log.

use std::{net::SocketAddr, sync::Arc};

use hyper::{Method, Request, Response, body::Incoming};
use mesh::route::{BackendKey, RouteRef};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tracing::info;

use crate::{
    body::Body,
    config::AccessLog,
    failure::Failure,
    http::respond::{self, Answer, Manner},
    metrics::{Direction, Metrics, RequestLabels, Security},
    proxy::Proxy,
    upstream::Endpoint,
};

/// What is noted while a request is served, until its response's body has ended.
pub struct Access {
    direction: Direction,
    metrics: Arc<Metrics>,
    began: Instant,
    labels: RequestLabels,
    line: Option<Line>,
    room: Option<OwnedSemaphorePermit>,
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
    ) -> Box<Self> {
        proxy.metrics.in_flight.inc();
        let line = |errors_only: bool| Line {
            errors_only,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            destination,
            endpoint: None,
            error: None,
        };
        Box::new(Self {
            direction,
            metrics: Arc::clone(&proxy.metrics),
            began: Instant::now(),
            labels: RequestLabels::unknown(Security::None),
            line: match proxy.config.access_log {
                AccessLog::Off => None,
                AccessLog::Errors => Some(line(true)),
                AccessLog::All => Some(line(false)),
            },
            room: Arc::clone(&proxy.requests).try_acquire_owned().ok(),
        })
    }

    /// Whether the proxy may carry one more request. Its room is given back when the response has ended.
    ///
    /// # Errors
    /// When it carries as many as it may.
    pub fn has_room(&self) -> Result<(), Failure> {
        self.room.as_ref().map(drop).ok_or(Failure::Overloaded)
    }

    /// The response, or the proxy's own answer in its place. What was noted goes with its body.
    pub fn close(mut self: Box<Self>, outcome: Result<Response<Body>, Failure>, manner: Manner) -> Answer {
        let response = match outcome {
            Ok(response) => response,
            Err(failure) => {
                self.failed(&failure);
                respond::failure(&failure, manner)?
            }
        };
        self.labels.http_response_status_code = response.status().as_u16();
        Ok(response.map(|body| body.accounted(self)))
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

    fn failed(&mut self, failure: &Failure) {
        self.labels.error_type = failure.reason();
        if let Some(line) = &mut self.line {
            line.error = Some(failure.chain());
        }
    }
}

impl Drop for Access {
    /// Also when the client left before there was a response: its status is then 0.
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        if let Some(line) = self.line.take() {
            line.write(self);
        }
        let labels = std::mem::replace(&mut self.labels, RequestLabels::unknown(Security::None));
        self.metrics.request(self.direction, labels, self.began.elapsed());
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
