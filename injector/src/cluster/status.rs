//! Writes the status that routes have earned. What is to be written is decided where status is (`crate::status`); here is
//! only when, and what becomes of it.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client, Error};
use mesh::bucket::{Bucket, Rate};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::Plane;
use crate::index::State;
use crate::object::Key;
use crate::source::kubernetes::resource;
use crate::status::to_write;

/// Writes on their way at a time.
const AT_ONCE: usize = 8;
/// A new Service that a thousand routes name makes a thousand writes: a few seconds' worth.
const RATE: Rate = Rate { burst: 200, per_second: 100 };
/// What was written is back from the API server long before this; if not, it is written again.
const ECHO: Duration = Duration::from_secs(5);
/// After a conflict: the version that won is on its way to us.
const CONFLICT: Duration = Duration::from_millis(50);
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

/// Writes for ever.
pub async fn write(plane: &Plane) {
    let mut attempts = Attempts::default();
    let mut bucket = Bucket::new(RATE, Instant::now());
    loop {
        let writes = writes(&plane.index.read());
        attempts.forget_all_but(&writes);
        let mut due: Vec<Write> =
            writes.into_iter().filter(|write| attempts.due(write, Instant::now())).collect();
        let allowed = (0..due.len()).take_while(|_| bucket.take(Instant::now())).count();
        let crowded = allowed < due.len();
        due.truncate(allowed);
        let outcomes =
            stream::iter(due).map(|write| carry_out(&plane.client, write)).buffer_unordered(AT_ONCE);
        let outcomes: Vec<(Write, Outcome)> = outcomes.collect().await;
        for (write, outcome) in outcomes {
            attempts.note(write, outcome, Instant::now());
        }
        let pause = if crowded { Some(CONFLICT) } else { attempts.pause(Instant::now()) };
        tokio::select! {
            () = plane.index.unwritten() => {}
            () = sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
    }
}

/// Everything that is to be written.
fn writes(state: &State) -> Vec<Write> {
    let unwritten = state.unwritten().filter_map(|entry| {
        let source = &entry.object;
        let parents = to_write(&entry.value, &source.value)?.to_vec();
        let api_version = source.value["apiVersion"].as_str()?.to_owned();
        Some(Write { key: entry.key.clone(), api_version, version: source.version.clone(), parents })
    });
    unwritten.collect()
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Written,
    Conflict,
    Failed,
}

async fn carry_out(client: &Client, write: Write) -> (Write, Outcome) {
    let Key { kind, name } = &write.key;
    let version = write.api_version.rsplit('/').next().unwrap_or_default();
    let resource = resource(*kind, version);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &name.namespace, &resource);
    let patch = json!({"metadata": {"resourceVersion": write.version}, "status": {"parents": write.parents}});
    let written = api.patch_status(&name.name, &PatchParams::default(), &Patch::Merge(patch)).await;
    let outcome = match written {
        Ok(_) => Outcome::Written,
        Err(Error::Api(status)) if matches!(status.code, 404 | 409) => Outcome::Conflict,
        Err(error) => {
            tracing::warn!("the status of {} cannot be written: {error}", write.key);
            Outcome::Failed
        }
    };
    (write, outcome)
}

/// What was tried last for each route, so that nothing is written over and over.
#[derive(Debug, Default)]
struct Attempts(HashMap<Key, Attempt>);

#[derive(Debug)]
struct Attempt {
    write: Write,
    failures: u32,
    not_before: Instant,
}

impl Attempts {
    /// Whether it is time for a write. Another status is written at once, unless the last write failed.
    fn due(&self, write: &Write, now: Instant) -> bool {
        self.0.get(&write.key).is_none_or(|last| {
            now >= last.not_before || (last.failures == 0 && last.write.parents != write.parents)
        })
    }

    fn note(&mut self, write: Write, outcome: Outcome, now: Instant) {
        let before = self.0.get(&write.key).map_or(0, |last| last.failures);
        let (failures, delay) = match outcome {
            Outcome::Written => (0, ECHO),
            Outcome::Conflict => (0, CONFLICT),
            Outcome::Failed => (before + 1, (FIRST_DELAY * 2_u32.pow(before.min(6))).min(LONGEST_DELAY)),
        };
        self.0.insert(write.key.clone(), Attempt { write, failures, not_before: now + delay });
    }

    /// How long it is until something is tried again, if something is.
    fn pause(&self, now: Instant) -> Option<Duration> {
        let first = self.0.values().map(|last| last.not_before).min()?;
        Some(first.saturating_duration_since(now).max(CONFLICT))
    }

    /// Forgets the routes whose status is what it should be.
    fn forget_all_but(&mut self, writes: &[Write]) {
        let open: BTreeSet<&Key> = writes.iter().map(|write| &write.key).collect();
        self.0.retain(|key, _| open.contains(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::{index, put, service};
    use crate::object::Kind;
    use mesh::route::RouteKind;

    fn write(parents: u32) -> Write {
        let key = Key::new(Kind::Route(RouteKind::Http), "shop", "split");
        Write { key, api_version: "g/v1".to_owned(), version: "7".to_owned(), parents: vec![json!(parents)] }
    }

    #[track_caller]
    fn check(outcomes: &[Outcome], parents: u32, after: Duration, due: bool) {
        let now = Instant::now();
        let mut attempts = Attempts::default();
        for outcome in outcomes {
            attempts.note(write(1), *outcome, now);
        }
        assert_eq!(attempts.due(&write(parents), now + after), due);
    }

    #[test]
    fn what_was_written_is_not_written_again_while_it_comes_back() {
        check(&[Outcome::Written], 1, Duration::from_secs(4), false);
        check(&[Outcome::Written], 1, Duration::from_secs(5), true);
        check(&[Outcome::Written], 2, Duration::ZERO, true);
    }

    #[test]
    fn a_conflict_is_tried_again_at_once() {
        check(&[Outcome::Conflict], 1, CONFLICT, true);
    }

    #[test]
    fn failures_wait_longer_and_longer() {
        check(&[Outcome::Failed; 3], 1, Duration::from_secs(3), false);
        check(&[Outcome::Failed; 3], 2, Duration::from_secs(3), false);
        check(&[Outcome::Failed; 3], 1, Duration::from_secs(4), true);
        check(&[Outcome::Failed; 40], 1, LONGEST_DELAY, true);
    }

    #[test]
    fn a_route_is_written_until_its_status_is_at_the_source() {
        let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {name: split, namespace: shop}\n\
             spec: {parentRefs: [{group: '', kind: Service, name: web}]}\n";
        let index = index(100, &(service("web", "10.96.0.5") + route));
        let all = writes(&index.read());
        assert_eq!((all.len(), all[0].api_version.as_str()), (1, "gateway.networking.k8s.io/v1"));
        let parents = serde_json::to_string(&all[0].parents).unwrap();
        let key = all[0].key.clone();
        put(&index, route); // a file knows nothing of status
        assert_eq!(writes(&index.read()).len(), 1);
        let mut value = index.read().get(key.kind, &key.name).unwrap().object.value.clone();
        value["status"] = json!({"parents": serde_json::from_str::<Value>(&parents).unwrap()});
        let object = crate::object::Object::decode(key.clone(), value).unwrap();
        index.apply(vec![(key, Some(std::sync::Arc::new(object)))], "2030-01-01T00:00:00Z");
        assert!(writes(&index.read()).is_empty());
    }
}
