//! From a sidecar's exec to the first request that comes through it: the client's is killed, the lab starts it again,
//! and the client asks every millisecond.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use super::Measured;
use super::quiet::Watch;
use crate::program::Running;
use crate::scenario::HTTP;
use crate::stage::Stage;
use crate::subject::{Side, Subject};
use bench::proc::{self, Stat};

/// The lab waits before it starts again what has died, after many deaths 10 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks whether the new process executes its program: how exactly the moment is known.
const LOOK: Duration = Duration::from_micros(100);

#[derive(Deserialize)]
struct First {
    unix_nanos: u64,
}

/// Kills, waits, measures.
pub fn measure(stage: &Stage, subject: Subject) -> Result<Measured> {
    let watch = Watch::begin(&stage.pods()?)?;
    let killed = stage.proxy(subject, Side::Outbound)?;
    let parent = Stat::of(killed).context("the sidecar has ended")?.parent;
    let program = proc::program(killed).context("the sidecar has ended")?;
    // The server's sidecar is of the same parent and executes the same program.
    let before = proc::children(parent);
    kill(Pid::from_raw(killed), Signal::SIGKILL)?;
    let first = Running::start(stage.load(subject, "first", HTTP, &["--seconds", "20"]))?;
    let executed = executed(parent, &before, &program)?;
    let first: First = serde_json::from_str(&first.finish(PATIENCE)?.out)?;
    let took = Duration::from_nanos(first.unix_nanos).saturating_sub(executed);
    let values = vec![("start.first".to_owned(), took.as_secs_f64() * 1e3)];
    // On a busy machine whoever looks may come too late.
    let late = took.is_zero().then(|| "the new process was seen too late".to_owned());
    Ok(Measured { values, disturbance: late.or(watch.end(0, String::new())?.disturbance()) })
}

/// When a new child of `parent` began to execute `program`, since 1970.
fn executed(parent: i32, before: &[i32], program: &Path) -> Result<Duration> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let mut new = proc::children(parent).into_iter().filter(|pid| !before.contains(pid));
        if new.any(|pid| proc::program(pid).as_deref() == Some(program)) {
            return SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970");
        }
        std::thread::sleep(LOOK);
    }
    bail!("the lab did not start the sidecar again within {} s", PATIENCE.as_secs())
}
