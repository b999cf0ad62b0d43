//! One object as it is served, with what is looked at often.
//!
//! There are tens of thousands, so nothing is kept twice: what an object says is in its text, and what is asked of it in its
//! typed form.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use mesh::names::ServiceName;
use mesh::pod::PodFacts;
use serde_json::Value;

use super::links::{Link, links};
use super::text;
use crate::object::{Key, Object, Typed};

/// The one label with which a Pod is served.
const ZONE: &str = "topology.kubernetes.io/zone";

/// An object in the index. Immutable: a change makes a new one.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub key: Key,
    /// Its resourceVersion: that of the index at its last change.
    pub version: u64,
    /// What is served, without the resourceVersion: of Namespaces, routes and what is not typed. Of all other kinds nobody
    /// asks for more than is typed, and it is null.
    pub value: Value,
    /// What is served, ready to send.
    pub body: Bytes,
    /// What the mesh knows of it, if it is a Pod.
    pub pod: Option<PodFacts>,
    /// The object as its source gave it.
    pub object: Arc<Object>,
    links: Box<[Link]>,
}

impl Entry {
    /// The entry of `object`, to be served as `value` once it is published.
    pub fn draft(object: Arc<Object>, value: Value, pod: Option<PodFacts>) -> Self {
        let links = links(&object.typed, pod.as_ref()).into_boxed_slice();
        let body = text::whole(&value, 0);
        let value = if keeps_json(&object.typed) { value } else { Value::Null };
        Self { key: object.key.clone(), version: 0, value, body, pod, object, links }
    }

    /// The same, ready to be served as of `version`.
    pub fn published(&self, version: u64) -> Self {
        Self { version, body: self.at(version), ..self.clone() }
    }

    /// The same, of an `object` that says the same.
    pub fn renewed(self: &Arc<Self>, object: &Arc<Object>) -> Arc<Self> {
        match Arc::ptr_eq(&self.object, object) {
            true => Arc::clone(self),
            false => Arc::new(Self { object: Arc::clone(object), ..Self::clone(self) }),
        }
    }

    /// Whether both are served alike, but for the version.
    pub fn says_the_same(&self, other: &Self) -> bool {
        text::rest(&self.body, self.version) == text::rest(&other.body, other.version)
    }

    /// What is served, under another version: for the event of its end.
    pub fn at(&self, version: u64) -> Bytes {
        text::at(&self.body, self.version, version)
    }

    /// The value of one of the labels with which it is served.
    pub fn label(&self, name: &str) -> Option<&str> {
        if matches!(self.object.typed, Typed::Pod(_)) {
            return self.pod.as_ref()?.zone.as_deref().filter(|_| name == ZONE);
        }
        match metadata(&self.object.typed) {
            Some(metadata) => metadata.labels.as_ref()?.get(name).map(String::as_str),
            None => self.value.get("metadata")?.get("labels")?.get(name)?.as_str(),
        }
    }

    /// Its uid, which tells a replaced object from a changed one.
    pub fn uid(&self) -> Option<&str> {
        match metadata(&self.object.typed) {
            Some(metadata) => metadata.uid.as_deref(),
            None => self.value.get("metadata")?.get("uid")?.as_str(),
        }
    }

    /// When it was made, if it is typed; one without a time is the youngest.
    pub fn created(&self) -> Timestamp {
        let time = metadata(&self.object.typed).and_then(|metadata| metadata.creation_timestamp.as_ref());
        time.map_or(Timestamp::MAX, |time| time.0)
    }

    /// Everything by which it is found, besides its name.
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The addresses at which it is found as a pod.
    pub fn pod_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.links.iter().filter_map(|link| {
            let Link::PodAddress(ip) = link else { return None };
            Some(*ip)
        })
    }

    /// The addresses of its endpoints, if it is a Service's EndpointSlice.
    pub fn endpoints(&self) -> impl Iterator<Item = IpAddr> {
        self.links.iter().filter_map(|link| {
            let Link::Endpoint(ip) = link else { return None };
            Some(*ip)
        })
    }

    /// The Service whose EndpointSlice it is.
    pub fn service(&self) -> Option<&ServiceName> {
        self.links.iter().find_map(|link| {
            let Link::SliceOf(service) = link else { return None };
            Some(service)
        })
    }
}

/// Whether more is asked of such an object than is typed.
fn keeps_json(typed: &Typed) -> bool {
    match typed {
        Typed::Namespace(_) | Typed::Route(_) | Typed::Plain => true,
        Typed::Node(_)
        | Typed::Service(_)
        | Typed::Pod(_)
        | Typed::EndpointSlice(_)
        | Typed::ServiceCidr(_) => false,
    }
}

/// The metadata of an object of which it is typed.
fn metadata(typed: &Typed) -> Option<&ObjectMeta> {
    match typed {
        Typed::Namespace(namespace) => Some(&namespace.metadata),
        Typed::Node(node) => Some(&node.metadata),
        Typed::Service(service) => Some(&service.metadata),
        Typed::Pod(pod) => Some(&pod.metadata),
        Typed::EndpointSlice(slice) => Some(&slice.metadata),
        Typed::ServiceCidr(range) => Some(&range.metadata),
        Typed::Route(_) | Typed::Plain => None,
    }
}
