//! The roots to trust, in a ConfigMap of every namespace that has meshed pods or will have: kubelets show it to proxies,
//! and show them its changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Error};
use mesh::contract::{BUNDLE_CONFIG_MAP, BUNDLE_KEY, INJECT_LABEL};
use mesh::names::ObjectName;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Plane, doubled};
use crate::index::{Entry, State};
use crate::object::Kind;
use crate::source::kubernetes::in_time;

/// Changes come in bursts: the namespaces are gone through once for each.
const PAUSE: Duration = Duration::from_millis(200);
/// A namespace waits after a failure, twice as long with each: what is wrong may be wrong with it alone.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// What is ours says so.
const MANAGED: (&str, &str) = ("app.kubernetes.io/managed-by", "heddle");

/// What is to be done in a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Create,
    /// Only this version is written over: newer roots are never replaced by those of a leader of the past.
    Update {
        version: String,
    },
    /// Somebody else's object has the name.
    Contested,
}

/// The labels of what Heddle makes.
pub fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([(MANAGED.0.to_owned(), MANAGED.1.to_owned())])
}

/// The ConfigMap that holds `roots`.
pub fn config_map(namespace: &str, roots: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(BUNDLE_CONFIG_MAP.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels()),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(BUNDLE_KEY.to_owned(), roots.to_owned())])),
        ..ConfigMap::default()
    }
}

/// Keeps the ConfigMaps for ever.
pub async fn write(plane: &Plane) {
    let (mut head, mut changes) = (plane.index.head(), plane.authority.changes());
    let (mut contested, mut failures) = (BTreeSet::new(), Failures::default());
    loop {
        head.borrow_and_update();
        let roots = plane.authority.last().bundle().to_owned();
        let steps = steps(&plane.index.read(), &plane.namespace, &roots);
        failures.forget_all_but(&steps);
        for (namespace, step) in steps {
            if failures.is_due(&namespace, Instant::now()) {
                let done = carry_out(plane, &namespace, step, &roots, &mut contested).await;
                failures.note(namespace, done, Instant::now());
            }
        }
        let pause = failures.pause(Instant::now());
        tokio::select! {
            _ = head.changed() => {}
            () = changes.next() => {}
            () = sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
        sleep(PAUSE).await;
    }
}

/// Whether it is done, as far as we know.
async fn carry_out(
    plane: &Plane,
    namespace: &str,
    step: Step,
    roots: &str,
    contested: &mut BTreeSet<String>,
) -> bool {
    let api: Api<ConfigMap> = Api::namespaced(plane.client.clone(), namespace);
    let outcome = match step {
        Step::Create => in_time(api.create(&PostParams::default(), &config_map(namespace, roots))).await,
        Step::Update { version } => {
            let patch = Patch::Merge(update(roots, &version));
            in_time(api.patch(BUNDLE_CONFIG_MAP, &PatchParams::default(), &patch)).await
        }
        Step::Contested => {
            if contested.insert(namespace.to_owned()) {
                tracing::error!(
                    "ConfigMap {namespace}/{BUNDLE_CONFIG_MAP} is not Heddle's: delete it, its name is reserved"
                );
            }
            return true;
        }
    };
    match outcome {
        Ok(_) => true,
        // Made, changed or deleted meanwhile, or its namespace is ending: the watch will tell.
        Err(Error::Api(status)) if matches!(status.code, 404 | 409) || is_ending(&status.message) => false,
        Err(error) => {
            tracing::warn!("the roots of namespace {namespace} cannot be written: {error}");
            false
        }
    }
}

/// The patch that puts `roots` into the ConfigMap of this version, and of no other.
fn update(roots: &str, version: &str) -> Value {
    json!({"metadata": {"resourceVersion": version}, "data": {BUNDLE_KEY: roots}})
}

fn is_ending(message: &str) -> bool {
    message.contains("because it is being terminated")
}

/// What is to be done, by namespace.
fn steps(state: &State, own: &str, roots: &str) -> Vec<(String, Step)> {
    let namespaces = namespaces(state, own);
    let step = |namespace: String| step(state, &namespace, roots).map(|step| (namespace, step));
    namespaces.into_iter().filter_map(step).collect()
}

/// Our own, those that ask for the mesh, and those that have meshed pods all the same. In one that is being deleted nothing
/// can be made.
fn namespaces(state: &State, own: &str) -> BTreeSet<String> {
    let lasting = state.all(Kind::Namespace).filter(|entry| !is_deleted(entry));
    let all = lasting.map(|entry| (&*entry.key.name.name, entry));
    let wanted = all.filter(|(name, entry)| {
        *name == own || entry.has_label(INJECT_LABEL, "enabled") || has_meshed(state, name)
    });
    wanted.map(|(name, _)| name.to_owned()).collect()
}

fn is_deleted(entry: &Entry) -> bool {
    !entry.value["metadata"]["deletionTimestamp"].is_null()
}

fn has_meshed(state: &State, namespace: &str) -> bool {
    let mut pods = state.in_namespace(Kind::Pod, namespace);
    pods.any(|entry| entry.pod.as_ref().is_some_and(|pod| pod.meshed && !pod.finished))
}

fn step(state: &State, namespace: &str, roots: &str) -> Option<Step> {
    let Some(present) = state.get(Kind::ConfigMap, &ObjectName::new(namespace, BUNDLE_CONFIG_MAP)) else {
        return Some(Step::Create);
    };
    if !present.has_label(MANAGED.0, MANAGED.1) {
        return Some(Step::Contested);
    }
    let update = || Step::Update { version: present.object.version.clone() };
    (present.value["data"][BUNDLE_KEY] != roots).then(update)
}

/// The namespaces whose last write failed: how often in a row, and when it is due again.
#[derive(Debug, Default)]
struct Failures(BTreeMap<String, (u32, Instant)>);

impl Failures {
    fn is_due(&self, namespace: &str, now: Instant) -> bool {
        self.0.get(namespace).is_none_or(|(_, due)| *due <= now)
    }

    fn note(&mut self, namespace: String, done: bool, now: Instant) {
        if done {
            self.0.remove(&namespace);
            return;
        }
        let before = self.0.get(&namespace).map_or(0, |(failures, _)| *failures);
        let due = now + doubled(FIRST_DELAY, before, LONGEST_DELAY);
        self.0.insert(namespace, (before.saturating_add(1), due));
    }

    /// How long it is until one is due again.
    fn pause(&self, now: Instant) -> Option<Duration> {
        let first = self.0.values().map(|(_, due)| *due).min()?;
        Some(first.saturating_duration_since(now))
    }

    fn forget_all_but(&mut self, steps: &[(String, Step)]) {
        let open: BTreeSet<&str> = steps.iter().map(|(namespace, _)| namespace.as_str()).collect();
        self.0.retain(|namespace, _| open.contains(namespace.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::{index, put};

    const OWN: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: heddle-system}\n---\n";
    const SHOP: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {heddle.dev/inject: enabled}}\n---\n";
    const PLAIN: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: plain}\n---\n";

    fn roots(namespace: &str, managed: &str, text: &str) -> String {
        format!(
            "apiVersion: v1\nkind: ConfigMap\ndata: {{root.pem: {text}}}\n\
             metadata: {{name: heddle-root, namespace: {namespace}, labels: {{app.kubernetes.io/managed-by: {managed}}}}}\n---\n"
        )
    }

    #[track_caller]
    fn check(objects: &str, expected: &[(&str, Step)]) {
        let index = index(100, objects);
        let found = steps(&index.read(), "heddle-system", "new");
        let found: Vec<_> =
            found.iter().map(|(namespace, step)| (namespace.as_str(), step.clone())).collect();
        assert_eq!(found, expected);
    }

    /// Objects of files have no version.
    fn changed() -> Step {
        Step::Update { version: String::new() }
    }

    #[test]
    fn our_own_namespace_and_those_that_ask_for_the_mesh_get_the_roots() {
        let all = [OWN, SHOP, PLAIN].concat();
        check(&all, &[("heddle-system", Step::Create), ("shop", Step::Create)]);
    }

    #[test]
    fn a_namespace_with_a_meshed_pod_gets_the_roots() {
        let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: plain, uid: u}\n\
             spec: {containers: [], initContainers: [{name: heddle-proxy, restartPolicy: Always}]}\n";
        check(&(PLAIN.to_owned() + pod), &[("plain", Step::Create)]);
    }

    #[test]
    fn what_is_there_already_is_left_alone() {
        check(&(SHOP.to_owned() + &roots("shop", "heddle", "new")), &[]);
        check(&(SHOP.to_owned() + &roots("shop", "heddle", "old")), &[("shop", changed())]);
        check(&(SHOP.to_owned() + &roots("shop", "somebody", "old")), &[("shop", Step::Contested)]);
    }

    #[test]
    fn carrying_a_step_out_leaves_nothing_to_do() {
        let index = index(100, SHOP);
        let made = serde_norway::to_string(&config_map("shop", "new")).unwrap();
        put(&index, &format!("apiVersion: v1\nkind: ConfigMap\n{made}"));
        assert!(steps(&index.read(), "heddle-system", "new").is_empty());
    }

    #[test]
    fn a_namespace_that_is_being_deleted_is_left_alone() {
        let ending = SHOP.replace("{name: shop,", "{name: shop, deletionTimestamp: '2026-01-01T00:00:00Z',");
        assert_ne!(ending, SHOP);
        check(&ending, &[]);
    }

    #[test]
    fn only_the_version_that_was_read_is_written_over() {
        let patch = update("new", "7");
        assert_eq!(patch, json!({"metadata": {"resourceVersion": "7"}, "data": {"root.pem": "new"}}));
    }

    #[test]
    fn a_namespace_that_fails_waits_longer_and_longer_by_itself() {
        let (now, mut failures) = (Instant::now(), Failures::default());
        let after = |seconds| now + Duration::from_secs(seconds);
        for _ in 0..3 {
            failures.note("bad".to_owned(), false, now);
        }
        failures.note("good".to_owned(), true, now);
        assert!(failures.is_due("good", now) && !failures.is_due("bad", after(3)));
        assert!(failures.is_due("bad", after(4)));
        assert_eq!(failures.pause(now), Some(Duration::from_secs(4)));
        for _ in 0..40 {
            failures.note("bad".to_owned(), false, now);
        }
        assert!(failures.is_due("bad", now + LONGEST_DELAY));
        failures.forget_all_but(&[]);
        assert_eq!(failures.pause(now), None);
    }
}
