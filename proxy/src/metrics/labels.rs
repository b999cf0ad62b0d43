//! What series are told apart by: names from the configuration, proven identities and small enums, never what a client
//! could make up. All of it is shared with the configuration, so that labels are put together without an allocation.

use std::{fmt::Error, sync::Arc};

use hyper::Method;
use mesh::{
    identity::Identity,
    route::{BackendKey, HttpRule, RouteRef},
};
use prometheus_client::encoding::{
    EncodeLabel as _, EncodeLabelSet, EncodeLabelValue, LabelSetEncoder, LabelValueEncoder,
};

use super::table;

/// Which way a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From this pod.
    Outbound,
    /// To this pod.
    Inbound,
}

/// Whether the other side is in the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Security {
    /// Mesh TLS, both identities proven.
    Mtls,
    /// Plaintext, or the application's own TLS.
    #[default]
    None,
}

/// The rule that traffic went by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Its route.
    pub route: RouteRef,
    /// Its place in the route.
    pub index: usize,
    /// Its name, if it has one.
    pub name: Option<Arc<str>>,
}

/// Where traffic went, and by what rule. What is not known or does not apply is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Way {
    /// The Service and port that the client dialled.
    pub parent: Option<BackendKey>,
    /// The rule that matched.
    pub rule: Option<Rule>,
    /// The Service and port that were chosen.
    pub backend: Option<BackendKey>,
    /// Who the other pod is: the caller as it proved, the callee as it must.
    pub peer: Option<Arc<str>>,
    /// Security towards the other pod.
    pub security: Security,
    /// The port of this pod that accepted.
    pub server_port: Option<u16>,
}

/// What a request was, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Exchange {
    /// HTTP.
    Http {
        /// One of the known methods, or `_OTHER`.
        method: &'static str,
        /// Of the response, if there was one.
        status: Option<u16>,
    },
    /// A call of gRPC.
    Grpc {
        /// The name of its status, if there was one.
        status: Option<&'static str>,
    },
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failed {
    /// Nothing.
    No,
    /// The response says so itself, by its status.
    Status,
    /// For this reason there was no response of the server's, or not all of it.
    Reason(&'static str),
}

/// Labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestLabels {
    /// Which way.
    pub direction: Direction,
    /// What it was and what came of it.
    pub exchange: Exchange,
    /// What went wrong.
    pub failed: Failed,
    /// Where it went.
    pub way: Way,
    /// Stands for all that there was no room for.
    pub overflow: bool,
}

/// Labels of a connection that is carried as bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TcpLabels {
    /// Which way.
    pub direction: Direction,
    /// Where it went.
    pub way: Way,
    /// Stands for all that there was no room for.
    pub overflow: bool,
}

/// A request's method as a label: the known ones, as OpenTelemetry lists them, and `_OTHER`.
pub fn known_method(method: &Method) -> &'static str {
    const KNOWN: [&str; 10] =
        ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS", "CONNECT", "TRACE", "QUERY"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

impl Direction {
    /// As a label and in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl Security {
    /// As a label and in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mtls => "mutual_tls",
            Self::None => "none",
        }
    }
}

impl Rule {
    /// The rule of an HTTPRoute or GRPCRoute.
    pub fn of(rule: &HttpRule) -> Self {
        Self { route: rule.route.clone(), index: rule.rule, name: rule.rule_name.clone() }
    }
}

impl Way {
    /// To or from a pod that is known by its identity, or by none.
    pub fn with_peer(peer: Option<&Identity>) -> Self {
        let mut way = Self::default();
        way.set_peer(peer);
        way
    }

    /// Notes the other pod: one with an identity is spoken to in mesh TLS.
    pub fn set_peer(&mut self, peer: Option<&Identity>) {
        self.peer = peer.map(Identity::to_shared);
        self.security = if peer.is_some() { Security::Mtls } else { Security::None };
    }
}

impl table::Labels for RequestLabels {
    fn overflow(&self) -> Self {
        let exchange = match self.exchange {
            Exchange::Http { .. } => Exchange::Http { method: "", status: None },
            Exchange::Grpc { .. } => Exchange::Grpc { status: None },
        };
        Self {
            direction: self.direction,
            exchange,
            failed: Failed::No,
            way: Way { security: self.way.security, ..Way::default() },
            overflow: true,
        }
    }
}

impl table::Labels for TcpLabels {
    fn overflow(&self) -> Self {
        let way = Way { security: self.way.security, ..Way::default() };
        Self { direction: self.direction, way, overflow: true }
    }
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, to: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        match self.exchange {
            Exchange::Http { method, status } => {
                text(to, "http_request_method", method)?;
                number(to, "http_response_status_code", status)?;
            }
            Exchange::Grpc { status } => {
                text(to, "rpc_system_name", "grpc")?;
                text(to, "rpc_status_code", status.unwrap_or_default())?;
            }
        }
        match (self.failed, self.exchange) {
            (Failed::No, _) => {}
            (Failed::Reason(reason), _) => text(to, "error_type", reason)?,
            (Failed::Status, Exchange::Http { status, .. }) => number(to, "error_type", status)?,
            (Failed::Status, Exchange::Grpc { status }) => {
                text(to, "error_type", status.unwrap_or_default())?;
            }
        }
        self.way.encode(to)?;
        overflow(to, self.overflow)
    }
}

impl EncodeLabelSet for TcpLabels {
    fn encode(&self, to: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        text(to, "direction", self.direction.as_str())?;
        self.way.encode(to)?;
        overflow(to, self.overflow)
    }
}

impl EncodeLabelSet for Way {
    fn encode(&self, to: &mut LabelSetEncoder<'_>) -> Result<(), Error> {
        service(to, ["parent_namespace", "parent_name", "parent_port"], self.parent.as_ref())?;
        if let Some(Rule { route, index, name }) = &self.rule {
            text(to, "route_kind", route.kind.as_str())?;
            text(to, "route_namespace", &route.name.namespace)?;
            text(to, "route_name", &route.name.name)?;
            match name {
                Some(name) => text(to, "route_rule", name)?,
                None => number(to, "route_rule", Some(*index))?,
            }
        }
        service(to, ["backend_namespace", "backend_name", "backend_port"], self.backend.as_ref())?;
        number(to, "server_port", self.server_port)?;
        text(to, "peer_identity", self.peer.as_deref().unwrap_or_default())?;
        text(to, "security", self.security.as_str())
    }
}

fn service(to: &mut LabelSetEncoder<'_>, names: [&str; 3], key: Option<&BackendKey>) -> Result<(), Error> {
    let (Some(key), [namespace, name, port]) = (key, names) else { return Ok(()) };
    text(to, namespace, &key.service.namespace)?;
    text(to, name, &key.service.name)?;
    number(to, port, Some(key.port))
}

/// An empty label is none, to Prometheus: it is left out.
fn text(to: &mut LabelSetEncoder<'_>, name: &str, value: &str) -> Result<(), Error> {
    if value.is_empty() { Ok(()) } else { (name, value).encode(to.encode_label()) }
}

fn number(
    to: &mut LabelSetEncoder<'_>,
    name: &str,
    value: Option<impl EncodeLabelValue>,
) -> Result<(), Error> {
    value.map_or(Ok(()), |value| (name, value).encode(to.encode_label()))
}

/// OpenTelemetry's own mark for it.
fn overflow(to: &mut LabelSetEncoder<'_>, is: bool) -> Result<(), Error> {
    text(to, "otel_metric_overflow", if is { "true" } else { "" })
}

impl EncodeLabelValue for Direction {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), Error> {
        self.as_str().encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_nobody_knows_is_not_told_apart() {
        assert_eq!(known_method(&Method::PATCH), "PATCH");
        let other = Method::from_bytes(b"get").expect("a token");
        assert_eq!(known_method(&other), "_OTHER", "methods are case-sensitive");
    }
}
