//! TCP streams in one direction, as fast as they are taken. Only bytes whose arrival the server confirmed count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connection::dial;
use crate::crew;
use crate::tally::{self, Tally};
use crate::target::{Target, seconds};

/// What is written at a time, bytes.
const BLOCK: usize = 64 << 10;

/// What the client is told.
#[derive(clap::Args)]
pub struct Options {
    /// Where to: ADDR:PORT
    #[arg(long)]
    to: Target,
    /// How many streams at a time
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// How long, in seconds
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

struct Job {
    to: Target,
    until: Instant,
    bytes: AtomicU64,
    tally: Tally,
}

/// Sends, and prints the counts.
pub async fn run(options: Options) -> Result<()> {
    let tally = Tally::start();
    let until = tally.began() + options.seconds;
    let job = Arc::new(Job { to: options.to, until, bytes: AtomicU64::new(0), tally });
    crew::work(options.streams, until, &job.tally, || stream(Arc::clone(&job))).await;
    tally::print(&json!({
        "bytes": job.bytes.load(Ordering::Relaxed),
        "failures": job.tally.failures(),
        "seconds": job.tally.seconds(),
    }));
    Ok(())
}

async fn stream(job: Arc<Job>) {
    match send(&job).await {
        Ok(bytes) => {
            job.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        Err(error) => job.tally.failed(&error),
    }
}

/// One stream; how many bytes arrived, which must be as many as were sent.
async fn send(job: &Job) -> Result<u64> {
    let mut stream = dial(job.to.address).await?;
    let block = vec![b'x'; BLOCK];
    let mut sent = 0;
    while Instant::now() < job.until {
        stream.write_all(&block).await.context("cannot send")?;
        sent += BLOCK as u64;
    }
    stream.shutdown().await.context("cannot end")?;
    let arrived = stream.read_u64().await.context("no count came back")?;
    ensure!(arrived == sent, "{arrived} of {sent} bytes arrived");
    Ok(arrived)
}
