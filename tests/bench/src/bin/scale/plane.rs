//! The control plane over the whole cluster, step by step: it loads, sidecars come, nothing changes, something changes.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::arguments::Size;
use crate::board::Board;
use crate::changes::{self, Changes};
use crate::cluster::Cluster;
use crate::folder::Folder;
use crate::injector::Injector;
use crate::manifests::{namespace_objects, node};
use crate::process::Memory;
use crate::say;
use crate::sidecar::{Mesh, start_all};
use crate::tokens::Signer;

/// How long nothing changes: long enough for a bookmark on every watch.
const IDLE: Duration = Duration::from_secs(30);

/// What a step cost the control plane.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Step {
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The CPU time that the control plane used for it, in seconds.
    pub cpu_seconds: f64,
    /// Its memory afterwards.
    pub memory: Memory,
}

/// Everything that was measured of the control plane.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plane {
    /// Services of the cluster.
    pub services: usize,
    /// Endpoints of all Services, each a meshed pod.
    pub endpoints: usize,
    /// Services that have a route.
    pub routes: usize,
    /// Sidecars.
    pub sidecars: usize,
    /// Watches that all of them have open, as the control plane counts them.
    pub watches: usize,
    /// Watches that broke off.
    pub faults: usize,
    /// Reading all objects.
    pub loading: Step,
    /// All sidecars start, a few at a time.
    pub starting: Step,
    /// Nothing changes: bookmarks and PINGs.
    pub idle: Step,
    /// Routes and endpoints change.
    pub changing: Step,
    /// How soon the changes were held.
    pub changes: Changes,
}

/// Measures it.
pub async fn measure(programs: &Path, size: &Size) -> Result<Plane> {
    let cluster =
        Cluster { services: size.services, endpoints_each: size.endpoints_each, sidecars: size.sidecars };
    let endpoints = cluster.services * cluster.endpoints_each;
    let home = tempfile::Builder::new().prefix("heddle-scale-").tempdir()?;
    say(&format!("plane: writes {} Services with {endpoints} endpoints", cluster.services));
    let folder = write(&cluster, home.path())?;

    let signer = Signer::new()?;
    let began = Instant::now();
    let program = programs.join("heddle-injector");
    let injector = Injector::start(&program, folder.path(), home.path(), signer.public())?;
    let loading = step(&injector, began, Duration::ZERO)?;
    tell("loaded", &loading);

    let board = Arc::new(Board::default());
    let mesh = Mesh { cluster, target: injector.target()?, signer, board: Arc::clone(&board) };
    let (began, before) = (Instant::now(), injector.cpu()?);
    let sidecars = start_all(&mesh).await?;
    let starting = step(&injector, began, before)?;
    tell(&format!("{} sidecars follow", sidecars.len()), &starting);

    let (began, before) = (Instant::now(), injector.cpu()?);
    sleep(IDLE).await;
    let idle = step(&injector, began, before)?;
    tell("nothing changed", &idle);

    let (began, before) = (Instant::now(), injector.cpu()?);
    let each_second = Duration::from_secs_f64(idle.cpu_seconds / idle.seconds);
    let count = u64::try_from(size.changes)?;
    let changes = changes::make(&folder, &cluster, (&board, &injector), count, each_second).await?;
    let changing = step(&injector, began, before)?;
    tell(&format!("{count} changes"), &changing);

    Ok(Plane {
        services: cluster.services,
        endpoints,
        routes: cluster.routed().count(),
        sidecars: sidecars.len(),
        watches: injector.watches()?,
        faults: board.faults(),
        loading,
        starting,
        idle,
        changing,
        changes,
    })
}

/// The manifests, a file for each namespace, and one for each object that is going to change.
fn write(cluster: &Cluster, home: &Path) -> Result<Folder> {
    let folder = Folder::at(home.join("manifests"))?;
    folder.put("nodes.json", &(0..cluster.nodes()).map(node).collect::<Vec<_>>())?;
    for number in 0..cluster.namespaces() {
        folder.put(&format!("team-{number}.json"), &namespace_objects(cluster, number))?;
    }
    changes::put_first(&folder, cluster)?;
    Ok(folder)
}

fn step(injector: &Injector, began: Instant, before: Duration) -> Result<Step> {
    Ok(Step {
        seconds: began.elapsed().as_secs_f64(),
        cpu_seconds: injector.cpu()?.saturating_sub(before).as_secs_f64(),
        memory: injector.memory()?,
    })
}

fn tell(what: &str, step: &Step) {
    let Step { seconds, cpu_seconds, memory } = step;
    let mib = memory.resident_kib / 1_024;
    say(&format!("plane: {what}: {seconds:.1} s, {cpu_seconds:.2} s of CPU, {mib} MiB resident"));
}
