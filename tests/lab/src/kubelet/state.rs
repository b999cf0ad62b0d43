//! What the kubelet knows of a pod while it runs, and the Kubernetes status that follows from it. Pure.

use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

use crate::net::{Addresses, NODE};
use crate::process::Recorded;

/// A container's part in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next starts.
    Init,
    /// A native sidecar: an init container that is kept running.
    Sidecar,
    /// One of the pod's own containers.
    App,
}

impl Role {
    /// As `lab ps --json` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Sidecar => "sidecar",
            Self::App => "app",
        }
    }
}

/// How a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Not running; why.
    Waiting { reason: &'static str, message: String },
    /// Running since a time (RFC 3339).
    Running { process: Recorded, since: String },
    /// Ended, and not to be started again.
    Ended { code: i32 },
}

/// One container's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerState {
    /// Its name.
    pub name: String,
    /// Its part.
    pub role: Role,
    /// How it is.
    pub progress: Progress,
    /// Whether its startup probe has succeeded (or it has none and runs).
    pub started: bool,
    /// Whether it is ready.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended last.
    pub last_code: Option<i32>,
}

impl ContainerState {
    fn new(container: &Container, init: bool) -> Self {
        let role = match (init, container.restart_policy.is_some()) {
            (true, true) => Role::Sidecar,
            (true, false) => Role::Init,
            (false, _) => Role::App,
        };
        let progress = Progress::Waiting { reason: "PodInitializing", message: String::new() };
        let name = container.name.clone();
        Self { name, role, progress, started: false, ready: false, restarts: 0, last_code: None }
    }

    /// Its process, if it runs.
    pub fn process(&self) -> Option<Recorded> {
        match &self.progress {
            Progress::Running { process, .. } => Some(*process),
            Progress::Waiting { .. } | Progress::Ended { .. } => None,
        }
    }

    /// Its exit code, if it has ended for good.
    pub fn ended(&self) -> Option<i32> {
        match &self.progress {
            Progress::Ended { code } => Some(*code),
            Progress::Waiting { .. } | Progress::Running { .. } => None,
        }
    }
}

/// All containers of a pod in the order in which they start.
pub fn containers_of(pod: &Pod) -> Vec<ContainerState> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|c| ContainerState::new(c, true));
    init.chain(spec.containers.iter().map(|c| ContainerState::new(c, false))).collect()
}

/// A pod's state.
#[derive(Clone, Debug, Default)]
pub struct PodState {
    /// Its containers, known once it is admitted.
    pub containers: Vec<ContainerState>,
    /// Why it does not go on, for people.
    pub message: String,
    /// It was refused or cannot run at all.
    pub refused: bool,
    /// Its network is up.
    pub networked: bool,
    /// All init containers have done their part.
    pub initialized: bool,
    /// When it was asked to end (RFC 3339).
    pub deleted_at: Option<String>,
    /// It and all it had are gone.
    pub gone: bool,
}

impl PodState {
    /// The pod's phase.
    pub fn phase(&self) -> &'static str {
        let apps = || self.containers.iter().filter(|c| c.role == Role::App);
        let failed_init =
            self.containers.iter().any(|c| c.role == Role::Init && c.ended().is_some_and(|code| code != 0));
        if self.refused || failed_init {
            return "Failed";
        }
        if !self.containers.is_empty() && apps().all(|c| c.ended().is_some()) {
            return if apps().all(|c| c.ended() == Some(0)) { "Succeeded" } else { "Failed" };
        }
        if self.initialized { "Running" } else { "Pending" }
    }

    /// Whether every container and sidecar is ready.
    pub fn ready(&self) -> bool {
        let mut lasting = self.containers.iter().filter(|c| c.role != Role::Init);
        self.phase() == "Running" && self.initialized && lasting.all(|c| c.ready)
    }

    /// Whether nobody needs to wait for this pod any longer, and whether that is good.
    pub fn settled(&self) -> Option<bool> {
        match self.phase() {
            "Succeeded" => Some(true),
            "Failed" => Some(false),
            _ if self.ready() => Some(true),
            _ => None,
        }
    }

    /// A container's state.
    pub fn container(&self, name: &str) -> Option<&ContainerState> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// Why the pod is not ready, for people.
    pub fn why(&self) -> String {
        if !self.message.is_empty() {
            return self.message.clone();
        }
        let unready = self.containers.iter().find(|c| match c.role {
            Role::Init => c.ended() != Some(0),
            Role::Sidecar | Role::App => !c.ready && c.ended() != Some(0),
        });
        let Some(container) = unready else { return self.phase().to_owned() };
        let name = &container.name;
        match &container.progress {
            Progress::Waiting { reason, message } if message.is_empty() => {
                format!("container {name}: {reason}")
            }
            Progress::Waiting { reason, message } => format!("container {name}: {reason}: {message}"),
            Progress::Running { .. } => format!("container {name} runs, but is not ready"),
            Progress::Ended { code } => format!("container {name} ended with status {code}"),
        }
    }

    /// The container whose log explains most.
    pub fn suspect(&self) -> Option<&str> {
        let bad = |c: &&ContainerState| !c.ready && c.ended() != Some(0);
        self.containers.iter().find(bad).map(|c| c.name.as_str())
    }

    /// The status of the pod's object.
    pub fn status(&self, addresses: Addresses) -> Value {
        let ready = self.ready();
        let started = |role_is_init: bool| {
            let chosen = self.containers.iter().filter(move |c| (c.role != Role::App) == role_is_init);
            chosen.map(container_status).collect::<Vec<_>>()
        };
        let condition =
            |name: &str, holds: bool| json!({"type": name, "status": if holds { "True" } else { "False" }});
        let mut status = json!({
            "phase": self.phase(),
            "conditions": [
                condition("Initialized", self.initialized),
                condition("Ready", ready),
                condition("ContainersReady", ready),
                condition("PodScheduled", true),
            ],
            "hostIP": NODE.v4.to_string(),
            "hostIPs": NODE.texts().map(|ip| json!({"ip": ip})),
            "initContainerStatuses": started(true),
            "containerStatuses": started(false),
        });
        if !self.message.is_empty() {
            status["message"] = json!(self.message);
        }
        if self.networked {
            status["podIP"] = json!(addresses.v4.to_string());
            status["podIPs"] = json!(addresses.texts().map(|ip| json!({"ip": ip})));
        }
        status
    }
}

fn container_status(container: &ContainerState) -> Value {
    let state = match &container.progress {
        Progress::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
        Progress::Running { since, .. } => json!({"running": {"startedAt": since}}),
        Progress::Ended { code } => json!({"terminated": {
            "exitCode": code, "reason": if *code == 0 { "Completed" } else { "Error" },
        }}),
    };
    let last =
        container.last_code.map_or_else(|| json!({}), |code| json!({"terminated": {"exitCode": code}}));
    json!({
        "name": container.name,
        "image": "",
        "imageID": "",
        "ready": container.ready || (container.role == Role::Init && container.ended() == Some(0)),
        "started": container.started,
        "restartCount": container.restarts,
        "state": state,
        "lastState": last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(containers: &[(Role, Progress, bool)], initialized: bool) -> PodState {
        let containers = containers.iter().enumerate().map(|(i, (role, progress, ready))| ContainerState {
            name: format!("c{i}"),
            role: *role,
            progress: progress.clone(),
            started: *ready,
            ready: *ready,
            restarts: 0,
            last_code: None,
        });
        PodState { containers: containers.collect(), initialized, ..PodState::default() }
    }

    fn running() -> Progress {
        Progress::Running { process: Recorded { pid: 1, start: 1 }, since: String::new() }
    }

    #[track_caller]
    fn check(containers: &[(Role, Progress, bool)], initialized: bool, phase: &str, ready: bool) {
        let state = state(containers, initialized);
        assert_eq!((state.phase(), state.ready()), (phase, ready));
    }

    #[test]
    fn a_pod_is_ready_when_its_sidecars_are() {
        let done = (Role::Init, Progress::Ended { code: 0 }, false);
        check(
            &[done.clone(), (Role::Sidecar, running(), false), (Role::App, running(), true)],
            true,
            "Running",
            false,
        );
        check(&[done, (Role::Sidecar, running(), true), (Role::App, running(), true)], true, "Running", true);
    }

    #[test]
    fn a_pod_whose_containers_ended_has_succeeded_or_failed() {
        check(
            &[(Role::Sidecar, running(), true), (Role::App, Progress::Ended { code: 0 }, false)],
            true,
            "Succeeded",
            false,
        );
        check(&[(Role::App, Progress::Ended { code: 3 }, false)], true, "Failed", false);
    }

    #[test]
    fn a_failed_init_container_fails_the_pod() {
        check(
            &[(Role::Init, Progress::Ended { code: 1 }, false), (Role::App, running(), false)],
            false,
            "Failed",
            false,
        );
    }
}
