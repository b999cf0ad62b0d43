//! Commands that change a world: what is new is checked as a whole, then written, then waited for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};

use crate::control::Control;
use crate::inject;
use crate::kubelet::{self, PodRun};
use crate::manifest::{KINDS, Key, Manifest, parse};
use crate::protocol::{PodName, Source};
use crate::ready::await_pods;
use crate::services;
use crate::store::desired;
use crate::supervisor::Say;
use crate::taken::{Refused, Versions, blame, derived, finish, taken};
use crate::validate::validate;
use crate::world::World;

/// Between two looks at the control plane.
const GLANCE: Duration = Duration::from_millis(5);

/// Fills a new world.
pub async fn up(world: &Rc<World>, sources: &[Source], seconds: u64, say: &Say) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let plan = plan(world, validate_all(sources)?)?;
    let (pods, others) = split(plan);
    let keys: Vec<_> = others.iter().map(|m| Key::of(&m.object)).collect();
    others.iter().for_each(|manifest| world.put(manifest.object.clone()));
    ensure_accounts(world, &others, say);
    ensure_accounts(world, &pods, say);
    if Control::available(world) {
        say.line("control plane: starting");
        world.control.start(world)?;
    } else if pods.iter().any(|pod| meshed(world, &pod.object)) {
        world.control.start(world)?;
    } else {
        say.line("control plane: not built, and no pod asks for it; going on without");
    }
    let runs = pods.into_iter().map(|pod| kubelet::create(world, pod.object)).collect::<Result<Vec<_>>>()?;
    if world.control.answers().is_ok() {
        let ready = timeout_at(deadline, world.control.ready(world)).await;
        ready.context("the control plane did not become ready (see `lab logs --control`)")??;
        say.line("control plane: ready");
        taken(world, &keys, deadline).await.map_err(|why| blame(why, &others))?;
    }
    await_pods(world, &runs, deadline, say).await?;
    finish(world, &Versions::new(), deadline, say).await?;
    Ok(json!({"pods": runs.len()}))
}

/// Changes a running world. What the control plane cannot read is taken back.
pub async fn apply(world: &Rc<World>, sources: &[Source], seconds: u64, say: &Say) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let derived = derived(world);
    let plan = plan(world, validate_all(sources)?)?;
    let (pods, others) = split(plan);
    let mut undo = Vec::new();
    let (mut changed, mut told) = (Vec::new(), Vec::new());
    for manifest in &others {
        let key = Key::of(&manifest.object);
        let before = world.store.borrow().get(&key).cloned();
        let same = before.as_ref().is_some_and(|old| desired(old) == desired(&manifest.object));
        world.put(manifest.object.clone());
        told.push(format!(
            "{key}: {}",
            if same {
                "unchanged"
            } else if before.is_some() {
                "changed"
            } else {
                "created"
            }
        ));
        if !same {
            undo.push((key.clone(), before));
            changed.push(key);
        }
    }
    if let Err(why) = taken(world, &changed, deadline).await {
        if why.is::<Refused>() {
            undo.into_iter().rev().for_each(|(key, before)| world.restore(&key, before));
        }
        return Err(blame(why, &others));
    }
    told.iter().for_each(|line| say.line(line));
    ensure_accounts(world, &others, say);
    ensure_accounts(world, &pods, say);
    let runs = join_all(pods.into_iter().map(|pod| change_pod(world, pod.object, say))).await;
    let runs: Vec<_> = runs.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    await_pods(world, &runs, deadline, say).await?;
    finish(world, &derived, deadline, say).await?;
    Ok(json!({"changed": changed.len() + runs.len()}))
}

/// Removes an object and waits until the control plane has forgotten it.
pub async fn delete(world: &Rc<World>, key: &Key, seconds: u64, say: &Say) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    if world.store.borrow().get(key).is_none() {
        let pod = PodName { namespace: key.namespace.clone(), name: key.name.clone() };
        if key.kind != "Pod" || world.pod(&pod).is_err() {
            bail!("there is no {key}");
        }
    }
    let mut keys: Vec<Key> = match key.kind.as_str() {
        "Namespace" => world.store.borrow().keys().filter(|k| k.namespace == key.name).cloned().collect(),
        _ => Vec::new(),
    };
    keys.push(key.clone());
    let runs: Vec<_> =
        world.pods.borrow().values().filter(|r| keys.iter().any(|k| is_pod(k, &r.name))).cloned().collect();
    runs.iter().for_each(|run| run.delete(world));
    for run in &runs {
        say.line(&format!("pod {}: ending", run.name));
        timeout_at(deadline, run.until(|s| s.gone))
            .await
            .with_context(|| format!("pod {} has not ended yet", run.name))?;
    }
    keys.iter().filter(|k| k.kind != "Pod").for_each(|k| drop(world.remove(k)));
    world.settled().await;
    while world.control.answers().is_ok() && world.control.read(world, key).await?.is_some() {
        if Instant::now() > deadline {
            bail!("{key} is removed, but the control plane has not taken it in time");
        }
        sleep(GLANCE).await;
    }
    Ok(json!({"deleted": keys.len()}))
}

/// Replaces a pod by a new one from the same manifest.
pub async fn restart(world: &Rc<World>, name: &PodName, seconds: u64, say: &Say) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let run = world.pod(name)?;
    let derived = derived(world);
    let manifest = run.manifest.borrow().clone();
    let fresh = replace(world, &run, manifest, say).await?;
    await_pods(world, std::slice::from_ref(&fresh), deadline, say).await?;
    finish(world, &derived, deadline, say).await?;
    Ok(json!({"uid": fresh.uid, "ips": fresh.addresses.texts()}))
}

fn is_pod(key: &Key, name: &PodName) -> bool {
    key.kind == "Pod" && key.namespace == name.namespace && key.name == name.name
}

fn validate_all(sources: &[Source]) -> Result<Vec<Manifest>> {
    parse(sources).and_then(validate).map_err(anyhow::Error::msg)
}

/// The objects as they are to be, in the order of [`KINDS`]; refuses before anything is written.
fn plan(world: &World, manifests: Vec<Manifest>) -> Result<Vec<Manifest>> {
    let mut manifests = manifests;
    let rank = |m: &Manifest| KINDS.iter().position(|k| m.object["kind"] == k.kind);
    manifests.sort_by_key(rank);
    let store = world.store.borrow();
    let planned: BTreeSet<_> = manifests.iter().map(|m| Key::of(&m.object)).collect();
    let others = store.list("Service").filter(|(key, _)| !planned.contains(key));
    let mut taken: BTreeSet<IpAddr> =
        others.flat_map(|(_, service)| services::written(&service["spec"])).collect();
    // Addresses that manifests or earlier versions hold are nobody else's, whatever the order.
    let mut reserved = taken.clone();
    for manifest in &manifests {
        let old =
            store.get(&Key::of(&manifest.object)).map(|o| services::written(&o["spec"])).unwrap_or_default();
        reserved.extend(services::written(&manifest.object["spec"]).into_iter().chain(old));
    }
    for manifest in &mut manifests {
        let key = Key::of(&manifest.object);
        if let Some(fields) = manifest.object.as_object_mut() {
            fields.remove("status");
        }
        if key.kind == "Service" {
            let old = store.get(&key);
            let own = services::written(&manifest.object["spec"]).into_iter();
            let own: Vec<_> =
                own.chain(old.map(|o| services::written(&o["spec"])).unwrap_or_default()).collect();
            let mut unfree = reserved.clone();
            own.iter().filter(|ip| !taken.contains(ip)).for_each(|ip| _ = unfree.remove(ip));
            services::complete(&mut manifest.object, old, &unfree)
                .map_err(|why| anyhow!("{}: {key}: {why}", manifest.file))?;
            let given = services::written(&manifest.object["spec"]);
            taken.extend(given.iter().copied());
            reserved.extend(given);
        }
    }
    Ok(manifests)
}

fn split(plan: Vec<Manifest>) -> (Vec<Manifest>, Vec<Manifest>) {
    plan.into_iter().partition(|m| m.object["kind"] == "Pod")
}

/// Namespaces and service accounts that are named but not there are made, and said.
fn ensure_accounts(world: &World, manifests: &[Manifest], say: &Say) {
    let made = |kind: &str, name: &str| say.line(&format!("{kind} {name}: made, since no manifest holds it"));
    for manifest in manifests {
        let key = Key::of(&manifest.object);
        let namespace = if key.kind == "Namespace" { &key.name } else { &key.namespace };
        if !namespace.is_empty() && world.ensure_namespace(namespace) {
            made("Namespace", namespace);
        }
        let account = manifest.object["spec"]["serviceAccountName"].as_str();
        if let Some(account) = account.filter(|_| key.kind == "Pod")
            && world.ensure_service_account(namespace, account)
        {
            made("ServiceAccount", &format!("{namespace}/{account}"));
        }
    }
}

fn meshed(world: &World, pod: &Value) -> bool {
    let labels = |object: &Value| serde_json::from_value(object["metadata"]["labels"].clone()).ok();
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    let store = world.store.borrow();
    let namespace_labels = store.get(&Key::new("Namespace", "", namespace)).and_then(labels);
    inject::wanted(namespace, namespace_labels.as_ref(), labels(pod).as_ref())
}

/// A new pod is created, one with another spec or that was refused is replaced, one with other labels or annotations is changed in place.
async fn change_pod(world: &Rc<World>, manifest: Value, say: &Say) -> Result<Option<Rc<PodRun>>> {
    let key = Key::of(&manifest);
    let name = PodName { namespace: key.namespace.clone(), name: key.name.clone() };
    let Ok(run) = world.pod(&name) else {
        say.line(&format!("{key}: created"));
        return kubelet::create(world, manifest).map(Some);
    };
    let before = run.manifest.borrow().clone();
    if run.state.borrow().refused {
        // In Kubernetes there would be no such pod: it is made anew, and what refused it is asked again.
        say.line(&format!("{key}: it was refused before: trying again"));
        return replace(world, &run, manifest, say).await.map(Some);
    }
    if before["spec"] != manifest["spec"] {
        say.line(&format!("{key}: its spec changed: replacing it"));
        return replace(world, &run, manifest, say).await.map(Some);
    }
    if desired(&before) == desired(&manifest) {
        say.line(&format!("{key}: unchanged"));
    } else {
        run.relabel(world, manifest);
        say.line(&format!("{key}: labels or annotations changed"));
    }
    Ok(None)
}

async fn replace(world: &Rc<World>, run: &Rc<PodRun>, manifest: Value, say: &Say) -> Result<Rc<PodRun>> {
    run.delete(world);
    say.line(&format!("pod {}: ending", run.name));
    run.until(|state| state.gone).await;
    kubelet::create(world, manifest)
}
