//! A backend's endpoints, and the choice among them.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use mesh::{
    balance::{By, Standing, View, choose},
    route::BackendKey,
};
use serde_json::Value;

use super::endpoint::Endpoint;

/// One port of one Service as a backend.
pub struct Backend {
    /// Its name.
    pub key: BackendKey,
    endpoints: ArcSwap<Endpoints>,
}

/// A backend's endpoints by address family: a client that dialled IPv4 is served over IPv4, because its server may listen
/// on nothing else (and the other way about).
#[derive(Default)]
struct Endpoints {
    v4: Vec<Arc<Endpoint>>,
    v6: Vec<Arc<Endpoint>>,
}

impl Backend {
    /// A backend without endpoints.
    pub fn new(key: BackendKey) -> Self {
        Self { key, endpoints: ArcSwap::default() }
    }

    /// Its endpoints from now on. One that is new beside others that stay gets its part step by step.
    pub fn set_endpoints(&self, endpoints: Vec<Arc<Endpoint>>) {
        let before = self.endpoints.load();
        let stays = |endpoint: &Arc<Endpoint>| before.all().any(|old| Arc::ptr_eq(old, endpoint));
        let (old, new): (Vec<_>, Vec<_>) = endpoints.iter().partition(|endpoint| stays(endpoint));
        for endpoint in new {
            // Whoever chose it first names it in the log.
            let _ = endpoint.backend.set(self.key.clone());
            if !old.is_empty() {
                endpoint.join();
            }
        }
        let (v4, v6) = endpoints.into_iter().partition(|endpoint| endpoint.addr.is_ipv4());
        self.endpoints.store(Arc::new(Endpoints { v4, v6 }));
    }

    /// An endpoint for a request or a connection, leaving out those that were tried already. They are of the family
    /// that the client dialled, if there are any.
    pub fn pick(
        &self,
        by: By,
        dialled: IpAddr,
        tried: &[SocketAddr],
        now: Duration,
    ) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        let (first, then) =
            if dialled.is_ipv4() { (&endpoints.v4, &endpoints.v6) } else { (&endpoints.v6, &endpoints.v4) };
        let family = if first.is_empty() { then } else { first };
        let look = |index: usize| {
            let endpoint = family.get(index).filter(|endpoint| !tried.contains(&endpoint.addr))?;
            let view = endpoint.view(now);
            Some(if tried.is_empty() { view } else { for_retry(view) })
        };
        let chosen = choose(family.len(), by, fastrand::u64(..), look)?;
        family.get(chosen).cloned()
    }

    /// The endpoint at an address, if it is a meshed one.
    pub fn meshed_endpoint(&self, addr: SocketAddr) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.load();
        endpoints.all().find(|endpoint| endpoint.addr == addr && endpoint.identity().is_some()).cloned()
    }

    /// Whether the pods behind it declare the port opaque.
    pub fn is_opaque(&self) -> bool {
        self.endpoints.load().all().any(|endpoint| endpoint.opaque)
    }

    /// Its endpoints, for the admin port.
    pub fn to_json(&self) -> Value {
        self.endpoints.load().all().map(|endpoint| endpoint.to_json()).collect()
    }
}

impl Endpoints {
    fn all(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.v4.iter().chain(&self.v6)
    }
}

/// What has failed once already is not used up as a probe.
fn for_retry(view: View) -> View {
    let standing = if view.standing == Standing::Due { Standing::Aside } else { view.standing };
    View { standing, ..view }
}
