//! Commands that only look.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use mesh::contract::ADMIN_PORT;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::container::Spec;
use crate::kubelet::PodRun;
use crate::kubelet::state::{ContainerState, Progress};
use crate::manifest::Key;
use crate::net::NODE;
use crate::process::{mount_ns, ns_id};
use crate::protocol::{PodName, Target};
use crate::requests;
use crate::world::World;

/// Between two looks at the proxies.
const GLANCE: Duration = Duration::from_millis(10);
/// kubectl's annotation for the container that is meant when none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Everything that runs; the form is documented in docs/lab.md and stable.
pub fn ps(world: &World) -> Value {
    let pods: Vec<_> = world.pods.borrow().values().map(|run| pod(run)).collect();
    let services: Vec<_> =
        world.store.borrow().list("Service").map(|(_, service)| service_line(service)).collect();
    json!({
        "world": world.place.world,
        "directory": world.place.dir(),
        "node": {"netns": world.place.node_netns(), "addresses": NODE.texts()},
        "control": world.control.describe(world),
        "pods": pods,
        "services": services,
    })
}

fn pod(run: &PodRun) -> Value {
    let state = run.state.borrow();
    let ips = if state.networked { run.addresses.texts().to_vec() } else { Vec::new() };
    json!({
        "namespace": run.name.namespace,
        "name": run.name.name,
        "uid": run.uid,
        "ips": ips,
        "netns": run.netns,
        "phase": state.phase(),
        "ready": state.ready(),
        "terminating": state.deleted_at.is_some(),
        "meshed": run.meshed(),
        "message": if state.settled() == Some(true) { String::new() } else { state.why() },
        "containers": state.containers.iter().map(container).collect::<Vec<_>>(),
    })
}

fn container(container: &ContainerState) -> Value {
    let (state, code) = match &container.progress {
        Progress::Waiting { .. } => ("waiting", container.last_code),
        Progress::Running { .. } => ("running", container.last_code),
        Progress::Ended { code } => ("terminated", Some(*code)),
    };
    json!({
        "name": container.name,
        "kind": container.role.as_str(),
        "pid": container.process().map(|p| p.pid),
        "state": state,
        "ready": container.ready,
        "restarts": container.restarts,
        "exitCode": code,
    })
}

fn service_line(service: &Value) -> Value {
    json!({
        "namespace": service["metadata"]["namespace"],
        "name": service["metadata"]["name"],
        "clusterIPs": service["spec"]["clusterIPs"],
        "ports": service["spec"]["ports"].as_array().into_iter().flatten().map(|p| json!({
            "name": p["name"], "port": p["port"], "protocol": p["protocol"], "targetPort": p["targetPort"],
        })).collect::<Vec<_>>(),
    })
}

/// How to enter a container.
pub async fn target(world: &World, name: &PodName, container: Option<&str>) -> Result<Target> {
    let run = world.pod(name)?;
    let container = chosen(&run, container)?;
    let process = run.state.borrow().container(&container).and_then(ContainerState::process);
    let process = process.with_context(|| format!("container {container} of pod {name} does not run"))?;
    let own = ns_id("/proc/self/ns/mnt");
    while process.alive() && mount_ns(process.pid) == own {
        sleep(GLANCE).await;
    }
    let spec = Spec::read(&world.place.pod(&run.uid).join(format!("{container}.json")))?;
    Ok(Target { pid: process.pid, spec })
}

/// The file of a log.
pub fn log_file(world: &World, name: Option<&PodName>, container: Option<&str>) -> Result<Value> {
    let Some(name) = name else { return Ok(json!(world.place.control_log())) };
    let run = world.pod(name)?;
    let container = chosen(&run, container)?;
    Ok(json!(world.place.container_log(&name.namespace, &name.name, &container)))
}

/// The container that is named or meant.
fn chosen(run: &PodRun, named: Option<&str>) -> Result<String> {
    let pod = run.pod.borrow();
    let annotations = pod.metadata.annotations.as_ref();
    let first = pod.spec.as_ref().and_then(|s| s.containers.first()).map(|c| c.name.clone());
    let meant = annotations.and_then(|a| a.get(DEFAULT_CONTAINER)).cloned().or(first);
    let name = named.map(str::to_owned).or(meant).context("the pod has no container")?;
    let known: Vec<_> = run.state.borrow().containers.iter().map(|c| c.name.clone()).collect();
    match (known.contains(&name), known.is_empty()) {
        (true, _) => Ok(name),
        (false, true) => bail!("pod {} has no containers running: {}", run.name, run.state.borrow().why()),
        (false, false) => bail!("pod {} has no container {name}; it has {}", run.name, known.join(", ")),
    }
}

/// An object with its status, or all of a kind: as the mesh serves them, completed by what only the world knows.
pub async fn get(world: &World, kind: &str, key: Option<&Key>) -> Result<Value> {
    if let Some(key) = key {
        return read(world, key).await?.with_context(|| format!("there is no {key}"));
    }
    let keys: Vec<_> = world.store.borrow().list(kind).map(|(key, _)| key.clone()).collect();
    let mut items = Vec::new();
    for key in &keys {
        items.extend(read(world, key).await?);
    }
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}))
}

async fn read(world: &World, key: &Key) -> Result<Option<Value>> {
    let own = world.store.borrow().get(key).cloned();
    let served = match world.control.answers() {
        Ok(()) => world.control.read(world, key).await.unwrap_or_default(),
        Err(_) => None,
    };
    Ok(match (own, served) {
        // The mesh serves pods reduced; the world has them whole.
        (Some(mut own), Some(served)) if key.kind == "Pod" => {
            own["metadata"]["resourceVersion"] = served["metadata"]["resourceVersion"].clone();
            Some(own)
        }
        (own, served) => served.or(own),
    })
}

/// Waits until every proxy that watches an object holds its present version; answers how many do.
pub async fn wait(world: &Rc<World>, key: &Key, seconds: u64) -> Result<Value> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    world.settled().await;
    if !exists(world, key) {
        bail!("there is no {key}, so no proxy can come to hold it: apply it first");
    }
    loop {
        let why = match holders(world, key).await {
            Ok((count, None)) => return Ok(json!({"proxies": count})),
            Ok((_, Some(behind))) => behind,
            Err(why) => format!("{why:#}"),
        };
        if Instant::now() > deadline {
            bail!("{key}: {why}");
        }
        sleep(GLANCE).await;
    }
}

/// A pod that is not admitted yet is no object, but will be.
fn exists(world: &World, key: &Key) -> bool {
    let pod = PodName { namespace: key.namespace.clone(), name: key.name.clone() };
    world.store.borrow().get(key).is_some() || (key.kind == "Pod" && world.pod(&pod).is_ok())
}

/// How many proxies hold the present version, and who does not.
async fn holders(world: &World, key: &Key) -> Result<(usize, Option<String>)> {
    let present = world.control.read(world, key).await?;
    let expected = world.store.borrow().get(key).cloned();
    let generation = |o: &Option<Value>| o.as_ref().and_then(|o| o["metadata"]["generation"].as_i64());
    if present.is_some() != expected.is_some()
        || (generation(&present).is_some() && generation(&present) < generation(&expected))
    {
        bail!("the control plane does not have the present version yet");
    }
    let present = present.map(|o| version(&o["metadata"]["resourceVersion"])).unwrap_or_default();
    let runs: Vec<_> =
        world.pods.borrow().values().filter(|r| r.meshed() && !r.state.borrow().refused).cloned().collect();
    let mut count = 0;
    for run in
        runs.iter().filter(|r| r.state.borrow().container(crate::inject::PROXY).is_some_and(|c| c.started))
    {
        let table = table(run)
            .await
            .with_context(|| format!("the proxy of pod {} does not show its table", run.name))?;
        match held(&table, key).map(|v| (v.clone(), version(&v))) {
            None => {}
            Some((_, number)) if present != 0 && number >= present => count += 1,
            Some((text, _)) => {
                return Ok((
                    count,
                    Some(format!("the proxy of pod {} holds version {text}, not {present}", run.name)),
                ));
            }
        }
    }
    Ok((count, None))
}

async fn table(run: &PodRun) -> Result<Value> {
    let request = Request::get("/table").header("host", "localhost").body(Full::<Bytes>::default())?;
    let answer = requests::plain(&run.netns, ([127, 0, 0, 1], ADMIN_PORT).into(), request);
    let (_, body) = timeout(Duration::from_secs(2), answer).await??;
    serde_json::from_slice(&body).context("its table is not JSON")
}

/// The version of an object that a proxy's table shows, if it watches it.
fn held(table: &Value, key: &Key) -> Option<Value> {
    let mut objects = table["objects"].as_array()?.iter();
    let found =
        objects.find(|o| o["kind"] == key.kind && o["namespace"] == key.namespace && o["name"] == key.name);
    found.map(|o| o["resourceVersion"].clone())
}

fn version(value: &Value) -> u128 {
    value.as_str().and_then(|v| v.parse().ok()).unwrap_or_default()
}
