//! When the requests of an open loop are due: evenly, at a fixed rate, whatever became of those before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The requests of one run, handed out in the order in which they are due to whoever is free.
pub struct Schedule {
    /// Requests per second.
    rate: f64,
    /// Requests in all.
    count: f64,
    next: AtomicU64,
}

impl Schedule {
    /// `rate` requests per second for `time`.
    pub fn new(rate: f64, time: Duration) -> Self {
        Self { rate, count: rate * time.as_secs_f64(), next: AtomicU64::new(0) }
    }

    /// When the next request is due, counted from the beginning; none after the last one.
    pub fn next(&self) -> Option<Duration> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let number = number as f64;
        (number < self.count).then(|| self.due(number))
    }

    /// From the number each time, so that nothing adds up over a run.
    fn due(&self, number: f64) -> Duration {
        Duration::from_secs_f64(number / self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(schedule: &Schedule) -> Vec<Duration> {
        std::iter::from_fn(|| schedule.next()).collect()
    }

    #[test]
    fn requests_are_due_evenly_and_the_first_at_once() {
        let due = all(&Schedule::new(4.0, Duration::from_secs(1)));
        assert_eq!(due, [0, 250, 500, 750].map(Duration::from_millis));
    }

    #[test]
    fn a_run_has_rate_times_seconds_requests() {
        assert_eq!(all(&Schedule::new(1500.0, Duration::from_secs(20))).len(), 30_000);
        assert_eq!(all(&Schedule::new(0.5, Duration::from_secs(4))).len(), 2);
    }

    #[test]
    fn no_rate_drifts() {
        let schedule = Schedule::new(3000.0, Duration::from_secs(3600));
        assert_eq!(schedule.due(3000.0 * 3599.0), Duration::from_secs(3599));
    }

    #[test]
    fn a_schedule_that_ended_stays_ended() {
        let schedule = Schedule::new(1.0, Duration::from_secs(1));
        assert_eq!(all(&schedule).len(), 1);
        assert_eq!(schedule.next(), None);
    }
}
