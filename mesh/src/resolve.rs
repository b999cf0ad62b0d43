//! One interpretation of Services and routes, for the tables that proxies route by *and* for the status that
//! the control plane writes: what status promises is what traffic does.

mod backend;
mod bind;
mod contest;
mod status;
mod table;
mod verdict;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

pub use status::status_parents;
pub use table::service_table;
pub use verdict::{Judge, ParentVerdict, Verdict, verdicts};

use crate::names::ServiceName;
use crate::route::{AppProtocol, Route};
use k8s_openapi::api::core::v1::Service;

/// The objects that the viewer sees: a proxy those that its pod uses, the control plane all.
pub trait View {
    /// A Service, if it exists.
    fn service(&self, name: &ServiceName) -> Option<&Service>;
    /// The routes of all namespaces and kinds that name this Service as a parent, each once.
    fn routes_bound_to<'a>(&'a self, service: &ServiceName) -> Box<dyn Iterator<Item = &'a Route> + 'a>;
}

/// What a Service says is spoken on one of its TCP ports, if it says so and the mesh knows it.
pub fn declared_protocol(service: &Service, port: u16) -> Option<AppProtocol> {
    bind::tcp_ports(service).find(|declared| declared.number == port)?.declared()
}

/// The name of a Service object.
pub fn service_name(service: &Service) -> ServiceName {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    ServiceName::new(&text(&service.metadata.namespace), &text(&service.metadata.name))
}
