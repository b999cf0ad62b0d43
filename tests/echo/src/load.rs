//! The HTTP client: keeps connections busy and counts.
//!
//! A failure is a request that got no whole answer, or one of 400 or more. A connection that the server closes
//! *between* two requests is not: the next request opens another one, as every HTTP client does.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, Uri};
use tokio::task::LocalSet;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use crate::connection::{Connection, Unsent};
use crate::report::Report;

/// Bodies above this are not read for a server's name.
const MOST_BODY: usize = 64 << 20;

/// What the client is told.
#[derive(clap::Args, Clone)]
pub struct Options {
    /// Where to: http://HOST[:PORT]/PATH
    url: Uri,
    /// How many requests in all
    #[arg(long, default_value_t = 1000)]
    requests: u64,
    /// Stop after so many seconds, however many requests that was
    #[arg(long)]
    seconds: Option<u64>,
    /// How many connections at a time
    #[arg(long, default_value_t = 1)]
    connections: u64,
    /// Speak HTTP/2 with prior knowledge, one request at a time on each connection
    #[arg(long)]
    http2: bool,
    /// Most requests a second, in all [default: as fast as it goes]
    #[arg(long)]
    rate: Option<u64>,
    /// A header of each request: NAME:VALUE (repeat for more)
    #[arg(long = "header", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What names the answering server: header:NAME, or body-field:NAME of a JSON answer
    #[arg(long, default_value = "header:x-server", value_parser = By::parse)]
    by: By,
    /// Longest time for one request, in seconds
    #[arg(long, default_value_t = 10)]
    timeout: u64,
    /// Fail if any request failed
    #[arg(long)]
    expect_zero_failures: bool,
    /// Print the counts as JSON
    #[arg(long)]
    json: bool,
    /// Say every second how far it is, on standard error
    #[arg(long)]
    progress: bool,
}

/// Where an answer names its server.
#[derive(Clone)]
enum By {
    Header(String),
    BodyField(String),
}

impl By {
    fn parse(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some(("header", name)) => Ok(Self::Header(name.to_owned())),
            Some(("body-field", name)) => Ok(Self::BodyField(name.to_owned())),
            _ => bail!("header:NAME or body-field:NAME"),
        }
    }
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue)> {
    let (name, value) = text.split_once(':').context("NAME:VALUE")?;
    Ok((name.trim().parse()?, value.trim().parse()?))
}

/// Sends, counts, prints.
pub async fn run(options: Options) -> Result<()> {
    if options.url.host().is_none() || options.url.scheme_str() != Some("http") {
        bail!("{} is not of the form http://HOST[:PORT]/PATH", options.url);
    }
    let work = Rc::new(Work::new(options));
    let everyone = LocalSet::new();
    for _ in 0..work.options.connections.max(1) {
        everyone.spawn_local(client(Rc::clone(&work)));
    }
    if work.options.progress {
        tokio::select! {
            () = everyone => {}
            () = say_progress(&work) => {}
        }
    } else {
        everyone.await;
    }
    conclude(&work)
}

fn conclude(work: &Work) -> Result<()> {
    let mut report = work.report.borrow_mut();
    if work.options.json {
        report.print_json();
    } else {
        report.print_text();
    }
    if work.options.expect_zero_failures { report.verdict() } else { Ok(()) }
}

async fn say_progress(work: &Work) {
    let mut second = interval(Duration::from_secs(1));
    second.tick().await;
    loop {
        second.tick().await;
        eprintln!("{}", work.report.borrow().progress());
    }
}

/// What the connections share; they take turns on one thread.
struct Work {
    options: Options,
    left: RefCell<u64>,
    until: Option<Instant>,
    pace: Option<tokio::sync::Mutex<Interval>>,
    report: RefCell<Report>,
}

impl Work {
    fn new(options: Options) -> Self {
        let left = if options.seconds.is_some() { u64::MAX } else { options.requests };
        let pace = options.rate.map(|rate| {
            let mut pace = interval(Duration::from_secs_f64(1.0 / rate.max(1) as f64));
            // A slow answer must not be followed by a burst.
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tokio::sync::Mutex::new(pace)
        });
        let until = options.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        Self { options, left: RefCell::new(left), until, pace, report: RefCell::new(Report::start()) }
    }

    /// Waits for the next request's turn; false when there is none.
    async fn next(&self) -> bool {
        if let Some(pace) = &self.pace {
            pace.lock().await.tick().await;
        }
        let mut left = self.left.borrow_mut();
        if *left == 0 || self.until.is_some_and(|until| Instant::now() >= until) {
            return false;
        }
        *left -= 1;
        true
    }
}

/// One connection's life, and its successors'.
async fn client(work: Rc<Work>) {
    let mut connection = None;
    while work.next().await {
        let limit = Duration::from_secs(work.options.timeout);
        let began = Instant::now();
        let answer = timeout(limit, ask(&work, &mut connection)).await;
        let outcome = answer.unwrap_or_else(|_| Err(anyhow!("no answer within {} s", limit.as_secs())));
        let mut report = work.report.borrow_mut();
        match outcome {
            Ok(Answer { status, server, .. }) if status < 400 => {
                report.answered(&status.to_string(), &server);
                report.took(began.elapsed());
            }
            Ok(Answer { status, server, why }) => {
                report.answered(&status.to_string(), &server);
                report.failed(&format!("status {status}{why}"));
            }
            Err(error) => {
                connection = None;
                report.failed(&format!("{error:#}"));
            }
        }
    }
}

struct Answer {
    status: u16,
    server: String,
    /// What a proxy that answered by itself says of the reason (RFC 9209).
    why: String,
}

async fn ask(work: &Work, connection: &mut Option<Connection>) -> Result<Answer> {
    if let Some(mut open) = connection.take() {
        if open.ready().await {
            match exchange(work, open).await {
                Err(error) if error.is::<Unsent>() => (),
                exchanged => {
                    let (answer, open) = exchanged?;
                    *connection = open;
                    return Ok(answer);
                }
            }
        }
        work.report.borrow_mut().reconnected();
    }
    let (answer, open) =
        exchange(work, Connection::open(&work.options.url, work.options.http2).await?).await?;
    *connection = open;
    Ok(answer)
}

/// One request; the connection comes back if it may carry another.
async fn exchange(work: &Work, mut open: Connection) -> Result<(Answer, Option<Connection>)> {
    let mut request = open.get(&work.options.url)?;
    for (name, value) in &work.options.headers {
        request.headers_mut().insert(name, value.clone());
    }
    let response = open.send(request).await?;
    let status = response.status().as_u16();
    let why = response.headers().get("proxy-status").and_then(|value| value.to_str().ok()).map(reason);
    let why = why.unwrap_or_default();
    let server = name(&work.options.by, response).await?;
    let open = if open.is_closed() { None } else { Some(open) };
    Ok((Answer { status, server, why }, open))
}

/// The error token of a `Proxy-Status`.
fn reason(status: &str) -> String {
    let error = status.split(';').find_map(|part| part.trim().strip_prefix("error="));
    error.map(|error| format!(" ({error})")).unwrap_or_default()
}

/// Reads the whole answer: one that breaks off is a failure.
async fn name(by: &By, mut response: Response<Incoming>) -> Result<String> {
    let header = match by {
        By::Header(name) => {
            response.headers().get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        }
        By::BodyField(_) => None,
    };
    let mut body = Vec::new();
    while let Some(frame) = response.body_mut().frame().await {
        if let (Ok(data), true) = (frame.context("the answer broke off")?.into_data(), body.len() < MOST_BODY)
        {
            body.extend_from_slice(&data);
        }
    }
    let By::BodyField(field) = by else {
        return Ok(header.unwrap_or_default());
    };
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    Ok(json.get(field).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned())
}
