//! The namespaces of one test file, from their creation to their removal.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Load, Output, Reply, Running, until, verdict};
use serde_json::Value;

use crate::{Kubectl, kubectl::LONG, manifest::HOME_LABEL};

/// For a route's status to follow its change.
const STATUS: Duration = Duration::from_secs(10);

/// Some namespaces, and the cluster around them.
pub struct Home {
    /// The cluster.
    pub kubectl: Kubectl,
}

impl Home {
    /// Removes what an earlier run left, applies the manifests, and returns when every workload of them is ready.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn up(manifests: &str) -> Result<Self> {
        let home = Self { kubectl: Kubectl::new()? };
        home.clear(true)?;
        home.kubectl.apply(manifests)?;
        home.ready()?;
        Ok(home)
    }

    /// Applies more manifests; returns when every workload of the home is ready.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        self.kubectl.apply(manifests)?;
        self.ready()
    }

    /// Waits for every Deployment, StatefulSet and DaemonSet of the home, and for pods of their own.
    ///
    /// # Errors
    /// When one is not ready in time: its pods and events are in the error.
    pub fn ready(&self) -> Result<()> {
        for namespace in self.namespaces()? {
            self.ready_in(&namespace).with_context(|| self.describe(&namespace))?;
        }
        Ok(())
    }

    fn ready_in(&self, namespace: &str) -> Result<()> {
        let all =
            self.kubectl.run(&["get", "deployment,statefulset,daemonset", "-n", namespace, "-o", "name"])?;
        for workload in all.lines() {
            self.rolled_out(namespace, workload)?;
        }
        let pods = self.kubectl.run(&["get", "pod", "-n", namespace, "-l", "alone", "-o", "name"])?;
        let pods: Vec<&str> = pods.lines().collect();
        if !pods.is_empty() {
            let wait = ["wait", "-n", namespace, "--for", "condition=Ready", "--timeout", "120s"];
            self.kubectl.run(&[&wait[..], &pods].concat())?;
        }
        Ok(())
    }

    /// Waits until a workload (`deployment/web`) runs as it was last asked to.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn rolled_out(&self, namespace: &str, workload: &str) -> Result<()> {
        self.kubectl.run(&["rollout", "status", "-n", namespace, workload, "--timeout", "120s"]).map(drop)
    }

    /// Restarts a workload as a user does, and waits for its end.
    ///
    /// # Errors
    /// When it does not come to that.
    pub fn restart(&self, namespace: &str, workload: &str) -> Result<()> {
        self.kubectl.run(&["rollout", "restart", "-n", namespace, workload])?;
        self.rolled_out(namespace, workload)
    }

    /// Runs a command in a workload's pod (`shop/deployment/client`, `shop/client`) to its end.
    ///
    /// # Errors
    /// When it cannot be started, or does not end.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<Output> {
        self.start(pod, command)?.finish(LONG)
    }

    /// Starts a command there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, pod: &str, command: &[&str]) -> Result<Running> {
        let (namespace, name) = pod.split_once('/').context("NAMESPACE/POD")?;
        self.kubectl.start(&[&["exec", "-n", namespace, name, "-c", "app", "--"], command].concat())
    }

    /// What `curl` in a pod gets for these arguments.
    ///
    /// # Errors
    /// When it gets nothing.
    pub fn curl(&self, pod: &str, arguments: &[&str]) -> Result<Reply> {
        Reply::parse(&self.try_curl(pod, arguments)?.good()?.out)
    }

    /// `curl` in a pod, which may fail.
    ///
    /// # Errors
    /// When it cannot be started, or does not end.
    pub fn try_curl(&self, pod: &str, arguments: &[&str]) -> Result<Output> {
        self.exec(pod, &[&["curl", "-sS", "-i", "--max-time", "10"], arguments].concat())
    }

    /// Begins to send requests from a pod.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_load(&self, pod: &str, url: &str, options: &[&str]) -> Result<Running> {
        self.start(pod, &[&["echo", "load", url, "--json"], options].concat())
    }

    /// Sends requests from a pod and counts, to the end.
    ///
    /// # Errors
    /// When there is no count.
    pub fn load(&self, pod: &str, url: &str, options: &[&str]) -> Result<Load> {
        Load::parse(&self.start_load(pod, url, options)?.finish(LONG)?.out)
    }

    /// The pods that a label selects, without those that are being deleted.
    ///
    /// # Errors
    /// When the API server does not say.
    pub fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Value>> {
        let list = self.kubectl.get(&["pod", "-n", namespace, "-l", selector])?;
        let all = list["items"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect())
    }

    /// The address of a pod that a label selects, in brackets if it is IPv6.
    ///
    /// # Errors
    /// When there is none.
    pub fn address(&self, namespace: &str, selector: &str) -> Result<String> {
        let pods = self.pods(namespace, selector)?;
        let address = pods.first().and_then(|pod| pod["status"]["podIP"].as_str());
        address.map(str::to_owned).with_context(|| format!("no pod {selector} in {namespace} has an address"))
    }

    /// A condition of a route's status for its first parent: status, reason and message, of the object's present
    /// generation. Status follows a change by itself, so it is waited for.
    ///
    /// # Errors
    /// When it does not come.
    pub fn condition(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        condition: &str,
    ) -> Result<(String, String, String)> {
        until(&format!("{kind} {namespace}/{name} has its status"), STATUS, || {
            let route = self.kubectl.get(&[kind, "-n", namespace, name])?;
            let ours = route["status"]["parents"]
                .as_array()
                .and_then(|all| all.iter().find(|one| one["controllerName"] == "heddle.dev/mesh-controller"));
            verdict(&route, ours.unwrap_or(&Value::Null), condition)
        })
    }

    /// Runs a program in the cluster's node, in whose network all pods are: only of a cluster that is the tests' own.
    ///
    /// # Errors
    /// When it cannot be started, or does not end.
    pub fn in_node(&self, command: &[&str], limit: Duration) -> Result<Output> {
        self.start_in_node(command)?.finish(limit)
    }

    /// Starts a program there.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_in_node(&self, command: &[&str]) -> Result<Running> {
        ensure!(self.kubectl.is_own(), "only in a cluster that make cluster brought up");
        let enter = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("enter.sh");
        let mut program = std::process::Command::new(enter);
        program.args(command);
        Running::start(program)
    }

    fn namespaces(&self) -> Result<Vec<String>> {
        let names = self.kubectl.run(&["get", "namespace", "-l", HOME_LABEL, "-o", "name"])?;
        Ok(names.lines().filter_map(|line| line.strip_prefix("namespace/")).map(str::to_owned).collect())
    }

    fn clear(&self, wait: bool) -> Result<()> {
        let wait = if wait { "--wait=true" } else { "--wait=false" };
        self.kubectl.run(&["delete", "namespace", "-l", HOME_LABEL, wait, "--timeout", "120s"]).map(drop)
    }

    /// What an operator would look at first.
    fn describe(&self, namespace: &str) -> String {
        let said = |arguments: &[&str]| {
            self.kubectl.try_run(arguments).map(|output| output.out + &output.err).unwrap_or_default()
        };
        let pods = said(&["get", "pod", "-n", namespace, "-o", "wide"]);
        let events = said(&["get", "events", "-n", namespace, "--sort-by", ".lastTimestamp"]);
        let last: Vec<&str> = events.lines().rev().take(15).collect();
        format!("in {namespace}:\n{pods}\n{}", last.join("\n"))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = self.clear(false);
    }
}
