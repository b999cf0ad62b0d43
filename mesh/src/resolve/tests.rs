use super::*;
use crate::http::{Decision, decide};
use crate::route::{Failure, Governing, ServiceTable};
use crate::testing::{Request, World};
use serde_json::json;

/// A Service `shop/web` with ports of all sorts, backends, and Services that cannot be parents.
const SERVICES: &str = "
{kind: Service, apiVersion: v1, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [
  {name: http, port: 80}, {name: h2c, port: 81, appProtocol: kubernetes.io/h2c}, {name: db, port: 82, appProtocol: tcp},
  {name: any, port: 83}, {name: dns, port: 53, protocol: UDP}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: v1, namespace: shop}, spec: {ports: [{port: 80}, {port: 90, appProtocol: tcp},
  {port: 91, appProtocol: example.com/x}, {port: 92, appProtocol: http}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: headless, namespace: shop}, spec: {clusterIP: None, ports: [{port: 80}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: outside, namespace: shop}, spec: {type: ExternalName, externalName: a.b, ports: [{port: 80}]}}
";

/// A route bound to `shop/web`: kind, name, more of the parentRef, rules.
fn route(kind: &str, name: &str, parent: &str, rules: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    let more = if kind == "TLSRoute" { "hostnames: [web.example.org], " } else { "" };
    format!(
        "\n---\n{{kind: {kind}, apiVersion: v1, metadata: {{name: {name}, namespace: {namespace}, generation: 3}}, spec: {{{more}parentRefs: \
         [{{group: '', kind: Service, name: web, namespace: shop{parent}}}], rules: [{rules}]}}}}"
    )
}

fn to(backend: &str) -> String {
    format!("{{backendRefs: [{{name: {backend}, namespace: shop}}]}}")
}

fn world(routes: &[String]) -> World {
    World::new(&format!("{SERVICES}{}", routes.concat()))
}

fn governing(table: &ServiceTable) -> Vec<String> {
    let shown = |governing: &Governing| {
        let routes =
            governing.routes().iter().map(|route| route.name.to_string()).collect::<Vec<_>>().join("+");
        format!("{} {routes}", governing.kind().map_or("default", |kind| kind.as_str())).trim().to_owned()
    };
    table.ports.iter().map(|(port, table)| format!("{port} {}", shown(&table.governing))).collect()
}

#[track_caller]
fn check_governing(routes: &[String], client: &str, expected: [&str; 4]) {
    assert_eq!(governing(&world(routes).table("shop/web", client)), expected);
}

#[track_caller]
fn check_accepted(routes: &[String], name: &str, status: bool, reason: &str, message: &str) {
    let world = world(routes);
    let verdicts = verdicts(world.route(name), &world);
    let accepted = &verdicts[0].accepted;
    assert_eq!((accepted.status, accepted.reason), (status, reason), "{}", accepted.message);
    assert!(accepted.message.contains(message), "{}", accepted.message);
}

#[track_caller]
fn check_refs(kind: &str, backend: &str, status: bool, reason: &str) {
    let world = world(&[route(kind, "shop/r", "", &format!("{{backendRefs: [{backend}]}}"))]);
    let verdicts = verdicts(world.route("shop/r"), &world);
    let refs = &verdicts[0].resolved_refs;
    assert_eq!((refs.status, refs.reason), (status, reason), "{}", refs.message);
}

#[test]
fn without_routes_a_service_is_its_own_backend() {
    let table = world(&[]).table("shop/web", "shop");
    assert_eq!(governing(&table), ["80 default", "81 default", "82 default", "83 default"]);
    assert!(table.ports.iter().all(|(port, at)| table.backends[at.default].port == *port));
}

#[track_caller]
fn check_backends(routes: &[String], port: u16, expected: &[&str]) {
    let table = world(routes).table("shop/web", "shop");
    let found = table.ports[&port].backends();
    let found: Vec<_> = found.into_iter().map(|ix| table.backends[ix].to_string()).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_ports_backends_are_those_that_its_traffic_can_go_to() {
    let to_v1 =
        "{backendRefs: [{name: v1, port: 80}, {name: gone, port: 80}, {name: v1, port: 90, weight: 0}]}";
    check_backends(&[], 80, &["shop/web:80"]);
    check_backends(&[route("TCPRoute", "shop/r", ", port: 82", to_v1)], 82, &["shop/v1:80"]);
    check_backends(&[route("TLSRoute", "shop/r", ", port: 83", to_v1)], 83, &["shop/web:83"]);
    check_backends(&[route("HTTPRoute", "shop/r", ", port: 80", to_v1)], 80, &["shop/v1:80"]);
    check_backends(&[route("HTTPRoute", "shop/r", "", to_v1)], 81, &["shop/v1:80"]);
    // Nobody says that port 80 speaks HTTP only.
    check_backends(&[route("HTTPRoute", "shop/r", "", to_v1)], 80, &["shop/web:80", "shop/v1:80"]);
}

#[test]
fn a_route_without_a_port_governs_its_own_protocol() {
    let http = route("HTTPRoute", "shop/r", "", &to("v1, port: 80"));
    check_governing(
        &[http],
        "shop",
        ["80 HTTPRoute shop/r", "81 HTTPRoute shop/r", "82 default", "83 HTTPRoute shop/r"],
    );
    let grpc = route("GRPCRoute", "shop/r", "", &to("v1, port: 80"));
    check_governing(
        &[grpc],
        "shop",
        ["80 GRPCRoute shop/r", "81 GRPCRoute shop/r", "82 default", "83 GRPCRoute shop/r"],
    );
}

#[test]
fn a_port_or_its_name_limits_a_route() {
    for parent in [", port: 83", ", sectionName: any", ", port: 83, sectionName: any"] {
        let http = route("HTTPRoute", "shop/r", parent, &to("v1, port: 80"));
        check_governing(&[http], "shop", ["80 default", "81 default", "82 default", "83 HTTPRoute shop/r"]);
    }
}

#[test]
fn a_route_that_names_a_port_declares_its_protocol() {
    let named = |parent: &str| {
        let world = world(&[route("HTTPRoute", "shop/r", parent, &to("v1, port: 80"))]);
        let table = world.table("shop/web", "shop");
        matches!(table.ports[&80].governing, Governing::Http { port_named: true, .. })
    };
    assert!(named(", port: 80") && !named(""));
}

#[test]
fn kinds_win_in_the_specifications_order() {
    let of = |kind: &str, name: &str| route(kind, name, ", port: 83", &to("v1, port: 80"));
    let all = [of("TCPRoute", "shop/t"), of("HTTPRoute", "shop/h"), of("GRPCRoute", "shop/g")];
    check_governing(&all, "shop", ["80 default", "81 default", "82 default", "83 GRPCRoute shop/g"]);
    check_accepted(&all, "shop/g", true, "Accepted", "");
    check_accepted(&all, "shop/h", false, "Conflicted", "port 83 (GRPCRoute shop/g)");
    check_accepted(&all, "shop/t", false, "Conflicted", "port 83 (GRPCRoute shop/g)");
}

#[test]
fn a_route_that_loses_on_some_ports_stays_accepted() {
    let routes = [
        route("HTTPRoute", "shop/h", "", &to("v1, port: 80")),
        route("GRPCRoute", "shop/g", ", port: 81", &to("v1, port: 80")),
    ];
    check_governing(
        &routes,
        "shop",
        ["80 HTTPRoute shop/h", "81 GRPCRoute shop/g", "82 default", "83 HTTPRoute shop/h"],
    );
    check_accepted(&routes, "shop/h", true, "Accepted", "port 81 (GRPCRoute shop/g)");
}

#[test]
fn a_tcp_route_on_a_named_port_makes_it_bytes() {
    let routes = [
        route("HTTPRoute", "shop/h", "", &to("v1, port: 80")),
        route("TCPRoute", "shop/t", ", port: 83", &to("v1, port: 80")),
    ];
    check_governing(
        &routes,
        "shop",
        ["80 HTTPRoute shop/h", "81 HTTPRoute shop/h", "82 default", "83 TCPRoute shop/t"],
    );
    check_accepted(&routes, "shop/t", true, "Accepted", "");
    check_accepted(&routes, "shop/h", true, "Accepted", "port 83 (TCPRoute shop/t)");
}

#[test]
fn without_named_ports_http_outranks_tcp_where_both_fit() {
    let routes = [
        route("HTTPRoute", "shop/h", "", &to("v1, port: 80")),
        route("TCPRoute", "shop/t", "", &to("v1, port: 80")),
    ];
    check_governing(
        &routes,
        "shop",
        ["80 HTTPRoute shop/h", "81 HTTPRoute shop/h", "82 TCPRoute shop/t", "83 HTTPRoute shop/h"],
    );
    check_accepted(&routes, "shop/t", true, "Accepted", "port 80 (HTTPRoute shop/h), port 81");
}

#[test]
fn of_several_tcp_routes_the_oldest_governs() {
    let mut routes =
        [route("TCPRoute", "shop/a", ", port: 82", ""), route("TCPRoute", "shop/b", ", port: 82", "")];
    check_governing(&routes, "shop", ["80 default", "81 default", "82 TCPRoute shop/a", "83 default"]);
    routes[1] = routes[1].replace("generation: 3", "creationTimestamp: '2020-01-01T00:00:00Z'");
    check_governing(&routes, "shop", ["80 default", "81 default", "82 TCPRoute shop/b", "83 default"]);
    check_accepted(&routes, "shop/a", false, "Conflicted", "TCPRoute shop/b");
    check_accepted(&routes, "shop/b", true, "Accepted", "");
}

#[test]
fn consumer_routes_replace_producer_routes_for_their_namespace_alone() {
    let routes = [
        route("HTTPRoute", "shop/p", "", &to("v1, port: 80")),
        route("TCPRoute", "till/c", ", port: 83", &to("v1, port: 80")),
    ];
    let producer = ["80 HTTPRoute shop/p", "81 HTTPRoute shop/p", "82 default", "83 HTTPRoute shop/p"];
    check_governing(&routes, "shop", producer);
    check_governing(&routes, "other", producer);
    check_governing(&routes, "till", ["80 default", "81 default", "82 default", "83 TCPRoute till/c"]);
    // A stranger's consumer route never disables the producer's, nor the other way round.
    check_accepted(&routes, "shop/p", true, "Accepted", "governs traffic to Service shop/web");
    check_accepted(&routes, "till/c", true, "Accepted", "governs traffic to Service shop/web");
}

#[test]
fn a_consumer_route_that_meets_no_port_replaces_nothing() {
    let routes = [
        route("HTTPRoute", "shop/p", ", port: 80", &to("v1, port: 80")),
        route("HTTPRoute", "till/c", ", port: 99", ""),
    ];
    check_governing(&routes, "till", ["80 HTTPRoute shop/p", "81 default", "82 default", "83 default"]);
    check_accepted(&routes, "till/c", false, "NoMatchingParent", "no TCP port");
}

#[test]
fn routes_of_one_kind_merge() {
    let routes = [
        route(
            "HTTPRoute",
            "shop/a",
            "",
            "{matches: [{path: {value: /a}}], backendRefs: [{name: v1, port: 80}]}",
        ),
        route(
            "HTTPRoute",
            "shop/b",
            "",
            "{matches: [{path: {value: /b}}], backendRefs: [{name: v1, port: 92}]}",
        ),
    ];
    let world = world(&routes);
    let table = world.table("shop/web", "shop");
    assert_eq!(forwarded(&table, "GET /a", 0), Ok(80));
    assert_eq!(forwarded(&table, "GET /b", 0), Ok(92));
    assert_eq!(forwarded(&table, "GET /c", 0), Err(Failure::NoRuleMatched));
    check_accepted(&routes, "shop/b", true, "Accepted", "");
}

/// The backend's port that a request to port 80 goes to.
fn forwarded(table: &ServiceTable, line: &str, random: u64) -> Result<u16, Failure> {
    let Governing::Http { table: http, .. } = &table.ports[&80].governing else { panic!("{table:?}") };
    match decide(http, &Request::new(line, &[]).head(), random) {
        Decision::Forward { backend, .. } => Ok(table.backends[backend].port),
        Decision::Fail { failure, .. } => Err(failure),
        Decision::Redirect { location, .. } => panic!("{location:?}"),
    }
}

#[test]
fn a_backend_that_does_not_exist_fails_its_share() {
    let rules = "{backendRefs: [{name: v1, port: 80, weight: 3}, {name: gone, port: 80, weight: 1}]}";
    let table = world(&[route("HTTPRoute", "shop/r", "", rules)]).table("shop/web", "shop");
    let failed =
        (0..400).filter(|random| forwarded(&table, "GET /", *random) == Err(Failure::NoValidBackend)).count();
    assert_eq!(failed, 100);
    assert_eq!(Failure::NoValidBackend.status(), 500);
}

#[test]
fn a_rule_that_leads_nowhere_fails() {
    for backends in ["", "{name: v1, port: 80, weight: 0}", "{name: gone, port: 80}"] {
        let rules = format!("{{backendRefs: [{backends}]}}");
        let table = world(&[route("HTTPRoute", "shop/r", "", &rules)]).table("shop/web", "shop");
        assert_eq!(forwarded(&table, "GET /", 0), Err(Failure::NoValidBackend), "{rules}");
        let table = world(&[route("TCPRoute", "shop/r", ", port: 82", &rules)]).table("shop/web", "shop");
        let Governing::Tcp { table } = &table.ports[&82].governing else { panic!("{table:?}") };
        assert_eq!(table.pick(0), Err(Failure::NoValidBackend), "{rules}");
    }
}

#[test]
fn the_expressions_of_all_routes_of_a_port_are_bounded_and_the_oldest_come_first() {
    let path = |ix: usize| format!("{{path: {{type: RegularExpression, value: '/{ix}'}}}}");
    let many = |from: usize| (from..from + 64).map(path).collect::<Vec<_>>().join(", ");
    let rules = |from: usize| {
        let rule = |from| format!("{{matches: [{}], backendRefs: [{{name: v1, port: 80}}]}}", many(from));
        format!("{}, {}", rule(from), rule(from + 64))
    };
    let routes: Vec<_> =
        (0..5).map(|ix| route("HTTPRoute", &format!("shop/r{ix}"), "", &rules(ix * 128))).collect();
    let table = world(&routes).table("shop/web", "shop");
    assert_eq!(forwarded(&table, "GET /511", 0), Ok(80));
    assert_eq!(forwarded(&table, "GET /512", 0), Err(Failure::NoRuleMatched));
    assert_eq!(table.ports[&80].governing.routes().len(), 5);
    check_accepted(&routes, "shop/r3", true, "Accepted", "governs");
    check_accepted(&routes, "shop/r4", false, "UnsupportedValue", "more than 512 regular expressions");
}

#[test]
fn a_refused_route_claims_its_ports_and_matches_nothing() {
    let bad =
        "{matches: [{path: {type: RegularExpression, value: '('}}], backendRefs: [{name: v1, port: 80}]}";
    let routes = [route("HTTPRoute", "shop/r", "", bad)];
    let table = world(&routes).table("shop/web", "shop");
    assert_eq!(forwarded(&table, "GET /", 0), Err(Failure::NoRuleMatched));
    check_accepted(
        &routes,
        "shop/r",
        false,
        "UnsupportedValue",
        "rules[0].matches[0].path: invalid regular expression",
    );
}

#[test]
fn a_refused_route_disables_no_other() {
    let bad = "{timeouts: {request: 1s}, backendRefs: [{name: v1, port: 80}]}";
    let routes =
        [route("HTTPRoute", "shop/bad", "", bad), route("HTTPRoute", "shop/good", "", &to("v1, port: 80"))];
    assert_eq!(forwarded(&world(&routes).table("shop/web", "shop"), "GET /", 0), Ok(80));
    check_accepted(&routes, "shop/good", true, "Accepted", "");
}

#[test]
fn tls_routes_are_refused_and_claim_tls() {
    let routes = [route("TLSRoute", "shop/t", ", port: 83", &to("v1, port: 80"))];
    check_governing(&routes, "shop", ["80 default", "81 default", "82 default", "83 TLSRoute shop/t"]);
    check_accepted(&routes, "shop/t", false, "UnsupportedValue", "TLSRoute");
}

#[test]
fn udp_routes_are_refused_and_claim_nothing() {
    let routes = [route("UDPRoute", "shop/u", "", &to("v1, port: 80"))];
    check_governing(&routes, "shop", ["80 default", "81 default", "82 default", "83 default"]);
    check_accepted(&routes, "shop/u", false, "UnsupportedValue", "UDPRoute");
}

#[test]
fn parents_that_cannot_be_are_refused_with_the_reason() {
    let bound = |service: &str| {
        [route("HTTPRoute", "shop/r", "", "").replace("name: web", &format!("name: {service}"))]
    };
    check_accepted(&bound("headless"), "shop/r", false, "NoMatchingParent", "headless");
    check_accepted(&bound("outside"), "shop/r", false, "NoMatchingParent", "ExternalName");
    check_accepted(&bound("gone"), "shop/r", false, "NoMatchingParent", "shop/gone does not exist");
    let table = world(&bound("headless")).table("shop/headless", "shop");
    assert_eq!(governing(&table), ["80 default"]);
    let on_tcp = [route("HTTPRoute", "shop/r", ", port: 82", "")];
    check_accepted(&on_tcp, "shop/r", false, "NoMatchingParent", "appProtocol");
}

#[test]
fn references_are_resolved_or_the_reason_told() {
    check_refs("HTTPRoute", "{name: v1, port: 80}", true, "ResolvedRefs");
    check_refs("HTTPRoute", "{name: headless, port: 80}", true, "ResolvedRefs");
    check_refs("HTTPRoute", "{name: v1, namespace: else, port: 80}", false, "BackendNotFound");
    check_refs("HTTPRoute", "{name: v1, port: 8080}", false, "BackendNotFound");
    check_refs("HTTPRoute", "{name: v1}", false, "BackendNotFound");
    check_refs("HTTPRoute", "{name: web, port: 53}", false, "BackendNotFound");
    check_refs("HTTPRoute", "{name: outside, port: 80}", false, "InvalidKind");
    check_refs("HTTPRoute", "{group: example.com, kind: Bucket, name: b}", false, "InvalidKind");
    check_refs("HTTPRoute", "{name: v1, port: 90}", false, "UnsupportedProtocol");
    check_refs("HTTPRoute", "{name: v1, port: 91}", false, "UnsupportedProtocol");
    check_refs("GRPCRoute", "{name: v1, port: 92}", false, "UnsupportedProtocol");
    check_refs("TCPRoute", "{name: v1, port: 91}", true, "ResolvedRefs");
}

#[test]
fn no_grant_is_needed_for_backends_elsewhere() {
    let routes = [route("HTTPRoute", "till/r", "", &to("v1, port: 80"))];
    assert_eq!(forwarded(&world(&routes).table("shop/web", "till"), "GET /", 0), Ok(80));
}

#[test]
fn only_services_are_our_parents() {
    let yaml = route("HTTPRoute", "shop/r", "", "")
        .replace("[{group", "[{name: gw}, {kind: Service, name: web}, {group");
    let world = world(&[yaml]);
    let verdicts = verdicts(world.route("shop/r"), &world);
    assert_eq!(verdicts.len(), 1);
    let written = json!({"group": "", "kind": "Service", "name": "web", "namespace": "shop"});
    assert_eq!(verdicts[0].parent.to_json(), written);
}
