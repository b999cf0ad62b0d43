//! Which routes govern which ports (GEP-1294).

use super::View;
use crate::names::ServiceName;
use crate::route::{AppProtocol, ParentRef, Route, RouteKind};
use k8s_openapi::api::core::v1::{Service, ServicePort};

/// A TCP port of a Service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port<'s> {
    pub(super) number: u16,
    name: &'s str,
    pub(super) app_protocol: Option<&'s str>,
}

impl Port<'_> {
    /// What the Service says is spoken here, if the mesh knows it.
    pub(super) fn declared(&self) -> Option<AppProtocol> {
        self.app_protocol.and_then(AppProtocol::parse)
    }

    /// Whether a parentRef means this port: all if it names none.
    pub(super) fn is_meant_by(&self, parent: &ParentRef) -> bool {
        let number = parent.port.is_none_or(|port| port == i32::from(self.number));
        number && parent.section_name.as_deref().is_none_or(|name| name == self.name)
    }
}

/// The TCP ports of a Service; the mesh does not capture UDP and SCTP.
pub(super) fn tcp_ports(service: &Service) -> impl Iterator<Item = Port<'_>> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
    let tcp = |port: &&ServicePort| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    ports.filter(tcp).filter_map(|port| {
        Some(Port {
            number: u16::try_from(port.port).ok().filter(|number| *number > 0)?,
            name: port.name.as_deref().unwrap_or_default(),
            app_protocol: port.app_protocol.as_deref(),
        })
    })
}

/// Whether routes can be bound to a Service, or why not: "the traffic \[is\] addressed to the Service's clusterIP".
pub(super) fn check_parent(service: &Service) -> Result<(), &'static str> {
    if is_external_name(service) {
        return Err("it is of type ExternalName, and no traffic can be captured on the way to it");
    }
    let headless = service.spec.as_ref().is_some_and(|spec| spec.cluster_ip.as_deref() == Some("None"));
    if headless { Err("it is headless: its clients connect to pods, not to the Service") } else { Ok(()) }
}

/// Whether a Service is but a name for another host.
pub(super) fn is_external_name(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("ExternalName"))
}

/// A TCP port of a Service, and who governs it.
pub(super) struct GovernedPort<'a> {
    pub(super) port: Port<'a>,
    /// The routes of the kind that governs, oldest first, and whether each has a part in the port's table: as many as keep
    /// within the bound on expressions.
    pub(super) governors: Vec<(&'a Route, bool)>,
    /// Whether one of them names the port.
    pub(super) named: bool,
}

/// The ports of a Service as they are for clients of a namespace. A namespace's own ("consumer") routes replace those of
/// the Service's namespace ("producer" routes) altogether; other namespaces' never count.
pub(super) fn ports_for<'a>(
    service: &'a Service,
    name: &ServiceName,
    client: &str,
    view: &'a dyn View,
) -> Vec<GovernedPort<'a>> {
    if check_parent(service).is_err() {
        return governed_ports(service, name, Vec::new()).collect();
    }
    let of = |namespace: &str| -> Vec<GovernedPort<'a>> {
        let routes = view.routes_bound_to(name).filter(|route| &*route.name().namespace == namespace);
        governed_ports(service, name, routes.collect()).collect()
    };
    let consumer = if client == &*name.namespace { Vec::new() } else { of(client) };
    // A route that could govern no port replaces nothing.
    let replaces = consumer.iter().any(|at| !at.governors.is_empty());
    if replaces { consumer } else { of(&name.namespace) }
}

/// The ports of a Service as these routes, all of one namespace, govern them.
pub(super) fn governed_ports<'a>(
    service: &'a Service,
    name: &ServiceName,
    mut routes: Vec<&'a Route>,
) -> impl Iterator<Item = GovernedPort<'a>> {
    routes.sort_by_key(|route| (route.created().unwrap_or(i64::MAX), route.name()));
    let bound: Vec<_> = routes.into_iter().map(|route| Bound::new(route, name)).collect();
    tcp_ports(service).map(move |port| governed(port, &bound))
}

/// A route with those of its parentRefs that name one Service: looked for once, and not again for each port.
struct Bound<'a> {
    route: &'a Route,
    parents: Vec<&'a ParentRef>,
}

/// How strongly a route claims a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Claim {
    /// By name, not only as one of all.
    named: bool,
}

impl<'a> Bound<'a> {
    fn new(route: &'a Route, service: &ServiceName) -> Self {
        Self { route, parents: route.parents_of(service).collect() }
    }

    /// The claim of the route on a port, if it has one.
    fn claim(&self, port: &Port<'_>) -> Option<Claim> {
        let parents = self.parents.iter().filter(|parent| port.is_meant_by(parent));
        parents.map(|parent| Claim { named: parent.names_port() }).max_by_key(|claim| claim.named)
    }
}

/// The port, and of the routes, which come by age, those of the kind that governs it.
///
/// A route without a port governs only traffic of its own protocol: it has no part in a port whose `appProtocol`, or whose
/// routes that name it, say that something else is spoken there. Of the rest, the first kind wins:
/// "GRPCRoute, HTTPRoute, TLSRoute, TCPRoute".
fn governed<'a>(port: Port<'a>, routes: &[Bound<'a>]) -> GovernedPort<'a> {
    let mut claims = claims(routes, &port);
    let named = claims.iter().filter(|(_, claim)| claim.named).map(|(route, _)| route.kind()).min();
    claims.retain(|(route, claim)| claim.named || named.is_none_or(|kind| same_protocol(kind, route.kind())));
    let winner = claims.iter().map(|(route, _)| route.kind()).min();
    claims.retain(|(route, _)| Some(route.kind()) == winner);
    let named = claims.iter().any(|(_, claim)| claim.named);
    GovernedPort { port, governors: within_bounds(claims.into_iter().map(|(route, _)| route)), named }
}

/// The most regular expressions of all routes that govern a port: each may be tried for every request.
pub(super) const MAX_TABLE_EXPRESSIONS: usize = 512;

/// The routes, oldest first, and whether each keeps within the bound on expressions, together with those before it.
fn within_bounds<'a>(governors: impl Iterator<Item = &'a Route>) -> Vec<(&'a Route, bool)> {
    let mut total = 0;
    let admit = |route: &'a Route| {
        let fits = total + route.expressions() <= MAX_TABLE_EXPRESSIONS;
        total += if fits { route.expressions() } else { 0 };
        (route, fits)
    };
    governors.map(admit).collect()
}

fn claims<'a>(routes: &[Bound<'a>], port: &Port<'_>) -> Vec<(&'a Route, Claim)> {
    let declared = port.declared();
    let fitting = routes.iter().filter(|bound| fits(bound.route.kind(), declared));
    fitting.filter_map(|bound| Some((bound.route, bound.claim(port)?))).collect()
}

/// Whether a kind can govern a port on which the Service declares this. Bytes are bytes: a TCPRoute always can. UDPRoutes
/// are apart.
pub(super) fn fits(kind: RouteKind, declared: Option<AppProtocol>) -> bool {
    let Some(declared) = declared else { return kind != RouteKind::Udp };
    match kind {
        RouteKind::Grpc => declared == AppProtocol::Http2,
        RouteKind::Http => declared.is_http(),
        RouteKind::Tls => declared == AppProtocol::Tls,
        RouteKind::Tcp => true,
        RouteKind::Udp => false,
    }
}

fn same_protocol(one: RouteKind, other: RouteKind) -> bool {
    let http = |kind| matches!(kind, RouteKind::Grpc | RouteKind::Http);
    one == other || (http(one) && http(other))
}
