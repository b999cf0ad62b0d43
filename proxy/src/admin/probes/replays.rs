//! One replay of a probe at a time: whoever asks meanwhile waits for what runs, and gets the same answer. So a loop over a
//! probe costs the application no more than one at a time.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
};

use hyper::StatusCode;
use tokio::sync::watch;

/// What a probe's caller is told: a status, and words.
pub type Answer = (StatusCode, String);

/// The replays of one probe.
#[derive(Default)]
pub struct Replays {
    latest: Mutex<Option<watch::Receiver<Option<Answer>>>>,
}

impl Replays {
    /// The answer of the replay that runs, or of a new one if none does; nothing if it panicked.
    ///
    /// A replay goes on when its callers have left: the application is still busy with it, too.
    pub async fn share<F>(&self, replay: impl FnOnce() -> F) -> Option<Answer>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let mut running = self.running(replay);
        running.wait_for(Option::is_some).await.ok()?.clone()
    }

    fn running<F>(&self, replay: impl FnOnce() -> F) -> watch::Receiver<Option<Answer>>
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        // Its sender is gone when it has ended, whatever its end was.
        if let Some(running) = latest.as_ref().filter(|latest| latest.has_changed().is_ok()) {
            return running.clone();
        }
        let (answered, running) = watch::channel(None);
        let replay = replay();
        tokio::spawn(async move {
            let answer = replay.await;
            // Nobody may be waiting for it any more.
            answered.send_replace(Some(answer));
        });
        *latest = Some(running.clone());
        running
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, time::Duration};

    use tokio::time::{sleep, timeout};

    use super::*;

    const RUNS: Duration = Duration::from_secs(1);

    /// A replay that takes its time and answers with its number.
    fn next(begun: &Cell<usize>) -> impl Future<Output = Answer> + Send + use<> {
        begun.set(begun.get() + 1);
        let words = begun.get().to_string();
        async move {
            sleep(RUNS).await;
            (StatusCode::OK, words)
        }
    }

    fn broken() -> Answer {
        panic!("as planned")
    }

    #[track_caller]
    fn check(answer: Option<&Answer>, number: &str) {
        assert_eq!(answer, Some(&(StatusCode::OK, number.to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_while_a_replay_runs_gets_its_answer() {
        let (replays, begun) = (Replays::default(), Cell::new(0));
        let later = async {
            sleep(RUNS / 2).await;
            replays.share(|| next(&begun)).await
        };
        let (first, second) = tokio::join!(replays.share(|| next(&begun)), later);
        check(first.as_ref(), "1");
        check(second.as_ref(), "1");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_never_given_again_later() {
        let (replays, begun) = (Replays::default(), Cell::new(0));
        check(replays.share(|| next(&begun)).await.as_ref(), "1");
        check(replays.share(|| next(&begun)).await.as_ref(), "2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_makes_no_room_for_a_second_replay() {
        let (replays, begun) = (Replays::default(), Cell::new(0));
        let left = timeout(RUNS / 2, replays.share(|| next(&begun))).await;
        assert!(left.is_err(), "it left before there was an answer");
        check(replays.share(|| next(&begun)).await.as_ref(), "1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_one_replay() {
        let (replays, begun) = (Replays::default(), Cell::new(0));
        assert_eq!(replays.share(|| async { broken() }).await, None);
        check(replays.share(|| next(&begun)).await.as_ref(), "1");
    }
}
