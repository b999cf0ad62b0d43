//! Where objects come from: a Kubernetes API server, or a directory of manifests; both are followed for changes.
//!
//! The directory has a thread of its own, so that reading and decoding never hold up a request.

mod complete;
mod directory;
pub mod kubernetes;
mod lean;
mod manifest;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{RecursiveMode, Watcher};

pub use complete::seconds;
pub use directory::{Change, Directory, Report};

/// One `kubectl apply` or `mv` of several files makes several events: they are taken together.
/// Short, since every change waits for it: a route must reach the proxies within 100 ms.
const DEBOUNCE: Duration = Duration::from_millis(5);

/// A lost notification (a full queue, a network file system) costs at most this long.
const RESCAN: Duration = Duration::from_secs(10);

/// Why the directory cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("cannot follow the manifests in {path}: {reason}")]
pub struct SourceError {
    path: PathBuf,
    reason: String,
}

/// Takes what a look at the directory found.
pub trait Sink: Send + 'static {
    /// The objects that changed, and the whole report. Called once per look that found anything.
    fn take(&mut self, changes: Vec<Change>, report: Report);
}

/// Reads the directory at `path` into `sink`, then follows it on a thread of its own.
pub fn follow(path: &Path, mut sink: impl Sink) -> Result<(), SourceError> {
    let failed = |reason: String| SourceError { path: path.to_owned(), reason };
    let (sender, events) = mpsc::channel();
    let mut watcher = notify::recommended_watcher(sender).map_err(|error| failed(error.to_string()))?;
    watcher.watch(path, RecursiveMode::NonRecursive).map_err(|error| failed(error.to_string()))?;
    let mut directory = Directory::new(path.to_owned());
    let changes =
        directory.scan(&BTreeSet::new(), Timestamp::now()).map_err(|error| failed(error.to_string()))?;
    sink.take(changes, directory.report());
    thread::Builder::new()
        .name("source".to_owned())
        .spawn(move || {
            let _watcher = watcher; // watches for as long as it lives
            run(&mut directory, &events, &mut sink);
        })
        .map_err(|error| failed(error.to_string()))?;
    Ok(())
}

type Events = Receiver<notify::Result<notify::Event>>;

fn run(directory: &mut Directory, events: &Events, sink: &mut impl Sink) {
    while let Some(touched) = next(events) {
        // A manifest that trips over a fault of ours must not end the following of all others.
        let looked = catch_unwind(AssertUnwindSafe(|| look(directory, &touched, sink)));
        if looked.is_err() {
            tracing::error!("a fault while reading the manifests, see above; the next change is read again");
        }
    }
}

fn look(directory: &mut Directory, touched: &BTreeSet<PathBuf>, sink: &mut impl Sink) {
    let before = directory.generation();
    match directory.scan(touched, Timestamp::now()) {
        Ok(changes) if directory.generation() != before || !changes.is_empty() => {
            sink.take(changes, directory.report());
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!("cannot read the manifests' directory: {error}; the last good objects stay");
        }
    }
}

/// Waits for a change (or for the rescan's time), and collects what follows it closely.
fn next(events: &Events) -> Option<BTreeSet<PathBuf>> {
    let mut touched = BTreeSet::new();
    let rescan = Instant::now() + RESCAN;
    while touched.is_empty() {
        match events.recv_timeout(rescan.saturating_duration_since(Instant::now())) {
            Ok(event) => note(event, &mut touched),
            Err(RecvTimeoutError::Timeout) => return Some(touched),
            Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
    let deadline = Instant::now() + DEBOUNCE;
    while let Ok(event) = events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        note(event, &mut touched);
    }
    Some(touched)
}

/// Our own reading makes events, too (open, close): only those that can mean new content count.
fn note(event: notify::Result<notify::Event>, touched: &mut BTreeSet<PathBuf>) {
    let Ok(event) = event else { return };
    if event.need_rescan() {
        touched.insert(PathBuf::new()); // notifications were lost: look at everything
    }
    let counts = match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        EventKind::Modify(kind) => matches!(kind, ModifyKind::Name(_)),
        EventKind::Create(_) | EventKind::Remove(_) | EventKind::Any | EventKind::Other => true,
    };
    if counts {
        touched.extend(event.paths);
    }
}

/// The objects of a manifest's text, as if they had just appeared.
#[cfg(test)]
pub fn appeared(yaml: &str) -> Vec<Change> {
    use crate::object::Object;
    use std::sync::Arc;

    let documents = manifest::read(yaml, manifest::Format::Yaml);
    let objects = documents.into_iter().filter_map(|document| match document {
        manifest::Document::Object(key, value) => {
            let value = complete::complete(&key, value, None, Timestamp::UNIX_EPOCH);
            Some(Arc::new(Object::decode(key, value).unwrap()))
        }
        manifest::Document::Other => None,
        manifest::Document::Broken(reason) => panic!("{reason}"),
    });
    objects.map(|object| (object.key.clone(), Some(object))).collect()
}
