//! The cluster's objects as an API server would have them, after injection. Pure.

use mesh::contract::{INIT_CONTAINER, INJECT_LABEL, PROXY_CONTAINER};
use serde_json::{Value, json};

use crate::cluster::{COMMON, Cluster, Pod, cluster_ip, name, namespace, namespace_name, node_ip};

/// The annotation of an object that was changed to be waited for: which change it was. It is of Heddle's own, since a control
/// plane may forget all others.
pub const CHANGE: &str = "heddle.dev/scale-change";

/// A Node.
pub fn node(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": node_name(number), "labels": {"topology.kubernetes.io/zone": zone(number)}},
        "status": {"addresses": [{"type": "InternalIP", "address": node_ip(number)}]},
    })
}

/// A namespace with everything in it but what changes.
pub fn namespace_objects(cluster: &Cluster, number: usize) -> Vec<Value> {
    let own = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": namespace_name(number), "labels": {INJECT_LABEL: "enabled"}},
    });
    let services = cluster.services_of(number).flat_map(|service| {
        let pods = (0..cluster.endpoints_each).map(move |endpoint| Pod { service, endpoint });
        let pods = pods.chain((service == COMMON).then(|| second_last(cluster)));
        let slice = (service != COMMON).then(|| endpoint_slice(cluster, service, None));
        let pods: Vec<Value> = pods.map(|one| pod(cluster, one)).collect();
        pods.into_iter().chain([service_object(service)]).chain(slice)
    });
    let routed = cluster.routed().filter(|service| cluster.services_of(number).contains(service));
    let routes = routed.filter(|service| *service != COMMON).map(|service| route(cluster, service, None));
    [own].into_iter().chain(services).chain(routes).collect()
}

/// The pod that takes the place of the common Service's last one, and gives it back.
fn second_last(cluster: &Cluster) -> Pod {
    Pod { service: COMMON, endpoint: cluster.endpoints_each }
}

/// The common Service's last pod after so many changes of its endpoints.
pub fn last_pod(cluster: &Cluster, changes: u64) -> Pod {
    match changes.is_multiple_of(2) {
        true => Pod { service: COMMON, endpoint: cluster.endpoints_each - 1 },
        false => second_last(cluster),
    }
}

fn service_object(service: usize) -> Value {
    let (name, ip) = (name(service), cluster_ip(service));
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": *name.name, "namespace": *name.namespace, "labels": {"app": *name.name}},
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "selector": {"app": *name.name},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    })
}

/// The EndpointSlice of a Service; that of the common one as of so many changes.
pub fn endpoint_slice(cluster: &Cluster, service: usize, changes: Option<u64>) -> Value {
    let (name, last) = (name(service), cluster.endpoints_each - 1);
    let endpoints = (0..cluster.endpoints_each).map(|endpoint| match (endpoint == last, changes) {
        (true, Some(changes)) => last_pod(cluster, changes),
        _ => Pod { service, endpoint },
    });
    let endpoints: Vec<Value> = endpoints.map(|pod| endpoint(cluster, pod)).collect();
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {
            "name": format!("{}-4", name.name), "namespace": *name.namespace,
            "labels": {
                "kubernetes.io/service-name": *name.name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
        },
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    });
    mark(&mut slice, changes);
    slice
}

fn endpoint(cluster: &Cluster, pod: Pod) -> Value {
    let node = pod.node(cluster);
    json!({
        "addresses": [pod.ip(cluster)],
        "conditions": {"ready": true, "serving": true, "terminating": false},
        "nodeName": node_name(node), "zone": zone(node),
        "targetRef": {
            "kind": "Pod", "namespace": namespace(pod.service), "name": pod.name(), "uid": pod.uid(),
        },
    })
}

/// The route of a Service; that of the common one as of so many changes.
pub fn route(cluster: &Cluster, service: usize, changes: Option<u64>) -> Value {
    let name = name(service);
    let backends = cluster.backends(service);
    // Each change moves a part of the traffic, as a rollout does.
    let part = 1 + changes.unwrap_or_default() % 50;
    let weights = [100 - part, part];
    let split: Vec<Value> = backends
        .iter()
        .zip(weights)
        .map(|(backend, weight)| json!({"name": format!("svc-{backend}"), "port": 80, "weight": weight}))
        .collect();
    let mut route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": *name.name, "namespace": *name.namespace},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": *name.name, "port": 80}],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": "/admin"}}],
                    "backendRefs": [{"name": *name.name, "port": 80}],
                },
                {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": split},
            ],
        },
    });
    mark(&mut route, changes);
    route
}

fn mark(object: &mut Value, changes: Option<u64>) {
    if let Some(changes) = changes {
        object["metadata"]["annotations"] = json!({CHANGE: changes.to_string()});
    }
}

/// A pod that was injected and runs; about as much of it as an API server has.
fn pod(cluster: &Cluster, pod: Pod) -> Value {
    let (service, node) = (name(pod.service), node_name(pod.node(cluster)));
    let since = "2026-01-01T00:00:00Z";
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": since});
    let conditions = ["Ready", "Initialized", "ContainersReady", "PodScheduled"].map(condition);
    let variable = |name: &str, value: &str| json!({"name": name, "value": value});
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let proxy = json!({
        "name": PROXY_CONTAINER, "image": "registry.example.com/mesh/heddle-proxy:0.1.0", "restartPolicy": "Always",
        "env": [
            field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_UID", "metadata.uid"), field("POD_IPS", "status.podIPs"),
            field("HOST_IPS", "status.hostIPs"), field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
            variable("HEDDLE_TRUST_DOMAIN", "cluster.local"), variable("HEDDLE_MTLS_MODE", "permissive"),
            variable("HEDDLE_CLUSTER_CIDRS", "10.96.0.0/12,10.128.0.0/9"),
            variable("HEDDLE_OPAQUE_PORTS", ""), variable("HEDDLE_PLAINTEXT_INBOUND_PORTS", ""),
        ],
        "startupProbe": {"httpGet": {"path": "/ready", "port": 15021}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "volumeMounts": [{"name": "heddle-token", "mountPath": "/var/run/secrets/heddle.dev/token"}],
    });
    let app = json!({
        "name": "app", "image": format!("registry.example.com/shop/{}:1.0.0", service.name),
        "ports": [{"containerPort": 8080, "name": "http"}],
        "env": [variable("LOG", "info"), variable("DATABASE", "postgres.data.svc:5432")],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "128Mi"}},
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": pod.name(), "namespace": *service.namespace, "uid": pod.uid(),
            "labels": {"app": *service.name, "pod-template-hash": "7d4b9c6f5"},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{}-7d4b9c6f5", service.name),
                "uid": "6f1d4c58-0000-4000-8000-000000000000", "controller": true,
            }],
        },
        "spec": {
            "serviceAccountName": *service.name, "nodeName": node,
            "initContainers": [{"name": INIT_CONTAINER, "image": "registry.example.com/mesh/heddle-init:0.1.0"}, proxy],
            "containers": [app],
            "volumes": [{"name": "heddle-token", "projected": {"sources": [
                {"serviceAccountToken": {"audience": "heddle.dev", "expirationSeconds": 3600, "path": "token"}},
            ]}}],
        },
        "status": {
            "phase": "Running", "podIP": pod.ip(cluster), "podIPs": [{"ip": pod.ip(cluster)}], "startTime": since,
            "conditions": conditions,
            "containerStatuses": [{
                "name": "app", "ready": true, "restartCount": 0, "image": "app", "imageID": "app",
                "state": {"running": {"startedAt": since}},
            }],
        },
    })
}

fn node_name(number: usize) -> String {
    format!("node-{number}")
}

fn zone(node: usize) -> String {
    format!("zone-{}", node % 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::pod::{PodFacts, reduce};

    const SMALL: Cluster = Cluster { services: 200, endpoints_each: 5, sidecars: 10 };

    #[test]
    fn pods_are_meshed_and_ready() {
        let whole = serde_json::from_value(pod(&SMALL, Pod { service: 3, endpoint: 1 })).unwrap();
        let facts = PodFacts::from_reduced(&reduce(&whole, None, None)).unwrap();
        assert!(facts.meshed && facts.ready && facts.ips.len() == 1);
    }

    #[test]
    fn what_changes_is_left_out_of_its_namespace() {
        let kinds = |number: usize| {
            let objects = namespace_objects(&SMALL, number);
            ["Service", "EndpointSlice", "Pod", "HTTPRoute"]
                .map(|kind| objects.iter().filter(|object| object["kind"] == kind).count())
        };
        assert_eq!(kinds(0), [100, 99, 501, 4]);
        assert_eq!(kinds(1), [100, 100, 500, 5]);
    }

    #[test]
    fn a_change_of_endpoints_puts_another_pod_in_the_last_ones_place() {
        let names = |changes: u64| {
            let slice = endpoint_slice(&SMALL, COMMON, Some(changes));
            let endpoints = slice["endpoints"].as_array().unwrap().clone();
            endpoints[3..].iter().map(|one| one["targetRef"]["name"].clone()).collect::<Vec<_>>()
        };
        assert_eq!([names(0), names(1)], [["svc-0-3", "svc-0-4"], ["svc-0-3", "svc-0-5"]]);
        assert_eq!(endpoint_slice(&SMALL, COMMON, Some(7))["metadata"]["annotations"][CHANGE], "7");
    }
}
