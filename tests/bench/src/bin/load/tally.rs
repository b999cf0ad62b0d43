//! What a client counted: what succeeded, how long each took, and what failed.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bench::statistics;
use serde_json::{Value, json};

/// Failures that are named on standard error; of the others only the number is known.
const MOST_NAMED: u64 = 5;

/// The counts of one run. Whoever takes part in it shares them; nearly always that is one thread.
pub struct Tally {
    began: Instant,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Microseconds that each success took.
    took: Vec<u32>,
    failures: u64,
}

impl Tally {
    /// Begins to count, now.
    pub fn start() -> Self {
        Self { began: Instant::now(), counts: Mutex::default() }
    }

    /// When the counting began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// One success, and how long it took.
    pub fn succeeded(&self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.counts().took.push(micros);
    }

    /// One failure, and why.
    pub fn failed(&self, why: &anyhow::Error) {
        let mut counts = self.counts();
        counts.failures += 1;
        if counts.failures <= MOST_NAMED {
            eprintln!("failed: {why:#}");
        }
    }

    /// So many failures of the same kind.
    pub fn all_failed(&self, number: u64, why: &str) {
        if number > 0 {
            eprintln!("failed: {number} × {why}");
            self.counts().failures += number;
        }
    }

    /// How many failed until now.
    pub fn failures(&self) -> u64 {
        self.counts().failures
    }

    /// The result of a run that ends now; `counted` is what its successes are called. The percentiles are 0 if there
    /// were none.
    pub fn report(&self, counted: &str) -> Value {
        let seconds = self.seconds();
        let mut counts = self.counts();
        counts.took.sort_unstable();
        json!({
            counted: counts.took.len(),
            "failures": counts.failures,
            "seconds": seconds,
            "p50_us": percentile(&counts.took, 50),
            "p99_us": percentile(&counts.took, 99),
        })
    }

    /// How long the run has lasted, in seconds.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands the result to whoever ran this program.
#[expect(clippy::print_stdout, reason = "the result is what the program was run for")]
pub fn print(result: &Value) {
    println!("{result}");
}

/// 0 if there are none.
fn percentile(sorted: &[u32], percent: usize) -> u32 {
    statistics::percentile(sorted, percent).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sorted: &[u32], percent: usize, expected: u32) {
        assert_eq!(percentile(sorted, percent), expected, "{percent} % of {sorted:?}");
    }

    #[test]
    fn the_median_is_in_the_middle() {
        check(&[1, 2, 9], 50, 2);
        check(&[1, 2, 3, 9], 50, 2);
    }

    #[test]
    fn the_99th_of_a_hundred_leaves_one_above() {
        let hundred: Vec<u32> = (1..=100).collect();
        check(&hundred, 99, 99);
        check(&hundred, 100, 100);
        check(&hundred[..99], 99, 99);
    }

    #[test]
    fn few_values_and_none_have_percentiles_too() {
        check(&[7], 1, 7);
        check(&[7], 99, 7);
        check(&[], 50, 0);
    }

    #[test]
    fn a_report_counts_by_the_name_it_was_given() {
        let tally = Tally::start();
        for micros in [300, 100, 200] {
            tally.succeeded(Duration::from_micros(micros));
        }
        tally.failed(&anyhow::anyhow!("refused"));
        tally.all_failed(2, "never sent");
        let report = tally.report("requests");
        assert_eq!((&report["requests"], &report["failures"]), (&json!(3), &json!(3)));
        assert_eq!((&report["p50_us"], &report["p99_us"]), (&json!(200), &json!(300)));
    }
}
