//! The headers that only the mesh itself may set: who called, and what the two proxies of an exchange tell each other.
//!
//! Identity comes from the connection, so whatever a client or a server writes into these names is removed first.

use hyper::{
    HeaderMap, Response,
    header::{HeaderName, HeaderValue},
};

use super::HttpVersion;
use crate::failure::ConnectError;

/// Who the caller is, as the connection proved; the form is Envoy's, which applications know.
pub const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Says over mTLS that the server is to be spoken to in HTTP/2; never leaves the mesh.
const SERVER_HTTP: HeaderName = HeaderName::from_static("heddle-server-http");
/// Says over mTLS that the application did not get the request, and why; never leaves the mesh.
const UNSENT: HeaderName = HeaderName::from_static("heddle-unsent");

/// Removes every one of them, and their twins with underscores, which CGI and its heirs cannot tell apart.
pub fn strip(headers: &mut HeaderMap) {
    // A head has one at most, unless somebody plays.
    let Some(ours) = headers.keys().find(|name| is_ours(name.as_str())).cloned() else { return };
    headers.remove(ours);
    let others: Vec<_> = headers.keys().filter(|name| is_ours(name.as_str())).cloned().collect();
    others.into_iter().for_each(|name| drop(headers.remove(name)));
}

/// Asks a peer's proxy to speak `version` to its application.
pub fn set_server_version(headers: &mut HeaderMap, version: HttpVersion) {
    match version {
        HttpVersion::Http2 => drop(headers.insert(SERVER_HTTP, HeaderValue::from_static("2"))),
        HttpVersion::Http1 => forget_server_version(headers),
    }
}

/// Takes the question back, of a request that goes to a server itself after all.
pub fn forget_server_version(headers: &mut HeaderMap) {
    headers.remove(SERVER_HTTP);
}

/// What [`set_server_version`] asked of us; read before the headers are removed.
pub fn server_version(headers: &HeaderMap) -> HttpVersion {
    if headers.contains_key(SERVER_HTTP) { HttpVersion::Http2 } else { HttpVersion::Http1 }
}

/// Tells a peer's proxy that our application did not get its request, so that it may go to another endpoint.
pub fn mark_unsent<B>(response: &mut Response<B>, reason: &'static str) {
    response.headers_mut().insert(UNSENT, HeaderValue::from_static(reason));
}

/// What [`mark_unsent`] told; read before the headers are removed.
pub fn unsent<B>(response: &Response<B>) -> Option<&'static str> {
    let told = response.headers().get(UNSENT)?;
    let known = ConnectError::REASONS.into_iter().find(|reason| told == reason);
    Some(known.unwrap_or("destination_unavailable"))
}

fn is_ours(name: &str) -> bool {
    let alike = |a: u8, b: u8| a == b || (a == b'_' && b == b'-');
    let begins =
        |with: &str| name.len() >= with.len() && name.bytes().zip(with.bytes()).all(|(a, b)| alike(a, b));
    begins("heddle-") || (begins(CLIENT_CERT.as_str()) && name.len() == CLIENT_CERT.as_str().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_mesh_are_never_taken_from_a_caller() {
        let names = [
            "x-forwarded-client-cert",
            "x_forwarded_client_cert",
            "heddle-anything",
            "heddle_unsent",
            "x-kept",
        ];
        let mut headers: HeaderMap = names
            .into_iter()
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("1")))
            .collect();
        strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
    }

    #[test]
    fn a_reason_that_nobody_knows_is_still_a_reason() {
        let mut response = Response::new(());
        assert_eq!(unsent(&response), None);
        mark_unsent(&mut response, "connection_refused");
        assert_eq!(unsent(&response), Some("connection_refused"));
        response.headers_mut().insert(UNSENT, HeaderValue::from_static("of a later version"));
        assert_eq!(unsent(&response), Some("destination_unavailable"));
    }
}
