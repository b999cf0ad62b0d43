//! The objects that the control plane knows: what it reads, what it serves of them, and how it names them.
//!
//! A kind is decoded once, when it comes in; from then on everything works on typed values.

mod text;

use std::fmt;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use mesh::names::ObjectName;
use mesh::route::{Route, RouteKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use text::Text;

/// A kind of object that the mesh has a use for. All others are none of its business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the Kubernetes kind of that name")]
pub enum Kind {
    Namespace,
    Node,
    Service,
    Pod,
    EndpointSlice,
    ServiceAccount,
    ConfigMap,
    ServiceCidr,
    Route(RouteKind),
}

/// Which requests a kind is served to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// Single objects, lists and watches.
    Watched,
    /// One object at a time, by name, to pods of its namespace.
    ByName,
    /// Not at all: the control plane alone reads it.
    Never,
}

const CORE: [Kind; 8] = [
    Kind::Namespace,
    Kind::Node,
    Kind::Service,
    Kind::Pod,
    Kind::EndpointSlice,
    Kind::ServiceAccount,
    Kind::ConfigMap,
    Kind::ServiceCidr,
];
const ROUTES: [RouteKind; 5] =
    [RouteKind::Grpc, RouteKind::Http, RouteKind::Tls, RouteKind::Tcp, RouteKind::Udp];

/// The API group of the routes.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

impl Kind {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = Self> {
        CORE.into_iter().chain(ROUTES.map(Self::Route))
    }

    /// The kind of that API group and name, if the mesh has a use for it.
    pub fn of(group: &str, kind: &str) -> Option<Self> {
        Self::all().find(|known| known.group() == group && known.as_str() == kind)
    }

    /// The kind that the API serves under that path segment.
    pub fn of_plural(group: &str, plural: &str) -> Option<Self> {
        Self::all().find(|known| known.group() == group && known.plural() == plural)
    }

    /// The name in a manifest's `kind`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Service => "Service",
            Self::Pod => "Pod",
            Self::EndpointSlice => "EndpointSlice",
            Self::ServiceAccount => "ServiceAccount",
            Self::ConfigMap => "ConfigMap",
            Self::ServiceCidr => "ServiceCIDR",
            Self::Route(kind) => kind.as_str(),
        }
    }

    /// The name in the API's paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Service => "services",
            Self::Pod => "pods",
            Self::EndpointSlice => "endpointslices",
            Self::ServiceAccount => "serviceaccounts",
            Self::ConfigMap => "configmaps",
            Self::ServiceCidr => "servicecidrs",
            Self::Route(kind) => kind.plural(),
        }
    }

    /// The API group; empty for the core.
    pub const fn group(self) -> &'static str {
        match self {
            Self::EndpointSlice => "discovery.k8s.io",
            Self::ServiceCidr => "networking.k8s.io",
            Self::Route(_) => GATEWAY_GROUP,
            Self::Namespace
            | Self::Node
            | Self::Service
            | Self::Pod
            | Self::ServiceAccount
            | Self::ConfigMap => "",
        }
    }

    /// Whether its objects live in a namespace.
    pub const fn namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node | Self::ServiceCidr)
    }

    /// Which requests it is served to. Secrets are no kind at all here, so nothing can serve them.
    pub const fn serving(self) -> Serving {
        match self {
            Self::Service | Self::Pod | Self::EndpointSlice | Self::Route(_) | Self::Namespace => {
                Serving::Watched
            }
            Self::ServiceAccount | Self::ConfigMap => Serving::ByName,
            Self::Node | Self::ServiceCidr => Serving::Never,
        }
    }
}

/// What names one object. Of an object without a namespace, the namespace is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub name: ObjectName,
}

impl Key {
    /// A key from its parts.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, name: ObjectName::new(namespace, name) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind.namespaced() {
            true => write!(out, "{} {}", self.kind.as_str(), self.name),
            false => write!(out, "{} {}", self.kind.as_str(), self.name.name),
        }
    }
}

/// An object, decoded: what the decisions are made on.
#[derive(Debug)]
#[allow(missing_docs, reason = "each is the Kubernetes kind of that name")]
pub enum Typed {
    Namespace(Box<Namespace>),
    Node(Box<Node>),
    Service(Box<Service>),
    /// Read from its text when it is needed: of these there are most.
    Pod,
    /// As a Pod.
    EndpointSlice,
    ServiceCidr(Box<ServiceCIDR>),
    Route(Box<Route>),
    /// Served as it is; nothing is decided by it.
    Plain,
}

/// An object as its source gave it.
#[derive(Debug)]
pub struct Object {
    /// Its name.
    pub key: Key,
    /// As JSON, with `metadata.uid`, `generation` and `creationTimestamp`, without `resourceVersion`; null where the text is
    /// kept instead.
    pub value: Value,
    /// The same as text, of the kinds of which there are many: a tenth of what JSON or a type takes that has room for all that
    /// an object could say. Empty of all others.
    pub text: Text,
    /// The same, decoded, as far as it is looked at all the time.
    pub typed: Typed,
    /// Its resourceVersion at the API server; empty for an object from a file.
    pub version: String,
}

impl Object {
    /// Decodes `value`, whose name is `key`.
    pub fn decode(key: Key, value: Value) -> Result<Self, serde_json::Error> {
        let typed = match key.kind {
            Kind::Namespace => Typed::Namespace(typed(&value)?),
            Kind::Node => Typed::Node(typed(&value)?),
            Kind::Service => Typed::Service(service(&value)?),
            Kind::Pod => Pod::deserialize(&value).map(|_| Typed::Pod)?,
            Kind::EndpointSlice => EndpointSlice::deserialize(&value).map(|_| Typed::EndpointSlice)?,
            Kind::ServiceCidr => Typed::ServiceCidr(typed(&value)?),
            Kind::ServiceAccount | Kind::ConfigMap => Typed::Plain,
            // As written, just as the proxies read it: what closed types cannot hold is refused in status, not lost.
            Kind::Route(kind) => Typed::Route(Box::new(Route::from_json(kind, &value)?)),
        };
        let (value, text) = match key.kind {
            Kind::Node | Kind::Service | Kind::Pod | Kind::EndpointSlice => (Value::Null, Text::of(&value)),
            Kind::Namespace | Kind::ServiceCidr | Kind::ServiceAccount | Kind::ConfigMap | Kind::Route(_) => {
                (value, Text::default())
            }
        };
        Ok(Self { key, value, text, typed, version: String::new() })
    }

    /// Whether both say the same, whatever their source counts them as.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.value == other.value && self.text == other.text
    }
}

fn typed<T: DeserializeOwned>(value: &Value) -> Result<Box<T>, serde_json::Error> {
    T::deserialize(value).map(Box::new)
}

/// A Service without what nobody decides by.
fn service(value: &Value) -> Result<Box<Service>, serde_json::Error> {
    let mut service: Box<Service> = typed(value)?;
    service.metadata.labels = None;
    if let Some(spec) = &mut service.spec {
        spec.selector = None;
    }
    Ok(service)
}
