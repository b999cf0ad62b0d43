//! Changes of the common Service's route and endpoints, in turn, and how soon all sidecars hold each.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::board::Board;
use crate::cluster::{COMMON, Cluster};
use crate::folder::{Draft, Folder};
use crate::held::Change;
use crate::injector::Injector;
use crate::manifests::{endpoint_slice, last_pod, route};
use crate::process::cpu;
use crate::say;
use crate::spread::Spread;

/// For a change to be at all sidecars, before the measurement is given up.
const LIMIT: Duration = Duration::from_secs(60);
/// Between a change that all hold and the next.
const PAUSE: Duration = Duration::from_millis(100);
/// How often progress is reported.
const REPORT: u64 = 20;

const ROUTE: &str = "common-route.json";
const SLICE: &str = "common-slice.json";

/// How soon changes were held, in milliseconds from the rename of the file that holds them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delays {
    /// Of each change, by the first sidecar.
    pub first_ms: Spread,
    /// Of each change, by the last sidecar.
    pub last_ms: Spread,
}

/// What the changes came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Changes {
    /// Those of the route.
    pub routes: Delays,
    /// Those of the endpoints.
    pub endpoints: Delays,
    /// Both.
    pub all: Delays,
    /// CPU milliseconds of the control plane for each change, less what it uses while nothing changes.
    pub cpu_ms_each: f64,
    /// CPU milliseconds that this process, which is all of the sidecars, used for each.
    pub sidecars_cpu_ms_each: f64,
}

/// Writes what is there before the first change.
pub fn put_first(folder: &Folder, cluster: &Cluster) -> Result<()> {
    for number in [0, 1] {
        let (_, draft) = draft(folder, cluster, number)?;
        draft.publish()?;
    }
    Ok(())
}

/// Makes `count` changes one after the other. `idle` is the CPU time that the control plane uses in a second without.
pub async fn make(
    folder: &Folder,
    cluster: &Cluster,
    (board, injector): (&Board, &Injector),
    count: u64,
    idle: Duration,
) -> Result<Changes> {
    let (mut routes, mut endpoints) = (Vec::new(), Vec::new());
    let (began, before) = (Instant::now(), [injector.cpu()?, cpu(std::process::id())?]);
    for number in 2..count + 2 {
        let (change, draft) = draft(folder, cluster, number)?;
        board.expect(change, cluster.sidecars);
        draft.publish()?;
        let held = board.all_hold(LIMIT).await?;
        match is_route(number) {
            true => routes.push(held),
            false => endpoints.push(held),
        }
        if (number - 1).is_multiple_of(REPORT) {
            say(&format!("  {} of {count} changes", number - 1));
        }
        sleep(PAUSE).await;
    }
    let used = [injector.cpu()?, cpu(std::process::id())?].map(milliseconds);
    let [used, sidecars] = [0, 1].map(|place| used[place] - milliseconds(before[place]));
    let background = milliseconds(idle) * began.elapsed().as_secs_f64();
    let all: Vec<Vec<Duration>> = routes.iter().chain(&endpoints).cloned().collect();
    Ok(Changes {
        routes: delays(&routes)?,
        endpoints: delays(&endpoints)?,
        all: delays(&all)?,
        cpu_ms_each: (used - background).max(0.0) / count as f64,
        sidecars_cpu_ms_each: sidecars / count as f64,
    })
}

/// The change of that number: even ones are of the route, odd ones of the endpoints.
fn draft(folder: &Folder, cluster: &Cluster, number: u64) -> Result<(Change, Draft)> {
    Ok(match is_route(number) {
        true => (Change::Route(number), folder.draft(ROUTE, [&route(cluster, COMMON, Some(number))])?),
        false => {
            let change = number / 2; // so that the last pod changes each time
            let slice = endpoint_slice(cluster, COMMON, Some(change));
            let pod = last_pod(cluster, change).name();
            (Change::Endpoints(change, pod), folder.draft(SLICE, [&slice])?)
        }
    })
}

fn is_route(number: u64) -> bool {
    number.is_multiple_of(2)
}

/// Of each change's delays the first and the last.
fn delays(changes: &[Vec<Duration>]) -> Result<Delays> {
    use anyhow::Context as _;
    let spread = |of: fn(&Vec<Duration>) -> Option<&Duration>| {
        Spread::of(changes.iter().filter_map(of).copied().map(milliseconds)).context("nothing was changed")
    };
    Ok(Delays { first_ms: spread(|held| held.iter().min())?, last_ms: spread(|held| held.iter().max())? })
}

/// A time in milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_change_the_first_and_the_last_sidecar_count() {
        let held = |times: [u64; 3]| times.map(Duration::from_millis).to_vec();
        let delays = delays(&[held([3, 1, 2]), held([30, 10, 20])]).unwrap();
        assert_eq!([delays.first_ms.min, delays.first_ms.max], [1.0, 10.0]);
        assert_eq!([delays.last_ms.min, delays.last_ms.max], [3.0, 30.0]);
    }

    #[test]
    fn changes_alternate_and_each_brings_another_pod() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::at(home.path().join("manifests")).unwrap();
        let cluster = Cluster { services: 100, endpoints_each: 5, sidecars: 1 };
        let changes: Vec<Change> = (2..6).map(|number| draft(&folder, &cluster, number).unwrap().0).collect();
        let endpoints = |number, pod: &str| Change::Endpoints(number, pod.to_owned());
        let expected = [Change::Route(2), endpoints(1, "svc-0-5"), Change::Route(4), endpoints(2, "svc-0-4")];
        assert_eq!(changes, expected);
    }
}
