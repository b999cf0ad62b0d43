//! What the commands say to the supervisor: one JSON line each way for a request and its end, and any number of
//! progress lines between.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::container::Spec;
use crate::manifest::Key;

/// A file as the user named it, with what was in it: the supervisor does not share our working directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Source {
    /// The file's name, for messages.
    pub file: String,
    /// Its text.
    pub text: String,
}

/// A pod's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodName {
    /// The namespace.
    pub namespace: String,
    /// The pod's own name.
    pub name: String,
}

impl std::fmt::Display for PodName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What is done to the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ControlAction {
    /// Freeze it (SIGSTOP): its connections stay open and nothing answers.
    Stop,
    /// Let a frozen one go on (SIGCONT).
    Cont,
    /// Kill it (SIGKILL): its connections are reset.
    Kill,
    /// Start it again after a kill.
    Start,
}

/// A request to the supervisor. Times are in seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Fill the new world and wait until its pods are ready.
    Up { sources: Vec<Source>, timeout: u64 },
    /// Change the world.
    Apply { sources: Vec<Source>, timeout: u64 },
    /// Remove an object.
    Delete { key: Key, timeout: u64 },
    /// Wait until the proxies hold an object's present version.
    Wait { key: Key, timeout: u64 },
    /// An object, or all of a kind, with status.
    Get { kind: String, key: Option<Key> },
    /// What runs.
    Ps,
    /// How to run a command in a container; answered with [`Target`].
    Target { pod: PodName, container: Option<String> },
    /// The file that holds a log.
    LogFile { pod: Option<PodName>, container: Option<String> },
    /// Replace a pod.
    Restart { pod: PodName, timeout: u64 },
    /// Kill a container's process.
    Kill { pod: PodName, container: String },
    /// Stop, continue, kill or start the control plane.
    Control { action: ControlAction },
}

/// A line from the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// Something happened that the user may want to see.
    Progress(String),
    /// The request is done.
    Done(Value),
    /// The request failed; the text is for the user.
    Failed(String),
}

/// What `lab exec` needs to enter a running container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// The container's process.
    pub pid: i32,
    /// How the container was started: user, environment, directory.
    pub spec: Spec,
}
