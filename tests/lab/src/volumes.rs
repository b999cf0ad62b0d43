//! Volumes: what files they hold (pure), and publishing them so that readers see all of a version or none, by the
//! kubelet's own layout: `..data` is a link that is swapped, files are links through it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{KeyToPath, Volume, VolumeProjection};
use serde_json::Value;

use crate::env::{Data, field};

/// A file's bytes and mode.
pub type Entry = (Vec<u8>, u32);
/// The files of a volume by their relative path.
pub type Files = BTreeMap<String, Entry>;

const DEFAULT_MODE: i32 = 0o644;

/// Gives a pod its tokens.
pub trait Tokens {
    /// The token of a projected source (volume and path name it), fresh enough.
    fn token(&self, volume: &str, path: &str, audience: &str, seconds: u64) -> Result<String, String>;
}

/// The files of a volume, or `None` for an emptyDir. The error says what is missing; it may come later.
pub fn files(
    volume: &Volume,
    pod: &Value,
    data: &dyn Data,
    tokens: &dyn Tokens,
) -> Result<Option<Files>, String> {
    let optional = |o: Option<bool>| o == Some(true);
    if let Some(source) = &volume.config_map {
        let entries = data.config_map(&source.name);
        let what = format!("ConfigMap {}", source.name);
        return pick(entries, source.items.as_deref(), source.default_mode, &what, optional(source.optional))
            .map(Some);
    }
    if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let what = format!("Secret {name}");
        return pick(
            data.secret(name),
            source.items.as_deref(),
            source.default_mode,
            &what,
            optional(source.optional),
        )
        .map(Some);
    }
    let Some(projected) = &volume.projected else { return Ok(None) };
    let mut files = Files::new();
    for source in projected.sources.iter().flatten() {
        files.extend(projection(source, &volume.name, projected.default_mode, pod, data, tokens)?);
    }
    Ok(Some(files))
}

fn projection(
    source: &VolumeProjection,
    volume: &str,
    mode: Option<i32>,
    pod: &Value,
    data: &dyn Data,
    tokens: &dyn Tokens,
) -> Result<Files, String> {
    if let Some(s) = &source.config_map {
        let what = format!("ConfigMap {}", s.name);
        return pick(data.config_map(&s.name), s.items.as_deref(), mode, &what, s.optional == Some(true));
    }
    if let Some(s) = &source.secret {
        let what = format!("Secret {}", s.name);
        return pick(data.secret(&s.name), s.items.as_deref(), mode, &what, s.optional == Some(true));
    }
    if let Some(s) = &source.service_account_token {
        let seconds = s.expiration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(3600);
        let audience = s.audience.as_deref().unwrap_or("https://kubernetes.default.svc.cluster.local");
        let token = tokens.token(volume, &s.path, audience, seconds)?;
        return Ok(Files::from([(s.path.clone(), (token.into_bytes(), mode_bits(None, mode)))]));
    }
    let items = source.downward_api.iter().flat_map(|d| d.items.iter().flatten());
    let found = items.filter_map(|item| {
        let value = field(pod, &item.field_ref.as_ref()?.field_path)?;
        Some((item.path.clone(), (value.into_bytes(), mode_bits(item.mode, mode))))
    });
    Ok(found.collect())
}

fn mode_bits(own: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(own.or(default).unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777
}

fn pick(
    entries: Option<BTreeMap<String, Vec<u8>>>,
    items: Option<&[KeyToPath]>,
    mode: Option<i32>,
    what: &str,
    optional: bool,
) -> Result<Files, String> {
    let Some(entries) = entries else {
        return if optional { Ok(Files::new()) } else { Err(format!("{what} does not exist")) };
    };
    let Some(items) = items else {
        return Ok(entries.into_iter().map(|(key, bytes)| (key, (bytes, mode_bits(None, mode)))).collect());
    };
    let mut files = Files::new();
    for item in items {
        match entries.get(&item.key) {
            Some(bytes) => drop(files.insert(item.path.clone(), (bytes.clone(), mode_bits(item.mode, mode)))),
            None if optional => {}
            None => return Err(format!("{what} has no key {}", item.key)),
        }
    }
    Ok(files)
}

/// Makes a volume's directory hold exactly these files; returns whether anything changed.
pub fn publish(directory: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    fs::create_dir_all(directory)?;
    let data = directory.join("..data");
    if data.exists() && read_back(&data, files) {
        return Ok(false);
    }
    let version = format!("..{}", crate::store::new_uid());
    let fresh = directory.join(&version);
    for (path, (bytes, mode)) in files {
        write_file(&fresh.join(safe(path)?), bytes, *mode, group)?;
    }
    fs::create_dir_all(&fresh)?;
    let old = fs::read_link(&data).ok();
    symlink(&version, directory.join("..next"))?;
    fs::rename(directory.join("..next"), &data)?;
    link_entries(directory, files)?;
    if let Some(old) = old {
        fs::remove_dir_all(directory.join(old))?;
    }
    Ok(true)
}

/// A relative path without `..`.
fn safe(path: &str) -> io::Result<&Path> {
    let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    match plain && !path.is_empty() {
        true => Ok(Path::new(path)),
        false => Err(io::Error::other(format!("{path:?} is not a path within a volume"))),
    }
}

fn write_file(path: &Path, bytes: &[u8], mode: u32, group: Option<u32>) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, bytes)?;
    let mode = if group.is_some() { mode | (mode & 0o700) >> 3 } else { mode };
    std::os::unix::fs::chown(path, None, group)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Top-level names link into `..data`; names that are over go.
fn link_entries(directory: &Path, files: &Files) -> io::Result<()> {
    let tops: Vec<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for top in &tops {
        let link = directory.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(top), link)?;
        }
    }
    for entry in fs::read_dir(directory)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !tops.contains(&&*name) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn read_back(data: &Path, files: &Files) -> bool {
    let same =
        files.iter().all(|(path, (bytes, _))| fs::read(data.join(path)).is_ok_and(|found| found == *bytes));
    same && count(data) == files.len()
}

fn count(directory: &Path) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Entry {
        (text.as_bytes().to_vec(), 0o644)
    }

    #[test]
    fn a_new_version_replaces_the_old_one_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let one = Files::from([("a".to_owned(), entry("1")), ("d/b".to_owned(), entry("2"))]);
        assert!(publish(dir.path(), &one, None).expect("published"));
        assert!(!publish(dir.path(), &one, None).expect("published"));
        let two = Files::from([("a".to_owned(), entry("3"))]);
        assert!(publish(dir.path(), &two, None).expect("published"));
        assert_eq!(fs::read_to_string(dir.path().join("a")).expect("read"), "3");
        assert!(!dir.path().join("d").exists());
        assert_eq!(fs::read_dir(dir.path()).expect("read").count(), 3, "a, ..data and one version");
    }

    #[test]
    fn a_key_cannot_leave_its_volume() {
        let dir = tempfile::tempdir().expect("a directory");
        for bad in ["../x", "/x", "a/../../x", ""] {
            assert!(
                publish(dir.path(), &Files::from([(bad.to_owned(), entry("1"))]), None).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn items_choose_and_rename() {
        let entries = BTreeMap::from([("k".to_owned(), b"v".to_vec())]);
        let item = |key: &str| KeyToPath { key: key.to_owned(), path: "p/q".to_owned(), mode: Some(0o600) };
        let found =
            pick(Some(entries.clone()), Some(&[item("k")]), None, "ConfigMap c", false).expect("picked");
        assert_eq!(found, Files::from([("p/q".to_owned(), (b"v".to_vec(), 0o600))]));
        let missing = pick(Some(entries), Some(&[item("x")]), None, "ConfigMap c", false);
        assert_eq!(missing, Err("ConfigMap c has no key x".to_owned()));
    }
}
