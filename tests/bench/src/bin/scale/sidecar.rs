//! A simulated sidecar: everything that heddle-proxy asks of the control plane when it starts and its application calls five
//! Services, and the watches that it then keeps.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream, try_join};
use k8s_openapi::api::core::v1::{Pod as KubernetesPod, Service};
use kube::api::ListParams;
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use mesh::route::RouteKind;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{interval, timeout};

use crate::board::Board;
use crate::cluster::{COMMON, Cluster, caller, cluster_ip, name};
use crate::held::Held;
use crate::link::{Link, Target};
use crate::say;
use crate::tokens::Signer;
use crate::watch::{Part, WatchKey, follow};

/// Sidecars that start at the same time.
const AT_ONCE: usize = 16;
/// From one start to the next: each makes about 75 reads, and the control plane answers 5,000 in a second.
const PACE: Duration = Duration::from_millis(16);
/// For one sidecar to hold everything, while others start, too.
const START: Duration = Duration::from_secs(60);
/// How often the start of many is reported.
const REPORT: usize = 100;

/// What a sidecar is started with.
pub struct Mesh {
    /// The cluster.
    pub cluster: Cluster,
    /// Where the control plane is.
    pub target: Target,
    /// Who signs the pods' tokens.
    pub signer: Signer,
    /// Where it tells what it holds.
    pub board: Arc<Board>,
}

/// The connections of a sidecar, which live as long as it does. Its watches run by themselves.
pub struct Sidecar {
    _links: [Link; 2],
}

/// Starts all of them; returns when each holds everything.
pub async fn start_all(mesh: &Mesh) -> Result<Vec<Sidecar>> {
    let pace = Mutex::new(interval(PACE));
    let started = stream::iter(0..mesh.cluster.sidecars).map(async |number| {
        pace.lock().await.tick().await;
        let sidecar = timeout(START, start(mesh, number)).await;
        let sidecar = sidecar.with_context(|| format!("sidecar {number} is not ready after {START:?}"))?;
        if (number + 1).is_multiple_of(REPORT) {
            say(&format!("  {} sidecars follow", number + 1));
        }
        sidecar.with_context(|| format!("sidecar {number} cannot start"))
    });
    started.buffered(AT_ONCE).try_collect().await
}

async fn start(mesh: &Mesh, number: usize) -> Result<Sidecar> {
    let pod = mesh.cluster.pod_of(number);
    let (token, from) = (mesh.signer.token(pod)?, caller(number));
    // A connection of its own, which stays open for renewals.
    let renewal = mesh.target.connect(from, &token).await?;
    renewal.sign().await?;
    let link = mesh.target.connect(from, &token).await?;
    let client = link.client();
    for service in mesh.cluster.used_by(number) {
        look_up(&client, service).await?;
    }
    let keys = mesh.cluster.watched_by(number);
    let watches = keys.len();
    let synced = Arc::new(Semaphore::new(0));
    let follower = Follower {
        number,
        held: Arc::default(),
        board: Arc::clone(&mesh.board),
        synced: Arc::clone(&synced),
    };
    for key in keys {
        let follower = follower.clone();
        tokio::spawn(follow(key, client.clone(), move |key, event| follower.see(key, event)));
    }
    let all = synced.acquire_many(u32::try_from(watches)?).await?;
    all.forget();
    Ok(Sidecar { _links: [renewal, link] })
}

/// Asks what is at a Service's address, as at the first connection to it.
async fn look_up(client: &Client, service: usize) -> Result<()> {
    let ip = cluster_ip(service);
    let (services, pods) = (Api::<Service>::all(client.clone()), Api::<KubernetesPod>::all(client.clone()));
    let by_ip = |field: &str| ListParams::default().fields(&format!("{field}={ip}"));
    let (by_cluster_ip, by_pod_ip) = (by_ip("spec.clusterIPs"), by_ip("status.podIPs"));
    let (services, pods) = try_join!(services.list(&by_cluster_ip), pods.list(&by_pod_ip))?;
    let found = services.items.first().and_then(|service| service.metadata.name.as_deref());
    ensure!(found == Some(&*name(service).name) && pods.items.is_empty(), "{ip} is {found:?}");
    Ok(())
}

/// Takes in what all watches of a sidecar tell.
#[derive(Clone)]
struct Follower {
    number: usize,
    held: Arc<std::sync::Mutex<Held>>,
    board: Arc<Board>,
    synced: Arc<Semaphore>,
}

impl Follower {
    fn see(&self, key: &WatchKey, event: Result<Event<DynamicObject>, watcher::Error>) {
        let event = match event {
            Ok(event) => event,
            Err(error) => return self.board.fault(&format!("sidecar {}, {key:?}: {error}", self.number)),
        };
        if matches!(event, Event::InitDone) {
            self.synced.add_permits(1);
        }
        if shows_changes(key) {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.take(key, &event);
            self.board.tell(self.number, &held);
        }
    }
}

/// Whether the changes that are waited for show in what `key` covers.
fn shows_changes(key: &WatchKey) -> bool {
    let common = name(COMMON);
    match key.part {
        Part::Routes(kind) => kind == RouteKind::Http && key.of.namespace == common.namespace,
        Part::Slices | Part::Pods => key.of == common,
        Part::OwnPod | Part::Service => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_shows_in_few_of_the_watches() {
        let cluster = Cluster { services: 1_000, endpoints_each: 5, sidecars: 100 };
        let showing = cluster.watched_by(50).into_iter().filter(shows_changes);
        assert_eq!(showing.count(), 3);
    }
}
