//! The world of the lab, and load from its client.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::stage::{self, CLIENT, HOME};
use crate::folder::Folder;

/// A world of its own: the bench's may be up.
const NAME: &str = "bench-scale";
/// For the control plane to read a manifest.
const TAKEN: Duration = Duration::from_secs(60);
/// Between two looks at that.
const GLANCE: Duration = Duration::from_millis(100);

/// A world that is up; it is taken down when this is dropped.
pub struct World {
    lab: PathBuf,
    load: PathBuf,
    /// The directory that its control plane follows. What is put there without the lab is known to the control plane, and so
    /// to the sidecars, and to nobody else: the rules of the node's packet filter stay as they are.
    pub manifests: Folder,
    _down: Down,
}

/// What `load` says it got through.
pub struct Load {
    /// Answers.
    pub requests: f64,
    /// How long that took.
    pub seconds: f64,
}

impl World {
    /// Brings it up, after what an earlier run has left.
    pub fn up(programs: &Path) -> Result<Self> {
        let [lab, load] = ["lab", "load"].map(|name| programs.join(name));
        for program in [&lab, &load] {
            ensure!(program.is_file(), "there is no {}: build it", program.display());
        }
        run(command(&lab, &["down"]))?;
        let down = Down(lab.clone());
        give(&lab, "up", &stage::world(&load))?;
        let state = ps(&lab)?;
        let directory = state["directory"].as_str().context("lab ps names no directory")?;
        let manifests = Folder::at(Path::new(directory).join("manifests"))?;
        Ok(Self { lab, load, manifests, _down: down })
    }

    /// Adds objects; returns when the control plane has them.
    pub fn apply(&self, objects: &[Value]) -> Result<()> {
        give(&self.lab, "apply", objects)
    }

    /// The process of the client's sidecar.
    pub fn client_proxy(&self) -> Result<u32> {
        let state = ps(&self.lab)?;
        pid(&state, CLIENT, mesh::contract::PROXY_CONTAINER).context("the client has no sidecar that runs")
    }

    /// HTTP/1.1 over 64 connections from the client to a Service, as much as goes through in so many seconds.
    pub fn load(&self, service: &str, seconds: usize) -> Result<Load> {
        let state = ps(&self.lab)?;
        let mut services = state["services"].as_array().into_iter().flatten();
        let found = services.find(|found| found["name"] == service);
        let ip = found.and_then(|found| found["clusterIPs"][0].as_str()).context("no such Service")?;
        let (pod, load, to) = (format!("{HOME}/{CLIENT}"), self.load.display(), format!("{ip}:80"));
        let words = format!("exec {pod} -- {load} http1 --to {to} --host {service} --seconds {seconds}");
        let said = run(command(&self.lab, &words.split(' ').collect::<Vec<_>>()))?;
        let said: Value = serde_json::from_slice(&said.stdout).context("load says no JSON")?;
        ensure!(said["failures"] == 0, "requests failed: {said}");
        let number = |field: &str| said[field].as_f64().with_context(|| format!("load says no {field}"));
        Ok(Load { requests: number("requests")?, seconds: number("seconds")? })
    }

    /// Returns when the control plane serves a Service of the client's namespace.
    pub fn wait_for(&self, service: &str) -> Result<()> {
        let (began, name) = (Instant::now(), format!("{HOME}/{service}"));
        while run(command(&self.lab, &["get", "service", &name])).is_err() {
            ensure!(began.elapsed() < TAKEN, "the control plane does not know {name} after {TAKEN:?}");
            thread::sleep(GLANCE);
        }
        Ok(())
    }
}

/// Takes the world down when it is dropped.
struct Down(PathBuf);

impl Drop for Down {
    fn drop(&mut self) {
        // What cannot be taken down now is, at the next start.
        let _ = run(command(&self.0, &["down"]));
    }
}

/// Gives objects to the lab: with `up` for a new world, with `apply` for this one.
fn give(lab: &Path, how: &str, objects: &[Value]) -> Result<()> {
    let file = tempfile::Builder::new().suffix(".json").tempfile()?;
    let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
    std::fs::write(file.path(), documents.join("\n---\n"))?;
    let path = file.path().display().to_string();
    run(command(lab, &[how, "--timeout", "120", &path])).map(drop)
}

fn ps(lab: &Path) -> Result<Value> {
    let output = run(command(lab, &["ps", "--json"]))?;
    serde_json::from_slice(&output.stdout).context("lab ps says no JSON")
}

fn command(lab: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(lab);
    command.args(["--world", NAME]).args(words).stdin(Stdio::null());
    command
}

fn run(mut command: Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", said.trim());
    Ok(output)
}

/// The process of a pod's container.
fn pid(state: &Value, pod: &str, container: &str) -> Option<u32> {
    let mut pods = state["pods"].as_array()?.iter();
    let pod = pods.find(|found| found["namespace"] == HOME && found["name"] == pod)?;
    let mut containers = pod["containers"].as_array()?.iter();
    let pid = containers.find(|found| found["name"] == container)?["pid"].as_u64()?;
    u32::try_from(pid).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_sidecars_process_is_found_in_what_the_lab_says() {
        let containers = json!([{"name": "app", "pid": 3}, {"name": "heddle-proxy", "pid": 4}]);
        let state = json!({"pods": [
            {"namespace": "other", "name": "client", "containers": []},
            {"namespace": "shop", "name": "client", "containers": containers},
        ]});
        assert_eq!(pid(&state, "client", "heddle-proxy"), Some(4));
        assert_eq!(pid(&state, "server", "heddle-proxy"), None);
    }
}
