use crate::route::{PathMatch, Route, RouteKind};
use crate::testing::World;

fn http(rule: &str) -> Route {
    let yaml = format!(
        "{{kind: HTTPRoute, apiVersion: v1, metadata: {{name: r, namespace: shop}}, spec: {{rules: [{rule}]}}}}"
    );
    World::new(&yaml).routes.remove(0)
}

#[track_caller]
fn check(rule: &str, reason: &str, message: &str) {
    let refusals = http(rule).refusals;
    let fits =
        |refusal: &crate::route::Refusal| refusal.reason == reason && refusal.message.contains(message);
    assert!(refusals.iter().any(fits), "{refusals:#?}");
}

#[track_caller]
fn accepted(rule: &str) -> Route {
    let route = http(rule);
    assert_eq!(route.refusals, []);
    route
}

#[test]
fn fields_that_are_not_built_yet_are_refused_by_name() {
    for (rule, message) in [
        ("{timeouts: {request: 1s}}", "rules[0].timeouts"),
        ("{retry: {attempts: 3}}", "rules[0].retry"),
        ("{retry: {codes: [503]}}", "rules[0].retry"),
        ("{sessionPersistence: {sessionName: x}}", "rules[0].sessionPersistence"),
        (
            "{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: m, port: 1}}}]}",
            "filter RequestMirror",
        ),
        ("{filters: [{type: CORS, cors: {}}]}", "filter CORS"),
        (
            "{filters: [{type: ExtensionRef, extensionRef: {group: g, kind: k, name: n}}]}",
            "filter ExtensionRef",
        ),
        (
            "{filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, backendRef: {name: a}}}]}",
            "filter ExternalAuth",
        ),
        (
            "{backendRefs: [{name: b, port: 1, filters: [{type: CORS, cors: {}}]}]}",
            "backendRefs[0].filters[0]",
        ),
    ] {
        check(rule, "UnsupportedValue", message);
    }
}

#[test]
fn a_bad_expression_is_refused_with_its_fault() {
    let regex =
        |pattern: &str| format!("{{matches: [{{path: {{type: RegularExpression, value: '{pattern}'}}}}]}}");
    check(&regex("/a("), "UnsupportedValue", "unclosed group");
    check(&regex("/a)|(b"), "UnsupportedValue", "unopened group");
    check(&regex("(?:a{1000}){1000}"), "UnsupportedValue", "size limit");
    check(&regex("(?x) a # b"), "UnsupportedValue", "invalid regular expression");
    check(&regex(&"a".repeat(5000)), "UnsupportedValue", "at most 4096 bytes");
    check(
        "{matches: [{headers: [{name: x, type: RegularExpression, value: '['}]}]}",
        "UnsupportedValue",
        "headers[0]",
    );
    check(
        "{matches: [{queryParams: [{name: x, type: RegularExpression, value: '['}]}]}",
        "UnsupportedValue",
        "queryParams[0]",
    );
}

#[test]
fn the_expressions_of_a_route_are_bounded() {
    let one = "{path: {type: RegularExpression, value: /a}}";
    accepted(&format!("{{matches: [{}]}}", [one; 128].join(",")));
    check(&format!("{{matches: [{}]}}", [one; 129].join(",")), "UnsupportedValue", "more than 128");
}

#[test]
fn paths_that_mean_nothing_are_refused() {
    for value in ["a", "/a//b", "/a/../b", "/a/..", "/a%2fb", "/a#b", ""] {
        check(
            &format!("{{matches: [{{path: {{type: Exact, value: '{value}'}}}}]}}"),
            "UnsupportedValue",
            "matches[0].path",
        );
    }
}

#[test]
fn filters_may_not_touch_framing_or_identity() {
    for name in [
        "Content-Length",
        "transfer-encoding",
        "Host",
        "connection",
        "TE",
        "x-forwarded-client-cert",
        "Heddle-Identity",
    ] {
        for change in [
            format!("set: [{{name: {name}, value: x}}]"),
            format!("add: [{{name: {name}, value: x}}]"),
            format!("remove: [{name}]"),
        ] {
            let filter =
                |kind: &str, field: &str| format!("{{filters: [{{type: {kind}, {field}: {{{change}}}}}]}}");
            check(
                &filter("RequestHeaderModifier", "requestHeaderModifier"),
                "UnsupportedValue",
                "filters may not change it",
            );
            check(
                &filter("ResponseHeaderModifier", "responseHeaderModifier"),
                "UnsupportedValue",
                "filters may not change it",
            );
        }
    }
}

#[test]
fn header_values_cannot_end_a_line() {
    let filter = r#"{filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: "a\r\nb: c"}]}}]}"#;
    check(filter, "UnsupportedValue", "is not a header's value");
}

#[test]
fn redirect_and_rewrite_are_incompatible() {
    let both = "{filters: [{type: RequestRedirect, requestRedirect: {port: 1}}, {type: URLRewrite, urlRewrite: {hostname: a.b}}]}";
    check(both, "IncompatibleFilters", "cannot be combined");
}

#[test]
fn redirects_are_checked() {
    let redirect =
        |fields: &str| format!("{{filters: [{{type: RequestRedirect, requestRedirect: {{{fields}}}}}]}}");
    for status in [301, 302, 303, 307, 308] {
        let route = accepted(&redirect(&format!("statusCode: {status}")));
        assert_eq!(route.rules()[0].redirect.as_ref().unwrap().status.as_u16(), status);
    }
    check(&redirect("statusCode: 300"), "UnsupportedValue", "statusCode 300");
    check(&redirect("port: 0"), "UnsupportedValue", "port 0");
    check(&redirect("hostname: 'a b'"), "UnsupportedValue", "hostname");
    check(&redirect("path: {type: ReplaceFullPath}"), "UnsupportedValue", "exactly the field of its type");
    check(
        &redirect("path: {type: ReplaceFullPath, replaceFullPath: '/a?b'}"),
        "UnsupportedValue",
        "plain path",
    );
    check("{filters: [{type: RequestRedirect}]}", "UnsupportedValue", "settings are missing");
    let with_backend =
        "{backendRefs: [{name: b, port: 1}], filters: [{type: RequestRedirect, requestRedirect: {port: 1}}]}";
    check(with_backend, "UnsupportedValue", "cannot be used with backendRefs");
}

#[test]
fn a_prefix_is_only_replaced_where_one_is_matched() {
    let path = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}";
    let rewrite = |matches: &str| {
        format!("{{matches: [{matches}], filters: [{{type: URLRewrite, urlRewrite: {{{path}}}}}]}}")
    };
    accepted(&rewrite("{path: {type: PathPrefix, value: /a}}"));
    check(&rewrite("{path: {type: Exact, value: /a}}"), "UnsupportedValue", "ReplacePrefixMatch");
    check(&rewrite("{}, {path: {type: Exact, value: /a}}"), "UnsupportedValue", "ReplacePrefixMatch");
}

#[test]
fn a_filter_is_given_once() {
    let one = "{type: RequestHeaderModifier, requestHeaderModifier: {remove: [x]}}";
    check(&format!("{{filters: [{one}, {one}]}}"), "UnsupportedValue", "more than once");
}

#[test]
fn weights_and_ports_are_in_range() {
    check("{backendRefs: [{name: b, port: 1, weight: 1000001}]}", "UnsupportedValue", "weight");
    check("{backendRefs: [{name: b, port: 1, weight: -1}]}", "UnsupportedValue", "weight");
    check("{backendRefs: [{name: b, port: 65536}]}", "UnsupportedValue", "port");
    assert_eq!(accepted("{backendRefs: [{name: b, port: 1}]}").rules()[0].backends[0].weight, 1);
}

fn grpc(method: &str) -> Route {
    let yaml = format!(
        "{{kind: GRPCRoute, apiVersion: v1, metadata: {{name: r, namespace: shop}}, spec: {{rules: [{{matches: [{{method: {method}}}]}}]}}}}"
    );
    World::new(&yaml).routes.remove(0)
}

#[track_caller]
fn check_grpc(method: &str, matching: &[&str], other: &[&str]) {
    let route = grpc(method);
    assert_eq!(route.refusals, []);
    let matched: &PathMatch = &route.rules()[0].matches[0].path;
    assert!(matching.iter().all(|path| matched.matches(path)), "{matched}");
    assert!(!other.iter().any(|path| matched.matches(path)), "{matched}");
}

#[test]
fn grpc_methods_are_paths() {
    check_grpc("{service: a.B, method: C}", &["/a.B/C"], &["/a.B/D", "/a.B/C/D", "/axB/C"]);
    check_grpc("{service: a.B}", &["/a.B/C", "/a.B/D"], &["/a.BC/D"]);
    check_grpc("{method: C}", &["/a.B/C", "/x/C"], &["/a.B/D", "/C", "/a/b/C"]);
    check_grpc("{}", &["/a.B/C"], &[]);
    check_grpc(
        "{type: RegularExpression, service: 'a.*', method: 'C|D'}",
        &["/abc/C", "/a/D"],
        &["/b/C", "/a/E"],
    );
    assert_eq!(grpc("{type: RegularExpression, service: '('}").refusals.len(), 1);
}

#[test]
fn tls_and_udp_are_not_built_yet() {
    let yaml = |kind: &str| {
        format!(
            "{{kind: {kind}, apiVersion: v1, metadata: {{name: r, namespace: shop}}, spec: {{hostnames: [a.b], rules: []}}}}"
        )
    };
    for kind in ["TLSRoute", "UDPRoute"] {
        let route = World::new(&yaml(kind)).routes.remove(0);
        assert!(route.refusals[0].message.contains(kind), "{:?}", route.refusals);
    }
}

#[test]
fn what_later_versions_bring_is_refused_and_not_lost() {
    let object = serde_json::json!({
        "metadata": {"name": "r", "namespace": "shop"},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": "web"}],
            "rules": [{"filters": [{"type": "Teleport"}], "matches": [{"path": {"type": "Fuzzy", "value": "/"}}]}],
        },
    });
    let route = Route::from_json(RouteKind::Http, &object).unwrap();
    assert!(route.binds_to(&"shop/web".parse().unwrap()));
    let messages: Vec<_> = route.refusals.iter().map(|refusal| refusal.message.as_str()).collect();
    assert!(messages.iter().any(|message| message.contains("Teleport")), "{messages:?}");
    assert!(messages.iter().any(|message| message.contains("Fuzzy")), "{messages:?}");
}

#[test]
fn what_cannot_be_read_still_claims_its_ports() {
    let parents = serde_json::json!([{"name": 7}, {"group": "", "kind": "Service", "name": "web"}]);
    let object = serde_json::json!({
        "metadata": {"name": "r", "namespace": "shop"}, "spec": {"parentRefs": parents, "rules": "many"},
    });
    let route = Route::from_json(RouteKind::Http, &object).unwrap();
    assert!(route.binds_to(&"shop/web".parse().unwrap()));
    assert_eq!(route.refusals.len(), 1);
}

#[test]
fn a_tcp_route_has_one_rule() {
    let yaml = "{kind: TCPRoute, apiVersion: v1, metadata: {name: r, namespace: shop}, spec: {rules: [{backendRefs: []}, {backendRefs: []}]}}";
    assert!(World::new(yaml).routes[0].refusals[0].message.contains("one rule"));
}
