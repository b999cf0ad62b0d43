//! Short TCP connections: connect, a message, its echo, close.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::connection::dial;
use crate::crew::{self, PAUSE};
use crate::tally::{self, Tally};
use crate::target::{Target, seconds};

/// The length of a message and of its echo, bytes.
pub const MESSAGE: usize = 100;

/// What the client is told.
#[derive(clap::Args)]
pub struct Options {
    /// Where to: ADDR:PORT
    #[arg(long)]
    to: Target,
    /// How many connections at a time
    #[arg(long, default_value_t = 8)]
    concurrency: usize,
    /// How long, in seconds
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

struct Job {
    to: Target,
    until: Instant,
    tally: Tally,
}

/// Connects, and prints the counts.
pub async fn run(options: Options) -> Result<()> {
    let tally = Tally::start();
    let until = tally.began() + options.seconds;
    let job = Arc::new(Job { to: options.to, until, tally });
    crew::work(options.concurrency, until, &job.tally, || keep_connecting(Arc::clone(&job))).await;
    tally::print(&job.tally.report("connections"));
    Ok(())
}

async fn keep_connecting(job: Arc<Job>) {
    while Instant::now() < job.until {
        let began = Instant::now();
        match converse(&job.to).await {
            Ok(()) => job.tally.succeeded(began.elapsed()),
            Err(error) => {
                job.tally.failed(&error);
                sleep(PAUSE).await;
            }
        }
    }
}

/// One connection, from its opening to its echo.
async fn converse(to: &Target) -> Result<()> {
    let mut stream = dial(to.address).await?;
    exchange(&mut stream).await
}

/// Sends a message and reads its echo.
pub async fn exchange(stream: &mut TcpStream) -> Result<()> {
    const SAID: [u8; MESSAGE] = [b'x'; MESSAGE];
    let mut heard = [0; MESSAGE];
    stream.write_all(&SAID).await.context("cannot send")?;
    stream.read_exact(&mut heard).await.context("the echo broke off")?;
    ensure!(heard == SAID, "the echo is another message");
    Ok(())
}
