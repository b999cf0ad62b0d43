//! Why the mesh answers instead of a backend: one word for the response, the log and the metric.

use http::StatusCode;
use std::fmt;

/// The statuses of gRPC that the mesh answers with ("Status codes and their use in gRPC").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrpcStatus {
    /// The method is not implemented, or nobody offers it.
    Unimplemented = 12,
    /// The request is broken; also what clients make of the HTTP status 400.
    Internal = 13,
    /// Nobody serves it now; the client may try again.
    Unavailable = 14,
}

/// Why a request or connection gets no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Routes are bound to the Service and none of their rules matches (GEP-1294).
    NoRuleMatched,
    /// The rule, or the share of it that was drawn, has no valid backend.
    NoValidBackend,
    /// The route that governs the port has been refused; its status says why.
    RouteRefused,
    /// The backend has no usable endpoint.
    NoEndpoint,
    /// The path hides dot segments or other traps behind its encoding.
    SuspiciousPath,
    /// What the client sent cannot become part of a redirect or a rewritten request.
    UnusableRequest,
}

impl Failure {
    /// The status of the response that says so.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoRuleMatched => StatusCode::NOT_FOUND,
            Self::NoValidBackend | Self::RouteRefused => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoEndpoint => StatusCode::SERVICE_UNAVAILABLE,
            Self::SuspiciousPath | Self::UnusableRequest => StatusCode::BAD_REQUEST,
        }
    }

    /// The status of the gRPC answer that says so. "If a GRPCBackendRef is invalid, `UNAVAILABLE` statuses MUST be
    /// returned" (GRPCRouteRule); what no rule matches is a method that nobody implements.
    pub fn grpc_status(self) -> GrpcStatus {
        match self {
            Self::NoRuleMatched => GrpcStatus::Unimplemented,
            Self::NoValidBackend | Self::RouteRefused | Self::NoEndpoint => GrpcStatus::Unavailable,
            Self::SuspiciousPath | Self::UnusableRequest => GrpcStatus::Internal,
        }
    }

    /// The reason in `Proxy-Status`, log and metrics: an error type of RFC 9209 where one fits (section 2.3),
    /// else a word of ours.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoRuleMatched => "no-matching-rule",
            Self::NoValidBackend => "no-valid-backend",
            Self::RouteRefused => "route-refused",
            Self::NoEndpoint => "destination_unavailable",
            Self::SuspiciousPath => "suspicious-path",
            Self::UnusableRequest => "http_request_error",
        }
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRuleMatched => "no rule of the routes bound to this Service matches the request",
            Self::NoValidBackend => "the matching rule has no valid backend; see the route's status",
            Self::RouteRefused => "the route bound to this Service was refused; see its status",
            Self::NoEndpoint => "the backend has no endpoint that is ready",
            Self::SuspiciousPath => "the path has encoded dot segments",
            Self::UnusableRequest => "the request's host or path cannot be rewritten",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_an_error() {
        let error: Box<dyn std::error::Error> = Failure::NoEndpoint.into();
        assert_eq!(error.to_string(), "the backend has no endpoint that is ready");
    }
}
