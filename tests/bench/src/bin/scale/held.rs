//! What a simulated sidecar holds of the common Service, as far as the changes that are waited for show in it. Pure.

use std::collections::BTreeSet;

use kube::runtime::watcher::Event;
use kube::{ResourceExt as _, core::DynamicObject};

use crate::manifests::CHANGE;
use crate::watch::{Part, WatchKey};

/// A change that every sidecar is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The common Service's route as of the change of that number.
    Route(u64),
    /// Its endpoints as of that change, and the pod that is among them now.
    Endpoints(u64, String),
}

/// What one sidecar holds.
#[derive(Debug, Default)]
pub struct Held {
    route: u64,
    slice: u64,
    pods: BTreeSet<String>,
    /// The pods of a list that is not whole yet; the old ones count until it is.
    coming: BTreeSet<String>,
}

impl Held {
    /// Takes in what a watch tells.
    pub fn take(&mut self, key: &WatchKey, event: &Event<DynamicObject>) {
        match key.part {
            Part::Routes(_) => self.route = self.route.max(newest(event)),
            Part::Slices => self.slice = self.slice.max(newest(event)),
            Part::Pods => self.take_pods(event),
            Part::OwnPod | Part::Service => {}
        }
    }

    fn take_pods(&mut self, event: &Event<DynamicObject>) {
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply(pod) => drop(self.coming.insert(pod.name_any())),
            Event::InitDone => self.pods = std::mem::take(&mut self.coming),
            Event::Apply(pod) => drop(self.pods.insert(pod.name_any())),
            Event::Delete(pod) => drop(self.pods.remove(&pod.name_any())),
        }
    }

    /// Whether a proxy that holds this would act by the change: of new endpoints it has to know the pods, too.
    pub fn holds(&self, change: &Change) -> bool {
        match change {
            Change::Route(number) => self.route >= *number,
            Change::Endpoints(number, pod) => self.slice >= *number && self.pods.contains(pod),
        }
    }
}

/// The change that an object is marked with; 0 without a mark.
fn newest(event: &Event<DynamicObject>) -> u64 {
    match event {
        Event::Apply(object) | Event::InitApply(object) => {
            object.annotations().get(CHANGE).and_then(|number| number.parse().ok()).unwrap_or_default()
        }
        Event::Init | Event::InitDone | Event::Delete(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh::names::ServiceName;
    use mesh::route::RouteKind;
    use serde_json::json;

    fn object(name: &str, change: u64) -> DynamicObject {
        let metadata = json!({"name": name, "annotations": {CHANGE: change.to_string()}});
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata})).unwrap()
    }

    fn key(part: Part) -> WatchKey {
        WatchKey { part, of: ServiceName::new("team-0", "svc-0") }
    }

    #[test]
    fn a_route_is_held_from_its_event_on_also_from_a_list() {
        let (mut held, routes) = (Held::default(), key(Part::Routes(RouteKind::Http)));
        held.take(&routes, &Event::InitApply(object("svc-0", 3)));
        assert!(held.holds(&Change::Route(3)) && !held.holds(&Change::Route(4)));
        held.take(&routes, &Event::Apply(object("svc-0", 5)));
        assert!(held.holds(&Change::Route(4)));
    }

    #[test]
    fn endpoints_are_held_once_their_pods_are_known() {
        let (mut held, change) = (Held::default(), Change::Endpoints(1, "svc-0-5".to_owned()));
        held.take(&key(Part::Slices), &Event::Apply(object("svc-0-4", 1)));
        assert!(!held.holds(&change));
        held.take(&key(Part::Pods), &Event::Apply(object("svc-0-5", 0)));
        assert!(held.holds(&change));
        held.take(&key(Part::Pods), &Event::Delete(object("svc-0-5", 0)));
        assert!(!held.holds(&change));
    }

    #[test]
    fn a_list_counts_when_it_is_whole() {
        let (mut held, pods) = (Held::default(), key(Part::Pods));
        held.take(&pods, &Event::Init);
        held.take(&pods, &Event::InitApply(object("svc-0-5", 0)));
        assert!(held.pods.is_empty());
        held.take(&pods, &Event::InitDone);
        assert_eq!(held.pods.len(), 1);
    }
}
