//! The way of spans to a collector: OTLP over HTTP, many at a time, from a queue with an end.
//!
//! Trips: the collector is away or slow, and the queue is full. Spans are then dropped, and counted. Recovers by
//! itself.

use std::{future::Future, io, pin::Pin, time::Duration};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Response, Uri,
    body::Bytes,
    client::conn::http1,
    header::{HOST, HeaderValue},
};
use hyper_util::rt::TokioIo;
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter as _},
};
use prometheus_client::metrics::counter::Counter;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::config::Config;

/// Spans that wait at most (OpenTelemetry's default): about 2 MiB.
const QUEUE: usize = 2048;
/// Spans in one request at most (likewise).
const BATCH: usize = 512;
/// How long spans are gathered before they are sent.
const GATHER: Duration = Duration::from_secs(1);
/// How long a request to the collector may take, its repetitions included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last spans may take.
const LAST: Duration = Duration::from_secs(3);
/// The port of OTLP over HTTP.
const PORT: u16 = 4318;
/// The largest answer that is read.
const ANSWER_MAX: usize = 64 * 1024;

/// Why there is no tracer.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The endpoint is of no use.
    #[error("cannot export spans")]
    Build(#[from] ExporterBuildError),
}

/// Spans on their way.
pub struct Queue {
    to: mpsc::Sender<Message>,
    dropped: Counter,
}

enum Message {
    Span(Box<SpanData>),
    Flush(oneshot::Sender<()>),
}

impl Queue {
    /// Begins to export.
    ///
    /// # Errors
    /// When the exporter cannot be made.
    pub fn start(endpoint: &Uri, config: &Config, dropped: Counter) -> Result<Self, ExportError> {
        let traces = format!("{}/v1/traces", endpoint.to_string().trim_end_matches('/'));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector)
            .with_endpoint(traces)
            .with_timeout(TIMEOUT);
        let mut exporter = exporter.build()?;
        opentelemetry_sdk::trace::SpanExporter::set_resource(&mut exporter, &resource(config));
        let (to, spans) = mpsc::channel(QUEUE);
        tokio::spawn(export(spans, exporter, dropped.clone()));
        info!(%endpoint, "exports spans");
        Ok(Self { to, dropped })
    }

    /// Sends a span some time soon, or counts that it could not.
    pub fn push(&self, span: SpanData) {
        if self.to.try_send(Message::Span(Box::new(span))).is_err() {
            self.dropped.inc();
        }
    }

    /// Returns when what was pushed before is exported, or after a while.
    pub async fn flush(&self) {
        let (done, exported) = oneshot::channel();
        if self.to.try_send(Message::Flush(done)).is_ok() {
            // Nobody collects: then there is nothing to wait for.
            let _ = timeout(LAST, exported).await;
        }
    }
}

/// Who makes these spans: the pod, by the names that OpenTelemetry has for it. The service is the pod's service
/// account, which is what the mesh knows a workload by; the pod itself if it has none of its own.
fn resource(config: &Config) -> Resource {
    let service = match config.service_account.as_str() {
        "default" => &config.pod_name,
        account => account,
    };
    let named = std::env::var_os("OTEL_SERVICE_NAME").is_some();
    let builder = Resource::builder().with_attributes([
        KeyValue::new("service.namespace", config.pod_namespace.clone()),
        KeyValue::new("k8s.namespace.name", config.pod_namespace.clone()),
        KeyValue::new("k8s.pod.name", config.pod_name.clone()),
        KeyValue::new("k8s.pod.uid", config.pod_uid.clone()),
    ]);
    if named { builder.build() } else { builder.with_service_name(service.to_owned()).build() }
}

/// Sends spans as they come, many at a time, until nobody can make any more.
async fn export(mut spans: mpsc::Receiver<Message>, exporter: SpanExporter, dropped: Counter) {
    let mut messages = Vec::new();
    let mut well = true;
    while spans.recv_many(&mut messages, BATCH).await > 0 {
        let asked = |messages: &[Message]| messages.iter().any(|m| matches!(m, Message::Flush(_)));
        if messages.len() < BATCH && !asked(&messages) {
            sleep(GATHER).await;
            while let Some(message) = (messages.len() < BATCH).then(|| spans.try_recv().ok()).flatten() {
                messages.push(message);
            }
        }
        let (mut batch, mut flushes) = (Vec::new(), Vec::new());
        for message in messages.drain(..) {
            match message {
                Message::Span(span) => batch.push(*span),
                Message::Flush(done) => flushes.push(done),
            }
        }
        let count = batch.len() as u64;
        let sent = if batch.is_empty() { Ok(()) } else { exporter.export(batch).await };
        if let Err(error) = &sent {
            dropped.inc_by(count);
            if well {
                warn!(%error, "cannot export spans; those that cannot wait are dropped");
            }
        }
        well = sent.is_ok();
        for done in flushes {
            // Who asked may have given up.
            let _ = done.send(());
        }
    }
}

/// Speaks to the collector in plain HTTP/1.1, one connection for each request: they are seconds apart, and a Service's
/// address leads each to another collector.
#[derive(Debug)]
struct Collector;

impl HttpClient for Collector {
    fn send_bytes<'c, 'f>(
        &'c self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        'c: 'f,
        Self: 'f,
    {
        Box::pin(async {
            timeout(TIMEOUT, send(request)).await.unwrap_or_else(|_| {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the collector does not answer").into())
            })
        })
    }
}

async fn send(request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (mut head, body) = request.into_parts();
    let host = head.uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((host, head.uri.port_u16().unwrap_or(PORT))).await?;
    if let Some(authority) = head.uri.authority() {
        head.headers.insert(HOST, HeaderValue::try_from(authority.as_str())?);
    }
    head.uri = head.uri.path_and_query().cloned().map_or_else(Uri::default, Uri::from);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let answer = sender.send_request(Request::from_parts(head, Full::new(body))).await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_MAX).collect().await?.to_bytes();
    Ok(Response::from_parts(head, body))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use clap::Parser as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        metrics::Direction,
        trace::{Said, Tracer},
    };

    fn config(endpoint: &str) -> Config {
        let words =
            ["heddle-proxy", "--pod-name", "web-0", "--pod-namespace", "shop", "--service-account", "web"];
        Config::try_parse_from(words.iter().chain(&["--otlp-endpoint", endpoint])).expect("valid arguments")
    }

    /// Whether a request has come whole.
    fn is_whole(request: &[u8]) -> bool {
        let text = String::from_utf8_lossy(request).to_ascii_lowercase();
        let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let end = request.windows(4).position(|window| window == b"\r\n\r\n");
        end.zip(length).is_some_and(|(end, length): (usize, usize)| request.len() >= end + 4 + length)
    }

    /// Takes a request and answers it; what came.
    async fn collect(listener: TcpListener, came: Arc<Mutex<Vec<u8>>>) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut piece = [0; 4096];
            while !is_whole(&came.lock().expect("lock")) {
                let n = stream.read(&mut piece).await.expect("read");
                came.lock().expect("lock").extend_from_slice(piece.get(..n).unwrap_or_default());
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("write");
        }
    }

    fn said() -> Said {
        let attributes = vec![KeyValue::new("url.path", "/cart")];
        Said { direction: Direction::Inbound, name: "GET".to_owned(), attributes, error: None }
    }

    #[tokio::test]
    async fn a_span_reaches_the_collector_with_its_trace_and_its_pod() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let endpoint = format!("http://{}/base", listener.local_addr().expect("address"));
        let came = Arc::default();
        tokio::spawn(collect(listener, Arc::clone(&came)));
        let dropped = Counter::default();
        let tracer = Tracer::start(&config(&endpoint), &dropped).expect("endpoint").expect("a tracer");
        let span = tracer.begin(&hyper::HeaderMap::new()).expect("every trace is recorded");
        let trace = span.context.trace.to_be_bytes();
        span.end(said(), Duration::from_millis(3));
        tracer.flush().await;
        let came = came.lock().expect("lock");
        let holds = |part: &[u8]| came.windows(part.len()).any(|window| window == part);
        assert!(
            came.starts_with(b"POST /base/v1/traces HTTP/1.1\r\n"),
            "{:?}",
            String::from_utf8_lossy(&came)
        );
        assert!(holds(&trace) && holds(b"k8s.pod.name") && holds(b"web-0") && holds(b"/cart"));
        assert_eq!(dropped.get(), 0);
    }

    #[tokio::test]
    async fn what_nobody_collects_is_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let endpoint = format!("http://{}", listener.local_addr().expect("address"));
        drop(listener);
        let dropped = Counter::default();
        let tracer = Tracer::start(&config(&endpoint), &dropped).expect("endpoint").expect("a tracer");
        let more = 10;
        for _ in 0..QUEUE + more {
            tracer.begin(&hyper::HeaderMap::new()).expect("recorded").end(said(), Duration::ZERO);
        }
        assert_eq!(dropped.get(), more as u64, "beyond the queue");
    }
}
