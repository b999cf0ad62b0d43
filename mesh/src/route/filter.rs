//! What rules and backendRefs do to requests and responses. Names and values are checked when the
//! route is read, so that applying them cannot fail for a reason that status has not told.

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;

/// The filters that act on a forwarded request and its response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filters {
    /// RequestHeaderModifier.
    pub request_headers: Option<HeaderModifier>,
    /// ResponseHeaderModifier; shared, because it must last until the response, when the table may be another one.
    pub response_headers: Option<Arc<HeaderModifier>>,
    /// URLRewrite.
    pub rewrite: Option<UrlRewrite>,
}

/// Changes to headers, as HTTPHeaderFilter says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderModifier {
    /// Overwrites the header.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Appends to what is there.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Removes the header.
    pub remove: Vec<HeaderName>,
}

impl HeaderModifier {
    /// Sets, then adds, then removes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
        for name in &self.remove {
            headers.remove(name);
        }
    }
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathModifier {
    /// The whole path is this.
    Full(String),
    /// The matched prefix is this; kept without its trailing `/`.
    Prefix(String),
}

impl PathModifier {
    /// The new path for `path`, of which the rule matched the first `matched_prefix` bytes.
    pub fn apply(&self, path: &str, matched_prefix: usize) -> String {
        let new = match self {
            Self::Full(full) => full.clone(),
            Self::Prefix(prefix) => format!("{prefix}{}", path.get(matched_prefix..).unwrap_or_default()),
        };
        if new.starts_with('/') { new } else { format!("/{new}") }
    }
}

/// URLRewrite.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UrlRewrite {
    /// The new Host or authority.
    pub hostname: Option<HeaderValue>,
    /// The new path.
    pub path: Option<PathModifier>,
}

impl UrlRewrite {
    /// The rewritten path and query for a request, or `None` when they stay. `matched_prefix` is the decision's.
    pub fn apply(&self, path: &str, query: Option<&str>, matched_prefix: usize) -> Option<String> {
        let path = self.path.as_ref()?.apply(path, matched_prefix);
        Some(join_query(path, query))
    }
}

/// `path?query`.
pub(crate) fn join_query(mut path: String, query: Option<&str>) -> String {
    if let Some(query) = query {
        path.push('?');
        path.push_str(query);
    }
    path
}

/// The schemes that a redirect can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`, whose port is 80.
    Http,
    /// `https`, whose port is 443.
    Https,
}

impl Scheme {
    /// As in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// Its well-known port.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// RequestRedirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The scheme of the Location; the request's if absent.
    pub scheme: Option<Scheme>,
    /// The host of the Location; the request's if absent.
    pub hostname: Option<String>,
    /// The port of the Location; if absent the scheme's, if that is absent, too, the request's.
    pub port: Option<u16>,
    /// The path of the Location; the request's if absent.
    pub path: Option<PathModifier>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    }

    #[test]
    fn headers_are_set_added_and_removed() {
        let modifier = HeaderModifier {
            set: vec![pair("a", "new"), pair("b", "new")],
            add: vec![pair("c", "more"), pair("d", "more")],
            remove: vec![HeaderName::from_static("e"), HeaderName::from_static("f")],
        };
        let sent = [pair("a", "1"), pair("c", "1"), pair("e", "1"), pair("g", "1")];
        let mut headers: HeaderMap = sent.into_iter().collect();
        headers.append("a", HeaderValue::from_static("2"));
        modifier.apply(&mut headers);
        let text =
            |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        let mut left: Vec<_> = headers.iter().map(text).collect();
        left.sort();
        assert_eq!(left, ["a: new", "b: new", "c: 1", "c: more", "d: more", "g: 1"]);
    }

    /// As a route's author writes it, with or without trailing slashes.
    #[track_caller]
    fn check(path: &str, prefix: &str, replacement: &str, expected: &str) {
        let modifier = PathModifier::Prefix(replacement.trim_end_matches('/').to_owned());
        assert_eq!(modifier.apply(path, prefix.trim_end_matches('/').len()), expected);
    }

    #[test]
    fn a_prefix_is_replaced_as_in_the_specifications_table() {
        check("/foo/bar", "/foo", "/xyz", "/xyz/bar");
        check("/foo/bar", "/foo", "/xyz/", "/xyz/bar");
        check("/foo/bar", "/foo/", "/xyz", "/xyz/bar");
        check("/foo/bar", "/foo/", "/xyz/", "/xyz/bar");
        check("/foo", "/foo", "/xyz", "/xyz");
        check("/foo/", "/foo", "/xyz", "/xyz/");
        check("/foo/bar", "/foo", "", "/bar");
        check("/foo/", "/foo", "", "/");
        check("/foo", "/foo", "", "/");
        check("/foo/", "/foo", "/", "/");
        check("/foo", "/foo", "/", "/");
        check("/foo", "/", "/xyz", "/xyz/foo");
    }

    #[test]
    fn a_rewrite_keeps_the_query() {
        let rewrite = UrlRewrite { hostname: None, path: Some(PathModifier::Full("/new".to_owned())) };
        assert_eq!(rewrite.apply("/old", Some("a=b"), 0).as_deref(), Some("/new?a=b"));
        assert_eq!(UrlRewrite::default().apply("/old", None, 0), None);
    }
}
