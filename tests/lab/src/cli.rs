//! The commands and their options, in plain words.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

use crate::protocol::ControlAction;

/// Heddle without a cluster: a world of pods from ordinary Kubernetes manifests.
///
/// Every pod is a network namespace on this machine. The lab plays kubelet, kube-proxy, DNS and the endpoint
/// controller; Heddle's own programs run for real. Needs root. No traffic leaves a world.
#[derive(Debug, Parser)]
#[command(
    name = "lab",
    version,
    max_term_width = 100,
    after_help = "Example:\n  lab up shop.yaml\n  lab ps\n  lab exec shop/client -- curl -s http://web\n  lab apply split.yaml\n  lab down"
)]
pub struct Cli {
    /// The world to act on; worlds do not touch each other.
    #[arg(long, global = true, default_value = "default", env = "LAB_WORLD")]
    pub world: String,
    #[command(subcommand)]
    pub command: Command,
}

/// How traffic from outside the mesh is treated.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Mode {
    /// Only mesh traffic reaches meshed pods.
    Strict,
    /// Plaintext callers are accepted, too.
    Permissive,
}

impl Mode {
    /// As the control plane's flag wants it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
        }
    }
}

/// The form of `lab get`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Yaml,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a world from manifests; returns when all pods are ready (or have succeeded).
    Up {
        /// What meshed pods do with callers from outside the mesh.
        #[arg(long, value_enum, default_value = "permissive")]
        mode: Mode,
        /// Life of the proxies' certificates, in seconds.
        #[arg(long, value_name = "SECS")]
        leaf_ttl: Option<u64>,
        /// Where proxies send their spans (OTLP over HTTP), such as http://10.96.0.50:4318.
        #[arg(long, value_name = "URL")]
        otlp_endpoint: Option<String>,
        /// How long to wait for the pods, in seconds.
        #[arg(long, value_name = "SECS", default_value_t = 120)]
        timeout: u64,
        /// Manifests (YAML or JSON, several objects per file; `-` is standard input).
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Add or change objects; returns when the control plane has taken them and the pods are ready.
    Apply {
        /// How long to wait, in seconds.
        #[arg(long, value_name = "SECS", default_value_t = 60)]
        timeout: u64,
        /// Manifests (`-` is standard input).
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Remove an object, a pod in Kubernetes' order.
    Delete {
        /// The kind, such as httproute.
        kind: String,
        /// NAMESPACE/NAME (or NAME of a Namespace).
        name: String,
        /// How long to wait, in seconds.
        #[arg(long, value_name = "SECS", default_value_t = 60)]
        timeout: u64,
    },
    /// Return when every proxy that watches the object holds its present version.
    Wait {
        /// The kind, such as httproute.
        kind: String,
        /// NAMESPACE/NAME.
        name: String,
        /// How long to wait, in seconds.
        #[arg(long, value_name = "SECS", default_value_t = 30)]
        timeout: u64,
    },
    /// Run a command in a pod; its exit status is the command's.
    Exec {
        /// Hand our standard input to the command.
        #[arg(short = 'i', long)]
        stdin: bool,
        /// NAMESPACE/POD.
        pod: String,
        /// The container; by default the pod's first.
        #[arg(short, long)]
        container: Option<String>,
        /// The command and its arguments.
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Show pods, Services and the control plane.
    Ps {
        /// For programs: documented in docs/lab.md and stable.
        #[arg(long)]
        json: bool,
    },
    /// Show an object with its status, or all of a kind.
    Get {
        /// The kind, such as httproute.
        kind: String,
        /// NAMESPACE/NAME; without it, all of the kind.
        name: Option<String>,
        /// The form.
        #[arg(short, long, value_enum, default_value = "yaml")]
        output: Format,
    },
    /// Print the log of a container or of the control plane.
    Logs {
        /// NAMESPACE/POD.
        #[arg(required_unless_present = "control")]
        pod: Option<String>,
        /// The container; by default the pod's first.
        #[arg(short, long)]
        container: Option<String>,
        /// The control plane's log.
        #[arg(long, conflicts_with = "pod")]
        control: bool,
        /// Go on printing what is added.
        #[arg(short, long)]
        follow: bool,
    },
    /// Replace a pod as Kubernetes does: not ready, preStop, SIGTERM, grace, SIGKILL; then a new one with a new UID and IP.
    Restart {
        /// NAMESPACE/POD.
        pod: String,
        /// How long to wait, in seconds.
        #[arg(long, value_name = "SECS", default_value_t = 120)]
        timeout: u64,
    },
    /// Kill a container's process (SIGKILL); it is started again in the same pod.
    Kill {
        /// NAMESPACE/POD.
        pod: String,
        /// The container.
        #[arg(short, long)]
        container: String,
    },
    /// Stop, continue, kill or start the control plane.
    Control {
        /// What to do.
        #[arg(value_enum)]
        action: ControlAction,
    },
    /// End everything the world started and remove its namespaces, also after a crash.
    Down,
    /// The world's own process.
    #[command(hide = true)]
    Supervise { settings: PathBuf },
    /// Becomes a container.
    #[command(hide = true)]
    Container { spec: PathBuf },
    /// Becomes a command in a container.
    #[command(hide = true)]
    Enter {
        target: PathBuf,
        #[arg(last = true)]
        command: Vec<String>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
