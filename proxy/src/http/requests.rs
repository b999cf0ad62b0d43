//! The requests of one HTTP/1 connection: whether any runs, and since when none does.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::clock;

/// A connection's requests.
pub struct Requests(Arc<Mutex<Instant>>);

/// One of them, until its response's body has ended.
pub struct Running(Arc<Mutex<Instant>>);

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = clock::now();
    }
}

impl Requests {
    /// Of a connection that begins now.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// One more.
    pub fn begin(&self) -> Running {
        Running(Arc::clone(&self.0))
    }

    /// Whether none runs.
    pub fn is_idle(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Returns when none has run for so long.
    pub async fn idle_for(&self, limit: Duration) {
        loop {
            let since = if self.is_idle() { self.since() } else { Duration::ZERO };
            match limit.checked_sub(since) {
                None | Some(Duration::ZERO) => return,
                Some(left) => sleep(left).await,
            }
        }
    }

    fn since(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_only_when_nothing_runs() {
        let (requests, limit) = (Requests::new(), Duration::from_secs(300));
        let running = requests.begin();
        assert!(tokio::time::timeout(limit * 3, requests.idle_for(limit)).await.is_err());
        drop(running);
        let ended = Instant::now();
        requests.idle_for(limit).await;
        assert!(ended.elapsed() >= limit, "idle from its end on");
    }
}
