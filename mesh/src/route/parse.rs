//! From an object to a [`Route`]. What the mesh cannot do is refused here, by name and place; no field
//! is ever ignored.

mod filters;
mod matches;

use super::raw::{RawBackendRef, RawRule, RawSpec};
use super::{
    BackendRef, HttpMatch, Parent, ParentRef, PathMatch, PathModifier, Refusal, Route, RouteKind, Rule,
};
use crate::names::ObjectName;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;

/// The largest weight (BackendRef, `weight`).
const MAX_WEIGHT: i64 = 1_000_000;
/// The most regular expressions in a route: at 256 KiB each they could otherwise fill the memory. The custom resource
/// allows for as many matches.
const MAX_EXPRESSIONS: usize = 128;

/// Reads a route of any kind.
pub(super) fn route(kind: RouteKind, meta: &ObjectMeta, spec: &Value) -> Route {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let name = ObjectName::new(&text(&meta.namespace), &text(&meta.name));
    let mut reader = Reader { kind, name, refusals: Vec::new(), expressions: 0 };
    let spec = reader.spec(spec);
    let rules = spec.rules.iter().enumerate().map(|(ix, rule)| reader.rule(ix, rule)).collect();
    reader.check_kind(spec.rules.len());
    let parents = spec.parent_refs.into_iter();
    let parents = parents.filter_map(|parent| Parent::new(parent, &reader.name.namespace)).collect();
    Route {
        kind,
        name: reader.name,
        generation: meta.generation.unwrap_or(0),
        created: meta.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        parents,
        rules,
        expressions: reader.expressions,
        refusals: reader.refusals,
    }
}

/// Reads one route and gathers what it refuses.
struct Reader {
    kind: RouteKind,
    name: ObjectName,
    refusals: Vec<Refusal>,
    expressions: usize,
}

impl Reader {
    fn refuse(&mut self, reason: &'static str, message: String) {
        self.refusals.push(Refusal { reason, message });
    }

    fn unsupported(&mut self, at: &str, what: impl std::fmt::Display) {
        self.refuse("UnsupportedValue", format!("{at}: {what}"));
    }

    /// Takes the value, or refuses the route for its error.
    fn accept<T>(&mut self, at: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|what| self.unsupported(at, what)).ok()
    }

    /// Of what cannot be read the parents are kept: a refused route claims its ports.
    fn spec(&mut self, spec: &Value) -> RawSpec {
        let read = RawSpec::deserialize(spec).map_err(|error| error.to_string());
        self.accept("spec", read)
            .unwrap_or_else(|| RawSpec { parent_refs: readable(&spec["parentRefs"]), ..RawSpec::default() })
    }

    fn check_kind(&mut self, rules: usize) {
        match self.kind {
            RouteKind::Tcp if rules > 1 => {
                self.unsupported("rules", "a TCPRoute has one rule; put all backendRefs into it");
            }
            RouteKind::Tls | RouteKind::Udp => {
                let kind = self.kind.as_str();
                self.unsupported("kind", format!("the mesh does not route by {kind} yet"));
            }
            RouteKind::Tcp | RouteKind::Http | RouteKind::Grpc => {}
        }
    }

    fn rule(&mut self, ix: usize, raw: &RawRule) -> Rule {
        let at = format!("rules[{ix}]");
        self.refuse_policies(&at, raw);
        let matches = self.matches(&at, &raw.matches);
        let (filters, redirect) = self.filters(&at, &raw.filters);
        if redirect.is_some() && !raw.backend_refs.is_empty() {
            self.unsupported(&at, "RequestRedirect cannot be used with backendRefs; remove one of them");
        }
        let backends: Vec<_> =
            raw.backend_refs.iter().enumerate().map(|(ix, raw)| self.backend(&at, ix, raw)).collect();
        let rule = Rule { name: raw.name.clone(), matches, filters, redirect, backends };
        self.check_prefix_replacement(&at, &rule);
        rule
    }

    fn refuse_policies(&mut self, at: &str, raw: &RawRule) {
        let policies = [
            ("timeouts", &raw.timeouts),
            ("retry", &raw.retry),
            ("sessionPersistence", &raw.session_persistence),
        ];
        let says_something = |policy: &Value| policy.as_object().is_none_or(|fields| !fields.is_empty());
        for (name, _) in policies.iter().filter(|(_, policy)| policy.as_ref().is_some_and(says_something)) {
            self.unsupported(&format!("{at}.{name}"), "not supported yet; remove it");
        }
    }

    /// "ReplacePrefixMatch is only compatible with a PathPrefix HTTPRouteMatch" (HTTPPathModifier).
    fn check_prefix_replacement(&mut self, at: &str, rule: &Rule) {
        let of_redirect = rule.redirect.iter().filter_map(|redirect| redirect.path.as_ref());
        let filters = std::iter::once(&rule.filters).chain(rule.backends.iter().map(|b| &b.filters));
        let of_rewrite = filters.filter_map(|filters| filters.rewrite.as_ref()?.path.as_ref());
        let replaces = of_redirect.chain(of_rewrite).any(|path| matches!(path, PathModifier::Prefix(_)));
        let prefixed = |matched: &Arc<HttpMatch>| matches!(matched.path, PathMatch::Prefix(_));
        if replaces && !rule.matches.iter().all(prefixed) {
            self.unsupported(at, "ReplacePrefixMatch needs a PathPrefix in every match of its rule");
        }
    }

    fn backend(&mut self, at: &str, ix: usize, raw: &RawBackendRef) -> BackendRef {
        let at = format!("{at}.backendRefs[{ix}]");
        let (filters, redirect) = self.filters(&at, &raw.filters);
        if redirect.is_some() {
            self.unsupported(&at, "RequestRedirect is not supported on a backendRef; move it to the rule");
        }
        let weight = self.accept(&at, weight(raw.weight)).unwrap_or(0);
        let port = raw.port.and_then(|port| self.accept(&at, port_number(port)));
        let namespace = raw.namespace.as_deref().unwrap_or(&self.name.namespace);
        BackendRef {
            group: raw.group.clone().unwrap_or_default(),
            kind: raw.kind.clone().unwrap_or_else(|| "Service".to_owned()),
            service: ObjectName::new(namespace, &raw.name),
            port,
            weight,
            filters,
        }
    }
}

/// The parents that can be read; one that cannot does not cost the others.
fn readable(parents: &Value) -> Vec<ParentRef> {
    let parents = parents.as_array().into_iter().flatten();
    parents.filter_map(|parent| ParentRef::deserialize(parent).ok()).collect()
}

fn weight(weight: Option<i64>) -> Result<u32, String> {
    let weight = weight.unwrap_or(1);
    let fits = u32::try_from(weight).ok().filter(|_| weight <= MAX_WEIGHT);
    fits.ok_or_else(|| format!("weight {weight} is not between 0 and {MAX_WEIGHT}"))
}

fn port_number(port: i64) -> Result<u16, String> {
    let fits = u16::try_from(port).ok().filter(|port| *port > 0);
    fits.ok_or_else(|| format!("port {port} is not between 1 and 65535"))
}

#[cfg(test)]
mod tests;
