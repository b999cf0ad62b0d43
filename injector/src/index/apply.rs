//! A batch of changes becomes new entries: pods reduced, routes with their status. What says the same as before is not
//! touched: after the API server was away, everything comes again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use mesh::names::{ObjectName, ServiceName};
use mesh::pod::{PodFacts, reduce};
use mesh::resolve::Judge;
use serde::Serialize;
use serde_json::Value;

use super::{Entry, Event, Link, State};
use crate::object::{Key, Kind, Object, Text, Typed};
use crate::source::Change;
use crate::status;

/// The entries that a batch has touched, as they were before it.
type Before = BTreeMap<Key, Option<Arc<Entry>>>;

impl State {
    /// Takes `changes` in as one: everything that follows from them is published with them.
    pub(super) fn apply(&mut self, changes: Vec<Change>, now: &str) {
        let (mut before, mut services) = (Before::new(), BTreeSet::new());
        for (key, object) in order(changes) {
            if self.knows(&key, object.as_ref()) {
                continue;
            }
            self.concerns(&key, &mut services);
            let entry = object.map(|object| self.draft(object));
            self.put(&key, entry, &mut before);
            self.concerns(&key, &mut services);
        }
        let touched: BTreeSet<Key> = before.keys().cloned().collect();
        for object in self.pods_of_parents(&before) {
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

    /// Whether an object is known as it is. If its source merely counts it as another version, that is noted: only over this
    /// one may be written.
    fn knows(&mut self, key: &Key, object: Option<&Arc<Object>>) -> bool {
        let (known, object) = match (self.get(key.kind, &key.name), object) {
            (Some(known), Some(object)) => (known, object),
            (None, None) => return true,
            _ => return false,
        };
        if !Arc::ptr_eq(&known.object, object) && !known.object.says_the_same(object) {
            return false;
        }
        if known.object.version != object.version {
            let renewed = known.renewed(object);
            self.set(renewed);
        }
        true
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
        let linked = links.flat_map(|link| self.links.of(&link));
        linked.chain(touched.iter().filter(|key| matches!(key.kind, Kind::Route(_)))).cloned().collect()
    }

    /// The pods that have to be reduced anew, since what their Namespace or Node says of them changed and they did not.
    fn pods_of_parents(&self, before: &Before) -> Vec<Arc<Object>> {
        let parents = before.iter().filter(|(key, before)| {
            let after = self.get(key.kind, &key.name);
            said_of_pods(before.as_ref()) != said_of_pods(after)
        });
        let pods = parents.flat_map(|(key, _)| -> Vec<&Arc<Entry>> {
            if key.kind == Kind::Namespace {
                self.in_namespace(Kind::Pod, &key.name.name).collect()
            } else if key.kind == Kind::Node {
                self.linked(&Link::OnNode(key.name.name.to_string())).collect()
            } else {
                Vec::new()
            }
        });
        let others = pods.filter(|entry| !before.contains_key(&entry.key));
        others.map(|entry| Arc::clone(&entry.object)).collect()
    }

    /// The entry of `object` as far as it depends on nothing but Namespaces and Nodes.
    fn draft(&self, object: Arc<Object>) -> Entry {
        match &object.typed {
            Typed::Pod => {
                let pod: Pod = object.text.read();
                let reduced = reduce(&pod, self.namespace(&object.key.name.namespace), self.node_of(&pod));
                Entry::draft(object, Text::of(&json(&reduced)), PodFacts::from_reduced(&reduced))
            }
            Typed::Route(_) => {
                let old = self.get(object.key.kind, &object.key.name).map(|entry| &entry.value);
                let same = old.filter(|old| old["metadata"]["uid"] == object.value["metadata"]["uid"]);
                let value = status::carry_over(&object.value, same);
                Entry::of_json(object, value)
            }
            Typed::Node(_) | Typed::Service(_) | Typed::EndpointSlice => {
                let text = object.text.clone();
                Entry::draft(object, text, None)
            }
            Typed::Namespace(_) | Typed::ServiceCidr(_) | Typed::Plain => {
                let value = object.value.clone();
                Entry::of_json(object, value)
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
        Some(Entry::of_json(Arc::clone(&entry.object), value))
    }

    /// Replaces an entry and its links, and remembers what was there at first.
    fn put(&mut self, key: &Key, entry: Option<Entry>, before: &mut Before) {
        let old = self.entries.get_mut(&key.kind).and_then(|entries| entries.remove(&key.name));
        for link in old.iter().flat_map(|old| old.links()) {
            self.links.remove(link, key);
        }
        before.entry(key.clone()).or_insert(old);
        if let Some(entry) = entry {
            for link in entry.links() {
                self.links.add(link, key);
            }
            self.set(Arc::new(entry));
        }
    }

    /// Puts an entry in the place of one with the same links.
    fn set(&mut self, entry: Arc<Entry>) {
        let entries = self.entries.entry(entry.key.kind).or_default();
        entries.insert(entry.key.name.clone(), entry);
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

    /// Gives what really changed its version, and the rest its old entry back.
    fn publish(&mut self, before: Before) {
        for (key, before) in before {
            let draft = self.get(key.kind, &key.name).cloned();
            let after = match (&before, &draft) {
                (None, None) => None,
                (Some(before), Some(draft)) if before.says_the_same(draft) => {
                    Some(before.renewed(&draft.object))
                }
                _ => {
                    self.version += 1;
                    let version = self.version;
                    let after = draft.map(|draft| Arc::new(draft.published(version)));
                    self.log.push(Event { version, before, after: after.clone() });
                    after
                }
            };
            self.note_unwritten(&key, after.as_deref());
            if let Some(after) = after {
                self.set(after);
            }
        }
    }
}

/// Namespaces and Nodes first: pods are reduced with them.
fn order(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_by_key(|(key, _)| !matches!(key.kind, Kind::Namespace | Kind::Node));
    changes
}

/// What of a Namespace or a Node its pods are reduced with (see `mesh::pod::reduce`). A Node's heartbeat is not of it.
fn said_of_pods(entry: Option<&Arc<Entry>>) -> Option<&BTreeMap<String, String>> {
    match &entry?.object.typed {
        Typed::Namespace(namespace) => namespace.metadata.annotations.as_ref(),
        Typed::Node(node) => node.metadata.labels.as_ref(),
        Typed::Service(_)
        | Typed::Pod
        | Typed::EndpointSlice
        | Typed::ServiceCidr(_)
        | Typed::Route(_)
        | Typed::Plain => None,
    }
}

fn json(object: &impl Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}
