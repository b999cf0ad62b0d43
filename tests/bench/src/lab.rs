//! The program `lab`: a world of pods on this machine.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::program::run;

/// For a world, or its pods, to come up.
const UP: Duration = Duration::from_secs(120);
/// For an answer of a world that is up.
const SOON: Duration = Duration::from_secs(20);

/// A world, which is taken down when this is dropped.
pub struct Lab {
    program: PathBuf,
    world: String,
    guard: Option<Child>,
}

impl Lab {
    /// Takes away what an earlier run left. There is no world yet.
    pub fn clear(program: PathBuf, world: &str) -> Result<Self> {
        let lab = Self { program, world: world.to_owned(), guard: None };
        run(lab.command("down"), UP)?;
        Ok(lab)
    }

    /// Brings the world up with these manifests. To be kept, it outlives this.
    pub fn up(&mut self, keep: bool, manifests: &Path) -> Result<()> {
        if !keep {
            self.guard = Some(self.guard()?);
        }
        let mut up = self.command("up");
        up.args(["--mode", "strict"]).arg(manifests);
        told(up)
    }

    /// Adds manifests; returns when their pods are ready.
    pub fn apply(&self, manifests: &Path) -> Result<()> {
        let mut apply = self.command("apply");
        apply.arg(manifests);
        told(apply)
    }

    /// Pods and their processes, as they are now.
    pub fn pods(&self) -> Result<Pods> {
        let mut ps = self.command("ps");
        ps.arg("--json");
        Pods::parse(&run(ps, SOON)?)
    }

    /// A command in a pod, as the user of a container (by default its application's), with its standard input.
    pub fn exec(&self, pod: &str, container: Option<&str>, words: &[&str]) -> Command {
        let mut command = self.command("exec");
        command.args(["-i", pod]);
        if let Some(container) = container {
            command.args(["-c", container]);
        }
        command.arg("--").args(words);
        command
    }

    /// The namespace through which all packets between pods go.
    pub fn node(&self) -> PathBuf {
        netns_file(&format!("lab-{}-node", self.world))
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args([verb, "--world", &self.world]);
        command
    }

    /// Takes the world down as soon as its standard input closes, so also when this program is killed. It leads its
    /// own process group, so that ctrl-C does not end it first.
    fn guard(&self) -> Result<Child> {
        use std::os::unix::process::CommandExt as _;
        let mut shell = Command::new("sh");
        shell.args(["-c", "cat; exec \"$0\" down --world \"$1\""]).arg(&self.program).arg(&self.world);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        shell.spawn().context("cannot start sh")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}

/// Runs a command whose progress is shown. What it leaves running holds no pipe of ours.
fn told(mut command: Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// The file of a named network namespace.
pub fn netns_file(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// What `lab ps --json` says, as far as it matters here.
#[derive(Debug, Deserialize)]
pub struct Pods {
    pods: Vec<Pod>,
}

/// One of the pods.
#[derive(Debug, Deserialize)]
pub struct Pod {
    namespace: String,
    name: String,
    ips: Vec<String>,
    /// Its network namespace.
    pub netns: String,
    containers: Vec<Container>,
}

#[derive(Debug, Deserialize)]
struct Container {
    name: String,
    pid: Option<i32>,
}

impl Pods {
    fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).with_context(|| format!("lab ps wrote what is not understood: {text}"))
    }

    /// The pod of that name.
    pub fn find(&self, namespace: &str, name: &str) -> Result<&Pod> {
        let found = self.pods.iter().find(|pod| pod.namespace == namespace && pod.name == name);
        found.with_context(|| format!("there is no pod {namespace}/{name}"))
    }

    /// Every process of a container.
    pub fn processes(&self) -> impl Iterator<Item = i32> {
        self.pods.iter().flat_map(|pod| &pod.containers).filter_map(|container| container.pid)
    }

    /// The network namespaces of all pods.
    pub fn netns(&self) -> impl Iterator<Item = &str> {
        self.pods.iter().map(|pod| pod.netns.as_str())
    }
}

impl Pod {
    /// Its IPv4 address.
    pub fn ip(&self) -> Result<&str> {
        self.ips.first().map(String::as_str).with_context(|| format!("{} has no address", self.name))
    }

    /// The process of a container that runs.
    pub fn process(&self, container: &str) -> Result<i32> {
        let found = self.containers.iter().find(|one| one.name == container);
        let pod = format!("{}/{}", self.namespace, self.name);
        let found = found.with_context(|| format!("{pod} has no container {container}"))?;
        found.pid.with_context(|| format!("the container {container} of {pod} does not run"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PS: &str = r#"{
        "world": "bench", "directory": "/run/heddle-lab/bench",
        "node": {"netns": "lab-bench-node", "addresses": ["10.0.0.1", "fd00::1"]},
        "pods": [
            {"namespace": "heddle", "name": "server", "uid": "1", "ips": ["10.1.0.2", "fd00:1::2"],
             "netns": "lab-bench-heddle-server", "phase": "Running", "ready": true, "terminating": false,
             "meshed": true, "message": "",
             "containers": [
                {"name": "heddle-init", "kind": "init", "pid": null, "state": "terminated", "exitCode": 0},
                {"name": "heddle-proxy", "kind": "sidecar", "pid": 4801, "state": "running", "ready": true},
                {"name": "app", "kind": "app", "pid": 4811, "state": "running", "ready": true}]}],
        "services": []}"#;

    #[test]
    fn a_container_is_found_by_pod_and_name() {
        let pods = Pods::parse(PS).expect("understood");
        let server = pods.find("heddle", "server").expect("there");
        assert_eq!(server.process("heddle-proxy").expect("runs"), 4801);
        assert_eq!(server.ip().expect("an address"), "10.1.0.2");
        assert_eq!(pods.processes().collect::<Vec<_>>(), [4801, 4811]);
    }

    #[test]
    fn what_does_not_run_or_is_not_there_is_named() {
        let pods = Pods::parse(PS).expect("understood");
        let server = pods.find("heddle", "server").expect("there");
        let ended = server.process("heddle-init").expect_err("it has ended");
        assert!(ended.to_string().contains("heddle-init of heddle/server does not run"), "{ended}");
        assert!(server.process("envoy").is_err());
        assert!(pods.find("envoy", "server").is_err());
    }
}
