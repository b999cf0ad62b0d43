//! Whether a request matches, and which of several matches wins.
//!
//! Matching borrows: nothing is decoded, and nothing copied but a repeated header; what is matched is what is forwarded,
//! byte for byte.

use super::Expression;
use crate::names::ObjectName;
use http::Method;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;

/// What a decision is made of: the head of a request, as received.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path as received, without query.
    pub path: &'a str,
    /// The query as received, without `?`.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// Host or authority as received, with its port if it has one.
    pub host: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
}

/// How a path matches. Paths are compared as received: nothing is decoded.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Whole path elements from the beginning; kept without its trailing `/`, so `/` is empty.
    Prefix(String),
    /// The whole path matches the expression.
    Regex(Expression),
}

/// How a header or query parameter matches.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// The whole value, with case.
    Exact(String),
    /// The whole value matches the expression.
    Regex(Expression),
}

/// One `match` of a rule: all of its conditions must hold.
#[derive(Clone, Debug)]
pub struct HttpMatch {
    /// The path.
    pub path: PathMatch,
    /// The method, or any.
    pub method: Option<Method>,
    /// Headers, each name once.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Query parameters, each name once.
    pub query: Vec<(String, ValueMatch)>,
}

/// What a path condition is worth; the lesser wins.
///
/// > * "Exact" path match.
/// > * "Prefix" path match with largest number of characters.
///
/// The specification leaves the place of regular expressions open. Here they come after every prefix that says
/// something, and before the prefix `/`, which is what a rule without a path has: else such a rule would make
/// all expressions dead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathRank {
    /// An exact path.
    Exact,
    /// A prefix of so many characters, without its trailing `/`.
    Prefix(Reverse<usize>),
    /// An expression.
    Regex,
    /// The prefix `/`.
    Any,
}

/// The order in which matches are tried; the lesser wins. The fields are the sentences of HTTPRouteRule:
///
/// > Across all rules specified on applicable Routes, precedence must be given to the match having:
/// > "Exact" path match; "Prefix" path match with largest number of characters; Method match; Largest number of
/// > header matches; Largest number of query param matches. If ties still exist across multiple Routes: the oldest
/// > Route based on creation timestamp; the Route appearing first in alphabetical order by "{namespace}/{name}". If
/// > ties still exist within an HTTPRoute, matching precedence MUST be granted to the FIRST matching rule.
///
/// A route that does not say when it was created counts as the youngest. For GRPCRoutes the path is made of service
/// and method, which gives their own order: both, then the service alone by its length, then headers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Precedence {
    path: PathRank,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    created: i64,
    route: ObjectName,
    rule: usize,
}

impl Precedence {
    /// The precedence of a match in a rule of a route.
    pub fn of(matched: &HttpMatch, created: Option<i64>, route: &ObjectName, rule: usize) -> Self {
        Self {
            path: matched.path.rank(),
            method: Reverse(matched.method.is_some()),
            headers: Reverse(matched.headers.len()),
            query: Reverse(matched.query.len()),
            created: created.unwrap_or(i64::MAX),
            route: route.clone(),
            rule,
        }
    }

    /// What the path is worth.
    pub fn path(&self) -> &PathRank {
        &self.path
    }
}

impl PathMatch {
    /// The prefix of a PathPrefix: its trailing `/` says nothing.
    pub fn prefix(value: &str) -> Self {
        Self::Prefix(value.strip_suffix('/').unwrap_or(value).to_owned())
    }

    /// What it is worth.
    pub fn rank(&self) -> PathRank {
        match self {
            Self::Exact(_) => PathRank::Exact,
            Self::Prefix(prefix) if prefix.is_empty() => PathRank::Any,
            Self::Prefix(prefix) => PathRank::Prefix(Reverse(prefix.chars().count())),
            Self::Regex(_) => PathRank::Regex,
        }
    }

    /// Whether the path matches.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            // The empty prefix takes every path, `*` included.
            Self::Prefix(prefix) if prefix.is_empty() => true,
            Self::Prefix(prefix) => path.starts_with(prefix) && ends_element(path, prefix.len()),
            Self::Regex(expression) => expression.matches(path.as_bytes()),
        }
    }

    /// How many bytes of a matching path a prefix took.
    pub fn prefix_len(&self) -> usize {
        match self {
            Self::Prefix(prefix) => prefix.len(),
            Self::Exact(_) | Self::Regex(_) => 0,
        }
    }
}

/// Whether a path element ends after `len` bytes.
pub(super) fn ends_element(path: &str, len: usize) -> bool {
    path.as_bytes().get(len).is_none_or(|byte| *byte == b'/')
}

impl ValueMatch {
    /// Whether a value matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Regex(expression) => expression.matches(value),
        }
    }
}

impl HttpMatch {
    /// The match of a rule that names none: every request.
    pub fn any() -> Self {
        Self { path: PathMatch::prefix("/"), method: None, headers: Vec::new(), query: Vec::new() }
    }

    /// Whether a request matches.
    pub fn matches(&self, request: &RequestHead<'_>) -> bool {
        self.path.matches(request.path)
            && self.method.as_ref().is_none_or(|method| method == request.method)
            && self.headers.iter().all(|(name, want)| header_matches(request, name, want))
            && self.query.iter().all(|(name, want)| query_matches(request.query, name, want))
    }
}

fn header_matches(request: &RequestHead<'_>, name: &HeaderName, want: &ValueMatch) -> bool {
    header_value(request, name).is_some_and(|value| want.matches(&value))
}

fn query_matches(query: Option<&str>, name: &str, want: &ValueMatch) -> bool {
    query_value(query, name).is_some_and(|value| want.matches(value))
}

/// What a header says. A repeated one counts as its values joined by commas (RFC 9110, section 5.3), which is all that is
/// ever copied; HTTP/2's authority counts as Host.
pub(super) fn header_value<'a>(request: &RequestHead<'a>, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    if name == HOST {
        return Some(request.host.as_bytes().into());
    }
    let values = request.headers.get_all(name);
    let mut each = values.iter().map(HeaderValue::as_bytes);
    let first = each.next()?;
    match each.next() {
        None => Some(first.into()),
        Some(_) => Some(values.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b',').into()),
    }
}

/// What a query parameter says. Of a repeated one the first value counts, as the specification recommends.
pub(super) fn query_value<'a>(query: Option<&'a str>, name: &str) -> Option<&'a [u8]> {
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(key, _)| *key == name);
    values.next().map(|(_, value)| value.as_bytes())
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "path = {path}"),
            Self::Prefix(prefix) if prefix.is_empty() => write!(f, "any path"),
            Self::Prefix(prefix) => write!(f, "path under {prefix}"),
            Self::Regex(expression) => write!(f, "path ~ {expression}"),
        }
    }
}

impl fmt::Display for ValueMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(value) => write!(f, "= {value}"),
            Self::Regex(expression) => write!(f, "~ {expression}"),
        }
    }
}

impl fmt::Display for HttpMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path)?;
        if let Some(method) = &self.method {
            write!(f, ", method = {method}")?;
        }
        for (name, value) in &self.headers {
            write!(f, ", header {name} {value}")?;
        }
        for (name, value) in &self.query {
            write!(f, ", query {name} {value}")?;
        }
        Ok(())
    }
}
