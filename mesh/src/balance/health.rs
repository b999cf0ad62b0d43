//! Whether an endpoint is in rotation, by what became of its last requests.
//!
//! Failures in a row set it aside: two that never reached it (one may be a packet lost or a server that restarts), or five
//! in all (5xx answers, resets). It stays aside for a second, twice as long each time it fails again, up to a minute.
//! Then one request is its probe, which decides alone. Once it has been back for long enough it begins anew.

use std::time::Duration;

use super::{Dice, warmth::WINDOW};

/// Connect failures in a row that set an endpoint aside.
const UNREACHED_MAX: u32 = 2;
/// Failures of any kind in a row that do (Envoy's and linkerd's counts for 5xx are 5 and 7).
const FAILURES_MAX: u32 = 5;
/// How long an endpoint is set aside the first time…
const ASIDE: Duration = Duration::from_secs(1);
/// …and at most, before up to a half is added at random, so that proxies do not probe in step.
const ASIDE_MAX: Duration = Duration::from_secs(60);
/// A probe that says nothing for this long (a long poll) is not waited for: the next request is another.
const PROBE_MAX: Duration = Duration::from_secs(10);
/// Past it another doubling changes nothing.
const DOUBLINGS_MAX: u32 = 6;

/// How a request or connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failed {
    /// It never reached the endpoint: no connection, or its proxy could not hand it on.
    Unreached,
    /// The endpoint answered with an error of its own, or broke off.
    Answer,
}

/// News of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is set aside for a time.
    SetAside {
        /// Why.
        why: Failed,
        /// Until when it is not probed.
        until: Duration,
    },
    /// It is in rotation again.
    Back,
}

/// An endpoint's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In rotation.
    In,
    /// Set aside.
    Aside,
    /// Set aside for long enough: the next request is its probe.
    Due,
    /// Its probe runs.
    Probed,
}

/// The state machine of one endpoint's health.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    /// When it may be probed; none while it is in rotation.
    aside: Option<Duration>,
    /// When its probe began.
    probed: Option<Duration>,
    /// Failures in a row, and connect failures among the last of them.
    failures: u32,
    unreached: u32,
    /// How often in a row it was set aside.
    times: u32,
    back: Duration,
    /// Counts changes of place, so that what began before one says nothing after it.
    epoch: u32,
}

/// A request as health sees it.
#[derive(Clone, Copy, Debug)]
pub struct Try {
    epoch: u32,
    probe: bool,
}

impl Health {
    /// Whether nothing has happened to the endpoint.
    pub fn is_new(&self) -> bool {
        self.epoch == 0 && self.failures == 0
    }

    /// Where the endpoint stands.
    pub fn place(&self, now: Duration) -> Place {
        match self.aside {
            None => Place::In,
            Some(_) if self.probed.is_some_and(|began| now.saturating_sub(began) < PROBE_MAX) => {
                Place::Probed
            }
            Some(until) if now < until => Place::Aside,
            Some(_) => Place::Due,
        }
    }

    /// A request begins. If a probe is due, this is it.
    pub fn begin(&mut self, now: Duration) -> Try {
        let probe = self.place(now) == Place::Due;
        if probe {
            self.probed = Some(now);
        }
        Try { epoch: self.epoch, probe }
    }

    /// It has succeeded. One that went to an endpoint set aside, as its probe or because there was no other, brings
    /// it back.
    pub fn succeed(&mut self, of: Try, now: Duration) -> Option<Change> {
        if of.epoch != self.epoch {
            return None;
        }
        (self.failures, self.unreached) = (0, 0);
        self.aside.take()?;
        self.probed = None;
        self.back = now;
        self.epoch = self.epoch.wrapping_add(1);
        Some(Change::Back)
    }

    /// It has failed.
    pub fn fail(&mut self, of: Try, why: Failed, now: Duration, random: u64) -> Option<Change> {
        if of.epoch != self.epoch || (self.aside.is_some() && !of.probe) {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        self.unreached = if why == Failed::Unreached { self.unreached.saturating_add(1) } else { 0 };
        let enough = of.probe || self.failures >= FAILURES_MAX || self.unreached >= UNREACHED_MAX;
        enough.then(|| self.set_aside(why, now, random))
    }

    /// It was given up before it could tell anything.
    pub fn abandon(&mut self, of: Try) {
        if of.probe && of.epoch == self.epoch {
            self.probed = None;
        }
    }

    fn set_aside(&mut self, why: Failed, now: Duration, random: u64) -> Change {
        if self.aside.is_none() && now.saturating_sub(self.back) >= WINDOW {
            self.times = 0;
        }
        let pause = ASIDE.saturating_mul(1 << self.times.min(DOUBLINGS_MAX)).min(ASIDE_MAX);
        let until = now.saturating_add(pause).saturating_add(pause.mul_f64(Dice(random).part() / 2.0));
        self.times = self.times.saturating_add(1);
        self.aside = Some(until);
        self.probed = None;
        (self.failures, self.unreached) = (0, 0);
        self.epoch = self.epoch.wrapping_add(1);
        Change::SetAside { why, until }
    }
}

#[cfg(test)]
mod tests;
