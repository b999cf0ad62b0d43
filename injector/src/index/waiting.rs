//! Who waits for what: a change wakes those alone whom it can concern.
//!
//! **Whoever was told of nothing since he last looked has missed nothing**, however much has changed: he need not read
//! along, and does not fall behind the log. For (1) what decides on his query, its topics, is noted here before he first
//! looks; (2) what a query answers changes only with a change that is of one of its topics, before it or after it; and (3) all
//! who wait for a topic are told while the index is still locked for the change, so before anybody can see it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use futures::task::AtomicWaker;
use mesh::names::ServiceName;

use super::{Entry, Expired, Link, State};
use crate::object::{Key, Kind};

/// Something that a change can be of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Topic {
    /// One object.
    Object(Key),
    /// All objects of a kind in a namespace.
    Namespace(Kind, Arc<str>),
    /// The objects that a link finds.
    Linked(Link),
    /// The pods at the addresses of a Service's EndpointSlices; these themselves are another topic.
    PodsOf(ServiceName),
    /// The ranges of the cluster's addresses.
    Ranges,
}

/// Those who wait, by topic.
#[derive(Debug, Default)]
pub struct Waiting {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Each list is in the order of the numbers.
    by_topic: HashMap<Topic, Vec<Arc<Waiter>>>,
    newest: u64,
}

/// One who waits.
#[derive(Debug, Default)]
pub struct Waiter {
    number: u64,
    /// The version with which the changes begin that he was told of since he last looked; 0 if there were none.
    first: AtomicU64,
    waker: AtomicWaker,
}

/// What somebody waits for, from its making to its end.
#[derive(Debug)]
pub struct Interest {
    waiting: Arc<Waiting>,
    topics: Vec<Topic>,
    waiter: Arc<Waiter>,
}

impl Waiting {
    /// Waits for `topics`, each named once, from now on.
    pub fn join(self: &Arc<Self>, topics: Vec<Topic>) -> Interest {
        let mut table = self.table();
        table.newest += 1;
        let waiter = Arc::new(Waiter { number: table.newest, ..Waiter::default() });
        for topic in &topics {
            table.by_topic.entry(topic.clone()).or_default().push(Arc::clone(&waiter));
        }
        Interest { waiting: Arc::clone(self), topics, waiter }
    }

    /// Tells all whom the changes after `version` concern, and returns those who are to be woken. To be called while the
    /// index is locked for these changes.
    pub fn tell(&self, state: &State, version: u64) -> Vec<Arc<Waiter>> {
        let (table, mut told) = (self.table(), Vec::new());
        if table.by_topic.is_empty() {
            return told;
        }
        // What changed at once is seen at once: of two changes of a batch, the one that concerns somebody may be what makes the
        // other, with a lower version, concern him.
        let first = version + 1;
        if state.measured() > version {
            table.tell(&Topic::Ranges, first, &mut told);
        }
        match state.since(version) {
            Ok(events) => {
                for event in events {
                    let sides = event.before.iter().chain(&event.after);
                    for topic in sides.flat_map(|entry| topics(entry, state)) {
                        table.tell(&topic, first, &mut told);
                    }
                }
            }
            // More than is remembered: all have to list anew.
            Err(Expired) => {
                for topic in table.by_topic.keys() {
                    table.tell(topic, first, &mut told);
                }
            }
        }
        told
    }

    fn leave(&self, interest: &Interest) {
        let (mut table, number) = (self.table(), interest.waiter.number);
        for topic in &interest.topics {
            let Some(waiters) = table.by_topic.get_mut(topic) else { continue };
            if let Ok(place) = waiters.binary_search_by_key(&number, |waiter| waiter.number) {
                waiters.remove(place);
            }
            if waiters.is_empty() {
                table.by_topic.remove(topic);
            }
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Tells those who wait for `topic` of a change of `version`.
    fn tell(&self, topic: &Topic, version: u64, told: &mut Vec<Arc<Waiter>>) {
        let waiters = self.by_topic.get(topic).into_iter().flatten();
        told.extend(waiters.filter(|waiter| waiter.tell(version)).cloned());
    }
}

impl Waiter {
    /// Whether it is the first that he is told since he last looked. The index's lock orders this and his look.
    fn tell(&self, version: u64) -> bool {
        self.first.compare_exchange(0, version, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Wakes him. To be called when nothing is locked.
    pub fn wake(&self) {
        self.waker.wake();
    }
}

impl Interest {
    /// The version with which the changes begin that concern it and were not asked for before. He who asks looks at `_state`,
    /// so at all changes that he was told of until now.
    pub fn first(&self, _state: &State) -> Option<u64> {
        Some(self.waiter.first.swap(0, Ordering::Relaxed)).filter(|version| *version > 0)
    }

    /// Waits until there is such a change.
    pub fn woken(&self) -> impl Future<Output = ()> {
        poll_fn(|cx| {
            self.waiter.waker.register(cx.waker());
            match self.waiter.first.load(Ordering::Relaxed) {
                0 => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
    }

    /// Its number: those that began one after the other have numbers one after the other.
    pub fn number(&self) -> u64 {
        self.waiter.number
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        self.waiting.leave(self);
    }
}

/// Everything that a change of `entry` is of.
fn topics(entry: &Entry, state: &State) -> Vec<Topic> {
    let namespace = Topic::Namespace(entry.key.kind, Arc::clone(&entry.key.name.namespace));
    let links = entry.links().iter().cloned().map(Topic::Linked);
    let slices = entry.pod_addresses().flat_map(|ip| state.linked(&Link::Endpoint(ip)));
    let services = slices.filter_map(|slice| slice.service().cloned()).map(Topic::PodsOf);
    [Topic::Object(entry.key.clone()), namespace].into_iter().chain(links).chain(services).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Index;
    use crate::index::tests::{index, pod, put, remove, service, slice};
    use futures::FutureExt;

    const WEB: &str = "10.1.0.3";

    fn web() -> ServiceName {
        ServiceName::new("shop", "web")
    }

    /// Whether a change of an index in which `web` has a pod is told to those who wait for `topic`.
    #[track_caller]
    fn check(topic: &Topic, change: &str, told: bool) {
        let index = index(100, &(service("web", "10.96.0.5") + &pod("web-0", WEB) + &slice("web", WEB)));
        let interest = index.wait_for(vec![topic.clone()]);
        put(&index, change);
        let version = index.read().version();
        assert_eq!(interest.first(&index.read()), told.then_some(version), "{topic:?}, put");
        remove(&index, change);
        assert_eq!(interest.first(&index.read()), told.then_some(version + 1), "{topic:?}, removed");
    }

    #[test]
    fn a_change_is_of_its_object_and_of_the_namespace() {
        let key = |name: &str| Topic::Object(Key::new(Kind::Service, "shop", name));
        check(&key("web"), &service("web", "10.96.0.6"), true);
        check(&key("web"), &service("api", "10.96.0.6"), false);
        check(&Topic::Namespace(Kind::Service, "shop".into()), &service("api", "10.96.0.6"), true);
        check(&Topic::Namespace(Kind::Pod, "shop".into()), &service("api", "10.96.0.6"), false);
        check(&Topic::Namespace(Kind::Service, "other".into()), &service("api", "10.96.0.6"), false);
    }

    #[test]
    fn a_change_is_of_what_finds_the_object_before_it_or_after_it() {
        let at = |ip: &str| Topic::Linked(Link::PodAddress(ip.parse().unwrap()));
        check(&at("10.1.0.9"), &pod("web-1", "10.1.0.9"), true);
        check(&at("10.1.0.8"), &pod("web-1", "10.1.0.9"), false);
        let index = index(100, &pod("web-0", WEB));
        let interest = index.wait_for(vec![at(WEB)]);
        put(&index, &pod("web-0", "10.1.0.9"));
        assert!(interest.first(&index.read()).is_some());
        put(&index, &pod("web-0", "10.1.0.10"));
        assert!(interest.first(&index.read()).is_none());
    }

    #[test]
    fn a_change_of_a_pod_is_of_the_services_that_have_its_address() {
        check(&Topic::PodsOf(web()), &pod("web-0", WEB).replace("Running", "Pending"), true);
        check(&Topic::PodsOf(web()), &pod("other", "10.1.0.9"), false);
        check(&Topic::PodsOf(web()), &service("web", "10.96.0.6"), false);
        check(
            &Topic::PodsOf(ServiceName::new("shop", "api")),
            &pod("web-0", WEB).replace("web,", "api,"),
            false,
        );
    }

    #[test]
    fn a_change_of_the_ranges_is_told() {
        let node = |last: u8| {
            format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: a}}\nspec: {{podCIDRs: [10.{last}.0.0/16]}}\n"
            )
        };
        let index = Index::new(1, 100, Vec::new());
        let interest = index.wait_for(vec![Topic::Ranges]);
        put(&index, &node(1));
        assert_eq!(interest.first(&index.read()), Some(2));
        put(&index, &service("web", "10.96.0.5"));
        assert_eq!(interest.first(&index.read()), None);
        put(&index, &node(2));
        assert_eq!(interest.first(&index.read()), Some(4));
    }

    #[test]
    fn of_several_changes_the_first_is_told_and_wakes_once() {
        let index = index(100, &service("web", "10.96.0.5"));
        let interest = index.wait_for(vec![Topic::Object(Key::new(Kind::Service, "shop", "web"))]);
        let version = index.read().version();
        for ip in ["10.96.0.6", "10.96.0.7"] {
            put(&index, &service("web", ip));
        }
        assert_eq!(interest.woken().now_or_never(), Some(()));
        assert_eq!(interest.first(&index.read()), Some(version + 1));
        assert_eq!(interest.woken().now_or_never(), None);
    }

    #[test]
    fn more_changes_than_are_remembered_are_told_to_all() {
        let index = index(2, "");
        let interest = index.wait_for(vec![Topic::Object(Key::new(Kind::Service, "shop", "web"))]);
        let version = index.read().version();
        put(&index, &["a", "b", "c"].map(|name| service(name, "10.96.0.6")).concat());
        assert_eq!(interest.first(&index.read()), Some(version + 1));
    }

    #[test]
    fn whoever_left_is_forgotten() {
        let waiting = Arc::new(Waiting::default());
        let interests = [1, 2].map(|_| waiting.join(vec![Topic::Ranges, Topic::PodsOf(web())]));
        let [first, second] = interests;
        drop(first);
        assert_eq!(waiting.table().by_topic[&Topic::Ranges].len(), 1);
        drop(second);
        assert!(waiting.table().by_topic.is_empty());
    }
}
