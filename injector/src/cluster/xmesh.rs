//! The mesh's own object (GEP-3949, `XMesh`), where its definition is installed: what this mesh supports, for tools that
//! ask.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Error};
use mesh::contract::{CONTROLLER_NAME, SUPPORTED_FEATURES};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Plane, bundle};
use crate::source::kubernetes::has;
use crate::source::seconds;

const GROUP: &str = "gateway.networking.x-k8s.io";
const VERSION: &str = "v1alpha1";
/// The name of the one that we make, if nobody made one for us.
const NAME: &str = "heddle";
/// How often it is looked at: nothing waits for it.
const LOOK: Duration = Duration::from_secs(10);

/// Keeps the objects that are of this mesh, for ever.
pub async fn write(plane: &Plane) {
    let kind = GroupVersionKind::gvk(GROUP, VERSION, "XMesh");
    let api = Api::all_with(plane.client.clone(), &ApiResource::from_gvk_with_plural(&kind, "xmeshes"));
    loop {
        let looked = match has(&plane.client, GROUP, VERSION).await {
            Ok(true) => look(&api).await,
            other => other.map(drop),
        };
        match looked {
            Ok(()) => {}
            // The group has no such kind, or the object changed meanwhile.
            Err(Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => tracing::warn!("the XMesh cannot be kept: {error}"),
        }
        sleep(LOOK).await;
    }
}

async fn look(api: &Api<DynamicObject>) -> Result<(), Error> {
    let all = api.list(&ListParams::default()).await?;
    let mut ours: Vec<DynamicObject> = all.items.into_iter().filter(is_ours).collect();
    if ours.is_empty() {
        let made = serde_json::from_value(json!({
            "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XMesh",
            "metadata": {"name": NAME, "labels": bundle::labels()},
            "spec": {"controllerName": CONTROLLER_NAME},
        }));
        let made = made.map_err(Error::SerdeError)?;
        ours.push(api.create(&PostParams::default(), &made).await?);
    }
    for mesh in ours {
        let Some(status) = plan(&mesh, &seconds(Timestamp::now())) else { continue };
        let version = &mesh.metadata.resource_version;
        let patch = Patch::Merge(json!({"metadata": {"resourceVersion": version}, "status": status}));
        let name = mesh.metadata.name.unwrap_or_default();
        api.patch_status(&name, &PatchParams::default(), &patch).await?;
    }
    Ok(())
}

fn is_ours(mesh: &DynamicObject) -> bool {
    mesh.data["spec"]["controllerName"] == CONTROLLER_NAME
}

/// The status that an XMesh of ours should have, if it has another. Other conditions than `Accepted` stay.
fn plan(mesh: &DynamicObject, now: &str) -> Option<Value> {
    let present = &mesh.data["status"];
    let conditions = present["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let (old, others): (Vec<&Value>, Vec<&Value>) =
        conditions.iter().partition(|condition| condition["type"] == "Accepted");
    let mut accepted = accepted(mesh);
    let same = old.first().filter(|old| old["status"] == accepted["status"]);
    accepted["lastTransitionTime"] = same.map_or_else(|| json!(now), |old| old["lastTransitionTime"].clone());
    let features: Vec<Value> = SUPPORTED_FEATURES.iter().map(|name| json!({"name": name})).collect();
    let mut conditions: Vec<Value> = others.into_iter().cloned().collect();
    conditions.push(accepted);
    let wanted = json!({"conditions": conditions, "supportedFeatures": features});
    let differs = old != [&conditions[conditions.len() - 1]]
        || present["supportedFeatures"] != wanted["supportedFeatures"];
    differs.then_some(wanted)
}

fn accepted(mesh: &DynamicObject) -> Value {
    let generation = mesh.metadata.generation.unwrap_or_default();
    let (status, reason, message) = match mesh.data["spec"]["parametersRef"].is_null() {
        true => ("True", "Accepted", "Heddle is this mesh"),
        false => ("False", "InvalidParameters", "Heddle takes no parameters: leave parametersRef out"),
    };
    json!({"type": "Accepted", "status": status, "reason": reason, "message": message, "observedGeneration": generation})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh(spec: &Value, status: &Value) -> DynamicObject {
        let whole = json!({
            "apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XMesh",
            "metadata": {"name": "heddle", "generation": 3}, "spec": spec, "status": status,
        });
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn it_is_accepted_once_and_then_left_alone() {
        let pending = json!({"conditions": [{"type": "Accepted", "status": "Unknown", "reason": "Pending"}]});
        let status = plan(&mesh(&json!({}), &pending), "2026-01-02T03:04:05Z").unwrap();
        assert_eq!(status["conditions"][0]["status"], "True");
        assert_eq!(status["conditions"][0]["observedGeneration"], 3);
        assert_eq!(plan(&mesh(&json!({}), &status), "2030-01-01T00:00:00Z"), None);
    }

    #[test]
    fn other_conditions_and_the_time_of_the_last_change_stay() {
        let other = json!({"type": "Other", "status": "True"});
        let old = json!({"type": "Accepted", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"});
        let status =
            plan(&mesh(&json!({}), &json!({"conditions": [old, other]})), "2030-01-01T00:00:00Z").unwrap();
        assert_eq!(status["conditions"][0], other);
        assert_eq!(status["conditions"][1]["lastTransitionTime"], "2020-01-01T00:00:00Z");
    }

    #[test]
    fn parameters_are_refused() {
        let parameters = json!({"parametersRef": {"group": "", "kind": "ConfigMap", "name": "x"}});
        let status = plan(&mesh(&parameters, &Value::Null), "2030-01-01T00:00:00Z").unwrap();
        assert_eq!(status["conditions"][0]["reason"], "InvalidParameters");
    }
}
