//! A directory of manifests that somebody follows: each file is renamed into place, so that it is seen whole or not at all.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::Value;
use tempfile::TempDir;

/// The directory, and one beside it for what is being written.
#[derive(Debug)]
pub struct Folder {
    manifests: PathBuf,
    staging: TempDir,
}

/// A file that was written and is not yet seen.
#[derive(Debug)]
pub struct Draft {
    written: PathBuf,
    target: PathBuf,
}

impl Folder {
    /// The directory at `manifests`, which is made if it is missing.
    pub fn at(manifests: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&manifests)?;
        // On the same file system, or a rename would be a copy.
        let beside = manifests.parent().unwrap_or(Path::new("/")).to_owned();
        let staging = tempfile::Builder::new().prefix("scale-staging-").tempdir_in(beside)?;
        Ok(Self { manifests, staging })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.manifests
    }

    /// Writes a file of objects.
    pub fn put<'v>(&self, name: &str, objects: impl IntoIterator<Item = &'v Value>) -> io::Result<()> {
        self.draft(name, objects)?.publish()
    }

    /// The same, but for the moment at which it is seen.
    pub fn draft<'v>(&self, name: &str, objects: impl IntoIterator<Item = &'v Value>) -> io::Result<Draft> {
        let written = self.staging.path().join(name);
        let mut file = io::BufWriter::new(fs::File::create(&written)?);
        for object in objects {
            serde_json::to_writer(&mut file, object)?;
            file.write_all(b"\n")?;
        }
        file.flush()?;
        Ok(Draft { written, target: self.manifests.join(name) })
    }

    /// Takes a file away.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.manifests.join(name))
    }
}

impl Draft {
    /// From now on it is seen.
    pub fn publish(self) -> io::Result<()> {
        fs::rename(self.written, self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_file_is_seen_once_it_is_published() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::at(home.path().join("manifests")).unwrap();
        let draft = folder.draft("a.json", &[json!(1), json!(2)]).unwrap();
        assert!(!folder.path().join("a.json").exists());
        draft.publish().unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("a.json")).unwrap(), "1\n2\n");
        folder.remove("a.json").unwrap();
        assert!(!folder.path().join("a.json").exists());
    }
}
