//! HTTP/2 with prior knowledge in a closed loop: each stream of each connection is followed by another when it was
//! answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::Request;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::connection::dial;
use crate::crew::{self, PAUSE};
use crate::tally::{self, Tally};
use crate::target::{Http, seconds};

/// What a stream, and what a connection, may have in flight towards us, bytes: so much that no answer ever waits for
/// this client.
const WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// What the client is told.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    http: Http,
    /// How many connections at a time
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// How many requests at a time on each
    #[arg(long, default_value_t = 16)]
    streams: usize,
    /// How long, in seconds
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

struct Job {
    http: Http,
    request: Request<()>,
    streams: usize,
    until: Instant,
    tally: Tally,
}

/// Asks, and prints the counts.
pub async fn run(options: Options) -> Result<()> {
    let request = Request::get(format!("http://{}/", options.http.host())).body(())?;
    let tally = Tally::start();
    let until = tally.began() + options.seconds;
    let job = Arc::new(Job { http: options.http, request, streams: options.streams, until, tally });
    crew::work(options.connections, until, &job.tally, || keep_connecting(Arc::clone(&job))).await;
    tally::print(&job.tally.report("requests"));
    Ok(())
}

/// One connection, and its successors if it does not last.
async fn keep_connecting(job: Arc<Job>) {
    while Instant::now() < job.until {
        if let Err(error) = connect(&job).await {
            job.tally.failed(&error);
            sleep(PAUSE).await;
        }
    }
}

/// One connection's life.
async fn connect(job: &Arc<Job>) -> Result<()> {
    let stream = dial(job.http.to.address).await?;
    let mut builder = Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    let (sender, connection) = builder.handshake(stream).await.context("no HTTP/2")?;
    // It ends with its last stream, or with an error that its streams report.
    tokio::spawn(connection);
    let mut streams: JoinSet<()> =
        (0..job.streams).map(|_| keep_asking(Arc::clone(job), sender.clone())).collect();
    drop(sender);
    while streams.join_next().await.is_some() {}
    Ok(())
}

/// One stream, and its successors as long as the connection takes them.
async fn keep_asking(job: Arc<Job>, mut sender: SendRequest<Bytes>) {
    while Instant::now() < job.until {
        sender = match sender.ready().await {
            Ok(ready) => ready,
            Err(error) => {
                job.tally.failed(&error.into());
                return sleep(PAUSE).await;
            }
        };
        let began = Instant::now();
        match ask(&mut sender, job.request.clone()).await {
            Ok(()) => job.tally.succeeded(began.elapsed()),
            Err(error) => {
                job.tally.failed(&error);
                sleep(PAUSE).await;
            }
        }
    }
}

/// One request and its whole answer, which must be a 200. (h2 compares the body with the length that the head says.)
async fn ask(sender: &mut SendRequest<Bytes>, request: Request<()>) -> Result<()> {
    let (response, _) = sender.send_request(request, true).context("cannot send")?;
    let response = response.await?;
    ensure!(response.status() == 200, "status {}", response.status().as_u16());
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let length = data.context("the answer broke off")?.len();
        body.flow_control().release_capacity(length)?;
    }
    Ok(())
}
