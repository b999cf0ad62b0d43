//! Those that work side by side in a run: connections, or streams of one.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::tally::Tally;

/// Rest after a failure, so that a server that is not there is not asked in a busy loop.
pub const PAUSE: Duration = Duration::from_millis(10);
/// How long after the end of a run its last answers may come. One limit for each worker costs nothing; one for each
/// request would be a timer armed for each.
pub const GRACE: Duration = Duration::from_secs(5);

/// Runs `size` workers, which end by themselves at `until`. One that does not is a failure.
pub async fn work<F>(size: usize, until: Instant, tally: &Tally, worker: impl Fn() -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut working: JoinSet<()> = (0..size).map(|_| worker()).collect();
    let mut panicked = 0;
    let everyone = async {
        while let Some(ended) = working.join_next().await {
            panicked += u64::from(ended.is_err());
        }
    };
    let _ = timeout_at((until + GRACE).into(), everyone).await;
    tally.all_failed(working.len() as u64, "no answer until long after the end");
    tally.all_failed(panicked, "a worker panicked");
}
