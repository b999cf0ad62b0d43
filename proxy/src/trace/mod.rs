//! Spans of requests, when somebody collects them.
//!
//! Without an OTLP endpoint there is no tracer, and `traceparent` passes as any other header. With one, each request of
//! a trace that is recorded makes a span, a child of the sender's, which becomes the parent of what comes after it.
//! Whether a trace is recorded is decided once, where it begins.

mod context;
mod export;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper::HeaderMap;
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use prometheus_client::metrics::counter::Counter;

pub use context::Context;
use export::Queue;

use crate::{config::Config, metrics::Direction};

/// Makes spans, and hands them to be exported.
pub struct Tracer {
    ratio: f64,
    queue: Queue,
    scope: InstrumentationScope,
}

/// A request's place in its trace, from its beginning to its end.
pub struct Span {
    tracer: Arc<Tracer>,
    parent: Option<Context>,
    /// Where the request stands here.
    pub context: Context,
    began: SystemTime,
}

/// What a span says of its request.
pub struct Said {
    /// Which way it went.
    pub direction: Direction,
    /// A name that many requests share.
    pub name: String,
    /// What was noted.
    pub attributes: Vec<KeyValue>,
    /// What went wrong.
    pub error: Option<String>,
}

impl Tracer {
    /// A tracer, if spans are to be exported.
    ///
    /// # Errors
    /// When the endpoint cannot be used.
    pub fn start(config: &Config, dropped: &Counter) -> Result<Option<Arc<Self>>, export::ExportError> {
        let Some(endpoint) = &config.otlp_endpoint else { return Ok(None) };
        let queue = Queue::start(endpoint, config, dropped.clone())?;
        let scope = InstrumentationScope::builder("heddle-proxy").with_version(env!("CARGO_PKG_VERSION"));
        Ok(Some(Arc::new(Self { ratio: config.trace_ratio, queue, scope: scope.build() })))
    }

    /// The span of a request that came with these headers; none if its trace is not recorded.
    pub fn begin(self: &Arc<Self>, headers: &HeaderMap) -> Option<Span> {
        let parent = Context::of(headers);
        let context = match parent {
            Some(parent) if !parent.is_sampled() => return None,
            Some(parent) => parent.child(),
            None => Context::root(fastrand::f64() < self.ratio),
        };
        Some(Span { tracer: Arc::clone(self), parent, context, began: SystemTime::now() })
    }

    /// Returns when what ended before is exported, or after a while.
    pub async fn flush(&self) {
        self.queue.flush().await;
    }
}

impl Span {
    /// Makes this the parent of what the request leads to.
    pub fn pass_on(&self, headers: &mut HeaderMap) {
        self.context.pass_on(headers, self.parent);
    }

    /// Whether it is recorded. (The root of a trace that is not still tells the others so.)
    pub fn is_recorded(&self) -> bool {
        self.context.is_sampled()
    }

    /// Ends, so long after it began.
    pub fn end(self, said: Said, took: Duration) {
        let kind = match said.direction {
            Direction::Outbound => SpanKind::Client,
            Direction::Inbound => SpanKind::Server,
        };
        let parent = self.parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.span));
        self.tracer.queue.push(SpanData {
            span_context: SpanContext::new(
                TraceId::from(self.context.trace),
                SpanId::from(self.context.span),
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: parent,
            parent_span_is_remote: self.parent.is_some(),
            span_kind: kind,
            name: said.name.into(),
            start_time: self.began,
            end_time: self.began + took,
            attributes: said.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: said.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: self.tracer.scope.clone(),
        });
    }
}
