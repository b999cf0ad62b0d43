//! The machine that was measured on.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

/// What numbers depend on beside the programs.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Cores that this program may use.
    pub cores: usize,
    /// The CPU's name.
    pub cpu: String,
    /// The kernel's release.
    pub kernel: String,
    /// Memory, MiB.
    pub memory: u64,
    /// What governs TCP between the pods.
    pub congestion_control: &'static str,
}

impl Machine {
    /// Reads it; `congestion_control` is the pods' own.
    pub fn read(congestion_control: &'static str) -> Result<Self> {
        let read = |file: &str| fs::read_to_string(file).with_context(|| format!("cannot read {file}"));
        let memory = field(&read("/proc/meminfo")?, "MemTotal").and_then(|text| kib(&text));
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            cpu: field(&read("/proc/cpuinfo")?, "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            memory: memory.context("/proc/meminfo names no memory")? / 1024,
            congestion_control,
        })
    }

    /// In a sentence.
    pub fn describe(&self) -> String {
        let Self { cores, cpu, kernel, memory, congestion_control } = self;
        format!("{cores} cores of {cpu}, {memory} MiB, Linux {kernel}, TCP {congestion_control}")
    }
}

/// What follows `name:` in a line of one of the kernel's lists.
pub fn field(text: &str, name: &str) -> Option<String> {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn kib(text: &str) -> Option<u64> {
    text.strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_names() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Loom 2000: fast\nmodel name\t: other\n";
        assert_eq!(field(cpuinfo, "model name").as_deref(), Some("Loom 2000: fast"));
        assert_eq!(field(cpuinfo, "model"), None);
        assert_eq!(field("MemTotal:       2048 kB\n", "MemTotal").and_then(|text| kib(&text)), Some(2048));
    }
}
