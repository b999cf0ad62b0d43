//! A batch of changes becomes new entries: pods reduced, routes with their status, unchanged ones untouched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use mesh::names::{ObjectName, ServiceName};
use mesh::pod::{PodFacts, reduce};
use mesh::resolve::Judge;
use serde_json::Value;

use super::{Entry, Event, Link, State};
use crate::object::{Key, Kind, Object, Typed};
use crate::source::Change;
use crate::status;

/// The entries that a batch has touched, as they were before it.
type Before = BTreeMap<Key, Option<Arc<Entry>>>;

impl State {
    /// Takes `changes` in as one: everything that follows from them is published with them.
    pub(super) fn apply(&mut self, changes: Vec<Change>, now: &str) {
        let mut before = Before::new();
        let touched: BTreeSet<Key> = changes.iter().map(|(key, _)| key.clone()).collect();
        let mut services = BTreeSet::new();
        for (key, object) in order(changes) {
            self.concerns(&key, &mut services);
            let entry = object.map(|object| self.draft(object));
            self.put(&key, entry, &mut before);
            self.concerns(&key, &mut services);
        }
        for object in self.pods_of_parents(&touched) {
            let entry = self.draft(Arc::clone(&object));
            self.put(&object.key, Some(entry), &mut before);
        }
        let routes = self.routes_of(&services, &touched);
        for (key, entry) in self.judged(&routes, now) {
            self.put(key, Some(entry), &mut before);
        }
        self.measure(&touched);
        self.publish(before);
    }

    /// The Services on which status depends when the object `key` changes.
    fn concerns(&self, key: &Key, services: &mut BTreeSet<ServiceName>) {
        if key.kind == Kind::Service {
            services.insert(key.name.clone());
        }
        if let Some(entry) = self.get(key.kind, &key.name)
            && let Typed::Route(route) = &entry.object.typed
        {
            services.extend(route.parent_services());
        }
    }

    /// Every route whose status can have changed: those that did themselves, and those that are bound to one
    /// of `services` or name it as a backend.
    fn routes_of(&self, services: &BTreeSet<ServiceName>, touched: &BTreeSet<Key>) -> BTreeSet<Key> {
        let links = services
            .iter()
            .flat_map(|service| [Link::Parent(service.clone()), Link::Backend(service.clone())]);
        let linked = links.filter_map(|link| self.links.get(&link)).flatten();
        linked.chain(touched.iter().filter(|key| matches!(key.kind, Kind::Route(_)))).cloned().collect()
    }

    /// The pods that have to be reduced anew, since their Namespace or Node changed and they did not.
    fn pods_of_parents(&self, touched: &BTreeSet<Key>) -> Vec<Arc<Object>> {
        let pods = touched.iter().flat_map(|key| -> Vec<&Arc<Entry>> {
            if key.kind == Kind::Namespace {
                self.in_namespace(Kind::Pod, &key.name.name).collect()
            } else if key.kind == Kind::Node {
                self.linked(&Link::OnNode(key.name.name.to_string())).collect()
            } else {
                Vec::new()
            }
        });
        let others = pods.filter(|entry| !touched.contains(&entry.key));
        others.map(|entry| Arc::clone(&entry.object)).collect()
    }

    /// The entry of `object` as far as it depends on nothing but Namespaces and Nodes.
    fn draft(&self, object: Arc<Object>) -> Entry {
        match &object.typed {
            Typed::Pod(pod) => {
                let reduced = reduce(pod, self.namespace(&object.key.name.namespace), self.node_of(pod));
                let facts = PodFacts::from_reduced(&reduced);
                Entry::draft(object, served(&reduced), facts)
            }
            Typed::Route(_) => {
                let old = self.get(object.key.kind, &object.key.name).map(|entry| &entry.value);
                let same = old.filter(|old| old["metadata"]["uid"] == object.value["metadata"]["uid"]);
                let value = status::carry_over(&object.value, same);
                Entry::draft(object, value, None)
            }
            Typed::Namespace(_)
            | Typed::Node(_)
            | Typed::Service(_)
            | Typed::EndpointSlice(_)
            | Typed::ServiceCidr(_)
            | Typed::Plain => {
                let value = object.value.clone();
                Entry::draft(object, value, None)
            }
        }
    }

    fn node_of(&self, pod: &Pod) -> Option<&Node> {
        let name = pod.spec.as_ref()?.node_name.as_deref()?;
        let entry = self.get(Kind::Node, &ObjectName::new("", name))?;
        let Typed::Node(node) = &entry.object.typed else { return None };
        Some(node)
    }

    /// Those of `routes` whose status is not what they have earned, with it. One judge sees them all, since routes of a
    /// Service have most of the work in common; what status says of one has no part in the verdict on another.
    fn judged<'k>(&self, routes: &'k BTreeSet<Key>, now: &str) -> Vec<(&'k Key, Entry)> {
        let mut judge = Judge::new(self);
        routes.iter().filter_map(|key| Some((key, self.earned(key, &mut judge, now)?))).collect()
    }

    /// The route `key` with the status that it has earned; nothing if it has it already.
    fn earned<'s>(&'s self, key: &Key, judge: &mut Judge<'s>, now: &str) -> Option<Entry> {
        let entry = self.get(key.kind, &key.name)?;
        let Typed::Route(route) = &entry.object.typed else { return None };
        let value = status::plan(&entry.value, &judge.verdicts(route), now)?;
        Some(Entry::draft(Arc::clone(&entry.object), value, None))
    }

    /// Replaces an entry and its links, and remembers what was there at first.
    fn put(&mut self, key: &Key, entry: Option<Entry>, before: &mut Before) {
        let old = self.entries.get_mut(&key.kind).and_then(|entries| entries.remove(&key.name));
        for link in old.iter().flat_map(|old| old.links()) {
            self.unlink(&link, key);
        }
        before.entry(key.clone()).or_insert(old);
        if let Some(entry) = entry {
            for link in entry.links() {
                self.links.entry(link).or_default().insert(key.clone());
            }
            self.entries.entry(key.kind).or_default().insert(key.name.clone(), Arc::new(entry));
        }
    }

    /// Keeps the routes whose status at their source is not what it should be.
    fn note_unwritten(&mut self, key: &Key, entry: Option<&Entry>) {
        if !matches!(key.kind, Kind::Route(_)) {
            return;
        }
        match entry.is_some_and(|entry| status::to_write(&entry.value, &entry.object.value).is_some()) {
            true => self.unwritten.insert(key.clone()),
            false => self.unwritten.remove(key),
        };
    }

    fn unlink(&mut self, link: &Link, key: &Key) {
        if let Some(keys) = self.links.get_mut(link) {
            keys.remove(key);
            if keys.is_empty() {
                self.links.remove(link);
            }
        }
    }

    /// Gives what really changed its version, and the rest its old entry back.
    fn publish(&mut self, before: Before) {
        for (key, before) in before {
            let draft = self.get(key.kind, &key.name).cloned();
            let same = match (&before, &draft) {
                (Some(before), Some(draft)) => before.value == draft.value,
                (None, None) => true,
                _ => false,
            };
            if !same {
                self.version += 1;
            }
            let after = draft.map(|draft| {
                let version = before.as_ref().filter(|_| same).map_or(self.version, |before| before.version);
                Arc::new(draft.published(version))
            });
            self.note_unwritten(&key, after.as_deref());
            if let Some(after) = &after {
                self.entries.entry(key.kind).or_default().insert(key.name.clone(), Arc::clone(after));
            }
            if !same {
                self.log.push(Event { version: self.version, before, after });
            }
        }
    }
}

/// Namespaces and Nodes first: pods are reduced with them.
fn order(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_by_key(|(key, _)| !matches!(key.kind, Kind::Namespace | Kind::Node));
    changes
}

fn served(pod: &Pod) -> Value {
    serde_json::to_value(pod).unwrap_or_default()
}
