//! The rules of all HTTP routes that govern a port, in one order of precedence.
//!
//! A thousand rules must not cost a thousand comparisons, so paths are found by hash: the order puts exact paths
//! first and longer prefixes before shorter ones, which is the order in which the index is asked.
//! Expressions and rules for any path are tried one by one.

use super::matching::ends_element;
use super::{
    Failure, Filters, HttpMatch, PathMatch, Precedence, Redirect, RequestHead, Route, RouteKind, RouteRef,
    Rule, Split,
};
use std::collections::{BTreeSet, HashMap};
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
    /// Entries of an exact path.
    exact: HashMap<Box<str>, Vec<usize>>,
    /// Entries of a prefix other than `/`.
    prefixes: HashMap<Box<str>, Vec<usize>>,
    /// The lengths of these prefixes in bytes, longest first.
    prefix_lengths: Vec<usize>,
    /// Expressions, then rules for any path.
    others: Vec<usize>,
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
        let mut table = HttpTable {
            kind: self.kind,
            routes: self.routes,
            rules: self.rules,
            entries: self.entries,
            exact: HashMap::new(),
            prefixes: HashMap::new(),
            prefix_lengths: Vec::new(),
            others: Vec::new(),
        };
        table.index();
        table
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
        let entry = self
            .first(self.exact.get(request.path), request)
            .or_else(|| self.first_prefix(request))
            .or_else(|| self.first_other(request))?;
        Some((self.rules.get(entry.rule)?, entry.matched.path.prefix_len()))
    }

    fn first_prefix(&self, request: &RequestHead<'_>) -> Option<&Entry> {
        let cut = |len: &usize| request.path.get(..*len).filter(|_| ends_element(request.path, *len));
        let prefixes = self.prefix_lengths.iter().filter_map(cut);
        prefixes.filter_map(|prefix| self.first(self.prefixes.get(prefix), request)).next()
    }

    /// The first of entries whose paths match already.
    fn first(&self, entries: Option<&Vec<usize>>, request: &RequestHead<'_>) -> Option<&Entry> {
        let mut entries = entries?.iter().filter_map(|ix| self.entries.get(*ix));
        entries.find(|entry| entry.matched.conditions_hold(request))
    }

    fn first_other(&self, request: &RequestHead<'_>) -> Option<&Entry> {
        let mut entries = self.others.iter().filter_map(|ix| self.entries.get(*ix));
        entries.find(|entry| entry.matched.matches(request))
    }

    fn index(&mut self) {
        for (ix, entry) in self.entries.iter().enumerate() {
            match &entry.matched.path {
                PathMatch::Exact(path) => self.exact.entry(path.as_str().into()).or_default().push(ix),
                PathMatch::Prefix(prefix) if !prefix.is_empty() => {
                    self.prefixes.entry(prefix.as_str().into()).or_default().push(ix);
                }
                PathMatch::Prefix(_) | PathMatch::Regex(_) => self.others.push(ix),
            }
        }
        let lengths: BTreeSet<usize> = self.prefixes.keys().map(|prefix| prefix.len()).collect();
        self.prefix_lengths = lengths.into_iter().rev().collect();
    }
}

#[cfg(test)]
mod tests;
