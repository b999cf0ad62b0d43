//! Manifests, as short as a test wants them. Each function returns one or more YAML documents; add them up.
//!
//! Labels and selectors are written as YAML flow: `app: web, version: v1`.

/// A namespace whose pods are injected.
pub fn meshed_namespace(name: &str) -> String {
    namespace(name, "labels: {heddle.dev/inject: enabled}")
}

/// A namespace with this metadata: `labels: {...}, annotations: {...}`.
pub fn namespace(name: &str, metadata: &str) -> String {
    let metadata = if metadata.is_empty() { String::new() } else { format!(", {metadata}") };
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}{metadata}}}\n")
}

/// A pod with a service account of its own name, which runs one command.
pub fn pod(namespace: &str, name: &str, labels: &str, command: &[&str]) -> String {
    pod_with(namespace, name, labels, command, "")
}

/// The same, with more fields of the container (`readinessProbe: {...}`), each on a line of its own.
pub fn pod_with(namespace: &str, name: &str, labels: &str, command: &[&str], container: &str) -> String {
    let more: String = container.lines().map(|line| format!("    {}\n", line.trim_end())).collect();
    format!(
        "---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}, namespace: {namespace}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}
spec:
  serviceAccountName: {name}
  terminationGracePeriodSeconds: 5
  containers:
  - name: app
    image: none
    command: {command:?}
{more}"
    )
}

/// A pod that only waits, to run clients in.
pub fn client(namespace: &str, name: &str) -> String {
    pod(namespace, name, "role: client", &["sleep", "infinity"])
}

/// An HTTP server on port 8080 that says its name, ready when it answers.
pub fn http_server(namespace: &str, name: &str, labels: &str) -> String {
    let command = [echo(), "http", "--port", "8080", "--name", name];
    pod_with(
        namespace,
        name,
        labels,
        &command,
        "readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}",
    )
}

/// A TCP server on port 9000, ready when it listens.
pub fn tcp_server(namespace: &str, name: &str, labels: &str, more: &[&str]) -> String {
    let command = [&[echo(), "tcp", "--port", "9000"], more].concat();
    pod_with(namespace, name, labels, &command, "readinessProbe: {tcpSocket: {port: 9000}, periodSeconds: 1}")
}

/// A Service whose ports are named `pPORT`: `ports` is pairs of its port and the pods'.
pub fn service(namespace: &str, name: &str, selector: &str, ports: &[(u16, u16)]) -> String {
    service_with(namespace, name, ports, &format!("selector: {{{selector}}}"))
}

/// The same, with other fields of its spec (`clusterIP: None`), each on a line of its own.
pub fn service_with(namespace: &str, name: &str, ports: &[(u16, u16)], spec: &str) -> String {
    let ports: String = ports
        .iter()
        .map(|(port, target)| format!("  - {{name: p{port}, port: {port}, targetPort: {target}}}\n"))
        .collect();
    let more: String = spec.lines().map(|line| format!("  {}\n", line.trim_end())).collect();
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  ports:\n{ports}{more}"
    )
}

/// A Service whose ports say that they speak HTTP/2 (`appProtocol: kubernetes.io/h2c`, KEP-3726).
pub fn h2c_service(namespace: &str, name: &str, selector: &str, ports: &[(u16, u16)]) -> String {
    let plain = service(namespace, name, selector, ports);
    plain.replace("targetPort:", "appProtocol: kubernetes.io/h2c, targetPort:")
}

/// An HTTPRoute on a Service (`name` or `namespace/name`); the rules are a YAML list.
pub fn http_route(namespace: &str, name: &str, parent: &str, rules: &str) -> String {
    route("gateway.networking.k8s.io/v1", "HTTPRoute", namespace, name, parent, rules)
}

/// A GRPCRoute likewise.
pub fn grpc_route(namespace: &str, name: &str, parent: &str, rules: &str) -> String {
    route("gateway.networking.k8s.io/v1", "GRPCRoute", namespace, name, parent, rules)
}

/// A TCPRoute likewise.
pub fn tcp_route(namespace: &str, name: &str, parent: &str, rules: &str) -> String {
    route("gateway.networking.k8s.io/v1alpha2", "TCPRoute", namespace, name, parent, rules)
}

/// A rule's backends by weight: `backends(80, &[("web-v1", 90), ("web-v2", 10)])`.
pub fn backends(port: u16, weights: &[(&str, u32)]) -> String {
    let one = |(name, weight): &(&str, u32)| format!("{{name: {name}, port: {port}, weight: {weight}}}");
    let all: Vec<String> = weights.iter().map(one).collect();
    format!("backendRefs: [{}]", all.join(", "))
}

/// The test server's and client's program.
pub fn echo() -> &'static str {
    crate::world::tools().echo.as_str()
}

fn route(version: &str, kind: &str, namespace: &str, name: &str, parent: &str, rules: &str) -> String {
    let (parent, port) =
        parent.split_once(':').map_or((parent, String::new()), |(p, n)| (p, format!(", port: {n}")));
    let (home, parent) = parent.split_once('/').unwrap_or((namespace, parent));
    let rules: String = rules.trim_matches('\n').lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "---
apiVersion: {version}
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  parentRefs: [{{group: '', kind: Service, name: {parent}, namespace: {home}{port}}}]
  rules:
{rules}"
    )
}
