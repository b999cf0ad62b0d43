//! The shape of a request on each leg.
//!
//! Between proxies a request is HTTP/2: absolute URI, no Host, no hop-by-hop headers. To a server it is
//! HTTP/1.1: path only, exactly one Host. Each function gives its shape whatever the shape was before, so that a
//! request may be sent again elsewhere.

use std::net::SocketAddr;

use hyper::{
    HeaderMap, Method, Request, Response, Uri, Version,
    body::Body as _,
    header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE},
    http::uri::{Authority, PathAndQuery, Scheme},
};

use super::{HttpVersion, hosts, mesh_headers};
use crate::{body::Body, failure::Failure};

/// What always belongs to one connection, besides `Connection` itself and (but for what is in it) `TE`.
static HOP_BY_HOP: [HeaderName; 5] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// The most headers that a request may have, as HTTP/1 servers commonly bound them.
const HEADERS_MAX: usize = 100;

/// What is wrong with a request that no proxy may pass on, whatever it asks.
///
/// # Errors
/// When it has too many headers, or several meanings.
pub fn check(request: &Request<impl Sized>) -> Result<(), Failure> {
    if request.headers().len() > HEADERS_MAX {
        return Err(Failure::TooManyHeaders(HEADERS_MAX));
    }
    objection(request).map_or(Ok(()), |objection| Err(Failure::BadRequest(objection)))
}

/// What is ambiguous in a request may pass on (RFC 9112 sections 3.2 and 6.3).
fn objection(request: &Request<impl Sized>) -> Option<&'static str> {
    let (mut hosts, mut host) = (0, None);
    let (mut length, mut conflicting) = (None, false);
    let (mut coded, mut unknown) = (false, false);
    // One look at each: most heads have one of these.
    for (name, value) in request.headers() {
        if *name == HOST {
            (hosts, host) = (hosts + 1, Some(value));
        } else if *name == CONTENT_LENGTH {
            conflicting |= length.replace(value).is_some_and(|before| before != value);
        } else if *name == TRANSFER_ENCODING {
            coded = true;
            unknown |= !value.as_bytes().eq_ignore_ascii_case(b"chunked");
        }
    }
    let same_host = || match (request.uri().authority(), host) {
        (Some(authority), Some(host)) => host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()),
        _ => true,
    };
    if hosts > 1 {
        Some("more than one Host")
    } else if !same_host() {
        Some("Host differs from the request's target")
    } else if coded && length.is_some() {
        Some("Content-Length with Transfer-Encoding")
    } else if unknown {
        Some("Transfer-Encoding other than chunked")
    } else if conflicting {
        Some("conflicting Content-Length")
    } else if host.is_some_and(|host| !host.is_empty() && !hosts::is_authority(host.as_bytes())) {
        Some("Host is no authority")
    } else {
        None
    }
}

/// The host that a request names, as it was received; empty if it names none.
pub fn host<B>(request: &Request<B>) -> &str {
    let named = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    named.or_else(|| request.uri().authority().map(Authority::as_str)).unwrap_or_default()
}

/// HTTP/2 for the peer's proxy, which must speak `version` to its application.
pub fn for_peer(request: &mut Request<Body>, addr: SocketAddr, version: HttpVersion) {
    to_h2(request, addr);
    mesh_headers::set_server_version(request.headers_mut(), version);
}

/// HTTP/2 for a server.
pub fn for_h2(request: &mut Request<Body>, addr: SocketAddr) {
    to_h2(request, addr);
    mesh_headers::forget_server_version(request.headers_mut());
}

/// HTTP/2. A request without a host gets the address that it goes to.
fn to_h2(request: &mut Request<Body>, addr: SocketAddr) {
    let authority = hosts::authority(host(request)).or_else(|| Authority::try_from(addr.to_string()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = authority;
    parts.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    // It cannot fail: an address is an authority.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    request.headers_mut().remove(HOST);
    *request.version_mut() = Version::HTTP_2;
}

/// HTTP/1.1 for a server. A client's absolute target stays (its server may be a proxy); HTTP/2's does not.
pub fn for_h1(request: &mut Request<Body>) {
    if request.version() != Version::HTTP_2 {
        *request.version_mut() = Version::HTTP_11;
        return;
    }
    if let Some(authority) = request.uri().authority() {
        if let Some(host) = hosts::header(authority) {
            request.headers_mut().insert(HOST, host);
        }
        let path = std::mem::take(request.uri_mut()).into_parts().path_and_query;
        *request.uri_mut() = Uri::from(path.unwrap_or(PathAndQuery::from_static("/")));
    }
    mesh_headers::forget_server_version(request.headers_mut());
    *request.version_mut() = Version::HTTP_11;
}

/// Takes off what belongs to the connection that a request came on, and what only the mesh may say. Returns the
/// protocol that it asks to switch to.
///
/// Done before anything else happens to the request: what a route or the mesh adds later stays.
pub fn receive(request: &mut Request<Body>) -> Option<HeaderValue> {
    let upgrade = upgrade_asked(request.headers()).filter(|_| request.body().is_end_stream());
    strip(request.headers_mut());
    upgrade
}

/// Takes off a response what belongs to the connection that it came on, and what only the mesh may say.
pub fn clean_response<B>(response: &mut Response<B>) {
    if strip(response.headers_mut()) {
        // It is a request's alone (RFC 9110 section 10.1.4).
        response.headers_mut().remove(TE);
    }
    *response.version_mut() = Version::HTTP_11;
}

/// Takes off what no head of HTTP/2 may hold (RFC 9113 section 8.2.2), whoever put it there: a route may ask for anything.
pub fn for_stream(headers: &mut HeaderMap) {
    let forbidden = |(name, value): (&HeaderName, &HeaderValue)| {
        *name == CONNECTION || HOP_BY_HOP.contains(name) || (*name == TE && value != "trailers")
    };
    if headers.iter().any(forbidden) {
        strip_hop_by_hop(headers);
    }
}

/// Most heads have nothing of a connection's to be removed, which one look tells; `true` for those that had.
fn strip(headers: &mut HeaderMap) -> bool {
    let had = headers.keys().any(is_hop_by_hop);
    if had {
        strip_hop_by_hop(headers);
    }
    mesh_headers::strip(headers);
    had
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == CONNECTION || *name == TE || HOP_BY_HOP.contains(name)
}

/// Removes what belongs to one connection (RFC 9110 section 7.6.1), and what `Connection` names.
///
/// `TE: trailers` and `Trailer` stay: trailers pass through.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let kept = |name: &HeaderName| [TE, HOST, CONTENT_LENGTH].contains(name);
        let named: Vec<_> =
            tokens(headers, CONNECTION).filter_map(|n| HeaderName::from_bytes(n).ok()).collect();
        named.iter().filter(|name| !kept(name)).for_each(|name| drop(headers.remove(name)));
        headers.remove(CONNECTION);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if headers.contains_key(TE) {
        let trailers = tokens(headers, TE).any(|token| token.eq_ignore_ascii_case(b"trailers"));
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
}

/// The protocol that a request asks to switch to, if it does (RFC 9110 section 7.8): one that [`is_switched_to`]. Of
/// several, or of another, the request is served as if it had not asked.
fn upgrade_asked(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut protocols = headers.get_all(UPGRADE).iter();
    let protocol = protocols.next().filter(|protocol| is_switched_to(protocol.as_bytes()))?;
    let asks = tokens(headers, CONNECTION).any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    (asks && protocols.next().is_none()).then(|| protocol.clone())
}

/// Whether a protocol, exactly as it is written, may be switched to. HTTP itself is none of them, in whatever dress
/// (`h2c` was taken out of HTTP by RFC 9113): it would hide the requests behind it, and their claims of identity.
pub fn is_switched_to(protocol: &[u8]) -> bool {
    let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
    let is_http = ["h2c", "h2", "http", "tls"].iter().any(|http| name.eq_ignore_ascii_case(http.as_bytes()));
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(byte);
    !name.is_empty() && !is_http && protocol.iter().all(token)
}

/// The comma-separated tokens of every line of a header.
fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &[u8]> {
    headers
        .get_all(name)
        .into_iter()
        .flat_map(|line| line.as_bytes().split(|b| *b == b','))
        .map(<[u8]>::trim_ascii)
}

/// Whether a success is that of a server that knows no CONNECT, and would read what follows as requests: "A server MUST
/// NOT send any Transfer-Encoding or Content-Length header fields in a 2xx response to CONNECT" (RFC 9110 section 9.3.6).
pub fn is_no_tunnel<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    response.status().is_success()
        && (headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING))
}

/// Whether a request may be sent again after it may have reached a server: safe, and without a body.
pub fn is_repeatable(request: &Request<Body>) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method()) && request.body().is_end_stream()
}

/// The same request again; only for one that [`is_repeatable`].
pub fn repeat(request: &Request<Body>) -> Request<Body> {
    head_again(request).map(|()| Body::empty())
}

/// A request's head again, without what only this process knows of it.
pub fn head_again(request: &Request<Body>) -> Request<()> {
    let mut again = Request::new(());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    again
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<Body> {
        let request =
            headers.iter().fold(Request::get(uri), |request, (name, value)| request.header(*name, *value));
        request.body(Body::empty()).expect("request")
    }

    #[track_caller]
    fn check_headers(request: &Request<Body>, expected: &[(&str, &str)]) {
        let found: Vec<_> =
            request.headers().iter().map(|(n, v)| (n.as_str(), v.to_str().expect("text"))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_peer_gets_an_absolute_uri_and_no_hop_by_hop_header() {
        let headers =
            [("host", "web.shop"), ("connection", "close, x-private"), ("x-private", "1"), ("x-kept", "2")];
        let mut request = request("/a?b=c", &headers);
        receive(&mut request);
        for_peer(&mut request, ([10, 0, 0, 1], 80).into(), HttpVersion::Http1);
        assert_eq!(request.uri(), "http://web.shop/a?b=c");
        check_headers(&request, &[("x-kept", "2")]);
    }

    #[test]
    fn a_head_of_http2_has_nothing_of_a_connections_whoever_put_it_there() {
        let headers =
            [("connection", "x-named"), ("x-named", "1"), ("te", "gzip, trailers"), ("x-kept", "2")];
        let mut request = request("/", &headers);
        for_stream(request.headers_mut());
        check_headers(&request, &[("x-kept", "2"), ("te", "trailers")]);
    }

    #[test]
    fn a_server_gets_one_host_and_a_path() {
        let mut request = request("http://web.shop/a?b=c", &[("te", "gzip, trailers"), ("keep-alive", "5")]);
        *request.version_mut() = Version::HTTP_2;
        receive(&mut request);
        for_h1(&mut request);
        assert_eq!(request.uri(), "/a?b=c");
        check_headers(&request, &[("te", "trailers"), ("host", "web.shop")]);
    }

    #[test]
    fn a_request_without_host_still_has_an_authority_between_proxies() {
        let mut request = request("/", &[]);
        for_h2(&mut request, ([10, 0, 0, 1], 80).into());
        assert_eq!(request.uri(), "http://10.0.0.1:80/");
    }

    #[test]
    fn two_hosts_or_another_than_the_target_are_refused() {
        assert!(objection(&request("/", &[("host", "a"), ("host", "b")])).is_some());
        assert!(objection(&request("http://a/", &[("host", "b")])).is_some());
        assert!(objection(&request("/", &[("host", "a b")])).is_some());
        assert_eq!(objection(&request("http://a/", &[("host", "A")])), None);
    }

    #[test]
    fn no_coding_but_chunked() {
        assert!(objection(&request("/", &[("transfer-encoding", "gzip, chunked")])).is_some());
        assert_eq!(objection(&request("/", &[("transfer-encoding", "chunked")])), None);
    }

    #[test]
    fn h2c_is_no_upgrade_that_passes() {
        let headers = |protocol| [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", protocol)];
        assert!(upgrade_asked(request("/", &headers("websocket")).headers()).is_some());
        assert!(upgrade_asked(request("/", &headers("h2c")).headers()).is_none());
        for hidden in ["websocket, h2c", "h2c ", "H2C", "HTTP/2.0", "TLS/1.0", "websocket,h2c", ""] {
            assert!(upgrade_asked(request("/", &headers(hidden)).headers()).is_none(), "{hidden:?}");
            assert!(!is_switched_to(hidden.as_bytes()), "{hidden:?}");
        }
    }
}
