//! A small world of objects for tests, read from the same manifests that users write.

use crate::names::{ObjectName, ServiceName};
use crate::resolve::{View, service_name, service_table};
use crate::route::{HttpTable, RequestHead, Route, RouteKind, ServiceTable};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use k8s_openapi::api::core::v1::Service;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_norway::Value;
use std::collections::BTreeMap;

/// All objects of some manifests.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) services: BTreeMap<ServiceName, Service>,
    pub(crate) routes: Vec<Route>,
}

impl World {
    /// Reads YAML documents. A route without creationTimestamp is younger than all others.
    pub(crate) fn new(yaml: &str) -> Self {
        let mut world = Self::default();
        for document in serde_norway::Deserializer::from_str(yaml) {
            world.add(Value::deserialize(document).unwrap());
        }
        world
    }

    pub(crate) fn add(&mut self, object: Value) {
        match object["kind"].as_str().unwrap() {
            "Service" => {
                let service: Service = read(object);
                self.services.insert(service_name(&service), service);
            }
            "HTTPRoute" => self.routes.push(route(RouteKind::Http, object)),
            "GRPCRoute" => self.routes.push(route(RouteKind::Grpc, object)),
            "TCPRoute" => self.routes.push(route(RouteKind::Tcp, object)),
            "TLSRoute" => self.routes.push(route(RouteKind::Tls, object)),
            "UDPRoute" => self.routes.push(route(RouteKind::Udp, object)),
            other => panic!("{other}"),
        }
    }

    /// The table of a Service for a client of a namespace.
    pub(crate) fn table(&self, service: &str, client: &str) -> ServiceTable {
        let name: ObjectName = service.parse().unwrap();
        service_table(&self.services[&name], client, self)
    }

    /// The route of that name.
    pub(crate) fn route(&self, name: &str) -> &Route {
        self.routes.iter().find(|route| route.name().to_string() == name).unwrap()
    }
}

/// A route as both programs read it.
fn route(kind: RouteKind, object: Value) -> Route {
    Route::from_json(kind, &read(object)).unwrap()
}

impl View for World {
    fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name)
    }

    fn routes_bound_to<'a>(&'a self, service: &ServiceName) -> Box<dyn Iterator<Item = &'a Route> + 'a> {
        let service = service.clone();
        Box::new(self.routes.iter().filter(move |route| route.binds_to(&service)))
    }
}

fn read<T: DeserializeOwned>(object: Value) -> T {
    serde_norway::from_value(object).unwrap()
}

/// A request as people write it: `GET /path?query` and `name: value` pairs.
pub(crate) struct Request {
    pub(crate) method: Method,
    target: String,
    pub(crate) headers: HeaderMap,
}

impl Request {
    pub(crate) fn new(line: &str, headers: &[(&str, &str)]) -> Self {
        let (method, target) = line.split_once(' ').unwrap();
        let pair = |(name, value): &(&str, &str)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
        };
        let mut map = HeaderMap::new();
        for (name, value) in headers.iter().map(pair) {
            map.append(name, value);
        }
        Self { method: method.parse().unwrap(), target: target.to_owned(), headers: map }
    }

    pub(crate) fn head(&self) -> RequestHead<'_> {
        let (path, query) = self.target.split_once('?').map_or((&*self.target, None), |(p, q)| (p, Some(q)));
        RequestHead { method: &self.method, path, query, headers: &self.headers, host: "web", scheme: "http" }
    }
}

/// The name of the rule that a table finds for a request.
pub(crate) fn found(table: &HttpTable, request: &Request) -> Option<String> {
    let rule = table.find(&request.head())?;
    Some(
        rule.rule_name
            .as_deref()
            .map_or_else(|| format!("{}[{}]", rule.route.name, rule.rule), str::to_owned),
    )
}
