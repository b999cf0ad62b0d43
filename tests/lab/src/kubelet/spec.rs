//! From a container's manifest to what it takes to become it: mounts, user, capabilities, environment, command.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::Value;

use crate::container::{Bind, Spec, User};
use crate::env::{Data, expand, of_container};
use crate::hosts::hostname;

/// What containers may have at most unless their manifest says otherwise: the container runtimes' default set.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "audit_write",
    "chown",
    "dac_override",
    "fowner",
    "fsetid",
    "kill",
    "mknod",
    "net_bind_service",
    "net_raw",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_chroot",
];
/// The others that a manifest may add.
const OTHER_CAPABILITIES: &[&str] = &[
    "net_admin",
    "sys_admin",
    "sys_ptrace",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_chroot",
    "ipc_lock",
    "ipc_owner",
    "net_broadcast",
    "dac_read_search",
    "linux_immutable",
    "bpf",
    "perfmon",
];
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a pod's things are on the machine.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The pod's directory.
    pub directory: PathBuf,
    /// The file of its network namespace.
    pub netns: PathBuf,
    /// The directory of the lab's own executable, where Heddle's programs are.
    pub programs: PathBuf,
    /// Whether Heddle's programs come first in PATH.
    pub injected: bool,
}

impl Surroundings {
    /// A volume's directory.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.directory.join("volumes").join(name)
    }

    /// One of the files that stand in for the machine's in `/etc`.
    pub fn etc(&self, name: &str) -> PathBuf {
        self.directory.join("etc").join(name)
    }
}

/// All that it takes to become a container. The error says what is missing; it may come later.
pub fn spec(
    container: &Container,
    pod: &Pod,
    object: &Value,
    around: &Surroundings,
    data: &dyn Data,
) -> Result<Spec, String> {
    let pod_spec = pod.spec.clone().unwrap_or_default();
    let asked = of_container(container, object, data)?;
    let words = container.command.iter().flatten().chain(container.args.iter().flatten());
    let command = words.map(|word| expand(word, &asked)).collect();
    let user = user(container, &pod_spec)?;
    let security = container.security_context.clone().unwrap_or_default();
    let mut env = base_environment(pod, &user, around);
    env.extend(asked);
    Ok(Spec {
        netns: around.netns.clone(),
        hostname: hostname(pod),
        binds: binds(container, around)?,
        read_only_root: security.read_only_root_filesystem == Some(true),
        directory: PathBuf::from(container.working_dir.as_deref().unwrap_or("/")),
        user,
        capabilities: capabilities(container)?,
        no_new_privileges: security.allow_privilege_escalation == Some(false),
        env,
        command,
    })
}

fn base_environment(pod: &Pod, user: &User, around: &Surroundings) -> BTreeMap<String, String> {
    let system = std::env::var("PATH").unwrap_or_else(|_| SYSTEM_PATH.to_owned());
    let programs = around.programs.display();
    // Last for other pods: the lab's directory may hold programs that would hide the machine's.
    let path = if around.injected { format!("{programs}:{system}") } else { format!("{system}:{programs}") };
    let found = nix::unistd::User::from_uid(user.uid.into()).ok().flatten();
    let home = found.map_or_else(|| "/".to_owned(), |u| u.dir.display().to_string());
    [("PATH", path), ("HOME", home), ("HOSTNAME", hostname(pod))].map(|(k, v)| (k.to_owned(), v)).into()
}

fn user(container: &Container, pod: &PodSpec) -> Result<User, String> {
    let own = container.security_context.clone().unwrap_or_default();
    let shared = pod.security_context.clone().unwrap_or_default();
    let id = |value: Option<i64>| {
        value.map(|v| u32::try_from(v).map_err(|_| format!("{v} is not a user or group ID"))).transpose()
    };
    let uid = id(own.run_as_user.or(shared.run_as_user))?.unwrap_or(0);
    let known = nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|u| u.gid.as_raw());
    let gid = id(own.run_as_group.or(shared.run_as_group))?.or(known).unwrap_or(0);
    if own.run_as_non_root.or(shared.run_as_non_root) == Some(true) && uid == 0 {
        return Err("securityContext.runAsNonRoot: but it would run as root: set runAsUser".to_owned());
    }
    Ok(User { uid, gid, groups: id(shared.fs_group)?.into_iter().collect() })
}

fn capabilities(container: &Container) -> Result<Vec<String>, String> {
    let asked = container.security_context.as_ref().and_then(|s| s.capabilities.clone()).unwrap_or_default();
    let plain = |name: &String| name.to_lowercase().trim_start_matches("cap_").to_owned();
    let dropped: Vec<_> = asked.drop.iter().flatten().map(plain).collect();
    let mut kept: Vec<String> = match dropped.iter().any(|name| name == "all") {
        true => Vec::new(),
        false => {
            DEFAULT_CAPABILITIES.iter().map(|c| (*c).to_owned()).filter(|c| !dropped.contains(c)).collect()
        }
    };
    for name in asked.add.iter().flatten().map(plain) {
        let all = DEFAULT_CAPABILITIES.iter().chain(OTHER_CAPABILITIES);
        match name.as_str() {
            "all" => kept.extend(all.map(|c| (*c).to_owned())),
            known if all.clone().any(|c| *c == known) => kept.push(name),
            _ => return Err(format!("securityContext.capabilities.add: the lab does not know {name}")),
        }
    }
    kept.sort();
    kept.dedup();
    Ok(kept)
}

fn binds(container: &Container, around: &Surroundings) -> Result<Vec<Bind>, String> {
    let etc =
        ["hosts", "resolv.conf", "gai.conf"].into_iter().filter(|name| Path::new("/etc").join(name).exists());
    let mut binds: Vec<_> = etc
        .map(|name| Bind { source: around.etc(name), target: Path::new("/etc").join(name), read_only: false })
        .collect();
    // Outer mounts first, whatever the manifest's order.
    let mut mounts: Vec<_> = container.volume_mounts.iter().flatten().collect();
    mounts.sort_by_key(|mount| Path::new(&mount.mount_path).components().count());
    for mount in mounts {
        let volume = around.volume(&mount.name);
        let source = match mount.sub_path.as_deref() {
            None | Some("") => volume,
            Some(sub) => sub_path(&volume, sub)?,
        };
        binds.push(Bind {
            source,
            target: PathBuf::from(&mount.mount_path),
            read_only: mount.read_only == Some(true),
        });
    }
    Ok(binds)
}

/// A path within a volume, its links resolved now; a missing one becomes a directory, as in Kubernetes.
fn sub_path(volume: &Path, sub: &str) -> Result<PathBuf, String> {
    if sub.starts_with('/') || sub.split('/').any(|s| s == "..") {
        return Err(format!("subPath {sub:?} must stay within its volume"));
    }
    let path = volume.join(sub);
    if !path.exists() {
        std::fs::create_dir_all(&path).map_err(|why| format!("subPath {sub:?}: {why}"))?;
    }
    path.canonicalize().map_err(|why| format!("subPath {sub:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(security: &str, expected: Result<&[&str], ()>) {
        let yaml = format!("{{name: a, securityContext: {{{security}}}}}");
        let container: Container = serde_norway::from_str(&yaml).expect("yaml");
        let found = capabilities(&container);
        match expected {
            Ok(names) => assert_eq!(found.expect("known"), names),
            Err(()) => assert!(found.is_err()),
        }
    }

    #[test]
    fn dropping_all_leaves_only_what_is_added() {
        check("capabilities: {drop: [ALL], add: [NET_ADMIN, CAP_NET_RAW]}", Ok(&["net_admin", "net_raw"]));
        check("capabilities: {drop: [ALL]}", Ok(&[]));
        check("capabilities: {add: [NONSENSE]}", Err(()));
    }

    #[test]
    fn an_unmeshed_container_cannot_change_its_packet_filter() {
        let container: Container = serde_norway::from_str("{name: a}").expect("yaml");
        assert!(!capabilities(&container).expect("known").contains(&"net_admin".to_owned()));
    }

    #[test]
    fn run_as_non_root_is_held() {
        let container: Container =
            serde_norway::from_str("{name: a, securityContext: {runAsNonRoot: true}}").expect("yaml");
        assert!(user(&container, &PodSpec::default()).is_err());
    }

    #[test]
    fn a_sub_path_stays_in_its_volume() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(sub_path(dir.path(), "../x").is_err());
        assert!(sub_path(dir.path(), "a/b").is_ok_and(|p| p.is_dir()));
    }
}
