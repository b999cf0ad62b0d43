//! A token bucket: how often something may happen, with a burst after a quiet time.

use std::time::Instant;

/// A rate with a burst.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// How many at once, after a quiet time.
    pub burst: u32,
    /// How many a second in the long run.
    pub per_second: u32,
}

/// What is left of a [`Rate`].
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: f64::from(rate.burst), at: now }
    }

    /// Takes one, if there is one. A clock that steps back gives nothing.
    pub fn take(&mut self, now: Instant) -> bool {
        self.refill(now);
        let enough = self.tokens >= 1.0;
        self.tokens -= if enough { 1.0 } else { 0.0 };
        enough
    }

    /// Whether nothing is missing: such a bucket is as good as a new one.
    pub fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens >= f64::from(self.rate.burst)
    }

    fn refill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(self.rate.per_second);
        self.tokens = (self.tokens + gained).min(f64::from(self.rate.burst));
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { burst: 2, per_second: 10 }, start);
        let mut taken = |ms: u64| bucket.take(start + Duration::from_millis(ms));
        assert_eq!([taken(0), taken(0), taken(0), taken(100), taken(100)], [true, true, false, true, false]);
    }

    #[test]
    fn a_quiet_time_fills_it_and_no_more() {
        let start = Instant::now();
        let mut bucket = Bucket::new(Rate { burst: 2, per_second: 10 }, start);
        assert!(bucket.take(start) && !bucket.is_full(start));
        let later = start + Duration::from_secs(3600);
        assert!(bucket.is_full(later));
        assert_eq!([bucket.take(later), bucket.take(later), bucket.take(later)], [true, true, false]);
    }
}
