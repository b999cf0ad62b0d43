//! One object as it is served, with what is looked at often.
//!
//! There are tens of thousands, so nothing is kept twice: what an object says is in its text, and what is asked of it in its
//! typed form.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use mesh::names::ServiceName;
use mesh::pod::{PodFacts, ZONE};
use serde_json::Value;

use super::links::{Link, SERVICE_NAME_LABEL, links};
use crate::object::{Key, Object, Text, Typed};

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
    /// What is served, ready to send but for the version.
    pub text: Text,
    /// What is asked of it all the time, if it is a Pod.
    pub pod: Option<PodEntry>,
    /// The object as its source gave it.
    pub object: Arc<Object>,
    uid: Option<Box<str>>,
    links: Box<[Link]>,
}

/// What is asked of a Pod all the time. Where it is, is in its links; the rest is in its text alone, since of these there
/// are most.
#[derive(Debug, Clone)]
pub struct PodEntry {
    /// Its service account.
    pub account: Box<str>,
    /// It has Heddle's proxy.
    pub meshed: bool,
    /// It has ended.
    pub finished: bool,
}

impl Entry {
    /// The entry of `object`, to be served as `text` once it is published.
    pub fn draft(object: Arc<Object>, text: Text, facts: Option<PodFacts>) -> Self {
        let links = links(&object, facts.as_ref()).into_boxed_slice();
        let (uid, pod) = match facts {
            Some(PodFacts { uid, service_account, meshed, finished, .. }) => {
                let account = service_account.into_boxed_str();
                (Some(uid.into_boxed_str()), Some(PodEntry { account, meshed, finished }))
            }
            None => (uid(&object), None),
        };
        Self { key: object.key.clone(), version: 0, value: Value::Null, text, pod, object, uid, links }
    }

    /// The same, of an object of which more is asked than is typed.
    pub fn of_json(object: Arc<Object>, value: Value) -> Self {
        let draft = Self::draft(object, Text::of(&value), None);
        Self { value, ..draft }
    }

    /// The same, served as of `version`.
    pub fn published(&self, version: u64) -> Self {
        Self { version, ..self.clone() }
    }

    /// What is served.
    pub fn body(&self) -> Bytes {
        self.text.whole(self.version)
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
        self.text == other.text
    }

    /// Whether it is served with that value of a label.
    pub fn has_label(&self, name: &str, value: &str) -> bool {
        match &self.object.typed {
            Typed::EndpointSlice if name == SERVICE_NAME_LABEL => {
                self.service().is_some_and(|service| *service.name == *value)
            }
            // The only one that is served of a Pod.
            Typed::Pod if name != ZONE => false,
            Typed::Pod | Typed::EndpointSlice | Typed::Service(_) | Typed::Node(_) => {
                self.text.read::<Value>()["metadata"]["labels"][name] == value
            }
            Typed::Namespace(_) | Typed::ServiceCidr(_) | Typed::Route(_) | Typed::Plain => {
                self.value["metadata"]["labels"][name] == value
            }
        }
    }

    /// Its uid, which tells a replaced object from a changed one.
    pub fn uid(&self) -> Option<&str> {
        self.uid.as_deref()
    }

    /// When it was made, if it is a Service: of several at an address the oldest has it. One without a time is the youngest.
    pub fn created(&self) -> Timestamp {
        let Typed::Service(service) = &self.object.typed else { return Timestamp::MAX };
        service.metadata.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0)
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

fn uid(object: &Object) -> Option<Box<str>> {
    let metadata = match &object.typed {
        Typed::Namespace(namespace) => &namespace.metadata,
        Typed::Node(node) => &node.metadata,
        Typed::Service(service) => &service.metadata,
        Typed::ServiceCidr(range) => &range.metadata,
        Typed::Pod | Typed::EndpointSlice => {
            return object.text.read::<Value>()["metadata"]["uid"].as_str().map(Box::from);
        }
        Typed::Route(_) | Typed::Plain => return object.value["metadata"]["uid"].as_str().map(Box::from),
    };
    metadata.uid.as_deref().map(Box::from)
}
