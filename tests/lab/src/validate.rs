//! Refuses what the lab cannot honour, before anything changes: each refusal names the file, the object, the field
//! and what to do.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod, Service, Volume};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::env::FIELD_PATHS;
use crate::manifest::{Key, Kind, Manifest};
use crate::schema;

/// Checks all manifests and gives each a namespace; all faults at once, a line each.
pub fn validate(manifests: Vec<Manifest>) -> Result<Vec<Manifest>, String> {
    let mut seen = BTreeSet::new();
    let mut faults = Vec::new();
    let mut good = Vec::new();
    for mut manifest in manifests {
        let fault = complete(&mut manifest.object).and_then(|key| match seen.insert(key.clone()) {
            true => check(&key, &manifest.object).map_err(|why| format!("{key}: {why}")),
            false => Err(format!("{key}: is given twice")),
        });
        match fault {
            Ok(()) => good.push(manifest),
            Err(why) => faults.push(format!("{}: {why}", manifest.file)),
        }
    }
    match faults.is_empty() {
        true => Ok(good),
        false => Err(faults.join("\n")),
    }
}

/// Checks kind, version and name, and sets the namespace that Kubernetes would.
fn complete(object: &mut Value) -> Result<Key, String> {
    if !object.is_object() {
        return Err("holds a document that is not an object".to_owned());
    }
    let text = |field: &str| object.pointer(field).and_then(Value::as_str).map(str::to_owned);
    let kind = Kind::find(&text("/kind").ok_or("an object has no kind")?)?;
    let version = text("/apiVersion").unwrap_or_default();
    let name = text("/metadata/name").ok_or_else(|| format!("a {} has no metadata.name", kind.kind))?;
    if !kind.has_version(&version) {
        return Err(format!("{} {name}: apiVersion {version:?} is not one of this kind's", kind.kind));
    }
    if !is_name(&name) || name.len() > 253 {
        return Err(format!("{} {name:?}: metadata.name is not a lower-case DNS name", kind.kind));
    }
    if kind.namespaced && text("/metadata/namespace").is_none() {
        object["metadata"]["namespace"] = "default".into();
    }
    let key = Key::of(object);
    if kind.namespaced && (!is_label(&key.namespace)) {
        return Err(format!("{key}: metadata.namespace is not a lower-case DNS label"));
    }
    Ok(key)
}

fn check(key: &Key, object: &Value) -> Result<(), String> {
    if let Some(path) = schema::first_unsupported(&key.kind, object) {
        return Err(format!("{path}: not supported by the lab (docs/lab.md lists what is)"));
    }
    match key.kind.as_str() {
        "Pod" => check_pod(&typed(object)?),
        "Service" => check_service(&typed(object)?),
        "EndpointSlice" => typed::<EndpointSlice>(object).map(drop),
        "ConfigMap" => typed::<k8s_openapi::api::core::v1::ConfigMap>(object).map(drop),
        "Secret" => typed::<k8s_openapi::api::core::v1::Secret>(object).map(drop),
        _ => match wrong_number(&object["spec"], "spec") {
            Some(path) => Err(format!("{path}: must be a whole number")),
            None => Ok(()),
        },
    }
}

/// Routes have no types of their own here; the slip that people make most in them is found by path all the same.
fn wrong_number(value: &Value, path: &str) -> Option<String> {
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, child)| {
            let path = format!("{path}.{name}");
            let counts = matches!(name.as_str(), "port" | "weight" | "statusCode");
            let wrong = counts && !child.is_i64() && !child.is_null() && !child.is_object();
            if wrong { Some(path) } else { wrong_number(child, &path) }
        }),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(i, child)| wrong_number(child, &format!("{path}[{i}]")))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn typed<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    serde_json::from_value(object.clone()).map_err(|why| why.to_string())
}

fn check_service(service: &Service) -> Result<(), String> {
    let spec = service.spec.as_ref().ok_or("spec: missing")?;
    let must_be = |field: &str, value: Option<&str>, only: &str| match value {
        Some(other) if other != only => {
            Err(format!("spec.{field}: {other} is not supported by the lab, only {only}"))
        }
        _ => Ok(()),
    };
    must_be("type", spec.type_.as_deref(), "ClusterIP")?;
    must_be("sessionAffinity", spec.session_affinity.as_deref(), "None")?;
    must_be("internalTrafficPolicy", spec.internal_traffic_policy.as_deref(), "Cluster")?;
    let ports = spec.ports.as_deref().unwrap_or_default();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if ports.is_empty() && !headless {
        return Err("spec.ports: needs at least one port".to_owned());
    }
    if ports.len() > 1 && ports.iter().any(|p| p.name.is_none()) {
        return Err("spec.ports: each needs a name when there are several".to_owned());
    }
    for ip in spec
        .cluster_ip
        .iter()
        .chain(spec.cluster_ips.iter().flatten())
        .chain(spec.external_ips.iter().flatten())
    {
        if !matches!(ip.as_str(), "None" | "") && ip.parse::<std::net::IpAddr>().is_err() {
            return Err(format!("spec.clusterIP: {ip} is not an IP address"));
        }
    }
    match ports.iter().position(|p| !(1..=65535).contains(&p.port)) {
        Some(i) => Err(format!("spec.ports[{i}].port: is not a port")),
        None => Ok(()),
    }
}

fn check_pod(pod: &Pod) -> Result<(), String> {
    let spec = pod.spec.as_ref().ok_or("spec: missing")?;
    if spec.containers.is_empty() {
        return Err("spec.containers: needs at least one container".to_owned());
    }
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    for (i, volume) in volumes.iter().enumerate() {
        check_volume(volume).map_err(|why| format!("spec.volumes[{i}]{why}"))?;
    }
    let mut names = BTreeSet::new();
    let init = spec.init_containers.iter().flatten().enumerate().map(|(i, c)| ("initContainers", i, c));
    for (list, i, container) in
        init.chain(spec.containers.iter().enumerate().map(|(i, c)| ("containers", i, c)))
    {
        let at = |why: String| format!("spec.{list}[{i}]{why}");
        if !is_label(&container.name) || !names.insert(&container.name) {
            return Err(at(format!(".name: {:?} is not a DNS label or is given twice", container.name)));
        }
        check_container(container, list == "initContainers", volumes).map_err(at)?;
    }
    let label = |field: &str, value: &Option<String>| match value {
        Some(v) if !is_label(v) => Err(format!("spec.{field}: {v:?} is not a lower-case DNS label")),
        _ => Ok(()),
    };
    label("hostname", &spec.hostname)?;
    label("subdomain", &spec.subdomain)
}

fn check_container(container: &Container, init: bool, volumes: &[Volume]) -> Result<(), String> {
    if container.command.as_ref().is_none_or(Vec::is_empty) {
        return Err(".command: is needed, since the lab ignores images".to_owned());
    }
    match container.restart_policy.as_deref() {
        None => {}
        Some("Always") if init => {}
        Some(other) => return Err(format!(".restartPolicy: {other}: only Always, on an init container")),
    }
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        if !volumes.iter().any(|v| v.name == mount.name) {
            return Err(format!(".volumeMounts[{i}].name: there is no volume {}", mount.name));
        }
        if !mount.mount_path.starts_with('/') || mount.mount_path.split('/').any(|s| s == "..") {
            return Err(format!(".volumeMounts[{i}].mountPath: must be absolute, without `..`"));
        }
    }
    for (i, env) in container.env.iter().flatten().enumerate() {
        let path = env.value_from.as_ref().and_then(|v| v.field_ref.as_ref()).map(|f| f.field_path.as_str());
        if path.is_some_and(|p| !FIELD_PATHS.contains(&p.split('[').next().unwrap_or(p))) {
            return Err(format!(
                ".env[{i}].valueFrom.fieldRef: not supported by the lab; it knows {}",
                FIELD_PATHS.join(", ")
            ));
        }
    }
    let probes = [&container.startup_probe, &container.readiness_probe, &container.liveness_probe];
    let names = ["startupProbe", "readinessProbe", "livenessProbe"];
    for (name, probe) in names.iter().zip(probes).filter_map(|(n, p)| Some((n, p.as_ref()?))) {
        let handlers = [
            probe.exec.is_some(),
            probe.http_get.is_some(),
            probe.tcp_socket.is_some(),
            probe.grpc.is_some(),
        ];
        if handlers.iter().filter(|h| **h).count() != 1 {
            return Err(format!(".{name}: needs exactly one of exec, httpGet, tcpSocket, grpc"));
        }
    }
    Ok(())
}

fn check_volume(volume: &Volume) -> Result<(), String> {
    let sources = [
        volume.empty_dir.is_some(),
        volume.config_map.is_some(),
        volume.secret.is_some(),
        volume.projected.is_some(),
    ];
    match sources.iter().filter(|s| **s).count() {
        1 => Ok(()),
        _ => Err(format!(": {} needs exactly one of emptyDir, configMap, secret, projected", volume.name)),
    }
}

/// RFC 1123 label.
fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// RFC 1123 subdomain.
fn is_name(text: &str) -> bool {
    text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::parse;
    use crate::protocol::Source;

    const OBJECT: &str = "apiVersion: v1\nmetadata: {name: web, namespace: shop}\n";

    #[track_caller]
    fn check(yaml: &str, expected: Result<(), &str>) {
        let source = Source { file: "x.yaml".to_owned(), text: format!("{OBJECT}{yaml}") };
        let found = validate(parse(&[source]).expect("yaml")).map(drop);
        match expected {
            Ok(()) => assert_eq!(found, Ok(())),
            Err(part) => {
                let why = found.expect_err("refused");
                assert!(why.starts_with("x.yaml: ") && why.contains(part), "{why}");
            }
        }
    }

    #[test]
    fn a_pod_needs_a_command_because_images_are_ignored() {
        check(
            "kind: Pod\nspec: {containers: [{name: a, image: b}]}",
            Err("Pod shop/web: spec.containers[0].command"),
        );
        check("kind: Pod\nspec: {containers: [{name: a, command: [b]}]}", Ok(()));
    }

    #[test]
    fn refusals_name_file_object_and_field() {
        check(
            "kind: Pod\nspec: {nodeSelector: {}, containers: [{name: a, command: [b]}]}",
            Err("x.yaml: Pod shop/web: spec.nodeSelector: not supported"),
        );
        check("kind: Deployment", Err("kind Deployment is not supported"));
        check("kind: Service\nspec: {type: NodePort, ports: [{port: 1}]}", Err("spec.type: NodePort"));
    }

    #[test]
    fn mounts_need_their_volume() {
        let pod = "kind: Pod\nspec: {containers: [{name: a, command: [b], volumeMounts: [{name: v, mountPath: /x}]}]}";
        check(pod, Err("spec.containers[0].volumeMounts[0].name: there is no volume v"));
    }

    #[test]
    fn unknown_downward_fields_are_refused() {
        let pod = |path: &str| {
            format!(
                "kind: Pod\nspec: {{containers: [{{name: a, command: [b], env: [{{name: E, valueFrom: {{fieldRef: {{fieldPath: \"{path}\"}}}}}}]}}]}}"
            )
        };
        check(&pod("spec.foo"), Err("env[0].valueFrom.fieldRef"));
        check(&pod("metadata.labels['app']"), Ok(()));
    }

    #[test]
    fn an_object_given_twice_is_refused() {
        check(&format!("kind: ConfigMap\n---\n{OBJECT}kind: ConfigMap"), Err("is given twice"));
    }

    #[test]
    fn a_routes_port_is_a_number() {
        let route = |port: &str| {
            let source = Source {
                file: "x".to_owned(),
                text: format!(
                    "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: a}}, \
                     spec: {{rules: [{{backendRefs: [{{port: {port}}}]}}]}}}}"
                ),
            };
            validate(parse(&[source]).expect("yaml")).map(drop)
        };
        let why = route("eighty").expect_err("refused");
        assert!(why.contains("spec.rules[0].backendRefs[0].port: must be"), "{why}");
        assert_eq!(route("80"), Ok(()));
    }

    #[test]
    fn names_cannot_be_paths() {
        let source = Source {
            file: "x".to_owned(),
            text: "{apiVersion: v1, kind: Pod, metadata: {name: ../a}}".to_owned(),
        };
        assert!(validate(parse(&[source]).expect("yaml")).is_err());
    }
}
