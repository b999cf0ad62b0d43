//! What a response says of how a request went.

use hyper::HeaderMap;

use crate::metrics::{Direction, Exchange};

/// The names of gRPC's statuses, by number.
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// The status in a response's head or trailers. A number that gRPC does not have means UNKNOWN.
pub fn grpc(headers: &HeaderMap) -> Option<&'static str> {
    let number = headers.get("grpc-status")?.to_str().ok().and_then(|text| text.parse::<usize>().ok());
    Some(number.and_then(|number| GRPC.get(number)).copied().unwrap_or("UNKNOWN"))
}

/// What a gRPC client makes of a response that has no status of gRPC ("HTTP to gRPC Status Code Mapping").
pub fn grpc_instead(http: Option<u16>, client_left: bool) -> &'static str {
    match http {
        _ if client_left => "CANCELLED",
        None => "UNAVAILABLE",
        Some(400) => "INTERNAL",
        Some(401) => "UNAUTHENTICATED",
        Some(403) => "PERMISSION_DENIED",
        Some(404) => "UNIMPLEMENTED",
        Some(429 | 502..=504) => "UNAVAILABLE",
        Some(_) => "UNKNOWN",
    }
}

/// Whether the status is an error to OpenTelemetry: to a client everything from 400 on, to a server from 500 on; every
/// status of gRPC but OK.
pub fn is_error(direction: Direction, exchange: Exchange) -> bool {
    let least = match direction {
        Direction::Outbound => 400,
        Direction::Inbound => 500,
    };
    match exchange {
        Exchange::Http { status, .. } => status.is_some_and(|status| status >= least),
        Exchange::Grpc { status } => status != Some("OK"),
    }
}

/// Whether OpenTelemetry takes a status of gRPC for the server's fault, not the caller's.
pub fn is_servers_fault(grpc: &str) -> bool {
    ["UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"].contains(&grpc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(hyper::header::HeaderName::from_static(name), value.parse().expect("value"))])
    }

    #[test]
    fn a_status_of_grpc_has_its_name() {
        for (value, name) in [
            ("0", "OK"),
            ("14", "UNAVAILABLE"),
            ("16", "UNAUTHENTICATED"),
            ("17", "UNKNOWN"),
            ("x", "UNKNOWN"),
        ] {
            assert_eq!(grpc(&headers("grpc-status", value)), Some(name), "{value}");
        }
        assert_eq!(grpc(&HeaderMap::new()), None);
    }
}
