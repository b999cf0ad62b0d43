//! Becoming a container. The lab re-executes itself, single-threaded, enters the pod's network namespace, makes a
//! mount namespace of its own, and then executes the command, so that the container's PID is the application's.
//! Entering a running container (`lab exec`, exec probes) joins its namespaces instead.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

use crate::protocol::Target;

/// A directory or file of the machine that a container sees elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the machine.
    pub source: PathBuf,
    /// In the container; it exists on the machine's file system, too.
    pub target: PathBuf,
    /// Whether writing fails.
    pub read_only: bool,
}

/// The user a container runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Further groups (fsGroup).
    pub groups: Vec<u32>,
}

/// All that it takes to become a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// File of the network namespace.
    pub netns: PathBuf,
    /// Name that the container's processes see.
    pub hostname: String,
    /// Mounts, in order.
    pub binds: Vec<Bind>,
    /// Whether the machine's file system is read-only in here.
    pub read_only_root: bool,
    /// Working directory.
    pub directory: PathBuf,
    /// Who runs it.
    pub user: User,
    /// Capabilities that it may ever have, without `CAP_`, in lower case.
    pub capabilities: Vec<String>,
    /// Whether a set-user-ID program gains nothing.
    pub no_new_privileges: bool,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// The command and its arguments.
    pub command: Vec<String>,
}

impl Spec {
    /// Reads a spec that the supervisor wrote.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&bytes).context("not a container's description")
    }
}

/// Becomes the container; returns only to say why it could not.
pub fn become_container(spec: &Spec) -> Result<()> {
    nix::unistd::setsid().context("setsid")?;
    join(&spec.netns, CloneFlags::CLONE_NEWNET)?;
    // Its own IPC, too: shared memory that a killed database leaves behind goes with it.
    let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    unshare(own).context("unshare")?;
    nix::unistd::sethostname(&spec.hostname).context("sethostname")?;
    let none: Option<&str> = None;
    // A slave: what the machine unmounts disappears here, what we mount never shows there.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).context("make / a slave")?;
    mount(Some("shm"), "/dev/shm", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=1777"))
        .context("mount /dev/shm")?;
    if spec.read_only_root {
        remount_read_only(Path::new("/"))?;
    }
    for bind in &spec.binds {
        apply(bind).with_context(|| format!("cannot mount {}", bind.target.display()))?;
    }
    execute(&spec.command, spec, Some(&spec.capabilities))
}

/// Runs a command in a running container, as its user; returns only to say why it could not.
/// Like a debugger's, its capabilities are not limited: a root shell may look at the packet filter.
pub fn enter(target: &Target, command: &[String]) -> Result<()> {
    let proc = PathBuf::from(format!("/proc/{}/ns", target.pid));
    let files = ["net", "uts", "ipc", "mnt"].map(|name| (name, File::open(proc.join(name))));
    for (name, file) in files {
        let file = file.with_context(|| format!("process {} is gone", target.pid))?;
        setns(file, CloneFlags::empty()).with_context(|| format!("enter its {name} namespace"))?;
    }
    execute(command, &target.spec, None)
}

fn join(file: &Path, kind: CloneFlags) -> Result<()> {
    let opened = File::open(file).with_context(|| format!("there is no namespace {}", file.display()))?;
    setns(opened, kind).with_context(|| format!("enter {}", file.display()))
}

fn apply(bind: &Bind) -> Result<()> {
    // Within a volume that was mounted before, a mount point may be missing.
    match (bind.target.exists(), bind.source.is_dir()) {
        (true, _) => {}
        (false, true) => std::fs::create_dir_all(&bind.target)?,
        (false, false) => File::create(&bind.target).map(drop)?,
    }
    let none: Option<&str> = None;
    mount(Some(&bind.source), &bind.target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .with_context(|| format!("bind {}", bind.source.display()))?;
    match bind.read_only {
        true => remount_read_only(&bind.target),
        false => Ok(()),
    }
}

fn remount_read_only(target: &Path) -> Result<()> {
    let none: Option<&str> = None;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(none, target, none, flags, none).context("make it read-only")
}

/// `setpriv` (util-linux) sets user, groups, capabilities and no_new_privs in the right order and then executes.
fn execute(command: &[String], spec: &Spec, capabilities: Option<&[String]>) -> Result<()> {
    std::env::set_current_dir(&spec.directory)
        .with_context(|| format!("cannot enter the working directory {}", spec.directory.display()))?;
    let mut setpriv = Command::new("setpriv");
    setpriv.args(setpriv_arguments(spec, capabilities)).arg("--").args(command);
    setpriv.env_clear().envs(&spec.env);
    let why = setpriv.exec();
    Err(why).context("cannot execute setpriv (of the package util-linux)")
}

fn setpriv_arguments(spec: &Spec, capabilities: Option<&[String]>) -> Vec<String> {
    let User { uid, gid, groups } = &spec.user;
    let mut arguments = vec![format!("--reuid={uid}"), format!("--regid={gid}")];
    arguments.push(match groups.is_empty() {
        true => "--clear-groups".to_owned(),
        false => format!("--groups={}", groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
    });
    if let Some(kept) = capabilities {
        let kept: String = kept.iter().map(|name| format!(",+{name}")).collect();
        arguments.push("--inh-caps=-all".to_owned());
        arguments.push(format!("--bounding-set=-all{kept}"));
        if spec.no_new_privileges {
            arguments.push("--no-new-privs".to_owned());
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(user: User) -> Spec {
        Spec {
            netns: PathBuf::new(),
            hostname: String::new(),
            binds: Vec::new(),
            read_only_root: false,
            directory: PathBuf::from("/"),
            user,
            capabilities: vec!["net_admin".to_owned(), "net_raw".to_owned()],
            no_new_privileges: true,
            env: BTreeMap::new(),
            command: Vec::new(),
        }
    }

    #[test]
    fn only_the_kept_capabilities_are_left() {
        let spec = spec(User::default());
        let arguments = setpriv_arguments(&spec, Some(&spec.capabilities));
        assert!(arguments.contains(&"--bounding-set=-all,+net_admin,+net_raw".to_owned()), "{arguments:?}");
        assert!(arguments.contains(&"--no-new-privs".to_owned()));
    }

    #[test]
    fn fs_group_is_a_further_group() {
        let spec = spec(User { uid: 1, gid: 2, groups: vec![7] });
        assert_eq!(setpriv_arguments(&spec, None), ["--reuid=1", "--regid=2", "--groups=7"]);
    }
}
