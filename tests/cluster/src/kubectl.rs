//! kubectl, helm and the cluster's own scripts, with a bound in time.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use e2e::{Output, Running, run};
use serde_json::Value;

/// For one command, unless it says how long it waits itself.
const SOON: Duration = Duration::from_secs(60);
/// For what waits for pods.
pub const LONG: Duration = Duration::from_secs(200);

/// Where `make cluster` puts what it brought up.
const STATE: &str = "/run/heddle-cluster";

/// The cluster, as its administrator.
pub struct Kubectl {
    config: PathBuf,
    files: tempfile::TempDir,
}

impl Kubectl {
    /// Of the environment.
    ///
    /// # Errors
    /// When there is no cluster.
    pub fn new() -> Result<Self> {
        let config =
            std::env::var_os("KUBECONFIG").map_or_else(|| Path::new(STATE).join("kubeconfig"), PathBuf::from);
        let files = tempfile::Builder::new().prefix("heddle-cluster-").tempdir()?;
        let kubectl = Self { config, files };
        kubectl
            .run(&["get", "--raw", "/readyz"])
            .context("no cluster answers; make cluster brings one up")?;
        Ok(kubectl)
    }

    /// Whether the cluster is the tests' own, whose parts may be stopped.
    pub fn is_own(&self) -> bool {
        self.config.starts_with(STATE)
    }

    /// What a command says, which must succeed.
    ///
    /// # Errors
    /// When it does not.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.try_run(arguments)?.good()?.out)
    }

    /// A command that may fail.
    ///
    /// # Errors
    /// When it cannot be started, or does not end.
    pub fn try_run(&self, arguments: &[&str]) -> Result<Output> {
        let limit = if arguments.iter().any(|word| word.starts_with("--timeout")) { LONG } else { SOON };
        run(self.command("kubectl", arguments), limit)
    }

    /// Starts a command that goes on.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, arguments: &[&str]) -> Result<Running> {
        Running::start(self.command("kubectl", arguments))
    }

    /// helm, in Heddle's namespace.
    ///
    /// # Errors
    /// When it cannot be started, or does not end.
    pub fn helm(&self, arguments: &[&str]) -> Result<Output> {
        run(self.command("helm", &[&["-n", "heddle-system"], arguments].concat()), LONG)
    }

    /// An object, or a list of them.
    ///
    /// # Errors
    /// When it is not there.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.run(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Applies manifests; what kubectl says, warnings too.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub fn apply(&self, manifests: &str) -> Result<Output> {
        self.try_apply(manifests, &[])?.good()
    }

    /// Applies manifests that may be refused.
    ///
    /// # Errors
    /// When kubectl cannot be started, or does not end.
    pub fn try_apply(&self, manifests: &str, options: &[&str]) -> Result<Output> {
        let file = tempfile::Builder::new().suffix(".yaml").tempfile_in(&self.files)?;
        std::fs::write(file.path(), manifests)?;
        let path = file.path().display().to_string();
        self.try_run(&[&["apply", "--server-side", "--force-conflicts", "-f", &path], options].concat())
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let own = Path::new(STATE).join("bin").join(program);
        let mut command = if own.exists() { Command::new(own) } else { Command::new(program) };
        command.env("KUBECONFIG", &self.config).args(arguments);
        command
    }
}

/// One of the cluster's scripts, by its name in `tests/cluster`.
///
/// # Errors
/// When it fails.
pub fn script(name: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(name));
    command.args(arguments);
    run(command, LONG)?.good()
}
