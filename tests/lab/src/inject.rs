//! Admission: which pods the control plane's webhook is asked about, the question, and what its answer means. Pure.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

/// The injected sidecar's name.
pub const PROXY: &str = mesh::contract::PROXY_CONTAINER;
/// Says whether a pod, or a namespace's pods, are meshed.
const LABEL: &str = mesh::contract::INJECT_LABEL;

type Labels = BTreeMap<String, String>;

/// Whether a pod is the webhook's matter, by its two entries: namespace enabled and pod not disabled, or namespace
/// not enabled and pod enabled; never in kube-system and heddle-system.
pub fn wanted(namespace: &str, namespace_labels: Option<&Labels>, pod_labels: Option<&Labels>) -> bool {
    let says =
        |labels: Option<&Labels>, what: &str| labels.and_then(|l| l.get(LABEL)).is_some_and(|v| v == what);
    let excluded = matches!(namespace, "kube-system" | mesh::contract::SYSTEM_NAMESPACE);
    let by_namespace = says(namespace_labels, "enabled") && !says(pod_labels, "disabled");
    !excluded && (by_namespace || says(pod_labels, "enabled"))
}

/// The AdmissionReview (v1) for a pod's creation.
pub fn review(pod: &Pod, uid: &str) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": uid,
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "requestResource": {"group": "", "version": "v1", "resource": "pods"},
            "name": pod.metadata.name,
            "namespace": pod.metadata.namespace,
            "operation": "CREATE",
            "userInfo": {"username": "system:lab"},
            "object": pod,
            "dryRun": false,
        },
    })
}

/// What the answer says: the pod to run and the webhook's warnings.
pub fn apply(pod: &Pod, uid: &str, answer: &[u8]) -> Result<(Pod, Vec<String>)> {
    let answer: Value = serde_json::from_slice(answer).context("the webhook's answer is not JSON")?;
    let response = &answer["response"];
    if response["uid"] != uid {
        bail!("the webhook's answer is to another question");
    }
    if response["allowed"] != true {
        bail!(
            "the webhook refuses it: {}",
            response["status"]["message"].as_str().unwrap_or("without a reason")
        );
    }
    let warnings = response["warnings"].as_array().into_iter().flatten();
    let warnings = warnings.filter_map(|w| w.as_str().map(str::to_owned)).collect();
    if response["patch"].is_null() {
        return Ok((pod.clone(), warnings));
    }
    let ByteString(patch) =
        serde_json::from_value(response["patch"].clone()).context("the patch is not base64")?;
    let patch: json_patch::Patch = serde_json::from_slice(&patch).context("the patch is not a JSON patch")?;
    let mut object = serde_json::to_value(pod)?;
    json_patch::patch(&mut object, &patch).context("the patch does not fit the pod")?;
    Ok((serde_json::from_value(object).context("the patched object is not a Pod")?, warnings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(namespace: &str, namespace_says: &str, pod_says: &str, expected: bool) {
        let labels = |v: &str| Labels::from([(LABEL.to_owned(), v.to_owned())]);
        assert_eq!(wanted(namespace, Some(&labels(namespace_says)), Some(&labels(pod_says))), expected);
    }

    #[test]
    fn the_pods_label_wins_over_its_namespaces() {
        check("shop", "enabled", "", true);
        check("shop", "enabled", "disabled", false);
        check("shop", "", "enabled", true);
        check("shop", "disabled", "enabled", true);
        check("shop", "", "", false);
    }

    #[test]
    fn system_namespaces_are_left_alone() {
        check("kube-system", "enabled", "enabled", false);
        check("heddle-system", "enabled", "enabled", false);
    }

    fn pod() -> Pod {
        serde_norway::from_str("metadata: {name: a}\nspec: {containers: [{name: a}]}").expect("yaml")
    }

    fn answer(response: &Value) -> Vec<u8> {
        serde_json::to_vec(&json!({"response": response})).expect("json")
    }

    #[test]
    fn the_patch_decides_what_runs() {
        let patch = ByteString(
            br#"[{"op":"add","path":"/spec/initContainers","value":[{"name":"heddle-proxy"}]}]"#.to_vec(),
        );
        let answer = answer(&json!({"uid": "1", "allowed": true, "patchType": "JSONPatch", "patch": patch}));
        let (patched, _) = apply(&pod(), "1", &answer).expect("patched");
        assert_eq!(patched.spec.and_then(|s| s.init_containers).map(|c| c.len()), Some(1));
    }

    #[test]
    fn a_refusal_carries_its_reason() {
        let refusal = answer(&json!({"uid": "1", "allowed": false, "status": {"message": "runs as 1337"}}));
        let why = apply(&pod(), "1", &refusal).expect_err("refused");
        assert!(why.to_string().contains("runs as 1337"));
        assert!(apply(&pod(), "2", &refusal).is_err(), "another question's answer");
    }
}
