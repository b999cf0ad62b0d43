//! Why a pod that asks for the mesh is not in it, as an Event that `kubectl describe` shows.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Error};
use mesh::names::ObjectName;
use tokio::time::sleep;

use super::Plane;
use crate::index::State;
use crate::object::Kind;
use crate::patch::unfit;
use crate::review::digest;
use crate::source::kubernetes::in_time;

/// Pods come in bursts.
const PAUSE: Duration = Duration::from_millis(500);
/// An Event's message is cut off by some API servers after this.
const LONGEST: usize = 1024;

/// A pod, and why it is not in the mesh.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    pod: ObjectName,
    uid: String,
    reason: String,
}

/// Writes Events for ever: for the pods that are there, and for those that come.
pub async fn write(plane: &Plane) {
    let mut head = plane.index.head();
    let (mut place, mut left) = {
        let state = plane.index.read();
        (
            state.version(),
            state.all(Kind::Pod).filter_map(|entry| left_out(&state, &entry.key.name)).collect(),
        )
    };
    loop {
        for pod in std::mem::take::<Vec<Left>>(&mut left) {
            tell(plane, &pod).await;
        }
        if head.changed().await.is_err() {
            return;
        }
        sleep(PAUSE).await;
        head.borrow_and_update();
        let state = plane.index.read();
        left = new_pods(&state, place).iter().filter_map(|name| left_out(&state, name)).collect();
        place = state.version();
    }
}

/// The pods that came after a version. Those who came with more changes than are remembered go untold.
fn new_pods(state: &State, place: u64) -> Vec<ObjectName> {
    let Ok(events) = state.since(place) else { return Vec::new() };
    let new = events.filter(|event| event.before.is_none()).filter_map(|event| event.after.as_ref());
    new.filter(|entry| entry.key.kind == Kind::Pod).map(|entry| entry.key.name.clone()).collect()
}

fn left_out(state: &State, name: &ObjectName) -> Option<Left> {
    let entry = state.get(Kind::Pod, name)?;
    entry.pod.as_ref().filter(|pod| !pod.finished)?;
    let pod: Pod = entry.object.text.read();
    let reason = unfit(&pod, &name.namespace, state.namespace(&name.namespace))?;
    Some(Left { pod: name.clone(), uid: entry.uid()?.to_owned(), reason })
}

async fn tell(plane: &Plane, left: &Left) {
    let api: Api<Event> = Api::namespaced(plane.client.clone(), &left.pod.namespace);
    let event = event(left, &plane.pod, Timestamp::now());
    match in_time(api.create(&PostParams::default(), &event)).await {
        Ok(_) => {}
        // Told already, or its namespace is ending.
        Err(Error::Api(status)) if matches!(status.code, 403 | 404 | 409) => {}
        Err(error) => tracing::warn!("an event on pod {} cannot be written: {error}", left.pod),
    }
}

/// Its name is that of its cause, so that it is written once whoever writes it.
fn event(left: &Left, instance: &str, now: Timestamp) -> Event {
    let cause: String = digest(&format!("{} {}", left.uid, left.reason))[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let message: String = format!("not injected: {}", left.reason).chars().take(LONGEST).collect();
    let name = format!("{:.200}.{cause}", left.pod.name);
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(left.pod.namespace.to_string()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(left.pod.name.to_string()),
            namespace: Some(left.pod.namespace.to_string()),
            uid: Some(left.uid.clone()),
            ..ObjectReference::default()
        },
        type_: Some("Warning".to_owned()),
        reason: Some("NotInjected".to_owned()),
        message: Some(message),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some("heddle-injector".to_owned()), ..EventSource::default() }),
        reporting_component: Some("heddle.dev/mesh-controller".to_owned()),
        reporting_instance: Some(instance.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::{index, put};

    const SHOP: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {heddle.dev/inject: enabled}}\n---\n";

    fn pod(name: &str, spec: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: u-{name}}}\n\
             spec: {{containers: []{spec}}}\n---\n"
        )
    }

    #[test]
    fn a_new_pod_on_its_nodes_network_is_told_of() {
        let index = index(100, &(SHOP.to_owned() + &pod("old", ", hostNetwork: true")));
        let place = index.read().version();
        put(&index, &(pod("new", ", hostNetwork: true") + &pod("fit", "")));
        let state = index.read();
        let left: Vec<Left> =
            new_pods(&state, place).iter().filter_map(|name| left_out(&state, name)).collect();
        let found: Vec<_> = left.iter().map(|left| (&*left.pod.name, left.reason.as_str())).collect();
        assert_eq!(
            found,
            [("new", "the pod uses its node's network (hostNetwork), which must not be redirected")]
        );
    }

    #[test]
    fn the_same_cause_is_the_same_event() {
        let left = |reason: &str| Left {
            pod: ObjectName::new("shop", "a"),
            uid: "u".to_owned(),
            reason: reason.to_owned(),
        };
        let name = |reason: &str, now| event(&left(reason), "me", now).metadata.name;
        assert_eq!(name("x", Timestamp::UNIX_EPOCH), name("x", Timestamp::MAX));
        assert_ne!(name("x", Timestamp::UNIX_EPOCH), name("y", Timestamp::UNIX_EPOCH));
    }
}
