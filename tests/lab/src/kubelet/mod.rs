//! The kubelet: one task per pod, from admission to the last trace of it.

mod keeper;
mod probes;
pub mod spec;
pub mod state;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::container::Spec;
use crate::env::Data;
use crate::hosts::{GAI_CONF, resolv_conf};
use crate::net::{self, Addresses, netns_file};
use crate::protocol::PodName;
use crate::store::{new_uid, now, unix_now};
use crate::tokens::Subject;
use crate::volumes::{self, Tokens};
use crate::world::{NODE_NAME, World};
use keeper::{Keeper, Order};
use spec::Surroundings;
use state::{PodState, Role, containers_of};

/// Kubernetes' default terminationGracePeriodSeconds.
const GRACE: u64 = 30;

struct Minted {
    token: String,
    renew_at: u64,
}

/// A pod of the world, from its creation to its end.
pub struct PodRun {
    /// Namespace and name.
    pub name: PodName,
    /// This incarnation's UID.
    pub uid: String,
    /// As the user wrote it.
    pub manifest: RefCell<Value>,
    /// Its network namespace.
    pub netns: String,
    /// Its addresses.
    pub addresses: Addresses,
    /// When it was created.
    pub born: Instant,
    /// As it runs: after injection.
    pub pod: RefCell<Pod>,
    /// How it is.
    pub state: RefCell<PodState>,
    /// Counts changes of the state.
    pub version: watch::Sender<u64>,
    number: u16,
    stop: watch::Sender<bool>,
    orders: RefCell<BTreeMap<String, watch::Sender<Order>>>,
    minted: RefCell<BTreeMap<(String, String), Minted>>,
}

/// Creates a pod and lets it live on its own.
pub fn create(world: &Rc<World>, manifest: Value) -> Result<Rc<PodRun>> {
    let text = |field: &str| manifest["metadata"][field].as_str().unwrap_or_default().to_owned();
    let name = PodName { namespace: text("namespace"), name: text("name") };
    let number = world.next_pod.get();
    world.next_pod.set(number.checked_add(1).context("this world has had 65,000 pods: start a new one")?);
    let pod = serde_json::from_value(manifest.clone()).context("not a Pod")?;
    let run = Rc::new(PodRun {
        uid: new_uid(),
        netns: world.place.pod_netns(&name.namespace, &name.name),
        addresses: Addresses::of_pod(number),
        pod: RefCell::new(pod),
        born: Instant::now(),
        state: RefCell::default(),
        version: watch::Sender::new(0),
        stop: watch::Sender::new(false),
        orders: RefCell::default(),
        minted: RefCell::default(),
        name: name.clone(),
        number,
        manifest: RefCell::new(manifest),
    });
    world.pods.borrow_mut().insert(name, run.clone());
    run.change(world, |_| {});
    tokio::task::spawn_local(live(world.clone(), run.clone()));
    Ok(run)
}

async fn live(world: Rc<World>, run: Rc<PodRun>) {
    match prepare(&world, &run).await {
        Err(why) => run.change(&world, |state| (state.refused, state.message) = (true, format!("{why:#}"))),
        Ok(()) => {
            tokio::select! {
                biased;
                () = run.asked_to_stop() => {}
                () = work(&world, &run) => {}
            }
            end_containers(&world, &run).await;
        }
    }
    run.asked_to_stop().await;
    remove(&world, &run);
}

/// Admission, network, volumes: what comes before the first container. A pod that is to stop cuts the waiting short,
/// but not the making of its network, which `remove` undoes.
async fn prepare(world: &Rc<World>, run: &Rc<PodRun>) -> Result<()> {
    let admitted = tokio::select! {
        admitted = world.admit(run) => admitted?,
        () = run.asked_to_stop() => return Ok(()),
    };
    run.change(world, |state| state.containers = containers_of(&admitted));
    run.pod.replace(admitted);
    run.change(world, |state| state.message.clear());
    make_network(world, run).await?;
    run.apply_sysctls()?;
    run.change(world, |state| state.networked = true);
    let directory = world.place.pod(&run.uid);
    fs::create_dir_all(directory.join("etc")).context("cannot make the pod's directory")?;
    fs::write(directory.join("etc/resolv.conf"), resolv_conf(&run.name.namespace))?;
    fs::write(directory.join("etc/gai.conf"), GAI_CONF)?;
    world.write_hosts(run)?;
    run.fresh_logs(world);
    while let Err(why) = run.publish_volumes(world) {
        run.change(world, |state| state.message = format!("waits for a volume: {why}"));
        tokio::select! {
            () = sleep(Duration::from_millis(50)) => {}
            () = run.asked_to_stop() => return Ok(()),
        }
    }
    run.change(world, |state| state.message.clear());
    Ok(())
}

/// Off the world's thread, so that pods start side by side.
async fn make_network(world: &World, run: &PodRun) -> Result<()> {
    let (place, netns, addresses) = (world.place.clone(), run.netns.clone(), run.addresses);
    let link = format!("pod{}", run.number);
    tokio::task::spawn_blocking(move || net::make_pod(&place, &netns, &link, addresses)).await?
}

/// Init containers in order, then all others; returns when the pod's work is done.
async fn work(world: &Rc<World>, run: &Rc<PodRun>) {
    let spec = run.pod.borrow().spec.clone().unwrap_or_default();
    for container in spec.init_containers.into_iter().flatten() {
        let name = container.name.clone();
        let sidecar = container.restart_policy.is_some();
        run.keep(world, container, if sidecar { Role::Sidecar } else { Role::Init });
        run.until(|state| {
            state.container(&name).is_none_or(|c| if sidecar { c.started } else { c.ended().is_some() })
        })
        .await;
        if run.state.borrow().phase() == "Failed" {
            return;
        }
    }
    run.change(world, |state| state.initialized = true);
    for container in spec.containers {
        run.keep(world, container, Role::App);
    }
    run.until(|state| matches!(state.phase(), "Succeeded" | "Failed")).await;
}

/// Ends the application's containers, then the sidecars in reverse order, all within the grace period.
async fn end_containers(world: &Rc<World>, run: &Rc<PodRun>) {
    let deadline = Instant::now() + run.grace();
    let order: Vec<_> = run.state.borrow().containers.iter().map(|c| (c.name.clone(), c.role)).collect();
    let first: Vec<_> =
        order.iter().filter(|(_, role)| *role != Role::Sidecar).map(|(name, _)| name.clone()).collect();
    run.end(&first, deadline).await;
    for (name, _) in order.into_iter().rev().filter(|(_, role)| *role == Role::Sidecar) {
        run.end(&[name], deadline).await;
    }
    run.change(world, |_| {});
}

/// Removes the pod's namespace, directory and object.
fn remove(world: &Rc<World>, run: &Rc<PodRun>) {
    if let Err(why) = net::clear_netns(&world.place, &run.netns) {
        eprintln!("{}: {why:#}", run.name);
    }
    let _ = fs::remove_dir_all(world.place.pod(&run.uid));
    world.forget(run);
    run.state.borrow_mut().gone = true;
    run.version.send_modify(|n| *n += 1);
}

impl PodRun {
    /// Changes the state, and with it the pod's object and all that depends on it.
    pub fn change(&self, world: &World, change: impl FnOnce(&mut PodState)) {
        change(&mut self.state.borrow_mut());
        // Before it is admitted there is no such object, as in Kubernetes.
        let exists = {
            let state = self.state.borrow();
            !state.gone && !state.containers.is_empty()
        };
        if exists {
            world.put(self.object());
        }
        self.version.send_modify(|n| *n += 1);
    }

    /// The pod's object as it is now.
    pub fn object(&self) -> Value {
        let mut object = serde_json::to_value(&*self.pod.borrow()).unwrap_or_default();
        let state = self.state.borrow();
        object["metadata"]["uid"] = json!(self.uid);
        object["spec"]["nodeName"] = json!(NODE_NAME);
        object["spec"]["serviceAccountName"] = json!(self.service_account());
        if let Some(time) = &state.deleted_at {
            object["metadata"]["deletionTimestamp"] = json!(time);
            object["metadata"]["deletionGracePeriodSeconds"] = json!(self.grace().as_secs());
        }
        object["status"] = state.status(self.addresses);
        object
    }

    /// Waits for a state.
    pub async fn until(&self, holds: impl Fn(&PodState) -> bool) {
        let mut version = self.version.subscribe();
        // The sender is ours, so this ends only when the state holds.
        let _ = version.wait_for(|_| holds(&self.state.borrow())).await;
    }

    /// Takes labels and annotations from a newer manifest of the same spec; what injection added stays.
    pub fn relabel(&self, world: &World, manifest: Value) {
        let old = self.manifest.replace(manifest);
        let manifest = self.manifest.borrow();
        let map = |object: &Value, field: &str| -> BTreeMap<String, String> {
            serde_json::from_value(object["metadata"][field].clone()).unwrap_or_default()
        };
        let renew = |current: Option<BTreeMap<String, String>>, field: &str| {
            let mut current = current.unwrap_or_default();
            map(&old, field).keys().for_each(|key| drop(current.remove(key)));
            current.extend(map(&manifest, field));
            Some(current)
        };
        let mut pod = self.pod.borrow().clone();
        pod.metadata.labels = renew(pod.metadata.labels.take(), "labels");
        pod.metadata.annotations = renew(pod.metadata.annotations.take(), "annotations");
        self.pod.replace(pod);
        self.change(world, |_| {});
    }

    /// Asks the pod to end; it goes at its own pace.
    pub fn delete(&self, world: &World) {
        if !self.stop.send_replace(true) {
            self.change(world, |state| state.deleted_at = Some(now()));
        }
    }

    /// The pod's time to end.
    pub fn grace(&self) -> Duration {
        let asked = self.pod.borrow().spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
        Duration::from_secs(asked.and_then(|s| u64::try_from(s).ok()).unwrap_or(GRACE))
    }

    /// Whether the proxy was put into it.
    pub fn meshed(&self) -> bool {
        self.state
            .borrow()
            .containers
            .iter()
            .any(|c| c.name == crate::inject::PROXY && c.role == Role::Sidecar)
    }

    /// Always, OnFailure or Never.
    fn restart_policy(&self) -> String {
        let pod = self.pod.borrow();
        pod.spec.as_ref().and_then(|s| s.restart_policy.clone()).unwrap_or_else(|| "Always".to_owned())
    }

    /// The name of its service account.
    pub fn service_account(&self) -> String {
        let pod = self.pod.borrow();
        let named = pod
            .spec
            .as_ref()
            .and_then(|s| s.service_account_name.clone().or_else(|| s.service_account.clone()));
        named.unwrap_or_else(|| "default".to_owned())
    }

    /// What a container of this pod needs.
    pub fn spec(&self, world: &World, container: &Container) -> Result<Spec, String> {
        let around = Surroundings {
            directory: world.place.pod(&self.uid),
            netns: netns_file(&self.netns),
            programs: world.programs.clone(),
            injected: container.name.starts_with("heddle-"),
        };
        spec::spec(container, &self.pod.borrow(), &self.object(), &around, &self.data(world))
    }

    /// Brings the volumes' files up to date; the error says what is missing.
    pub fn publish_volumes(&self, world: &World) -> Result<(), String> {
        let pod = self.pod.borrow().clone();
        let group = pod.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|s| s.fs_group);
        let group = group.and_then(|g| u32::try_from(g).ok());
        let directory = world.place.pod(&self.uid).join("volumes");
        let source = self.data(world);
        let object = self.object();
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let at = directory.join(&volume.name);
            let done = match volumes::files(volume, &object, &source, &source)? {
                Some(files) => volumes::publish(&at, &files, group).map(drop),
                None => empty_dir(&at, group),
            };
            done.map_err(|why| format!("volume {}: {why}", volume.name))?;
        }
        Ok(())
    }

    fn data<'a>(&'a self, world: &'a World) -> PodData<'a> {
        PodData { run: self, world }
    }

    fn keep(self: &Rc<Self>, world: &Rc<World>, container: Container, role: Role) {
        let (sender, orders) = watch::channel(Order::Run);
        self.orders.borrow_mut().insert(container.name.clone(), sender);
        let keeper = Keeper { world: world.clone(), run: self.clone(), container, role, orders };
        tokio::task::spawn_local(keeper.keep());
    }

    async fn end(&self, names: &[String], deadline: Instant) {
        let orders: Vec<_> = names
            .iter()
            .filter_map(|name| self.orders.borrow().get(name).cloned().map(|o| (name, o)))
            .collect();
        for (_, order) in &orders {
            order.send_replace(Order::Stop(deadline));
        }
        self.until(|state| {
            orders.iter().all(|(name, _)| state.container(name).is_none_or(|c| c.ended().is_some()))
        })
        .await;
    }

    async fn asked_to_stop(&self) {
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// A new pod of an old name has logs of its own.
    fn fresh_logs(&self, world: &World) {
        for container in &self.state.borrow().containers {
            let _ = fs::remove_file(world.place.container_log(
                &self.name.namespace,
                &self.name.name,
                &container.name,
            ));
        }
    }

    fn apply_sysctls(&self) -> Result<()> {
        let pod = self.pod.borrow();
        let security = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
        let wanted: Vec<_> = security.iter().flat_map(|s| s.sysctls.iter().flatten().cloned()).collect();
        net::inside(&self.netns, || {
            wanted.iter().try_for_each(|s| {
                let name = s.name.strip_prefix("net.").context("only net.* sysctls belong to a pod")?;
                net::sysctl(&name.replace('.', "/"), &s.value)
            })
        })
    }
}

/// Anybody may write to an emptyDir, as with the kubelet; with fsGroup, files belong to that group.
fn empty_dir(directory: &std::path::Path, group: Option<u32>) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if directory.exists() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    std::os::unix::fs::chown(directory, None, group)?;
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(directory, fs::Permissions::from_mode(mode))
}

struct PodData<'a> {
    run: &'a PodRun,
    world: &'a World,
}

impl Data for PodData<'_> {
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        self.world.store.borrow().config_map(&self.run.name.namespace, name)
    }

    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        self.world.store.borrow().secret(&self.run.name.namespace, name)
    }
}

impl Tokens for PodData<'_> {
    /// The same token until four fifths of its life are over, as with the kubelet.
    fn token(&self, volume: &str, path: &str, audience: &str, seconds: u64) -> Result<String, String> {
        let key = (volume.to_owned(), path.to_owned());
        let now = unix_now();
        let mut minted = self.run.minted.borrow_mut();
        if let Some(found) = minted.get(&key).filter(|m| now < m.renew_at) {
            return Ok(found.token.clone());
        }
        let subject = self.world.subject(&self.run.name, &self.run.service_account(), &self.run.uid);
        let token =
            self.world.signer.token(&subject, audience, seconds, now).map_err(|why| format!("{why:#}"))?;
        minted.insert(key, Minted { token: token.clone(), renew_at: now + seconds * 4 / 5 });
        Ok(token)
    }
}

/// The subject of a pod's token.
pub fn subject(name: &PodName, service_account: &str, service_account_uid: String, uid: &str) -> Subject {
    Subject {
        namespace: name.namespace.clone(),
        service_account: service_account.to_owned(),
        service_account_uid,
        pod: name.name.clone(),
        pod_uid: uid.to_owned(),
    }
}
