//! The account of each request and connection: what is noted while it lasts, its metrics, and its line in the access
//! log.

mod fields;
mod json;
mod line;
mod log;
mod status;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{HeaderMap, Request, Response};
use mesh::{
    identity::Identity,
    names::ServiceName,
    route::{BackendKey, HttpRule},
};

use crate::{
    body::{Body, Follower, Passed},
    clock,
    failure::Failure,
    http::respond::{self, Answer, Manner},
    metrics::{Direction, Exchange, Failed, Metrics, RequestLabels, Rule, Way, known_method},
    proxy::{Proxy, Room},
    trace::{Said, Span},
    upstream::Endpoint,
};

use fields::{Details, error_type};
use line::RequestLine;
pub use line::TcpLine;
pub use log::Log;

/// The reason of a request whose client left before it had the whole answer.
const CLIENT_LEFT: &str = "client_disconnected";
/// The reason of an answer that broke off, as in [`Failure::reason`].
const BROKE_OFF: &str = "connection_terminated";

/// What is noted while a request is served, until its response's body has ended.
pub struct Access {
    metrics: Arc<Metrics>,
    began: Instant,
    labels: RequestLabels,
    status: Option<u16>,
    reason: Option<&'static str>,
    whole: bool,
    log: Option<Arc<Log>>,
    span: Option<Box<Span>>,
    details: Option<Details>,
    room: Option<Room>,
}

impl Access {
    /// A request has come.
    pub fn begin(
        direction: Direction,
        proxy: &Proxy,
        request: &Request<impl Sized>,
        destination: SocketAddr,
    ) -> Box<Self> {
        proxy.metrics.in_flight.inc();
        let exchange = match Manner::of(request) {
            Manner::Grpc => Exchange::Grpc { status: None },
            Manner::Http1 | Manner::Http2 => {
                Exchange::Http { method: known_method(request.method()), status: None }
            }
        };
        let log = proxy.log.clone();
        let span = proxy.tracer.as_ref().and_then(|tracer| tracer.begin(request.headers())).map(Box::new);
        let recorded = span.as_ref().is_some_and(|span| span.is_recorded());
        let wanted = log.is_some() || recorded;
        Box::write(
            Box::new_uninit(),
            Self {
                metrics: Arc::clone(&proxy.metrics),
                began: clock::now().into_std(),
                labels: RequestLabels {
                    direction,
                    exchange,
                    failed: Failed::No,
                    way: Way::default(),
                    overflow: false,
                },
                status: None,
                reason: None,
                whole: false,
                log,
                span,
                details: wanted.then(|| Details::of(request, destination)),
                room: proxy.room(direction),
            },
        )
    }

    /// Whether the proxy may carry one more request. Its room is given back when the response has ended.
    ///
    /// # Errors
    /// When it carries as many as it may.
    pub fn has_room(&self) -> Result<(), Failure> {
        self.room.as_ref().map(drop).ok_or(Failure::Overloaded)
    }

    /// A place for what this request leads to that outlives it, if it has one itself.
    pub fn room(&self) -> Option<Room> {
        self.room.clone()
    }

    /// The request's body, counted as it passes if anybody will read the count.
    pub fn passes(&mut self, body: &mut Body) {
        if let Some(details) = &mut self.details {
            details.count(body);
        }
    }

    /// Makes this request the parent of what it leads to, if it has a span. Otherwise the headers stay as they are.
    pub fn pass_on(&self, headers: &mut HeaderMap) {
        if let Some(span) = &self.span {
            span.pass_on(headers);
        }
    }

    /// The response, or the proxy's own answer in its place. What was noted goes with its body.
    ///
    /// # Errors
    /// When the answer is a reset of the request's stream.
    pub fn close(mut self: Box<Self>, outcome: Result<Response<Body>, Failure>, manner: Manner) -> Answer {
        let response = match outcome {
            Ok(response) => response,
            Err(failure) => {
                self.failed(&failure);
                respond::failure(&failure, manner)?
            }
        };
        self.answered(&response);
        Ok(response.map(|body| body.accounted(self)))
    }

    /// The Service and port that the client dialled.
    pub fn parent(&mut self, service: &ServiceName, port: u16) {
        self.labels.way.parent = Some(BackendKey { service: service.clone(), port });
    }

    /// The rule that matched.
    pub fn rule(&mut self, rule: &HttpRule) {
        self.labels.way.rule = Some(Rule::of(rule));
    }

    /// The backend that was chosen.
    pub fn backend(&mut self, backend: &BackendKey) {
        self.labels.way.backend = Some(backend.clone());
    }

    /// The endpoint that is tried.
    pub fn endpoint(&mut self, endpoint: &Endpoint) {
        self.labels.way.set_peer(endpoint.identity());
        if let Some(details) = &mut self.details {
            details.peer = Some(endpoint.addr);
        }
    }

    /// Who calls, if the connection proved it, and from where.
    pub fn caller(&mut self, identity: Option<&Identity>, addr: Option<SocketAddr>) {
        self.labels.way.set_peer(identity);
        if let Some(details) = &mut self.details {
            details.peer = addr;
        }
    }

    /// The application took a request on this port of the pod. (A port that nobody serves is a number of its caller's
    /// choice, and no label.)
    pub fn served_on(&mut self, port: u16) {
        self.labels.way.server_port = Some(port);
    }

    fn answered(&mut self, response: &Response<Body>) {
        self.status = Some(response.status().as_u16());
        if let Exchange::Http { status, .. } = &mut self.labels.exchange {
            *status = self.status;
        }
        self.grpc_status(response.headers());
    }

    fn grpc_status(&mut self, headers: &HeaderMap) {
        if let Exchange::Grpc { status } = &mut self.labels.exchange {
            *status = status.or_else(|| status::grpc(headers));
        }
    }

    fn failed(&mut self, failure: &Failure) {
        self.reason = Some(failure.reason());
        if let Some(details) = &mut self.details {
            details.error = Some(failure.chain());
        }
    }

    /// Tells the log and the collector.
    fn tell(&mut self, took: Duration) {
        let Some(details) = &self.details else { return };
        if let Some(log) = &self.log {
            let (labels, http_status) = (&self.labels, self.status);
            let here = self.span.as_ref().map(|span| span.context);
            RequestLine { labels, details, http_status, here, took }.write(log);
        }
        if let Some(span) = self.span.take().filter(|span| span.is_recorded()) {
            let mut attributes = Vec::with_capacity(20);
            details.say(&self.labels, self.status, &mut attributes);
            let error = (self.labels.failed != Failed::No).then(|| error_type(&self.labels));
            let name = details.name(&self.labels);
            span.end(Said { direction: self.labels.direction, name, attributes, error }, took);
        }
    }

    /// What came of it, when nothing more will.
    fn settle(&mut self) {
        if !self.whole && self.reason.is_none() {
            self.reason = Some(CLIENT_LEFT);
        }
        if let Exchange::Grpc { status } = &mut self.labels.exchange {
            let left = self.reason == Some(CLIENT_LEFT);
            *status = status.or_else(|| Some(status::grpc_instead(self.status, left)));
        }
        self.labels.failed = match self.reason {
            Some(reason) => Failed::Reason(reason),
            None if status::is_error(self.labels.direction, self.labels.exchange) => Failed::Status,
            None => Failed::No,
        };
    }
}

impl Follower for Access {
    fn passed(&mut self, passed: &Passed<'_>) {
        match passed {
            Passed::Data(bytes) => {
                if let Some(details) = &mut self.details {
                    details.response_bytes += bytes;
                }
            }
            Passed::Trailers(trailers) => self.grpc_status(trailers),
            Passed::End => self.whole = true,
            Passed::Break => self.reason = Some(BROKE_OFF),
        }
    }
}

impl Drop for Access {
    /// Also when the client left before there was a response.
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        self.settle();
        let now = clock::now().into_std();
        let took = now.saturating_duration_since(self.began);
        self.tell(took);
        self.metrics.request(&self.labels, took, now);
    }
}
