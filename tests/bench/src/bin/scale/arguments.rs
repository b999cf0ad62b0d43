//! The command line.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

/// Measures the control plane and one sidecar where the cluster is large.
#[derive(Debug, Parser)]
#[command(name = "scale", max_term_width = 100)]
pub struct Arguments {
    /// Services of the cluster [default: 10000; quick: 1000]
    #[arg(long)]
    services: Option<usize>,
    /// Endpoints of all Services together [default: 5 for each Service]
    #[arg(long)]
    endpoints: Option<usize>,
    /// Sidecars that follow the control plane [default: 1000; quick: 100]
    #[arg(long)]
    sidecars: Option<usize>,
    /// Changes that are measured, of routes and of endpoints in turn [default: 100; quick: 20]
    #[arg(long)]
    changes: Option<usize>,
    /// A tenth of everything, to see that it works
    #[arg(long)]
    quick: bool,
    /// What to measure [default: both]
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// The directory of heddle-injector, lab and load [default: that of this program]
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
    /// Where scale.json and scale.md are written
    #[arg(long, value_name = "DIR", default_value = "docs/benchmarks")]
    pub out: PathBuf,
}

/// A part of the measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The control plane.
    Plane,
    /// One sidecar.
    Proxy,
}

/// How large everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    /// Services of the cluster.
    pub services: usize,
    /// Endpoints of each Service.
    pub endpoints_each: usize,
    /// Sidecars that follow the control plane.
    pub sidecars: usize,
    /// Changes of routes and endpoints.
    pub changes: usize,
    /// Rounds of load in each situation of the sidecar.
    pub rounds: usize,
    /// Seconds of load in each round.
    pub seconds: usize,
}

impl Arguments {
    /// The size of everything, as asked for.
    pub fn size(&self) -> Size {
        let or = |given: Option<usize>, full: usize| {
            given.unwrap_or(if self.quick { full / 10 } else { full }).max(1)
        };
        let services = or(self.services, 10_000).max(crate::cluster::FEWEST_SERVICES);
        let endpoints = self.endpoints.unwrap_or(5 * services);
        Size {
            services,
            endpoints_each: endpoints.div_ceil(services).max(1),
            sidecars: or(self.sidecars, 1_000),
            changes: self.changes.unwrap_or(if self.quick { 20 } else { 100 }).max(2),
            rounds: if self.quick { 2 } else { 5 },
            seconds: if self.quick { 2 } else { 5 },
        }
    }

    /// Whether a part is to be measured.
    pub fn includes(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    /// The directory of the programs that are measured.
    pub fn programs(&self) -> Result<PathBuf> {
        let own = std::env::current_exe().context("this program does not know where it is")?;
        let beside = own.parent().map(Path::to_owned);
        let programs = self.bin.clone().or(beside).context("this program is nowhere")?;
        let injector = programs.join("heddle-injector");
        ensure!(injector.is_file(), "there is no {}: build it, or say --bin DIR", injector.display());
        // Containers of the lab start elsewhere.
        programs.canonicalize().with_context(|| format!("cannot find {}", programs.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(words: &[&str]) -> Size {
        Arguments::try_parse_from([&["scale"], words].concat()).unwrap().size()
    }

    #[test]
    fn the_full_size_is_that_of_the_goal() {
        let full = size(&[]);
        assert_eq!(
            (full.services, full.endpoints_each, full.sidecars, full.changes),
            (10_000, 5, 1_000, 100)
        );
    }

    #[test]
    fn quick_is_a_tenth_unless_it_is_said_how_many() {
        let quick = size(&["--quick", "--sidecars", "7"]);
        assert_eq!((quick.services, quick.sidecars, quick.changes), (1_000, 7, 20));
    }

    #[test]
    fn endpoints_are_shared_out_among_the_services() {
        assert_eq!(size(&["--services", "100", "--endpoints", "150"]).endpoints_each, 2);
    }
}
