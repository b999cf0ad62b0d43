//! Which sidecars hold the change that is waited for, and since when.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::held::{Change, Held};
use crate::say;

/// Faults whose reasons are said; of many, the others have the same.
const FAULTS_SAID: usize = 5;

/// What all sidecars report to.
#[derive(Debug, Default)]
pub struct Board {
    expected: Mutex<Option<Expected>>,
    all_hold: Notify,
    faults: AtomicUsize,
}

/// A change on its way.
#[derive(Debug)]
struct Expected {
    change: Change,
    began: Instant,
    /// By sidecar, how long after the beginning it held the change.
    held: Vec<Option<Duration>>,
}

impl Expected {
    fn missing(&self) -> usize {
        self.held.iter().filter(|held| held.is_none()).count()
    }
}

impl Board {
    /// From now on `change` is on its way to so many sidecars.
    pub fn expect(&self, change: Change, sidecars: usize) {
        *self.expected() = Some(Expected { change, began: Instant::now(), held: vec![None; sidecars] });
    }

    /// What a sidecar holds now.
    pub fn tell(&self, sidecar: usize, holds: &Held) {
        let mut expected = self.expected();
        let Some(expected) = expected.as_mut().filter(|expected| holds.holds(&expected.change)) else {
            return;
        };
        let since = expected.began.elapsed();
        if let Some(held) = expected.held.get_mut(sidecar).filter(|held| held.is_none()) {
            *held = Some(since);
            if expected.missing() == 0 {
                self.all_hold.notify_one();
            }
        }
    }

    /// Waits until all sidecars hold the change; how long each took.
    pub async fn all_hold(&self, limit: Duration) -> Result<Vec<Duration>> {
        let in_time = timeout(limit, self.all_hold.notified()).await;
        let Some(expected) = self.expected().take() else { bail!("nothing was expected") };
        if in_time.is_err() {
            let (missing, change) = (expected.missing(), expected.change);
            bail!("{missing} sidecars do not hold {change:?} after {limit:?}");
        }
        Ok(expected.held.into_iter().flatten().collect())
    }

    /// Notes that a watch broke off, and says why of the first few.
    pub fn fault(&self, why: &str) {
        if self.faults.fetch_add(1, Ordering::Relaxed) < FAULTS_SAID {
            say(&format!("  a watch broke off: {why}"));
        }
    }

    /// How many did.
    pub fn faults(&self) -> usize {
        self.faults.load(Ordering::Relaxed)
    }

    fn expected(&self) -> MutexGuard<'_, Option<Expected>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn a_change_is_over_when_every_sidecar_has_told_of_it_once() {
        let board = Board::default();
        // What holds nothing holds the change before the first.
        board.expect(Change::Route(0), 2);
        board.tell(0, &Held::default());
        board.tell(0, &Held::default());
        let missing = run(board.all_hold(Duration::from_millis(10))).unwrap_err();
        assert!(missing.to_string().starts_with("1 sidecars do not hold"));
        board.expect(Change::Route(0), 2);
        board.tell(1, &Held::default());
        board.tell(0, &Held::default());
        assert_eq!(run(board.all_hold(Duration::from_secs(1))).unwrap().len(), 2);
    }

    #[test]
    fn who_holds_less_is_not_counted() {
        let board = Board::default();
        board.expect(Change::Route(1), 1);
        board.tell(0, &Held::default());
        assert!(run(board.all_hold(Duration::from_millis(10))).is_err());
    }
}
