//! One interpretation of Services and routes, for the tables that proxies route by *and* for the status that
//! the control plane writes.

mod status;
mod verdict;

pub use status::status_parents;
pub use verdict::{ParentVerdict, Verdict, verdicts};

use crate::names::ServiceName;
use crate::route::{Route, ServiceTable};
use k8s_openapi::api::core::v1::Service;
use std::collections::BTreeMap;

/// The objects that the viewer sees.
pub trait View {
    /// A Service, if it exists.
    fn service(&self, name: &ServiceName) -> Option<&Service>;
    /// The routes of all namespaces and kinds that name this Service as a parent.
    fn routes_bound_to<'a>(&'a self, service: &ServiceName) -> Box<dyn Iterator<Item = &'a Route> + 'a>;
}

/// The table of a Service for clients of a namespace.
pub fn service_table(service: &Service, client_namespace: &str, view: &dyn View) -> ServiceTable {
    let name = service_name(service);
    let _ = (client_namespace, view.routes_bound_to(&name).count());
    ServiceTable { service: name, ports: BTreeMap::new(), backends: Vec::new() }
}

fn service_name(service: &Service) -> ServiceName {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    ServiceName::new(&text(&service.metadata.namespace), &text(&service.metadata.name))
}
