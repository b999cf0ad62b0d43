//! A pod that was injected, and changed by another webhook after that, or that is a copy of such a pod: our containers go
//! to the front again, the probes of containers that came later are led through the proxy, too, and a container that is ours
//! by its name alone is made ours.

use k8s_openapi::api::core::v1::{Container, Pod};
use mesh::contract::{INIT_CONTAINER, PROXY_CONTAINER};
use mesh::settings::Settings;
use serde_json::{Map, Value, json};

use super::containers::PROBES;
use super::probes::{Nonce, rewrite};
use super::{Config, Decision, containers, init_containers};

/// What is still to be done with `pod`: mostly nothing.
pub fn decide(pod: &Pod, settings: &Settings, config: &Config, nonce: Nonce) -> Decision {
    match operations(pod, settings, config, nonce) {
        Ok(operations) if operations.is_empty() => Decision::Leave,
        Ok(operations) => Decision::Patch { operations, warnings: Vec::new() },
        Err(reason) => Decision::Deny(reason),
    }
}

/// The moves come last: all before them counts by the present places.
fn operations(pod: &Pod, settings: &Settings, config: &Config, nonce: Nonce) -> Result<Vec<Value>, String> {
    let (mut operations, new) = rewrite(pod, nonce)?;
    for (at, container) in init_containers(pod).enumerate() {
        let wanted = match container.name.as_str() {
            INIT_CONTAINER => containers::init(settings, config),
            PROXY_CONTAINER => {
                let mut probes = known_probes(container)?;
                probes.extend(new.clone());
                containers::proxy(settings, config, &probes)
            }
            _ => continue,
        };
        if !is_as(container, &wanted) {
            let path = format!("/spec/initContainers/{at}");
            operations.push(json!({"op": "replace", "path": path, "value": wanted}));
        } else if container.name == PROXY_CONTAINER && !new.is_empty() {
            operations.push(told(pod, new.clone())?);
        }
    }
    let names: Vec<&str> = init_containers(pod).map(|container| container.name.as_str()).collect();
    operations.extend(moves(names));
    Ok(operations)
}

/// The probes that the proxy was told of.
fn known_probes(proxy: &Container) -> Result<Map<String, Value>, String> {
    let Some((_, known)) = probes(proxy) else { return Ok(Map::new()) };
    serde_json::from_str(known).map_err(|error| format!("the proxy's {PROBES} cannot be read: {error}"))
}

/// Whether a container is what we would make now. Others may have added to it, set its resources, or had its image come from
/// elsewhere, but not told the proxy what to do; the probes are told apart.
fn is_as(container: &Container, wanted: &Value) -> bool {
    let Ok(present) = serde_json::to_value(container) else { return false };
    let variables = |container: &Value| -> Vec<Value> {
        let all = container["env"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|variable| variable["name"] != PROBES).collect()
    };
    let (told, mut ours) = (variables(&present), variables(wanted));
    let is_ours = |variable: &Value| {
        let name = variable["name"].as_str().unwrap_or_default();
        name.starts_with("HEDDLE_") || ours.iter().any(|own| own["name"] == name)
    };
    let mut told: Vec<Value> = told.into_iter().filter(is_ours).collect();
    told.sort_by_key(|variable| variable["name"].to_string());
    ours.sort_by_key(|variable| variable["name"].to_string());
    let same_variables = told.len() == ours.len() && told.iter().zip(&ours).all(|(t, o)| holds(t, o));
    let mut rest = wanted.clone();
    rest.as_object_mut().into_iter().for_each(|fields| {
        fields.retain(|name, _| !["env", "image", "resources"].contains(&name.as_str()));
    });
    let same_image = image_name(&present["image"]) == image_name(&wanted["image"]);
    let told_otherwise = container.env_from.iter().flatten().next().is_some();
    same_image && !told_otherwise && same_variables && holds(&present, &rest)
}

/// The last part of an image's name: mirrors change its registry and path, and pin its digest.
fn image_name(image: &Value) -> &str {
    let name = image.as_str().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default();
    name.split(['@', ':']).next().unwrap_or_default()
}

/// Whether `present` has all that `wanted` has. Of lists of named things, each must be there once; other lists are the same.
fn holds(present: &Value, wanted: &Value) -> bool {
    match wanted {
        Value::Object(fields) => fields.iter().all(|(name, field)| holds(&present[name], field)),
        Value::Array(all) if all.is_empty() => present.as_array().is_none_or(Vec::is_empty),
        Value::Array(all) if all.iter().all(|one| one["name"].is_string()) => all.iter().all(|one| {
            let named = present.as_array().into_iter().flatten().filter(|other| other["name"] == one["name"]);
            let named: Vec<&Value> = named.collect();
            matches!(named[..], [only] if holds(only, one))
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            present == wanted
        }
    }
}

/// Tells the proxy of new probes.
fn told(pod: &Pod, new: Map<String, Value>) -> Result<Value, String> {
    let (at, proxy) = init_containers(pod)
        .enumerate()
        .find(|(_, container)| container.name == PROXY_CONTAINER)
        .ok_or("the pod has no proxy")?;
    let path = format!("/spec/initContainers/{at}/env");
    let mut all = known_probes(proxy)?;
    all.extend(new);
    let value = Value::Object(all).to_string();
    Ok(match probes(proxy) {
        Some((variable, _)) => {
            json!({"op": "replace", "path": format!("{path}/{variable}/value"), "value": value})
        }
        None => json!({"op": "add", "path": format!("{path}/-"), "value": {"name": PROBES, "value": value}}),
    })
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

    fn again(pod: &Value) -> Decision {
        decide(&Pod::deserialize(pod).unwrap(), &Settings::default(), &crate::patch::tests::config(), NONCE)
    }

    /// The pod after the patch.
    fn after(pod: &Value) -> Value {
        let Decision::Patch { operations, .. } = again(pod) else { panic!("nothing is done") };
        let mut pod = pod.clone();
        let patch: json_patch::Patch = serde_json::from_value(json!(operations)).unwrap();
        json_patch::patch(&mut pod, &patch).unwrap();
        assert_eq!(again(&pod), Decision::Leave);
        pod
    }

    fn pod(init: &[Value], containers: &Value) -> Value {
        json!({"metadata": {"name": "web"}, "spec": {"initContainers": init, "containers": containers}})
    }

    fn ours() -> [Value; 2] {
        let (settings, config) = (Settings::default(), crate::patch::tests::config());
        let probes = json!({"web/livenessProbe": {}});
        let proxy = containers::proxy(&settings, &config, probes.as_object().unwrap());
        [containers::init(&settings, &config), proxy]
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
        let env = after["spec"]["initContainers"][1]["env"].as_array().unwrap();
        let told = env.iter().find(|variable| variable["name"] == PROBES).unwrap()["value"].as_str().unwrap();
        let told: Value = serde_json::from_str(told).unwrap();
        assert_eq!(told["late/readinessProbe"]["tcpSocket"]["port"], 7);
        assert_eq!(told["web/livenessProbe"], json!({}));
    }

    #[test]
    fn a_pod_as_we_left_it_is_left_alone() {
        assert_eq!(again(&pod(&ours(), &json!([{"name": "web"}]))), Decision::Leave);
    }

    #[test]
    fn what_others_add_to_our_containers_stays() {
        let [init, mut proxy] = ours();
        proxy["volumeMounts"].as_array_mut().unwrap().push(json!({"name": "certs", "mountPath": "/certs"}));
        proxy["env"].as_array_mut().unwrap().push(json!({"name": "HTTP_PROXY", "value": "none"}));
        proxy["terminationMessagePath"] = json!("/dev/termination-log");
        proxy["image"] = json!("mirror.example.com:5000/team/heddle-proxy@sha256:0123");
        proxy["resources"] = json!({"requests": {"cpu": "500m"}});
        assert_eq!(again(&pod(&[init, proxy], &json!([{"name": "web"}]))), Decision::Leave);
    }

    /// A container that has our name and was changed becomes what it should be.
    #[track_caller]
    fn check_mended(change: impl Fn(&mut Value, &mut Value)) {
        let [mut init, mut proxy] = ours();
        change(&mut init, &mut proxy);
        let mended = after(&pod(&[init, proxy], &json!([{"name": "web"}])));
        assert_eq!(mended["spec"]["initContainers"], json!(ours()));
    }

    #[test]
    fn a_container_that_is_ours_by_its_name_alone_is_made_ours() {
        check_mended(|_, proxy| proxy["image"] = json!("mine"));
        check_mended(|init, _| init["command"] = json!(["true"]));
        check_mended(|_, proxy| proxy["securityContext"]["runAsUser"] = json!(0));
        let variable = |name: &str| json!({"name": name, "value": "permissive"});
        check_mended(|_, proxy| proxy["env"].as_array_mut().unwrap().push(variable("HEDDLE_MTLS_MODE")));
        check_mended(|_, proxy| proxy["env"].as_array_mut().unwrap().push(variable("HEDDLE_OPAQUE_PORTS")));
        check_mended(|_, proxy| proxy["envFrom"] = json!([{"configMapRef": {"name": "mine"}}]));
    }
}
