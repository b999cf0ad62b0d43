//! What the proxy knows of the world: the destinations that its pod talks to, and nothing else.
//!
//! The first connection to an unknown address asks the control plane for the Service (or pod) at it, opens the
//! watches that it needs, and waits for them. From then on the answer is in memory and follows every change.
//! When the control plane is away, what is known goes on working as it was.

mod actor;
mod addresses;
mod live;
mod lookup;
pub mod own_pod;
mod show;
mod store;
mod watch;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

pub use live::{LivePod, LiveService, Table};

use crate::{config::Config, control::ControlPlane, upstream::Registry};

/// How long a connection to an unknown address of the cluster waits for the control plane.
const HOLD: Duration = Duration::from_secs(3);
/// How long any other unknown address waits before it passes through.
const HOLD_ELSEWHERE: Duration = Duration::from_secs(1);
/// Lookups and events that may queue before their senders wait.
const QUEUE: usize = 1024;

/// What an address is.
#[derive(Clone)]
pub enum Destination {
    /// A Service: its routes decide.
    Service(Arc<LiveService>),
    /// A pod: it is dialled itself, under mTLS if it is meshed.
    Pod(Arc<LivePod>),
    /// Neither: the connection passes through untouched.
    Elsewhere,
    /// In the cluster, but unknown, and the control plane does not answer.
    Away,
}

/// The handle that connections ask.
pub struct Discovery {
    config: Arc<Config>,
    known: Arc<Known>,
    asks: mpsc::Sender<Ask>,
}

/// A question to the task that keeps the watches.
enum Ask {
    /// What is at this address?
    Find(IpAddr, oneshot::Sender<Destination>),
    /// What do you know? (the admin port's table)
    Table(oneshot::Sender<serde_json::Value>),
}

impl Discovery {
    /// Starts the task that keeps the watches.
    pub fn start(config: Arc<Config>, control: &Arc<ControlPlane>, registry: Arc<Registry>) -> Arc<Self> {
        let (asks, asked) = mpsc::channel(QUEUE);
        let known = Arc::new(Known::default());
        let client = control.kube(&config.pod_namespace);
        tokio::spawn(
            actor::Actor::new(
                Arc::clone(&config),
                client,
                control.metrics.clone(),
                registry,
                Arc::clone(&known),
            )
            .run(asked),
        );
        Arc::new(Self { config, known, asks })
    }

    /// What an address is. Answers from memory unless the address is new.
    pub async fn find(&self, ip: IpAddr) -> Destination {
        if let Some(destination) = self.known.get(ip) {
            return destination;
        }
        let (unknown, hold) = if self.config.in_cluster(ip) {
            (Destination::Away, HOLD)
        } else {
            (Destination::Elsewhere, HOLD_ELSEWHERE)
        };
        let (answer, answered) = oneshot::channel();
        if self.asks.send(Ask::Find(ip, answer)).await.is_err() {
            return unknown;
        }
        timeout(hold, answered).await.ok().and_then(Result::ok).unwrap_or(unknown)
    }

    /// Whether an address is that of a meshed pod, as far as the control plane can tell now.
    pub async fn is_meshed(&self, ip: IpAddr) -> bool {
        match self.find(ip).await {
            Destination::Pod(pod) => pod.facts().is_some_and(|facts| facts.meshed),
            Destination::Service(_) | Destination::Elsewhere | Destination::Away => false,
        }
    }

    /// Everything that is known, for the admin port.
    pub async fn table(&self) -> serde_json::Value {
        let (answer, answered) = oneshot::channel();
        let asked = self.asks.send(Ask::Table(answer)).await.is_ok();
        if asked { answered.await.unwrap_or_default() } else { serde_json::Value::Null }
    }
}

/// The answers in memory. Read at every connection, written by the one task.
#[derive(Default)]
struct Known(RwLock<HashMap<IpAddr, Entry>>);

#[derive(Clone)]
enum Entry {
    Found(Destination),
    /// Nothing of the cluster is there; asked again after this moment.
    Nothing(Instant),
}

impl Known {
    fn get(&self, ip: IpAddr) -> Option<Destination> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match known.get(&ip)? {
            Entry::Found(destination) => {
                destination.touch();
                Some(destination.clone())
            }
            Entry::Nothing(until) if Instant::now() < *until => Some(Destination::Elsewhere),
            Entry::Nothing(_) => None,
        }
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<IpAddr, Entry>)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Destination {
    /// Notes that the destination is in use, which keeps it from being dropped.
    fn touch(&self) {
        match self {
            Self::Service(service) => service.touch(),
            Self::Pod(pod) => pod.touch(),
            Self::Elsewhere | Self::Away => (),
        }
    }
}
