//! A directory of manifests as a set of objects, and what changed in it since the last look.
//!
//! A file in which something is broken still gives its good objects, and keeps the last good ones of the
//! rest: nothing disappears because of a typing error.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::complete::{Written, complete};
use super::lean::prune;
use super::manifest::{self, Document, Format};
use crate::object::{Key, Object};

/// An object that appeared or changed, or (`None`) that went.
pub type Change = (Key, Option<Arc<Object>>);

/// A manifest larger than this is refused: ten thousand Services take a third of it.
const LARGEST_FILE: u64 = 32 << 20;

/// The directory and what was last read of it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    files: BTreeMap<Arc<Path>, File>,
    objects: BTreeMap<Key, Held>,
    contested: BTreeSet<Key>,
    generation: u64,
}

#[derive(Debug)]
struct File {
    stamp: Stamp,
    /// In the order of their keys.
    objects: Vec<Arc<Known>>,
    error: Option<String>,
}

/// An object, and what is remembered of its text.
#[derive(Debug)]
struct Known {
    object: Arc<Object>,
    written: Written,
}

/// One key's object.
#[derive(Debug, Default)]
struct Held {
    /// The one in use: that in the first file by name.
    known: Option<Arc<Known>>,
    /// The files that hold one, in the order of their names: more than one is somebody's mistake.
    holders: Vec<Arc<Path>>,
}

impl Held {
    fn add(&mut self, path: &Arc<Path>) {
        if let Err(place) = self.holders.binary_search(path) {
            self.holders.reserve_exact(1); // nearly always it is the only one
            self.holders.insert(place, Arc::clone(path));
        }
    }
}

impl File {
    fn object(&self, key: &Key) -> Option<&Arc<Known>> {
        let place = self.objects.binary_search_by(|known| known.object.key.cmp(key)).ok()?;
        self.objects.get(place)
    }
}

/// What differs between two versions of a file: a writer that renames always brings a new inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// That of a file that cannot be looked at.
    const UNKNOWN: Self = Self { inode: 0, size: 0, changed: (0, 0) };
}

/// What the directory holds, for people and for the lab.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Each manifest, by path.
    pub files: Vec<FileReport>,
    /// Counts the looks that found a file changed, new or gone.
    pub generation: u64,
}

/// What one manifest holds.
#[derive(Debug, Clone, Serialize)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// The inode whose text was last read: after a rename, it tells which version that was.
    pub inode: u64,
    /// How many objects of it are in use, of the kinds that the mesh knows.
    pub objects: usize,
    /// What is wrong with it, by document. Its last good objects stay in use.
    pub error: Option<String>,
}

impl Directory {
    /// The directory at `path`, not yet read.
    pub fn new(path: PathBuf) -> Self {
        let (files, objects) = (BTreeMap::new(), BTreeMap::new());
        Self { path, files, objects, contested: BTreeSet::new(), generation: 0 }
    }

    /// Reads what changed, and in any case the files in `touched`. An error leaves everything as it was.
    pub fn scan(&mut self, touched: &BTreeSet<PathBuf>, now: Timestamp) -> io::Result<Vec<Change>> {
        let present = manifests(&self.path)?;
        let gone: Vec<Arc<Path>> =
            self.files.keys().filter(|path| !present.contains_key(*path)).cloned().collect();
        let changed: Vec<_> =
            present.into_iter().filter(|(path, stamp)| self.is_news(path, *stamp, touched)).collect();
        self.generation += u64::from(!gone.is_empty() || !changed.is_empty());
        let mut concerned = BTreeSet::new();
        for path in &gone {
            self.release(path, &mut concerned);
        }
        for (path, stamp) in changed {
            self.refresh(path, stamp, now, &mut concerned);
        }
        Ok(concerned.into_iter().filter_map(|key| self.settle(key)).collect())
    }

    fn is_news(&self, path: &Path, stamp: Stamp, touched: &BTreeSet<PathBuf>) -> bool {
        touched.contains(path) || self.files.get(path).is_none_or(|file| file.stamp != stamp)
    }

    /// Counts the looks that found a file changed, new or gone.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What the directory holds now.
    pub fn report(&self) -> Report {
        let files = self.files.iter().map(|(path, file)| FileReport {
            path: path.to_path_buf(),
            inode: file.stamp.inode,
            objects: file.objects.len(),
            error: file.error.clone().or_else(|| self.shadowed(path)),
        });
        Report { files: files.collect(), generation: self.generation }
    }

    /// What is wrong with a file that holds an object of another one, too.
    fn shadowed(&self, path: &Path) -> Option<String> {
        let mut contested =
            self.contested.iter().filter_map(|key| Some((key, &self.objects.get(key)?.holders)));
        let (key, holders) =
            contested.find(|(_, holders)| holders.iter().skip(1).any(|holder| **holder == *path))?;
        let first = holders.first()?.display();
        Some(format!("{key} is in {first}, too: that one is used, since its name comes first"))
    }

    /// Reads a file again. Where something is broken, the last good objects of the file stay.
    fn refresh(&mut self, path: Arc<Path>, stamp: Stamp, now: Timestamp, concerned: &mut BTreeSet<Key>) {
        let (mut objects, errors) = match text(&path, stamp) {
            Ok((text, format)) => self.decode(manifest::read(&text, format), now),
            Err(error) => (BTreeMap::new(), vec![error.to_string()]),
        };
        let previous = self.release(&path, concerned);
        if !errors.is_empty() {
            for known in previous {
                objects.entry(known.object.key.clone()).or_insert(known);
            }
        }
        let error = (!errors.is_empty()).then(|| errors.join("; "));
        if let Some(error) = &error {
            tracing::warn!(file = %path.display(), "{error}; the last good objects stay");
        }
        for key in objects.keys() {
            self.objects.entry(key.clone()).or_default().add(&path);
            concerned.insert(key.clone());
        }
        self.files.insert(path, File { stamp, objects: objects.into_values().collect(), error });
    }

    /// Takes a file out; returns what it held.
    fn release(&mut self, path: &Path, concerned: &mut BTreeSet<Key>) -> Vec<Arc<Known>> {
        let objects = self.files.remove(path).map(|file| file.objects).unwrap_or_default();
        for known in &objects {
            let key = &known.object.key;
            if let Some(held) = self.objects.get_mut(key) {
                held.holders.retain(|holder| **holder != *path);
            }
            concerned.insert(key.clone());
        }
        objects
    }

    /// Takes the object of the first file that holds it into use; tells if that is a change.
    fn settle(&mut self, key: Key) -> Option<Change> {
        let held = self.objects.get_mut(&key)?;
        match held.holders.len() > 1 {
            true => self.contested.insert(key.clone()),
            false => self.contested.remove(&key),
        };
        let Some(known) = held.holders.first().and_then(|path| self.files.get(path)?.object(&key)) else {
            let before = self.objects.remove(&key)?.known;
            return before.map(|_| (key, None));
        };
        let before = held.known.replace(Arc::clone(known));
        let same = before.is_some_and(|before| Arc::ptr_eq(&before.object, &known.object));
        (!same).then(|| (key, Some(Arc::clone(&known.object))))
    }

    fn decode(&self, documents: Vec<Document>, now: Timestamp) -> (BTreeMap<Key, Arc<Known>>, Vec<String>) {
        let (mut objects, mut errors) = (BTreeMap::new(), Vec::new());
        for (index, document) in documents.into_iter().enumerate() {
            let outcome = match document {
                Document::Other => continue,
                Document::Broken(reason) => Err(reason),
                Document::Object(key, _) if objects.contains_key(&key) => {
                    Err(format!("{key} is in the file twice"))
                }
                Document::Object(key, value) => self.object(key, value, now),
            };
            match outcome {
                Ok(known) => drop(objects.insert(known.object.key.clone(), known)),
                Err(reason) => errors.push(format!("document {index}: {reason}")),
            }
        }
        (objects, errors)
    }

    /// The object as it was, if it is the same: so that re-reading a file changes nothing.
    fn object(&self, key: Key, value: Value, now: Timestamp) -> Result<Arc<Known>, String> {
        let previous = self.objects.get(&key).and_then(|held| held.known.as_ref());
        let mut value = complete(&key, value, previous.map(|known| &known.written), now);
        let written = Written::of(&value);
        if let Some(previous) = previous.filter(|previous| previous.written == written) {
            return Ok(Arc::clone(previous));
        }
        let name = key.to_string();
        prune(&mut value);
        let object = Object::decode(key, value).map_err(|error| format!("{name}: {error}"))?;
        Ok(Arc::new(Known { object: Arc::new(object), written }))
    }
}

fn manifests(directory: &Path) -> io::Result<BTreeMap<Arc<Path>, Stamp>> {
    let mut present = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path: Arc<Path> = entry?.path().into();
        if format(&path).is_none() {
            continue;
        }
        // A link is followed, as in a ConfigMap's mount.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => drop(present.insert(path, stamp(&metadata))),
            Ok(_) => {}
            // It went between the listing and the look at it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It is there, but cannot be looked at: reading it will say why, and its last good objects stay.
            Err(_) => drop(present.insert(path, Stamp::UNKNOWN)),
        }
    }
    Ok(present)
}

fn stamp(metadata: &fs::Metadata) -> Stamp {
    Stamp { inode: metadata.ino(), size: metadata.len(), changed: (metadata.ctime(), metadata.ctime_nsec()) }
}

/// Manifests end in .yaml, .yml or .json; names with a leading dot are still being written.
fn format(path: &Path) -> Option<Format> {
    if path.file_name()?.as_encoded_bytes().starts_with(b".") {
        return None;
    }
    match path.extension()?.to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

fn text(path: &Path, stamp: Stamp) -> io::Result<(String, Format)> {
    if stamp.size > LARGEST_FILE {
        return Err(io::Error::other(format!("it is larger than {} MiB: split it", LARGEST_FILE >> 20)));
    }
    let mut text = String::new();
    fs::File::open(path)?.take(LARGEST_FILE).read_to_string(&mut text)?;
    Ok((text, format(path).unwrap_or(Format::Yaml)))
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
