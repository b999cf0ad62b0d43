//! The stage: for each subject a client's pod and a server's, all in one world of the lab.

mod files;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::certificates::{self, Files, Signed};
use crate::lab::{Lab, Pods, netns_file};
use crate::options::Plan;
use crate::program::{run, until};
use crate::scenario::HTTP;
use crate::subject::{Side, Subject};

/// For what should take milliseconds.
const SOON: Duration = Duration::from_secs(20);

/// What every pod's TCP must be governed by (see stage/server.yaml).
pub const CONGESTION_CONTROL: &str = "reno";

/// Asks the mesh's authority, as the proxy does: with the pod's token, from the pod's own address.
const ASK_AUTHORITY: &str = "exec curl -sS --max-time 10 --cacert /var/run/secrets/heddle.dev/bundle/root.pem \
    -H \"Authorization: Bearer $(cat /var/run/secrets/heddle.dev/token/token)\" \
    -H 'Content-Type: application/pem-certificate-chain' --data-binary \"@$0\" \"$HEDDLE_CONTROL/v1/sign\"";

/// A stage that is up; it is taken down when this is dropped.
pub struct Stage {
    lab: Lab,
    bin: PathBuf,
    /// Where its own files are.
    folder: PathBuf,
}

impl Stage {
    /// Brings up all pods of the plan; returns when each client has had an answer from its server.
    pub fn up(plan: &Plan) -> Result<Self> {
        eprintln!("bench: bringing the stage up");
        lift_file_limit()?;
        let folder = plan.bin.join("bench-stage");
        let mut lab = Lab::clear(plan.bin.join("lab"), &plan.world)?;
        files::prepare(plan, &folder)?;
        lab.up(plan.keep, &files::servers(plan, &folder)?)?;
        let stage = Self { lab, bin: plan.bin.clone(), folder };
        // Envoy has to be told where its server is, which is known only now.
        let clients = files::clients(plan, &stage.folder, |subject| stage.server_ip(subject))?;
        stage.lab.apply(&clients)?;
        stage.check(plan)?;
        Ok(stage)
    }

    fn check(&self, plan: &Plan) -> Result<()> {
        for &subject in &plan.subjects {
            let first = self.load(subject, "first", HTTP, &["--seconds", "10"]);
            run(first, SOON).with_context(|| format!("{}: no answer", subject.name()))?;
        }
        for netns in self.pods()?.netns() {
            let found = congestion_control(netns)?;
            ensure!(found == CONGESTION_CONTROL, "{netns} has congestion control {found}");
        }
        Ok(())
    }

    /// All pods, as they are now.
    pub fn pods(&self) -> Result<Pods> {
        self.lab.pods()
    }

    /// Where the server's pod is.
    pub fn server_ip(&self, subject: Subject) -> Result<String> {
        Ok(self.pods()?.find(subject.name(), Side::Inbound.pod())?.ip()?.to_owned())
    }

    /// The process of a subject's sidecar.
    pub fn proxy(&self, subject: Subject, side: Side) -> Result<i32> {
        let container = subject.sidecar().context("no sidecar")?;
        self.pods()?.find(subject.name(), side.pod())?.process(container)
    }

    /// The client's load, towards the Service.
    pub fn load(&self, subject: Subject, program: &str, port: u16, options: &[&str]) -> Command {
        let to = format!("{}:{port}", subject.service_ip());
        let load = self.program("load");
        self.in_client(subject, &[&[load.as_str(), program, "--to", &to], options].concat())
    }

    /// A command beside the client.
    pub fn in_client(&self, subject: Subject, words: &[&str]) -> Command {
        self.lab.exec(&format!("{}/client", subject.name()), None, words)
    }

    /// Handshakes with the server's proxy itself, as the client's proxy makes them: its user's packets are not captured.
    pub fn handshakes(&self, subject: Subject, files: &Files, options: &[&str]) -> Result<Command> {
        let to = format!("{}:{HTTP}", self.server_ip(subject)?);
        let [chain, key, roots] = [&files.chain, &files.key, &files.roots].map(|file| text(file));
        let load = self.program("load");
        let command = [load.as_str(), "handshake", "--to", &to, "--cert", chain, "--key", key, "--ca", roots];
        let pod = format!("{}/client", subject.name());
        Ok(self.lab.exec(&pod, subject.sidecar(), &[&command, options].concat()))
    }

    /// What the client's proxy shows, or what the authority would give it.
    pub fn credentials(&self, subject: Subject) -> Result<Files> {
        if subject == Subject::Envoy {
            return Ok(Files::named(&files::certificates(&self.folder), Side::Outbound.pod()));
        }
        let (key, request) = certificates::signing_request()?;
        let file = self.folder.join("request.pem");
        std::fs::write(&file, request)?;
        let pod = format!("{}/client", subject.name());
        let ask = self.lab.exec(&pod, subject.sidecar(), &["sh", "-c", ASK_AUTHORITY, text(&file)]);
        Signed::parse(&run(ask, SOON)?)?.keep(&key, &self.folder, subject.name())
    }

    /// A sidecar's program.
    pub fn sidecar_program(&self, subject: Subject) -> PathBuf {
        match subject {
            Subject::Heddle => self.bin.join("heddle-proxy"),
            Subject::Direct | Subject::Floor | Subject::Envoy => self.folder.join(subject.name()),
        }
    }

    /// Waits until a sidecar that was killed runs again.
    pub fn returned(&self, subject: Subject, side: Side, killed: i32) -> Result<i32> {
        until("the sidecar runs again", SOON, || {
            let found = self.proxy(subject, side)?;
            ensure!(found != killed, "it has not ended yet");
            Ok(found)
        })
    }

    /// The namespace through which all packets between pods go.
    pub fn node(&self) -> PathBuf {
        self.lab.node()
    }

    /// Where files of this run may be put.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn program(&self, name: &str) -> String {
        text(&self.bin.join(name)).to_owned()
    }
}

/// What `lab up` starts inherits it: a proxy with 1,000 connections has 2,000 files open.
fn lift_file_limit() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(most >= 4096, "only {most} open files are allowed here (ulimit -Hn): raise the limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the limit of open files")
}

fn congestion_control(netns: &str) -> Result<String> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", netns_file(netns).display()));
    command.args(["cat", "/proc/sys/net/ipv4/tcp_congestion_control"]);
    Ok(run(command, SOON)?.trim().to_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
