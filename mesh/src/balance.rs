//! Balancing: which endpoint of a backend takes the next request or connection.
//!
//! Each endpoint has one [`State`], whoever routes to it: what runs there now, how fast it answers, whether it failed
//! lately, whether it is new. [`choose`] looks at a few of them, drawn at random. Two draws are enough to leave
//! the slow and the busy alone, need no shared order, and never herd every client onto the one best endpoint.
//!
//! - **Requests** go to the cheaper of two: peak latency × requests running (`latency.rs`).
//! - **Connections** go to the one that carries the fewest.
//! - An endpoint that **fails** in a row is set aside, and comes back when one request, its probe, succeeds
//!   (`health.rs`). It is set aside for the choice among others only: where all are set aside, all are used.
//! - A **new** one, or one that came back, gets its full part step by step (`warmth.rs`).
//!
//! Time (since any fixed moment) and randomness are arguments throughout.

mod choice;
mod health;
mod latency;
mod state;
mod warmth;

pub use choice::{By, choose};
pub use health::{Change, Failed};
pub use state::{Outcome, Standing, State, Ticket, View};

#[cfg(test)]
mod simulation;

/// Random numbers out of one: SplitMix64 (Steele, Lea, Flood 2014), whose every output is uniform.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0; as good as uniform, since no backend has 2³² endpoints.
    fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap_or(u64::MAX);
        self.roll().checked_rem(n).and_then(|i| usize::try_from(i).ok()).unwrap_or(0)
    }

    /// Uniform in 0..1.
    fn part(&mut self) -> f64 {
        f64::from(u32::try_from(self.roll() >> 32).unwrap_or(0)) / 4_294_967_296.0
    }
}
