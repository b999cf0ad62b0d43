//! heddle-injector: the control plane of Heddle.
//!
//! One thread answers all requests from memory; another follows the manifests. Decisions (`patch`, `status`,
//! `review`, `limit`, `discovery::query`) are pure and apart from the edges (`serve`, `source`).

mod answer;
mod authority;
mod certificate;
mod control;
mod count;
mod discovery;
mod flags;
mod index;
mod limit;
mod metrics;
mod object;
mod patch;
mod peer;
mod place;
mod plain;
mod review;
mod serve;
mod source;
mod status;
mod webhook;

use std::fs;
use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Parser;
use k8s_openapi::jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

use authority::{Authority, StateDirectory, write_atomically};
use certificate::Serving;
use control::Control;
use flags::{Flags, Ports};
use index::Index;
use metrics::Metrics;
use patch::Config;
use peer::Peers;
use plain::{Health, Pages};
use review::Reviewer;
use source::{Change, Report, Sink, seconds};
use webhook::Webhook;

/// The name under which proxies and the API server reach us.
const OWN_NAME: &str = "heddle-injector.heddle-system.svc";

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("heddle-injector: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&flags.log)
        .with_context(|| format!("--log {:?}", flags.log))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(start(flags))
}

/// Everything that can fail fails here, before the first port answers.
async fn start(flags: &Flags) -> Result<()> {
    require_ranges(flags)?;
    let state = StateDirectory::open(&flags.state)?;
    let leaf_life = Duration::from_secs(flags.leaf_ttl);
    let authority = Arc::new(Authority::open(&state, &flags.trust_domain, leaf_life, SystemTime::now())?);
    let reviewer = reviewer(flags)?;
    let names = [vec![OWN_NAME.to_owned()], flags.advertise.clone()].concat();
    let serving = Arc::new(Serving::new(Arc::clone(&authority), names).context("--advertise")?);
    let tls = TlsAcceptor::from(Arc::new(certificate::tls(Arc::clone(&serving))?));
    let [control, webhook, metrics_page, health] = listeners(flags).await?;

    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let index =
        Arc::new(Index::new(state.next_epoch(epoch)?, flags.ports.watch_log, flags.cluster_cidr.clone()));
    let metrics = Arc::new(Metrics::new());
    let report = Arc::new(RwLock::new(Report::default()));
    let taker =
        Taker { index: Arc::clone(&index), metrics: Arc::clone(&metrics), report: Arc::clone(&report) };
    source::follow(&flags.manifests, taker)?;
    if let Some(path) = &flags.bundle_out {
        write_atomically(path, authority.bundle(), 0o644)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }

    let service = Control::new(Arc::clone(&index), Arc::clone(&authority), Arc::clone(&metrics), reviewer);
    tokio::spawn(serve::serve(control, Peers::proving(), Some(tls.clone()), Arc::new(service)));
    let service = Webhook::new(Arc::clone(&index), Arc::clone(&metrics), config(flags));
    tokio::spawn(serve::serve(webhook, Peers::open(), Some(tls), Arc::new(service)));
    tokio::spawn(serve::serve(metrics_page, Peers::open(), None, Arc::new(Pages { metrics, index, report })));
    tokio::spawn(serve::serve(health, Peers::open(), None, Arc::new(Health)));
    tokio::spawn(renew(serving));
    tracing::info!(trust_domain = %flags.trust_domain, "ready");
    until_told().await
}

/// Without them everybody's `externalIPs` could claim a pod's address, and the proxies could not tell what is the
/// cluster's own.
fn require_ranges(flags: &Flags) -> Result<()> {
    anyhow::ensure!(
        !flags.cluster_cidr.is_empty(),
        "give the ranges of the cluster's Service and pod addresses, each with --cluster-cidr: \
         --cluster-cidr 10.96.0.0/12 --cluster-cidr 10.244.0.0/16"
    );
    Ok(())
}

fn reviewer(flags: &Flags) -> Result<Reviewer> {
    let path = flags.token_key.display();
    let key = fs::read(&flags.token_key).with_context(|| format!("cannot read the token key {path}"))?;
    Reviewer::new(&key, flags.trust_domain.clone())
        .with_context(|| format!("the token key {path} is not a P-256 public key in PEM"))
}

fn config(flags: &Flags) -> Config {
    Config {
        proxy_image: flags.proxy_image.clone(),
        init_image: flags.init_image.clone(),
        trust_domain: flags.trust_domain.to_string(),
        mtls_mode: flags.mtls_mode.into(),
        cluster_cidrs: flags.cluster_cidr.iter().map(ToString::to_string).collect(),
        otlp_endpoint: flags.otlp_endpoint.clone(),
        trace_ratio: flags.trace_ratio,
    }
}

async fn listeners(flags: &Flags) -> Result<[TcpListener; 4]> {
    let listen = |port| async move {
        let listener = serve::listen(flags.listen, port).await;
        listener.with_context(|| format!("cannot listen on port {port} of {}", flags.listen))
    };
    let Ports { control_port, webhook_port, metrics_port, health_port, ports_out, .. } = &flags.ports;
    let listeners = [
        listen(*control_port).await?,
        listen(*webhook_port).await?,
        listen(*metrics_port).await?,
        listen(*health_port).await?,
    ];
    if let Some(path) = ports_out {
        let ports: Vec<String> = listeners
            .iter()
            .map(|listener| Ok(listener.local_addr()?.port().to_string()))
            .collect::<Result<_>>()?;
        write_atomically(path, &ports.join(" "), 0o644)?;
    }
    Ok(listeners)
}

async fn renew(serving: Arc<Serving>) {
    loop {
        tokio::time::sleep(certificate::RENEWAL).await;
        if let Err(error) = serving.renew() {
            tracing::error!("cannot renew the serving certificate: {error}; it is tried again in an hour");
        }
    }
}

async fn until_told() -> Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to end");
    Ok(())
}

/// Takes what the source finds into the index.
struct Taker {
    index: Arc<Index>,
    metrics: Arc<Metrics>,
    report: Arc<RwLock<Report>>,
}

impl Sink for Taker {
    fn take(&mut self, changes: Vec<Change>, report: Report) {
        let broken = report.files.iter().filter(|file| file.error.is_some()).count();
        tracing::debug!(changes = changes.len(), generation = report.generation, "manifests changed");
        self.index.apply(changes, &seconds(Timestamp::now()));
        self.metrics.source(report.generation, broken);
        // Last: whoever reads the report finds its objects served already.
        *self.report.write().unwrap_or_else(PoisonError::into_inner) = report;
    }
}
