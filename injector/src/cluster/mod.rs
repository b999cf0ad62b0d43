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
use crate::source::kubernetes::WATCH_SECONDS;

/// An API server that does not answer within this time is away.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection on which nothing comes for this long is dead, or its API server hangs: so the page of a list and the
/// beginning of a watch have an end. A watch that has nothing to tell has ended by itself before.
const SILENCE: Duration = Duration::from_secs(WATCH_SECONDS as u64 + 15);

/// A client of the cluster that this runs in, or of that of KUBECONFIG.
pub async fn client() -> Result<Client> {
    let mut config = Config::infer().await.context(
        "no cluster: --kubernetes needs the service account of a pod, or KUBECONFIG with a file that names a cluster",
    )?;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    // Minutes, of which nobody would be told. Whoever asks knows better when to ask again.
    config.default_retry = false;
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
        let (terms, mut term) = watch::channel(None);
        let election = lease::Election::new(&self.client, &self.namespace, &self.pod, terms);
        let write = async move {
            loop {
                lease::begun(&mut term).await;
                tracing::info!("leading: this instance writes status, roots and events");
                tokio::select! {
                    biased; // a term that is over is seen before another byte is written
                    () = lease::over(&mut term) => tracing::info!("no longer leading"),
                    () = self.write() => {}
                }
            }
        };
        tokio::select! {
            () = election.run(&mut end) => {}
            () = write => {}
        }
    }

    /// All that is written. It ends wherever it is when the term is over.
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

/// The delay after so many failures in a row: that before it twice, up to the `longest`.
fn doubled(first: Duration, failures: u32, longest: Duration) -> Duration {
    (first * 2_u32.pow(failures.min(10))).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest() {
        let delay = |failures| doubled(Duration::from_secs(1), failures, Duration::from_secs(60)).as_secs();
        assert_eq!([0, 1, 5, 6, u32::MAX].map(delay), [1, 2, 32, 60, 60]);
    }
}
