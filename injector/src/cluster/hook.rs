//! The webhook's caBundle: the roots by which the API server trusts us. While a root is replaced it holds both.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Plane;
use crate::source::kubernetes::{WATCH_SECONDS, in_time};

/// The configuration's name.
const NAME: &str = "heddle-injector";
/// Waiting after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the caBundle for ever, whoever changes it.
pub async fn write(plane: &Plane) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(plane.client.clone());
    let this = watcher::Config::default().fields(&format!("metadata.name={NAME}")).timeout(WATCH_SECONDS);
    let mut events = pin!(watcher(api.clone(), this));
    let mut changes = plane.authority.changes();
    let mut present: Option<MutatingWebhookConfiguration> = None;
    loop {
        let patch = present.as_ref().and_then(|present| patch(present, plane.authority.last().bundle()));
        let failed = match patch {
            Some(patch) => !carry_out(&api, &patch).await,
            None => false,
        };
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => take(event, &mut present),
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

/// A list begins with nothing: what was deleted meanwhile is not in it.
fn take(event: Event<MutatingWebhookConfiguration>, present: &mut Option<MutatingWebhookConfiguration>) {
    match event {
        Event::Apply(seen) | Event::InitApply(seen) => *present = Some(seen),
        Event::Delete(_) | Event::Init => *present = None,
        Event::InitDone => {}
    }
}

async fn carry_out(api: &Api<MutatingWebhookConfiguration>, patch: &Value) -> bool {
    match in_time(api.patch(NAME, &PatchParams::default(), &Patch::Strategic(patch))).await {
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

/// The patch that puts the roots where another caBundle is, in the webhooks by name (the list's merge key). It is of the
/// version that was read: newer roots are never replaced by those of a leader of the past.
fn patch(configuration: &MutatingWebhookConfiguration, roots: &str) -> Option<Value> {
    let wanted = ByteString(roots.as_bytes().to_vec());
    let webhooks = configuration.webhooks.iter().flatten();
    let wrong = webhooks.filter(|webhook| webhook.client_config.ca_bundle.as_ref() != Some(&wanted));
    let right: Vec<Value> =
        wrong.map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": wanted}})).collect();
    let version = &configuration.metadata.resource_version;
    (!right.is_empty()).then(|| json!({"metadata": {"resourceVersion": version}, "webhooks": right}))
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

    fn configuration(webhooks: &[Value]) -> MutatingWebhookConfiguration {
        let whole = json!({"metadata": {"name": NAME, "resourceVersion": "7"}, "webhooks": webhooks});
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn only_a_wrong_bundle_is_written() {
        let all = [webhook("a", None), webhook("b", Some("new")), webhook("c", Some("old"))];
        let step = patch(&configuration(&all), "new").unwrap();
        let webhooks = step["webhooks"].as_array().unwrap();
        let names: Vec<_> = webhooks.iter().map(|webhook| webhook["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(webhooks[0]["clientConfig"]["caBundle"], "bmV3");
        assert_eq!(patch(&configuration(&all[1..2]), "new"), None);
    }

    #[test]
    fn only_the_version_that_was_read_is_written_over() {
        let step = patch(&configuration(&[webhook("a", None)]), "new").unwrap();
        assert_eq!(step["metadata"]["resourceVersion"], "7");
    }

    #[test]
    fn a_configuration_that_vanished_unseen_is_not_patched() {
        let mut present = Some(configuration(&[]));
        take(Event::Init, &mut present);
        assert_eq!(present, None);
        take(Event::InitApply(configuration(&[])), &mut present);
        assert!(present.is_some());
    }
}
