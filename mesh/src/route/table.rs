//! The table that a proxy routes a Service's traffic by.

use super::{Action, HttpTable, RouteKind, RouteRef, Split, TcpTable};
use crate::names::{ObjectName, ServiceName};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A backend: a Service and its *service port*, not the target port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey {
    /// The Service.
    pub service: ServiceName,
    /// Its port.
    pub port: u16,
}

impl fmt::Display for BackendKey {
    /// `NAMESPACE/NAME:PORT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// An index into [`ServiceTable::backends`].
pub type BackendIx = usize;

/// All that a proxy must know to route what is sent to one Service.
#[derive(Clone, Debug)]
pub struct ServiceTable {
    /// The Service.
    pub service: ServiceName,
    /// Its TCP ports by number.
    pub ports: BTreeMap<u16, PortTable>,
    /// Every backend that a rule or a default names, without repeats.
    pub backends: Vec<BackendKey>,
}

/// What happens on one port.
#[derive(Clone, Debug)]
pub struct PortTable {
    /// What the Service says is spoken here.
    pub declared: Option<AppProtocol>,
    /// Which routes govern.
    pub governing: Governing,
    /// The Service's own endpoints: the backend where no route governs.
    pub default: BackendIx,
}

impl PortTable {
    /// Every backend that traffic of this port can go to. Where routes for HTTP govern a port that nobody declared to
    /// be HTTP, what turns out to be something else goes to the default.
    pub fn backends(&self) -> BTreeSet<BackendIx> {
        let targets =
            |split: &Split| split.backends().iter().filter_map(|b| b.target.ok()).collect::<Vec<_>>();
        match &self.governing {
            Governing::Default | Governing::Refused { .. } => BTreeSet::from([self.default]),
            Governing::Tcp { table } | Governing::Tls { table } => {
                table.split().into_iter().flat_map(targets).collect()
            }
            Governing::Http { table, port_named } => {
                let splits = table.rules().iter().filter_map(|rule| match &rule.action {
                    Action::Forward(split) => Some(split),
                    Action::Redirect(_) | Action::Fail(_) => None,
                });
                let only_http = *port_named || self.declared.is_some_and(AppProtocol::is_http);
                let default = (!only_http).then_some(self.default);
                splits.flat_map(targets).chain(default).collect()
            }
        }
    }
}

/// What a Service's `appProtocol` says is spoken on a port (KEP-3726, GEP-1911).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// `http`.
    Http1,
    /// `kubernetes.io/h2c` or `grpc`.
    Http2,
    /// `kubernetes.io/ws`: HTTP/1.
    WebSocket,
    /// `https`, `kubernetes.io/wss` or `tls`.
    Tls,
    /// `tcp`.
    Tcp,
}

impl AppProtocol {
    /// Whether it is a version of HTTP, in plain.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http1 | Self::Http2 | Self::WebSocket)
    }

    /// Reads an `appProtocol`; `None` for those that mean nothing to the mesh.
    pub fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "http" => Some(Self::Http1),
            "kubernetes.io/h2c" | "h2c" | "http2" | "grpc" => Some(Self::Http2),
            "kubernetes.io/ws" | "ws" => Some(Self::WebSocket),
            "https" | "kubernetes.io/wss" | "wss" | "tls" => Some(Self::Tls),
            "tcp" => Some(Self::Tcp),
            _ => None,
        }
    }
}

/// Which routes govern a port. Exactly one kind does.
#[derive(Clone, Debug)]
pub enum Governing {
    /// None: everything goes to the Service's own endpoints.
    Default,
    /// HTTPRoutes or GRPCRoutes.
    Http {
        /// Their rules.
        table: HttpTable,
        /// A route names the port: what is spoken there is HTTP, without detection.
        port_named: bool,
    },
    /// A TCPRoute.
    Tcp {
        /// Its rule.
        table: TcpTable,
    },
    /// A TLSRoute, once they are built; `resolve` makes none today.
    Tls {
        /// Its rule.
        table: TcpTable,
    },
    /// A route of a kind that is not built yet. Traffic of its protocol (for TLSRoutes, connections that begin
    /// with a ClientHello) is to be reset; other traffic goes to the default.
    Refused {
        /// The route's kind.
        kind: RouteKind,
        /// The route.
        route: ObjectName,
        /// Why, as in its status.
        message: String,
    },
}

impl Governing {
    /// The routes that govern, for those who show them.
    pub fn routes(&self) -> Vec<RouteRef> {
        match self {
            Self::Default => Vec::new(),
            Self::Http { table, .. } => table.routes().to_vec(),
            Self::Tcp { table } | Self::Tls { table } => vec![table.route().clone()],
            Self::Refused { kind, route, .. } => vec![RouteRef { kind: *kind, name: route.clone() }],
        }
    }

    /// The kind that governs.
    pub fn kind(&self) -> Option<RouteKind> {
        self.routes().first().map(|route| route.kind)
    }
}
