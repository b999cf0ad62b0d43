//! Keeps one container: starts it, watches it, starts it again when it should be, and ends it in order when told.

use std::fs::{self, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Container;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::PodRun;
use super::probes::{Event, Watched};
use super::state::{Progress, Role};
use crate::container::Spec;
use crate::mounts;
use crate::process::{self, Held, Ns, Recorded};
use crate::protocol::Target;
use crate::store::now;
use crate::world::World;

/// The first wait before a restart; it doubles up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(10);
/// A container that ran this long starts with a short wait again.
const STEADY: Duration = Duration::from_secs(10);

/// What a keeper is to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// Keep the container running.
    Run,
    /// End it: preStop, SIGTERM, and at the deadline SIGKILL.
    Stop(Instant),
}

/// One container and its orders.
pub struct Keeper {
    /// The world.
    pub world: Rc<World>,
    /// The pod.
    pub run: Rc<PodRun>,
    /// The container's manifest.
    pub container: Container,
    /// Its part in the pod.
    pub role: Role,
    /// What to do.
    pub orders: watch::Receiver<Order>,
}

impl Keeper {
    /// Keeps the container until it has ended for good.
    pub async fn keep(mut self) {
        let mut wait = SHORTEST;
        let mut message = String::new();
        loop {
            let begun = Instant::now();
            let code = match self.once().await {
                Ok(status) => status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
                Err(why) => {
                    message = format!("{why:#}");
                    -1
                }
            };
            if self.stopping().is_some() || !self.again(code) {
                return self
                    .set(|c| (c.progress, c.ready, c.started) = (Progress::Ended { code }, false, false));
            }
            wait = if begun.elapsed() > STEADY { SHORTEST } else { wait };
            let reason = if code == -1 { "CreateContainerConfigError" } else { "CrashLoopBackOff" };
            let said =
                if code == -1 { std::mem::take(&mut message) } else { format!("ended with status {code}") };
            self.set(|c| {
                c.progress = Progress::Waiting { reason, message: said };
                (c.ready, c.started, c.last_code) = (false, false, Some(code));
                c.restarts += u32::from(code != -1);
            });
            tokio::select! {
                () = sleep(wait) => {}
                _ = stop_order(&mut self.orders) => {}
            }
            wait = (wait * 2).min(LONGEST);
        }
    }

    fn again(&self, code: i32) -> bool {
        let policy = self.run.restart_policy();
        match self.role {
            Role::Sidecar => true,
            Role::Init => code != 0 && (policy != "Never" || code == -1),
            Role::App => code == -1 || policy == "Always" || (policy == "OnFailure" && code != 0),
        }
    }

    fn stopping(&self) -> Option<Instant> {
        match *self.orders.borrow() {
            Order::Run => None,
            Order::Stop(deadline) => Some(deadline),
        }
    }

    fn set(&self, change: impl FnOnce(&mut super::state::ContainerState)) {
        self.run.change(&self.world, |state| {
            if let Some(container) = state.containers.iter_mut().find(|c| c.name == self.container.name) {
                change(container);
            }
        });
    }

    /// One life of the container.
    async fn once(&mut self) -> Result<ExitStatus> {
        if self.stopping().is_some() {
            return Ok(ExitStatus::from_raw(0));
        }
        let spec = self.run.spec(&self.world, &self.container).map_err(anyhow::Error::msg)?;
        let mut child = self.start(&spec)?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("it ended at once")?;
        let process = Recorded::of(pid).unwrap_or(Recorded { pid, start: 0 });
        self.set(|c| c.progress = Progress::Running { process, since: now() });
        let status = self.watch(&mut child, pid, spec).await;
        status.context("cannot wait for it")
    }

    fn start(&self, spec: &Spec) -> Result<Child> {
        mounts::provide(&self.world.place, spec)?;
        let file = self.file("json");
        fs::write(&file, serde_json::to_vec(spec)?)?;
        let name = &self.run.name;
        let path = self.world.place.container_log(&name.namespace, &name.name, &self.container.name);
        let log = OpenOptions::new().create(true).append(true).open(path)?;
        Command::new("/proc/self/exe")
            .args([PathBuf::from("container"), file])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start a process")
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.world.place.pod(&self.run.uid).join(format!("{}.{ending}", self.container.name))
    }

    /// Until the process has ended, by itself or because it had to; nothing that it started outlives it.
    async fn watch(&mut self, child: &mut Child, pid: i32, spec: Spec) -> std::io::Result<ExitStatus> {
        // Until it has its own mount namespace, what we would enter is the machine.
        let space = tokio::select! {
            space = own_mount_ns(pid) => space,
            status = child.wait() => return status,
        };
        let target = Target { pid, spec };
        let (run, world, container) = (self.run.clone(), self.world.clone(), self.container.clone());
        let watched = Watched { world, run, container, target };
        let status = self.follow(child, pid, &watched).await;
        // By now nobody may be in it: held since its start, it is still this container's and no other's.
        if let Some(space) = space {
            space.kill_members();
        }
        status
    }

    async fn follow(
        &mut self,
        child: &mut Child,
        pid: i32,
        watched: &Watched,
    ) -> std::io::Result<ExitStatus> {
        let (sender, mut events) = mpsc::unbounded_channel();
        let mut orders = self.orders.clone();
        let watching = watched.watch(sender);
        tokio::pin!(watching);
        let mut over = false;
        loop {
            tokio::select! {
                status = child.wait() => return status,
                deadline = stop_order(&mut orders) => return end(child, pid, watched, deadline).await,
                () = &mut watching, if !over => over = true,
                Some(event) = events.recv() => match event {
                    Event::Started => self.set(|c| c.started = true),
                    Event::Ready(ready) => self.set(|c| c.ready = ready),
                    Event::Unhealthy(why) => {
                        eprintln!("{} container {}: {why}", self.run.name, self.container.name);
                        self.set(|c| c.ready = false);
                        return end(child, pid, watched, Instant::now() + self.run.grace()).await;
                    }
                },
            }
        }
    }
}

/// preStop, SIGTERM, and at the deadline SIGKILL. Everybody has two seconds at least, as with the kubelet.
async fn end(
    child: &mut Child,
    pid: i32,
    watched: &Watched,
    deadline: Instant,
) -> std::io::Result<ExitStatus> {
    let deadline = deadline.max(Instant::now() + Duration::from_secs(2));
    if let Some(hook) = watched.container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref()) {
        tokio::select! {
            status = child.wait() => return status,
            done = watched.hook(hook) => {
                if let Err(why) = done {
                    eprintln!("{} container {}: preStop failed: {why}", watched.run.name, watched.container.name);
                }
            }
            () = sleep_until(deadline) => {}
        }
    }
    // It is our child and has not been waited for: the PID is still its own.
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    if let Ok(status) = timeout_at(deadline, child.wait()).await {
        return status;
    }
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    child.wait().await
}

async fn stop_order(orders: &mut watch::Receiver<Order>) -> Instant {
    let stop = orders.wait_for(|order| matches!(order, Order::Stop(_))).await.map(|order| *order);
    match stop {
        Ok(Order::Stop(deadline)) => deadline,
        Ok(Order::Run) | Err(_) => std::future::pending().await,
    }
}

async fn own_mount_ns(pid: i32) -> Option<Held> {
    let ours = process::ns_id("/proc/self/ns/mnt")?;
    for _ in 0..5_000 {
        match Held::of(Ns::Mount, pid) {
            Some(found) if found.id() == ours => sleep(Duration::from_millis(1)).await,
            found => return found,
        }
    }
    None
}
