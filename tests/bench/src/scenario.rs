//! What is measured, and the load that it takes.

use clap::ValueEnum;

use crate::subject::Subject;

/// The server's port for HTTP, in both versions.
pub const HTTP: u16 = 8080;
/// The server's port that answers every 100 bytes with as many.
pub const ECHO: u16 = 9000;
/// The server's port that counts what it is sent.
pub const BULK: u16 = 9001;

/// A thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// HTTP/1.1 keep-alive, 64 connections, answers of 1 KiB
    Http1,
    /// HTTP/2, 8 connections of 16 streams
    Http2,
    /// HTTP/1.1 at 1,500 requests a second, whatever the answers do
    Open,
    /// TCP as fast as it goes, one stream
    Bulk1,
    /// TCP as fast as it goes, eight streams
    Bulk8,
    /// TCP connections that live for one exchange of 100 bytes
    Short,
    /// Full mTLS handshakes with the inbound proxy
    Handshake,
    /// From the proxy's exec to the first answered request
    Start,
    /// Resident memory, idle and with 1,000 idle connections
    Memory,
    /// System calls for each HTTP/1.1 request
    Syscalls,
    /// The program's size
    Binary,
}

impl Scenario {
    /// All of them, in the order of a run: what starts proxies anew comes after the traffic.
    pub const ALL: [Self; 11] = [
        Self::Http1,
        Self::Http2,
        Self::Open,
        Self::Bulk1,
        Self::Bulk8,
        Self::Short,
        Self::Handshake,
        Self::Start,
        Self::Memory,
        Self::Syscalls,
        Self::Binary,
    ];

    /// Its name: the command line's, and the beginning of its figures'.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Open => "open",
            Self::Bulk1 => "bulk1",
            Self::Bulk8 => "bulk8",
            Self::Short => "short",
            Self::Handshake => "handshake",
            Self::Start => "start",
            Self::Memory => "memory",
            Self::Syscalls => "syscalls",
            Self::Binary => "binary",
        }
    }

    /// Whether it is the same again and again, so that its rounds are interleaved with those of its like.
    pub const fn is_traffic(self) -> bool {
        !matches!(self, Self::Start | Self::Memory | Self::Syscalls | Self::Binary)
    }

    /// Whether there is something to measure: without a proxy there is no proxy's memory, without TLS no handshake.
    pub const fn concerns(self, subject: Subject) -> bool {
        match self {
            Self::Handshake => subject.encrypts(),
            Self::Start | Self::Memory | Self::Syscalls | Self::Binary => subject.sidecar().is_some(),
            Self::Http1 | Self::Http2 | Self::Open | Self::Bulk1 | Self::Bulk8 | Self::Short => true,
        }
    }

    /// The client's load, if it is the client that makes it.
    pub fn load(self) -> Option<Load> {
        let load = |program, port, options| Some(Load { program, port, options });
        match self {
            Self::Http1 | Self::Syscalls => load("http1", HTTP, &["--connections", "64"]),
            Self::Http2 => load("http2", HTTP, &["--connections", "8", "--streams", "16"]),
            Self::Open => load("open", HTTP, &["--rate", "1500", "--connections", "32"]),
            Self::Bulk1 => load("bulk", BULK, &["--streams", "1"]),
            Self::Bulk8 => load("bulk", BULK, &["--streams", "8"]),
            Self::Short => load("short", ECHO, &["--concurrency", "8"]),
            Self::Handshake | Self::Start | Self::Memory | Self::Binary => None,
        }
    }
}

/// What `load` is to do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Its command.
    pub program: &'static str,
    /// The server's port.
    pub port: u16,
    /// How much of it.
    pub options: &'static [&'static str],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_called_what_the_command_line_calls_it() {
        assert_eq!(Scenario::ALL.len(), Scenario::value_variants().len());
        for scenario in Scenario::ALL {
            assert_eq!(Scenario::from_str(scenario.name(), false), Ok(scenario));
        }
    }

    #[test]
    fn nothing_is_measured_of_what_is_not_there() {
        assert!(!Scenario::Memory.concerns(Subject::Direct));
        assert!(!Scenario::Handshake.concerns(Subject::Floor));
        assert!(Scenario::Http1.concerns(Subject::Direct));
    }
}
