//! Waiting until the control plane has taken what was written.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::control::Control;
use crate::manifest::{Key, Manifest};
use crate::supervisor::Say;
use crate::world::World;

/// Between two looks at the control plane.
const GLANCE: Duration = Duration::from_millis(5);

/// The control plane could not read a file.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {why}")]
pub struct Refused {
    key: Key,
    why: String,
}

/// Waits until the control plane serves these objects as they are now.
pub async fn taken(world: &World, keys: &[Key], deadline: Instant) -> Result<()> {
    for key in keys.iter().filter(|key| key.kind != "Secret") {
        let Some(wanted) = world.store.borrow().get(key).cloned() else { continue };
        if let Err(why) = world.control.answers() {
            // A world without a control plane has nobody to wait for.
            return if Control::available(world) {
                Err(why.context("written, but not taken"))
            } else {
                Ok(())
            };
        }
        while !holds(world, key, &wanted).await? {
            if Instant::now() > deadline {
                bail!(
                    "{key} is written, but the control plane has not taken it in time (see `lab logs --control`)"
                );
            }
            sleep(GLANCE).await;
        }
    }
    Ok(())
}

/// Names the file that the user gave.
pub fn blame(why: anyhow::Error, manifests: &[Manifest]) -> anyhow::Error {
    let file = why.downcast_ref::<Refused>().and_then(|refused| {
        manifests.iter().find(|m| Key::of(&m.object) == refused.key).map(|m| m.file.clone())
    });
    match file {
        Some(file) => anyhow!("{file}: {why}"),
        None => why,
    }
}

/// UID and generation of objects.
pub type Versions = BTreeMap<Key, (Value, Value)>;

/// What the lab derives and the control plane is to know.
pub fn derived(world: &World) -> Versions {
    let store = world.store.borrow();
    let version = |meta: &Value| (meta["uid"].clone(), meta["generation"].clone());
    store.list("EndpointSlice").map(|(key, slice)| (key.clone(), version(&slice["metadata"]))).collect()
}

/// Everything derived is in effect, and the control plane, if it runs, knows what is another than before.
pub async fn finish(world: &World, before: &Versions, deadline: Instant, say: &Say) -> Result<()> {
    world.settled().await;
    if let Err(why) = world.control.answers() {
        say.line(&format!("note: {why}"));
        return Ok(());
    }
    let now = derived(world);
    let changed: Vec<_> = now
        .into_iter()
        .filter(|(key, version)| before.get(key) != Some(version))
        .map(|(key, _)| key)
        .collect();
    taken(world, &changed, deadline).await
}

async fn holds(world: &World, key: &Key, wanted: &Value) -> Result<bool> {
    // It may be starting: the deadline decides.
    let Ok(found) = world.control.read(world, key).await else {
        return Ok(false);
    };
    let meta =
        |object: &Value| (object["metadata"]["uid"].clone(), object["metadata"]["generation"].as_i64());
    if let Some(found) = &found {
        let ((uid, generation), (wanted_uid, wanted_generation)) = (meta(found), meta(wanted));
        // A kind whose generation is not served is known by its UID alone.
        if uid == wanted_uid && generation.is_none_or(|g| Some(g) >= wanted_generation) {
            return Ok(true);
        }
    }
    match world.control.sources(world).await.ok().and_then(|mut files| files.remove(&key.file_name())) {
        Some(Some(why)) => Err(Refused { key: key.clone(), why }.into()),
        // Read without a fault, but not served: a kind that only the control plane itself needs.
        Some(None) => Ok(found.is_none()),
        None => Ok(false),
    }
}
