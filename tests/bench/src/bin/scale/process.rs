//! What a running process has used: CPU time by its own clock, and resident memory.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use bench::machine::field;
use bench::proc::cpu_time;
use serde::{Deserialize, Serialize};

/// Resident memory of a process, KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Now.
    pub resident_kib: u64,
    /// At most, so far.
    pub peak_kib: u64,
}

/// The CPU time of all threads of a process, ended ones too: of the kernel's own clock, to the nanosecond.
pub fn cpu(pid: u32) -> Result<Duration> {
    cpu_time(i32::try_from(pid)?)
}

/// The resident memory of a process.
pub fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse(&status).with_context(|| format!("{path} does not tell the resident memory"))
}

/// The machine, in a line.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (cpus, kernel) = (read("/proc/cpuinfo"), read("/proc/sys/kernel/osrelease"));
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    format!("{count} × {}, Linux {}", model(&cpus), kernel.trim())
}

/// The processor's name; not every architecture tells it.
fn model(cpus: &str) -> String {
    field(cpus, "model name").unwrap_or_else(|| "core".to_owned())
}

fn parse(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Some(Memory { resident_kib: field("VmRSS:")?, peak_kib: field("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_the_kernels_lines() {
        let status = "Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\n";
        assert_eq!(parse(status), Some(Memory { resident_kib: 200, peak_kib: 300 }));
        assert_eq!(parse("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn a_processor_has_a_name_or_none() {
        assert_eq!(model("processor\t: 0\nmodel name\t: Fast 1\n"), "Fast 1");
        assert_eq!(model("processor\t: 0\n"), "core");
    }

    #[test]
    fn the_cpu_clock_of_this_process_runs() {
        let own = std::process::id();
        let before = cpu(own).unwrap();
        let sum: u64 = (0..1_000_000_u64).map(std::hint::black_box).sum();
        assert!(cpu(own).unwrap() > before && sum > 0);
        assert!(memory(own).unwrap().resident_kib > 0);
    }
}
