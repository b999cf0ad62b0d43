//! Fields that the Gateway API does not have.
//!
//! An API server drops them or warns of them; a directory of manifests does neither. A misspelt `headers` would match
//! every request and a misspelt `weight` would be 1, with a status that says all is well: so such a route is refused.

use super::RouteKind;
use gateway_api::apis::experimental::{
    grpcroutes::GrpcRouteSpec, httproutes::HttpRouteSpec, tcproutes::TcpRouteSpec, tlsroutes::TlsRouteSpec,
    udproutes::UdpRouteSpec,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The first field of a route's spec that its kind does not have, as a path from `spec`. `None` as well for a spec that
/// the kind's types cannot hold: what is wrong with it is told where it is read.
pub(super) fn unknown_field(kind: RouteKind, spec: &Value) -> Option<String> {
    let kept = match kind {
        RouteKind::Grpc => kept::<GrpcRouteSpec>(spec),
        RouteKind::Http => kept::<HttpRouteSpec>(spec),
        RouteKind::Tls => kept::<TlsRouteSpec>(spec),
        RouteKind::Tcp => kept::<TcpRouteSpec>(spec),
        RouteKind::Udp => kept::<UdpRouteSpec>(spec),
    };
    lost(spec, &kept?, "spec")
}

/// What is left of a spec that has gone through its type.
fn kept<T: DeserializeOwned + Serialize>(spec: &Value) -> Option<Value> {
    serde_json::to_value(T::deserialize(spec).ok()?).ok()
}

fn lost(written: &Value, kept: &Value, at: &str) -> Option<String> {
    match written {
        Value::Object(fields) => {
            fields.iter().filter(|(_, value)| !value.is_null()).find_map(|(name, value)| {
                let at = format!("{at}.{name}");
                match kept.get(name) {
                    Some(kept) => lost(value, kept, &at),
                    None => Some(at),
                }
            })
        }
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(ix, item)| lost(item, kept.get(ix)?, &format!("{at}[{ix}]")))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(spec: &Value, expected: Option<&str>) {
        assert_eq!(unknown_field(RouteKind::Http, spec).as_deref(), expected);
    }

    #[test]
    fn a_misspelt_field_is_named_by_its_place() {
        check(&json!({ "rulez": [] }), Some("spec.rulez"));
        let matches = json!([{ "headerz": [{ "name": "a", "value": "b" }] }]);
        check(&json!({ "rules": [{ "matches": matches }] }), Some("spec.rules[0].matches[0].headerz"));
        let backends = json!([{ "name": "web", "port": 80, "wieght": 0 }]);
        check(
            &json!({ "rules": [{}, { "backendRefs": backends }] }),
            Some("spec.rules[1].backendRefs[0].wieght"),
        );
    }

    #[test]
    fn every_field_of_the_api_is_known() {
        let spec = json!({
            "hostnames": ["a.example"],
            "parentRefs": [{ "group": "", "kind": "Service", "name": "web", "port": 80, "sectionName": "http" }],
            "rules": [{
                "name": "first",
                "matches": [{
                    "path": { "type": "PathPrefix", "value": "/a" },
                    "headers": [{ "type": "RegularExpression", "name": "a", "value": "b" }],
                    "queryParams": [{ "name": "q", "value": "1" }],
                    "method": "GET",
                }],
                "filters": [
                    { "type": "RequestHeaderModifier", "requestHeaderModifier": { "set": [{ "name": "a", "value": "b" }], "remove": ["c"] } },
                    { "type": "RequestRedirect", "requestRedirect": { "scheme": "https", "port": 443, "statusCode": 301,
                        "hostname": "b.example", "path": { "type": "ReplaceFullPath", "replaceFullPath": "/" } } },
                    { "type": "URLRewrite", "urlRewrite": { "hostname": "c.example", "path": { "type": "ReplacePrefixMatch", "replacePrefixMatch": "/x" } } },
                ],
                "backendRefs": [{ "group": "", "kind": "Service", "name": "web", "namespace": "shop", "port": 80, "weight": 1, "filters": [] }],
                "timeouts": { "request": "1s", "backendRequest": "500ms" },
                "retry": { "attempts": 1 },
            }],
        });
        check(&spec, None);
    }
}
