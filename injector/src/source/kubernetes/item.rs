//! An object as the API server sends it, cut down to what the mesh needs while it is read: of a list, one whole object at
//! a time is in memory.

use std::borrow::Cow;
use std::sync::Arc;

use kube::Resource;
use kube::core::{ApiResource, ObjectMeta};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::object::{Key, Kind, Object};
use crate::source::complete::forget_last_applied;

/// An object of any kind.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its names and resourceVersion; nothing else is needed typed.
    meta: ObjectMeta,
    value: Value,
}

impl Item {
    /// The key of the object, which is of `kind`.
    pub fn key(&self, kind: Kind) -> Key {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Key::new(kind, &text(&self.meta.namespace), &text(&self.meta.name))
    }

    /// The object. A Pod's JSON is not kept: all that is served of it is made from its typed form.
    pub fn object(mut self, kind: Kind, resource: &ApiResource) -> Result<Object, serde_json::Error> {
        // Items of a list do not repeat what the list says.
        self.value["apiVersion"] = json!(resource.api_version);
        self.value["kind"] = json!(resource.kind);
        let (key, version) = (self.key(kind), self.meta.resource_version.unwrap_or_default());
        let mut object = Object::decode(key, self.value)?;
        object.version = version;
        if matches!(kind, Kind::Pod | Kind::Node) {
            object.value = Value::Null;
        }
        Ok(object)
    }

    /// The object as a change of it.
    pub fn change(self, kind: Kind, resource: &ApiResource) -> Result<(Key, Option<Arc<Object>>), String> {
        let key = self.key(kind);
        match self.object(kind, resource) {
            Ok(object) => Ok((key, Some(Arc::new(object)))),
            Err(error) => Err(format!("{key} cannot be read: {error}; its last good version stays")),
        }
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let meta = meta(&value);
        prune(&mut value);
        Ok(Self { meta, value })
    }
}

fn meta(value: &Value) -> ObjectMeta {
    let text = |field: &str| value["metadata"][field].as_str().map(str::to_owned);
    ObjectMeta {
        name: text("name"),
        namespace: text("namespace"),
        resource_version: text("resourceVersion"),
        ..ObjectMeta::default()
    }
}

/// Takes away what no decision needs and no proxy is told.
fn prune(value: &mut Value) {
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
    let init: Vec<Value> = init.map(container).collect();
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.filter(|condition| condition["type"] == "Ready");
    let ready: Vec<Value> = ready.map(|condition| kept(condition, &["type", "status"])).collect();
    let mut metadata = kept(&pod["metadata"], &["name", "namespace", "uid", "deletionTimestamp"]);
    metadata["annotations"] = ours(&pod["metadata"]["annotations"]);
    metadata["labels"] = ours(&pod["metadata"]["labels"]);
    let mut spec = kept(&pod["spec"], &["serviceAccountName", "nodeName", "hostNetwork"]);
    spec["initContainers"] = json!(init);
    spec["containers"] = json!([]);
    let mut status = kept(&pod["status"], &["phase", "podIPs"]);
    status["conditions"] = json!(ready);
    json!({"metadata": metadata, "spec": spec, "status": status})
}

/// What is left of an init container: what tells whether it is the proxy, and what that was told of its ports.
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
    metadata["labels"] = kept(&node["metadata"]["labels"], &["topology.kubernetes.io/zone"]);
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

impl Resource for Item {
    type DynamicType = ApiResource;
    type Scope = kube::core::DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Typed;

    #[test]
    fn of_a_pod_only_what_the_mesh_needs_is_kept() {
        let whole = json!({
            "metadata": {
                "name": "web-0", "namespace": "shop", "uid": "u", "resourceVersion": "7", "managedFields": [{}],
                "labels": {"app": "web", "heddle.dev/inject": "enabled"}, "annotations": {"note": "long"},
            },
            "spec": {
                "containers": [{"name": "app", "image": "big"}], "nodeName": "n", "serviceAccountName": "web",
                "initContainers": [{
                    "name": "heddle-proxy", "restartPolicy": "Always", "image": "i",
                    "env": [{"name": "POD_NAME"}, {"name": "HEDDLE_SKIP_INBOUND_PORTS", "value": "9100"}],
                }],
            },
            "status": {
                "phase": "Running", "podIPs": [{"ip": "10.1.0.3"}], "containerStatuses": [{}],
                "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": null}, {"type": "Other"}],
            },
        });
        let item: Item = serde_json::from_value(whole).unwrap();
        let expected = json!({
            "metadata": {
                "name": "web-0", "namespace": "shop", "uid": "u",
                "labels": {"heddle.dev/inject": "enabled"}, "annotations": {},
            },
            "spec": {
                "containers": [], "nodeName": "n", "serviceAccountName": "web",
                "initContainers": [{
                    "name": "heddle-proxy", "restartPolicy": "Always",
                    "env": [{"name": "HEDDLE_SKIP_INBOUND_PORTS", "value": "9100"}],
                }],
            },
            "status": {
                "phase": "Running", "podIPs": [{"ip": "10.1.0.3"}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        });
        assert_eq!(item.value, expected);
        let object =
            item.object(Kind::Pod, &ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&())).unwrap();
        let Typed::Pod(pod) = &object.typed else { panic!() };
        let facts = mesh::pod::PodFacts::from_reduced(&mesh::pod::reduce(pod, None, None)).unwrap();
        assert!(facts.skip_inbound_ports.contains(9100));
        assert!(facts.meshed && facts.ready && object.version == "7" && object.value.is_null());
    }

    #[test]
    fn an_object_that_cannot_be_read_is_named() {
        let value = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": "none"}});
        let item: Item = serde_json::from_value(value).unwrap();
        let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Service>(&());
        let error = item.change(Kind::Service, &resource).unwrap_err();
        assert!(error.starts_with("Service shop/web cannot be read: "), "{error}");
    }
}
