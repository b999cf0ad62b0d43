//! Slow start: an endpoint that joins others that already serve gets its full part of them step by step, because
//! caches are cold and compilers just in time.

use std::time::Duration;

/// How long it takes to get the full part.
pub const WINDOW: Duration = Duration::from_secs(10);
/// The part at the beginning: enough to warm up by.
const FLOOR: f64 = 0.1;

/// When an endpoint began to warm up, if it did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Warmth(Option<Duration>);

impl Warmth {
    /// Cold from now on.
    pub fn begin(&mut self, now: Duration) {
        self.0 = Some(now);
    }

    /// The part of its full share that an endpoint gets: from a tenth to all of it, in proportion to time.
    pub fn weight(self, now: Duration) -> f64 {
        let Some(since) = self.0 else { return 1.0 };
        let part = now.saturating_sub(since).as_secs_f64() / WINDOW.as_secs_f64();
        (FLOOR + (1.0 - FLOOR) * part).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(seconds: u64, expected: f64) {
        let mut warmth = Warmth::default();
        warmth.begin(Duration::from_secs(100));
        let weight = warmth.weight(Duration::from_secs(seconds));
        assert!((weight - expected).abs() < 1e-9, "{weight} at {seconds}");
    }

    #[test]
    fn the_part_grows_from_a_tenth_to_all() {
        check(100, 0.1);
        check(105, 0.55);
        check(110, 1.0);
        check(1000, 1.0);
        check(0, 0.1);
    }

    #[test]
    fn who_never_began_cold_is_warm() {
        assert!((Warmth::default().weight(Duration::ZERO) - 1.0).abs() < f64::EPSILON);
    }
}
