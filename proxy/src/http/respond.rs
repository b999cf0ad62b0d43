//! The responses that the proxy makes by itself. Each says who speaks and why (RFC 9209).

use std::fmt::Write as _;

use hyper::{
    HeaderMap, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION},
};

use crate::{
    body::Body,
    failure::{Failure, PROXY_STATUS},
};

/// The status of a gRPC exchange, in its trailers or, where there is nothing else, in its only head.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// What a request comes to: a response, or a stream that is reset as the endpoint reset its own.
pub type Answer = Result<Response<Body>, h2::Error>;

/// How a client understands that its request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// By a status of HTTP/1.
    Http1,
    /// By a status of HTTP/2, or a reset.
    Http2,
    /// By a status of gRPC, or a reset.
    Grpc,
}

impl Manner {
    /// The manner of a request's client.
    pub fn of<B>(request: &Request<B>) -> Self {
        match request.version() {
            Version::HTTP_2 if is_grpc(request.headers()) => Self::Grpc,
            Version::HTTP_2 => Self::Http2,
            _ => Self::Http1,
        }
    }
}

/// `application/grpc`, alone or with the name of a message format (but not gRPC-Web).
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .and_then(|v| v.strip_prefix(b"application/grpc"));
    kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The answer to a request that failed in the mesh.
pub fn failure(failure: &Failure, manner: Manner) -> Answer {
    match (failure, manner) {
        (Failure::Reset(reason), Manner::Http2 | Manner::Grpc) => Err((*reason).into()),
        (_, Manner::Grpc) => Ok(grpc(failure)),
        (_, Manner::Http1 | Manner::Http2) => Ok(http(failure)),
    }
}

fn http(failure: &Failure) -> Response<Body> {
    let mut response = Response::new(Body::words(format!("heddle: {}\n", failure.chain())));
    *response.status_mut() = failure.status();
    response.headers_mut().insert(PROXY_STATUS, failure.proxy_status());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if matches!(failure, Failure::BadRequest(_)) {
        // Where the next request begins is not certain any more.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Trailers alone, as gRPC calls a response without messages: its status stands in the head.
fn grpc(failure: &Failure) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(PROXY_STATUS, failure.proxy_status());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(GRPC_STATUS, HeaderValue::from(failure.grpc_status() as u16));
    headers.insert(GRPC_MESSAGE, grpc_message(&format!("heddle: {}", failure.chain())));
    response
}

/// Percent-encoded, as gRPC writes a status message ("gRPC over HTTP2", Status-Message).
fn grpc_message(text: &str) -> HeaderValue {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    HeaderValue::try_from(encoded).unwrap_or(HeaderValue::from_static("heddle"))
}

/// The answer of a rule that sends the client elsewhere.
pub fn redirect(status: StatusCode, location: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(LOCATION, location);
    response
        .headers_mut()
        .insert(PROXY_STATUS, HeaderValue::from_static("heddle; details=\"redirected by a route\""));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, content_type: &str) -> Request<()> {
        let request = Request::post("/a.B/C").version(version).header(CONTENT_TYPE, content_type);
        request.body(()).expect("request")
    }

    #[track_caller]
    fn check_manner(version: Version, content_type: &str, expected: Manner) {
        assert_eq!(Manner::of(&request(version, content_type)), expected);
    }

    #[test]
    fn grpc_is_told_by_its_content_type_over_http2() {
        check_manner(Version::HTTP_2, "application/grpc", Manner::Grpc);
        check_manner(Version::HTTP_2, "application/grpc+proto", Manner::Grpc);
        check_manner(Version::HTTP_2, "application/grpc; charset=utf-8", Manner::Grpc);
        check_manner(Version::HTTP_2, "application/grpc-web", Manner::Http2);
        check_manner(Version::HTTP_11, "application/grpc", Manner::Http1);
    }

    #[test]
    fn a_grpc_client_gets_a_status_and_never_a_page() {
        let failed = Failure::Route(mesh::route::Failure::NoRuleMatched);
        let response = failure(&failed, Manner::Grpc).expect("an answer");
        assert_eq!(
            (response.status(), &response.headers()[GRPC_STATUS]),
            (StatusCode::OK, &HeaderValue::from(12))
        );
        assert!(hyper::body::Body::is_end_stream(response.body()));
    }

    #[test]
    fn a_reset_is_passed_on_where_the_client_can_be_reset() {
        let failed = Failure::Reset(h2::Reason::CANCEL);
        assert_eq!(failure(&failed, Manner::Grpc).err().and_then(|e| e.reason()), Some(h2::Reason::CANCEL));
        assert_eq!(failure(&failed, Manner::Http1).expect("an answer").status(), StatusCode::BAD_GATEWAY);
    }

    #[test]
    fn a_message_is_percent_encoded() {
        assert_eq!(grpc_message("50 % \u{e9}\n"), "50 %25 %C3%A9%0A");
    }
}
