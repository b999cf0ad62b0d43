//! Who wins the ports of a Service among the routes of one namespace: found out once, and asked for every parentRef of
//! every route. Namespaces never contest with each other.

use super::View;
use super::bind::{GovernedPort, Port, governed_ports};
use crate::names::{ObjectName, ServiceName};
use crate::route::{Route, RouteKind, RouteRef};
use k8s_openapi::api::core::v1::Service;
use std::collections::{HashMap, HashSet};

/// The contest for the ports of a Service among the routes of one namespace.
pub(super) struct Contest<'v> {
    /// Who takes part.
    routes: HashMap<RouteRef, &'v Route>,
    ports: Vec<ContestedPort<'v>>,
}

/// How the contest for one port ended. What is kept does not grow with the routes that won: a Service may have many ports.
pub(super) struct ContestedPort<'v> {
    pub(super) port: Port<'v>,
    /// The oldest of the routes that govern; none if no route claims the port.
    oldest: Option<&'v Route>,
    /// Those that govern and yet have no part in the port's table. All are of the oldest's kind.
    crowded_out: HashSet<&'v ObjectName>,
}

impl<'v> Contest<'v> {
    /// The contests for a Service by the namespace of the routes. The view is asked once for all: namespaces can be as many
    /// as routes.
    pub(super) fn by_namespace(
        service: &'v Service,
        name: &ServiceName,
        view: &'v dyn View,
    ) -> HashMap<&'v str, Self> {
        let mut groups: HashMap<&'v str, Vec<&'v Route>> = HashMap::new();
        for route in view.routes_bound_to(name) {
            groups.entry(&*route.name().namespace).or_default().push(route);
        }
        let contests = groups.into_iter();
        contests.map(|(namespace, routes)| (namespace, Self::among(routes, service, name))).collect()
    }

    /// The contest that a route takes part in, whether the view has it or not; another version of it does not.
    pub(super) fn with(
        route: &'v Route,
        service: &'v Service,
        name: &ServiceName,
        view: &'v dyn View,
    ) -> Self {
        let is_this = |other: &Route| other.kind() == route.kind() && other.name() == route.name();
        let others = view.routes_bound_to(name).filter(|other| !is_this(other));
        let others = others.filter(|other| other.name().namespace == route.name().namespace);
        Self::among(others.chain([route]).collect(), service, name)
    }

    fn among(routes: Vec<&'v Route>, service: &'v Service, name: &ServiceName) -> Self {
        let known = routes.iter().map(|route| (route.reference(), *route)).collect();
        let ports = governed_ports(service, name, routes).map(ContestedPort::new).collect();
        Self { routes: known, ports }
    }

    /// Whether the route takes part, and in this version.
    pub(super) fn has(&self, route: &Route) -> bool {
        self.routes.get(&route.reference()).is_some_and(|known| std::ptr::eq(*known, route))
    }

    /// The TCP ports of the Service.
    pub(super) fn ports(&self) -> &[ContestedPort<'v>] {
        &self.ports
    }
}

impl<'v> ContestedPort<'v> {
    fn new(governed: GovernedPort<'v>) -> Self {
        let oldest = governed.governors.first().map(|(route, _)| *route);
        let crowded_out = governed.governors.into_iter().filter(|(_, fits)| !fits);
        let crowded_out = crowded_out.map(|(route, _)| route.name()).collect();
        Self { port: governed.port, oldest, crowded_out }
    }

    /// The route that governs the port and not this one. Routes of a kind govern together, but for TCPRoutes: of those the
    /// oldest does alone.
    pub(super) fn lost_to(&self, route: &Route) -> Option<&'v Route> {
        let oldest = self.oldest?;
        let is_of_kind = oldest.kind() == route.kind();
        let wins = is_of_kind && (route.kind() != RouteKind::Tcp || oldest.name() == route.name());
        (!wins).then_some(oldest)
    }

    /// Whether the route governs the port and yet has no part in its table.
    pub(super) fn has_crowded_out(&self, route: &Route) -> bool {
        let is_of_kind = self.oldest.is_some_and(|oldest| oldest.kind() == route.kind());
        is_of_kind && self.crowded_out.contains(route.name())
    }
}

#[cfg(test)]
mod tests;
