//! An object as the API server sends it, cut down to what the mesh needs while it is read: of a list, one whole object at
//! a time is in memory.

use std::borrow::Cow;
use std::sync::Arc;

use kube::Resource;
use kube::core::{ApiResource, ObjectMeta};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::object::{Key, Kind, Object};
use crate::source::lean::prune;

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

    /// The object.
    pub fn object(mut self, kind: Kind, resource: &ApiResource) -> Result<Object, serde_json::Error> {
        // Items of a list do not repeat what the list says.
        self.value["apiVersion"] = json!(resource.api_version);
        self.value["kind"] = json!(resource.kind);
        let (key, version) = (self.key(kind), self.meta.resource_version.unwrap_or_default());
        Ok(Object { version, ..Object::decode(key, self.value)? })
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
        let pod: k8s_openapi::api::core::v1::Pod = object.text.read();
        let facts = mesh::pod::PodFacts::from_reduced(&mesh::pod::reduce(&pod, None, None)).unwrap();
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
