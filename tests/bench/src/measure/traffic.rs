//! CPU for each request, connection, handshake or gigabyte: the sidecars' CPU clocks around a load that counts.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::quiet::Watch;
use super::{Measured, sidecars};
use crate::certificates::Files;
use crate::options::Plan;
use crate::program::Running;
use crate::scenario::{Load, Scenario};
use crate::stage::Stage;
use crate::subject::Subject;
use bench::proc::cpu_time;

/// What a load may take longer than it was told.
const SLACK: Duration = Duration::from_secs(30);

/// Handshakes at a time.
const HANDSHAKES: &str = "4";

/// What `load` says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    requests: u64,
    connections: u64,
    handshakes: u64,
    bytes: u64,
    failures: u64,
    /// The first of them.
    #[serde(skip)]
    failed: String,
    seconds: f64,
    p50_us: Option<f64>,
    p99_us: Option<f64>,
}

/// Warms up, then measures.
pub fn measure(stage: &Stage, plan: &Plan, scenario: Scenario, subject: Subject) -> Result<Measured> {
    let source = Source::of(stage, scenario, subject)?;
    let pods = stage.pods()?;
    let sidecars = sidecars(stage, subject)?;
    source.run(stage, subject, plan.warm_up())?;
    let watch = Watch::begin(&pods)?;
    let before = clocks(&sidecars)?;
    let said = source.run(stage, subject, f64::from(plan.seconds))?;
    let used: Vec<Duration> = clocks(&sidecars)?.iter().zip(before).map(|(now, then)| *now - then).collect();
    let values = values(scenario, &said, &used);
    Ok(Measured { values, disturbance: watch.end(said.failures, said.failed)?.disturbance() })
}

/// Who makes the load.
enum Source {
    /// The client, through its sidecar.
    Client(Load),
    /// A peer of the server's sidecar, with these credentials.
    Peer(Files),
}

impl Source {
    fn of(stage: &Stage, scenario: Scenario, subject: Subject) -> Result<Self> {
        scenario
            .load()
            .map_or_else(|| stage.credentials(subject).map(Self::Peer), |load| Ok(Self::Client(load)))
    }

    fn run(&self, stage: &Stage, subject: Subject, seconds: f64) -> Result<Said> {
        let limit = Duration::from_secs_f64(seconds) + SLACK;
        let load = Running::start(self.command(stage, subject, &seconds.to_string())?)?.finish(limit)?;
        let said: Said =
            serde_json::from_str(&load.out).with_context(|| format!("the load said {:?}", load.out))?;
        Ok(Said { failed: load.err.lines().next().unwrap_or_default().to_owned(), ..said })
    }

    fn command(&self, stage: &Stage, subject: Subject, seconds: &str) -> Result<Command> {
        match self {
            Self::Client(load) => {
                let options = [load.options, &["--seconds", seconds]].concat();
                Ok(stage.load(subject, load.program, load.port, &options))
            }
            Self::Peer(files) => {
                let options = ["--concurrency", HANDSHAKES, "--alpn", alpn(subject), "--seconds", seconds];
                stage.handshakes(subject, files, &options)
            }
        }
    }
}

/// What a peer offers: a protocol that the subject's inbound sidecar serves. Nothing is said in it.
fn alpn(subject: Subject) -> &'static str {
    match subject {
        Subject::Heddle => std::str::from_utf8(mesh::contract::ALPN_H2).unwrap_or_default(),
        Subject::Direct | Subject::Floor | Subject::Envoy => "http/1.1",
    }
}

fn clocks(processes: &[i32]) -> Result<Vec<Duration>> {
    processes.iter().map(|pid| cpu_time(*pid)).collect()
}

/// `used` is the client's sidecar's and the server's, or nothing.
fn values(scenario: Scenario, said: &Said, used: &[Duration]) -> Vec<(String, f64)> {
    let (count, cpu_unit, rate_unit) = said.counted(scenario);
    let cpu = |used: Duration| used.as_secs_f64() * cpu_unit / count;
    let [outbound, inbound] = [0, 1].map(|side| cpu(used.get(side).copied().unwrap_or_default()));
    // Between the handshakes and the client there is no proxy.
    let both = if scenario == Scenario::Handshake { inbound } else { outbound + inbound };
    let found = [
        ("cpu", Some(both)),
        ("cpu.outbound", Some(outbound)),
        ("cpu.inbound", Some(inbound)),
        ("rate", Some(count / rate_unit / said.seconds)),
        ("p50", said.p50_us),
        ("p99", said.p99_us),
    ];
    let named = |(name, value): (&str, Option<f64>)| Some((format!("{}.{name}", scenario.name()), value?));
    found.into_iter().filter_map(named).collect()
}

impl Said {
    /// How much was done; CPU is in seconds for each 10^9 bytes or else in microseconds, rates in 10^6 bytes a second
    /// or things a second.
    fn counted(&self, scenario: Scenario) -> (f64, f64, f64) {
        if matches!(scenario, Scenario::Bulk1 | Scenario::Bulk8) {
            return (self.bytes as f64, 1e9, 1e6);
        }
        // Only one of them is counted.
        ((self.requests + self.connections + self.handshakes) as f64, 1e6, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USED: [Duration; 2] = [Duration::from_millis(300), Duration::from_millis(200)];

    fn value(values: &[(String, f64)], name: &str) -> Option<f64> {
        values.iter().find(|(found, _)| found == name).map(|(_, value)| *value)
    }

    #[test]
    fn requests_cost_microseconds() {
        let said = r#"{"requests":10000,"failures":0,"seconds":2.0,"p50_us":120,"p99_us":900}"#;
        let said: Said = serde_json::from_str(said).expect("JSON");
        let values = values(Scenario::Http1, &said, &USED);
        assert_eq!(value(&values, "http1.cpu"), Some(50.0));
        assert_eq!(value(&values, "http1.cpu.inbound"), Some(20.0));
        assert_eq!(value(&values, "http1.rate"), Some(5000.0));
        assert_eq!(value(&values, "http1.p99"), Some(900.0));
    }

    #[test]
    fn bytes_cost_seconds_a_gigabyte() {
        let said: Said =
            serde_json::from_str(r#"{"bytes":2000000000,"failures":0,"seconds":4.0}"#).expect("JSON");
        let values = values(Scenario::Bulk1, &said, &USED);
        assert_eq!(value(&values, "bulk1.cpu"), Some(0.25));
        assert_eq!(value(&values, "bulk1.rate"), Some(500.0));
        assert_eq!(value(&values, "bulk1.p50"), None);
    }

    #[test]
    fn a_handshake_is_the_servers_proxys_alone() {
        let said: Said =
            serde_json::from_str(r#"{"handshakes":1000,"failures":0,"seconds":1.0}"#).expect("JSON");
        assert_eq!(value(&values(Scenario::Handshake, &said, &USED), "handshake.cpu"), Some(200.0));
    }

    #[test]
    fn nothing_between_costs_nothing() {
        let said: Said = serde_json::from_str(r#"{"requests":10,"seconds":1.0}"#).expect("JSON");
        assert_eq!(value(&values(Scenario::Http1, &said, &[]), "http1.cpu"), Some(0.0));
    }
}
