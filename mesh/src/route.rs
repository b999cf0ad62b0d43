//! The routing model. [`Route`] is what a route object says, whatever its kind, parsed and judged once;
//! [`ServiceTable`] is what a proxy acts on. `resolve` makes the second of the first.

mod expression;
mod failure;
mod filter;
mod http_table;
mod known;
mod matching;
mod parse;
mod raw;
mod split;
mod table;

pub use expression::Expression;
pub use failure::{Failure, GrpcStatus};
pub use filter::{Filters, HeaderModifier, PathModifier, Redirect, Scheme, UrlRewrite};
pub(crate) use http_table::HttpTableBuilder;
pub use http_table::{Action, HttpRule, HttpTable};
pub use matching::{HttpMatch, PathMatch, PathRank, Precedence, RequestHead, ValueMatch};
pub use split::{Split, TcpTable, WeightedBackend};
pub use table::{AppProtocol, BackendIx, BackendKey, Governing, PortTable, ServiceTable};

use crate::names::{ObjectName, ServiceName};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The kinds of routes. The order is the specification's, the first wins: "GRPCRoute, HTTPRoute, TLSRoute,
/// TCPRoute" (GEP-1294, "Route types"); UDPRoute is apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// GRPCRoute.
    Grpc,
    /// HTTPRoute.
    Http,
    /// TLSRoute.
    Tls,
    /// TCPRoute.
    Tcp,
    /// UDPRoute.
    Udp,
}

impl RouteKind {
    /// The Kubernetes kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
            Self::Udp => "UDPRoute",
        }
    }

    /// The resource's name in Kubernetes paths.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Grpc => "grpcroutes",
            Self::Http => "httproutes",
            Self::Tls => "tlsroutes",
            Self::Tcp => "tcproutes",
            Self::Udp => "udproutes",
        }
    }
}

/// Which route something came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteRef {
    /// The route's kind.
    pub kind: RouteKind,
    /// The route's name.
    pub name: ObjectName,
}

/// A `parentRef`, as its author wrote it: status must repeat it so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentRef {
    /// API group; absent means `gateway.networking.k8s.io`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Kind; absent means `Gateway`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Namespace; absent means the route's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The parent's name.
    pub name: String,
    /// For a Service the name of a port (ParentReference, `sectionName`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// For a Service the number of a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<i32>,
}

impl ParentRef {
    /// The reference as JSON, with the fields that were written and no others.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The Service that is meant, if it is one, for a route of `namespace`.
    fn service(&self, namespace: &str) -> Option<ServiceName> {
        let ours = self.group.as_deref() == Some("") && self.kind.as_deref() == Some("Service");
        ours.then(|| ServiceName::new(self.namespace.as_deref().unwrap_or(namespace), &self.name))
    }

    /// Whether the reference names one port, and so declares what is spoken there.
    pub fn names_port(&self) -> bool {
        self.port.is_some() || self.section_name.is_some()
    }
}

/// A parent that is a Service; Gateways are not the mesh's.
#[derive(Clone, Debug)]
pub(crate) struct Parent {
    /// The reference, as written.
    pub(crate) reference: ParentRef,
    /// The Service that is meant: made once, since every table and every verdict asks for it again and again.
    pub(crate) service: ServiceName,
}

impl Parent {
    /// The parent that is meant by a reference of a route of `namespace`, if it is a Service.
    fn new(reference: ParentRef, namespace: &str) -> Option<Self> {
        let service = reference.service(namespace)?;
        Some(Self { reference, service })
    }
}

/// Why a route is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason of the condition `Accepted`.
    pub reason: &'static str,
    /// What is wrong, where, and what to do.
    pub message: String,
}

/// A route of any kind, parsed once. A route with refusals still claims its Services' ports, but its rules
/// match nothing: traffic that its author wanted to be directed never silently takes another way.
#[derive(Clone, Debug)]
pub struct Route {
    kind: RouteKind,
    name: ObjectName,
    generation: i64,
    created: Option<i64>,
    parents: Vec<Parent>,
    rules: Vec<Rule>,
    expressions: usize,
    /// What the mesh cannot do, and so refuses.
    pub refusals: Vec<Refusal>,
}

/// One rule of a route.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) name: Option<String>,
    pub(crate) matches: Vec<Arc<HttpMatch>>,
    pub(crate) filters: Filters,
    pub(crate) redirect: Option<Redirect>,
    pub(crate) backends: Vec<BackendRef>,
}

/// A backend as a rule names it.
#[derive(Clone, Debug)]
pub(crate) struct BackendRef {
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) service: ServiceName,
    pub(crate) port: Option<u16>,
    pub(crate) weight: u32,
    pub(crate) filters: Filters,
}

impl BackendRef {
    pub(crate) fn is_service(&self) -> bool {
        self.group.is_empty() && self.kind == "Service"
    }
}

impl Route {
    /// Reads an object as it is written. One that the closed types of the API cannot hold, or that has a field which the
    /// API does not have, is refused in status, not lost. Fails only for what is no object of Kubernetes at all.
    pub fn from_json(kind: RouteKind, object: &serde_json::Value) -> Result<Self, serde_json::Error> {
        let spec = &object["spec"];
        let mut route = parse::route(kind, &ObjectMeta::deserialize(&object["metadata"])?, spec);
        if let Some(field) = known::unknown_field(kind, spec) {
            let message = format!("{field}: the Gateway API has no such field");
            route.refusals.push(Refusal { reason: "UnsupportedValue", message });
        }
        Ok(route)
    }

    /// The route's kind.
    pub fn kind(&self) -> RouteKind {
        self.kind
    }

    /// The route's name.
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// Kind and name.
    pub fn reference(&self) -> RouteRef {
        RouteRef { kind: self.kind, name: self.name.clone() }
    }

    /// The object's `metadata.generation`.
    pub fn generation(&self) -> i64 {
        self.generation
    }

    /// When the object was created, in seconds since 1970; `None` if it does not say.
    pub fn created(&self) -> Option<i64> {
        self.created
    }

    /// The parents that are Services.
    pub(crate) fn parents(&self) -> &[Parent] {
        &self.parents
    }

    pub(crate) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// How many regular expressions its matches have.
    pub(crate) fn expressions(&self) -> usize {
        self.expressions
    }

    /// Whether a parent of the route is this Service.
    pub fn binds_to(&self, service: &ServiceName) -> bool {
        self.parents_of(service).next().is_some()
    }

    /// The references to this Service.
    pub(crate) fn parents_of(&self, service: &ServiceName) -> impl Iterator<Item = &ParentRef> {
        let parents = self.parents.iter().filter(move |parent| parent.service == *service);
        parents.map(|parent| &parent.reference)
    }

    /// The Services that the route is bound to, as often as it names them.
    pub fn parent_services(&self) -> impl Iterator<Item = ServiceName> + '_ {
        self.parents.iter().map(|parent| parent.service.clone())
    }

    /// The Services that the route's rules name as backends, as often as they name them.
    pub fn backends(&self) -> impl Iterator<Item = ServiceName> + '_ {
        let refs = self.rules.iter().flat_map(|rule| &rule.backends);
        refs.filter(|b| b.is_service()).map(|b| b.service.clone())
    }
}
