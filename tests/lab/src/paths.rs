//! Where a world keeps what it needs: one directory under `/run/heddle-lab`, and network namespaces whose names
//! begin with `lab-WORLD-`. Everything that must be undone later is written down here before it is done.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

/// Where all worlds live. `/run` is emptied at boot, as namespaces and processes are.
pub const ROOT: &str = "/run/heddle-lab";

/// Longest network namespace name that we make; a longer one is cut and gets a hash.
const MAX_NETNS: usize = 60;

/// The name and the directory of one world.
#[derive(Clone, Debug)]
pub struct Place {
    /// The world's name, a lower-case DNS label.
    pub world: String,
    root: PathBuf,
}

impl Place {
    /// The place of a world; refuses a name that cannot be part of a path or of a namespace's name.
    pub fn new(world: &str) -> Result<Self, String> {
        let fits = (1..=30).contains(&world.len())
            && world.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !world.starts_with('-');
        if !fits {
            return Err(format!(
                "{world:?} cannot name a world: use up to 30 lower-case letters, digits and hyphens"
            ));
        }
        Ok(Self { world: world.to_owned(), root: Path::new(ROOT).join(world) })
    }

    /// The world's directory.
    pub fn dir(&self) -> &Path {
        &self.root
    }

    /// The socket that the supervisor answers on.
    pub fn socket(&self) -> PathBuf {
        self.root.join("lab.sock")
    }

    /// The supervisor's process, as [`crate::process::Recorded`].
    pub fn supervisor(&self) -> PathBuf {
        self.root.join("supervisor.json")
    }

    /// What the supervisor says.
    pub fn supervisor_log(&self) -> PathBuf {
        self.root.join("supervisor.log")
    }

    /// The directory that the control plane reads its objects from.
    pub fn manifests(&self) -> PathBuf {
        self.root.join("manifests")
    }

    /// Files are written here first and renamed into place.
    pub fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// The log of the control plane.
    pub fn control_log(&self) -> PathBuf {
        self.root.join("logs/control.log")
    }

    /// The log of one container.
    pub fn container_log(&self, namespace: &str, pod: &str, container: &str) -> PathBuf {
        self.root.join("logs").join(format!("{namespace}_{pod}_{container}.log"))
    }

    /// What one pod needs: its volumes, its hosts file, its containers' descriptions.
    pub fn pod(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    /// The mesh's root certificate, as the control plane writes it.
    pub fn bundle(&self) -> PathBuf {
        self.root.join("bundle.pem")
    }

    /// Mount points on the machine's file system that this world uses and the lab made.
    pub fn mount_points(&self) -> PathBuf {
        self.root.join("mount-points")
    }

    /// One empty file for each network namespace that this world has made or is about to make.
    pub fn netns_records(&self) -> PathBuf {
        self.root.join("netns")
    }

    /// The namespace in which every pod's veth ends.
    pub fn node_netns(&self) -> String {
        format!("lab-{}-node", self.world)
    }

    /// The control plane's namespace.
    pub fn control_netns(&self) -> String {
        format!("lab-{}-control", self.world)
    }

    /// The namespace of a pod.
    pub fn pod_netns(&self, namespace: &str, pod: &str) -> String {
        shorten(&format!("lab-{}-{namespace}-{pod}", self.world))
    }

    /// Makes the directories that every world has.
    pub fn make(&self) -> io::Result<()> {
        for dir in ["manifests", "staging", "logs", "pods", "netns", "state"] {
            fs::create_dir_all(self.root.join(dir))?;
        }
        Ok(())
    }
}

/// Writes a file so that readers see all of it or nothing.
pub fn write_atomically(staging: &Path, target: &Path, bytes: &[u8]) -> io::Result<()> {
    let name = target.file_name().unwrap_or_default();
    let fresh = staging.join(name);
    fs::write(&fresh, bytes)?;
    fs::rename(fresh, target)
}

fn shorten(name: &str) -> String {
    if name.len() <= MAX_NETNS {
        return name.to_owned();
    }
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let cut: String = name.chars().take(MAX_NETNS - 9).collect();
    format!("{cut}-{:08x}", hasher.finish() & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_name_cannot_leave_its_directory() {
        for bad in ["", "..", "a/b", "A", "-a", "a b"] {
            assert!(Place::new(bad).is_err(), "{bad:?}");
        }
        assert!(Place::new("demo-1").is_ok());
    }

    #[test]
    fn long_names_are_cut_and_stay_different() {
        let (a, b) = ("x".repeat(80), "x".repeat(81));
        let (a, b) = (shorten(&a), shorten(&b));
        assert_eq!(a.len(), MAX_NETNS);
        assert_ne!(a, b);
        assert_eq!(shorten("lab-default-node"), "lab-default-node");
    }
}
