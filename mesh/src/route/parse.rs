//! From an object to a [`Route`].

use super::raw::RawSpec;
use super::{Refusal, Route, RouteKind};
use crate::names::ObjectName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;

/// Reads a route of any kind.
pub(super) fn route(kind: RouteKind, meta: &ObjectMeta, spec: &impl Serialize) -> Route {
    let mut refusals = Vec::new();
    let raw = serde_json::to_value(spec).and_then(serde_json::from_value::<RawSpec>).unwrap_or_else(|error| {
        refusals.push(Refusal { reason: "UnsupportedValue", message: error.to_string() });
        RawSpec::default()
    });
    Route {
        kind,
        name: ObjectName::new(meta.namespace.as_deref().unwrap_or("default"), meta.name.as_deref().unwrap_or_default()),
        generation: meta.generation.unwrap_or(0),
        created: meta.creation_timestamp.as_ref().map(|t| t.0.as_second()),
        parents: raw.parent_refs,
        rules: Vec::new(),
        refusals,
    }
}
