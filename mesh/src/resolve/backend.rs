//! Whether a backendRef leads anywhere.

use super::View;
use super::bind::{Port, is_external_name, tcp_ports};
use crate::route::{AppProtocol, BackendKey, BackendRef, RouteKind};

/// Why a backendRef leads nowhere.
pub(super) struct Unresolved {
    /// The reason of the condition `ResolvedRefs`.
    pub(super) reason: &'static str,
    /// What is wrong.
    pub(super) message: String,
}

/// The Service port that a backendRef of a route means. No ReferenceGrant is asked for: mesh routes may name Services
/// of other namespaces.
pub(super) fn resolve(
    kind: RouteKind,
    backend: &BackendRef,
    view: &dyn View,
) -> Result<BackendKey, Unresolved> {
    if !backend.is_service() {
        let (wanted, group) = (&backend.kind, &backend.group);
        return Err(unresolved("InvalidKind", format!("backend {wanted} of group {group:?} is no Service")));
    }
    let name = &backend.service;
    let not_found = |what: String| unresolved("BackendNotFound", what);
    let service = view.service(name).ok_or_else(|| not_found(format!("Service {name} does not exist")))?;
    if is_external_name(service) {
        return Err(unresolved("InvalidKind", format!("Service {name} is of type ExternalName")));
    }
    let number = backend.port.ok_or_else(|| not_found(format!("Service {name} is named without a port")))?;
    let port = tcp_ports(service).find(|port| port.number == number);
    let port = port.ok_or_else(|| not_found(format!("Service {name} has no TCP port {number}")))?;
    if !speaks(kind, &port) {
        let (protocol, kind) = (port.app_protocol.unwrap_or_default(), kind.as_str());
        let message =
            format!("port {number} of Service {name} is {protocol:?}, to which kind {kind} cannot send");
        return Err(unresolved("UnsupportedProtocol", message));
    }
    Ok(BackendKey { service: name.clone(), port: number })
}

fn unresolved(reason: &'static str, message: String) -> Unresolved {
    Unresolved { reason, message }
}

/// "If a Route is not able to send traffic to the backend using the specified protocol then the backend is considered
/// invalid" (HTTPBackendRef). TLS towards a backend needs policies that are not built yet.
fn speaks(kind: RouteKind, port: &Port<'_>) -> bool {
    if port.app_protocol.is_none() {
        return true;
    }
    match (kind, port.declared()) {
        (RouteKind::Grpc, declared) => declared == Some(AppProtocol::Http2),
        (RouteKind::Http, declared) => {
            matches!(declared, Some(AppProtocol::Http1 | AppProtocol::Http2 | AppProtocol::WebSocket))
        }
        (RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp, _) => true,
    }
}
