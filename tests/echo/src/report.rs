//! What a client counted: answers by status and by server, failures by kind, and how long answers took.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// Names of servers, statuses and errors are the other side's to choose, so each list is bounded.
const MOST_KINDS: usize = 100;
/// Changes of the answering server that are remembered, the first ones.
const MOST_CHANGES: usize = 10_000;

/// The counts of one run.
pub struct Report {
    began: Instant,
    answered: u64,
    failed: u64,
    reconnects: u64,
    statuses: BTreeMap<String, u64>,
    servers: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    /// Microseconds that each answer took.
    times: Vec<u32>,
    /// When another server than before began to answer: Unix milliseconds, its name.
    changes: Vec<(u64, String)>,
}

impl Report {
    /// Begins to count.
    pub fn start() -> Self {
        Self {
            began: Instant::now(),
            answered: 0,
            failed: 0,
            reconnects: 0,
            statuses: BTreeMap::new(),
            servers: BTreeMap::new(),
            errors: BTreeMap::new(),
            times: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// An answer with this status, from this server.
    pub fn answered(&mut self, status: &str, server: &str) {
        self.answered += 1;
        count(&mut self.statuses, status);
        count(&mut self.servers, server);
        if self.changes.len() < MOST_CHANGES && self.changes.last().is_none_or(|(_, last)| last != server) {
            self.changes.push((unix_milliseconds(), server.to_owned()));
        }
    }

    /// How long an answer took.
    pub fn took(&mut self, time: Duration) {
        self.times.push(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
    }

    /// A request without an answer, or with one that is a failure.
    pub fn failed(&mut self, kind: &str) {
        self.failed += 1;
        count(&mut self.errors, kind);
    }

    /// The server had closed the connection between two requests.
    pub fn reconnected(&mut self) {
        self.reconnects += 1;
    }

    /// One line for people that wait.
    pub fn progress(&self) -> String {
        let servers: Vec<String> = self.servers.iter().map(|(name, n)| format!("{name} {n}")).collect();
        format!(
            "{:.0} s: {} answered ({}), {} failed",
            self.seconds(),
            self.answered,
            servers.join(", "),
            self.failed
        )
    }

    /// An error if anything failed, with the kinds.
    pub fn verdict(&self) -> Result<()> {
        if self.failed == 0 {
            return Ok(());
        }
        let kinds: Vec<String> = self.errors.iter().map(|(kind, n)| format!("{n} × {kind}")).collect();
        bail!("{} of {} failed: {}", self.failed, self.answered.max(self.failed), kinds.join("; "))
    }

    /// Everything, for programs.
    #[expect(clippy::print_stdout, reason = "the report is what the user asked for")]
    pub fn print_json(&mut self) {
        self.times.sort_unstable();
        println!("{}", self.to_json());
    }

    /// Everything, for people.
    #[expect(clippy::print_stdout, reason = "the report is what the user asked for")]
    pub fn print_text(&mut self) {
        println!("{} answered, {} failed in {:.2} s", self.answered, self.failed, self.seconds());
        for (title, counts) in
            [("status", &self.statuses), ("server", &self.servers), ("error", &self.errors)]
        {
            for (name, n) in counts {
                println!("  {title} {name}: {n}");
            }
        }
    }

    /// Needs sorted times.
    fn to_json(&self) -> Value {
        let changes: Vec<Value> =
            self.changes.iter().map(|(at, server)| json!({"at": at, "server": server})).collect();
        json!({
            "answered": self.answered,
            "failed": self.failed,
            "reconnects": self.reconnects,
            "statuses": self.statuses,
            "servers": self.servers,
            "errors": self.errors,
            "seconds": self.seconds(),
            "milliseconds": {"p50": self.percentile(50), "p99": self.percentile(99), "most": self.percentile(100)},
            "changes": changes,
        })
    }

    /// In milliseconds; needs sorted times.
    fn percentile(&self, percent: usize) -> f64 {
        let last = self.times.len().saturating_sub(1);
        self.times.get(last * percent / 100).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
    }

    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    let full = counts.len() >= MOST_KINDS && !counts.contains_key(name);
    *counts.entry(if full { "others" } else { name }.to_owned()).or_default() += 1;
}

fn unix_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
