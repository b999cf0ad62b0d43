//! The rules of all HTTP routes that govern a port, in one order of precedence.

mod group;
mod index;

use super::{
    Failure, Filters, HttpMatch, Precedence, Redirect, RequestHead, Route, RouteKind, RouteRef, Rule, Split,
};
use index::Index;
use std::sync::Arc;

/// What an HTTP rule does.
#[derive(Clone, Debug)]
pub enum Action {
    /// Sends the request on.
    Forward(Split),
    /// Sends the client elsewhere.
    Redirect(Redirect),
    /// Answers.
    Fail(Failure),
}

/// One rule of one route.
#[derive(Clone, Debug)]
pub struct HttpRule {
    /// The route.
    pub route: RouteRef,
    /// The rule's index in the route.
    pub rule: usize,
    /// The rule's name.
    pub rule_name: Option<Arc<str>>,
    /// What happens to requests and responses.
    pub filters: Filters,
    /// What the rule does.
    pub action: Action,
}

/// The rules of all routes that govern a port, in the order of precedence.
#[derive(Clone, Debug)]
pub struct HttpTable {
    kind: RouteKind,
    routes: Vec<RouteRef>,
    rules: Vec<HttpRule>,
    /// In the order of precedence.
    entries: Vec<Entry>,
    /// Finds entries.
    index: Index,
}

#[derive(Clone, Debug)]
struct Entry {
    precedence: Precedence,
    matched: Arc<HttpMatch>,
    rule: usize,
}

/// Collects the rules of a table.
pub(crate) struct HttpTableBuilder {
    kind: RouteKind,
    routes: Vec<RouteRef>,
    rules: Vec<HttpRule>,
    entries: Vec<Entry>,
}

impl HttpTableBuilder {
    /// A table for routes of one kind.
    pub(crate) fn new(kind: RouteKind) -> Self {
        Self { kind, routes: Vec::new(), rules: Vec::new(), entries: Vec::new() }
    }

    /// Takes a route in. A refused one is named in the table, and matches nothing.
    pub(crate) fn route(&mut self, route: &Route, mut action: impl FnMut(&Rule) -> Action) {
        self.without(route);
        if !route.refusals.is_empty() {
            return;
        }
        for (ix, rule) in route.rules().iter().enumerate() {
            let entry = |matched: &Arc<HttpMatch>| Entry {
                precedence: Precedence::of(matched, route.created(), route.name(), ix),
                matched: matched.clone(),
                rule: self.rules.len(),
            };
            self.entries.extend(rule.matches.iter().map(entry));
            self.rules.push(HttpRule {
                route: route.reference(),
                rule: ix,
                rule_name: rule.name.as_deref().map(Arc::from),
                filters: rule.filters.clone(),
                action: action(rule),
            });
        }
    }

    /// Names a route whose rules have no part in the table.
    pub(crate) fn without(&mut self, route: &Route) {
        self.routes.push(route.reference());
    }

    /// The table.
    pub(crate) fn build(mut self) -> HttpTable {
        self.entries.sort_by(|a, b| a.precedence.cmp(&b.precedence));
        let matches: Vec<&HttpMatch> = self.entries.iter().map(|entry| &*entry.matched).collect();
        let index = Index::of(&matches);
        HttpTable { kind: self.kind, routes: self.routes, rules: self.rules, entries: self.entries, index }
    }
}

impl HttpTable {
    /// The kind of its routes.
    pub fn kind(&self) -> RouteKind {
        self.kind
    }

    /// The routes, those without any rule that matches included.
    pub fn routes(&self) -> &[RouteRef] {
        &self.routes
    }

    /// The rules, by route and index.
    pub fn rules(&self) -> &[HttpRule] {
        &self.rules
    }

    /// Every match with its rule, in the order of precedence.
    pub fn matches(&self) -> impl Iterator<Item = (&HttpMatch, &HttpRule)> {
        self.entries.iter().filter_map(|entry| Some((&*entry.matched, self.rules.get(entry.rule)?)))
    }

    /// The rule for a request: of those that match the first in precedence.
    pub fn find(&self, request: &RequestHead<'_>) -> Option<&HttpRule> {
        self.find_match(request).map(|(rule, _)| rule)
    }

    /// The rule, and how many bytes of the path its prefix matched.
    pub(crate) fn find_match(&self, request: &RequestHead<'_>) -> Option<(&HttpRule, usize)> {
        let holds =
            |place: usize| self.entries.get(place).is_some_and(|entry| entry.matched.matches(request));
        let entry = self.entries.get(self.index.first(request, holds)?)?;
        Some((self.rules.get(entry.rule)?, entry.matched.path.prefix_len()))
    }
}

#[cfg(test)]
mod tests;
