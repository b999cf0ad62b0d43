//! Processes are known by PID *and* start time: a PID alone may have been given to somebody else since.
//! Nothing here looks at a process's name.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process that the lab started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The process ID.
    pub pid: i32,
    /// Clock ticks after boot at which it started (field 22 of `/proc/PID/stat`, proc(5)).
    pub start: u64,
}

impl Recorded {
    /// What `/proc` says about a process now, if it lives.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything, so count from the last one.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        let start = fields.nth(18)?.parse().ok()?;
        (state != "Z").then_some(Self { pid, start })
    }

    /// Reads a record from a file.
    pub fn read(path: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Whether this very process still lives.
    pub fn alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Sends a signal, unless the process is gone.
    pub fn signal(self, signal: Signal) -> bool {
        self.alive() && kill(Pid::from_raw(self.pid), signal).is_ok()
    }
}

/// Which kind of namespace to compare.
#[derive(Clone, Copy)]
pub enum Ns {
    /// The network namespace.
    Net,
    /// The mount namespace.
    Mount,
}

impl Ns {
    fn of(self, pid: i32) -> String {
        match self {
            Self::Net => format!("/proc/{pid}/ns/net"),
            Self::Mount => format!("/proc/{pid}/ns/mnt"),
        }
    }
}

/// Identifies a namespace: device and inode of its file.
pub type NsId = (u64, u64);

/// The identity of the namespace behind a file, such as `/run/netns/NAME` or `/proc/PID/ns/mnt`.
pub fn ns_id(path: impl AsRef<Path>) -> Option<NsId> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// The mount namespace of a process.
pub fn mount_ns(pid: i32) -> Option<NsId> {
    ns_id(Ns::Mount.of(pid))
}

/// A namespace held open. An inode is given to the next namespace once its own is gone; one that is held stays.
pub struct Held {
    kind: Ns,
    id: NsId,
    _file: File,
}

impl Held {
    /// Holds the namespace behind a file, such as `/run/netns/NAME`.
    pub fn open(kind: Ns, path: impl AsRef<Path>) -> Option<Self> {
        let file = File::open(path).ok()?;
        let meta = file.metadata().ok()?;
        Some(Self { kind, id: (meta.dev(), meta.ino()), _file: file })
    }

    /// Holds a namespace of a process, which must not have been waited for: its PID would be anybody's.
    pub fn of(kind: Ns, pid: i32) -> Option<Self> {
        Self::open(kind, kind.of(pid))
    }

    /// Its identity, nobody else's while it is held.
    pub fn id(&self) -> NsId {
        self.id
    }

    /// Every process in it, this one left out.
    fn members(&self) -> Vec<Recorded> {
        let own = std::process::id();
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| u32::try_from(*pid) != Ok(own))
            // Recorded before its namespace is looked at: whoever has the PID later has another start time.
            .filter_map(Recorded::of)
            .filter(|process| ns_id(self.kind.of(process.pid)) == Some(self.id))
            .collect()
    }

    /// Kills every process in it, which must be ours alone; returns how many there were.
    /// Repeats because a process may fork while we look; gives up after two seconds.
    pub fn kill_members(&self) -> usize {
        let deadline = Instant::now() + Duration::from_secs(2);
        let mut seen = 0;
        loop {
            let found = self.members();
            if found.is_empty() || Instant::now() > deadline {
                return seen;
            }
            seen = seen.max(found.len());
            for process in found {
                process.signal(Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// The processes that a process has started and not waited for.
pub fn children(parent: i32) -> Vec<Recorded> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| Recorded::of(pid.parse().ok()?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_pid_is_somebody_else() {
        let own = i32::try_from(std::process::id()).expect("a PID fits");
        let me = Recorded::of(own).expect("I live");
        assert!(me.alive());
        assert!(!Recorded { start: me.start + 1, ..me }.alive());
    }

    #[test]
    fn a_namespace_that_cannot_be_opened_is_not_held() {
        assert!(Held::of(Ns::Mount, i32::MAX).is_none());
        let own = i32::try_from(std::process::id()).expect("a PID fits");
        assert_eq!(Held::of(Ns::Mount, own).map(|held| held.id()), mount_ns(own));
    }
}
