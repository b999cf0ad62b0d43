//! The objects of the world: a client, a server, Services with and without rules, and others that nobody calls. Pure.

use std::path::Path;

use mesh::contract::INJECT_LABEL;
use serde_json::{Value, json};

use crate::cluster::address;

/// The namespace of client and server.
pub const HOME: &str = "shop";
/// The client's pod.
pub const CLIENT: &str = "client";
/// The Service without rules.
pub const PLAIN: &str = "plain";
/// Few rules, and many.
pub const RULES: [usize; 2] = [10, 1_000];
/// The most rules that one HTTPRoute may have.
const OF_ROUTE: usize = 16;
/// Unused Services in one namespace; the first have that of the client.
const OF_NAMESPACE: usize = 1_000;

/// By what rules tell requests apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matching {
    /// The path: half exact, half prefixes.
    Paths,
    /// A header.
    Headers,
}

impl Matching {
    /// As it is written in names.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Paths => "paths",
            Self::Headers => "headers",
        }
    }
}

/// The Service that has so many rules.
pub fn ruled(matching: Matching, rules: usize) -> String {
    format!("{}-{rules}", matching.as_str())
}

/// Everything that is there from the beginning.
pub fn world(load: &Path) -> Vec<Value> {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HOME, "labels": {INJECT_LABEL: "enabled"}},
    });
    let serve = json!([load, "serve", "--http", "8080"]);
    let ready = json!({"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1});
    let mut objects = vec![namespace, pod(CLIENT, &json!(["sleep", "infinity"]), None)];
    objects.extend([pod("server", &serve, Some(ready)), service(PLAIN)]);
    objects
}

/// The Services with rules, and their routes. A sidecar holds all routes of its namespace, so these come late.
pub fn with_rules() -> Vec<Value> {
    let all = [Matching::Paths, Matching::Headers]
        .into_iter()
        .flat_map(|matching| RULES.map(|rules| (matching, rules)));
    let objects = all.flat_map(|(matching, rules)| {
        [service(&ruled(matching, rules))].into_iter().chain(routes(matching, rules))
    });
    objects.collect()
}

fn pod(name: &str, command: &Value, ready: Option<Value>) -> Value {
    let mut app = json!({"name": "app", "image": "none", "command": command});
    if let Some(ready) = ready {
        app["readinessProbe"] = ready;
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": HOME, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [app]},
    })
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": HOME},
        "spec": {
            "selector": {"app": "server"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http"}],
        },
    })
}

/// The HTTPRoutes of a Service with so many rules, of which the last alone matches a request for `/`.
fn routes(matching: Matching, rules: usize) -> Vec<Value> {
    let name = ruled(matching, rules);
    let matches = (1..rules).map(|number| match matching {
        Matching::Paths if number.is_multiple_of(2) => path("Exact", &format!("/item/{number}")),
        Matching::Paths => path("PathPrefix", &format!("/part/{number}")),
        Matching::Headers => {
            let mut matched = path("PathPrefix", "/");
            matched["headers"] = json!([{"name": "x-item", "value": number.to_string()}]);
            matched
        }
    });
    let all: Vec<Value> = matches.chain([path("PathPrefix", "/")]).map(|matched| rule(&matched)).collect();
    let route = |(number, rules): (usize, &[Value])| {
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": format!("{name}-{number}"), "namespace": HOME},
            "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": name}], "rules": rules},
        })
    };
    all.chunks(OF_ROUTE).enumerate().map(route).collect()
}

fn path(kind: &str, value: &str) -> Value {
    json!({"path": {"type": kind, "value": value}})
}

fn rule(matched: &Value) -> Value {
    json!({"matches": [matched], "backendRefs": [{"name": PLAIN, "port": 80}]})
}

/// So many Services that nobody calls, with hand-written endpoints.
pub fn unused(services: usize, endpoints: usize) -> Vec<Value> {
    (0..services).flat_map(|number| unused_service(number, endpoints)).collect()
}

/// The name of one of them; the first ones are in the client's namespace.
pub fn unused_name(number: usize) -> String {
    format!("unused-{number}")
}

fn unused_service(number: usize, endpoints: usize) -> [Value; 2] {
    let (name, ip) = (unused_name(number), address([10, 97, 0, 1].into(), number));
    let namespace = match number / OF_NAMESPACE {
        0 => HOME.to_owned(),
        other => format!("unused-{other}"),
    };
    let endpoints: Vec<Value> = (0..endpoints)
        .map(|endpoint| address([10, 200, 0, 1].into(), number * endpoints + endpoint))
        .map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}}))
        .collect();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "endpoints": endpoints,
    });
    [service, slice]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_shared_out_among_routes_and_the_last_takes_every_request() {
        for matching in [Matching::Paths, Matching::Headers] {
            let routes = routes(matching, 1_000);
            assert_eq!(routes.len(), 63);
            let rules: Vec<&Value> =
                routes.iter().flat_map(|route| route["spec"]["rules"].as_array().unwrap()).collect();
            assert_eq!(rules.len(), 1_000);
            assert_eq!(rules[999]["matches"], json!([path("PathPrefix", "/")]));
        }
    }

    #[test]
    fn unused_services_are_in_the_clients_namespace_and_in_others() {
        let objects = unused(2_000, 2);
        assert_eq!(objects.len(), 4_000);
        let namespaces = objects.iter().filter(|object| object["metadata"]["namespace"] == HOME);
        assert_eq!(namespaces.count(), 2_000);
        assert_eq!(objects[3_999]["endpoints"][1]["addresses"][0], "10.200.15.160");
    }
}
