//! What the control plane says of this very pod: that it is being deleted, and where it runs.
//!
//! Kubernetes stops a native sidecar after the application (KEP-753), so the signal comes too late to tell callers to
//! go elsewhere. The pod's deletionTimestamp comes in time.

use std::{pin::pin, sync::Arc};

use futures_util::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    runtime::watcher::{self, Event, watcher},
};
use mesh::pod::{PodFacts, ReducedPod};
use tokio::{sync::watch, time::sleep};
use tracing::debug;

use super::watch::{RETRY_MAX, RETRY_MIN, is_progress};
use crate::config::Config;

/// This pod, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnPod {
    /// It is being deleted: its application is told to end, or soon will be.
    pub terminating: bool,
    /// The zone of its node.
    pub zone: Option<Arc<str>>,
}

/// Follows this pod for as long as somebody listens. Until the control plane answers, nothing is known.
pub fn follow(client: Client, config: &Config) -> watch::Receiver<OwnPod> {
    let (known, receiver) = watch::channel(OwnPod::default());
    let pods = Api::namespaced(client, &config.pod_namespace);
    let this = watcher::Config::default().fields(&format!("metadata.name={}", config.pod_name));
    tokio::spawn(keep(pods, this, config.pod_uid.clone(), known));
    receiver
}

async fn keep(pods: Api<ReducedPod>, this: watcher::Config, uid: String, known: watch::Sender<OwnPod>) {
    let mut events = pin!(watcher(pods, this));
    let mut retry = RETRY_MIN;
    loop {
        let event = tokio::select! {
            () = known.closed() => return,
            event = events.next() => event,
        };
        match event {
            Some(Ok(event)) => {
                if is_progress(&event) {
                    retry = RETRY_MIN;
                }
                known.send_if_modified(|pod| pod.take(event, &uid));
            }
            Some(Err(error)) => {
                debug!(%error, "the watch of this pod broke off");
                sleep(retry.mul_f64(0.5 + fastrand::f64())).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
            None => return,
        }
    }
}

impl OwnPod {
    /// Takes in what the watch saw; says whether it changed anything.
    fn take(&mut self, event: Event<ReducedPod>, uid: &str) -> bool {
        let next = match event {
            Event::Apply(pod) | Event::InitApply(pod) => self.seen(&pod, uid),
            // A pod that was deleted without grace is gone before its containers are.
            Event::Delete(pod) if is(&pod, uid) => Self { terminating: true, ..self.clone() },
            Event::Delete(_) | Event::Init | Event::InitDone => return false,
        };
        let changed = next != *self;
        *self = next;
        changed
    }

    /// A deletion is never taken back, and a pod of the same name with another UID (a StatefulSet's next) is not this one.
    fn seen(&self, pod: &ReducedPod, uid: &str) -> Self {
        let Some(facts) = PodFacts::from_reduced(pod).filter(|_| is(pod, uid)) else { return self.clone() };
        Self { terminating: self.terminating || facts.terminating, zone: facts.zone.map(Arc::from) }
    }
}

/// Whether it is the pod of this UID; any is, if the injector told none.
fn is(pod: &ReducedPod, uid: &str) -> bool {
    uid.is_empty() || pod.uid().is_some_and(|its| its == uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a";

    fn pod(uid: &str, deleted: bool) -> ReducedPod {
        let deleted = if deleted { r#","deletionTimestamp":"2026-01-01T00:00:00Z""# } else { "" };
        let json = format!(
            r#"{{"metadata":{{"namespace":"shop","name":"web-0","uid":"{uid}","labels":{{"topology.kubernetes.io/zone":"east"}}{deleted}}}}}"#
        );
        serde_json::from_str(&json).expect("a pod")
    }

    #[track_caller]
    fn check(events: Vec<Event<ReducedPod>>, terminating: bool) {
        let mut known = OwnPod::default();
        for event in events {
            known.take(event, UID);
        }
        assert_eq!(known.terminating, terminating, "{known:?}");
    }

    #[test]
    fn a_deletion_is_seen_and_never_taken_back() {
        check(vec![Event::InitApply(pod(UID, false)), Event::InitDone], false);
        check(vec![Event::InitApply(pod(UID, true))], true);
        check(vec![Event::Apply(pod(UID, true)), Event::Apply(pod(UID, false))], true);
        check(vec![Event::Delete(pod(UID, false))], true);
    }

    #[test]
    fn another_pod_of_the_same_name_is_not_this_one() {
        check(vec![Event::Apply(pod("0b", true)), Event::Delete(pod("0b", true))], false);
    }

    #[test]
    fn the_zone_is_that_of_the_pods_node() {
        let mut known = OwnPod::default();
        assert!(known.take(Event::InitApply(pod(UID, false)), UID), "news");
        assert_eq!(known.zone.as_deref(), Some("east"));
        assert!(!known.take(Event::Apply(pod(UID, false)), UID), "nothing new");
    }
}
