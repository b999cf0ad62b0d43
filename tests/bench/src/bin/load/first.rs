//! The moment from which on a server answers.

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::json;

use crate::connection::BlockingConnection;
use crate::open::sleep_exactly;
use crate::tally;
use crate::target::{Http, seconds};

/// Rest after an attempt that failed: how exactly the moment is known.
const BETWEEN: Duration = Duration::from_millis(1);
/// How long the connecting of one attempt may take: the kernel itself would send a lost SYN again after 1 s only.
const CONNECT: Duration = Duration::from_millis(20);
/// How long its answer may.
const ANSWER: Duration = Duration::from_secs(1);

/// What the client is told.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    http: Http,
    /// When to give up, in seconds
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

/// Asks until it is answered, and prints when that was, in nanoseconds since 1970.
pub fn run(options: &Options) -> Result<()> {
    let request = options.http.request();
    let until = Instant::now() + options.seconds;
    sleep_exactly();
    loop {
        match ask(options, &request) {
            Ok(()) => break,
            Err(error) if Instant::now() >= until => return Err(error.context("no request succeeded")),
            Err(_) => sleep(BETWEEN),
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    tally::print(&json!({"unix_nanos": u64::try_from(now.as_nanos())?}));
    Ok(())
}

fn ask(options: &Options, request: &[u8]) -> Result<()> {
    let mut connection = BlockingConnection::open(options.http.to.address, CONNECT, ANSWER)?;
    connection.exchange(request).map(drop)
}
