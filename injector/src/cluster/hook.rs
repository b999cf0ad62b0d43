//! The webhook's caBundle: the roots by which the API server trusts us. While a root is replaced it holds both.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::watch_object;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Plane;

/// The configuration's name.
const NAME: &str = "heddle-injector";
/// Waiting after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the caBundle for ever, whoever changes it.
pub async fn write(plane: &Plane) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(plane.client.clone());
    let mut configurations = pin!(watch_object(api.clone(), NAME));
    let mut changes = plane.authority.changes();
    let mut present: Option<MutatingWebhookConfiguration> = None;
    loop {
        let mut failed = false;
        if let Some(configuration) = &present {
            let patch = patch(configuration, plane.authority.last().bundle());
            failed = !patch.is_empty() && !carry_out(&api, &patch).await;
        }
        tokio::select! {
            seen = configurations.next() => match seen {
                Some(Ok(seen)) => present = seen,
                Some(Err(error)) => {
                    tracing::warn!("the webhook's configuration cannot be followed: {error}");
                    sleep(RETRY).await;
                }
                None => return,
            },
            () = changes.next() => {}
            () = sleep(RETRY), if failed => {}
        }
    }
}

async fn carry_out(api: &Api<MutatingWebhookConfiguration>, patch: &[Value]) -> bool {
    let merge = Patch::Strategic(json!({"webhooks": patch}));
    match api.patch(NAME, &PatchParams::default(), &merge).await {
        Ok(_) => {
            tracing::info!("wrote the webhook's caBundle");
            true
        }
        Err(error) => {
            tracing::warn!("the webhook's caBundle cannot be written: {error}");
            false
        }
    }
}

/// The webhooks whose caBundle is another, by name (the list's merge key), with the right one.
fn patch(configuration: &MutatingWebhookConfiguration, roots: &str) -> Vec<Value> {
    let wanted = ByteString(roots.as_bytes().to_vec());
    let webhooks = configuration.webhooks.iter().flatten();
    let wrong = webhooks.filter(|webhook| webhook.client_config.ca_bundle.as_ref() != Some(&wanted));
    wrong.map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": wanted}})).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(name: &str, bundle: Option<&str>) -> Value {
        let bundle = bundle.map(|text| ByteString(text.as_bytes().to_vec()));
        json!({
            "name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"caBundle": bundle},
        })
    }

    #[test]
    fn only_a_wrong_bundle_is_written() {
        let all =
            json!({"webhooks": [webhook("a", None), webhook("b", Some("new")), webhook("c", Some("old"))]});
        let steps = patch(&serde_json::from_value(all).unwrap(), "new");
        let names: Vec<_> = steps.iter().map(|step| step["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(steps[0]["clientConfig"]["caBundle"], "bmV3");
    }
}
