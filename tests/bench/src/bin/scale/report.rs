//! What was measured, as JSON for programs and as Markdown for people.

mod markdown;

use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::plane::Plane;
use crate::proxy::{Proxy, Rules};

/// What the goal says of the control plane: milliseconds from a change to the last sidecar (p99), and MiB.
const CHANGE_MS: f64 = 1_000.0;
const PLANE_MIB: f64 = 400.0;
/// What it says of the sidecar: KiB more with the unused Services, and how much more CPU a request may take with many rules.
const GROWTH_KIB: f64 = 1_024.0;
const RULES_RATIO: f64 = 1.3;
/// "Unchanged": as close as two runs of the same are.
const SAME_RATIO: f64 = 1.05;

/// Everything that was measured. A part that is not measured again stays as it was.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// The machine on which the last part was measured.
    pub machine: String,
    /// The control plane.
    pub plane: Option<Plane>,
    /// One sidecar.
    pub proxy: Option<Proxy>,
}

/// A figure of the goal, and what was measured.
struct Target {
    what: String,
    measured: f64,
    most: f64,
}

impl Report {
    /// The report of an earlier run; without one that can be read, an empty one.
    pub fn read(directory: &Path) -> Self {
        let text = fs::read_to_string(directory.join("scale.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Writes it into `directory`, and returns it as Markdown.
    pub fn write(&self, directory: &Path) -> io::Result<String> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("scale.json"), serde_json::to_string_pretty(self)? + "\n")?;
        let text = self.markdown();
        fs::write(directory.join("scale.md"), &text)?;
        Ok(text)
    }

    fn targets(&self) -> Vec<Target> {
        let target = |what: String, measured: f64, most: f64| Target { what, measured, most };
        let mut targets = Vec::new();
        if let Some(Plane { changes, changing, sidecars, .. }) = &self.plane {
            let last = format!("a change is at the last of {sidecars} sidecars, ms (p99)");
            let memory = "resident memory of the control plane, MiB (peak)".to_owned();
            targets.push(target(last, changes.all.last_ms.p99, CHANGE_MS));
            targets.push(target(memory, mib(changing.memory.peak_kib), PLANE_MIB));
        }
        if let Some(Proxy { unused, rules, unused_services, rules_counts: [few, many] }) = &self.proxy {
            let growth = unused.much.first_kib as f64 - unused.little.first_kib as f64;
            let grows = format!("a sidecar grows by {unused_services} unused Services, KiB");
            let cpu = "its CPU for each request with them, times that without".to_owned();
            targets.push(target(grows, growth, GROWTH_KIB));
            targets.push(target(cpu, unused.cpu_ratio.p50, SAME_RATIO));
            targets.extend(rules.iter().map(|Rules { matching, pair }| {
                let what =
                    format!("its CPU for each request with {many} rules ({matching}), times that with {few}");
                target(what, pair.cpu_ratio.p50, RULES_RATIO)
            }));
        }
        targets
    }
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1_024.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{Pair, Situation};
    use crate::spread::Spread;

    fn proxy() -> Proxy {
        let spread = |value| Spread::of([value]).unwrap();
        let situation = |cpu_us, kib| Situation {
            cpu_us: spread(cpu_us),
            rate: spread(1_000.0),
            first_kib: kib,
            most_kib: kib + 50,
        };
        let (little, much) = (situation(20.0, 9_000), situation(30.0, 9_100));
        let unused = Pair { little, much, cpu_ratio: spread(1.5) };
        Proxy { unused_services: 10_000, rules_counts: [10, 1_000], unused, rules: Vec::new() }
    }

    #[test]
    fn the_report_says_what_was_reached_and_what_was_missed() {
        let text = Report { proxy: Some(proxy()), ..Report::default() }.markdown();
        let check = |line: &str| assert!(text.contains(line), "{text}");
        check("| a sidecar grows by 10000 unused Services, KiB | 1024 | 100.00 | reached |");
        check("times that without | 1.05 | 1.50 | missed |");
        check("| no unused Services | 20.00 (20.00 – 20.00) | 1000 | 9000 | 9050 |");
    }

    #[test]
    fn a_part_that_is_not_measured_again_stays() {
        let home = tempfile::tempdir().unwrap();
        Report { proxy: Some(proxy()), ..Report::default() }.write(home.path()).unwrap();
        assert_eq!(Report::read(home.path()).proxy.unwrap().unused.little.first_kib, 9_000);
        assert!(Report::read(&home.path().join("missing")).proxy.is_none());
    }
}
