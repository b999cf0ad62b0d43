//! What the kernel says of processes and of the machine: CPU time, memory, children.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::ClockId;
use nix::unistd::Pid;

/// The unit of times in `/proc`, which is the same on every architecture (`USER_HZ`, proc(5)).
const TICK: Duration = Duration::from_millis(10);

/// The CPU time that a process and all its threads have used, to the nanosecond.
pub fn cpu_time(pid: i32) -> Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid));
    let read = clock.and_then(ClockId::now).with_context(|| format!("process {pid} has no CPU clock"))?;
    Ok(read.into())
}

/// What a process holds in memory, bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// All pages that it has mapped and that are there.
    pub resident: f64,
    /// The same, with pages that several processes have mapped divided among them.
    pub proportional: f64,
}

impl Memory {
    /// Of a process, counted page by page (`VmRSS` is only nearly right).
    pub fn of(pid: i32) -> Result<Self> {
        let file = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
        Self::parse(&text).with_context(|| format!("no sizes in {file}"))
    }

    fn parse(text: &str) -> Option<Self> {
        let kib = |name: &str| -> Option<f64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        Some(Self { resident: kib("Rss:")? * 1024.0, proportional: kib("Pss:")? * 1024.0 })
    }
}

/// The program that a process executes.
pub fn program(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// The processes that a process has started and not waited for, by whichever of its threads.
pub fn children(parent: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// A line of `/proc/PID/stat`, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stat {
    /// Who started it.
    pub parent: i32,
    /// Ticks of CPU that it and the children that it has waited for have used.
    ticks: u64,
}

impl Stat {
    /// Of a process that is there.
    pub fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(line: &str) -> Option<Self> {
        // The name in parentheses may hold anything, so count from the last one.
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let used: Option<Vec<u64>> = fields.get(11..15)?.iter().map(|field| field.parse().ok()).collect();
        Some(Self { parent: fields.get(1)?.parse().ok()?, ticks: used?.iter().sum() })
    }
}

/// Who else uses the machine: every process but those that take part in the bench, and what the hypervisor takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strangers {
    processes: Duration,
    stolen: Duration,
}

impl Strangers {
    /// Reads it now. The kernel's own threads work for the bench, too.
    pub fn read(ours: &BTreeSet<i32>) -> Result<Self> {
        const KTHREADD: i32 = 2;
        let mut ticks = 0;
        for entry in fs::read_dir("/proc")?.flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
            let Some(pid) = pid.filter(|pid| *pid != KTHREADD && !ours.contains(pid)) else { continue };
            ticks += Stat::of(pid).filter(|stat| stat.parent != KTHREADD).map_or(0, |stat| stat.ticks);
        }
        let stat = fs::read_to_string("/proc/stat")?;
        let stolen = stolen_ticks(&stat).context("/proc/stat does not say what was stolen")?;
        Ok(Self { processes: times(ticks), stolen: times(stolen) })
    }

    /// What they took since `before`, as shares of a machine of so many cores: processes, hypervisor.
    pub fn since(self, before: Self, window: Duration, cores: usize) -> (f64, f64) {
        let all = (window.as_secs_f64() * cores as f64).max(f64::MIN_POSITIVE);
        let share = |now: Duration, before: Duration| now.saturating_sub(before).as_secs_f64() / all;
        (share(self.processes, before.processes), share(self.stolen, before.stolen))
    }
}

/// The eighth number of the first line, for all cores together.
fn stolen_ticks(stat: &str) -> Option<u64> {
    stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().nth(7)?.parse().ok()
}

fn times(ticks: u64) -> Duration {
    TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "7 (a (b) c) S 5 7 7 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 99 1 1 1";

    #[test]
    fn a_name_with_parentheses_is_only_a_name() {
        assert_eq!(Stat::parse(STAT), Some(Stat { parent: 5, ticks: 127 }));
        assert_eq!(Stat::parse("7 (cut) S 5"), None);
    }

    #[test]
    fn memory_is_read_from_the_rollup() {
        let text =
            "00400000-7ffd000 ---p 0 00:00 0 [rollup]\nRss:   1200 kB\nPss:    300 kB\nPss_Anon: 7 kB\n";
        assert_eq!(
            Memory::parse(text),
            Some(Memory { resident: 1200.0 * 1024.0, proportional: 300.0 * 1024.0 })
        );
        assert_eq!(Memory::parse("Rss: 1 kB\n"), None);
    }

    #[test]
    fn strangers_are_shares_of_the_whole_machine() {
        let before = Strangers { processes: Duration::from_secs(8), stolen: Duration::from_secs(1) };
        let after = Strangers { processes: Duration::from_secs(9), stolen: Duration::from_secs(1) };
        assert_eq!(after.since(before, Duration::from_secs(5), 2), (0.1, 0.0));
        // Who has gone without being waited for takes his time with him.
        assert_eq!(before.since(after, Duration::from_secs(5), 2), (0.0, 0.0));
    }

    #[test]
    fn what_is_stolen_is_the_eighth_number() {
        assert_eq!(stolen_ticks("cpu  1 2 3 4 5 6 7 88 9 10\ncpu0 1\n"), Some(88));
        assert_eq!(stolen_ticks("cpu  1 2\n"), None);
    }

    #[test]
    fn this_process_has_used_some_time_and_memory() {
        let own = i32::try_from(std::process::id()).expect("a PID fits");
        assert!(cpu_time(own).expect("a clock") > Duration::ZERO);
        assert!(Memory::of(own).expect("sizes").resident > 0.0);
        assert!(Stat::of(own).is_some());
    }
}
