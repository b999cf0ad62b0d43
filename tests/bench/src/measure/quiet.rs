//! Whether a measurement had the machine to itself.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::lab::Pods;
use bench::proc::{Stat, Strangers};

/// The share of the machine that others may take before a round is measured again: less hardly moves CPU per request,
/// more pushes queues and caches about.
const MOST_TAKEN: f64 = 0.10;

/// Looks at everybody else from now on.
pub struct Watch {
    ours: BTreeSet<i32>,
    began: Instant,
    before: Strangers,
}

/// What went on beside the measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Beside {
    /// What the load could not do…
    pub failures: u64,
    /// …and what it said of it.
    pub failed: String,
    /// The share of the machine that other processes took.
    pub processes: f64,
    /// The share that the hypervisor took.
    pub stolen: f64,
}

impl Watch {
    /// Begins; this program, the lab and all that runs in its pods belong to the bench.
    pub fn begin(pods: &Pods) -> Result<Self> {
        let mut ours: BTreeSet<i32> = pods.processes().collect();
        let lab: Vec<i32> = ours.iter().filter_map(|pid| Stat::of(*pid)).map(|stat| stat.parent).collect();
        ours.extend(lab);
        ours.extend(i32::try_from(std::process::id()));
        Ok(Self { before: Strangers::read(&ours)?, ours, began: Instant::now() })
    }

    /// Ends.
    pub fn end(&self, failures: u64, failed: String) -> Result<Beside> {
        let cores = std::thread::available_parallelism()?.get();
        let now = Strangers::read(&self.ours)?;
        let (processes, stolen) = now.since(self.before, self.elapsed(), cores);
        Ok(Beside { failures, failed, processes, stolen })
    }

    fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Beside {
    /// Why the measurement should be made again, if it should.
    pub fn disturbance(&self) -> Option<String> {
        let percent = |share: f64| format!("{:.0} % of the machine", share * 100.0);
        if self.failures > 0 {
            Some(format!("failures: {}, such as {:?}", self.failures, self.failed))
        } else if self.processes > MOST_TAKEN {
            Some(format!("other processes took {}", percent(self.processes)))
        } else if self.stolen > MOST_TAKEN {
            Some(format!("the hypervisor took {}", percent(self.stolen)))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(failures: u64, processes: f64, stolen: f64, expected: Option<&str>) {
        let beside = Beside { failures, failed: "alas".to_owned(), processes, stolen };
        assert_eq!(beside.disturbance().as_deref(), expected);
    }

    #[test]
    fn a_quiet_round_without_failures_counts() {
        check(0, 0.0, 0.0, None);
        check(0, 0.10, 0.10, None);
    }

    #[test]
    fn one_failure_disturbs_a_round() {
        check(1, 0.0, 0.0, Some("failures: 1, such as \"alas\""));
    }

    #[test]
    fn a_tenth_of_the_machine_is_too_much() {
        check(0, 0.11, 0.0, Some("other processes took 11 % of the machine"));
        check(0, 0.0, 0.25, Some("the hypervisor took 25 % of the machine"));
    }
}
