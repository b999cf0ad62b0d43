//! Every figure that a run gives: its name (which is stable), what it is called, its unit, and what it must reach.

/// A figure's kind.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Its name in the results; it begins with its scenario's.
    pub name: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// Its unit; none if it is a number.
    pub unit: &'static str,
    /// What it is for.
    pub part: Part,
}

/// A figure's part in a report.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    /// Heddle's median is to be at most so many times Envoy's.
    Target(f64),
    /// It says why.
    Detail,
}

impl Part {
    /// The ratio to reach.
    pub const fn target(self) -> Option<f64> {
        match self {
            Self::Target(ratio) => Some(ratio),
            Self::Detail => None,
        }
    }
}

const fn target(name: &'static str, title: &'static str, unit: &'static str, ratio: f64) -> Figure {
    Figure { name, title, unit, part: Part::Target(ratio) }
}

const fn detail(name: &'static str, title: &'static str, unit: &'static str) -> Figure {
    Figure { name, title, unit, part: Part::Detail }
}

/// The median latency at a fixed rate…
pub const OPEN_LATENCY: &str = "open.p50";
/// …and how much of it the sidecars add, which is computed: what each round added to the same round without them.
pub const OPEN_ADDED: &str = "open.added";

/// All of them, in the order of reports.
pub const ALL: [Figure; 46] = [
    target("http1.cpu", "HTTP/1, 64 connections: CPU per request", "µs", 0.30),
    target("http2.cpu", "HTTP/2, 8 × 16 streams: CPU per request", "µs", 0.35),
    target(OPEN_ADDED, "1,500 requests/s: median latency added", "µs", 0.45),
    target("open.cpu", "1,500 requests/s: CPU per request", "µs", 0.55),
    target("bulk1.cpu", "TCP, 1 stream: CPU per GB", "s", 1.0),
    target("bulk8.cpu", "TCP, 8 streams: CPU per GB", "s", 1.0),
    target("short.cpu", "short TCP connections: CPU each", "µs", 0.20),
    target("handshake.cpu", "full mTLS handshake: CPU, inbound", "µs", 0.60),
    target("memory.idle", "idle proxy: resident memory", "MiB", 0.16),
    target("memory.http1.outbound", "idle HTTP/1 connection: memory, outbound", "KiB", 0.35),
    target("memory.tcp.outbound", "idle TCP connection: memory, outbound", "KiB", 0.35),
    target("memory.tcp.inbound", "idle TCP connection: memory, inbound", "KiB", 0.35),
    target("start.first", "first exchange after exec", "ms", 0.5),
    target("binary.size", "program", "MiB", 0.15),
    detail("http1.cpu.outbound", "HTTP/1: CPU per request, outbound", "µs"),
    detail("http1.cpu.inbound", "HTTP/1: CPU per request, inbound", "µs"),
    detail("http1.rate", "HTTP/1: requests", "1/s"),
    detail("http1.p50", "HTTP/1: median latency", "µs"),
    detail("http1.p99", "HTTP/1: 99th percentile of latency", "µs"),
    detail("syscalls.outbound", "HTTP/1: system calls per request, outbound", ""),
    detail("syscalls.inbound", "HTTP/1: system calls per request, inbound", ""),
    detail("http2.cpu.outbound", "HTTP/2: CPU per request, outbound", "µs"),
    detail("http2.cpu.inbound", "HTTP/2: CPU per request, inbound", "µs"),
    detail("http2.rate", "HTTP/2: requests", "1/s"),
    detail("http2.p50", "HTTP/2: median latency", "µs"),
    detail("http2.p99", "HTTP/2: 99th percentile of latency", "µs"),
    detail(OPEN_LATENCY, "1,500 requests/s: median latency", "µs"),
    detail("open.p99", "1,500 requests/s: 99th percentile of latency", "µs"),
    detail("open.rate", "1,500 requests/s: requests", "1/s"),
    detail("open.cpu.outbound", "1,500 requests/s: CPU per request, outbound", "µs"),
    detail("open.cpu.inbound", "1,500 requests/s: CPU per request, inbound", "µs"),
    detail("bulk1.cpu.outbound", "TCP, 1 stream: CPU per GB, outbound", "s"),
    detail("bulk1.cpu.inbound", "TCP, 1 stream: CPU per GB, inbound", "s"),
    detail("bulk1.rate", "TCP, 1 stream", "MB/s"),
    detail("bulk8.cpu.outbound", "TCP, 8 streams: CPU per GB, outbound", "s"),
    detail("bulk8.cpu.inbound", "TCP, 8 streams: CPU per GB, inbound", "s"),
    detail("bulk8.rate", "TCP, 8 streams", "MB/s"),
    detail("short.cpu.outbound", "short TCP connections: CPU each, outbound", "µs"),
    detail("short.cpu.inbound", "short TCP connections: CPU each, inbound", "µs"),
    detail("short.rate", "short TCP connections", "1/s"),
    detail("short.p50", "short TCP connections: median time", "µs"),
    detail("short.p99", "short TCP connections: 99th percentile of time", "µs"),
    detail("handshake.rate", "full mTLS handshakes", "1/s"),
    detail("handshake.p50", "full mTLS handshakes: median time", "µs"),
    // Clients that do nothing hold few connections between the sidecars, or none.
    detail("memory.http1.inbound", "idle HTTP/1 connection of a client: memory, inbound", "KiB"),
    detail("memory.idle.pss", "idle proxy: its share of resident memory", "MiB"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn each_figure_is_named_once_and_belongs_to_a_scenario() {
        for (number, figure) in ALL.iter().enumerate() {
            assert!(ALL[..number].iter().all(|other| other.name != figure.name), "{}", figure.name);
            let scenario = figure.name.split('.').next();
            assert!(Scenario::ALL.iter().any(|known| Some(known.name()) == scenario), "{}", figure.name);
        }
    }
}
