//! The command line.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use ipnet::IpNet;
use mesh::contract::{
    CONTROL_HEALTH_PORT, CONTROL_METRICS_PORT, CONTROL_PORT, DEFAULT_TRUST_DOMAIN, SYSTEM_NAMESPACE,
    WEBHOOK_PORT,
};
use mesh::identity::TrustDomain;
use mesh::settings;

use crate::index::LOG_CAPACITY;

/// Heddle's control plane: signs certificates, serves discovery, injects pods and judges routes.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Flags {
    #[command(flatten)]
    pub source: Source,

    #[command(flatten)]
    pub cluster: Cluster,

    #[command(flatten)]
    pub directory: Directory,

    /// Address to listen on; :: is all of IPv6 and IPv4
    #[arg(long, value_name = "ADDR", default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    pub listen: IpAddr,

    /// Trust domain of all identities
    #[arg(long, value_name = "NAME", default_value = DEFAULT_TRUST_DOMAIN, value_parser = trust_domain)]
    pub trust_domain: TrustDomain,

    /// What plaintext meshed pods accept; a Namespace's annotation heddle.dev/mtls-mode wins
    #[arg(long, value_enum, default_value_t = MtlsMode::Permissive)]
    pub mtls_mode: MtlsMode,

    /// Life of a proxy's certificate
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(10..=30 * 86_400))]
    pub leaf_ttl: u64,

    /// A range of Service or pod addresses, such as 10.96.0.0/12; repeat it for each range. Required without a cluster;
    /// in one, ServiceCIDRs and Nodes tell the ranges
    #[arg(long, value_name = "CIDR")]
    pub cluster_cidr: Vec<IpNet>,

    /// A further DNS name or IP address under which this program is reached; may be repeated
    #[arg(long, value_name = "NAME_OR_IP")]
    pub advertise: Vec<String>,

    /// Where proxies send spans, by OTLP over plain HTTP, such as http://collector.observability.svc:4318; without it
    /// they make none
    #[arg(long, value_name = "URL", value_parser = plain_http)]
    pub otlp_endpoint: Option<String>,

    /// The share of the traces that begin at a proxy which are recorded, from 0 to 1 [default: 1]
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    pub trace_ratio: Option<f64>,

    /// Image of heddle-proxy in injected pods
    #[arg(long, value_name = "IMAGE", default_value = concat!("heddle-proxy:", env!("CARGO_PKG_VERSION")))]
    pub proxy_image: String,

    /// Image of heddle-init in injected pods
    #[arg(long, value_name = "IMAGE", default_value = concat!("heddle-init:", env!("CARGO_PKG_VERSION")))]
    pub init_image: String,

    /// What to log: a level, and levels of parts of it (info,heddle_injector=debug)
    #[arg(long, value_name = "FILTER", default_value = "info", env = "HEDDLE_LOG")]
    pub log: String,

    #[command(flatten)]
    pub ports: Ports,
}

/// Where objects come from.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct Source {
    /// Follow a Kubernetes cluster: the one that this runs in, or that of KUBECONFIG
    #[arg(long)]
    pub kubernetes: bool,

    /// Follow a directory of Kubernetes manifests (.yaml, .yml, .json)
    #[arg(long, value_name = "DIR", requires_all = ["token_key", "state"])]
    pub manifests: Option<PathBuf>,
}

/// With --kubernetes.
#[derive(Debug, clap::Args)]
pub struct Cluster {
    /// Secret that holds the authority: tls.crt, tls.key and, if the root is another's, ca.crt
    #[arg(long, value_name = "NAME", default_value = "heddle-ca")]
    pub issuer_secret: String,

    /// Make that Secret, with a new root, if there never was one
    #[arg(long)]
    pub create_ca: bool,

    /// The namespace that this runs in
    #[arg(long, value_name = "NAME", default_value = SYSTEM_NAMESPACE, env = "POD_NAMESPACE", hide = true)]
    pub namespace: String,

    /// The pod that this is
    #[arg(long, value_name = "NAME", default_value = "heddle-injector", env = "POD_NAME", hide = true)]
    pub pod: String,
}

/// With --manifests.
#[derive(Debug, clap::Args)]
pub struct Directory {
    /// Public key (PEM, P-256) that service account tokens are signed with
    #[arg(long, value_name = "FILE", requires = "manifests")]
    pub token_key: Option<PathBuf>,

    /// Directory that keeps the mesh's root; the first start makes it
    #[arg(long, value_name = "DIR", requires = "manifests")]
    pub state: Option<PathBuf>,

    /// Write the roots to trust here (PEM)
    #[arg(long, value_name = "FILE", requires = "manifests")]
    pub bundle_out: Option<PathBuf>,
}

/// Fixed by the contract; only tests take other ports (0 is any) or a shorter memory.
#[derive(Debug, clap::Args)]
pub struct Ports {
    #[arg(long, hide = true, default_value_t = CONTROL_PORT)]
    pub control_port: u16,
    #[arg(long, hide = true, default_value_t = WEBHOOK_PORT)]
    pub webhook_port: u16,
    #[arg(long, hide = true, default_value_t = CONTROL_METRICS_PORT)]
    pub metrics_port: u16,
    #[arg(long, hide = true, default_value_t = CONTROL_HEALTH_PORT)]
    pub health_port: u16,
    /// How many changes a watcher may fall behind
    #[arg(long, hide = true, default_value_t = LOG_CAPACITY)]
    pub watch_log: usize,
    /// Where to write the ports that were taken: "control webhook metrics health"
    #[arg(long, hide = true)]
    pub ports_out: Option<PathBuf>,
}

/// `--mtls-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MtlsMode {
    /// Nothing in plaintext
    Strict,
    /// Plaintext of callers outside of the mesh
    Permissive,
}

impl From<MtlsMode> for settings::MtlsMode {
    fn from(mode: MtlsMode) -> Self {
        match mode {
            MtlsMode::Strict => Self::Strict,
            MtlsMode::Permissive => Self::Permissive,
        }
    }
}

fn plain_http(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("http://").filter(|rest| !rest.is_empty());
    rest.map(|_| text.to_owned())
        .ok_or_else(|| "must be http://HOST:PORT; https is not spoken to collectors".to_owned())
}

fn ratio(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|error| error.to_string())
}
