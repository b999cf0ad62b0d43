//! All that balancing knows of one endpoint.

use std::time::Duration;

use super::{
    health::{Change, Failed, Health, Place, Try},
    latency::PeakEwma,
    warmth::Warmth,
};

/// One endpoint's state.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    running: u32,
    latency: Option<PeakEwma>,
    health: Health,
    warmth: Warmth,
}

/// The right to one request or connection.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(Try);

/// What became of a request or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint did its part, and took this long to begin.
    Answered(Duration),
    /// A connection was taken; how fast says nothing of the server behind it.
    Taken,
    /// It did not.
    Failed(Failed),
    /// Nobody waited for it any more after this long.
    Left(Duration),
    /// What happened says nothing of the endpoint.
    Nothing,
}

/// What the choice sees of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct View {
    /// Its place among the others.
    pub standing: Standing,
    /// Requests and connections that it carries now.
    pub running: u32,
    /// Seconds until it answers, if that was ever measured.
    pub latency: Option<f64>,
}

/// An endpoint's place among the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// In rotation, for this part (up to 1) of a full share.
    In(f64),
    /// Set aside, and due to be probed.
    Due,
    /// Set aside.
    Aside,
}

impl State {
    /// Whether nothing was ever asked of it.
    pub fn is_new(&self) -> bool {
        self.running == 0 && self.latency.is_none() && self.health.is_new()
    }

    /// It joins others that serve already, and gets its part step by step.
    pub fn warm_up(&mut self, now: Duration) {
        self.warmth.begin(now);
    }

    /// What the choice needs to know.
    pub fn view(&self, now: Duration) -> View {
        let standing = match self.health.place(now) {
            Place::In => Standing::In(self.warmth.weight(now)),
            Place::Due => Standing::Due,
            Place::Aside | Place::Probed => Standing::Aside,
        };
        View { standing, running: self.running, latency: self.latency.map(|latency| latency.get(now)) }
    }

    /// A request or connection begins.
    pub fn begin(&mut self, now: Duration) -> Ticket {
        self.running = self.running.saturating_add(1);
        Ticket(self.health.begin(now))
    }

    /// It is clear what became of it, though it may still run. To be called once for each ticket.
    pub fn report(&mut self, ticket: Ticket, outcome: Outcome, now: Duration, random: u64) -> Option<Change> {
        let Ticket(of) = ticket;
        match outcome {
            Outcome::Answered(took) => {
                self.measure(took, now);
                self.succeed(of, now)
            }
            Outcome::Taken => self.succeed(of, now),
            Outcome::Failed(why) => self.health.fail(of, why, now, random),
            Outcome::Left(waited) => {
                self.latency.iter_mut().for_each(|latency| latency.at_least(waited, now));
                self.health.abandon(of);
                None
            }
            Outcome::Nothing => {
                self.health.abandon(of);
                None
            }
        }
    }

    /// It no longer runs.
    pub fn end(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Requests and connections that run now.
    pub fn running(&self) -> u32 {
        self.running
    }

    /// One word for people: `ready`, `warming`, `ejected` or `probing` (a probe is due, or runs).
    pub fn word(&self, now: Duration) -> &'static str {
        match self.health.place(now) {
            Place::In if self.warmth.weight(now) < 1.0 => "warming",
            Place::In => "ready",
            Place::Aside => "ejected",
            Place::Due | Place::Probed => "probing",
        }
    }

    fn measure(&mut self, took: Duration, now: Duration) {
        match &mut self.latency {
            Some(latency) => latency.observe(took, now),
            None => self.latency = Some(PeakEwma::new(took, now)),
        }
    }

    fn succeed(&mut self, of: Try, now: Duration) -> Option<Change> {
        let change = self.health.succeed(of, now);
        if change.is_some() {
            self.warmth.begin(now);
        }
        change
    }
}
