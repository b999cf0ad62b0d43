//! Mount points that the machine's file system lacks are made, written down, and removed with the world. Worlds
//! share them: one goes only when no other world has it written down.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::container::Spec;
use crate::paths::{Place, ROOT, write_atomically};

/// Makes sure that every mount of a container has somewhere to go.
pub fn provide(place: &Place, spec: &Spec) -> Result<()> {
    for bind in &spec.binds {
        if let Some(needed) = missing(&bind.target, bind.source.is_file()) {
            let _lock = lock()?;
            make(place, &needed)
                .with_context(|| format!("cannot make the mount point {}", bind.target.display()))?;
        }
    }
    Ok(())
}

/// Removes what this world made and no other world needs: empty directories and empty files only.
pub fn remove(place: &Place) -> Result<()> {
    let _lock = lock()?;
    let own = recorded(&place.mount_points());
    fs::write(place.mount_points(), "").ok();
    let others = others(place);
    // The deepest first.
    for path in own.difference(&others).collect::<Vec<_>>().into_iter().rev() {
        match path.is_dir() {
            true => fs::remove_dir(path).ok(),
            false if fs::metadata(path).is_ok_and(|m| m.len() == 0) => fs::remove_file(path).ok(),
            false => None,
        };
    }
    Ok(())
}

/// The parts of a path that are not there or that some world made, from the top down.
fn missing(target: &Path, file: bool) -> Option<Vec<(PathBuf, bool)>> {
    let made = all_recorded();
    let mut parts: Vec<_> = target
        .ancestors()
        .take_while(|part| !part.exists() || made.contains(*part))
        .map(|part| (part.to_owned(), file && part == target))
        .collect();
    parts.reverse();
    (!parts.is_empty()).then_some(parts)
}

fn make(place: &Place, parts: &[(PathBuf, bool)]) -> Result<()> {
    let mut known = recorded(&place.mount_points());
    let before = known.len();
    known.extend(parts.iter().map(|(path, _)| path.clone()));
    if known.len() != before {
        let text: String = known.iter().map(|path| format!("{}\n", path.display())).collect();
        write_atomically(&place.staging(), &place.mount_points(), text.as_bytes())?;
    }
    for (path, file) in parts.iter().filter(|(path, _)| !path.exists()) {
        match file {
            true => OpenOptions::new().create(true).append(true).open(path).and_then(|mut f| f.flush())?,
            false => fs::create_dir(path)?,
        }
    }
    Ok(())
}

fn recorded(file: &Path) -> BTreeSet<PathBuf> {
    fs::read_to_string(file).unwrap_or_default().lines().map(PathBuf::from).collect()
}

fn worlds() -> impl Iterator<Item = PathBuf> {
    fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn all_recorded() -> BTreeSet<PathBuf> {
    worlds().flat_map(|world| recorded(&world.join("mount-points"))).collect()
}

fn others(place: &Place) -> BTreeSet<PathBuf> {
    worlds()
        .filter(|world| world != place.dir())
        .flat_map(|world| recorded(&world.join("mount-points")))
        .collect()
}

/// Held while mount points come or go, by all worlds.
fn lock() -> Result<Flock<File>> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(Path::new(ROOT).join(".lock"))
        .context("cannot lock")?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, why)| why).context("cannot lock")
}
