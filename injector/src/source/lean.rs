//! An object cut down to what the mesh needs: a whole pod has ten times as much, and there are tens of thousands.

use mesh::contract::PROXY_CONTAINER;
use mesh::pod::ZONE;
use serde_json::{Map, Value, json};

use super::complete::forget_last_applied;

/// Takes away what no decision needs and no proxy is told.
pub fn prune(value: &mut Value) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["managedFields", "resourceVersion", "selfLink", "finalizers"] {
            metadata.remove(field);
        }
        forget_last_applied(metadata);
    }
    if value["spec"]["containers"].is_array() {
        *value = pod(value);
    } else if value["status"]["nodeInfo"].is_object() {
        *value = node(value);
    } else if let Some(annotations) =
        value.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"))
    {
        // Anybody may write much into them.
        *annotations = ours(annotations);
    }
}

/// What is left of a Pod: the fields that `mesh::pod::reduce` reads, and those that say whether it should be meshed.
fn pod(pod: &Value) -> Value {
    let init = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    let init: Vec<Value> = init.filter(|one| one["name"] == PROXY_CONTAINER).map(container).collect();
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.filter(|condition| condition["type"] == "Ready");
    let ready: Vec<Value> = ready.map(|condition| kept(condition, &["type", "status"])).collect();
    let mut metadata = kept(&pod["metadata"], &["name", "namespace", "uid", "deletionTimestamp"]);
    metadata["annotations"] = ours(&pod["metadata"]["annotations"]);
    metadata["labels"] = ours(&pod["metadata"]["labels"]);
    // Its node's, which Kubernetes writes on pods, too (KEP-4742).
    if let Some(zone) = pod["metadata"]["labels"].get(ZONE) {
        metadata["labels"][ZONE] = zone.clone();
    }
    let mut spec = kept(&pod["spec"], &["serviceAccountName", "nodeName", "hostNetwork"]);
    spec["initContainers"] = json!(init);
    spec["containers"] = json!([]);
    let mut status = kept(&pod["status"], &["phase", "podIPs"]);
    status["conditions"] = json!(ready);
    json!({"metadata": metadata, "spec": spec, "status": status})
}

/// What is left of the proxy's container: what tells that it is the proxy, and what that was told of its ports.
fn container(container: &Value) -> Value {
    let mut left = kept(container, &["name", "restartPolicy"]);
    let env = container["env"].as_array().into_iter().flatten();
    let ports = env.filter(|variable| variable["name"].as_str().is_some_and(mesh::pod::tells_ports));
    let ports: Vec<Value> = ports.cloned().collect();
    if !ports.is_empty() {
        left["env"] = json!(ports);
    }
    left
}

/// What is left of a Node, of which a kubelet writes a new version every few minutes.
fn node(node: &Value) -> Value {
    let mut metadata = kept(&node["metadata"], &["name", "uid"]);
    metadata["labels"] = kept(&node["metadata"]["labels"], &[ZONE]);
    let status = kept(&node["status"], &["addresses"]);
    json!({"metadata": metadata, "spec": kept(&node["spec"], &["podCIDRs"]), "status": status})
}

fn kept(value: &Value, fields: &[&str]) -> Value {
    let present = fields.iter().filter_map(|field| Some(((*field).to_owned(), value.get(*field)?.clone())));
    Value::Object(present.collect::<Map<_, _>>())
}

/// The labels or annotations that are Heddle's.
fn ours(map: &Value) -> Value {
    let all = map.as_object().into_iter().flatten();
    let ours = all.filter(|(name, _)| name.starts_with(mesh::contract::ANNOTATION_PREFIX));
    Value::Object(ours.map(|(name, value)| (name.clone(), value.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_own_zone_is_left() {
        let labels = json!({ZONE: "east", "app": "web", "heddle.dev/inject": "enabled"});
        let mut value = json!({"metadata": {"name": "a", "labels": labels}, "spec": {"containers": []}});
        prune(&mut value);
        assert_eq!(value["metadata"]["labels"], json!({ZONE: "east", "heddle.dev/inject": "enabled"}));
    }

    #[test]
    fn of_a_pods_containers_the_proxy_alone_is_left() {
        let containers =
            json!([{"name": "setup"}, {"name": PROXY_CONTAINER, "restartPolicy": "Always", "image": "i"}]);
        let mut value =
            json!({"metadata": {"name": "a"}, "spec": {"containers": [], "initContainers": containers}});
        prune(&mut value);
        assert_eq!(
            value["spec"]["initContainers"],
            json!([{"name": PROXY_CONTAINER, "restartPolicy": "Always"}])
        );
    }
}
