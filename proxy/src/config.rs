//! What the injector tells a sidecar, read once from its environment.
//!
//! The names are a contract with the injection patch; an invalid value stops the start with one sentence.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use hyper::Uri;
use ipnet::IpNet;
use mesh::{
    identity::{Identity, IdentityError, TrustDomain},
    settings::PortSet,
};

/// The sidecar of a Heddle pod: captures its traffic, routes it by the Gateway API, wraps it in mTLS.
#[derive(Debug, clap::Parser)]
#[command(name = "heddle-proxy", version, about)]
pub struct Config {
    /// Name of this pod.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,
    /// Namespace of this pod.
    #[arg(long, env = "POD_NAMESPACE")]
    pub pod_namespace: String,
    /// UID of this pod.
    #[arg(long, env = "POD_UID", default_value = "")]
    pub pod_uid: String,
    /// Every address of this pod.
    #[arg(long, env = "POD_IPS", value_delimiter = ',')]
    pub pod_ips: Vec<IpAddr>,
    /// Every address of this pod's node, which the kubelet calls from; none where nobody tells.
    #[arg(long, env = "HOST_IPS", default_value = "", value_parser = addresses)]
    pub host_ips: Arc<[IpAddr]>,
    /// Service account of this pod.
    #[arg(long, env = "SERVICE_ACCOUNT", default_value = "default")]
    pub service_account: String,
    /// Where the control plane signs certificates and serves objects.
    #[arg(long, env = "HEDDLE_CONTROL", default_value = "https://heddle-injector.heddle-system.svc:15012")]
    pub control: Uri,
    /// Trust domain of every identity in this mesh.
    #[arg(long, env = "HEDDLE_TRUST_DOMAIN", default_value = mesh::contract::DEFAULT_TRUST_DOMAIN, value_parser = trust_domain)]
    pub trust_domain: TrustDomain,
    /// What to do with plaintext from outside the mesh.
    #[arg(long, env = "HEDDLE_MTLS_MODE", value_enum, default_value_t = MtlsMode::Permissive)]
    pub mtls_mode: MtlsMode,
    /// The cluster's Service and pod ranges: an unknown address in them is held while the control plane is away.
    #[arg(long, env = "HEDDLE_CLUSTER_CIDRS", value_delimiter = ',')]
    pub cluster_cidrs: Vec<IpNet>,
    /// Ports of this pod whose bytes are never looked into.
    #[arg(long, env = "HEDDLE_OPAQUE_PORTS", default_value = "", value_parser = port_set)]
    pub opaque_ports: PortSet,
    /// Ports of this pod that accept plaintext even in strict mode.
    #[arg(long, env = "HEDDLE_PLAINTEXT_INBOUND_PORTS", default_value = "", value_parser = port_set)]
    pub plaintext_inbound_ports: PortSet,
    /// The application's probes, replayed on the health port (JSON).
    #[arg(long, env = "HEDDLE_APP_PROBES", default_value = "{}")]
    pub app_probes: String,
    /// What is logged: a level, and levels of parts of it (`info,heddle_proxy=debug`).
    #[arg(long, env = "HEDDLE_LOG", default_value = "info")]
    pub log: String,
    /// Which requests and connections are written to the access log.
    #[arg(long, env = "HEDDLE_ACCESS_LOG", value_enum, default_value_t = AccessLog::Errors)]
    pub access_log: AccessLog,
    /// Where spans are sent, by OTLP over HTTP; none are made without it. Plain HTTP: http://HOST:4318.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_parser = collector)]
    pub otlp_endpoint: Option<Uri>,
    /// The share of the traces that begin here which are recorded, from 0 to 1; others go by their sender's word.
    #[arg(long, env = "OTEL_TRACES_SAMPLER_ARG", default_value_t = 1.0, value_parser = ratio)]
    pub trace_ratio: f64,
    /// How long open connections may go on after SIGTERM, in seconds.
    #[arg(long, env = "HEDDLE_DRAIN_SECONDS", default_value_t = 30)]
    pub drain_seconds: u64,
    /// File of the projected service account token, read anew at each use.
    #[arg(long, env = "HEDDLE_TOKEN_FILE", default_value = "/var/run/secrets/heddle.dev/token/token")]
    pub token_file: PathBuf,
    /// File of the mesh's trust bundle (PEM).
    #[arg(long, env = "HEDDLE_BUNDLE_FILE", default_value = "/var/run/secrets/heddle.dev/bundle/root.pem")]
    pub bundle_file: PathBuf,
}

impl Config {
    /// The identity that this proxy asks the authority for.
    ///
    /// # Errors
    /// When namespace or service account cannot stand in a SPIFFE ID.
    pub fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::new(&self.trust_domain, &self.pod_namespace, &self.service_account)
    }

    /// Whether an address is one of this pod's own.
    pub fn is_own_ip(&self, ip: IpAddr) -> bool {
        self.pod_ips.contains(&ip)
    }

    /// Whether an address lies in the cluster's Service or pod ranges.
    pub fn in_cluster(&self, ip: IpAddr) -> bool {
        self.cluster_cidrs.iter().any(|cidr| cidr.contains(&ip))
    }
}

/// Whether callers from outside the mesh are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum MtlsMode {
    /// Plaintext is reset before a byte reaches the application.
    Strict,
    /// Plaintext is accepted, without an identity.
    Permissive,
}

/// What the access log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum AccessLog {
    /// Nothing.
    Off,
    /// What failed in the mesh.
    Errors,
    /// Everything.
    All,
}

/// Addresses with commas between them, or none: a variable that is there and empty must not stop the start.
fn addresses(text: &str) -> Result<Arc<[IpAddr]>, String> {
    let written = text.split(',').filter(|address| !address.is_empty());
    written
        .map(|address| address.parse::<IpAddr>().map_err(|_| format!("{address:?} is no IP address")))
        .collect()
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|e| e.to_string())
}

fn collector(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    let plain = uri.scheme_str() == Some("http") && uri.host().is_some() && uri.query().is_none();
    if plain {
        Ok(uri)
    } else {
        Err("must be http://HOST:PORT; https is not spoken to collectors".to_owned())
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "must be a number from 0 to 1".to_owned())
}

fn port_set(text: &str) -> Result<PortSet, String> {
    PortSet::parse(text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn config(args: &[&str]) -> Config {
        let fixed = ["heddle-proxy", "--pod-name", "web-0", "--pod-namespace", "shop"];
        Config::try_parse_from(fixed.iter().chain(args)).expect("valid arguments")
    }

    #[test]
    fn identity_is_made_of_namespace_and_service_account() {
        let identity = config(&["--service-account", "web"]).identity().expect("identity");
        assert_eq!(identity.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
    }

    #[test]
    fn several_addresses_and_ranges_are_read() {
        let config = config(&["--pod-ips", "10.1.0.2,fd00::2", "--cluster-cidrs", "10.0.0.0/8,fd00::/16"]);
        assert!(config.is_own_ip("fd00::2".parse().expect("address")));
        assert!(config.in_cluster("10.96.0.1".parse().expect("address")));
        assert!(!config.in_cluster("192.0.2.1".parse().expect("address")));
    }

    #[test]
    fn a_node_may_have_two_addresses_or_none_that_are_known() {
        let two: [IpAddr; 2] = ["10.0.0.1".parse().expect("address"), "fd00::1".parse().expect("address")];
        assert_eq!(config(&["--host-ips", "10.0.0.1,fd00::1"]).host_ips[..], two);
        assert!(config(&["--host-ips="]).host_ips.is_empty());
        assert!(config(&[]).host_ips.is_empty());
    }
}
