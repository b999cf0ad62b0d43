//! The control plane in a Kubernetes cluster: what it keeps there, and what its leader writes there.
//!
//! All replicas serve discovery, sign and inject. One, the holder of the Lease, writes: status, events, the roots of each
//! namespace, the webhook's caBundle and the mesh's own object.

mod bundle;
mod events;
mod hook;
mod lease;
mod secret;
mod status;
mod xmesh;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::{Client, Config};
use tokio::sync::watch;

pub use secret::Keeper;

use crate::authority::Present;
use crate::index::Index;

/// An API server that does not answer within this time is away.
const CONNECT: Duration = Duration::from_secs(5);

/// A client of the cluster that this runs in, or of that of KUBECONFIG.
pub async fn client() -> Result<Client> {
    let mut config = Config::infer().await.context(
        "no cluster: --kubernetes needs the service account of a pod, or KUBECONFIG with a file that names a cluster",
    )?;
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).context("the cluster's configuration cannot be used")
}

/// What the leader writes from.
#[derive(Clone)]
pub struct Plane {
    /// The cluster.
    pub client: Client,
    /// What there is.
    pub index: Arc<Index>,
    /// Who signs.
    pub authority: Arc<Present>,
    /// Our own namespace.
    pub namespace: String,
    /// Our own pod.
    pub pod: String,
}

impl Plane {
    /// Takes part in the election for ever, and writes whatever is to be written while this is the leader. Ends when
    /// `end` says so, leaving the Lease to the next.
    pub async fn lead(self, mut end: watch::Receiver<bool>) {
        let (leads, mut leading) = watch::channel(false);
        let election = lease::Election::new(&self.client, &self.namespace, &self.pod, leads);
        let write = async move {
            loop {
                until(&mut leading, true).await;
                tracing::info!("leading: this instance writes status, roots and events");
                tokio::select! {
                    () = self.write() => {}
                    () = until(&mut leading, false) => tracing::warn!("no longer leading"),
                }
            }
        };
        tokio::select! {
            () = election.run(&mut end) => {}
            () = write => {}
        }
    }

    /// All that is written. It ends wherever it is when another one leads.
    async fn write(&self) {
        tokio::join!(
            status::write(self),
            bundle::write(self),
            hook::write(self),
            xmesh::write(self),
            events::write(self),
        );
    }
}

async fn until(leading: &mut watch::Receiver<bool>, wanted: bool) {
    if leading.wait_for(|leading| *leading == wanted).await.is_err() {
        std::future::pending::<()>().await; // the election is over
    }
}
