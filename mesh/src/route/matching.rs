//! Whether a request matches, and which of several matches wins.
//!
//! Matching borrows: nothing is copied or decoded, what is matched is what is forwarded, byte for byte.

use crate::names::ObjectName;
use http::Method;
use http::header::{GetAll, HOST, HeaderMap, HeaderName, HeaderValue};
use regex::bytes::Regex;
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
    Regex(Regex),
}

/// How a header or query parameter matches.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// The whole value, with case.
    Exact(String),
    /// The whole value matches the expression.
    Regex(Regex),
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
            Self::Prefix(prefix) => path.starts_with(prefix) && ends_element(path, prefix.len()),
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
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

/// Whether a path element ends after `len` bytes. The empty prefix takes every path, `*` included.
pub(super) fn ends_element(path: &str, len: usize) -> bool {
    len == 0 || path.as_bytes().get(len).is_none_or(|byte| *byte == b'/')
}

impl ValueMatch {
    /// Whether a value matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == value,
            Self::Regex(regex) => regex.is_match(value),
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
        self.path.matches(request.path) && self.conditions_hold(request)
    }

    /// Whether everything but the path matches.
    pub(super) fn conditions_hold(&self, request: &RequestHead<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method == request.method)
            && self.headers.iter().all(|(name, want)| header_matches(request, name, want))
            && self.query.iter().all(|(name, want)| query_matches(request.query, name, want))
    }
}

/// A repeated header counts as its values joined by commas (RFC 9110, section 5.3); HTTP/2's authority as Host.
fn header_matches(request: &RequestHead<'_>, name: &HeaderName, want: &ValueMatch) -> bool {
    if name == HOST {
        return want.matches(request.host.as_bytes());
    }
    let values = request.headers.get_all(name);
    let mut each = values.iter().map(HeaderValue::as_bytes);
    match (each.next(), each.next()) {
        (None, _) => false,
        (Some(only), None) => want.matches(only),
        (Some(_), Some(_)) => repeated_matches(&values, want),
    }
}

/// Only an expression on a repeated header has to build the joined value.
fn repeated_matches(values: &GetAll<'_, HeaderValue>, want: &ValueMatch) -> bool {
    match want {
        ValueMatch::Exact(exact) => is_joined(exact.as_bytes(), values),
        ValueMatch::Regex(regex) => {
            let values: Vec<_> = values.iter().map(HeaderValue::as_bytes).collect();
            regex.is_match(&values.join(&b','))
        }
    }
}

fn is_joined(mut want: &[u8], values: &GetAll<'_, HeaderValue>) -> bool {
    for (ix, value) in values.iter().enumerate() {
        let rest = if ix == 0 { Some(want) } else { want.strip_prefix(b",") };
        match rest.and_then(|rest| rest.strip_prefix(value.as_bytes())) {
            Some(rest) => want = rest,
            None => return false,
        }
    }
    want.is_empty()
}

/// Of a repeated parameter the first value counts, as the specification recommends.
fn query_matches(query: Option<&str>, name: &str, want: &ValueMatch) -> bool {
    let pairs = query.unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(key, _)| *key == name);
    values.next().is_some_and(|(_, value)| want.matches(value.as_bytes()))
}

/// What makes an expression match the whole value.
pub(super) const WHOLE: (&str, &str) = (r"\A(?:", r")\z");

/// An expression as its author wrote it.
fn written(regex: &Regex) -> &str {
    let text = regex.as_str();
    text.strip_prefix(WHOLE.0).and_then(|text| text.strip_suffix(WHOLE.1)).unwrap_or(text)
}

impl fmt::Display for PathMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => write!(f, "path = {path}"),
            Self::Prefix(prefix) if prefix.is_empty() => write!(f, "any path"),
            Self::Prefix(prefix) => write!(f, "path under {prefix}"),
            Self::Regex(regex) => write!(f, "path ~ {}", written(regex)),
        }
    }
}

impl fmt::Display for ValueMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(value) => write!(f, "= {value}"),
            Self::Regex(regex) => write!(f, "~ {}", written(regex)),
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
