//! The command line, and what it comes to.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::scenario::Scenario;
use crate::subject::Subject;

/// Where a run of everything puts its report.
const OUT: &str = "docs/benchmarks";

/// Measures Heddle beside Envoy, a program that only copies bytes, and nothing. Needs root.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub struct Options {
    /// Measure for 4 minutes instead of 20: 2 rounds of 2 s instead of 5 of 5 s
    #[arg(long)]
    quick: bool,

    /// Where to write the report; by default docs/benchmarks, and a run of less than everything only prints its table
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Measure these only
    #[arg(long, value_name = "SCENARIO,…", value_delimiter = ',')]
    only: Vec<Scenario>,

    /// Measure these only
    #[arg(long, value_name = "SUBJECT,…", value_delimiter = ',')]
    subjects: Vec<Subject>,

    /// How often to measure each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,

    /// How long a round is
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,

    /// Where the programs are; by default where this one is
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,

    /// Envoy's program; by default where tests/bench/envoy/install.sh puts it
    #[arg(long, value_name = "FILE", env = "HEDDLE_ENVOY_PROGRAM")]
    envoy: Option<PathBuf>,

    /// The lab's world
    #[arg(long, value_name = "NAME", default_value = "bench")]
    world: String,

    /// Leave the world up, to look at
    #[arg(long)]
    keep: bool,
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    /// Whether this is the short run.
    pub quick: bool,
    /// Where the report goes, if anywhere.
    pub out: Option<PathBuf>,
    /// What is measured, in order.
    pub scenarios: Vec<Scenario>,
    /// Who is measured, in order.
    pub subjects: Vec<Subject>,
    /// How often.
    pub rounds: u32,
    /// How long a round is.
    pub seconds: u32,
    /// Where the programs are.
    pub bin: PathBuf,
    /// Envoy's program.
    pub envoy: PathBuf,
    /// The lab's world.
    pub world: String,
    /// Whether the world stays up.
    pub keep: bool,
}

impl Options {
    /// Fills in what was not said, and looks whether it can be done.
    pub fn plan(self) -> Result<Plan> {
        let plan = self.resolve()?;
        plan.check()?;
        Ok(plan)
    }

    fn resolve(self) -> Result<Plan> {
        let (rounds, seconds) = if self.quick { (2, 2) } else { (5, 5) };
        let whole = self.only.is_empty() && self.subjects.is_empty();
        let bin = self.bin.map_or_else(own_folder, Ok)?;
        let bin = bin.canonicalize().with_context(|| format!("there is no folder {}", bin.display()))?;
        Ok(Plan {
            quick: self.quick,
            out: self.out.or_else(|| whole.then(|| OUT.into())),
            scenarios: chosen(&Scenario::ALL, &self.only),
            subjects: chosen(&Subject::ALL, &self.subjects),
            rounds: self.rounds.unwrap_or(rounds),
            seconds: self.seconds.unwrap_or(seconds),
            bin,
            envoy: self.envoy.unwrap_or_else(installed_envoy),
            world: self.world,
            keep: self.keep,
        })
    }
}

impl Plan {
    /// How often this is measured.
    pub fn rounds_of(&self, scenario: Scenario) -> u32 {
        if scenario.is_traffic() || scenario == Scenario::Start {
            self.rounds
        } else if scenario == Scenario::Memory {
            // Two restarts and two waits each, and they hardly vary.
            self.rounds.div_ceil(2)
        } else {
            // Counts, not times.
            1
        }
    }

    /// How long the load runs before it is measured, seconds.
    pub const fn warm_up(&self) -> f64 {
        if self.quick { 0.5 } else { 1.0 }
    }

    fn check(&self) -> Result<()> {
        ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root");
        for program in ["lab", "load", "heddle-init", "heddle-proxy", "heddle-injector"] {
            let path = self.bin.join(program);
            ensure!(path.exists(), "there is no {}: build it first, or see `make bench`", path.display());
        }
        let envoy = self.envoy.exists() || !self.subjects.contains(&Subject::Envoy);
        ensure!(envoy, "there is no {}: tests/bench/envoy/install.sh gets it", self.envoy.display());
        Ok(())
    }
}

/// Those of all that were asked for, or all.
fn chosen<T: Copy + PartialEq>(all: &[T], asked: &[T]) -> Vec<T> {
    all.iter().copied().filter(|one| asked.is_empty() || asked.contains(one)).collect()
}

fn own_folder() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own folder")?;
    own.parent().map(Path::to_owned).context("this program is in no folder")
}

fn installed_envoy() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let folder = std::env::var_os("HEDDLE_ENVOY").map(PathBuf::from);
    folder.unwrap_or_else(|| home.join(".cache/heddle/envoy")).join("envoy")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str) -> Plan {
        let words = ["bench"].into_iter().chain(line.split_whitespace());
        Options::parse_from(words).resolve().expect("a plan")
    }

    #[test]
    fn a_run_of_everything_is_for_the_documents() {
        assert_eq!(plan("").out, Some(OUT.into()));
        assert_eq!(plan("--quick").out, Some(OUT.into()));
    }

    #[test]
    fn a_run_of_less_is_written_only_where_it_is_told() {
        assert_eq!(plan("--only http1").out, None);
        assert_eq!(plan("--subjects heddle --out x").out, Some("x".into()));
    }

    #[test]
    fn scenarios_and_subjects_are_chosen_by_name() {
        let plan = plan("--only short,http1 --subjects heddle,direct --rounds 3 --seconds 7");
        assert_eq!(plan.scenarios, [Scenario::Http1, Scenario::Short]);
        assert_eq!(plan.subjects, [Subject::Direct, Subject::Heddle]);
        assert_eq!((plan.rounds, plan.seconds), (3, 7));
    }

    #[test]
    fn restarts_are_measured_less_often_than_traffic() {
        let plan = plan("");
        assert_eq!(plan.rounds_of(Scenario::Http1), 5);
        assert_eq!(plan.rounds_of(Scenario::Memory), 3);
        assert_eq!(plan.rounds_of(Scenario::Syscalls), 1);
    }
}
