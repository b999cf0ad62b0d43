//! One address under one expected identity, and how it does.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use mesh::{
    balance::{Change, Failed, Outcome, State, Ticket, View},
    identity::Identity,
    route::BackendKey,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::info;

use super::{h1_pool, h2_pool, load::Load, tunnel_pool};
use crate::{clock, identity::CurrentCredentials, metrics::Metrics};

/// How an endpoint is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Mesh TLS; the peer must be exactly this.
    Mesh(Identity),
    /// As it is: the endpoint has no proxy, or this port is not the proxy's.
    Plain,
    /// Meshed, but under a name that is no identity: never dialled.
    Unnameable,
}

/// One address under one expected identity.
pub struct Endpoint {
    /// Where it is.
    pub addr: SocketAddr,
    /// How it is spoken to.
    pub transport: Transport,
    /// Its pod declares that the bytes of this port are not to be looked into.
    pub opaque: bool,
    /// It is in this very pod.
    pub(super) here: bool,
    /// The first backend that chose among others and it; none for one that is only dialled by its own address.
    pub(super) backend: OnceLock<BackendKey>,
    /// Locked for moments only, by the one thread.
    pub(super) state: Mutex<State>,
    pub(super) credentials: CurrentCredentials,
    pub(super) metrics: Arc<Metrics>,
    pub(super) h1: h1_pool::Pool,
    pub(super) h2: h2_pool::Pool,
    pub(super) tunnels: tunnel_pool::Pool,
}

/// The time by the clock of balancers and pools.
pub fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let start = *START;
    clock::now().saturating_duration_since(start)
}

impl Endpoint {
    /// Counts one more request or connection, from now on until the guard goes.
    pub fn carry(self: &Arc<Self>, now: Duration) -> Load {
        let ticket = self.state().begin(now);
        Load::new(Arc::clone(self), ticket, now)
    }

    /// The expected identity, if the endpoint is meshed.
    pub fn identity(&self) -> Option<&Identity> {
        match &self.transport {
            Transport::Mesh(identity) => Some(identity),
            Transport::Plain | Transport::Unnameable => None,
        }
    }

    /// What the choice among endpoints sees of it.
    pub(super) fn view(&self, now: Duration) -> View {
        self.state().view(now)
    }

    /// It joins others of its backend that serve already. One that has served itself needs no slow start.
    pub(super) fn join(&self) {
        let mut state = self.state();
        if state.is_new() {
            state.warm_up(now());
        }
    }

    /// What became of a request or connection.
    pub(super) fn report(&self, ticket: Ticket, outcome: Outcome, now: Duration) {
        let change = self.state().report(ticket, outcome, now, fastrand::u64(..));
        if let (Some(change), Some(backend)) = (change, self.backend.get()) {
            self.tell(change, backend, now);
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn to_json(&self) -> Value {
        let state = self.state();
        json!({
            "address": self.addr,
            "identity": self.identity().map(Identity::as_str),
            "state": state.word(now()),
            "load": state.running(),
        })
    }

    /// Each change of place is one line: they are rare by their own rules.
    fn tell(&self, change: Change, backend: &BackendKey, now: Duration) {
        match change {
            Change::SetAside { why, until } => {
                let seconds = until.saturating_sub(now).as_secs_f64();
                info!(endpoint = %self.addr, %backend, reason = reason(why), seconds, "set an endpoint aside");
                self.metrics.ejected(backend, reason(why));
            }
            Change::Back => info!(endpoint = %self.addr, %backend, "an endpoint is back"),
        }
    }
}

fn reason(why: Failed) -> &'static str {
    match why {
        Failed::Unreached => "unreached",
        Failed::Answer => "failed_answers",
    }
}
