//! Connections that were used once and now do nothing: what they cost is in the memory of those between.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::net::TcpStream;

use crate::connection::{Connection, dial};
use crate::tally::{self, Tally};
use crate::target::Http;
use crate::{crew, short};

/// Connections that are opened at a time: no more than any backlog holds.
const AT_A_TIME: usize = 16;
/// How long it may take until all are open.
const OPENING: Duration = Duration::from_secs(60);

/// What the client is told.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    http: Http,
    /// What is said on each, once
    #[arg(long, value_enum)]
    kind: Kind,
    /// How many
    #[arg(long, default_value_t = 1000)]
    connections: u64,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// An HTTP/1.1 request
    Http1,
    /// A message of 100 bytes and its echo
    Echo,
}

struct Job {
    http: Http,
    request: Vec<u8>,
    kind: Kind,
    connections: u64,
    begun: AtomicU64,
    held: Mutex<Vec<TcpStream>>,
    tally: Tally,
}

/// Opens the connections, prints how many are open, and holds them until standard input ends. An error if any of them
/// ended before that.
pub async fn run(options: Options) -> Result<()> {
    let Options { http, kind, connections } = options;
    let job = Arc::new(Job {
        request: http.request(),
        http,
        kind,
        connections,
        begun: AtomicU64::new(0),
        held: Mutex::default(),
        tally: Tally::start(),
    });
    crew::work(AT_A_TIME, Instant::now() + OPENING, &job.tally, || keep_opening(Arc::clone(&job))).await;
    let held = std::mem::take(&mut *job.held.lock().unwrap_or_else(PoisonError::into_inner));
    tally::print(&json!({"open": held.len(), "failures": job.tally.failures()}));
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())
        .context("cannot read standard input")?;
    still_open(held)
}

async fn keep_opening(job: Arc<Job>) {
    while job.begun.fetch_add(1, Ordering::Relaxed) < job.connections {
        match open(&job).await {
            Ok(stream) => job.held.lock().unwrap_or_else(PoisonError::into_inner).push(stream),
            Err(error) => job.tally.failed(&error),
        }
    }
}

/// One connection, used once.
async fn open(job: &Job) -> Result<TcpStream> {
    let address = job.http.to.address;
    match job.kind {
        Kind::Http1 => {
            let mut connection = Connection::open(address).await?;
            let answer = connection.exchange(&job.request).await?;
            ensure!(!answer.last, "the server closes after one request");
            Ok(connection.into_stream())
        }
        Kind::Echo => {
            let mut stream = dial(address).await?;
            short::exchange(&mut stream).await?;
            Ok(stream)
        }
    }
}

/// Connections that were closed meanwhile cost nobody anything, and whoever measured them must know.
fn still_open(held: Vec<TcpStream>) -> Result<()> {
    let all = held.len();
    let open = |stream: TcpStream| {
        let nothing = stream.into_std().and_then(|stream| stream.peek(&mut [0]));
        nothing.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    };
    let left = held.into_iter().map(open).filter(|open| *open).count();
    ensure!(left == all, "{} of {all} connections ended while they were held", all - left);
    Ok(())
}
