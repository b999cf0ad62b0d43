//! gRPC: the interop suite of gRPC's own authors, and GRPCRoutes.
//!
//! `plain` is not in the mesh, `open` is permissive, `strict` is strict; `HEDDLE_RPCS` (10000) is the length of the soaks.
//! Routes are tried in `shop`, whose servers say what they received.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::manifest::{
    backends, client, grpc_route, h2c_service, http_route, http_server, meshed_namespace, namespace,
    pod_with, service,
};
use e2e::{Reply, World, tool, until};

const CLIENT: &str = "shop/client";
/// One run of the interop client.
const CASE: Duration = Duration::from_secs(60);
/// One soak.
const SOAK: Duration = Duration::from_secs(230);
/// gRPC's status codes.
const UNIMPLEMENTED: &str = "12";
const UNAVAILABLE: &str = "14";

/// Every case that needs no credentials.
const CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

e2e::prove!(
    up,
    [
        interop_passes_from_the_mesh_to_an_unmeshed_server,
        interop_passes_from_outside_to_a_meshed_server,
        interop_passes_under_strict_mtls,
        interop_passes_behind_a_weighted_route,
        a_soak_passes_from_the_mesh_to_an_unmeshed_server,
        a_soak_passes_from_outside_to_a_meshed_server,
        a_soak_passes_under_strict_mtls,
        a_soak_passes_behind_a_weighted_route,
        services_and_methods_match,
        services_and_methods_match_regular_expressions,
        headers_match,
        the_most_specific_match_wins,
        a_split_of_90_to_10_holds_over_1000_calls,
        a_weight_of_zero_gets_nothing,
        request_headers_are_modified_by_the_rule_then_by_the_backend,
        response_headers_are_modified_by_the_rule_and_by_the_backend,
        a_call_that_no_rule_matches_is_unimplemented,
        a_call_to_an_invalid_backend_is_unavailable,
        an_invalid_backend_is_unavailable_for_its_share,
        a_call_to_a_service_without_endpoints_is_unavailable,
        a_call_whose_server_dies_is_unavailable,
        a_route_governs_a_port_that_declares_nothing,
        a_grpc_route_outranks_an_http_route,
        the_status_of_a_good_route_is_accepted_and_resolved,
    ]
);

fn up() -> Result<World> {
    let strict = "labels: {heddle.dev/inject: enabled}, annotations: {heddle.dev/mtls-mode: strict}";
    let ports = [(80, 8080)];
    let manifests = [
        namespace("plain", ""),
        meshed_namespace("open"),
        namespace("strict", strict),
        meshed_namespace("shop"),
        ["plain", "open", "strict", "shop"].map(|home| client(home, "client")).concat(),
        ["plain", "open", "strict"].map(|home| interop_server(home, "v1")).concat(),
        interop_server("strict", "v2"),
        ["plain", "open", "strict"].map(|home| service(home, "interop", "app: interop", &ports)).concat(),
        ["v1", "v2"].map(|v| h2c_service("strict", v, &format!("version: {v}"), &ports)).concat(),
        h2c_service("strict", "split", "app: interop", &ports),
        grpc_route("strict", "split", "split", &format!("- {}", backends(80, &[("v1", 50), ("v2", 50)]))),
        ["web-v1", "web-v2"]
            .map(|name| http_server("shop", name, &format!("app: web, name: {name}")))
            .concat(),
        ["web-v1", "web-v2"].map(|name| h2c_service("shop", name, &format!("name: {name}"), &ports)).concat(),
    ];
    World::up("grpc", &[], &manifests.concat())
}

fn interop_server(namespace: &str, version: &str) -> String {
    let program = tool("grpc-server").expect("the conformance programs are built");
    let command = [program.as_str(), "--port", "8080", "--use_tls=false"];
    let ready = "readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}";
    pod_with(namespace, version, &format!("app: interop, version: {version}"), &command, ready)
}

/// Every case, from a pod to a Service; all that failed are told.
fn interop(world: &World, pod: &str, host: &str) -> Result<()> {
    let mut failed = Vec::new();
    for case in CASES {
        if let Err(error) = interop_case(world, pod, host, case, &[], CASE) {
            failed.push(format!("{case}: {error:#}"));
        }
    }
    ensure!(
        failed.is_empty(),
        "from {pod} to {host}, {} of {}:\n{}",
        failed.len(),
        CASES.len(),
        failed.join("\n")
    );
    Ok(())
}

fn interop_case(
    world: &World,
    pod: &str,
    host: &str,
    case: &str,
    more: &[&str],
    limit: Duration,
) -> Result<String> {
    let (program, case, host) =
        (tool("grpc-client")?, format!("--test_case={case}"), format!("--server_host={host}"));
    let command = [&[program.as_str(), &case, &host, "--server_port=80", "--use_tls=false"], more].concat();
    let said = world.start(pod, &command)?.finish(limit)?.good()?;
    Ok(said.out + &said.err)
}

/// So many calls of gRPC's usual size (a quarter of a MiB each way), and not one may fail.
fn soak(world: &World, pod: &str, host: &str) -> Result<()> {
    let calls: u64 = std::env::var("HEDDLE_RPCS").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let iterations = format!("--soak_iterations={calls}");
    let bounds = [
        "--soak_num_threads=4",
        "--soak_max_failures=0",
        "--soak_overall_timeout_seconds=220",
        "--soak_per_iteration_max_acceptable_latency_ms=10000",
    ];
    let said =
        interop_case(world, pod, host, "rpc_soak", &[&[iterations.as_str()], &bounds[..]].concat(), SOAK)?;
    ensure!(said.contains(&format!("soak test successes: {calls} / {calls} iterations")), "{said}");
    Ok(())
}

fn interop_passes_from_the_mesh_to_an_unmeshed_server(world: &World) -> Result<()> {
    interop(world, "open/client", "interop.plain")
}

fn interop_passes_from_outside_to_a_meshed_server(world: &World) -> Result<()> {
    interop(world, "plain/client", "interop.open")
}

fn interop_passes_under_strict_mtls(world: &World) -> Result<()> {
    let refused = interop_case(world, "plain/client", "interop.strict", "empty_unary", &[], CASE);
    ensure!(refused.is_err(), "the namespace is not strict: a caller from outside came in");
    interop(world, "strict/client", "interop")
}

fn interop_passes_behind_a_weighted_route(world: &World) -> Result<()> {
    // 14 calls each.
    split_over_both(world, || (0..4).try_for_each(|_| interop(world, "strict/client", "split")))
}

fn a_soak_passes_from_the_mesh_to_an_unmeshed_server(world: &World) -> Result<()> {
    soak(world, "open/client", "interop.plain")
}

fn a_soak_passes_from_outside_to_a_meshed_server(world: &World) -> Result<()> {
    soak(world, "plain/client", "interop.open")
}

fn a_soak_passes_under_strict_mtls(world: &World) -> Result<()> {
    soak(world, "strict/client", "interop")
}

fn a_soak_passes_behind_a_weighted_route(world: &World) -> Result<()> {
    split_over_both(world, || soak(world, "strict/client", "split"))
}

/// Each of the two servers has its part of what the function does.
fn split_over_both(world: &World, does: impl Fn() -> Result<()>) -> Result<()> {
    let served = || -> Result<[f64; 2]> { Ok([served(world, "strict/v1")?, served(world, "strict/v2")?]) };
    let before = served()?;
    does()?;
    let after = served()?;
    let parts = [after[0] - before[0], after[1] - before[1]];
    // Of 40 calls a server gets fewer than 4 once in many millions of runs.
    ensure!(parts[0] + parts[1] >= 40.0, "only {parts:?} calls: too few to tell");
    let fair = parts.iter().all(|part| *part >= 0.1 * (parts[0] + parts[1]));
    ensure!(fair, "the servers' proxies counted {parts:?} calls");
    Ok(())
}

/// The calls that a server's proxy has counted.
fn served(world: &World, pod: &str) -> Result<f64> {
    let metrics = world.metrics(pod)?;
    let counts =
        metrics.lines().filter(|line| line.contains("_server_") && line.contains("_duration_seconds_count{"));
    Ok(counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

/// A Service that selects both servers, and a GRPCRoute on it.
fn parent(world: &World, name: &str, rules: &str) -> Result<()> {
    let service = h2c_service("shop", name, "app: web", &[(80, 8080)]);
    world.apply(&[service, grpc_route("shop", name, name, rules)].concat())
}

/// A call as a gRPC client makes it; the server is none, but says what it received.
fn call(world: &World, host: &str, method: &str, headers: &[&str]) -> Result<Reply> {
    let url = format!("http://{host}/{method}");
    let grpc =
        ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers", "-d", ""];
    let headers: Vec<&str> = headers.iter().flat_map(|header| ["-H", *header]).collect();
    world.curl(CLIENT, &[&grpc, &headers[..], &[&url]].concat())
}

/// Rules that mark the calls they match, so that the server's account tells which one won.
fn marking(rules: &[(&str, &str)]) -> String {
    let backend = backends(80, &[("web-v1", 1)]);
    let one = |(name, matches): &(&str, &str)| {
        let set = format!("requestHeaderModifier: {{set: [{{name: x-rule, value: {name}}}]}}");
        let filter = format!("filters: [{{type: RequestHeaderModifier, {set}}}]");
        format!("- matches: [{{{matches}}}]\n  {filter}\n  {backend}\n")
    };
    rules.iter().map(one).collect()
}

/// The mark that a call got, or the gRPC status that the mesh gave it.
#[track_caller]
fn check(world: &World, host: &str, method: &str, headers: &[&str], expected: &str) -> Result<()> {
    let reply = call(world, host, method, headers)?;
    let mark = reply.seen("x-rule").or_else(|| reply.header("grpc-status")).unwrap_or_default();
    ensure!(mark == expected, "{method} {headers:?}: {mark:?}, not {expected:?}: {reply:?}");
    Ok(())
}

fn services_and_methods_match(world: &World) -> Result<()> {
    let rules = [
        ("both", "method: {service: shop.Cart, method: Add}"),
        ("service", "method: {type: Exact, service: shop.Stock}"),
        ("method", "method: {method: Ping}"),
    ];
    parent(world, "exact", &marking(&rules))?;
    check(world, "exact", "shop.Cart/Add", &[], "both")?;
    check(world, "exact", "shop.Cart/Ping", &[], "method")?;
    check(world, "exact", "shop.Stock/List", &[], "service")?;
    check(world, "exact", "any.Other/Ping", &[], "method")?;
    // Neither more nor less, nor in other letters.
    for method in ["shop.Cart/AddAll", "shop.Carts/Add", "shop.Cart/add", "shop.cart/Add", "shop.Stock2/List"]
    {
        check(world, "exact", method, &[], UNIMPLEMENTED)?;
    }
    Ok(())
}

fn services_and_methods_match_regular_expressions(world: &World) -> Result<()> {
    let rules = [
        (
            "both",
            "method: {type: RegularExpression, service: 'shop\\.(Cart|Stock)', method: 'Get[A-Z][a-z]+'}",
        ),
        ("service", "method: {type: RegularExpression, service: 'bank\\..+'}"),
        ("method", "method: {type: RegularExpression, method: 'Pi?ng'}"),
    ];
    parent(world, "regular", &marking(&rules))?;
    check(world, "regular", "shop.Stock/GetItem", &[], "both")?;
    check(world, "regular", "bank.Account/Open", &[], "service")?;
    check(world, "regular", "any.Other/Png", &[], "method")?;
    // The whole name, not a part of it.
    check(world, "regular", "shop.Stock/GetItems2", &[], UNIMPLEMENTED)?;
    check(world, "regular", "my.bank.Account/Open", &[], UNIMPLEMENTED)
}

fn headers_match(world: &World) -> Result<()> {
    let rules = [
        ("exact", "headers: [{name: X-Tenant, value: blue}]"),
        ("regular", "headers: [{type: RegularExpression, name: x-tenant, value: 'gr(e|a)y'}]"),
        ("method", "method: {service: shop.Cart}, headers: [{name: x-tenant, value: red}]"),
    ];
    parent(world, "headers", &marking(&rules))?;
    check(world, "headers", "shop.Cart/Add", &["x-tenant: blue"], "exact")?;
    check(world, "headers", "shop.Cart/Add", &["x-tenant: gray"], "regular")?;
    check(world, "headers", "shop.Cart/Add", &["x-tenant: red"], "method")?;
    check(world, "headers", "shop.Stock/Add", &["x-tenant: red"], UNIMPLEMENTED)?;
    check(world, "headers", "shop.Cart/Add", &["x-tenant: grays"], UNIMPLEMENTED)?;
    check(world, "headers", "shop.Cart/Add", &[], UNIMPLEMENTED)
}

fn the_most_specific_match_wins(world: &World) -> Result<()> {
    // Deliberately in an order in which the first match would be wrong.
    let rules = [
        ("headers", "headers: [{name: a, value: '1'}, {name: b, value: '1'}]"),
        ("method", "method: {method: Add}"),
        ("service", "method: {service: shop.Cart}"),
        ("service-header", "method: {service: shop.Cart}, headers: [{name: a, value: '1'}]"),
        ("both", "method: {service: shop.Cart, method: Add}"),
    ];
    parent(world, "precise", &marking(&rules))?;
    let (one, two) = (&["a: 1"][..], &["a: 1", "b: 1"][..]);
    check(world, "precise", "any.Other/Get", two, "headers")?;
    check(world, "precise", "any.Other/Add", two, "method")?;
    check(world, "precise", "shop.Cart/Get", &[], "service")?;
    check(world, "precise", "shop.Cart/Get", one, "service-header")?;
    check(world, "precise", "shop.Cart/Add", two, "both")
}

/// Calls over HTTP/2, all answered; the parts of the two servers.
fn load(world: &World, host: &str, calls: u64) -> Result<e2e::Load> {
    let (url, count) = (format!("http://{host}/shop.Cart/Add"), calls.to_string());
    let grpc =
        ["--http2", "--connections", "4", "--header", "content-type:application/grpc", "--requests", &count];
    let load = world.load(CLIENT, &url, &grpc)?.all_well(calls);
    ensure!(load.by("web-v1") + load.by("web-v2") == calls, "the mesh answered some itself: {load:?}");
    Ok(load)
}

fn a_split_of_90_to_10_holds_over_1000_calls(world: &World) -> Result<()> {
    parent(world, "weighted", &format!("- {}", backends(80, &[("web-v1", 90), ("web-v2", 10)])))?;
    // Four standard deviations of a fair 90/10 over 1,000.
    load(world, "weighted", 1000)?.share("web-v1", 90, 4);
    Ok(())
}

fn a_weight_of_zero_gets_nothing(world: &World) -> Result<()> {
    parent(world, "zero", &format!("- {}", backends(80, &[("web-v1", 0), ("web-v2", 1)])))?;
    assert_eq!(load(world, "zero", 300)?.by("web-v2"), 300);
    Ok(())
}

/// A rule with a header modifier of its own and another at its backendRef.
fn modified(world: &World, name: &str, kind: &str, rule: &str, backend: &str) -> Result<()> {
    let field = format!("{}{}", kind[..1].to_lowercase(), &kind[1..]);
    let filter = |changes: &str| format!("filters: [{{type: {kind}, {field}: {{{changes}}}}}]");
    let backend = format!("backendRefs: [{{name: web-v1, port: 80, {}}}]", filter(backend));
    parent(world, name, &format!("- {}\n  {backend}", filter(rule)))
}

const RULE: &str = "set: [{name: X-Set, value: rule}, {name: x-both, value: rule}], add: [{name: X-Add, value: rule}], remove: [X-Remove]";
const BACKEND: &str =
    "set: [{name: x-both, value: backend}], add: [{name: x-add, value: backend}], remove: [x-drop]";

fn request_headers_are_modified_by_the_rule_then_by_the_backend(world: &World) -> Result<()> {
    modified(world, "asked", "RequestHeaderModifier", RULE, BACKEND)?;
    let sent = ["x-set: mine", "x-add: mine", "x-remove: mine", "x-drop: mine", "x-keep: mine"];
    let reply = call(world, "asked", "shop.Cart/Add", &sent)?;
    let seen = ["x-set", "x-add", "x-remove", "x-drop", "x-keep", "x-both"];
    let seen = seen.map(|name| reply.seen(name).unwrap_or_default());
    assert_eq!(seen, ["rule", "mine, rule, backend", "", "", "mine", "backend"], "{reply:?}");
    assert_eq!(reply.seen("te").as_deref(), Some("trailers"), "gRPC asks for it: {reply:?}");
    Ok(())
}

fn response_headers_are_modified_by_the_rule_and_by_the_backend(world: &World) -> Result<()> {
    let backend = "set: [{name: x-backend, value: backend}], remove: [date]";
    let rule = "set: [{name: X-Set, value: rule}], add: [{name: x-server, value: rule}]";
    modified(world, "answered", "ResponseHeaderModifier", rule, backend)?;
    let reply = call(world, "answered", "shop.Cart/Add", &[])?;
    let seen = ["x-set", "x-server", "x-backend"].map(|name| reply.header(name).unwrap_or_default());
    assert_eq!(seen, ["rule", "web-v1, rule", "backend"], "{reply:?}");
    Ok(())
}

/// An answer of the mesh to a gRPC client: a status in trailers alone.
#[track_caller]
fn check_status(reply: &Reply, status: &str) {
    let header = |name: &str| reply.header(name).unwrap_or_default();
    let seen = (reply.status, header("content-type"), header("grpc-status"), reply.body.as_str());
    assert_eq!(seen, (200, "application/grpc".to_owned(), status.to_owned(), ""), "{reply:?}");
    assert!(!header("grpc-message").is_empty(), "it should say why: {reply:?}");
    assert!(header("proxy-status").starts_with("heddle"), "{reply:?}");
}

fn a_call_that_no_rule_matches_is_unimplemented(world: &World) -> Result<()> {
    parent(world, "only", &marking(&[("only", "method: {service: shop.Cart}")]))?;
    check(world, "only", "shop.Cart/Add", &[], "only")?;
    check_status(&call(world, "only", "shop.Stock/Add", &[])?, UNIMPLEMENTED);
    Ok(())
}

fn a_call_to_an_invalid_backend_is_unavailable(world: &World) -> Result<()> {
    parent(world, "lost", &format!("- {}", backends(80, &[("nobody", 1)])))?;
    check_status(&call(world, "lost", "shop.Cart/Add", &[])?, UNAVAILABLE);
    let (status, reason, _) = world.condition("grpcroute", "shop/lost", "ResolvedRefs")?;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "BackendNotFound"));
    Ok(())
}

fn a_call_to_a_service_without_endpoints_is_unavailable(world: &World) -> Result<()> {
    world.apply(&h2c_service("shop", "empty", "app: nothing", &[(80, 8080)]))?;
    parent(world, "emptied", &format!("- {}", backends(80, &[("empty", 1)])))?;
    for host in ["empty", "emptied"] {
        check_status(&call(world, host, "shop.Cart/Add", &[])?, UNAVAILABLE);
    }
    Ok(())
}

fn an_invalid_backend_is_unavailable_for_its_share(world: &World) -> Result<()> {
    parent(world, "half", &format!("- {}", backends(80, &[("web-v1", 50), ("nobody", 50)])))?;
    let grpc = ["--http2", "--header", "content-type:application/grpc", "--requests", "400"];
    let load = world.load(CLIENT, "http://half/shop.Cart/Add", &grpc)?.all_well(400);
    // An answer of the mesh names no server.
    assert_eq!(load.by("web-v1") + load.by(""), 400, "{load:?}");
    load.share("web-v1", 50, 10);
    Ok(())
}

fn a_call_whose_server_dies_is_unavailable(world: &World) -> Result<()> {
    let counts = format!("http://{}:8080/counts", world.pod_ip("shop/web-v2")?);
    let counts = || Ok::<_, anyhow::Error>(world.curl("plain/client", &[&counts])?.body);
    let before = counts()?;
    let grpc = ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "-d", ""];
    let call_of_a_minute = ["curl", "-sS", "-i", "--max-time", "60", "http://web-v2/delay/60000"];
    let mut waiting = world.start(CLIENT, &[&call_of_a_minute[..], &grpc].concat())?;
    until("the call has come", CASE, || {
        ensure!(!waiting.is_over(), "the call is over");
        ensure!(counts()? != before, "the server has had no call");
        Ok(())
    })?;
    world.lab(&["kill", "shop/web-v2", "-c", "app"])?.good()?;
    check_status(&Reply::parse(&waiting.finish(CASE)?.good()?.out)?, UNAVAILABLE);
    until("the server is back", CASE, || {
        ensure!(call(world, "web-v2", "shop.Cart/Add", &[])?.server() == "web-v2");
        Ok(())
    })
}

fn a_route_governs_a_port_that_declares_nothing(world: &World) -> Result<()> {
    let rules = marking(&[("cart", "method: {service: shop.Cart}")]);
    for (name, route) in [("unnamed", "unnamed"), ("named", "named:80")] {
        let service = service("shop", name, "app: web", &[(80, 8080), (81, 8080)]);
        world.apply(&[service, grpc_route("shop", name, route, &rules)].concat())?;
        check(world, name, "shop.Cart/Add", &[], "cart")?;
        check(world, name, "shop.Stock/Add", &[], UNIMPLEMENTED)?;
    }
    // The route names port 80, and leaves 81 alone.
    assert!(call(world, "named:81", "shop.Stock/Add", &[])?.server().starts_with("web-"));
    Ok(())
}

fn a_grpc_route_outranks_an_http_route(world: &World) -> Result<()> {
    parent(world, "ranked", &marking(&[("grpc", "method: {service: shop.Cart}")]))?;
    world.apply(&http_route("shop", "ranked", "ranked", &format!("- {}", backends(80, &[("web-v2", 1)]))))?;
    check(world, "ranked", "shop.Cart/Add", &[], "grpc")?;
    // One kind governs the port: what its rules do not match does not fall through to the other.
    check(world, "ranked", "shop.Stock/Add", &[], UNIMPLEMENTED)
}

fn the_status_of_a_good_route_is_accepted_and_resolved(world: &World) -> Result<()> {
    parent(world, "good", &format!("- {}", backends(80, &[("web-v1", 1)])))?;
    for condition in ["Accepted", "ResolvedRefs"] {
        let (status, reason, message) = world.condition("grpcroute", "shop/good", condition)?;
        assert_eq!((status.as_str(), reason.as_str()), ("True", condition), "{message}");
    }
    Ok(())
}
