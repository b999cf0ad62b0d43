//! What the mesh knows of a pod. The control plane reduces Pods to it before it serves them; a proxy reads it
//! back. Whether a pod is meshed follows from its injected container, never from what a tenant can write on it.

mod reduced;

pub use reduced::{ReducedCondition, ReducedIp, ReducedPod, ReducedSpec, ReducedStatus};

use crate::contract::{ANNOTATION_PREFIX, PROXY_CONTAINER};
use crate::identity::{Identity, TrustDomain};
use crate::names::ObjectName;
use crate::settings::{PortSet, Settings};
use k8s_openapi::api::core::v1::{Container, Namespace, Node, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The label of a Node, and of a reduced Pod, that names its zone.
pub const ZONE: &str = "topology.kubernetes.io/zone";

/// What a proxy knows of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// The pod's name.
    pub name: ObjectName,
    /// The pod's UID.
    pub uid: String,
    /// Its service account, `default` if it names none.
    pub service_account: String,
    /// Its node.
    pub node: Option<String>,
    /// Its node's zone.
    pub zone: Option<String>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// It has Heddle's proxy.
    pub meshed: bool,
    /// Its condition `Ready`.
    pub ready: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// It has ended, and its addresses may be another pod's.
    pub finished: bool,
    /// It shares its node's addresses.
    pub host_network: bool,
    /// Ports that its proxy does not capture: dialled plain.
    pub skip_inbound_ports: PortSet,
    /// Ports on which no protocol is looked for.
    pub opaque_ports: PortSet,
    /// Ports that accept plaintext even in strict mode.
    pub plaintext_inbound_ports: PortSet,
}

/// The part of a Pod that discovery serves. To be applied to an original Pod, once: a reduced one no longer shows that
/// it is meshed.
pub fn reduce(pod: &Pod, namespace: Option<&Namespace>, node: Option<&Node>) -> ReducedPod {
    ReducedPod {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            deletion_timestamp: pod.metadata.deletion_timestamp.clone(),
            annotations: Some(annotations(pod, namespace)).filter(|map| !map.is_empty()),
            labels: zone(&pod.metadata, node).map(|zone| BTreeMap::from([(ZONE.to_owned(), zone)])),
            ..ObjectMeta::default()
        },
        spec: pod.spec.as_ref().map(|spec| ReducedSpec {
            service_account_name: spec.service_account_name.clone(),
            node_name: spec.node_name.clone(),
            host_network: spec.host_network,
        }),
        status: pod.status.as_ref().map(|status| ReducedStatus {
            phase: status.phase.clone(),
            pod_ips: status
                .pod_ips
                .as_ref()
                .map(|ips| ips.iter().map(|ip| ReducedIp { ip: ip.ip.clone() }).collect()),
            conditions: ready_condition(status),
        }),
        ..ReducedPod::default()
    }
}

fn annotations(pod: &Pod, namespace: Option<&Namespace>) -> BTreeMap<String, String> {
    let texts = match proxy(pod) {
        Some(proxy) => told(proxy),
        None => {
            // No proxy, so there is nothing but what its callers look for.
            let settings = Settings::lenient(&pod.metadata, namespace.map(|namespace| &namespace.metadata));
            vec![("opaque-ports", settings.opaque_ports.to_string())]
        }
    };
    let set = texts.into_iter().filter(|(_, text)| !text.is_empty());
    set.map(|(name, text)| (format!("{ANNOTATION_PREFIX}{name}"), text)).collect()
}

/// What a proxy was told of its ports when its pod was made. The annotations may have changed since, and the pod has not:
/// whoever goes by them would dial plain what is not, or the other way round.
fn told(proxy: &Container) -> Vec<(&'static str, String)> {
    let variable = |name: &str| {
        let mut env = proxy.env.iter().flatten();
        let ports = env.find(|variable| variable.name == name).and_then(|variable| variable.value.as_deref());
        ports.and_then(|text| PortSet::parse(text).ok()).unwrap_or_default().to_string()
    };
    let ports = PORTS.iter().map(|(annotation, name)| (*annotation, variable(name)));
    std::iter::once(("meshed", "true".to_owned())).chain(ports).collect()
}

/// The annotations that name ports of the pod itself, and the proxy's variables that tell it of them.
const PORTS: [(&str, &str); 3] = [
    ("skip-inbound-ports", "HEDDLE_SKIP_INBOUND_PORTS"),
    ("opaque-ports", "HEDDLE_OPAQUE_PORTS"),
    ("plaintext-inbound-ports", "HEDDLE_PLAINTEXT_INBOUND_PORTS"),
];

/// Whether a variable of the proxy's container tells of ports, which [`reduce`] reads.
pub fn tells_ports(variable: &str) -> bool {
    PORTS.iter().any(|(_, name)| *name == variable)
}

/// The pod's proxy, if it is meshed. A pod on its node's network never is: its addresses are not its own.
fn proxy(pod: &Pod) -> Option<&Container> {
    let spec = pod.spec.as_ref().filter(|spec| spec.host_network != Some(true))?;
    let mut containers = spec.init_containers.iter().flatten();
    containers.find(|c| c.name == PROXY_CONTAINER && c.restart_policy.as_deref() == Some("Always"))
}

fn zone(pod: &ObjectMeta, node: Option<&Node>) -> Option<String> {
    let of = |meta: &ObjectMeta| meta.labels.as_ref()?.get(ZONE).cloned();
    node.and_then(|node| of(&node.metadata)).or_else(|| of(pod))
}

fn ready_condition(status: &PodStatus) -> Option<Vec<ReducedCondition>> {
    let conditions = status.conditions.as_ref()?.iter().filter(|condition| condition.type_ == "Ready");
    let bare = |condition: &PodCondition| ReducedCondition {
        type_: condition.type_.clone(),
        status: condition.status.clone(),
    };
    Some(conditions.map(bare).collect())
}

impl PodFacts {
    /// Reads a reduced Pod; `None` if it has no name, namespace or UID.
    pub fn from_reduced(pod: &ReducedPod) -> Option<Self> {
        let meta = &pod.metadata;
        let text = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        let spec = pod.spec.as_ref();
        Some(Self {
            name: ObjectName::new(&text(&meta.namespace)?, &text(&meta.name)?),
            uid: text(&meta.uid)?,
            service_account: spec
                .and_then(|s| text(&s.service_account_name))
                .unwrap_or_else(|| "default".to_owned()),
            node: spec.and_then(|s| text(&s.node_name)),
            zone: zone(meta, None),
            ips: ips(pod),
            meshed: annotation(meta, "meshed") == Some("true"),
            ready: is_ready(pod),
            terminating: meta.deletion_timestamp.is_some(),
            finished: is_finished(pod),
            host_network: spec.and_then(|s| s.host_network).unwrap_or(false),
            skip_inbound_ports: port_set(meta, "skip-inbound-ports"),
            opaque_ports: port_set(meta, "opaque-ports"),
            plaintext_inbound_ports: port_set(meta, "plaintext-inbound-ports"),
        })
    }

    /// The identity of the pod's service account; `None` if its names make none.
    pub fn identity(&self, trust_domain: &TrustDomain) -> Option<Identity> {
        Identity::new(trust_domain, &self.name.namespace, &self.service_account).ok()
    }
}

fn ips(pod: &ReducedPod) -> Vec<IpAddr> {
    let ips = pod.status.iter().flat_map(|status| status.pod_ips.iter().flatten());
    ips.filter_map(|ip| ip.ip.parse().ok()).collect()
}

fn is_ready(pod: &ReducedPod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn is_finished(pod: &ReducedPod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn annotation<'m>(meta: &'m ObjectMeta, name: &str) -> Option<&'m str> {
    meta.annotations.as_ref()?.get(&format!("{ANNOTATION_PREFIX}{name}")).map(String::as_str)
}

fn port_set(meta: &ObjectMeta, name: &str) -> PortSet {
    annotation(meta, name).and_then(|text| PortSet::parse(text).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
