//! Lines of the access log.

use std::{net::SocketAddr, time::Duration};

use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime as _, SystemTime},
};

use super::{
    fields::{Details, Fields as _, say_tcp},
    json::Object,
    log::Log,
    status,
};
use crate::{
    metrics::{Direction, Exchange, Failed, RequestLabels, Way},
    net::relay::Carried,
    trace::Context,
};

/// A request that has ended.
pub struct RequestLine<'a> {
    /// How it is counted.
    pub labels: &'a RequestLabels,
    /// What else is known of it.
    pub details: &'a Details,
    /// The response's status.
    pub http_status: Option<u16>,
    /// Where it stands in a trace, if it has a span of its own.
    pub here: Option<Context>,
    /// How long it took.
    pub took: Duration,
}

impl RequestLine<'_> {
    /// Writes itself, if it is one that is asked for.
    pub fn write(&self, log: &Log) {
        if log.errors_only && !is_news(self.labels) {
            return;
        }
        let mut object = begin(self.labels.direction, self.took);
        self.details.say(self.labels, self.http_status, &mut object);
        if let Some(trace) = self.here.or_else(|| self.details.trace()) {
            object.text("trace_id", &trace.trace_id());
            object.text("span_id", &trace.span_id());
        }
        log.line(object.finish());
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
        if log.errors_only && self.error.is_none() {
            return;
        }
        let mut object = begin(self.direction, self.took);
        let error = self.error.as_ref().map(|(reason, words)| (*reason, words.as_str()));
        say_tcp(self.way, self.destination, self.peer, error, self.carried, &mut object);
        log.line(object.finish());
    }
}

/// Whether it is one for people who asked for errors alone: not a 404 that an application means, but all that the mesh
/// could not do, and what OpenTelemetry takes for a server's fault.
fn is_news(labels: &RequestLabels) -> bool {
    match (labels.failed, labels.exchange) {
        (Failed::No, _) => false,
        (Failed::Reason(_), _) => true,
        (Failed::Status, Exchange::Grpc { status }) => status::is_servers_fault(status.unwrap_or_default()),
        (Failed::Status, Exchange::Http { status, .. }) => status.is_some_and(|status| status >= 500),
    }
}

fn begin(direction: Direction, took: Duration) -> Object {
    let mut object = Object::new();
    let mut now = String::with_capacity(32);
    if SystemTime.format_time(&mut Writer::new(&mut now)).is_ok() {
        object.text("timestamp", &now);
    }
    object.text("heddle.direction", direction.as_str());
    object.seconds("heddle.duration_seconds", took.as_secs_f64());
    object
}
