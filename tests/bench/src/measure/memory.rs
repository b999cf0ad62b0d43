//! Resident memory of sidecars that have just started, and what 1,000 idle connections add to it.
//!
//! Each kind of connection has sidecars of its own: what one has freed must not hide what the next takes.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use super::Measured;
use crate::program::Holding;
use crate::scenario::{ECHO, HTTP};
use crate::stage::Stage;
use crate::subject::{Side, Subject};
use bench::proc::Memory;

/// Idle connections.
const CONNECTIONS: u32 = 1000;
/// For a sidecar that has just started: until it has its certificate and does nothing more.
const SETTLE: Duration = Duration::from_secs(2);
/// For connections that were opened: until what opening them took is given back.
const IDLE: Duration = Duration::from_secs(5);
/// For the connections to be opened, or closed.
const SOON: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Opened {
    open: u32,
    failures: u64,
}

/// Starts the sidecars anew, looks, opens connections, looks again; for each kind of connection.
pub fn measure(stage: &Stage, subject: Subject) -> Result<Measured> {
    let mut measured = Measured::default();
    for (kind, port, name) in [("http1", HTTP, "http1"), ("echo", ECHO, "tcp")] {
        let sidecars = start_anew(stage, subject)?;
        let before = both(sidecars)?;
        // Before any traffic, whatever the traffic will be: once is enough.
        if kind == "http1" {
            measured.values.extend(idle(before));
        }
        let options = ["--kind", kind, "--connections", &CONNECTIONS.to_string()];
        let held = Holding::start(stage.load(subject, "idle", port, &options), SOON)?;
        let opened: Opened = serde_json::from_str(&held.said).context("what load said of its connections")?;
        if opened.open < CONNECTIONS || opened.failures > 0 {
            measured.disturbance = Some(format!("{} of {CONNECTIONS} connections opened", opened.open));
        }
        std::thread::sleep(IDLE);
        let after = both(sidecars)?;
        held.release(SOON)?;
        measured.values.extend(each(name, before, after));
    }
    Ok(measured)
}

/// The processes are new, have settled, and have carried nothing.
fn start_anew(stage: &Stage, subject: Subject) -> Result<[i32; 2]> {
    let mut old = [0; 2];
    for (pid, side) in old.iter_mut().zip(Side::ALL) {
        *pid = stage.proxy(subject, side)?;
        kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
    }
    let mut new = [0; 2];
    for ((new, old), side) in new.iter_mut().zip(old).zip(Side::ALL) {
        *new = stage.returned(subject, side, old)?;
    }
    std::thread::sleep(SETTLE);
    Ok(new)
}

fn both([outbound, inbound]: [i32; 2]) -> Result<[Memory; 2]> {
    Ok([Memory::of(outbound)?, Memory::of(inbound)?])
}

/// MiB of one sidecar, the client's.
fn idle([outbound, _]: [Memory; 2]) -> [(String, f64); 2] {
    const MIB: f64 = (1 << 20) as f64;
    [
        ("memory.idle".to_owned(), outbound.resident / MIB),
        ("memory.idle.pss".to_owned(), outbound.proportional / MIB),
    ]
}

/// KiB of each connection at both ends.
fn each(name: &str, before: [Memory; 2], after: [Memory; 2]) -> [(String, f64); 2] {
    let more = |side: usize| (after[side].resident - before[side].resident) / 1024.0 / f64::from(CONNECTIONS);
    [(format!("memory.{name}.outbound"), more(0)), (format!("memory.{name}.inbound"), more(1))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_costs_what_was_added() {
        let memory = |kib: f64| Memory { resident: kib * 1024.0, proportional: 0.0 };
        let found = each("tcp", [memory(1000.0), memory(500.0)], [memory(9000.0), memory(500.0)]);
        assert_eq!(found[0], ("memory.tcp.outbound".to_owned(), 8.0));
        assert_eq!(found[1], ("memory.tcp.inbound".to_owned(), 0.0));
    }
}
