//! The mesh's bundle as the kubelet mounts it, followed while the proxy runs.
//!
//! The kubelet replaces a ConfigMap's files by a symlink's swap, which a watch on the file does not see; so the file is
//! read again and again. It is small and local: a thread for it would cost more.

use std::{path::PathBuf, time::Duration};

use rustls::RootCertStore;
use tokio::time::sleep;
use tracing::warn;

use crate::{control::roots, failure::chain};

/// How often the file is read. A root that has left the bundle is trusted no longer than this by whoever has the file.
const LOOK: Duration = Duration::from_secs(2);

/// The bundle's file, and what it held when it was last read.
#[derive(Debug)]
pub struct BundleFile {
    path: PathBuf,
    text: Option<Vec<u8>>,
}

impl BundleFile {
    /// What the file holds now is taken as known.
    pub fn new(path: PathBuf) -> Self {
        let text = std::fs::read(&path).ok();
        Self { path, text }
    }

    /// Waits for other roots than those that were read before. A file that is missing or broken changes nothing. Safe to
    /// cancel.
    pub async fn changes(&mut self) -> RootCertStore {
        loop {
            sleep(LOOK).await;
            if let Some(roots) = self.look() {
                return roots;
            }
        }
    }

    fn look(&mut self) -> Option<RootCertStore> {
        let text = std::fs::read(&self.path).ok().filter(|text| self.text.as_ref() != Some(text))?;
        let read = roots(&text);
        self.text = Some(text);
        read.inspect_err(|error| warn!(error = chain(error), "the bundle cannot be used; the last one stays"))
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> String {
        let key = rcgen::KeyPair::generate().expect("key");
        rcgen::CertificateParams::default().self_signed(&key).expect("root").pem()
    }

    #[test]
    fn other_roots_are_seen_once_and_a_broken_file_changes_nothing() {
        let path = std::env::temp_dir().join(format!("heddle-bundle-{}", std::process::id()));
        let write = |text: &str| std::fs::write(&path, text).expect("write");
        write(&root());
        let mut file = BundleFile::new(path.clone());
        assert!(file.look().is_none(), "nothing new");
        write(&(root() + &root()));
        assert_eq!(file.look().expect("other roots").len(), 2);
        assert!(file.look().is_none(), "nothing new");
        write("no certificate");
        assert!(file.look().is_none());
        std::fs::remove_file(&path).expect("remove");
        assert!(file.look().is_none());
    }
}
