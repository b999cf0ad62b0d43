//! The roots to trust, in a ConfigMap of every namespace that has meshed pods or will have: kubelets show it to proxies,
//! and show them its changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Error};
use mesh::contract::{BUNDLE_CONFIG_MAP, BUNDLE_KEY, INJECT_LABEL};
use mesh::names::ObjectName;
use serde_json::json;
use tokio::time::sleep;

use super::Plane;
use crate::index::State;
use crate::object::Kind;

/// Changes come in bursts: the namespaces are gone through once for each.
const PAUSE: Duration = Duration::from_millis(200);
/// Waiting after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// What is ours says so.
const MANAGED: (&str, &str) = ("app.kubernetes.io/managed-by", "heddle");

/// What is to be done in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    Update,
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
    let mut contested = BTreeSet::new();
    loop {
        head.borrow_and_update();
        let roots = plane.authority.last().bundle().to_owned();
        let steps = steps(&plane.index.read(), &plane.namespace, &roots);
        let mut failed = false;
        for (namespace, step) in steps {
            failed |= carry_out(plane, &namespace, step, &roots, &mut contested).await.is_err();
        }
        tokio::select! {
            _ = head.changed() => {}
            () = changes.next() => {}
            () = sleep(RETRY), if failed => {}
        }
        sleep(PAUSE).await;
    }
}

async fn carry_out(
    plane: &Plane,
    namespace: &str,
    step: Step,
    roots: &str,
    contested: &mut BTreeSet<String>,
) -> Result<(), Error> {
    let api: Api<ConfigMap> = Api::namespaced(plane.client.clone(), namespace);
    let outcome = match step {
        Step::Create => api.create(&PostParams::default(), &config_map(namespace, roots)).await.map(drop),
        Step::Update => {
            let patch = Patch::Merge(json!({"data": {BUNDLE_KEY: roots}}));
            api.patch(BUNDLE_CONFIG_MAP, &PatchParams::default(), &patch).await.map(drop)
        }
        Step::Contested => {
            if contested.insert(namespace.to_owned()) {
                tracing::error!(
                    "ConfigMap {namespace}/{BUNDLE_CONFIG_MAP} is not Heddle's: delete it, its name is reserved"
                );
            }
            return Ok(());
        }
    };
    match outcome {
        // Made or deleted meanwhile, or its namespace is ending: the watch will tell.
        Err(Error::Api(status)) if matches!(status.code, 404 | 409) || is_ending(&status.message) => Ok(()),
        Err(error) => {
            tracing::warn!("the roots of namespace {namespace} cannot be written: {error}");
            Err(error)
        }
        Ok(()) => Ok(()),
    }
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

/// Our own, those that ask for the mesh, and those that have meshed pods all the same.
fn namespaces(state: &State, own: &str) -> BTreeSet<String> {
    let all = state.all(Kind::Namespace).map(|entry| (&*entry.key.name.name, entry));
    let wanted = all.filter(|(name, entry)| {
        *name == own || entry.label(INJECT_LABEL) == Some("enabled") || has_meshed(state, name)
    });
    wanted.map(|(name, _)| name.to_owned()).collect()
}

fn has_meshed(state: &State, namespace: &str) -> bool {
    let mut pods = state.in_namespace(Kind::Pod, namespace);
    pods.any(|entry| entry.pod.as_ref().is_some_and(|pod| pod.meshed && !pod.finished))
}

fn step(state: &State, namespace: &str, roots: &str) -> Option<Step> {
    let Some(present) = state.get(Kind::ConfigMap, &ObjectName::new(namespace, BUNDLE_CONFIG_MAP)) else {
        return Some(Step::Create);
    };
    if present.label(MANAGED.0) != Some(MANAGED.1) {
        return Some(Step::Contested);
    }
    (present.value["data"][BUNDLE_KEY] != roots).then_some(Step::Update)
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
        let found: Vec<_> = found.iter().map(|(namespace, step)| (namespace.as_str(), *step)).collect();
        assert_eq!(found, expected);
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
        check(&(SHOP.to_owned() + &roots("shop", "heddle", "old")), &[("shop", Step::Update)]);
        check(&(SHOP.to_owned() + &roots("shop", "somebody", "old")), &[("shop", Step::Contested)]);
    }

    #[test]
    fn carrying_a_step_out_leaves_nothing_to_do() {
        let index = index(100, SHOP);
        let made = serde_norway::to_string(&config_map("shop", "new")).unwrap();
        put(&index, &format!("apiVersion: v1\nkind: ConfigMap\n{made}"));
        assert!(steps(&index.read(), "heddle-system", "new").is_empty());
    }
}
