//! The objects of every open watch, and the questions that `mesh::resolve` asks of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use mesh::{
    names::{ObjectName, ServiceName},
    pod::PodFacts,
    resolve::View,
    route::Route,
};

use super::watch::{Change, Object, Seen, Watch, WatchId, WatchKey};

/// The open watches and what they hold.
#[derive(Default)]
pub struct Store {
    watches: HashMap<WatchKey, Watched>,
    opened: u64,
}

struct Watched {
    objects: BTreeMap<ObjectName, Seen>,
    /// The set that is on its way after a (re)start; the old one counts until it is whole.
    coming: Option<BTreeMap<ObjectName, Seen>>,
    synced: bool,
    /// Tells this watch's changes from those that an earlier watch of the same key left in the queue.
    number: u64,
    _watch: Watch,
}

impl Store {
    /// Opens a watch unless it is open.
    pub fn ensure(&mut self, key: &WatchKey, open: impl FnOnce(WatchId) -> Watch) {
        let number = self.opened;
        self.watches.entry(key.clone()).or_insert_with_key(|key| {
            self.opened += 1;
            Watched {
                objects: BTreeMap::new(),
                coming: None,
                synced: false,
                number,
                _watch: open(WatchId { key: key.clone(), number }),
            }
        });
    }

    /// Closes every watch that nobody needs.
    pub fn retain(&mut self, needed: &BTreeSet<WatchKey>) {
        self.watches.retain(|key, _| needed.contains(key));
    }

    /// Takes a change in. `false`: nothing that anybody can see has changed.
    pub fn take(&mut self, id: &WatchId, change: Change) -> bool {
        let watch = self.watches.get_mut(&id.key).filter(|watch| watch.number == id.number);
        let Some(watch) = watch else { return false };
        match change {
            Change::Restarted => {
                watch.coming = Some(BTreeMap::new());
                return false;
            }
            Change::Initial(seen) => {
                watch.coming.get_or_insert_default().insert(seen.name.clone(), seen);
                return false;
            }
            Change::Synced => {
                watch.objects = watch.coming.take().unwrap_or_default();
                watch.synced = true;
            }
            Change::Applied(seen) => {
                watch.objects.insert(seen.name.clone(), seen);
            }
            Change::Deleted(name) => {
                watch.objects.remove(&name);
            }
        }
        true
    }

    /// Whether a watch has delivered its first whole set.
    pub fn is_synced(&self, key: &WatchKey) -> bool {
        self.watches.get(key).is_some_and(|watch| watch.synced)
    }

    /// A Service, if it is watched and exists.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.objects(&WatchKey::Service(name.clone())).find_map(|object| match object {
            Object::Service(service) => Some(&**service),
            Object::Slice(_) | Object::Pod(_) | Object::Route(_) => None,
        })
    }

    /// The EndpointSlices of a Service.
    pub fn slices(&self, name: &ServiceName) -> impl Iterator<Item = &EndpointSlice> + use<'_> {
        self.objects(&WatchKey::Slices(name.clone())).filter_map(|object| match object {
            Object::Slice(slice) => Some(&**slice),
            Object::Service(_) | Object::Pod(_) | Object::Route(_) => None,
        })
    }

    /// The pods that one watch holds.
    pub fn pods(&self, key: &WatchKey) -> impl Iterator<Item = &PodFacts> + use<'_> {
        self.objects(key).filter_map(|object| match object {
            Object::Pod(facts) => Some(&**facts),
            Object::Service(_) | Object::Slice(_) | Object::Route(_) => None,
        })
    }

    /// Everything that is held, in order, for the admin port.
    pub fn seen(&self) -> BTreeMap<(&'static str, &ObjectName), &Seen> {
        let all = self.watches.values().flat_map(|watch| watch.objects.values());
        all.map(|seen| ((seen.kind, &seen.name), seen)).collect()
    }

    /// How many objects the watches hold.
    pub fn count(&self) -> usize {
        self.watches.values().map(|watch| watch.objects.len()).sum()
    }

    fn objects(&self, key: &WatchKey) -> impl Iterator<Item = &Object> + use<'_> {
        let watch = self.watches.get(key);
        watch.into_iter().flat_map(|watch| watch.objects.values()).filter_map(|seen| seen.object.as_ref())
    }
}

impl View for Store {
    fn service(&self, name: &ServiceName) -> Option<&Service> {
        Self::service(self, name)
    }

    fn routes_bound_to<'a>(&'a self, service: &ServiceName) -> Box<dyn Iterator<Item = &'a Route> + 'a> {
        let service = service.clone();
        let routes = self.watches.iter().filter(|(key, _)| matches!(key, WatchKey::Routes(..)));
        let objects =
            routes.flat_map(|(_, watch)| watch.objects.values()).filter_map(|seen| seen.object.as_ref());
        Box::new(objects.filter_map(move |object| match object {
            Object::Route(route) if route.binds_to(&service) => Some(&**route),
            Object::Route(_) | Object::Service(_) | Object::Slice(_) | Object::Pod(_) => None,
        }))
    }
}
