//! HTTP/1.1 in a closed loop: each connection sends its next request when the last one was answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use crate::connection::Connection;
use crate::crew::{self, PAUSE};
use crate::tally::{self, Tally};
use crate::target::{Http, seconds};

/// What the client is told.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    http: Http,
    /// How many connections at a time
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// How long, in seconds
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

struct Job {
    http: Http,
    request: Vec<u8>,
    until: Instant,
    tally: Tally,
}

/// Asks, and prints the counts.
pub async fn run(options: Options) -> Result<()> {
    let request = options.http.request();
    let tally = Tally::start();
    let job = Arc::new(Job { http: options.http, request, until: tally.began() + options.seconds, tally });
    crew::work(options.connections, job.until, &job.tally, || keep_asking(Arc::clone(&job))).await;
    tally::print(&job.tally.report("requests"));
    Ok(())
}

/// One connection's life, and its successors'.
async fn keep_asking(job: Arc<Job>) {
    let mut connection = None;
    while Instant::now() < job.until {
        match ask(&job, &mut connection).await {
            Ok(took) => job.tally.succeeded(took),
            Err(error) => {
                connection = None;
                job.tally.failed(&error);
                sleep(PAUSE).await;
            }
        }
    }
}

/// One request, over a new connection if there is none; how long the answer took, without the connecting.
async fn ask(job: &Job, connection: &mut Option<Connection>) -> Result<Duration> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(Connection::open(job.http.to.address).await?),
    };
    let began = Instant::now();
    let answer = open.exchange(&job.request).await?;
    let took = began.elapsed();
    if answer.last {
        *connection = None;
    }
    Ok(took)
}
