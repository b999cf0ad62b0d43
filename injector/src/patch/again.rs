//! A pod that was injected, and changed by another webhook after that: our containers go to the front again, and the probes
//! of containers that came later are led through the proxy, too.

use k8s_openapi::api::core::v1::{Container, Pod};
use mesh::contract::{INIT_CONTAINER, PROXY_CONTAINER};
use serde_json::{Map, Value, json};

use super::containers::PROBES;
use super::probes::{Nonce, rewrite};
use super::{Decision, init_containers};

/// What is still to be done with `pod`: mostly nothing.
pub fn decide(pod: &Pod, nonce: Nonce) -> Decision {
    match operations(pod, nonce) {
        Ok(operations) if operations.is_empty() => Decision::Leave,
        Ok(operations) => Decision::Patch { operations, warnings: Vec::new() },
        Err(reason) => Decision::Deny(reason),
    }
}

/// The moves come last: all before them counts by the present places.
fn operations(pod: &Pod, nonce: Nonce) -> Result<Vec<Value>, String> {
    let (mut operations, new) = rewrite(pod, nonce)?;
    if !new.is_empty() {
        operations.push(told(pod, new)?);
    }
    let names: Vec<&str> = init_containers(pod).map(|container| container.name.as_str()).collect();
    operations.extend(moves(names));
    Ok(operations)
}

/// Tells the proxy of new probes.
fn told(pod: &Pod, new: Map<String, Value>) -> Result<Value, String> {
    let (at, proxy) = init_containers(pod)
        .enumerate()
        .find(|(_, container)| container.name == PROXY_CONTAINER)
        .ok_or("the pod has no proxy")?;
    let path = format!("/spec/initContainers/{at}/env");
    let Some((variable, known)) = probes(proxy) else {
        let value = Value::Object(new).to_string();
        return Ok(
            json!({"op": "add", "path": format!("{path}/-"), "value": {"name": PROBES, "value": value}}),
        );
    };
    let mut all: Map<String, Value> = serde_json::from_str(known)
        .map_err(|error| format!("the proxy's {PROBES} cannot be read: {error}"))?;
    all.extend(new);
    let value = Value::Object(all).to_string();
    Ok(json!({"op": "replace", "path": format!("{path}/{variable}/value"), "value": value}))
}

/// The place and the value of the variable that holds the probes.
fn probes(proxy: &Container) -> Option<(usize, &str)> {
    let mut variables = proxy.env.iter().flatten().enumerate();
    let (at, variable) = variables.find(|(_, variable)| variable.name == PROBES)?;
    Some((at, variable.value.as_deref()?))
}

/// What brings our two containers to the front, in their order.
fn moves(mut names: Vec<&str>) -> Vec<Value> {
    let mut moves = Vec::new();
    for (place, ours) in [INIT_CONTAINER, PROXY_CONTAINER].into_iter().enumerate() {
        let Some(from) = names.iter().position(|name| *name == ours).filter(|from| *from != place) else {
            continue;
        };
        let name = names.remove(from);
        names.insert(place, name);
        let path = |place: usize| format!("/spec/initContainers/{place}");
        moves.push(json!({"op": "move", "from": path(from), "path": path(place)}));
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    const NONCE: Nonce = Nonce(1);

    /// The pod after the patch.
    fn after(pod: &Value) -> Value {
        let Decision::Patch { operations, .. } = decide(&Pod::deserialize(pod).unwrap(), NONCE) else {
            panic!("nothing is done")
        };
        let mut pod = pod.clone();
        let patch: json_patch::Patch = serde_json::from_value(json!(operations)).unwrap();
        json_patch::patch(&mut pod, &patch).unwrap();
        assert_eq!(decide(&Pod::deserialize(&pod).unwrap(), NONCE), Decision::Leave);
        pod
    }

    fn pod(init: &[Value], containers: &Value) -> Value {
        json!({"metadata": {"name": "web"}, "spec": {"initContainers": init, "containers": containers}})
    }

    fn ours() -> [Value; 2] {
        let env =
            json!([{"name": "A", "value": "b"}, {"name": PROBES, "value": "{\"web/livenessProbe\":{}}"}]);
        let probe = json!({"httpGet": {"path": "/ready", "port": 15021}});
        [
            json!({"name": "heddle-init"}),
            json!({"name": "heddle-proxy", "restartPolicy": "Always", "env": env, "startupProbe": probe}),
        ]
    }

    #[track_caller]
    fn check_order(before: &[&str], expected: &[&str]) {
        let [init, proxy] = ours();
        let container = |name: &&str| match *name {
            "heddle-init" => init.clone(),
            "heddle-proxy" => proxy.clone(),
            other => json!({"name": other}),
        };
        let containers: Vec<Value> = before.iter().map(container).collect();
        let after = after(&pod(&containers, &json!([{"name": "web"}])));
        let names: Vec<_> = after["spec"]["initContainers"].as_array().unwrap().iter().collect();
        let names: Vec<_> = names.iter().map(|container| container["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn our_containers_come_to_the_front_again() {
        check_order(&["a", "heddle-init", "heddle-proxy"], &["heddle-init", "heddle-proxy", "a"]);
        check_order(&["heddle-init", "a", "heddle-proxy", "b"], &["heddle-init", "heddle-proxy", "a", "b"]);
        check_order(&["a", "heddle-proxy", "b", "heddle-init"], &["heddle-init", "heddle-proxy", "a", "b"]);
    }

    #[test]
    fn probes_that_came_later_are_led_through_the_proxy_too() {
        let probe = json!({"httpGet": {"path": "/app-probe/web/livenessProbe", "port": 15021}});
        let containers = json!([
            {"name": "web", "livenessProbe": probe},
            {"name": "late", "readinessProbe": {"tcpSocket": {"port": 7}}},
        ]);
        let after = after(&pod(&ours(), &containers));
        let path = &after["spec"]["containers"][1]["readinessProbe"]["httpGet"]["path"];
        assert_eq!(path, "/app-probe/late/readinessProbe");
        let told = after["spec"]["initContainers"][1]["env"][1]["value"].as_str().unwrap();
        let told: Value = serde_json::from_str(told).unwrap();
        assert_eq!(told["late/readinessProbe"]["tcpSocket"]["port"], 7);
        assert_eq!(told["web/livenessProbe"], json!({}));
    }

    #[test]
    fn a_pod_as_we_left_it_is_left_alone() {
        let pod = pod(&ours(), &json!([{"name": "web"}]));
        assert_eq!(decide(&Pod::deserialize(&pod).unwrap(), NONCE), Decision::Leave);
    }
}
