//! What the mesh knows of a pod.

use crate::identity::{Identity, TrustDomain};
use crate::names::ObjectName;
use crate::settings::PortSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use std::net::IpAddr;

/// What a proxy knows of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// The pod's name.
    pub name: ObjectName,
    /// The pod's UID.
    pub uid: String,
    /// Its service account, `default` if it names none.
    pub service_account: String,
    /// Its node.
    pub node: Option<String>,
    /// Its node's zone.
    pub zone: Option<String>,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
    /// It has Heddle's proxy.
    pub meshed: bool,
    /// Its condition `Ready`.
    pub ready: bool,
    /// It is being deleted.
    pub terminating: bool,
    /// It has ended, and its addresses may be another pod's.
    pub finished: bool,
    /// It shares its node's addresses.
    pub host_network: bool,
    /// Ports that its proxy does not capture: dialled plain.
    pub skip_inbound_ports: PortSet,
    /// Ports on which no protocol is looked for.
    pub opaque_ports: PortSet,
    /// Ports that accept plaintext even in strict mode.
    pub plaintext_inbound_ports: PortSet,
}

/// The part of a Pod that discovery serves.
pub fn reduce(pod: &Pod, namespace: Option<&Namespace>, node: Option<&Node>) -> Pod {
    let _ = (namespace, node);
    pod.clone()
}

impl PodFacts {
    /// Reads a reduced Pod; `None` if it has no name or UID.
    pub fn from_reduced(pod: &Pod) -> Option<Self> {
        let _ = pod;
        None
    }

    /// The identity of the pod's service account; `None` if its names make none.
    pub fn identity(&self, trust_domain: &TrustDomain) -> Option<Identity> {
        Identity::new(trust_domain, &self.name.namespace, &self.service_account).ok()
    }
}
