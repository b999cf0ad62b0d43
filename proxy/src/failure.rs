//! Why the proxy itself ended a request or a connection.
//!
//! One enum feeds the response (`Proxy-Status`, RFC 9209), the log and the metrics, so that the three agree.

use std::{fmt::Write as _, io};

use hyper::{
    StatusCode,
    header::{HeaderName, HeaderValue},
};
use mesh::route::GrpcStatus;

use crate::http;

/// The response header of RFC 9209.
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// The reason of what is shed.
pub const OVERLOADED: &str = "connection_limit_reached";

/// A failure that the mesh answers by itself.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The routing table's own answer: no rule, no valid backend, a refused route.
    #[error(transparent)]
    Route(#[from] mesh::route::Failure),
    /// The backend has no endpoint that may be dialled.
    #[error("service {0} has no ready endpoint")]
    NoEndpoint(mesh::route::BackendKey),
    /// Every endpoint that was tried could not be connected to.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// The last endpoint that was tried.
        endpoint: std::net::SocketAddr,
        /// What the last try met.
        #[source]
        source: ConnectError,
    },
    /// The connection to the endpoint ended before a whole response came.
    #[error("the endpoint ended the exchange early")]
    Exchange(#[source] http::Error),
    /// The endpoint reset the request's stream. A client that speaks HTTP/2 gets the same reset.
    #[error("the endpoint reset the stream: {0}")]
    Reset(h2::Reason),
    /// The request is one that no proxy may pass on.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    /// The request has more headers than any server takes.
    #[error("more than {0} headers")]
    TooManyHeaders(usize),
    /// The proxy carries as much as it is allowed to.
    #[error("too many requests in flight")]
    Overloaded,
}

/// Why an endpoint could not be connected to.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kernel said no.
    #[error("connection failed")]
    Io(#[source] io::Error),
    /// No answer in time.
    #[error("no answer within {0} s")]
    Timeout(u64),
    /// The peer is not who discovery says it is, or does not speak mesh TLS.
    #[error("mesh TLS failed")]
    Tls(#[source] io::Error),
    /// HTTP/2 or HTTP/1 could not be started on the connection.
    #[error("HTTP could not be started")]
    Http(#[source] http::Error),
    /// This proxy has no certificate at the moment.
    #[error("this proxy has no certificate")]
    NoCertificate,
    /// The endpoint is meshed, but who it should be cannot be told.
    #[error("nobody can say who should answer there")]
    Unnameable,
    /// The endpoint said that it did not process the request (RFC 9113 section 8.7).
    #[error("the endpoint did not take the request")]
    NotTaken(#[source] http::Error),
    /// The endpoint refused the request's stream: it has as many as it takes.
    #[error("the endpoint refused the request")]
    Refused(#[source] http::Error),
    /// The endpoint's proxy could not hand the request to its application.
    #[error("its proxy says: {0}")]
    AtPeer(&'static str),
    /// Another request's attempt, which this one waited for, failed.
    #[error("{why}")]
    Shared {
        /// Its reason.
        reason: &'static str,
        /// It and its causes.
        why: String,
    },
}

impl Failure {
    /// The status of the response that tells the client.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Route(failure) => failure.status(),
            Self::NoEndpoint(_) | Self::Overloaded | Self::Connect { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Exchange(_) | Self::Reset(_) => StatusCode::BAD_GATEWAY,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::TooManyHeaders(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }

    /// The status of the gRPC answer that tells the client.
    pub fn grpc_status(&self) -> GrpcStatus {
        match self {
            Self::Route(failure) => failure.grpc_status(),
            Self::BadRequest(_) | Self::TooManyHeaders(_) => GrpcStatus::Internal,
            Self::NoEndpoint(_)
            | Self::Overloaded
            | Self::Connect { .. }
            | Self::Exchange(_)
            | Self::Reset(_) => GrpcStatus::Unavailable,
        }
    }

    /// Whether no server has got the request: somebody else may still answer it.
    pub fn is_unsent(&self) -> bool {
        // Not what was shed: to be asked for again everywhere is what an overload needs least.
        matches!(self, Self::Connect { .. } | Self::NoEndpoint(_))
    }

    /// A short token, the same in `Proxy-Status`, logs and metrics (RFC 9209 section 2.3 where it has one).
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Route(failure) => failure.reason(),
            Self::NoEndpoint(_) => "destination_unavailable",
            Self::Connect { source, .. } => source.reason(),
            Self::Exchange(_) => "connection_terminated",
            Self::Reset(_) => "stream_reset",
            Self::BadRequest(_) | Self::TooManyHeaders(_) => "http_request_error",
            Self::Overloaded => OVERLOADED,
        }
    }

    /// The value of `Proxy-Status`: who speaks, why, and the words for people.
    pub fn proxy_status(&self) -> HeaderValue {
        let mut value = format!("heddle; error={}; details=\"", self.reason());
        for c in self.chain().chars() {
            match c {
                '"' | '\\' => value.extend(['\\', c]),
                ' '..='~' => value.push(c),
                _ => value.push('?'),
            }
        }
        value.push('"');
        HeaderValue::try_from(value).unwrap_or(HeaderValue::from_static("heddle"))
    }

    /// The failure and all of its causes in one line.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

impl ConnectError {
    /// What [`ConnectError::reason`] can say of an application that did not get a request.
    pub const REASONS: [&'static str; 5] = [
        "connection_refused",
        "destination_ip_unroutable",
        "connection_timeout",
        "connection_terminated",
        "destination_unavailable",
    ];

    /// A short token, as [`Failure::reason`].
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io(e) if e.kind() == io::ErrorKind::ConnectionRefused => "connection_refused",
            Self::Io(_) => "destination_ip_unroutable",
            Self::Timeout(_) => "connection_timeout",
            Self::Tls(_) => "tls_certificate_error",
            Self::Http(_) => "connection_terminated",
            Self::NotTaken(_) | Self::Refused(_) => "destination_unavailable",
            Self::AtPeer(reason) => reason,
            Self::NoCertificate | Self::Unnameable => "proxy_configuration_error",
            Self::Shared { reason, .. } => reason,
        }
    }
}

/// The most bytes of an error's words: a server's own may be among them, in a log line, an answer's body and its head.
const WORDS_MAX: usize = 512;

/// An error and all of its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(line, ": {error}");
        cause = error.source();
    }
    line.truncate(line.floor_char_boundary(WORDS_MAX));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_its_error_is_cut() {
        let words = chain(&io::Error::other("é".repeat(100_000)));
        assert!(words.len() <= WORDS_MAX && words.chars().all(|letter| letter == 'é'));
        assert_eq!(chain(&io::Error::other("short")), "short");
    }

    #[test]
    fn proxy_status_is_a_structured_field_whatever_the_details_hold() {
        let failure = Failure::Connect {
            endpoint: ([10, 0, 0, 1], 80).into(),
            source: ConnectError::Io(io::Error::new(io::ErrorKind::ConnectionRefused, "a \"quoted\"\nline")),
        };
        assert_eq!(
            failure.proxy_status(),
            "heddle; error=connection_refused; details=\"cannot connect to 10.0.0.1:80: connection failed: a \\\"quoted\\\"?line\""
        );
        assert_eq!(failure.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
