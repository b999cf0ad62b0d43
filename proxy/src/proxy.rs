//! What every captured connection needs, in one place.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tracing::error;

use crate::{
    access::Log, config::Config, discovery::Discovery, drain::Draining, identity::CurrentCredentials,
    metrics::Metrics, trace::Tracer, upstream::Registry,
};

/// Connections at once, in both directions together (file descriptors: two for each, of 20,000).
pub const CONNECTIONS_MAX: usize = 9000;
/// Connections at once in one direction: strangers that fill the inbound side leave room for the pod's own.
pub const CONNECTIONS_ONE_WAY: usize = 7500;
/// Requests at once; more are shed with 503.
const REQUESTS_MAX: usize = 10_000;

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
    /// Room for requests.
    pub requests: Arc<Semaphore>,
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
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        let log = Log::open(config.access_log, &metrics.lines_dropped).map(Arc::new);
        let tracer = Tracer::start(&config, &metrics.spans_dropped).unwrap_or_else(|error| {
            error!(error = crate::failure::chain(&error), "there are no spans");
            None
        });
        Arc::new(Self { config, discovery, registry, credentials, metrics, log, tracer, draining, requests })
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
