//! Manifests of workloads, as short as a test wants them. Each function returns one or more YAML documents; add them up.

/// What marks the tests' own namespaces.
pub const HOME_LABEL: &str = "test.heddle.dev/home";

/// A namespace with these further labels and annotations, as YAML flow without its braces.
pub fn namespace(name: &str, labels: &str, annotations: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{{HOME_LABEL}: '', {labels}}}\n  annotations: {{{annotations}}}\n"
    )
}

/// A namespace whose pods are injected, strict.
pub fn strict(name: &str) -> String {
    namespace(name, "heddle.dev/inject: enabled", "heddle.dev/mtls-mode: strict")
}

/// A namespace whose pods are injected, permissive.
pub fn permissive(name: &str) -> String {
    namespace(name, "heddle.dev/inject: enabled", "heddle.dev/mtls-mode: permissive")
}

/// A container named `app` of the tests' image, with these arguments and further fields, one a line.
pub fn container(arguments: &[&str], more: &str) -> String {
    let more: String = more.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "- name: app\n  image: heddle-echo:test\n  imagePullPolicy: IfNotPresent\n  args: {arguments:?}\n{more}"
    )
}

/// The same of the Gateway API's echo server, which also speaks TLS and gRPC.
pub fn echo_advanced(arguments: &[&str], more: &str) -> String {
    container(arguments, more).replace("heddle-echo:test", "registry.k8s.io/gateway-api/echo-advanced:v1.5.1")
}

/// A pod's spec: fields of its own, one a line, and its containers.
pub fn spec(more: &str, containers: &str) -> String {
    let containers: String = containers.lines().map(|line| format!("{line}\n")).collect();
    let more = more.trim();
    let more = if more.is_empty() { String::new() } else { format!("{more}\n") };
    format!("terminationGracePeriodSeconds: 10\n{more}containers:\n{containers}")
}

/// A workload of a kind (`Deployment`), whose pods are labelled `app: NAME`, with further fields of its spec.
pub fn workload(kind: &str, namespace: &str, name: &str, more: &str, pod: &str) -> String {
    let indent = |text: &str, by: usize| -> String {
        text.lines().map(|line| format!("{:by$}{line}\n", "")).collect()
    };
    format!(
        "---\napiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  selector: {{matchLabels: {{app: {name}}}}}\n{}  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n{}",
        indent(more, 2),
        indent(pod, 6)
    )
}

/// A Deployment of so many pods, with the service account of its namespace.
pub fn deployment(namespace: &str, name: &str, replicas: u32, pod: &str) -> String {
    workload("Deployment", namespace, name, &format!("replicas: {replicas}"), pod)
}

/// A pod of its own, labelled `app: NAME`.
pub fn pod(namespace: &str, name: &str, labels: &str, spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    let labels = if labels.is_empty() { String::new() } else { format!(", {labels}") };
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{alone: '', app: {name}{labels}}}}}\nspec:\n{spec}"
    )
}

/// What runs a client until it is removed.
pub fn client() -> String {
    spec("", &container(&["http", "--port", "7000"], ""))
}

/// An HTTP server on port 8080, ready when it answers, that finishes what has begun when it is told to end.
pub fn http_server() -> String {
    let more = "lifecycle: {preStop: {sleep: {seconds: 3}}}
readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}";
    spec("", &container(&["http", "--port", "8080"], more))
}

/// A Service of pods labelled `app: APP`; the ports as YAML flow.
pub fn service(namespace: &str, name: &str, app: &str, more: &str, ports: &str) -> String {
    let more: String = more.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  selector: {{app: {app}}}\n  ports: [{ports}]\n{more}"
    )
}

/// A Service that has port 80 for the pods' 8080.
pub fn web(namespace: &str, name: &str, app: &str) -> String {
    service(namespace, name, app, "", "{name: http, port: 80, targetPort: 8080}")
}
