//! A container's environment: values, references to the pod's own fields, to ConfigMaps and Secrets, and `$(NAME)`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource};
use serde_json::Value;

/// The downward API fields that the lab knows, without an index in brackets.
pub const FIELD_PATHS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "metadata.labels",
    "metadata.annotations",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.podIP",
    "status.podIPs",
    "status.hostIP",
    "status.hostIPs",
];

/// Finds the data of a ConfigMap or Secret of the pod's namespace.
pub trait Data {
    /// A ConfigMap's entries.
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>>;
    /// A Secret's entries, decoded.
    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>>;
}

/// A downward API field of a pod object, as text.
pub fn field(pod: &Value, path: &str) -> Option<String> {
    if let Some((map, key)) = path.split_once("['") {
        let value = pod.pointer(&format!("/{}", map.replace('.', "/")))?.get(key.strip_suffix("']")?)?;
        return value.as_str().map(str::to_owned);
    }
    let all = |list: &str| {
        let ips: Vec<_> = pod.pointer(list)?.as_array()?.iter().filter_map(|ip| ip["ip"].as_str()).collect();
        Some(ips.join(","))
    };
    match path {
        "status.podIPs" => all("/status/podIPs"),
        "status.hostIPs" => all("/status/hostIPs"),
        "metadata.labels" | "metadata.annotations" => Some(lines(pod.pointer(&pointer(path))?)),
        path if FIELD_PATHS.contains(&path) => {
            Some(pod.pointer(&pointer(path)).and_then(Value::as_str).unwrap_or_default().to_owned())
        }
        _ => None,
    }
}

fn pointer(path: &str) -> String {
    format!("/{}", path.replace('.', "/"))
}

/// As the downward API writes a whole map: `key="value"`, a line each.
fn lines(map: &Value) -> String {
    let entries = map.as_object().into_iter().flatten();
    entries.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join("\n")
}

/// The environment that a container's manifest asks for, in Kubernetes' order: envFrom first, env overrides.
/// The error says which reference cannot be met; it may be met later.
pub fn of_container(
    container: &Container,
    pod: &Value,
    data: &dyn Data,
) -> Result<BTreeMap<String, String>, String> {
    let mut env = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        let (entries, what, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(r), _) => (data.config_map(&r.name), format!("ConfigMap {}", r.name), r.optional),
            (None, Some(r)) => (data.secret(&r.name), format!("Secret {}", r.name), r.optional),
            (None, None) => continue,
        };
        match entries {
            Some(entries) => env.extend(entries.into_iter().map(|(k, v)| (format!("{prefix}{k}"), text(&v)))),
            None if optional == Some(true) => {}
            None => return Err(format!("{what} does not exist")),
        }
    }
    for var in container.env.iter().flatten() {
        if let Some(value) = value_of(var, &env, pod, data)? {
            env.insert(var.name.clone(), value);
        }
    }
    Ok(env)
}

fn value_of(
    var: &EnvVar,
    env: &BTreeMap<String, String>,
    pod: &Value,
    data: &dyn Data,
) -> Result<Option<String>, String> {
    match &var.value_from {
        None => Ok(Some(expand(var.value.as_deref().unwrap_or_default(), env))),
        Some(source) => from_source(source, pod, data),
    }
}

fn from_source(source: &EnvVarSource, pod: &Value, data: &dyn Data) -> Result<Option<String>, String> {
    let pick =
        |entries: Option<BTreeMap<String, Vec<u8>>>, key: &str, what: String, optional: Option<bool>| {
            match entries.as_ref().and_then(|e| e.get(key)) {
                Some(value) => Ok(Some(text(value))),
                None if optional == Some(true) => Ok(None),
                None => Err(format!("{what} has no key {key} or does not exist")),
            }
        };
    if let Some(r) = &source.field_ref {
        return Ok(Some(field(pod, &r.field_path).unwrap_or_default()));
    }
    if let Some(r) = &source.config_map_key_ref {
        return pick(data.config_map(&r.name), &r.key, format!("ConfigMap {}", r.name), r.optional);
    }
    match &source.secret_key_ref {
        Some(r) => pick(data.secret(&r.name), &r.key, format!("Secret {}", r.name), r.optional),
        None => Ok(None),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Kubernetes' `$(NAME)`: replaced when NAME is known, left as it is otherwise; `$$` is a plain `$`.
pub fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let tail = tail.strip_prefix('$').unwrap_or(tail);
        let named = tail.strip_prefix('(').and_then(|t| t.split_once(')'));
        rest = match (tail.strip_prefix('$'), named) {
            (Some(after), _) => {
                out.push('$');
                after
            }
            (None, Some((name, after))) if env.contains_key(name) => {
                out.push_str(&env[name]);
                after
            }
            (None, _) => {
                out.push('$');
                tail
            }
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Some1;
    impl Data for Some1 {
        fn config_map(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
            (name == "settings").then(|| BTreeMap::from([("COLOUR".to_owned(), b"red".to_vec())]))
        }
        fn secret(&self, _: &str) -> Option<BTreeMap<String, Vec<u8>>> {
            None
        }
    }

    fn pod() -> Value {
        serde_json::json!({
            "metadata": {"name": "web", "labels": {"app.kubernetes.io/name": "x"}},
            "status": {
                "podIP": "10.1.0.2",
                "podIPs": [{"ip": "10.1.0.2"}, {"ip": "fd00:1::2"}],
                "hostIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
            },
        })
    }

    #[track_caller]
    fn check(yaml: &str, expected: &[(&str, &str)]) {
        let container: Container = serde_norway::from_str(yaml).expect("yaml");
        let found = of_container(&container, &pod(), &Some1).expect("met");
        let expected: BTreeMap<_, _> =
            expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn variables_refer_to_earlier_ones() {
        check(
            "{name: a, env: [{name: A, value: x}, {name: B, value: '$(A)-$(C)-$$(A)'}]}",
            &[("A", "x"), ("B", "x-$(C)-$(A)")],
        );
    }

    #[test]
    fn fields_of_the_pod_are_seen() {
        let from = |path: &str| format!("{{name: E, valueFrom: {{fieldRef: {{fieldPath: \"{path}\"}}}}}}");
        check(&format!("{{name: a, env: [{}]}}", from("status.podIPs")), &[("E", "10.1.0.2,fd00:1::2")]);
        check(&format!("{{name: a, env: [{}]}}", from("status.hostIPs")), &[("E", "10.0.0.1,fd00::1")]);
        check(
            &format!("{{name: a, env: [{}]}}", from("metadata.labels['app.kubernetes.io/name']")),
            &[("E", "x")],
        );
    }

    #[test]
    fn config_maps_come_first_and_env_overrides() {
        check("{name: a, envFrom: [{prefix: P_, configMapRef: {name: settings}}]}", &[("P_COLOUR", "red")]);
        check(
            "{name: a, envFrom: [{configMapRef: {name: settings}}], env: [{name: COLOUR, value: blue}]}",
            &[("COLOUR", "blue")],
        );
    }

    #[test]
    fn a_missing_reference_is_said_unless_optional() {
        let container: Container =
            serde_norway::from_str("{name: a, envFrom: [{secretRef: {name: gone}}]}").expect("yaml");
        assert_eq!(of_container(&container, &pod(), &Some1), Err("Secret gone does not exist".to_owned()));
        check("{name: a, envFrom: [{secretRef: {name: gone, optional: true}}]}", &[]);
    }
}
