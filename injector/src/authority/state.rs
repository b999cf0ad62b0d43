//! The directory in which the control plane keeps what must survive it: the root and the count of its starts.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const KEY: &str = "ca.key";
const ROOT: &str = "ca.pem";
const EPOCH: &str = "epoch";

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Reading or writing failed.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Half of it, or all of it, is gone.
    #[error(
        "{0} was there and is gone: restore it from a backup, or empty the state directory to begin a new mesh"
    )]
    Vanished(PathBuf),
    /// The epoch is not a number.
    #[error("{0} does not hold a number: delete it if the clock is right")]
    Epoch(PathBuf),
}

/// The state directory.
#[derive(Debug)]
pub struct StateDirectory(PathBuf);

impl StateDirectory {
    /// The directory at `path`; it is made if it is not there.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        fs::create_dir_all(path).map_err(|error| StateError::Io { path: path.to_owned(), error })?;
        Ok(Self(path.to_owned()))
    }

    /// The root's key and certificate, as PEM. None only if there never was one.
    pub fn root(&self) -> Result<Option<(String, String)>, StateError> {
        match (self.read(KEY)?, self.read(ROOT)?) {
            (Some(key), Some(root)) => Ok(Some((key, root))),
            (None, None) if self.read(EPOCH)?.is_none() => Ok(None),
            (None, _) => Err(StateError::Vanished(self.0.join(KEY))),
            (_, None) => Err(StateError::Vanished(self.0.join(ROOT))),
        }
    }

    /// Keeps a new root. The certificate comes last: a start that broke off in between is noticed.
    pub fn keep_root(&self, key: &str, root: &str) -> Result<(), StateError> {
        self.write(KEY, key, 0o600)?;
        self.write(ROOT, root, 0o644)
    }

    /// A number larger than at every start before: the clock's, unless it went backwards.
    pub fn next_epoch(&self, unix_seconds: u64) -> Result<u64, StateError> {
        let last = match self.read(EPOCH)? {
            Some(text) => text.trim().parse::<u64>().map_err(|_| StateError::Epoch(self.0.join(EPOCH)))?,
            None => 0,
        };
        let epoch = unix_seconds.max(last.saturating_add(1));
        self.write(EPOCH, &epoch.to_string(), 0o644)?;
        Ok(epoch)
    }

    fn read(&self, name: &str) -> Result<Option<String>, StateError> {
        let path = self.0.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StateError::Io { path, error }),
        }
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> Result<(), StateError> {
        let path = self.0.join(name);
        write_atomically(&path, text, mode).map_err(|error| StateError::Io { path, error })
    }
}

/// Writes next to `path`, then renames: nobody reads half of it, and a crash leaves the old text or the new.
pub fn write_atomically(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = path.with_file_name(format!(".{name}.new"));
    if let Err(error) = fs::remove_file(&draft)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)
}
