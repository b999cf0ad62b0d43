//! Kubelet probes and httpGet hooks, led through the proxy.
//!
//! The kubelet has no certificate, and a strict pod resets what comes in plain. So each probe becomes an
//! httpGet on the proxy's health port, and the proxy replays exactly what was configured, from inside.

use k8s_openapi::api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use mesh::contract::{ADMIN_PORT, HEALTH_PORT, INBOUND_PORT, METRICS_PORT, OUTBOUND_PORT, PROXY_CONTAINER};
use serde_json::{Map, Value, json};

use super::is_injected;

/// What nobody can guess, in the path of a hook: the health port is open to the network, and who fires a hook changes
/// the application. (A probe changes nothing, and says no more than the pod's own readiness.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub u128);

/// Where the proxy replays.
const PATH: &str = "/app-probe/";

/// Where the proxy listens. A probe of one of these would be replayed to the proxy itself, which would replay it again.
const LISTENS: [u16; 5] = [ADMIN_PORT, OUTBOUND_PORT, INBOUND_PORT, METRICS_PORT, HEALTH_PORT];

/// A hook has no timeout of its own: the kubelet ends it with the pod's grace. So the proxy must not do it earlier.
const HOOK_SECONDS: u32 = 3600;

/// The kubelet's default for `timeoutSeconds`.
const PROBE_SECONDS: i32 = 1;

/// The operations that rewrite the probes of `pod`, and what the proxy is to replay: probes by `CONTAINER/PROBE`,
/// hooks by `CONTAINER/HOOK/NONCE`.
pub fn rewrite(pod: &Pod, nonce: Nonce) -> Result<(Vec<Value>, Map<String, Value>), String> {
    let injected = is_injected(pod);
    let mut rewriting = Rewriting { injected, nonce, operations: Vec::new(), probes: Map::new() };
    let spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    for (index, container) in spec.containers.iter().enumerate() {
        rewriting.container(&format!("/spec/containers/{index}"), container)?;
    }
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        // Only native sidecars have probes; the index is that before our containers come in front.
        if container.restart_policy.as_deref() == Some("Always") && container.name != PROXY_CONTAINER {
            rewriting.container(&format!("/spec/initContainers/{index}"), container)?;
        }
    }
    Ok((rewriting.operations, rewriting.probes))
}

struct Rewriting {
    injected: bool,
    nonce: Nonce,
    operations: Vec<Value>,
    probes: Map<String, Value>,
}

impl Rewriting {
    fn container(&mut self, path: &str, container: &Container) -> Result<(), String> {
        for (name, probe) in [
            ("livenessProbe", &container.liveness_probe),
            ("readinessProbe", &container.readiness_probe),
            ("startupProbe", &container.startup_probe),
        ] {
            if let Some(probe) = probe {
                self.probe(path, container, name, probe)?;
            }
        }
        let lifecycle = container.lifecycle.as_ref();
        for (name, hook) in [
            ("postStart", lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref())),
            ("preStop", lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref())),
        ] {
            if let Some(hook) = hook {
                self.hook(path, container, name, hook)?;
            }
        }
        Ok(())
    }

    fn probe(&mut self, path: &str, container: &Container, name: &str, probe: &Probe) -> Result<(), String> {
        if probe.http_get.as_ref().is_some_and(|get| self.is_rewritten(get)) {
            return Ok(());
        }
        let (field, action) = if let Some(get) = &probe.http_get {
            ("httpGet", http_get(container, name, get)?)
        } else if let Some(tcp) = &probe.tcp_socket {
            let port = port(container, name, &tcp.port)?;
            (
                "tcpSocket",
                object([("port", Some(json!(port))), ("host", tcp.host.as_ref().map(|host| json!(host)))]),
            )
        } else if let Some(grpc) = &probe.grpc {
            let port = port(container, name, &IntOrString::Int(grpc.port))?;
            let service = grpc.service.clone().unwrap_or_default();
            ("grpc", json!({"port": port, "service": service}))
        } else {
            return Ok(()); // exec runs in the container: nothing to lead anywhere
        };
        let seconds = probe.timeout_seconds.unwrap_or(PROBE_SECONDS);
        let key = format!("{}/{name}", container.name);
        self.replace(&format!("{path}/{name}"), field, &key);
        self.probes.insert(key, json!({field: action, "timeoutSeconds": seconds}));
        Ok(())
    }

    fn hook(
        &mut self,
        path: &str,
        container: &Container,
        name: &str,
        hook: &LifecycleHandler,
    ) -> Result<(), String> {
        let Some(get) = hook.http_get.as_ref().filter(|get| !self.is_rewritten(get)) else { return Ok(()) };
        let action = http_get(container, name, get)?;
        let key = format!("{}/{name}/{:032x}", container.name, self.nonce.0);
        self.replace(&format!("{path}/lifecycle/{name}"), "httpGet", &key);
        self.probes.insert(key, json!({"httpGet": action, "timeoutSeconds": HOOK_SECONDS}));
        Ok(())
    }

    fn replace(&mut self, path: &str, field: &str, key: &str) {
        let get = json!({"path": format!("{PATH}{key}"), "port": HEALTH_PORT, "scheme": "HTTP"});
        if field == "httpGet" {
            self.operations.push(json!({"op": "replace", "path": format!("{path}/httpGet"), "value": get}));
        } else {
            self.operations.push(json!({"op": "remove", "path": format!("{path}/{field}")}));
            self.operations.push(json!({"op": "add", "path": format!("{path}/httpGet"), "value": get}));
        }
    }

    /// Whether it leads through the proxy already. We write the port as a number; and where there is no proxy yet, nothing is
    /// ours.
    fn is_rewritten(&self, get: &HTTPGetAction) -> bool {
        let ours = get.path.as_deref().is_some_and(|path| path.starts_with(PATH));
        self.injected && ours && get.port == IntOrString::Int(HEALTH_PORT.into())
    }
}

fn http_get(container: &Container, name: &str, get: &HTTPGetAction) -> Result<Value, String> {
    let port = port(container, name, &get.port)?;
    let headers = get.http_headers.as_ref().map(|headers| json!(headers));
    Ok(object([
        ("path", Some(json!(get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/")))),
        ("port", Some(json!(port))),
        ("scheme", Some(json!(get.scheme.as_deref().unwrap_or("HTTP")))),
        ("host", get.host.as_ref().map(|host| json!(host))),
        ("httpHeaders", headers),
    ]))
}

fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let set = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(set.collect())
}

/// A port by number, or by the name that the container gives it.
fn port(container: &Container, probe: &str, port: &IntOrString) -> Result<u16, String> {
    let found = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(text)).map(|port| port.container_port);
            named.or_else(|| text.parse().ok())
        }
    };
    let refused = |why: &str| {
        let (container, port) = (&container.name, shown(port));
        Err(format!("container {container}: its {probe} names port {port}, which {why}"))
    };
    match found.and_then(|number| u16::try_from(number).ok()) {
        None | Some(0) => refused("is no port of the container"),
        Some(port) if LISTENS.contains(&port) => {
            refused("belongs to the proxy: name a port of the application")
        }
        Some(port) => Ok(port),
    }
}

fn shown(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    type Rewritten = Result<(Vec<Value>, Map<String, Value>), String>;

    fn rewritten(init: &[&str], container: &Value) -> Rewritten {
        let init: Vec<Value> = init.iter().map(|name| json!({"name": name})).collect();
        let pod =
            json!({"metadata": {"name": "web"}, "spec": {"initContainers": init, "containers": [container]}});
        rewrite(&Pod::deserialize(&pod).unwrap(), Nonce(1))
    }

    fn with(field: &str, value: &Value) -> Value {
        let ports = json!([{"name": "own", "containerPort": 15021}]);
        json!({"name": "app", "ports": ports, field: value})
    }

    #[track_caller]
    fn check_refused(field: &str, value: &Value, which: &str, port: &str) {
        let reason = format!(
            "container app: its {which} names port {port}, which belongs to the proxy: name a port of the application"
        );
        assert_eq!(rewritten(&[], &with(field, value)), Err(reason));
    }

    fn get(port: &Value) -> Value {
        json!({"httpGet": {"path": "/app-probe/app/livenessProbe", "port": port}})
    }

    #[test]
    fn a_probe_of_the_proxy_itself_is_refused_whatever_it_calls_the_port() {
        let check =
            |port: &Value, named: &str| check_refused("livenessProbe", &get(port), "livenessProbe", named);
        check(&json!("15021"), "\"15021\"");
        check(&json!("own"), "\"own\"");
        for port in LISTENS {
            check(&json!(port), &port.to_string());
        }
    }

    #[test]
    fn a_probe_of_the_proxy_itself_is_refused_whatever_its_kind() {
        check_refused("readinessProbe", &json!({"tcpSocket": {"port": 15020}}), "readinessProbe", "15020");
        check_refused("startupProbe", &json!({"grpc": {"port": 15021}}), "startupProbe", "15021");
        check_refused("lifecycle", &json!({"preStop": get(&json!("15021"))}), "preStop", "\"15021\"");
    }

    #[test]
    fn a_probe_that_we_rewrote_is_known_again_by_its_number() {
        let injected = ["heddle-init", "heddle-proxy"];
        let ours = with("livenessProbe", &get(&json!(15021)));
        assert_eq!(rewritten(&injected, &ours), Ok((Vec::new(), Map::new())));
        let written = with("livenessProbe", &get(&json!("15021")));
        assert!(rewritten(&injected, &written).is_err());
    }
}
