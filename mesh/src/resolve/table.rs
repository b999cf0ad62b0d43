//! From objects to the table of a Service.

use super::bind::{GovernedPort, ports_for};
use super::{View, backend, service_name};
use crate::names::ServiceName;
use crate::route::{
    Action, BackendIx, BackendKey, BackendRef, Failure, Governing, HttpTableBuilder, PortTable, Route,
    RouteKind, Rule, ServiceTable, Split, TcpTable, WeightedBackend,
};
use k8s_openapi::api::core::v1::Service;
use std::collections::HashMap;

/// The table of a Service for clients of a namespace.
pub fn service_table(service: &Service, client_namespace: &str, view: &dyn View) -> ServiceTable {
    let name = service_name(service);
    let governed = ports_for(service, &name, client_namespace, view);
    let mut builder = Builder { service: &name, view, backends: Vec::new(), indexes: HashMap::new() };
    let ports = governed.iter().map(|at| (at.port.number, builder.port(at))).collect();
    let backends = builder.backends;
    ServiceTable { service: name, ports, backends }
}

struct Builder<'v> {
    service: &'v ServiceName,
    view: &'v dyn View,
    backends: Vec<BackendKey>,
    indexes: HashMap<BackendKey, BackendIx>,
}

impl Builder<'_> {
    fn port(&mut self, at: &GovernedPort<'_>) -> PortTable {
        let default = self.index(BackendKey { service: self.service.clone(), port: at.port.number });
        PortTable { declared: at.port.declared(), governing: self.governing(at), default }
    }

    fn index(&mut self, key: BackendKey) -> BackendIx {
        let next = self.backends.len();
        *self.indexes.entry(key).or_insert_with_key(|key| {
            self.backends.push(key.clone());
            next
        })
    }

    fn governing(&mut self, at: &GovernedPort<'_>) -> Governing {
        let Some((oldest, _)) = at.governors.first() else { return Governing::Default };
        match oldest.kind() {
            RouteKind::Grpc | RouteKind::Http => self.http(oldest.kind(), at),
            RouteKind::Tcp => Governing::Tcp { table: self.tcp(oldest) },
            RouteKind::Tls | RouteKind::Udp => refused(oldest),
        }
    }

    fn http(&mut self, kind: RouteKind, at: &GovernedPort<'_>) -> Governing {
        let mut table = HttpTableBuilder::new(kind);
        for (route, fits) in &at.governors {
            match *fits {
                true => table.route(route, |rule| self.action(kind, rule)),
                false => table.without(route),
            }
        }
        Governing::Http { table: table.build(), port_named: at.named }
    }

    fn action(&mut self, kind: RouteKind, rule: &Rule) -> Action {
        match &rule.redirect {
            Some(redirect) => Action::Redirect(redirect.clone()),
            None => self.split(kind, &rule.backends).map_or_else(Action::Fail, Action::Forward),
        }
    }

    /// TCPRoutes do not merge: the oldest alone governs.
    fn tcp(&mut self, route: &Route) -> TcpTable {
        let split = match route.rules().first() {
            _ if !route.refusals.is_empty() => Err(Failure::RouteRefused),
            Some(rule) => self.split(RouteKind::Tcp, &rule.backends),
            None => Err(Failure::NoValidBackend),
        };
        TcpTable::new(route.reference(), split)
    }

    /// "If all entries in BackendRefs are invalid \[...\] all traffic which matches this rule MUST receive a 500"; the
    /// share of one invalid entry likewise (HTTPRouteRule).
    fn split(&mut self, kind: RouteKind, backends: &[BackendRef]) -> Result<Split, Failure> {
        let shares = backends.iter().filter(|backend| backend.weight > 0);
        let shares = shares.map(|backend| WeightedBackend {
            weight: backend.weight,
            target: self.target(kind, backend),
            filters: backend.filters.clone(),
        });
        Split::new(shares.collect()).ok_or(Failure::NoValidBackend)
    }

    fn target(&mut self, kind: RouteKind, backend: &BackendRef) -> Result<BackendIx, Failure> {
        match backend::resolve(kind, backend, self.view) {
            Ok(key) => Ok(self.index(key)),
            Err(_) => Err(Failure::NoValidBackend),
        }
    }
}

fn refused(route: &Route) -> Governing {
    let message = route.refusals.first().map(|refusal| refusal.message.clone());
    Governing::Refused {
        kind: route.kind(),
        route: route.name().clone(),
        message: message
            .unwrap_or_else(|| format!("the mesh does not route by {} yet", route.kind().as_str())),
    }
}
