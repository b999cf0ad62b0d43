//! Writes the status that routes have earned. What is to be written is decided where status is (`crate::status`); here is
//! only when, and what becomes of it: `Work` is a state without a clock or a client, and `write` does what it says.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client, Error};
use mesh::bucket::{Bucket, Rate};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Plane, doubled};
use crate::index::{Entry, State};
use crate::object::Key;
use crate::source::kubernetes::{in_time, is_absent, resource};
use crate::status::to_write;

/// Writes on their way at a time.
const AT_ONCE: usize = 8;
/// A new Service that a thousand routes name makes a thousand writes: a few seconds' worth.
const RATE: Rate = Rate { burst: 200, per_second: 100 };
/// What waits for the rate alone waits this long.
const CROWDED: Duration = Duration::from_millis(10);
/// Between two looks at everything that is to be written, of which there may be much.
const LOOK: Duration = Duration::from_millis(50);
/// What was written is back from the API server long before this; if not, it is written again.
const ECHO: Duration = Duration::from_secs(5);
/// After a conflict the version that won is on its way to us. If it does not come, the delay doubles with each try.
const CONFLICT: Duration = Duration::from_millis(50);
const LONGEST_CONFLICT: Duration = Duration::from_secs(5);
/// After another failure, doubled with each.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// One write.
#[derive(Debug, Clone, PartialEq)]
struct Write {
    key: Key,
    api_version: String,
    /// Only this version is written over: whatever else changed meanwhile is looked at first.
    version: String,
    parents: Vec<Value>,
}

/// Writes for ever. None of the writes waits for another one.
pub async fn write(plane: &Plane) {
    let mut work = Work::new(Instant::now());
    let mut running = FuturesUnordered::new();
    loop {
        let due = work.take(&plane.index.read(), Instant::now());
        running.extend(due.into_iter().map(|write| carry_out(&plane.client, write)));
        let pause = work.pause(Instant::now());
        tokio::select! {
            Some((write, outcome)) = running.next() => work.note(write, outcome, Instant::now()),
            () = plane.index.unwritten() => work.remind(Instant::now()),
            () = sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
    }
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Written,
    Conflict,
    /// There is no such object any more.
    Gone,
    Failed,
}

async fn carry_out(client: &Client, write: Write) -> (Write, Outcome) {
    let Key { kind, name } = &write.key;
    let version = write.api_version.rsplit('/').next().unwrap_or_default();
    let resource = resource(*kind, version);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &name.namespace, &resource);
    let patch = json!({"metadata": {"resourceVersion": write.version}, "status": {"parents": write.parents}});
    let patch = Patch::Merge(patch);
    let outcome = match in_time(api.patch_status(&name.name, &PatchParams::default(), &patch)).await {
        Ok(_) => Outcome::Written,
        Err(Error::Api(status)) if status.code == 409 => Outcome::Conflict,
        Err(Error::Api(status)) if is_absent(&status, &name.name) => Outcome::Gone,
        Err(error) => {
            tracing::warn!("the status of {} cannot be written: {error}", write.key);
            Outcome::Failed
        }
    };
    (write, outcome)
}

/// The write that a route needs, if it needs one.
fn planned(entry: &Entry) -> Option<Write> {
    let source = &entry.object;
    let parents = to_write(&entry.value, &source.value)?.to_vec();
    let api_version = source.value["apiVersion"].as_str()?.to_owned();
    Some(Write { key: entry.key.clone(), api_version, version: source.version.clone(), parents })
}

/// What is to be written, what is being written, and what became of it.
struct Work {
    attempts: Attempts,
    queue: Queue,
    running: HashSet<Key>,
    bucket: Bucket,
    looked: Instant,
    /// When the index is looked at again, if it is.
    look_at: Option<Instant>,
}

impl Work {
    fn new(now: Instant) -> Self {
        let (attempts, queue, running) = (Attempts::default(), Queue::default(), HashSet::new());
        Self { attempts, queue, running, bucket: Bucket::new(RATE, now), looked: now, look_at: Some(now) }
    }

    /// What is to be written now.
    fn take(&mut self, state: &State, now: Instant) -> Vec<Write> {
        if self.look_at.is_some_and(|at| at <= now) {
            self.look(state, now);
        }
        let mut taken = Vec::new();
        while self.running.len() < AT_ONCE && !self.queue.is_empty() && self.bucket.take(now) {
            let key = self.queue.pop();
            let entry = key.and_then(|key| state.get(key.kind, &key.name));
            // None if its status has become what it should be while it waited.
            if let Some(write) = entry.and_then(|entry| planned(entry)) {
                self.running.insert(write.key.clone());
                taken.push(write);
            }
        }
        taken
    }

    /// Queues everything that may be written now.
    fn look(&mut self, state: &State, now: Instant) {
        (self.looked, self.look_at) = (now, None);
        self.attempts.forget_all_but(state);
        for entry in state.unwritten() {
            if self.running.contains(&entry.key) {
                continue;
            }
            match self.attempts.due(&entry.key, &entry.object.version, &entry.value, now) {
                Some(at) if at <= now => self.queue.push(&entry.key),
                Some(at) => self.remind(at),
                None => {}
            }
        }
    }

    /// Looks at the index at that time, if not before.
    fn remind(&mut self, at: Instant) {
        let at = at.max(self.looked + LOOK);
        self.look_at = Some(self.look_at.map_or(at, |before| before.min(at)));
    }

    fn note(&mut self, write: Write, outcome: Outcome, now: Instant) {
        self.running.remove(&write.key);
        self.attempts.note(write, outcome, now);
        self.remind(now);
    }

    /// How long it is until there is something to do, unless something happens before.
    fn pause(&self, now: Instant) -> Option<Duration> {
        let crowded = !self.queue.is_empty() && self.running.len() < AT_ONCE;
        let next = self.look_at.into_iter().chain(crowded.then(|| now + CROWDED)).min()?;
        Some(next.saturating_duration_since(now))
    }
}

/// The routes that wait for their turn. Each namespace's wait in a line of their own, and the lines take turns: one with
/// thousands holds up no other.
#[derive(Debug, Default)]
struct Queue {
    lines: BTreeMap<Arc<str>, VecDeque<Key>>,
    members: HashSet<Key>,
    /// The namespace that had its turn last.
    last: Arc<str>,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn push(&mut self, key: &Key) {
        if self.members.insert(key.clone()) {
            self.lines.entry(Arc::clone(&key.name.namespace)).or_default().push_back(key.clone());
        }
    }

    fn pop(&mut self) -> Option<Key> {
        let after = (Bound::Excluded(Arc::clone(&self.last)), Bound::Unbounded);
        let (namespace, _) = self.lines.range::<Arc<str>, _>(after).chain(&self.lines).next()?;
        self.last = Arc::clone(namespace);
        let line = self.lines.get_mut(&self.last)?;
        let key = line.pop_front()?;
        if line.is_empty() {
            self.lines.remove(&self.last);
        }
        self.members.remove(&key);
        Some(key)
    }
}

/// What was tried last for each route, so that nothing is written over and over.
#[derive(Debug, Default)]
struct Attempts(HashMap<Key, Attempt>);

#[derive(Debug)]
struct Attempt {
    write: Write,
    outcome: Outcome,
    failures: u32,
    not_before: Instant,
}

impl Attempts {
    /// From when on the status in `value` may be written over `version`; none if not before the object has changed. Another
    /// status is written at once, unless the last write failed, and so is another version after a conflict.
    fn due(&self, key: &Key, version: &str, value: &Value, now: Instant) -> Option<Instant> {
        let Some(last) = self.0.get(key) else { return Some(now) };
        match last.outcome {
            Outcome::Written if last.write.parents != parents(value) => Some(now),
            Outcome::Conflict | Outcome::Gone if last.write.version != version => Some(now),
            Outcome::Gone => None,
            Outcome::Written | Outcome::Conflict | Outcome::Failed => Some(last.not_before),
        }
    }

    fn note(&mut self, write: Write, outcome: Outcome, now: Instant) {
        let before = self.0.get(&write.key).map_or(0, |last| last.failures);
        let (failures, delay) = match outcome {
            Outcome::Written | Outcome::Gone => (0, ECHO),
            Outcome::Conflict => (before.saturating_add(1), doubled(CONFLICT, before, LONGEST_CONFLICT)),
            Outcome::Failed => (before.saturating_add(1), doubled(FIRST_DELAY, before, LONGEST_DELAY)),
        };
        self.0.insert(write.key.clone(), Attempt { write, outcome, failures, not_before: now + delay });
    }

    /// Forgets the routes whose status is what it should be.
    fn forget_all_but(&mut self, state: &State) {
        if !self.0.is_empty() {
            let open: HashSet<&Key> = state.unwritten().map(|entry| &entry.key).collect();
            self.0.retain(|key, _| open.contains(key));
        }
    }
}

fn parents(value: &Value) -> &[Value] {
    to_write(value, &Value::Null).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Index;
    use crate::index::tests::{index, put, service};
    use crate::object::{Kind, Object};
    use mesh::route::RouteKind;

    fn write(parents: u32) -> Write {
        let key = Key::new(Kind::Route(RouteKind::Http), "shop", "split");
        Write { key, api_version: "g/v1".to_owned(), version: "7".to_owned(), parents: vec![json!(parents)] }
    }

    /// Whether, after these outcomes, the status may be written over the version after that time.
    #[track_caller]
    fn check(outcomes: &[Outcome], parents: u32, version: &str, after: Duration, expected: bool) {
        let now = Instant::now();
        let mut attempts = Attempts::default();
        for outcome in outcomes {
            attempts.note(write(1), *outcome, now);
        }
        let (value, later) = (json!({"status": {"parents": [parents]}}), now + after);
        let due = attempts.due(&write(1).key, version, &value, later);
        assert_eq!(due.is_some_and(|at| at <= later), expected, "{due:?}");
    }

    #[test]
    fn what_was_written_is_not_written_again_while_it_comes_back() {
        check(&[Outcome::Written], 1, "7", Duration::from_secs(4), false);
        check(&[Outcome::Written], 1, "7", Duration::from_secs(5), true);
        check(&[Outcome::Written], 2, "7", Duration::ZERO, true);
    }

    #[test]
    fn after_a_conflict_the_version_that_won_is_waited_for() {
        check(&[Outcome::Conflict], 1, "8", Duration::ZERO, true);
        check(&[Outcome::Conflict], 2, "7", Duration::ZERO, false);
        check(&[Outcome::Conflict], 1, "7", CONFLICT, true);
        check(&[Outcome::Conflict; 3], 1, "7", 3 * CONFLICT, false);
        check(&[Outcome::Conflict; 40], 1, "7", Duration::from_secs(4), false);
        check(&[Outcome::Conflict; 40], 1, "7", LONGEST_CONFLICT, true);
    }

    #[test]
    fn a_route_that_is_gone_is_done_until_it_is_there_again() {
        check(&[Outcome::Gone], 2, "7", Duration::from_secs(3600), false);
        check(&[Outcome::Gone], 1, "8", Duration::ZERO, true);
    }

    #[test]
    fn failures_wait_longer_and_longer() {
        check(&[Outcome::Failed; 3], 1, "7", Duration::from_secs(3), false);
        check(&[Outcome::Failed; 3], 2, "8", Duration::from_secs(3), false);
        check(&[Outcome::Failed; 3], 1, "7", Duration::from_secs(4), true);
        check(&[Outcome::Failed; 40], 1, "7", LONGEST_DELAY, true);
    }

    fn route(namespace: &str, name: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: web}}]}}\n---\n"
        )
    }

    fn writes(index: &Index) -> Vec<Write> {
        index.read().unwritten().filter_map(|entry| planned(entry)).collect()
    }

    #[test]
    fn a_route_is_written_until_its_status_is_at_the_source() {
        let route = route("shop", "split");
        let index = index(100, &(service("web", "10.96.0.5") + &route));
        let all = writes(&index);
        assert_eq!((all.len(), all[0].api_version.as_str()), (1, "gateway.networking.k8s.io/v1"));
        let parents = serde_json::to_string(&all[0].parents).unwrap();
        let key = all[0].key.clone();
        put(&index, &route); // a file knows nothing of status
        assert_eq!(writes(&index).len(), 1);
        let mut value = index.read().get(key.kind, &key.name).unwrap().object.value.clone();
        value["status"] = json!({"parents": serde_json::from_str::<Value>(&parents).unwrap()});
        let object = Object::decode(key.clone(), value).unwrap();
        index.apply(vec![(key, Some(Arc::new(object)))], "2030-01-01T00:00:00Z");
        assert!(writes(&index).is_empty());
    }

    #[test]
    fn namespaces_take_turns() {
        let mut queue = Queue::default();
        let key = |namespace: &str, name: &str| Key::new(Kind::Route(RouteKind::Http), namespace, name);
        for name in ["1", "2", "3"] {
            queue.push(&key("big", name));
            queue.push(&key("big", name));
        }
        queue.push(&key("a", "1"));
        queue.push(&key("shop", "1"));
        let order: Vec<String> = std::iter::from_fn(|| queue.pop()).map(|key| key.name.to_string()).collect();
        assert_eq!(order, ["a/1", "big/1", "shop/1", "big/2", "big/3"]);
        assert!(queue.is_empty());
    }

    /// Two namespaces, the first of them with more routes than run at once.
    fn crowd() -> Index {
        let services = service("web", "10.96.0.5") + &service("web", "10.96.0.6").replace("shop", "small");
        let routes: String = (0..2 * AT_ONCE).map(|number| route("shop", &format!("r{number}"))).collect();
        index(1000, &(services + &routes + &route("small", "only")))
    }

    #[test]
    fn writes_run_side_by_side_and_each_place_is_filled_again_at_once() {
        let (index, now) = (crowd(), Instant::now());
        let mut work = Work::new(now);
        let mut running = work.take(&index.read(), now);
        assert_eq!(running.len(), AT_ONCE);
        assert!(running.iter().any(|write| &*write.key.name.namespace == "small"));
        assert!(work.take(&index.read(), now).is_empty());
        work.note(running.remove(0), Outcome::Written, now);
        let next = work.take(&index.read(), now);
        assert!(next.len() == 1 && !running.contains(&next[0]));
    }

    #[test]
    fn a_route_that_waits_is_looked_at_when_it_is_due() {
        let index = index(100, &(service("web", "10.96.0.5") + &route("shop", "split")));
        let now = Instant::now();
        let mut work = Work::new(now);
        let write = work.take(&index.read(), now).remove(0);
        assert_eq!(work.pause(now), None);
        work.note(write, Outcome::Failed, now);
        let later = now + LOOK;
        assert!(work.take(&index.read(), later).is_empty());
        assert_eq!(work.pause(later), Some(FIRST_DELAY - LOOK));
        assert_eq!(work.take(&index.read(), now + FIRST_DELAY).len(), 1);
    }
}
