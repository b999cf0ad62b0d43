//! HTTP/1.1 at a fixed rate, whether the answers keep up or not.
//!
//! What an answer took counts from the moment its request was due, not from when it was sent: a stall is felt by all
//! requests that were due meanwhile, as it would be by users (no coordinated omission).
//!
//! Each connection has a thread of its own, for the runtime's timers go by the millisecond, and the kernel's by the
//! microsecond. A thread costs three system calls per request: it sleeps, writes, reads.

use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::connection::BlockingConnection;
use crate::crew::GRACE;
use crate::schedule::Schedule;
use crate::tally::{self, Tally};
use crate::target::{Http, seconds};

/// What the client is told.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    http: Http,
    /// Requests per second, in all
    #[arg(long, default_value_t = 1500.0)]
    rate: f64,
    /// How many connections share them
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// How long, in seconds
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

struct Job {
    http: Http,
    request: Vec<u8>,
    schedule: Schedule,
    length: Duration,
    /// Everybody's connection is open.
    ready: Barrier,
    /// The beginning of the schedule and of the counting.
    tally: OnceLock<Tally>,
}

/// Asks, and prints the counts.
pub fn run(options: Options) -> Result<()> {
    let Options { http, rate, connections, seconds: length } = options;
    ensure!(rate.is_finite() && rate > 0.0, "--rate must be more than 0");
    ensure!(connections > 0, "--connections must be more than 0");
    sleep_exactly();
    let job = Arc::new(Job {
        request: http.request(),
        http,
        schedule: Schedule::new(rate, length),
        length,
        ready: Barrier::new(connections),
        tally: OnceLock::new(),
    });
    let threads: Vec<_> =
        (0..connections).map(|_| Arc::clone(&job)).map(|job| thread::spawn(move || work(&job))).collect();
    for thread in threads {
        thread.join().map_err(|_| anyhow!("a thread panicked"))?;
    }
    let tally = job.tally.get().context("nobody began")?;
    tally::print(&tally.report("requests"));
    Ok(())
}

/// Asks the kernel to end sleeps when they are over. Threads inherit it from this one, the process's first.
pub fn sleep_exactly() {
    const SLACK: &str = "/proc/self/timerslack_ns";
    if let Err(error) = std::fs::write(SLACK, "1") {
        eprintln!("sleeps may last 50 µs too long: cannot write {SLACK}: {error}");
    }
}

/// One thread: its connection, and its part of the requests.
fn work(job: &Job) {
    // A failure shows again when the first request is due, and counts then.
    let mut connection = open(job).ok();
    job.ready.wait();
    let tally = job.tally.get_or_init(Tally::start);
    let end = tally.began() + job.length + GRACE;
    while let Some(due) = job.schedule.next() {
        let due = tally.began() + due;
        if Instant::now() > end {
            tally.failed(&anyhow!("not sent until long after the end"));
            continue;
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        match ask(job, &mut connection) {
            Ok(()) => tally.succeeded(due.elapsed()),
            Err(error) => {
                connection = None;
                tally.failed(&error);
            }
        }
    }
}

/// One request, over a new connection if there is none.
fn ask(job: &Job, connection: &mut Option<BlockingConnection>) -> Result<()> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(open(job)?),
    };
    if open.exchange(&job.request)?.last {
        *connection = None;
    }
    Ok(())
}

fn open(job: &Job) -> Result<BlockingConnection> {
    BlockingConnection::open(job.http.to.address, GRACE, GRACE)
}
