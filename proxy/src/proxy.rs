//! What every captured connection needs, in one place.

use std::sync::Arc;

use tracing::error;

use crate::{
    access::Log,
    config::Config,
    discovery::Discovery,
    drain::Draining,
    identity::CurrentCredentials,
    metrics::{Direction, Metrics},
    trace::Tracer,
    upstream::Registry,
};

/// Connections at once, in both directions together (file descriptors: two for each, of 20,000).
pub const CONNECTIONS_MAX: usize = 9000;
/// Connections at once in one direction: strangers that fill the inbound side leave room for the pod's own.
pub const CONNECTIONS_ONE_WAY: usize = 7500;
/// Requests at once, in both directions together; more are shed with 503.
const REQUESTS_MAX: usize = 10_000;
/// Requests at once in one direction: callers that fill the inbound side leave room for the pod's own.
const REQUESTS_ONE_WAY: usize = 7500;

/// The proxy's shared parts.
pub struct Proxy {
    /// What the injector told.
    pub config: Arc<Config>,
    /// What the world looks like.
    pub discovery: Arc<Discovery>,
    /// Endpoints and their connections.
    pub registry: Arc<Registry>,
    /// Who this proxy is.
    pub credentials: CurrentCredentials,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The access log, unless it is off.
    pub log: Option<Arc<Log>>,
    /// What makes spans, if anybody collects them.
    pub tracer: Option<Arc<Tracer>>,
    /// When it ends.
    pub draining: Draining,
    rooms: Rooms,
}

/// The requests of each direction: one clone for each that runs.
#[derive(Default)]
struct Rooms {
    outbound: Arc<()>,
    inbound: Arc<()>,
}

/// A request's place, in its direction and among all. Its clones are places of their own.
#[derive(Clone)]
pub struct Room {
    _one_way: Arc<()>,
}

impl Proxy {
    /// Puts the parts together.
    pub fn new(
        config: Arc<Config>,
        discovery: Arc<Discovery>,
        registry: Arc<Registry>,
        credentials: CurrentCredentials,
        metrics: Arc<Metrics>,
        draining: Draining,
    ) -> Arc<Self> {
        let rooms = Rooms::default();
        let log = Log::open(config.access_log, &metrics.lines_dropped).map(Arc::new);
        let tracer = Tracer::start(&config, &metrics.spans_dropped).unwrap_or_else(|error| {
            error!(error = crate::failure::chain(&error), "there are no spans");
            None
        });
        Arc::new(Self { config, discovery, registry, credentials, metrics, log, tracer, draining, rooms })
    }

    /// A place for one more request, if there is one.
    pub fn room(&self, direction: Direction) -> Option<Room> {
        self.rooms.take(direction)
    }

    /// Lets nothing of the account be lost when the program ends.
    pub async fn flush(&self) {
        if let Some(log) = &self.log {
            log.flush();
        }
        if let Some(tracer) = &self.tracer {
            tracer.flush().await;
        }
    }
}

impl Rooms {
    fn take(&self, direction: Direction) -> Option<Room> {
        let Self { outbound, inbound } = self;
        let running = |one_way| Arc::strong_count(one_way) - 1;
        let one_way = match direction {
            Direction::Outbound => outbound,
            Direction::Inbound => inbound,
        };
        let is_free =
            running(one_way) < REQUESTS_ONE_WAY && running(outbound) + running(inbound) < REQUESTS_MAX;
        is_free.then(|| Room { _one_way: Arc::clone(one_way) })
    }
}

#[cfg(test)]
mod tests {
    use Direction::{Inbound, Outbound};

    use super::*;

    #[test]
    fn callers_that_fill_one_direction_leave_room_in_the_other_and_an_end_makes_room() {
        let rooms = Rooms::default();
        let all_of = |direction| std::iter::from_fn(|| rooms.take(direction)).collect::<Vec<_>>();
        let mut inbound = all_of(Inbound);
        assert_eq!(inbound.len(), REQUESTS_ONE_WAY);
        let outbound = all_of(Outbound);
        assert_eq!(outbound.len(), REQUESTS_MAX - REQUESTS_ONE_WAY);
        inbound.pop();
        assert_eq!(all_of(Outbound).len(), 1);
    }
}
