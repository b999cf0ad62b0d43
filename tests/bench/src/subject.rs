//! Who is measured: a pair of sidecars, or none.

use clap::ValueEnum;
use serde::Serialize;

/// A way from a client to its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// Nothing between them.
    Direct,
    /// A program that copies bytes: the kernel's price for two sidecars.
    Floor,
    /// Envoy, set up as Istio does.
    Envoy,
    /// Heddle's proxies.
    Heddle,
}

/// The end of the way at which a sidecar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Outbound,
    /// The server's.
    Inbound,
}

impl Subject {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Direct, Self::Floor, Self::Envoy, Self::Heddle];

    /// Its name, which is its namespace's, too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Floor => "floor",
            Self::Envoy => "envoy",
            Self::Heddle => "heddle",
        }
    }

    /// The container that carries its pods' traffic, if there is one.
    pub const fn sidecar(self) -> Option<&'static str> {
        match self {
            Self::Direct => None,
            Self::Floor | Self::Envoy => Some(self.name()),
            Self::Heddle => Some(mesh::contract::PROXY_CONTAINER),
        }
    }

    /// Whether what is between its pods must not be readable.
    pub const fn encrypts(self) -> bool {
        matches!(self, Self::Envoy | Self::Heddle)
    }

    /// The cluster address of its Service, of those that the lab never hands out itself.
    pub const fn service_ip(self) -> &'static str {
        match self {
            Self::Direct => "10.96.0.11",
            Self::Floor => "10.96.0.12",
            Self::Envoy => "10.96.0.13",
            Self::Heddle => "10.96.0.14",
        }
    }
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Outbound, Self::Inbound];

    /// The pod that it is in.
    pub const fn pod(self) -> &'static str {
        match self {
            Self::Outbound => "client",
            Self::Inbound => "server",
        }
    }
}
