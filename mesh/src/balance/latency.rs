//! How long an endpoint takes to answer: an average that follows time, and believes bad news at once.
//!
//! Peak EWMA is Finagle's (`com.twitter.finagle.loadbalancer.PeakEwma`), and linkerd's: a slower answer than the
//! average replaces it, a faster one moves it by the time that has passed. While nothing is heard it decays, so that an
//! endpoint that was slow once is tried again.

use std::time::Duration;

/// How long news matter: after this time an old peak counts for 1/e of what it was. Finagle's default.
const DECAY: f64 = 10.0;
/// Endpoints faster than this are alike; it also keeps running requests in the cost when the average has decayed to nothing.
const LEAST: f64 = 100e-6;

/// An average of latencies, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeakEwma {
    seconds: f64,
    at: Duration,
}

impl PeakEwma {
    /// The average after its first measurement.
    pub fn new(latency: Duration, now: Duration) -> Self {
        Self { seconds: latency.as_secs_f64(), at: now }
    }

    /// Takes a measurement in.
    pub fn observe(&mut self, latency: Duration, now: Duration) {
        let latency = latency.as_secs_f64();
        let old = self.weight_of_old(now);
        self.seconds = latency.max(self.seconds * old + latency * (1.0 - old));
        self.at = self.at.max(now);
    }

    /// Takes in that an answer took longer than this, since nobody waited for it any more.
    pub fn at_least(&mut self, waited: Duration, now: Duration) {
        if waited.as_secs_f64() > self.get(now) {
            self.observe(waited, now);
        }
    }

    /// The average in seconds, never 0.
    pub fn get(&self, now: Duration) -> f64 {
        (self.seconds * self.weight_of_old(now)).max(LEAST)
    }

    /// e to the power of minus the time that has passed, well within a hundredth where it matters. `exp` itself would be the only
    /// function of the C library of mathematics that a proxy has in its memory: 300 KiB in each pod.
    fn weight_of_old(&self, now: Duration) -> f64 {
        let passed = now.saturating_sub(self.at).as_secs_f64() / DECAY;
        (1.0 + passed / 1024.0).powi(-1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgotten_in_time() {
        let mut latency = PeakEwma::new(ms(10), ms(0));
        latency.observe(ms(500), ms(1));
        assert!((latency.get(ms(1)) - 0.5).abs() < 1e-9);
        assert!(latency.get(ms(10_001)) < 0.2);
        assert!(latency.get(ms(100_001)) <= LEAST);
    }

    #[test]
    fn a_fast_answer_moves_the_average_by_the_time_that_passed() {
        let mut latency = PeakEwma::new(ms(100), ms(0));
        latency.observe(ms(10), ms(1));
        assert!(latency.get(ms(1)) > 0.099);
        latency.observe(ms(10), ms(60_000));
        assert!((latency.get(ms(60_000)) - 0.01).abs() < 0.001);
    }

    #[test]
    fn who_left_early_only_makes_it_worse() {
        let mut latency = PeakEwma::new(ms(100), ms(0));
        latency.at_least(ms(1), ms(10));
        assert!(latency.get(ms(10)) > 0.099);
        latency.at_least(ms(3000), ms(20));
        assert!((latency.get(ms(20)) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn old_news_fade_by_the_powers_of_e() {
        for passed in [0.0, 0.001, 0.5, 1.0, 2.0, 3.0, 4.0] {
            let latency = PeakEwma::new(ms(1000), ms(0));
            let now = Duration::from_secs_f64(passed * DECAY);
            let (found, exact) = (latency.get(now), (-passed).exp());
            assert!((found - exact).abs() < 0.01 * exact, "after {passed}: {found} instead of {exact}");
        }
    }

    proptest! {
        #[test]
        fn it_is_a_number_between_the_least_and_the_most_measured(
            steps in prop::collection::vec((0u64..u64::MAX / 4, 0u64..u64::MAX / 4), 1..50),
        ) {
            let mut latency = PeakEwma::new(Duration::ZERO, Duration::ZERO);
            let mut most = 0f64;
            for (at, took) in steps {
                let (at, took) = (Duration::from_nanos(at), Duration::from_nanos(took));
                latency.observe(took, at);
                most = most.max(took.as_secs_f64());
                let now = latency.get(at);
                prop_assert!(now.is_finite() && now >= LEAST && now <= most.max(LEAST) * 1.000_001);
            }
        }
    }
}
