//! Waiting for pods: who has become ready, whom we still wait for, and why those that failed did.

use std::collections::BTreeMap;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Result, bail};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, timeout_at};

use crate::kubelet::PodRun;
use crate::supervisor::Say;
use crate::world::World;

/// After so long without news the user is told what is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at those who are late.
const LOOK: Duration = Duration::from_secs(1);
/// How much of a log explains a failure.
const TAIL_LINES: usize = 12;

/// Waits until all pods are ready, have succeeded or have failed; says each, and at the deadline what is wrong with
/// the others. One that fails does not end the waiting for the rest.
pub async fn await_pods(world: &World, runs: &[Rc<PodRun>], deadline: Instant, say: &Say) -> Result<()> {
    let mut waiting: FuturesUnordered<_> = runs
        .iter()
        .map(|run| async move {
            run.until(|state| state.settled().is_some()).await;
            run
        })
        .collect();
    let mut late = Late::default();
    let mut look = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match timeout_at(deadline.min(look), waiting.next()).await {
            Ok(Some(run)) => say.line(&outcome(run)),
            Ok(None) => break,
            Err(_) => {
                late.tell(runs, say);
                look = Instant::now() + LOOK;
            }
        }
    }
    drop(waiting);
    let bad: Vec<_> = runs.iter().filter(|run| run.state.borrow().settled() != Some(true)).collect();
    if bad.is_empty() {
        return Ok(());
    }
    let texts: Vec<_> = bad.iter().map(|run| explain(world, run)).collect();
    bail!("{} of {} pods are not ready:\n{}", bad.len(), runs.len(), texts.join("\n"))
}

fn outcome(run: &PodRun) -> String {
    let state = run.state.borrow();
    let how = match state.phase() {
        "Failed" => return format!("pod {}: failed: {}", run.name, state.why()),
        "Succeeded" => "succeeded",
        _ => "ready",
    };
    format!("pod {}: {how} after {:.1} s", run.name, run.born.elapsed().as_secs_f64())
}

/// When each line was last said.
#[derive(Default)]
struct Late(BTreeMap<String, Instant>);

impl Late {
    fn tell(&mut self, runs: &[Rc<PodRun>], say: &Say) {
        for run in runs.iter().filter(|run| run.state.borrow().settled().is_none()) {
            let line = format!("pod {}: still waiting: {}", run.name, run.state.borrow().why());
            if self.due(&line, Instant::now()) {
                say.line(&line);
            }
        }
    }

    /// Whether it is new or was not said for a while: a pod that goes to and fro between two states is not news.
    fn due(&mut self, line: &str, now: Instant) -> bool {
        self.0.retain(|_, said| now < *said + PATIENCE);
        let due = !self.0.contains_key(line);
        if due {
            self.0.insert(line.to_owned(), now);
        }
        due
    }
}

fn explain(world: &World, run: &PodRun) -> String {
    let state = run.state.borrow();
    let mut text = format!("  pod {}: {}", run.name, state.why());
    let Some(container) = state.suspect() else { return text };
    let log = world.place.container_log(&run.name.namespace, &run.name.name, container);
    let log = fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<_> = log.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(TAIL_LINES)) {
        text.push_str(&format!("\n    {container} | {line}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_again_only_after_a_while() {
        let (mut late, start) = (Late::default(), Instant::now());
        assert!(late.due("a", start));
        assert!(late.due("b", start + LOOK), "another text");
        assert!(!late.due("a", start + LOOK), "the same again");
        assert!(late.due("a", start + PATIENCE));
    }
}
