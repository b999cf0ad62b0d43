//! The Location of a redirect.

use crate::route::{PathModifier, Redirect, RequestHead};
use std::borrow::Cow;

/// The absolute URL that a request is sent to, as HTTPRequestRedirectFilter says. The listener of the specification is
/// here the port that the client dialled, which its authority tells.
pub(super) fn location(redirect: &Redirect, head: &RequestHead<'_>, matched_prefix: usize) -> String {
    let (host, own_port) = split_port(head.host);
    let scheme = match redirect.scheme {
        Some(scheme) => scheme.as_str(),
        None => head.scheme,
    };
    let host = redirect.hostname.as_deref().unwrap_or(host);
    let target = target(redirect.path.as_ref(), head, matched_prefix);
    if host.is_empty() {
        return target;
    }
    match port(redirect, own_port).filter(|port| !is_well_known(scheme, *port)) {
        Some(port) => format!("{scheme}://{host}:{port}{target}"),
        None => format!("{scheme}://{host}{target}"),
    }
}

/// > If no port is specified: if redirect scheme is not-empty, the redirect port MUST be the well-known port associated
/// > with the redirect scheme. If redirect scheme is empty, the redirect port MUST be the Gateway Listener port.
fn port(redirect: &Redirect, own: Option<u16>) -> Option<u16> {
    redirect.port.or_else(|| redirect.scheme.map_or(own, |scheme| Some(scheme.port())))
}

/// > Implementations SHOULD NOT add the port number in the 'Location' header \[for\] HTTP and port 80, HTTPS and 443.
fn is_well_known(scheme: &str, port: u16) -> bool {
    (scheme.eq_ignore_ascii_case("http") && port == 80)
        || (scheme.eq_ignore_ascii_case("https") && port == 443)
}

fn target(modifier: Option<&PathModifier>, head: &RequestHead<'_>, matched_prefix: usize) -> String {
    let path = match modifier {
        Some(modifier) => Cow::Owned(modifier.apply(head.path, matched_prefix)),
        None => Cow::Borrowed(head.path),
    };
    match head.query {
        Some(query) => format!("{path}?{query}"),
        None => path.into_owned(),
    }
}

/// Host and port of an authority; an IPv6 address keeps its brackets.
fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Scheme;
    use http::{HeaderMap, Method, StatusCode};

    const NOTHING: Redirect =
        Redirect { scheme: None, hostname: None, port: None, path: None, status: StatusCode::FOUND };

    #[track_caller]
    fn check(redirect: &Redirect, url: &str, expected: &str) {
        let (scheme, rest) = url.split_once("://").unwrap();
        let (host, target) = rest.split_at(rest.find('/').unwrap());
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let (method, headers) = (Method::GET, HeaderMap::new());
        let head = RequestHead { method: &method, path, query, headers: &headers, host, scheme };
        assert_eq!(location(redirect, &head, "/old".len()), expected);
    }

    #[test]
    fn the_request_fills_what_the_filter_leaves_out() {
        let hostname = Redirect { hostname: Some("example.org".into()), ..NOTHING };
        check(&hostname, "http://web/a?b=c", "http://example.org/a?b=c");
        check(&hostname, "http://web:8080/a", "http://example.org:8080/a");
        check(&Redirect { port: Some(8443), ..NOTHING }, "http://web/a", "http://web:8443/a");
        check(&Redirect { port: Some(8443), ..NOTHING }, "http://[fd00::1]:80/", "http://[fd00::1]:8443/");
    }

    #[test]
    fn a_scheme_brings_its_port() {
        let https = Redirect { scheme: Some(Scheme::Https), ..NOTHING };
        check(&https, "http://web/", "https://web/");
        check(&https, "http://web:8080/", "https://web/");
        check(&Redirect { port: Some(8443), ..https.clone() }, "http://web:80/", "https://web:8443/");
        check(&Redirect { port: Some(80), ..https }, "http://web/", "https://web:80/");
    }

    #[test]
    fn a_well_known_port_is_left_out() {
        check(&Redirect { port: Some(80), ..NOTHING }, "http://web:8080/", "http://web/");
        check(&Redirect { port: Some(443), ..NOTHING }, "https://web:8443/", "https://web/");
        check(&Redirect { port: Some(443), ..NOTHING }, "http://web/", "http://web:443/");
        check(&NOTHING, "http://web:80/", "http://web/");
    }

    #[test]
    fn a_path_is_replaced_whole_or_by_its_prefix() {
        let full = Redirect { path: Some(PathModifier::Full("/new".into())), ..NOTHING };
        check(&full, "http://web/old/x?q", "http://web/new?q");
        let prefix = |to: &str| Redirect { path: Some(PathModifier::Prefix(to.into())), ..NOTHING };
        check(&prefix("/new"), "http://web/old/x", "http://web/new/x");
        check(&prefix("/new"), "http://web/old", "http://web/new");
        check(&prefix("/new"), "http://web/old/", "http://web/new/");
        check(&prefix(""), "http://web/old/x", "http://web/x");
        check(&prefix(""), "http://web/old", "http://web/");
    }
}
