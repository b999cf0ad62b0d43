//! Tells when a definition of the Gateway API comes, changes or goes, so that its kind is not waited for until the next look.
//! Only their metadata is read: the definitions themselves are large.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::WATCH_SECONDS;
use super::served::is_optional;

/// Waiting between attempts, doubled with each: without this watch, kinds are looked for from time to time.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Follows the definitions for ever.
pub async fn follow_definitions(client: Client, changed: Arc<Notify>) {
    let api: Api<PartialObjectMeta<CustomResourceDefinition>> = Api::all(client);
    let mut events = pin!(watcher(api, Config::default().timeout(WATCH_SECONDS)));
    let mut retry = RETRY;
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(definition) | Event::Delete(definition)) => {
                retry = RETRY;
                if definition.metadata.name.as_deref().is_some_and(is_optional) {
                    changed.notify_one();
                }
            }
            Ok(Event::InitDone) => {
                retry = RETRY;
                changed.notify_one();
            }
            Ok(Event::Init | Event::InitApply(_)) => {}
            Err(error) => {
                tracing::debug!("definitions cannot be followed: {error}");
                sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}
