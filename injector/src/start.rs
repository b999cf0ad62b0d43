//! The start: what differs between a cluster and a directory of manifests, and then all that is the same.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use mesh::contract::SYSTEM_NAMESPACE;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, Present, StateDirectory, write_atomically};
use crate::certificate::{self, Serving};
use crate::cluster::{self, Keeper, Plane};
use crate::control::Control;
use crate::flags::{Flags, Ports};
use crate::index::{Index, VERSIONS_PER_EPOCH};
use crate::metrics::Metrics;
use crate::patch::Config;
use crate::peer::Peers;
use crate::plain::{Health, Pages};
use crate::review::Reviewer;
use crate::serve;
use crate::source::{self, Change, Report, Sink, seconds};
use crate::tokens::Tokens;
use crate::webhook::Webhook;

/// After it was told to end, for as long as it takes until nobody sends anything here any more: Kubernetes takes an
/// address out of a Service while its pod ends, and not before.
const FAREWELL: Duration = Duration::from_secs(5);

/// What is there before anything is served.
struct Base {
    secure: [TcpListener; 2],
    plain: [TcpListener; 2],
    metrics: Arc<Metrics>,
    report: Arc<RwLock<Report>>,
    ready: Arc<AtomicBool>,
}

/// What is served.
struct Served {
    index: Arc<Index>,
    authority: Arc<Present>,
    reviewer: (Reviewer, Option<Arc<Tokens>>),
    client: Option<kube::Client>,
}

/// Runs until it is told to end. Everything that an operator can get wrong fails before the first port answers.
pub async fn start(flags: &Flags) -> Result<()> {
    match &flags.source.manifests {
        Some(manifests) => from_directory(flags, manifests).await,
        None => from_cluster(flags).await,
    }
}

async fn from_directory(flags: &Flags, manifests: &Path) -> Result<()> {
    require_ranges(flags)?;
    let directory = &flags.directory;
    let state = StateDirectory::open(directory.state.as_deref().context("--state is missing")?)?;
    let leaf_life = Duration::from_secs(flags.leaf_ttl);
    let authority = Authority::open(&state, &flags.trust_domain, leaf_life, SystemTime::now())?;
    let roots = authority.bundle().to_owned();
    let authority = Arc::new(Present::new(authority));
    let key = directory.token_key.as_deref().context("--token-key is missing")?;
    let reviewer = (reviewer(flags, key)?, None);
    let base = base(flags).await?;
    let first = state.next_epoch(unix().as_secs())? * VERSIONS_PER_EPOCH + 1;
    let index = Arc::new(Index::new(first, flags.ports.watch_log, flags.cluster_cidr.clone()));
    let (metrics, report) = (Arc::clone(&base.metrics), Arc::clone(&base.report));
    source::follow(manifests, Taker { index: Arc::clone(&index), metrics, report })?;
    if let Some(path) = &directory.bundle_out {
        write_atomically(path, &roots, 0o644).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let served = Served { index: Arc::clone(&index), authority, reviewer, client: None };
    base.open(&index).serve(flags, served)?;
    until_told().await
}

async fn from_cluster(flags: &Flags) -> Result<()> {
    require_own_namespace(flags)?;
    let client = cluster::client().await?;
    let base = base(flags).await?;
    // Replicas start within one second: the nanoseconds keep their versions apart.
    let first = u64::try_from(unix().as_nanos()).unwrap_or_default();
    let index = Arc::new(Index::new(first, flags.ports.watch_log, flags.cluster_cidr.clone()));
    let base = base.open(&index);
    let (synced, ready) = oneshot::channel();
    source::kubernetes::start(&client, Arc::clone(&index), synced);
    let mut told = std::pin::pin!(until_told());
    let opened = async {
        let authority = open_authority(flags, &client).await;
        ready.await.map(|()| authority)
    };
    let authority = tokio::select! {
        outcome = &mut told => return outcome,
        opened = opened => opened.context("the cluster cannot be followed")?,
    };
    anyhow::ensure!(
        !index.read().cluster().is_empty(),
        "neither ServiceCIDRs nor Nodes tell the ranges of the cluster's addresses: give each with --cluster-cidr"
    );
    let reviewer = (Reviewer::told(flags.trust_domain.clone()), Some(Tokens::new(client.clone())));
    let served = Served {
        index: Arc::clone(&index),
        authority: Arc::clone(&authority),
        reviewer,
        client: Some(client.clone()),
    };
    let ready = Arc::clone(&base.ready);
    base.serve(flags, served)?;
    let (namespace, pod) = (flags.cluster.namespace.clone(), flags.cluster.pod.clone());
    let (end, ended) = watch::channel(false);
    let leader = tokio::spawn(Plane { client, index, authority, namespace, pod }.lead(ended));
    let outcome = told.await;
    ready.store(false, Ordering::Relaxed);
    end.send_replace(true);
    let _ = leader.await;
    tokio::time::sleep(FAREWELL).await;
    outcome
}

/// The authority of the cluster's Secret, which is followed from now on.
async fn open_authority(flags: &Flags, client: &kube::Client) -> Arc<Present> {
    let place = (flags.cluster.namespace.as_str(), flags.cluster.issuer_secret.as_str());
    let leaf_life = Duration::from_secs(flags.leaf_ttl);
    let keeper = Keeper::new(client, place, flags.cluster.create_ca, flags.trust_domain.clone(), leaf_life);
    let (material, authority) = keeper.open().await;
    let present = Arc::new(Present::new(authority));
    tokio::spawn(keeper.keep(Arc::clone(&present), material));
    present
}

/// Proxies, and the rules of injection, know the control plane by its namespace.
fn require_own_namespace(flags: &Flags) -> Result<()> {
    let namespace = &flags.cluster.namespace;
    anyhow::ensure!(
        namespace == SYSTEM_NAMESPACE,
        "it runs in namespace {namespace}: proxies look for it in {SYSTEM_NAMESPACE}, so install it there"
    );
    Ok(())
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

fn unix() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn reviewer(flags: &Flags, path: &Path) -> Result<Reviewer> {
    let shown = path.display();
    let key = fs::read(path).with_context(|| format!("cannot read the token key {shown}"))?;
    Reviewer::new(&key, flags.trust_domain.clone())
        .with_context(|| format!("the token key {shown} is not a P-256 public key in PEM"))
}

async fn base(flags: &Flags) -> Result<Base> {
    let (metrics, report) = (Arc::new(Metrics::new()), Arc::new(RwLock::new(Report::default())));
    let (secure, plain) = listeners(flags).await?;
    Ok(Base { secure, plain, metrics, report, ready: Arc::new(AtomicBool::new(false)) })
}

impl Base {
    /// Opens the two ports without TLS: whoever waits for this program to get ready asks there.
    fn open(self, index: &Arc<Index>) -> Opened {
        let (metrics, report) = (Arc::clone(&self.metrics), self.report);
        let pages = Arc::new(Pages { metrics, index: Arc::clone(index), report });
        let health = Arc::new(Health(Arc::clone(&self.ready)));
        let [metrics_port, health_port] = self.plain;
        tokio::spawn(serve::serve(metrics_port, Peers::looking(), None, pages));
        tokio::spawn(serve::serve(health_port, Peers::looking(), None, health));
        Opened { secure: self.secure, metrics: self.metrics, ready: self.ready }
    }
}

/// The same, with the ports for the operator open.
struct Opened {
    secure: [TcpListener; 2],
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
}

impl Opened {
    /// Opens the two ports with TLS, and is ready.
    fn serve(self, flags: &Flags, served: Served) -> Result<()> {
        let Served { index, authority, reviewer, client } = served;
        let names = [vec![own_name()], flags.advertise.clone()].concat();
        let serving = Arc::new(Serving::new(Arc::clone(&authority), names).context("--advertise")?);
        let tls = TlsAcceptor::from(Arc::new(certificate::tls(Arc::clone(&serving))?));
        let control = Control::new(Arc::clone(&index), authority, Arc::clone(&self.metrics), reviewer);
        let webhook = Webhook::new(index, self.metrics, config(flags), client);
        let [control_port, webhook_port] = self.secure;
        tokio::spawn(serve::serve(control_port, Peers::proving(), Some(tls.clone()), Arc::new(control)));
        tokio::spawn(serve::serve(webhook_port, Peers::calling(), Some(tls), Arc::new(webhook)));
        tokio::spawn(serving.keep());
        self.ready.store(true, Ordering::Relaxed);
        tracing::info!(trust_domain = %flags.trust_domain, "ready");
        Ok(())
    }
}

/// The name under which proxies and the API server reach us.
fn own_name() -> String {
    format!("heddle-injector.{SYSTEM_NAMESPACE}.svc")
}

fn config(flags: &Flags) -> Config {
    Config {
        proxy_image: flags.proxy_image.clone(),
        init_image: flags.init_image.clone(),
        trust_domain: flags.trust_domain.to_string(),
        mtls_mode: flags.mtls_mode.into(),
        cluster_cidrs: Vec::new(), // the index knows them
        otlp_endpoint: flags.otlp_endpoint.clone(),
        trace_ratio: flags.trace_ratio,
    }
}

/// The ports with TLS (control, webhook) and without (metrics, health).
async fn listeners(flags: &Flags) -> Result<([TcpListener; 2], [TcpListener; 2])> {
    let listen = |port| async move {
        let listener = serve::listen(flags.listen, port).await;
        listener.with_context(|| format!("cannot listen on port {port} of {}", flags.listen))
    };
    let Ports { control_port, webhook_port, metrics_port, health_port, ports_out, .. } = &flags.ports;
    let secure = [listen(*control_port).await?, listen(*webhook_port).await?];
    let plain = [listen(*metrics_port).await?, listen(*health_port).await?];
    if let Some(path) = ports_out {
        let all = secure.iter().chain(&plain);
        let ports: Result<Vec<String>> =
            all.map(|listener| Ok(listener.local_addr()?.port().to_string())).collect();
        write_atomically(path, &ports?.join(" "), 0o644)?;
    }
    Ok((secure, plain))
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

/// Takes what the directory holds into the index.
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
