//! A world of the `lab` program, from `lab up` to `lab down`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Load, Output, Reply, Running, run, until};

/// For one command in a pod.
const SOON: Duration = Duration::from_secs(30);
/// For a route's status to follow its change.
const STATUS: Duration = Duration::from_secs(5);
/// For a world to come up.
const UP: Duration = Duration::from_secs(90);

/// The programs that the tests drive.
pub(crate) struct Tools {
    lab: PathBuf,
    pub(crate) echo: String,
}

/// Found once: `HEDDLE_LAB`, or what was built beside this test, the release build first.
pub(crate) fn tools() -> &'static Tools {
    static TOOLS: OnceLock<Tools> = OnceLock::new();
    TOOLS.get_or_init(|| {
        let lab = find_lab();
        let echo = lab.with_file_name("echo");
        assert!(echo.exists(), "no {}: build it with `cargo build -p echo`", echo.display());
        Tools { lab, echo: echo.display().to_string() }
    })
}

fn find_lab() -> PathBuf {
    if let Some(lab) = std::env::var_os("HEDDLE_LAB") {
        return lab.into();
    }
    let own = std::env::current_exe().expect("the path of a program that runs");
    let target = own.ancestors().nth(3).expect("target/debug/deps/test");
    let places = [target.join("release/lab"), target.join("debug/lab")];
    let found = places.iter().find(|place| place.exists()).cloned();
    found.unwrap_or_else(|| {
        panic!("no lab in {places:?}: build it with `cargo build --workspace`, or set HEDDLE_LAB")
    })
}

/// A world that is up.
pub struct World {
    name: String,
    dir: TempDir,
    files: AtomicUsize,
    guard: Child,
}

impl World {
    /// Brings it up from manifests; returns when all of its pods are ready.
    pub fn up(name: &str, options: &[&str], manifests: &str) -> Result<Self> {
        ensure!(is_root(), "network namespaces need root: run the end-to-end tests with sudo");
        let name = format!("{name}{}", std::process::id());
        let guard = guard(&name)?;
        let dir = tempfile::Builder::new().prefix("heddle-e2e-").tempdir()?;
        let world = Self { name, dir, files: AtomicUsize::new(0), guard };
        let file = world.write(manifests)?;
        world.again(options, &file)?.good().context("lab up")?;
        Ok(world)
    }

    /// `lab up` for this world with a file, whatever state it is in.
    pub fn again(&self, options: &[&str], file: &Path) -> Result<Output> {
        run(self.command(&["up"], &[options, &[text(file)]].concat()), UP)
    }

    /// Where the test's files are; pods can read it, too.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The network namespace through which all packets between pods go.
    pub fn node_netns(&self) -> String {
        format!("lab-{}-node", self.name)
    }

    /// The world's name, as `lab --world` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes manifests to a file of their own.
    pub fn write(&self, manifests: &str) -> Result<PathBuf> {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let file = self.dir().join(format!("{number}.yaml"));
        std::fs::write(&file, manifests)?;
        Ok(file)
    }

    /// Changes the world; returns when the control plane has taken it.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let file = self.write(manifests)?;
        self.lab(&["apply", text(&file)])?.good().map(drop)
    }

    /// `lab` with these arguments, for this world.
    pub fn lab(&self, arguments: &[&str]) -> Result<Output> {
        let (verb, rest) = arguments.split_at(arguments.len().min(1));
        run(self.command(verb, rest), SOON * 2)
    }

    /// Runs a command in a pod (`namespace/name`, or `namespace/name:container`) to its end.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<Output> {
        run(self.exec_command(pod, command), SOON)
    }

    /// Starts a command in a pod.
    pub fn start(&self, pod: &str, command: &[&str]) -> Result<Running> {
        Running::start(self.exec_command(pod, command))
    }

    /// What `curl` in a pod gets for these arguments.
    pub fn curl(&self, pod: &str, arguments: &[&str]) -> Result<Reply> {
        Reply::parse(&self.try_curl(pod, arguments)?.good()?.out)
    }

    /// `curl` in a pod, which may fail.
    pub fn try_curl(&self, pod: &str, arguments: &[&str]) -> Result<Output> {
        self.exec(pod, &[&["curl", "-sS", "-i", "--max-time", "10"], arguments].concat())
    }

    /// Sends requests from a pod and counts, to the end.
    pub fn load(&self, pod: &str, url: &str, options: &[&str]) -> Result<Load> {
        let running = self.start_load(pod, url, options)?;
        Load::parse(&running.finish(SOON * 4)?.out)
    }

    /// Begins to send requests from a pod.
    pub fn start_load(&self, pod: &str, url: &str, options: &[&str]) -> Result<Running> {
        self.start(pod, &[&[tools().echo.as_str(), "load", url, "--json"], options].concat())
    }

    /// Plays a TCP dialogue from a pod, so many times, and counts.
    pub fn dialogues(&self, pod: &str, address: &str, times: u32, steps: &[&str]) -> Result<Load> {
        let times = times.to_string();
        let options = [tools().echo.as_str(), "tcp-client", address, "--json", "--times", &times];
        Load::parse(&self.exec(pod, &[&options, steps].concat())?.out)
    }

    /// Plays a TCP dialogue from a pod once; what was read.
    pub fn dialogue(&self, pod: &str, address: &str, steps: &[&str]) -> Result<Output> {
        self.exec(pod, &[&[tools().echo.as_str(), "tcp-client", address], steps].concat())
    }

    /// An object with its status.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        let yaml = self.lab(&["get", kind, name, "-o", "yaml"])?.good()?.out;
        serde_norway::from_str(&yaml).with_context(|| format!("not YAML: {yaml}"))
    }

    /// A condition of a route's status for its first parent: status, reason and message. Status follows a change
    /// by itself, so it is waited for: the one of the object's present generation.
    pub fn condition(&self, kind: &str, name: &str, condition: &str) -> Result<(String, String, String)> {
        until(&format!("{kind} {name} has its status"), STATUS, || {
            let route = self.get(kind, name)?;
            verdict(&route, &route["status"]["parents"][0], condition)
        })
    }

    /// A proxy's table, from its admin port.
    pub fn table(&self, pod: &str) -> Result<Value> {
        let answer =
            self.exec(pod, &["curl", "-sS", "--max-time", "5", "http://127.0.0.1:15000/table"])?.good()?;
        serde_json::from_str(&answer.out).with_context(|| format!("not JSON: {}", answer.out))
    }

    /// A proxy's metrics.
    pub fn metrics(&self, pod: &str) -> Result<String> {
        Ok(self.exec(pod, &["curl", "-sS", "--max-time", "5", "http://127.0.0.1:15020/metrics"])?.good()?.out)
    }

    /// What a container has written.
    pub fn logs(&self, pod: &str, container: &str) -> Result<String> {
        Ok(self.lab(&["logs", pod, "-c", container])?.good()?.out)
    }

    /// Pods, Services and the control plane, as `lab ps --json` says them.
    pub fn ps(&self) -> Result<Value> {
        let text = self.lab(&["ps", "--json"])?.good()?.out;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// A pod in `lab ps --json`.
    pub fn pod(&self, name: &str) -> Result<Value> {
        find(&self.ps()?["pods"], name)
    }

    /// A Service in `lab ps --json`.
    pub fn service(&self, name: &str) -> Result<Value> {
        find(&self.ps()?["services"], name)
    }

    /// A pod's IPv4 address.
    pub fn pod_ip(&self, name: &str) -> Result<String> {
        address(&self.pod(name)?["ips"], '.')
    }

    /// A Service's cluster address: the IPv4 one, or the IPv6 one for `':'`.
    pub fn cluster_ip(&self, name: &str, family: char) -> Result<String> {
        address(&self.service(name)?["clusterIPs"], family)
    }

    /// A container's process.
    pub fn pid(&self, pod: &str, container: &str) -> Result<u64> {
        let pod = self.pod(pod)?;
        let containers = pod["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let found = containers.iter().find(|one| one["name"] == container);
        found
            .and_then(|one| one["pid"].as_u64())
            .with_context(|| format!("no process of {container} in {pod}"))
    }

    /// The memory that a container's process holds now, KiB.
    pub fn resident_kib(&self, pod: &str, container: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid(pod, container)?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Ok(line.and_then(|line| line.split_whitespace().next()).context("VmRSS")?.parse()?)
    }

    fn exec_command(&self, pod: &str, command: &[&str]) -> Command {
        let (pod, container) = pod.split_once(':').unwrap_or((pod, ""));
        let container: &[&str] = if container.is_empty() { &[] } else { &["-c", container] };
        self.command(&["exec"], &[&[pod], container, &["--"], command].concat())
    }

    fn command(&self, verb: &[&str], rest: &[&str]) -> Command {
        let mut command = Command::new(&tools().lab);
        command.args(verb).args(["--world", &self.name]).args(rest);
        command
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// Takes the world down as soon as its standard input closes: when the world is dropped, and also when the test is
/// killed. It leads its own process group, so that ctrl-C does not end it first.
fn guard(world: &str) -> Result<Child> {
    use std::os::unix::process::CommandExt;
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat; exec \"$0\" down --world \"$1\""]).arg(&tools().lab).arg(world);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    shell.spawn().context("cannot start sh")
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// A condition of a route towards a parent, of the route's present generation: status, reason and message.
pub fn verdict(route: &Value, parent: &Value, condition: &str) -> Result<(String, String, String)> {
    let conditions = parent["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|one| one["type"] == condition));
    let found = found.with_context(|| format!("no condition {condition} in {}", route["status"]))?;
    let present = &route["metadata"]["generation"];
    ensure!(&found["observedGeneration"] == present, "generation is {present}: {found}");
    let part = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    Ok((part("status"), part("reason"), part("message")))
}

/// In a list of `lab ps --json`, the one that is `namespace/name`.
fn find(list: &Value, name: &str) -> Result<Value> {
    let (namespace, name) = name.split_once('/').context("NAMESPACE/NAME")?;
    let all = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let found = all.iter().find(|one| one["namespace"] == namespace && one["name"] == name);
    found.cloned().with_context(|| format!("no {namespace}/{name} in {list}"))
}

fn address(list: &Value, family: char) -> Result<String> {
    let all = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let found = all
        .iter()
        .filter_map(Value::as_str)
        .find(|ip| ip.contains(family) == (family == ':' || !ip.contains(':')));
    found.map(str::to_owned).with_context(|| format!("no address with {family:?} in {list}"))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the test's own paths are UTF-8")
}
