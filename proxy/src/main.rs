//! heddle-proxy, the sidecar: captures its pod's traffic, routes it by the Gateway API, and wraps it in mTLS.

mod access;
mod admin;
mod body;
mod carry;
mod clock;
mod config;
mod control;
mod discovery;
mod drain;
mod failure;
#[cfg(test)]
mod hot_path;
mod http;
mod identity;
mod inbound;
mod memory;
mod metrics;
mod net;
mod outbound;
mod proxy;
mod tls;
mod trace;
mod tunnel;
mod upstream;

use std::{io::IsTerminal as _, net::Ipv4Addr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser as _;
use mesh::contract::{ADMIN_PORT, HEALTH_PORT, INBOUND_PORT, METRICS_PORT, OUTBOUND_PORT};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tracing::{error, info, warn};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    fmt::layer,
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::{
    admin::Probes,
    config::Config,
    control::ControlPlane,
    discovery::{
        Discovery,
        own_pod::{self, OwnPod},
    },
    drain::{Drain, Stage},
    identity::{BundleFile, Renewal},
    metrics::Metrics,
    net::listen::{bind, bind_to, serve, serve_or_reset},
    proxy::{CONNECTIONS_MAX, CONNECTIONS_ONE_WAY, Proxy},
    upstream::Registry,
};

/// Connections at once to the admin port, which only this pod reaches.
const ADMIN_CONNECTIONS_MAX: usize = 256;

fn main() -> ExitCode {
    let config = Config::parse();
    log_to_stderr(&config.log);
    harden();
    // One worker: a second core costs more per request than it brings (every connection's state stays on one).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.context("cannot start the runtime").and_then(|runtime| runtime.block_on(run(config)));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("heddle-proxy stops: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let identity = config.identity().context("this pod's namespace and service account make no identity")?;
    let probes = Arc::new(Probes::parse(&config.app_probes, config.pod_ips.first().copied())?);
    let listeners = Listeners::bind()?;

    let metrics = Arc::new(Metrics::new());
    let control = Arc::new(ControlPlane::new(&config)?.noting(metrics.control.clone()));
    let (renewed, credentials) = watch::channel(None);
    // A connection of its own: no number of watches can keep a renewal waiting.
    let bundle = BundleFile::new(config.bundle_file.clone());
    let renewal = Renewal { control: ControlPlane::new(&config)?, identity, bundle, current: renewed };
    tokio::spawn(renewal.keep());

    let registry = Arc::new(Registry::new(Arc::clone(&config), credentials.clone(), Arc::clone(&metrics)));
    let own_pod = own_pod::follow(control.kube(&config.pod_namespace), &config);
    let discovery = Discovery::start(Arc::clone(&config), &control, Arc::clone(&registry));
    let (drain, draining) = drain::channel();
    let drain_limit = Duration::from_secs(config.drain_seconds);
    let proxy = Proxy::new(config, discovery, registry, credentials, metrics, draining);

    tokio::spawn(watch_certificate(Arc::clone(&proxy)));
    let connections = listeners.serve(&proxy, &probes);
    info!(version = env!("CARGO_PKG_VERSION"), "heddle-proxy serves");

    tokio::select! {
        told = terminated() => told?,
        () = leave_with_pod(&drain, own_pod) => (),
    }
    info!("the application has ended: serves what still comes, and ends what is idle");
    drain.reach(Stage::Ending);
    let idle = timeout(drain_limit, until_idle(&connections)).await.is_ok();
    info!(idle, "heddle-proxy leaves");
    proxy.flush().await;
    Ok(())
}

/// Asks callers to go elsewhere as soon as this pod is being deleted; its application, and all that it calls, go on.
async fn leave_with_pod(drain: &Drain, mut own_pod: watch::Receiver<OwnPod>) {
    // An error means that nobody can tell any more; the signal still comes.
    if own_pod.wait_for(|pod| pod.terminating).await.is_ok() {
        info!("the pod is being deleted: callers are asked to go elsewhere, and served while they come");
        drain.reach(Stage::Leaving);
    }
    std::future::pending::<()>().await;
}

/// Waits for the last connection; new ones still come and are served.
async fn until_idle(connections: &Semaphore) {
    while connections.available_permits() < CONNECTIONS_MAX {
        sleep(Duration::from_millis(20)).await;
    }
}

struct Listeners {
    outbound: TcpListener,
    inbound: TcpListener,
    admin: TcpListener,
    metrics: TcpListener,
    health: TcpListener,
}

impl Listeners {
    fn bind() -> anyhow::Result<Self> {
        Ok(Self {
            outbound: bind(OUTBOUND_PORT)?,
            inbound: bind(INBOUND_PORT)?,
            admin: bind_to((Ipv4Addr::LOCALHOST, ADMIN_PORT).into())
                .with_context(|| format!("cannot listen on 127.0.0.1:{ADMIN_PORT}"))?,
            metrics: bind(METRICS_PORT)?,
            health: bind(HEALTH_PORT)?,
        })
    }

    /// Serves every port; the returned room is whole again when no captured connection is left.
    fn serve(self, proxy: &Arc<Proxy>, probes: &Arc<Probes>) -> Arc<Semaphore> {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let one_way = || vec![Arc::new(Semaphore::new(CONNECTIONS_ONE_WAY)), Arc::clone(&connections)];
        let own = vec![Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX))];
        let of = || Arc::clone(proxy);
        let (outbound, inbound, admin, metrics, health) = (of(), of(), of(), of(), of());
        let probes = Arc::clone(probes);
        tokio::spawn(serve(self.outbound, one_way(), move |stream, caller| {
            outbound::serve(Arc::clone(&outbound), stream, caller)
        }));
        tokio::spawn(serve(self.inbound, one_way(), move |stream, caller| {
            inbound::serve(Arc::clone(&inbound), stream, caller)
        }));
        tokio::spawn(serve(self.admin, own, move |stream, _| admin::admin(Arc::clone(&admin), stream)));
        tokio::spawn(serve_or_reset(self.metrics, admin::places(of()), move |stream, _| {
            admin::metrics(Arc::clone(&metrics), stream)
        }));
        tokio::spawn(serve_or_reset(self.health, admin::places(of()), move |stream, _| {
            admin::health(Arc::clone(&health), Arc::clone(&probes), stream)
        }));
        connections
    }
}

/// Notes each renewal where Prometheus finds it.
async fn watch_certificate(proxy: Arc<Proxy>) {
    let mut credentials = proxy.credentials.clone();
    loop {
        let present = credentials.borrow_and_update().as_ref().map(|c| (c.not_after, c.trusted()));
        let (not_after, roots) =
            present.map_or((0, 0), |(at, roots)| (metrics::seconds_since_1970(at), roots));
        proxy.metrics.certificate(not_after, roots);
        if credentials.changed().await.is_err() {
            return;
        }
    }
}

async fn terminated() -> std::io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => Ok(()),
        _ = int.recv() => Ok(()),
    }
}

fn log_to_stderr(filter: &str) {
    let lines = layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    // By levels and targets: filters by fields would need a compiler of regular expressions.
    let parsed = filter.parse::<Targets>();
    let targets =
        parsed.as_ref().map_or_else(|_| Targets::new().with_default(LevelFilter::INFO), Clone::clone);
    tracing_subscriber::registry().with(lines).with(targets).init();
    if let Err(error) = parsed {
        warn!(filter, %error, "this is no log filter; logging at info");
    }
}

/// The key must not end in a core dump, nor be read by another process of this user; and there must be files enough for
/// every connection.
fn harden() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // None can fail but on kernels that lack the limit, where there is nothing to set.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let _ = nix::sys::prctl::set_dumpable(false);
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
