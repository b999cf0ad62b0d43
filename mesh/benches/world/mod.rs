//! Services and routes for benches, read from the same JSON as in a cluster.

use k8s_openapi::api::core::v1::Service;
use mesh::names::ServiceName;
use mesh::resolve::{View, service_name};
use mesh::route::{Route, RouteKind};
use serde::Deserialize as _;
use serde_json::{Value, json};
use std::collections::HashMap;

/// The most rules that the Gateway API allows an HTTPRoute.
const RULES_MAX: usize = 16;

/// All objects, found by the Service's name as both programs find them.
#[derive(Default)]
pub struct World {
    services: HashMap<ServiceName, Service>,
    routes: HashMap<ServiceName, Vec<Route>>,
}

impl World {
    /// A Service of namespace `shop` with one port, whose HTTPRoutes together have these rules. Each goes to the Service
    /// itself and to another one, 90 to 10.
    pub fn add(&mut self, name: &str, rules: impl IntoIterator<Item = Value>) -> ServiceName {
        let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80, "appProtocol": "http"}]}});
        let service = Service::deserialize(object).expect("a Service");
        let found = service_name(&service);
        self.services.insert(found.clone(), service);
        let rules: Vec<Value> = rules.into_iter().map(|matched| rule(name, &matched)).collect();
        let routes = rules.chunks(RULES_MAX).enumerate().map(|(ix, rules)| route(name, ix, rules));
        self.routes.insert(found.clone(), routes.collect());
        found
    }
}

fn rule(service: &str, matched: &Value) -> Value {
    let backends =
        json!([{"name": service, "port": 80, "weight": 90}, {"name": "web", "port": 80, "weight": 10}]);
    json!({"matches": [matched], "backendRefs": backends})
}

fn route(service: &str, ix: usize, rules: &[Value]) -> Route {
    let meta = json!({"name": format!("{service}-{ix}"), "namespace": "shop", "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z"});
    let parent = json!({"group": "", "kind": "Service", "name": service, "port": 80});
    let object = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": meta,
        "spec": {"parentRefs": [parent], "rules": rules}});
    let route = Route::from_json(RouteKind::Http, &object).expect("a route");
    assert!(route.refusals.is_empty(), "{:?}", route.refusals);
    route
}

impl View for World {
    fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name)
    }

    fn routes_bound_to<'a>(&'a self, service: &ServiceName) -> Box<dyn Iterator<Item = &'a Route> + 'a> {
        Box::new(self.routes.get(service).into_iter().flatten())
    }
}
