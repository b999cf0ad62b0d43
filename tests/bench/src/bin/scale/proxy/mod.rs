//! One sidecar in a large cluster: a client's, which calls one Service all the time. What it holds, and what each request costs
//! it, alone and with thousands of Services beside that nobody calls, and with few rules on the Service and with many.

mod stage;
mod world;

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::arguments::Size;
use crate::process::{cpu, memory};
use crate::say;
use crate::spread::Spread;
use stage::{Matching, PLAIN, RULES, ruled, unused, unused_name};
use world::{Load, World};

/// From a change of the cluster to when it may count: what follows from it has been done.
const SETTLE: Duration = Duration::from_secs(3);
/// Rounds of load before memory is looked at: so many until it grows no more by itself.
const WARM_UPS: usize = 4;
/// The file of the Services that nobody uses.
const UNUSED: &str = "unused.json";

/// What the client's sidecar used in one situation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Situation {
    /// CPU microseconds for each request: of the rounds.
    pub cpu_us: Spread,
    /// Requests a second: of the rounds.
    pub rate: Spread,
    /// Resident memory after the first round, KiB.
    pub first_kib: u64,
    /// The most resident memory after any round, KiB.
    pub most_kib: u64,
}

/// A little of something and much of it, round by round in turn.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pair {
    /// With little.
    pub little: Situation,
    /// With much.
    pub much: Situation,
    /// CPU for each request with much, times that in the round with little right before.
    pub cpu_ratio: Spread,
}

/// Few rules and many on a Service, where the request is matched by the last of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Rules {
    /// By what the rules tell requests apart.
    pub matching: String,
    /// Few of them, and many.
    pub pair: Pair,
}

/// Everything that was measured of the sidecar.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Proxy {
    /// Services that nobody uses, where there are such.
    pub unused_services: usize,
    /// How many are few rules, and how many are many.
    pub rules_counts: [usize; 2],
    /// Without unused Services, and with them; no rules.
    pub unused: Pair,
    /// With rules.
    pub rules: Vec<Rules>,
}

/// The rounds of one situation.
#[derive(Debug, Default)]
struct Rounds {
    cpu_us: Vec<f64>,
    rate: Vec<f64>,
    resident_kib: Vec<u64>,
}

impl Rounds {
    fn situation(&self) -> Result<Situation> {
        let first_kib = *self.resident_kib.first().context("there was no round")?;
        let most_kib = self.resident_kib.iter().max().copied().unwrap_or(first_kib);
        Ok(Situation { cpu_us: spread(&self.cpu_us)?, rate: spread(&self.rate)?, first_kib, most_kib })
    }
}

fn pair(little: &Rounds, much: &Rounds) -> Result<Pair> {
    let ratios: Vec<f64> =
        little.cpu_us.iter().zip(&much.cpu_us).map(|(little, much)| much / little).collect();
    Ok(Pair { little: little.situation()?, much: much.situation()?, cpu_ratio: spread(&ratios)? })
}

fn spread(values: &[f64]) -> Result<Spread> {
    Spread::of(values.iter().copied()).context("there was no round")
}

/// Measures it.
pub fn measure(programs: &Path, size: &Size) -> Result<Proxy> {
    say("proxy: brings a world of the lab up");
    let world = World::up(programs)?;
    let bench = Bench { world, seconds: size.seconds };
    let unused = bench.with_unused(size)?;
    bench.world.apply(&stage::with_rules())?;
    let matchings = [Matching::Paths, Matching::Headers];
    let rules = matchings.into_iter().map(|matching| {
        let pair = bench.with_rules(matching, size.rounds)?;
        Ok(Rules { matching: matching.as_str().to_owned(), pair })
    });
    let rules = rules.collect::<Result<_>>()?;
    Ok(Proxy { unused_services: size.services, rules_counts: RULES, unused, rules })
}

struct Bench {
    world: World,
    seconds: usize,
}

impl Bench {
    /// Without unused Services and with them.
    fn with_unused(&self, size: &Size) -> Result<Pair> {
        let objects = unused(size.services, size.endpoints_each);
        let (mut alone, mut crowded) = (Rounds::default(), Rounds::default());
        (0..WARM_UPS).try_for_each(|_| self.warm_up(PLAIN))?;
        for _ in 0..size.rounds {
            self.round(PLAIN, &mut alone)?;
            self.world.manifests.put(UNUSED, &objects)?;
            self.world.wait_for(&unused_name(0))?;
            thread::sleep(SETTLE);
            self.round(PLAIN, &mut crowded)?;
            self.world.manifests.remove(UNUSED)?;
            thread::sleep(SETTLE);
        }
        pair(&alone, &crowded)
    }

    /// With few rules and with many.
    fn with_rules(&self, matching: Matching, rounds: usize) -> Result<Pair> {
        let (mut few, mut many) = (Rounds::default(), Rounds::default());
        let services = RULES.map(|rules| ruled(matching, rules));
        services.iter().try_for_each(|service| self.warm_up(service))?;
        for _ in 0..rounds {
            self.round(&services[0], &mut few)?;
            self.round(&services[1], &mut many)?;
        }
        pair(&few, &many)
    }

    /// So that connections are open, and what is allocated once is.
    fn warm_up(&self, service: &str) -> Result<()> {
        self.world.load(service, self.seconds).map(drop)
    }

    /// One round of load from the client to a Service.
    fn round(&self, service: &str, rounds: &mut Rounds) -> Result<()> {
        let pid = self.world.client_proxy()?;
        let before = cpu(pid)?;
        let Load { requests, seconds } = self.world.load(service, self.seconds)?;
        let used = cpu(pid)?.saturating_sub(before);
        let cpu_us = used.as_secs_f64() * 1e6 / requests;
        rounds.cpu_us.push(cpu_us);
        rounds.rate.push(requests / seconds);
        let (rate, resident) = (requests / seconds, memory(pid)?.resident_kib);
        rounds.resident_kib.push(resident);
        say(&format!("proxy: {service}: {cpu_us:.2} µs of CPU a request, {rate:.0}/s, {resident} KiB"));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_compared_with_the_one_right_before() {
        let rounds =
            |cpu_us: [f64; 2]| Rounds { cpu_us: cpu_us.into(), rate: vec![1.0], resident_kib: vec![7, 9, 8] };
        // A machine that gets slower makes both slower.
        let pair = pair(&rounds([10.0, 20.0]), &rounds([11.0, 22.0])).unwrap();
        assert_eq!((pair.cpu_ratio.min, pair.cpu_ratio.max), (1.1, 1.1));
        assert_eq!((pair.much.first_kib, pair.much.most_kib), (7, 9));
    }
}
