//! Removing a world, whether it runs or has crashed: by what it wrote down, never by a name that others could have.

use std::fs;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::mounts;
use crate::net::clear_netns;
use crate::paths::Place;
use crate::process::{self, Recorded};

/// Whether the world's supervisor lives.
pub fn is_up(place: &Place) -> bool {
    Recorded::read(&place.supervisor()).is_some_and(Recorded::alive)
}

/// Ends every process of the world and removes its namespaces, mount points and directory.
/// Returns whether there was anything.
pub fn clear(place: &Place) -> Result<bool> {
    if !place.dir().exists() {
        return Ok(false);
    }
    end_supervisor(place);
    let names: Vec<_> = fs::read_dir(place.netns_records())
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    for name in &names {
        clear_netns(place, name)?;
    }
    mounts::remove(place)?;
    fs::remove_dir_all(place.dir()).with_context(|| format!("cannot remove {}", place.dir().display()))?;
    Ok(true)
}

/// Frozen first, so that it starts nothing more; then its children, some of which may not have entered their
/// namespace yet; then itself.
fn end_supervisor(place: &Place) {
    let Some(supervisor) = Recorded::read(&place.supervisor()).filter(|s| s.alive()) else { return };
    supervisor.signal(Signal::SIGSTOP);
    for child in process::children(supervisor.pid) {
        child.signal(Signal::SIGKILL);
    }
    supervisor.signal(Signal::SIGKILL);
    while supervisor.alive() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
