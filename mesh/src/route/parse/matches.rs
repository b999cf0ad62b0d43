//! Reading matches.

use super::{MAX_EXPRESSIONS, Reader};
use crate::route::raw::{RawGrpcMethod, RawMatch, RawMethod, RawPair, RawPath};
use crate::route::{Expression, HttpMatch, PathMatch, RouteKind, ValueMatch};
use http::Method;
use http::header::HeaderName;
use std::sync::Arc;

/// The longest expression or value, in bytes (HTTPHeaderMatch, `value`).
const MAX_VALUE: usize = 4096;
/// What the API server refuses in an exact path or prefix (HTTPPathMatch).
const NOT_IN_PATHS: [&str; 6] = ["//", "/./", "/../", "%2f", "%2F", "#"];

impl Reader {
    /// The matches of a rule; without any it matches everything. Kinds below HTTP match nothing.
    pub(super) fn matches(&mut self, at: &str, raw: &[RawMatch]) -> Vec<Arc<HttpMatch>> {
        if !matches!(self.kind, RouteKind::Http | RouteKind::Grpc) {
            return Vec::new();
        }
        if raw.is_empty() {
            return vec![Arc::new(HttpMatch::any())];
        }
        let read = raw.iter().enumerate();
        read.filter_map(|(ix, raw)| self.one_match(&format!("{at}.matches[{ix}]"), raw))
            .map(Arc::new)
            .collect()
    }

    fn one_match(&mut self, at: &str, raw: &RawMatch) -> Option<HttpMatch> {
        let headers = self.headers(at, &raw.headers);
        let query = self.query(at, &raw.query_params);
        let (path, method) = match &raw.method {
            Some(RawMethod::Grpc(method)) => (self.grpc_path(at, method)?, None),
            Some(RawMethod::Http(name)) => (self.path(at, raw.path.as_ref())?, Some(self.method(at, name)?)),
            None => (self.path(at, raw.path.as_ref())?, None),
        };
        Some(HttpMatch { path, method, headers, query })
    }

    fn method(&mut self, at: &str, name: &str) -> Option<Method> {
        self.accept(
            at,
            Method::from_bytes(name.as_bytes()).map_err(|_| format!("method {name:?} is not a method")),
        )
    }

    fn path(&mut self, at: &str, raw: Option<&RawPath>) -> Option<PathMatch> {
        let value = raw.and_then(|path| path.value.as_deref()).unwrap_or("/");
        let at = &format!("{at}.path");
        match raw.and_then(|path| path.r#type.as_deref()).unwrap_or("PathPrefix") {
            "Exact" => self.accept(at, plain_path(value)).map(|path| PathMatch::Exact(path.to_owned())),
            "PathPrefix" => self.accept(at, plain_path(value)).map(PathMatch::prefix),
            "RegularExpression" => self.regex(at, value).map(PathMatch::Regex),
            other => self.accept(at, Err(format!("type {other:?} is not supported"))),
        }
    }

    /// A gRPC request's path is `/SERVICE/METHOD` (GRPCMethodMatch).
    fn grpc_path(&mut self, at: &str, raw: &RawGrpcMethod) -> Option<PathMatch> {
        let at = &format!("{at}.method");
        let (service, method) = (present(&raw.service), present(&raw.method));
        match (raw.r#type.as_deref().unwrap_or("Exact"), service, method) {
            (_, None, None) => Some(PathMatch::prefix("/")),
            ("Exact", Some(service), Some(method)) => Some(PathMatch::Exact(format!("/{service}/{method}"))),
            ("Exact", Some(service), None) => Some(PathMatch::Prefix(format!("/{service}"))),
            ("Exact", None, Some(method)) => {
                self.regex(at, &format!("/[^/]+/{}", regex::escape(method))).map(PathMatch::Regex)
            }
            ("RegularExpression", service, method) => self.grpc_regex(at, service, method),
            (other, ..) => self.accept(at, Err(format!("type {other:?} is not supported"))),
        }
    }

    fn grpc_regex(&mut self, at: &str, service: Option<&str>, method: Option<&str>) -> Option<PathMatch> {
        let (service, method) = (service.unwrap_or("[^/]+"), method.unwrap_or("[^/]+"));
        self.regex(at, service)?;
        self.regex(at, method)?;
        self.regex(at, &format!("/(?:{service})/(?:{method})")).map(PathMatch::Regex)
    }

    fn headers(&mut self, at: &str, raw: &[RawPair]) -> Vec<(HeaderName, ValueMatch)> {
        let mut headers: Vec<(HeaderName, ValueMatch)> = Vec::new();
        for (ix, pair) in raw.iter().enumerate() {
            let at = format!("{at}.headers[{ix}]");
            let name = HeaderName::from_bytes(pair.name.as_bytes());
            let name = self.accept(&at, name.map_err(|_| format!("{:?} is not a header's name", pair.name)));
            let value = self.value(&at, pair);
            // "Subsequent entries with an equivalent header name MUST be ignored" (HTTPHeaderMatch).
            if let (Some(name), Some(value)) = (name, value)
                && headers.iter().all(|(earlier, _)| *earlier != name)
            {
                headers.push((name, value));
            }
        }
        headers
    }

    fn query(&mut self, at: &str, raw: &[RawPair]) -> Vec<(String, ValueMatch)> {
        let mut query: Vec<(String, ValueMatch)> = Vec::new();
        for (ix, pair) in raw.iter().enumerate() {
            let value = self.value(&format!("{at}.queryParams[{ix}]"), pair);
            // "Subsequent entries with an equivalent query param name MUST be ignored" (HTTPQueryParamMatch).
            if let Some(value) = value.filter(|_| query.iter().all(|(earlier, _)| *earlier != pair.name)) {
                query.push((pair.name.clone(), value));
            }
        }
        query
    }

    fn value(&mut self, at: &str, pair: &RawPair) -> Option<ValueMatch> {
        match pair.r#type.as_deref().unwrap_or("Exact") {
            "Exact" => Some(ValueMatch::Exact(pair.value.clone())),
            "RegularExpression" => self.regex(at, &pair.value).map(ValueMatch::Regex),
            other => self.accept(at, Err(format!("type {other:?} is not supported"))),
        }
    }

    fn regex(&mut self, at: &str, pattern: &str) -> Option<Expression> {
        self.expressions += 1;
        let bounded = self.expressions <= MAX_EXPRESSIONS;
        let regex = bounded.then(|| full_match(pattern));
        let regex = regex
            .unwrap_or_else(|| Err(format!("more than {MAX_EXPRESSIONS} regular expressions in one route")));
        self.accept(at, regex)
    }
}

fn full_match(pattern: &str) -> Result<Expression, String> {
    if pattern.len() > MAX_VALUE {
        return Err(format!("a regular expression has at most {MAX_VALUE} bytes"));
    }
    Expression::compile(pattern)
}

fn plain_path(value: &str) -> Result<&str, String> {
    let bad = NOT_IN_PATHS.iter().find(|part| value.contains(**part));
    let dots = value.ends_with("/.") || value.ends_with("/..");
    match bad {
        _ if !value.starts_with('/') => Err(format!("{value:?} must begin with /")),
        Some(part) => Err(format!("{value:?} must not contain {part}")),
        None if dots || value.len() > MAX_VALUE => {
            Err("a path must not end in dots, nor be over 4096 bytes".to_owned())
        }
        None => Ok(value),
    }
}

fn present(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}
