//! One object as it is served, and by what else it can be found.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use mesh::names::{ObjectName, ServiceName};
use mesh::pod::PodFacts;
use serde_json::{Value, json};

use crate::object::{Key, Object, Typed};

/// The label by which an EndpointSlice names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// An object in the index. Immutable: a change makes a new one.
#[derive(Debug)]
pub struct Entry {
    /// Its name.
    pub key: Key,
    /// Its resourceVersion: that of the index at its last change.
    pub version: u64,
    /// What is served, without the resourceVersion.
    pub value: Value,
    /// What is served, ready to send.
    pub body: Bytes,
    /// What the mesh knows of it, if it is a Pod.
    pub pod: Option<PodFacts>,
    /// The object as its source gave it.
    pub object: Arc<Object>,
}

/// A property by which objects are found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Link {
    /// A Service by one of its own cluster addresses.
    ClusterAddress(IpAddr),
    /// A Service by one of its external or load-balancer addresses, which anybody may write.
    ExternalAddress(IpAddr),
    /// A pod by any of its addresses; pods that finished or use the node's network are not found.
    PodAddress(IpAddr),
    /// A Node by any of its addresses.
    NodeAddress(IpAddr),
    /// A pod by its node.
    OnNode(String),
    /// An EndpointSlice by its Service.
    SliceOf(ServiceName),
    /// A route by a Service that it is bound to.
    Parent(ServiceName),
    /// A route by a Service that one of its rules names.
    Backend(ServiceName),
}

impl Entry {
    /// The entry of `object`, to be served as `value` once it is published.
    pub fn draft(object: Arc<Object>, value: Value, pod: Option<PodFacts>) -> Self {
        Self { key: object.key.clone(), version: 0, value, body: Bytes::new(), pod, object }
    }

    /// The same, ready to be served as of `version`.
    pub fn published(&self, version: u64) -> Self {
        let body = with_version(&self.value, version);
        let (key, value) = (self.key.clone(), self.value.clone());
        Self { key, version, value, body, pod: self.pod.clone(), object: Arc::clone(&self.object) }
    }

    /// What is served, under another version: for the event of its end.
    pub fn at(&self, version: u64) -> Bytes {
        with_version(&self.value, version)
    }

    /// The value of one of its labels.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.value.get("metadata")?.get("labels")?.get(name)?.as_str()
    }

    /// Its uid, which tells a replaced object from a changed one.
    pub fn uid(&self) -> Option<&str> {
        self.value.get("metadata")?.get("uid")?.as_str()
    }

    /// When it was made (RFC 3339, so that texts sort as times); one without a time is the youngest.
    pub fn created(&self) -> &str {
        let metadata = self.value.get("metadata");
        let created = metadata.and_then(|metadata| metadata.get("creationTimestamp")?.as_str());
        created.unwrap_or("youngest")
    }

    /// Everything by which it is found, besides its name.
    pub fn links(&self) -> Vec<Link> {
        match &self.object.typed {
            Typed::Service(service) => {
                let own = parsed(cluster_addresses(service)).map(Link::ClusterAddress);
                own.chain(parsed(external_addresses(service)).map(Link::ExternalAddress)).collect()
            }
            Typed::Pod(_) => self.pod.as_ref().map(pod_links).unwrap_or_default(),
            Typed::EndpointSlice(slice) => slice_of(slice).map(Link::SliceOf).into_iter().collect(),
            Typed::Route(route) => {
                let parents = route.parent_services().map(Link::Parent);
                parents.chain(route.backends().map(Link::Backend)).collect()
            }
            Typed::Node(node) => parsed(node_addresses(node)).map(Link::NodeAddress).collect(),
            Typed::Namespace(_) | Typed::ServiceCidr(_) | Typed::Plain => Vec::new(),
        }
    }
}

fn with_version(value: &Value, version: u64) -> Bytes {
    let mut value = value.clone();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), json!(version.to_string()));
    }
    Bytes::from(value.to_string())
}

/// The Service that a slice belongs to.
pub fn slice_of(slice: &EndpointSlice) -> Option<ServiceName> {
    let namespace = slice.metadata.namespace.as_deref()?;
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ObjectName::new(namespace, service))
}

fn pod_links(pod: &PodFacts) -> Vec<Link> {
    let node = pod.node.clone().map(Link::OnNode);
    let reachable = !pod.host_network && !pod.finished;
    let addresses = pod.ips.iter().filter(|_| reachable).map(|ip| Link::PodAddress(ip.to_canonical()));
    addresses.chain(node).collect()
}

/// What of a Node's addresses are no names.
fn node_addresses(node: &Node) -> Vec<&String> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.map(|address| &address.address).collect()
}

/// The addresses that the cluster gave to `service`; "None" (headless) is none.
fn cluster_addresses(service: &Service) -> Vec<&String> {
    let spec = service.spec.as_ref();
    let all = spec.map(|spec| spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()));
    all.into_iter().flatten().collect()
}

/// The addresses that its author, or a load balancer's controller, wrote down for it.
fn external_addresses(service: &Service) -> Vec<&String> {
    let written = service.spec.iter().flat_map(|spec| spec.external_ips.iter().flatten());
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    written.chain(ingress.filter_map(|ingress| ingress.ip.as_ref())).collect()
}

/// An IPv4 address in IPv6's clothes (`::ffff:10.1.0.3`) is that IPv4 address.
fn parsed(texts: Vec<&String>) -> impl Iterator<Item = IpAddr> {
    texts.into_iter().filter_map(|text| text.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical())
}
