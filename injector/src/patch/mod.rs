//! What is done with a pod at its admission: a JSON patch, nothing, or a refusal. Pure.
//!
//! The patch only adds, except where a kubelet's probe has to reach the application through the proxy; what
//! the pod's author wrote stays byte for byte.

mod again;
mod containers;
mod probes;
mod refuse;
mod security;

use k8s_openapi::api::core::v1::{Container, Namespace, Pod};
use mesh::contract::{INIT_CONTAINER, INJECT_LABEL, PROXY_CONTAINER, SYSTEM_NAMESPACE};
use mesh::settings::{MtlsMode, Settings};
pub use probes::Nonce;
use serde_json::{Value, json};

/// What is the same for all pods.
#[derive(Debug, Clone)]
pub struct Config {
    /// Image of heddle-proxy.
    pub proxy_image: String,
    /// Image of heddle-init.
    pub init_image: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// What plaintext is accepted where no Namespace says otherwise.
    pub mtls_mode: MtlsMode,
    /// Ranges of Service and pod addresses.
    pub cluster_cidrs: Vec<String>,
    /// Where proxies send their spans, if anywhere.
    pub otlp_endpoint: Option<String>,
    /// The share of the traces that begin at a proxy which are recorded; all if it is not said.
    pub trace_ratio: Option<f64>,
}

/// What is done with a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It gets these operations (RFC 6902). The warnings say what will go wrong all the same.
    Patch {
        /// The operations.
        operations: Vec<Value>,
        /// For the user.
        warnings: Vec<String>,
    },
    /// It runs as it is, as it was injected already: there is nothing to tell.
    Leave,
    /// It runs as it is. The text says why.
    Skip(String),
    /// It may not run. The text says why, and what to change.
    Deny(String),
}

/// Namespaces whose pods are never touched: the cluster's own, and ours.
const EXCLUDED: [&str; 2] = ["kube-system", SYSTEM_NAMESPACE];

/// What is done with `pod`, which is to run in `namespace` (`labels` are that of the object, if it is known). `nonce`
/// is to be new and random for each pod.
pub fn decide(
    pod: &Pod,
    namespace: &str,
    labels: Option<&Namespace>,
    config: &Config,
    nonce: Nonce,
) -> Decision {
    if let Some(reason) = reason_to_skip(pod, namespace, labels) {
        return Decision::Skip(reason);
    }
    let settings = match Settings::of(&pod.metadata, labels.map(|namespace| &namespace.metadata)) {
        Ok(settings) => settings,
        Err(errors) => {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Decision::Deny(errors.join("; "));
        }
    };
    if is_injected(pod) {
        return match refuse::weakened(pod) {
            Some(reason) => Decision::Deny(reason),
            None => again::decide(pod, &settings, config, nonce),
        };
    }
    if let Some(reason) = refuse::reason(pod) {
        return Decision::Deny(reason);
    }
    match operations(pod, &settings, config, nonce) {
        Ok(operations) => Decision::Patch { operations, warnings: security::warnings(namespace, labels) },
        Err(reason) => Decision::Deny(reason),
    }
}

/// Why a pod that asks for the mesh, by itself or through its namespace, cannot be in it. The webhook is not asked about
/// all of these, so this looks at pods that are there already.
pub fn unfit(pod: &Pod, namespace: &str, labels: Option<&Namespace>) -> Option<String> {
    match wish(pod, labels) {
        Some("disabled") | None => None,
        _ if EXCLUDED.contains(&namespace) => None,
        Some("enabled") => on_the_nodes_network(pod),
        Some(other) => Some(misspelt(other)),
    }
}

fn wish<'p>(pod: &'p Pod, labels: Option<&'p Namespace>) -> Option<&'p str> {
    let on_pod = pod.metadata.labels.as_ref().and_then(|labels| labels.get(INJECT_LABEL));
    let on_namespace = labels.and_then(|namespace| namespace.metadata.labels.as_ref()?.get(INJECT_LABEL));
    on_pod.or(on_namespace).map(String::as_str)
}

fn on_the_nodes_network(pod: &Pod) -> Option<String> {
    let shared = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    shared.then(|| "the pod uses its node's network (hostNetwork), which must not be redirected".to_owned())
}

fn misspelt(value: &str) -> String {
    format!("{INJECT_LABEL} is {value:?}: it must be enabled or disabled")
}

fn reason_to_skip(pod: &Pod, namespace: &str, labels: Option<&Namespace>) -> Option<String> {
    if EXCLUDED.contains(&namespace) {
        return Some(format!("pods of {namespace} are never injected"));
    }
    match wish(pod, labels) {
        Some("enabled") => {}
        Some("disabled") => return Some(format!("{INJECT_LABEL} is disabled")),
        Some(other) => return Some(misspelt(other)),
        None => {
            return Some(format!("neither the pod nor its namespace has the label {INJECT_LABEL}: enabled"));
        }
    }
    on_the_nodes_network(pod)
}

/// Another webhook may have changed the pod after us: then the API server asks again.
fn is_injected(pod: &Pod) -> bool {
    let ours = [INIT_CONTAINER, PROXY_CONTAINER];
    ours.iter().all(|name| init_containers(pod).any(|container| container.name == *name))
}

fn init_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten())
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| &spec.containers)
}

/// The operations, in an order in which each finds what it needs.
fn operations(pod: &Pod, settings: &Settings, config: &Config, nonce: Nonce) -> Result<Vec<Value>, String> {
    let (mut operations, probes) = probes::rewrite(pod, nonce)?;
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    if spec.init_containers.is_none() {
        operations.push(add("/spec/initContainers", &json!([])));
    }
    operations.push(add("/spec/initContainers/0", &containers::init(settings, config)));
    operations.push(add("/spec/initContainers/1", &containers::proxy(settings, config, &probes)));
    if spec.volumes.is_none() {
        operations.push(add("/spec/volumes", &json!([])));
    }
    operations.extend(containers::volumes().map(|volume| add("/spec/volumes/-", &volume)));
    operations.extend(default_container(pod));
    Ok(operations)
}

/// `kubectl logs` and `exec` go on meaning the application.
fn default_container(pod: &Pod) -> Vec<Value> {
    const ANNOTATION: &str = "kubectl.kubernetes.io/default-container";
    let Some(first) = containers(pod).next() else { return Vec::new() };
    match &pod.metadata.annotations {
        None => vec![add("/metadata/annotations", &json!({ANNOTATION: first.name}))],
        Some(annotations) if annotations.contains_key(ANNOTATION) => Vec::new(),
        Some(_) => {
            vec![add("/metadata/annotations/kubectl.kubernetes.io~1default-container", &json!(first.name))]
        }
    }
}

fn add(path: &str, value: &Value) -> Value {
    json!({"op": "add", "path": path, "value": value})
}

#[cfg(test)]
mod tests;
