//! System calls for each HTTP/1.1 request, counted by strace. Its stops cost so much that nothing else is measured here.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use super::{Measured, sidecars};
use crate::options::Plan;
use crate::program::run;
use crate::scenario::Scenario;
use crate::stage::Stage;
use crate::subject::Subject;

/// How long, in seconds: counts need less time than times.
const SECONDS: &str = "1";
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Said {
    requests: u32,
}

/// Counts the client's sidecar's, then the server's. Without strace there is nothing to say.
pub fn measure(stage: &Stage, plan: &Plan, subject: Subject) -> Result<Measured> {
    let mut measured = Measured::default();
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        return Ok(measured);
    }
    let load = Scenario::Syscalls.load().context("a scenario with a load")?;
    let options = [load.options, &["--seconds", SECONDS]].concat();
    let file = stage.folder().join(format!("strace-{}", plan.world));
    for (sidecar, name) in sidecars(stage, subject)?.into_iter().zip(["outbound", "inbound"]) {
        let tracer = Tracer::attach(sidecar, &file)?;
        let said = run(stage.load(subject, load.program, load.port, &options), PATIENCE)?;
        tracer.detach()?;
        let said: Said = serde_json::from_str(&said)?;
        ensure!(said.requests > 0, "no request came through");
        let calls = total(&fs::read_to_string(&file)?).context("strace's table has no total")?;
        measured.values.push((format!("syscalls.{name}"), calls / f64::from(said.requests)));
    }
    Ok(measured)
}

/// strace, which counts until it is interrupted. It would not live to write its table if nobody read its last words.
struct Tracer {
    strace: Child,
    messages: BufReader<ChildStderr>,
}

impl Tracer {
    /// Returns when all threads are stopped at each of their calls.
    fn attach(pid: i32, table: &Path) -> Result<Self> {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-c", "-p", &pid.to_string(), "-o"]).arg(table);
        let mut child = strace.stderr(Stdio::piped()).spawn().context("cannot start strace")?;
        let messages = child.stderr.take().context("its messages are piped")?;
        let mut tracer = Self { strace: child, messages: BufReader::new(messages) };
        let mut line = String::new();
        tracer.messages.read_line(&mut line)?;
        ensure!(line.contains("attached"), "strace: {}", line.trim());
        Ok(tracer)
    }

    fn detach(mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.strace.id())?), Signal::SIGINT)?;
        self.messages.read_to_end(&mut Vec::new())?;
        self.strace.wait().context("strace")?;
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if matches!(self.strace.try_wait(), Ok(None)) {
            let _ = self.strace.kill();
            let _ = self.strace.wait();
        }
    }
}

/// The calls in the last line of strace's table: `100.00 0.1 12 3456 7 total`.
fn total(table: &str) -> Option<f64> {
    let line = table.lines().find(|line| line.trim_end().ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_fourth_word_with_errors_or_without() {
        let head = "% time     seconds  usecs/call     calls    errors syscall\n------ ---\n";
        assert_eq!(total(&format!("{head}100.00    0.5   12     40321       210 total\n")), Some(40321.0));
        assert_eq!(total(&format!("{head}100.00    0.5   12     40321           total\n")), Some(40321.0));
        assert_eq!(total(head), None);
    }
}
