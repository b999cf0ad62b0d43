//! The proxy's own process and its control plane, under the names that Prometheus' own libraries use.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        gauge::{ConstGauge, Gauge},
    },
    registry::{Registry, Unit},
};

/// What is known of the control plane. Cheap to clone: whoever learns something has one.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// 1 while a connection to it is open.
    pub connected: Gauge,
    /// How many objects are watched.
    pub objects: Gauge,
    /// Counts the tables that have been worked out and published.
    pub tables: Counter,
    /// When the last of them was, in seconds since 1970.
    pub changed: Gauge,
}

impl Control {
    /// Notes a new table.
    pub fn published(&self) {
        self.tables.inc();
        self.changed.set(seconds_since_1970(SystemTime::now()));
    }

    /// Names its metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "heddle_control_plane_connected",
            "Whether the connection for discovery is open",
            self.connected.clone(),
        );
        registry.register("heddle_watched_objects", "Objects that discovery holds", self.objects.clone());
        registry.register(
            "heddle_config_generation",
            "Routing tables published since the start",
            self.tables.clone(),
        );
        registry.register(
            "heddle_config_last_change_timestamp_seconds",
            "When the last routing table was published, in seconds since 1970",
            self.changed.clone(),
        );
    }
}

/// Seconds since 1970, as gauges take them.
pub fn seconds_since_1970(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Memory, time and files, read at each scrape. What the kernel does not tell is left out.
#[derive(Debug)]
pub struct Process {
    began: SystemTime,
}

impl Process {
    /// Of a process that begins now.
    pub fn new() -> Self {
        Self { began: SystemTime::now() }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory", resident()),
            ("process_open_fds", "Open files", open_files()),
            ("process_max_fds", "The most files that may be open", max_files()),
            (
                "process_start_time_seconds",
                "When the process began, in seconds since 1970",
                Some(seconds_since_1970(self.began)),
            ),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(metric)?;
            }
        }
        let Some(seconds) = cpu_seconds() else { return Ok(()) };
        let unit = Unit::Seconds;
        let metric = encoder.encode_descriptor(
            "process_cpu",
            "Time on a processor",
            Some(&unit),
            MetricType::Counter,
        )?;
        ConstCounter::new(seconds).encode(metric)
    }
}

fn resident() -> Option<i64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?;
    Some(kib.parse::<i64>().ok()? * 1024)
}

fn open_files() -> Option<i64> {
    // The directory that is read is open meanwhile.
    i64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok().map(|count| count - 1)
}

fn max_files() -> Option<i64> {
    i64::try_from(getrlimit(Resource::RLIMIT_NOFILE).ok()?.0).ok()
}

fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let times = [usage.user_time(), usage.system_time()];
    #[expect(clippy::cast_precision_loss, reason = "exact for 285 years of microseconds")]
    let seconds = |time: &nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Some(times.iter().map(seconds).sum())
}
