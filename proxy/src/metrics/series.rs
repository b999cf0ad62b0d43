//! What is counted under one set of labels.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use prometheus_client::{encoding::MetricEncoder, encoding::NoLabelSet};

/// Bounds of a duration's buckets, in seconds: OpenTelemetry's advice for HTTP and for RPC.
const BUCKETS: [f64; 15] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, f64::INFINITY];

/// How long something took, each time. The sum is in whole nanoseconds: 584 years.
#[derive(Debug, Default)]
pub struct Durations {
    buckets: [AtomicU64; BUCKETS.len()],
    nanoseconds: AtomicU64,
}

impl Durations {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BUCKETS.iter().position(|bound| seconds <= *bound);
        if let Some(bucket) = bucket.and_then(|at| self.buckets.get(at)) {
            bucket.fetch_add(1, Relaxed);
        }
        self.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    /// Writes itself as a histogram.
    pub fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        let counts = BUCKETS.iter().zip(&self.buckets).map(|(bound, count)| (*bound, count.load(Relaxed)));
        let counts: Vec<_> = counts.collect();
        let count = counts.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_nanos(self.nanoseconds.load(Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &counts, None)
    }
}

/// Connections carried as bytes. Those that are open now are `opened` less `closed`.
#[derive(Debug, Default)]
pub struct Connections {
    /// Begun.
    pub opened: AtomicU64,
    /// Ended.
    pub closed: AtomicU64,
    /// Bytes from callers to callees, counted as they pass.
    pub sent: AtomicU64,
    /// Bytes from callees to callers.
    pub received: AtomicU64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_bucket_that_it_just_fits() {
        let durations = Durations::default();
        for millis in [5, 6, 10_000, 10_001] {
            durations.observe(Duration::from_millis(millis));
        }
        let counts: Vec<_> = durations.buckets.iter().map(|count| count.load(Relaxed)).collect();
        assert_eq!(counts, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(durations.nanoseconds.load(Relaxed), 20_012_000_000);
    }
}
