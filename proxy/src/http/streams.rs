//! The streams of one HTTP/2 connection to us: whether any runs, whether one of them sends the caller elsewhere, and how
//! many were reset before their response began.
//!
//! A caller that opens streams only to reset them makes us work for nothing (CVE-2023-44487); one that resets more than
//! honest cancellation would is cut off.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mesh::bucket::{Bucket, Rate};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

/// How many streams may be reset before their response began.
const RESETS: Rate = Rate { burst: 1000, per_second: 500 };
/// A connection without a stream for this long is closed.
const IDLE: Duration = Duration::from_secs(300);

/// A connection's streams.
pub struct Streams {
    state: Mutex<State>,
    spent: Notify,
    elsewhere: Notify,
}

struct State {
    used: Instant,
    resets: Bucket,
}

/// One of them, from its request until its response's body has ended.
pub struct Stream {
    streams: Arc<Streams>,
    answered: bool,
}

impl Streams {
    /// Of a connection that begins now.
    pub fn new() -> Arc<Self> {
        let now = Instant::now();
        let state = State { used: now, resets: Bucket::new(RESETS, now.into_std()) };
        Arc::new(Self { state: Mutex::new(state), spent: Notify::new(), elsewhere: Notify::new() })
    }

    /// One more.
    pub fn begin(self: &Arc<Self>) -> Stream {
        self.state().used = Instant::now();
        Stream { streams: Arc::clone(self), answered: false }
    }

    /// Returns when more streams have been reset than may be.
    pub async fn too_many_resets(&self) {
        self.spent.notified().await;
    }

    /// Returns when an answer has sent the caller elsewhere.
    pub async fn go_elsewhere(&self) {
        self.elsewhere.notified().await;
    }

    /// Returns when no stream has run for long.
    pub async fn idle(self: &Arc<Self>) {
        self.idle_for(IDLE).await;
    }

    /// Whether no stream runs.
    pub fn is_idle(self: &Arc<Self>) -> bool {
        // Whoever runs holds us, and so does our connection.
        Arc::strong_count(self) <= 1
    }

    /// Returns when no stream runs, and none has begun for so long.
    pub async fn idle_for(self: &Arc<Self>, limit: Duration) {
        loop {
            let since = if self.is_idle() { self.state().used.elapsed() } else { Duration::ZERO };
            match limit.checked_sub(since) {
                None | Some(Duration::ZERO) => return,
                Some(left) => sleep(left).await,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    /// Its response has begun.
    pub fn answered(&mut self) {
        self.answered = true;
    }

    /// Its answer sends the caller elsewhere, with all later requests of its connection.
    pub fn sends_elsewhere(&self) {
        self.streams.elsewhere.notify_one();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if !self.answered && !self.streams.state().resets.take(std::time::Instant::now()) {
            self.streams.spent.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn resets_beyond_the_bound_are_told() {
        let streams = Streams::new();
        for _ in 0..RESETS.burst {
            drop(streams.begin());
        }
        let told = tokio::time::timeout(Duration::from_millis(1), streams.too_many_resets());
        assert!(told.await.is_err(), "not yet");
        for _ in 0..RESETS.burst {
            drop(streams.begin());
        }
        streams.too_many_resets().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_only_when_nothing_runs() {
        let streams = Streams::new();
        let mut stream = streams.begin();
        stream.answered();
        assert!(tokio::time::timeout(IDLE * 3, streams.idle()).await.is_err());
        drop(stream);
        streams.idle().await;
    }
}
