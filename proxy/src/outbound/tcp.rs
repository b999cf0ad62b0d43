//! Connections that are carried as bytes.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use mesh::{
    balance::By,
    detect::{Detected, Detection, detect},
    route::{BackendKey, Governing},
};
use tokio::time::timeout;
use tracing::{info, warn};

use super::Target;
use crate::{
    carry::{self, Ended, Trip},
    failure::{Failure, chain},
    metrics::{Direction, Rule, Way},
    net::{
        peek::Peeked,
        socket::{self, reset_on_close},
        stream::Stream as _,
    },
    proxy::Proxy,
    upstream::{self, Backend, Endpoint, Load, Upstream},
};

/// How many endpoints are tried before a connection is given up.
pub(super) const TRIES: usize = 3;
/// A connection that lives for this long was taken by its server, whether or not it has spoken.
const SETTLED: Duration = Duration::from_secs(1);

/// A connection to an endpoint, made for one client.
pub struct Dialled {
    /// The connection.
    pub upstream: Upstream,
    endpoint: Arc<Endpoint>,
    backend: Option<BackendKey>,
    load: Load,
}

/// Carries a client's bytes to an endpoint that the routes choose.
pub async fn carry(
    proxy: &Arc<Proxy>,
    client: &mut Peeked,
    target: &Target,
    destination: SocketAddr,
    early: Option<Box<Dialled>>,
) {
    let Some(mut dialled) = Box::pin(reach(proxy, client, target, destination, early)).await else { return };
    let trip = trip(target, Some(&dialled), destination);
    let ended = {
        let Dialled { upstream, load, .. } = &mut *dialled;
        let mut carrying = pin!(carry::carry(proxy, trip, client, upstream));
        match Box::pin(timeout(SETTLED, &mut carrying)).await {
            Ok(ended) => ended,
            Err(_lives) => {
                load.taken();
                carrying.await
            }
        }
    };
    dialled.ended(&ended);
}

/// A connection to an endpoint; without one the client is reset.
async fn reach(
    proxy: &Proxy,
    client: &Peeked,
    target: &Target,
    destination: SocketAddr,
    early: Option<Box<Dialled>>,
) -> Option<Box<Dialled>> {
    if early.is_some() {
        return early;
    }
    match dial(target, destination, begins_with_tls(client)).await {
        Ok(dialled) => Some(dialled),
        Err(failure) => {
            warn!(reason = failure.reason(), "cannot carry a connection: {}", failure.chain());
            proxy.metrics.refuse(Direction::Outbound, failure.reason());
            trip(target, None, destination).failed(proxy, failure.reason(), failure.chain());
            reset_on_close(client.socket());
            None
        }
    }
}

impl Dialled {
    /// Learns of the endpoint from how the connection ended. One that resets it before it has said anything is as good
    /// as not there: behind a peer's proxy an application that refuses looks like this.
    fn ended(self, ended: &Ended) {
        let Self { upstream, mut load, endpoint, .. } = self;
        let unheard = ended.broke && ended.carried.received == 0;
        if unheard {
            endpoint.forget_kept();
        }
        // After a clean end the kernel does not know the peer any more, either.
        let refused = unheard && upstream.was_reset();
        if refused {
            load.refused();
        } else {
            load.taken();
        }
        if !ended.broke {
            endpoint.give_back(upstream);
        }
    }
}

/// What a connection's account says of its way.
fn trip(target: &Target, dialled: Option<&Dialled>, destination: SocketAddr) -> Box<Trip> {
    let mut way = Way::with_peer(dialled.and_then(|dialled| dialled.endpoint.identity()));
    way.backend = dialled.and_then(|dialled| dialled.backend.clone());
    if let Target::Service(service, port) = target {
        let table = service.table();
        way.parent = Some(BackendKey { service: table.routes.service.clone(), port: *port });
        way.rule = table.routes.ports.get(port).and_then(|port| match &port.governing {
            Governing::Tcp { table } | Governing::Tls { table } => {
                Some(Rule { route: table.route().clone(), index: 0, name: None })
            }
            Governing::Http { .. } | Governing::Refused { .. } | Governing::Default => None,
        });
    }
    Box::new(Trip { direction: Direction::Outbound, way, destination })
}

/// Carries a connection that is none of the mesh's business, as the kernel would have.
pub async fn pass_through(proxy: &Arc<Proxy>, client: &mut Peeked, destination: SocketAddr) {
    match socket::connect(destination, None).await {
        Ok(mut upstream) => {
            let trip = Box::new(Trip { direction: Direction::Outbound, way: Way::default(), destination });
            carry::carry(proxy, trip, client, &mut upstream).await;
        }
        Err(error) => {
            info!(%destination, error = chain(&error), "a destination outside the mesh does not answer");
            reset_on_close(client.socket());
        }
    }
}

/// Dials an endpoint that the routes choose, and others when it does not answer.
pub async fn dial(target: &Target, destination: SocketAddr, tls: bool) -> Result<Box<Dialled>, Failure> {
    match target {
        Target::Pod(endpoint) => connect(Arc::clone(endpoint), None).await,
        Target::Service(..) => dial_backend(&*choose(target, tls)?, destination).await,
    }
}

async fn dial_backend(backend: &Backend, destination: SocketAddr) -> Result<Box<Dialled>, Failure> {
    let mut tried = Vec::new();
    let mut last = Failure::NoEndpoint(backend.key.clone());
    while tried.len() < TRIES {
        let Some(endpoint) = backend.pick(By::Connection, destination.ip(), &tried, upstream::now()) else {
            break;
        };
        tried.push(endpoint.addr);
        match connect(endpoint, Some(backend.key.clone())).await {
            Ok(dialled) => return Ok(dialled),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

async fn connect(endpoint: Arc<Endpoint>, backend: Option<BackendKey>) -> Result<Box<Dialled>, Failure> {
    let mut load = endpoint.carry(upstream::now());
    match endpoint.connect_tunnel().await {
        Ok(upstream) => {
            load.connected();
            Ok(Box::new(Dialled { upstream, endpoint, backend, load }))
        }
        Err(source) => {
            load.unreached(&source);
            Err(Failure::Connect { endpoint: endpoint.addr, source })
        }
    }
}

/// The backend of this connection: a TCPRoute's weighted choice, or the Service's own endpoints.
fn choose(target: &Target, tls: bool) -> Result<Arc<Backend>, Failure> {
    let Target::Service(service, port) = target else {
        return Err(mesh::route::Failure::NoValidBackend.into());
    };
    let table = service.table();
    let Some(port) = table.routes.ports.get(port) else {
        return Err(mesh::route::Failure::NoValidBackend.into());
    };
    let index = match &port.governing {
        Governing::Tcp { table } | Governing::Tls { table } => table.pick(fastrand::u64(..))?,
        // A TLSRoute, which is not built yet, claims the port's TLS: opening it to the Service's own endpoints would
        // ignore what its author asked for.
        Governing::Refused { .. } if tls => return Err(mesh::route::Failure::RouteRefused.into()),
        Governing::Refused { .. } | Governing::Http { .. } | Governing::Default => port.default,
    };
    table.backends.get(index).cloned().ok_or_else(|| mesh::route::Failure::NoValidBackend.into())
}

fn begins_with_tls(client: &Peeked) -> bool {
    detect(client.ahead()) == Detection::Known(Detected::Tls)
}
