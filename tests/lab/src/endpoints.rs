//! The endpoint controller: Services and pods in, EndpointSlices out. Pure.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::{Value, json};

/// Marks the slices that are ours to change.
pub const MANAGED_BY: (&str, &str) =
    ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");
/// Names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// A Pod's annotation or label that stands for its node's zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// The slices of a Service: one per address family and set of target ports, named stably.
fn slices(service: &Service, pods: &[Pod]) -> Vec<Value> {
    let Some(spec) = service.spec.as_ref().filter(|s| s.selector.as_ref().is_some_and(|s| !s.is_empty()))
    else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for family in families(service) {
        let mut groups: BTreeMap<Vec<(String, i32)>, Vec<Value>> = BTreeMap::new();
        for pod in pods.iter().filter(|pod| selects(service, pod)) {
            if let Some(ip) = pod_ip(pod, family) {
                let targets = targets(spec.ports.as_deref().unwrap_or_default(), pod);
                groups.entry(targets).or_default().push(endpoint(service, pod, ip));
            }
        }
        if groups.is_empty() {
            groups.insert(Vec::new(), Vec::new());
        }
        for (index, (targets, endpoints)) in groups.into_iter().enumerate() {
            found.push(slice(service, family, index, &targets, &endpoints));
        }
    }
    found
}

/// The families that a Service has addresses of: `IPv4`, `IPv6`.
fn families(service: &Service) -> Vec<&str> {
    match service.spec.as_ref().and_then(|s| s.ip_families.as_ref()) {
        Some(families) if !families.is_empty() => families.iter().map(String::as_str).collect(),
        _ => vec!["IPv4", "IPv6"],
    }
}

/// Whether a pod is one of a Service's: labels match, it has not finished.
fn selects(service: &Service, pod: &Pod) -> bool {
    let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
    let labels = pod.metadata.labels.as_ref();
    let finished = matches!(phase(pod), "Succeeded" | "Failed");
    service.metadata.namespace == pod.metadata.namespace
        && !finished
        && selector.is_some_and(|s| s.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == Some(v)))
}

/// The phase in a pod's status.
fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// Whether a pod's Ready condition holds.
fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Whether clients may be sent to a pod: ready and not on its way out, or the Service does not care.
fn serves(service: &Service, pod: &Pod) -> bool {
    let eager = service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true);
    eager || (is_ready(pod) && pod.metadata.deletion_timestamp.is_none())
}

/// A pod's address of a family.
fn pod_ip<'a>(pod: &'a Pod, family: &str) -> Option<&'a str> {
    let ips = pod.status.as_ref()?.pod_ips.as_ref()?;
    ips.iter().map(|ip| ip.ip.as_str()).find(|ip| ip.contains(':') == (family == "IPv6"))
}

/// Each Service port's name and the number it has in this pod; a name that the pod lacks is left out.
fn targets(ports: &[ServicePort], pod: &Pod) -> Vec<(String, i32)> {
    let resolved = ports.iter().filter_map(|port| {
        let number = match &port.target_port {
            None => port.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(name)) => named_port(pod, name)?,
        };
        Some((port.name.clone().unwrap_or_default(), number))
    });
    resolved.collect()
}

/// The number of a pod's named port; sidecars' ports count, other init containers' do not.
pub fn named_port(pod: &Pod, name: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.is_some());
    let mut ports = spec.containers.iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    ports.find(|p| p.name.as_deref() == Some(name)).map(|p| p.container_port)
}

fn endpoint(service: &Service, pod: &Pod, ip: &str) -> Value {
    let meta = &pod.metadata;
    let terminating = meta.deletion_timestamp.is_some();
    let zone = meta
        .annotations
        .as_ref()
        .and_then(|a| a.get(ZONE))
        .or(meta.labels.as_ref().and_then(|l| l.get(ZONE)));
    let spread = service.spec.as_ref().and_then(|s| s.traffic_distribution.as_deref());
    let mut endpoint = json!({
        "addresses": [ip],
        "conditions": {"ready": serves(service, pod), "serving": is_ready(pod), "terminating": terminating},
        "nodeName": pod.spec.as_ref().and_then(|s| s.node_name.clone()),
        "targetRef": {"kind": "Pod", "namespace": meta.namespace, "name": meta.name, "uid": meta.uid},
    });
    if let Some(zone) = zone {
        endpoint["zone"] = json!(zone);
        if matches!(spread, Some("PreferClose" | "PreferSameZone")) {
            endpoint["hints"] = json!({"forZones": [{"name": zone}]});
        }
    }
    let hostname =
        pod.spec.as_ref().filter(|s| s.subdomain == service.metadata.name).and_then(|s| s.hostname.as_ref());
    if let Some(hostname) = hostname {
        endpoint["hostname"] = json!(hostname);
    }
    endpoint
}

fn slice(
    service: &Service,
    family: &str,
    index: usize,
    targets: &[(String, i32)],
    endpoints: &[Value],
) -> Value {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let numbers: BTreeMap<_, _> = targets.iter().cloned().collect();
    let specs = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    let ports: Vec<_> = specs
        .iter()
        .filter_map(|port| {
            let name = port.name.clone().unwrap_or_default();
            let number = numbers.get(&name)?;
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let mut written = json!({"name": name, "port": number, "protocol": protocol});
            if let Some(app) = &port.app_protocol {
                written["appProtocol"] = json!(app);
            }
            Some(written)
        })
        .collect();
    let suffix = if index == 0 { String::new() } else { format!("-{index}") };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": service.metadata.namespace,
            "name": format!("{name}-{}{suffix}", family.to_lowercase()),
            "labels": {SERVICE_NAME: name, MANAGED_BY.0: MANAGED_BY.1},
        },
        "addressType": family,
        "ports": ports,
        "endpoints": endpoints,
    })
}

/// Whether a slice is a Service's, whoever wrote it.
pub fn belongs(slice: &EndpointSlice, service: &Service) -> bool {
    let named = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME));
    slice.metadata.namespace == service.metadata.namespace && named == service.metadata.name.as_ref()
}

/// Whether a slice is ours to keep, to find those that are over.
pub fn managed(slice: &Value) -> bool {
    slice["metadata"]["labels"][MANAGED_BY.0] == MANAGED_BY.1
}

/// All Services' slices by namespace and name.
pub fn all(services: &[Service], pods: &[Pod]) -> Vec<Value> {
    let mut names = BTreeSet::new();
    let found = services.iter().flat_map(|service| slices(service, pods));
    found
        .filter(|slice| {
            names.insert(slice["metadata"]["namespace"].to_string() + &slice["metadata"]["name"].to_string())
        })
        .collect()
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;
