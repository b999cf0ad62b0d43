//! Heddle's annotations, read once for all who obey them.

mod ports;

pub use ports::{PortSet, PortSetError};

use crate::contract::ANNOTATION_PREFIX;
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The most networks in a list: each is a rule of iptables.
const MAX_CIDRS: usize = 64;
/// The longest drain in seconds: a day.
const MAX_DRAIN: u32 = 86_400;
/// The annotation that a Namespace may have and a Pod may not.
const MTLS_MODE: &str = "mtls-mode";
const ON_NAMESPACES: &str = "it belongs on the Namespace: a pod does not decide for its neighbours";
/// The suffixes of a Kubernetes quantity.
const SUFFIXES: [&str; 12] = ["", "m", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi"];
const KNOWN: &str = "skip-inbound-ports, skip-outbound-ports, skip-outbound-cidrs, opaque-ports, \
    plaintext-inbound-ports, proxy-cpu-request, proxy-cpu-limit, proxy-memory-request, proxy-memory-limit, log-level, \
    access-log, drain-seconds and mtls-mode";

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
        let (settings, errors) = Self::read(pod_meta, namespace_meta);
        if errors.is_empty() { Ok(settings) } else { Err(errors) }
    }

    /// The same for a pod that runs already: what cannot be obeyed is left at its default.
    pub(crate) fn lenient(pod_meta: &ObjectMeta, namespace_meta: Option<&ObjectMeta>) -> Self {
        Self::read(pod_meta, namespace_meta).0
    }

    fn read(pod_meta: &ObjectMeta, namespace_meta: Option<&ObjectMeta>) -> (Self, Vec<SettingError>) {
        let (mut settings, mut errors) = (Self::default(), Vec::new());
        let pod = annotations(pod_meta);
        let inherited = namespace_meta.map(annotations).unwrap_or_default();
        for (name, value) in inherited.iter().filter(|(name, _)| !pod.contains_key(*name)) {
            errors.extend(settings.set(name, value).err().map(|allowed| error(name, value, allowed)));
        }
        for (name, value) in &pod {
            let read =
                if *name == MTLS_MODE { Err(ON_NAMESPACES.to_owned()) } else { settings.set(name, value) };
            errors.extend(read.err().map(|allowed| error(name, value, allowed)));
        }
        (settings, errors)
    }

    /// Obeys one annotation, or says what would be allowed.
    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "skip-inbound-ports" => self.skip_inbound_ports = ports(value)?,
            "skip-outbound-ports" => self.skip_outbound_ports = ports(value)?,
            "skip-outbound-cidrs" => self.skip_outbound_cidrs = cidrs(value)?,
            "opaque-ports" => self.opaque_ports = ports(value)?,
            "plaintext-inbound-ports" => self.plaintext_inbound_ports = ports(value)?,
            "proxy-cpu-request" => self.proxy_cpu_request = Some(quantity(value)?),
            "proxy-cpu-limit" => self.proxy_cpu_limit = Some(quantity(value)?),
            "proxy-memory-request" => self.proxy_memory_request = Some(quantity(value)?),
            "proxy-memory-limit" => self.proxy_memory_limit = Some(quantity(value)?),
            "log-level" => self.log_level = Some(log_filter(value)?),
            "access-log" => self.access_log = access_log(value)?,
            "drain-seconds" => self.drain_seconds = Some(seconds(value)?),
            MTLS_MODE => self.mtls_mode = Some(mtls_mode(value)?),
            "inject" => {
                return Err(
                    "injection is asked for by the label heddle.dev/inject, not by an annotation".into()
                );
            }
            _ => return Err(format!("there is no such annotation; known are {KNOWN}")),
        }
        Ok(())
    }
}

/// Heddle's annotations, without their prefix.
fn annotations(meta: &ObjectMeta) -> BTreeMap<&str, &str> {
    let all = meta.annotations.iter().flatten();
    all.filter_map(|(name, value)| Some((name.strip_prefix(ANNOTATION_PREFIX)?, value.trim()))).collect()
}

fn error(name: &str, value: &str, allowed: String) -> SettingError {
    let value = value.chars().take(80).collect();
    SettingError { annotation: format!("{ANNOTATION_PREFIX}{name}"), value, allowed }
}

fn ports(value: &str) -> Result<PortSet, String> {
    PortSet::parse(value).map_err(|error| format!("{error}; write ports and ranges such as 3306,5000-5100"))
}

fn cidrs(value: &str) -> Result<Vec<IpNet>, String> {
    let parts: Vec<_> = value.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    let read = |part: &&str| part.parse().or_else(|_| part.parse::<IpAddr>().map(IpNet::from)).ok();
    let nets: Option<Vec<IpNet>> = parts.iter().map(read).collect();
    let nets = nets.filter(|nets| nets.len() <= MAX_CIDRS);
    nets.ok_or_else(|| format!("write at most {MAX_CIDRS} CIDRs such as 10.0.0.0/8,fd00::/8"))
}

/// A positive Kubernetes quantity: digits, perhaps a fraction, perhaps a suffix.
fn quantity(value: &str) -> Result<String, String> {
    let number = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = value.get(number.len()..).unwrap_or_default();
    let digits =
        |text: &str| (1..=18).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let fits = digits(whole) && digits(fraction) && SUFFIXES.contains(&suffix);
    fits.then(|| value.to_owned())
        .ok_or_else(|| "write a Kubernetes quantity such as 100m or 64Mi".to_owned())
}

fn log_filter(value: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-:=,.[]{}\"".contains(c);
    let fits = (1..=256).contains(&value.len()) && value.chars().all(plain);
    fits.then(|| value.to_owned())
        .ok_or_else(|| "write a level such as info, or a filter such as warn,heddle_proxy=debug".to_owned())
}

fn access_log(value: &str) -> Result<AccessLog, String> {
    match value {
        "off" => Ok(AccessLog::Off),
        "errors" => Ok(AccessLog::Errors),
        "all" => Ok(AccessLog::All),
        _ => Err("write off, errors or all".to_owned()),
    }
}

fn mtls_mode(value: &str) -> Result<MtlsMode, String> {
    match value {
        "strict" => Ok(MtlsMode::Strict),
        "permissive" => Ok(MtlsMode::Permissive),
        _ => Err("write strict or permissive".to_owned()),
    }
}

fn seconds(value: &str) -> Result<u32, String> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = value.parse().ok().filter(|seconds| digits && *seconds <= MAX_DRAIN);
    seconds.ok_or_else(|| format!("write whole seconds from 0 to {MAX_DRAIN}"))
}

#[cfg(test)]
mod tests;
