//! Whether a request matches, and which of several matches wins.

use crate::names::ObjectName;
use http::header::{HeaderMap, HeaderName};
use http::Method;
use regex::bytes::Regex;
use std::cmp::Reverse;

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
    /// What the path is worth in the order of precedence.
    pub rank: PathRank,
    /// The method, or any.
    pub method: Option<Method>,
    /// Headers, each name once.
    pub headers: Vec<(HeaderName, ValueMatch)>,
    /// Query parameters, each name once.
    pub query: Vec<(String, ValueMatch)>,
}

/// What a path condition is worth; the lesser wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathRank {
    /// An exact path.
    Exact,
    /// A prefix of so many characters, above 1.
    Prefix(Reverse<usize>),
    /// An expression.
    Regex,
    /// The prefix `/`.
    Any,
}

/// The order in which matches are tried; the lesser wins.
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
