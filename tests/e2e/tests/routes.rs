//! HTTPRoutes on Services: what is matched, who wins, where it goes, and what the status says.
//!
//! Two servers, `web-v1` and `web-v2`. Each rule brings a Service of its own and routes on it, so none meets another.

use anyhow::{Result, ensure};
use e2e::manifest::{backends, client, http_route, http_server, meshed_namespace, service, service_with};
use e2e::{Reply, World};

/// Where most clients are; producers' clients.
const CLIENT: &str = "shop/client";
/// A client in another namespace, which may have routes of its own.
const DESK: &str = "desk/client";

e2e::prove!(
    up,
    [
        a_service_without_routes_reaches_all_of_its_pods,
        a_split_of_90_to_10_holds_over_1000_requests,
        a_weight_of_zero_gets_nothing,
        a_header_match_goes_to_the_canary,
        the_most_specific_match_wins,
        the_older_route_wins_between_equals_then_the_first_name,
        a_prefix_matches_whole_path_elements,
        methods_queries_and_regular_expressions_match,
        what_no_rule_matches_is_a_404_that_says_why,
        a_route_with_a_port_leaves_the_other_ports_alone,
        a_missing_backend_is_a_500_for_its_share,
        a_route_without_a_valid_backend_is_a_500_and_its_status_says_why,
        an_invalid_regex_is_refused_in_status_and_other_routes_go_on,
        a_service_without_endpoints_is_a_503_that_says_why,
        a_redirect_is_answered_by_the_mesh,
        request_headers_are_set_added_and_removed,
        a_filter_may_not_touch_framing_or_identity,
        the_status_of_a_good_route_is_accepted_and_resolved,
        producer_routes_hold_for_all_and_consumer_routes_for_their_own_namespace,
        a_backend_may_live_in_another_namespace,
        a_deleted_route_gives_the_service_back_its_own_endpoints,
        the_table_names_routes_backends_and_identities,
    ]
);

fn up() -> Result<World> {
    let manifests = [
        meshed_namespace("shop"),
        meshed_namespace("desk"),
        client("shop", "client"),
        client("desk", "client"),
        http_server("shop", "web-v1", "app: web, version: v1"),
        http_server("shop", "web-v2", "app: web, version: v2"),
        service("shop", "web-v1", "version: v1", &[(80, 8080)]),
        service("shop", "web-v2", "version: v2", &[(80, 8080)]),
    ];
    World::up("routes", &[], &manifests.concat())
}

/// A Service that selects both servers, and the rules of a route on it.
fn parent(world: &World, name: &str, rules: &str) -> Result<()> {
    let service = service("shop", name, "app: web", &[(80, 8080)]);
    world.apply(&[service, http_route("shop", name, name, rules)].concat())
}

/// Who answers: the server's name, or the status if that is not 200.
fn who(world: &World, arguments: &[&str]) -> Result<String> {
    let reply = world.curl(CLIENT, arguments)?;
    Ok(if reply.status == 200 { reply.server() } else { reply.status.to_string() })
}

#[track_caller]
fn check(got: &str, expected: &str, of: &str) {
    assert_eq!(got, expected, "{of}");
}

fn proxy_status(reply: &Reply) -> String {
    reply.header("proxy-status").unwrap_or_default()
}

fn a_service_without_routes_reaches_all_of_its_pods(world: &World) -> Result<()> {
    world.apply(&service("shop", "plain", "app: web", &[(80, 8080)]))?;
    let load = world.load(CLIENT, "http://plain/", &["--requests", "200"])?.all_well(200);
    // How many each gets is the balancer's to decide: one slow answer, and the other one has the rest for a while.
    for server in ["web-v1", "web-v2"] {
        assert!(load.by(server) > 0, "{server} is reached, too: {load:?}");
    }
    Ok(())
}

fn a_split_of_90_to_10_holds_over_1000_requests(world: &World) -> Result<()> {
    parent(world, "split", &format!("- {}", backends(80, &[("web-v1", 90), ("web-v2", 10)])))?;
    let load =
        world.load(CLIENT, "http://split/", &["--requests", "1000", "--connections", "4"])?.all_well(1000);
    // Four standard deviations of a fair 90/10 over 1,000.
    load.share("web-v1", 90, 4);
    load.share("web-v2", 10, 4);
    Ok(())
}

fn a_weight_of_zero_gets_nothing(world: &World) -> Result<()> {
    parent(world, "zero", &format!("- {}", backends(80, &[("web-v1", 0), ("web-v2", 1)])))?;
    let load = world.load(CLIENT, "http://zero/", &["--requests", "200"])?.all_well(200);
    assert_eq!(load.by("web-v2"), 200);
    Ok(())
}

fn a_header_match_goes_to_the_canary(world: &World) -> Result<()> {
    let canary = "- matches: [{headers: [{name: X-Canary, value: 'yes'}]}]\n  ";
    let rules = [canary, &backends(80, &[("web-v2", 1)]), "\n- ", &backends(80, &[("web-v1", 1)])].concat();
    parent(world, "canary", &rules)?;
    let marked = ["--requests", "100", "--header", "x-canary:yes"];
    assert_eq!(world.load(CLIENT, "http://canary/", &marked)?.all_well(100).by("web-v2"), 100);
    let unmarked = ["--requests", "100", "--header", "x-canary:YES"];
    assert_eq!(world.load(CLIENT, "http://canary/", &unmarked)?.all_well(100).by("web-v1"), 100);
    Ok(())
}

/// Rules that mark the requests they match in a header, so that the server's account tells which one won.
fn marking(rules: &[(&str, &str)]) -> String {
    let backend = backends(80, &[("web-v1", 1)]);
    let one = |(name, matches): &(&str, &str)| {
        let mark = format!(
            "filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{{name: x-rule, value: {name}}}]}}}}]"
        );
        format!("- matches: [{{{matches}}}]\n  {mark}\n  {backend}\n")
    };
    rules.iter().map(one).collect()
}

/// The mark that a request got; the status if it was not 200.
fn mark(world: &World, arguments: &[&str]) -> Result<String> {
    let reply = world.curl(CLIENT, arguments)?;
    Ok(reply.seen("x-rule").unwrap_or_else(|| reply.status.to_string()))
}

fn the_most_specific_match_wins(world: &World) -> Result<()> {
    // Deliberately in an order in which the first match would be wrong.
    let rules = marking(&[
        ("any", "path: {type: PathPrefix, value: /}"),
        ("prefix", "path: {type: PathPrefix, value: /shop}"),
        ("query", "path: {type: PathPrefix, value: /shop}, queryParams: [{name: q, value: '1'}]"),
        ("header", "path: {type: PathPrefix, value: /shop}, headers: [{name: a, value: '1'}]"),
        (
            "headers",
            "path: {type: PathPrefix, value: /shop}, headers: [{name: a, value: '1'}, {name: b, value: '1'}]",
        ),
        ("method", "path: {type: PathPrefix, value: /shop}, method: POST"),
        ("longer", "path: {type: PathPrefix, value: /shop/cart}"),
        ("exact", "path: {type: Exact, value: /shop/cart}"),
    ]);
    parent(world, "precise", &rules)?;
    let of = |path: &str, more: &[&str], expected: &str| -> Result<()> {
        let url = format!("http://precise{path}");
        check(&mark(world, &[more, &[url.as_str()]].concat())?, expected, &format!("{path} {more:?}"));
        Ok(())
    };
    of("/", &[], "any")?;
    of("/shop", &[], "prefix")?;
    of("/shop?q=1", &[], "query")?;
    of("/shop?q=1", &["-H", "a: 1"], "header")?;
    of("/shop", &["-H", "a: 1", "-H", "b: 1"], "headers")?;
    of("/shop", &["-H", "a: 1", "-H", "b: 1", "-X", "POST"], "method")?;
    of("/shop/cart/1", &["-H", "a: 1", "-X", "POST"], "longer")?;
    of("/shop/cart", &["-H", "a: 1", "-X", "POST"], "exact")
}

fn the_older_route_wins_between_equals_then_the_first_name(world: &World) -> Result<()> {
    let aged = |name: &str, year: u32, mark: &str| {
        let rules = marking(&[(mark, "path: {type: PathPrefix, value: /}")]);
        let route = http_route("shop", name, "aged", &rules);
        let dated = format!("metadata: {{creationTimestamp: '{year}-01-01T00:00:00Z', ");
        route.replacen("metadata: {", &dated, 1)
    };
    let service = service("shop", "aged", "app: web", &[(80, 8080)]);
    world.apply(&[service, aged("a-young", 2025, "young"), aged("b-old", 2024, "old")].concat())?;
    check(&mark(world, &["http://aged/"])?, "old", "the older route");
    // Of the same age: the one whose name comes first.
    world.apply(&[aged("a-first", 2023, "first"), aged("b-second", 2023, "second")].concat())?;
    world.lab(&["wait", "httproute", "shop/b-second"])?.good()?;
    check(&mark(world, &["http://aged/"])?, "first", "of two of one age");
    Ok(())
}

fn a_prefix_matches_whole_path_elements(world: &World) -> Result<()> {
    parent(world, "elements", &marking(&[("shop", "path: {type: PathPrefix, value: /shop}")]))?;
    for (path, expected) in [("/shop", "shop"), ("/shop/", "shop"), ("/shop/a", "shop"), ("/shopping", "404")]
    {
        check(&mark(world, &[&format!("http://elements{path}")])?, expected, path);
    }
    Ok(())
}

fn methods_queries_and_regular_expressions_match(world: &World) -> Result<()> {
    let rules = marking(&[
        ("path", "path: {type: RegularExpression, value: '/v[0-9]+/items'}"),
        ("delete", "method: DELETE"),
        ("header", "headers: [{type: RegularExpression, name: x-id, value: '[a-f0-9]{4}'}]"),
        ("query", "queryParams: [{type: RegularExpression, name: lang, value: 'd[ek]'}]"),
    ]);
    parent(world, "regular", &rules)?;
    let of = |path: &str, more: &[&str], expected: &str| -> Result<()> {
        let url = format!("http://regular{path}");
        check(&mark(world, &[more, &[url.as_str()]].concat())?, expected, &format!("{path} {more:?}"));
        Ok(())
    };
    of("/v12/items", &[], "path")?;
    of("/vx/items", &[], "404")?;
    of("/", &["-X", "DELETE"], "delete")?;
    of("/", &["-H", "X-Id: 0fa9"], "header")?;
    of("/", &["-H", "X-Id: nope"], "404")?;
    of("/?lang=dk", &[], "query")?;
    of("/?lang=en&lang=de", &[], "404")
}

fn what_no_rule_matches_is_a_404_that_says_why(world: &World) -> Result<()> {
    parent(
        world,
        "strictly",
        &format!("- matches: [{{path: {{value: /only}}}}]\n  {}", backends(80, &[("web-v1", 1)])),
    )?;
    check(&who(world, &["http://strictly/only"])?, "web-v1", "/only");
    let reply = world.curl(CLIENT, &["http://strictly/other"])?;
    assert_eq!((reply.status, reply.server().as_str()), (404, ""), "{reply:?}");
    assert!(proxy_status(&reply).contains("no-matching-rule"), "{reply:?}");
    Ok(())
}

fn a_route_with_a_port_leaves_the_other_ports_alone(world: &World) -> Result<()> {
    let service = service("shop", "ports", "app: web", &[(80, 8080), (81, 8080)]);
    let rules = format!("- matches: [{{path: {{value: /only}}}}]\n  {}", backends(80, &[("web-v1", 1)]));
    world.apply(&[service, http_route("shop", "ports", "ports:80", &rules)].concat())?;
    check(&who(world, &["http://ports/"])?, "404", "port 80, which the route governs");
    let other = world.curl(CLIENT, &["http://ports:81/"])?;
    assert!(other.server().starts_with("web-"), "port 81, which it does not: {other:?}");
    Ok(())
}

fn a_missing_backend_is_a_500_for_its_share(world: &World) -> Result<()> {
    parent(world, "half", &format!("- {}", backends(80, &[("web-v1", 50), ("nobody", 50)])))?;
    let load = world.load(CLIENT, "http://half/", &["--requests", "400"])?;
    assert_eq!(load.answered(), 400, "{load:?}");
    assert_eq!(load.with_status(500) + load.by("web-v1"), 400, "{load:?}");
    load.share("web-v1", 50, 10);
    Ok(())
}

fn a_route_without_a_valid_backend_is_a_500_and_its_status_says_why(world: &World) -> Result<()> {
    parent(world, "lost", &format!("- {}", backends(80, &[("nobody", 1)])))?;
    let reply = world.curl(CLIENT, &["http://lost/"])?;
    assert_eq!(reply.status, 500, "{reply:?}");
    assert!(!proxy_status(&reply).is_empty(), "{reply:?}");
    let (status, reason, message) = world.condition("httproute", "shop/lost", "ResolvedRefs")?;
    assert_eq!((status.as_str(), reason.as_str()), ("False", "BackendNotFound"));
    assert!(message.contains("nobody"), "the message should name the backend: {message}");
    check(&world.condition("httproute", "shop/lost", "Accepted")?.0, "True", "it is accepted all the same");
    Ok(())
}

fn an_invalid_regex_is_refused_in_status_and_other_routes_go_on(world: &World) -> Result<()> {
    let broken = marking(&[("broken", "path: {type: RegularExpression, value: '/a(b'}")]);
    parent(world, "broken", &broken)?;
    parent(world, "sound", &marking(&[("sound", "path: {type: RegularExpression, value: '/a(b)?'}")]))?;
    let (status, _, message) = world.condition("httproute", "shop/broken", "Accepted")?;
    check(&status, "False", &message);
    assert!(message.contains("/a(b"), "the message should quote the expression: {message}");
    check(&mark(world, &["http://sound/ab"])?, "sound", "another route");
    // It never opens: its Service's own endpoints stay behind it.
    let reply = world.curl(CLIENT, &["http://broken/ab"])?;
    assert!(reply.status >= 400 && reply.server().is_empty(), "{reply:?}");
    Ok(())
}

fn a_service_without_endpoints_is_a_503_that_says_why(world: &World) -> Result<()> {
    world.apply(&service("shop", "empty", "app: nothing", &[(80, 8080)]))?;
    parent(world, "emptied", &format!("- {}", backends(80, &[("empty", 1)])))?;
    for url in ["http://empty/", "http://emptied/"] {
        let reply = world.curl(CLIENT, &[url])?;
        assert_eq!(reply.status, 503, "{url}: {reply:?}");
        assert!(!proxy_status(&reply).is_empty(), "{url}: {reply:?}");
    }
    Ok(())
}

fn a_redirect_is_answered_by_the_mesh(world: &World) -> Result<()> {
    let redirect = "requestRedirect: {scheme: https, hostname: example.org, statusCode: 301}";
    parent(world, "moved", &format!("- filters: [{{type: RequestRedirect, {redirect}}}]"))?;
    let reply = world.curl(CLIENT, &["http://moved/a/b?c=d"])?;
    assert_eq!((reply.status, reply.server().as_str()), (301, ""), "{reply:?}");
    check(&reply.header("location").unwrap_or_default(), "https://example.org/a/b?c=d", "location");
    Ok(())
}

fn request_headers_are_set_added_and_removed(world: &World) -> Result<()> {
    let modifier =
        "set: [{name: x-set, value: new}], add: [{name: x-add, value: second}], remove: [x-remove]";
    let rules = format!(
        "- filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{{modifier}}}}}]\n  {}",
        backends(80, &[("web-v1", 1)])
    );
    parent(world, "headers", &rules)?;
    let sent = [
        "-H",
        "X-Set: old",
        "-H",
        "X-Add: first",
        "-H",
        "X-Remove: me",
        "-H",
        "X-Keep: kept",
        "http://headers/",
    ];
    let reply = world.curl(CLIENT, &sent)?;
    let seen = ["x-set", "x-add", "x-remove", "x-keep"].map(|name| reply.seen(name).unwrap_or_default());
    assert_eq!(seen, ["new", "first, second", "", "kept"], "{reply:?}");
    Ok(())
}

fn a_filter_may_not_touch_framing_or_identity(world: &World) -> Result<()> {
    for header in ["Content-Length", "X-Forwarded-Client-Cert", "Connection"] {
        let modifier = format!("requestHeaderModifier: {{set: [{{name: {header}, value: '1'}}]}}");
        let rules = format!(
            "- filters: [{{type: RequestHeaderModifier, {modifier}}}]\n  {}",
            backends(80, &[("web-v1", 1)])
        );
        parent(world, "forbidden", &rules)?;
        let (status, reason, message) = world.condition("httproute", "shop/forbidden", "Accepted")?;
        assert_eq!(status, "False", "{header}: {reason}: {message}");
    }
    Ok(())
}

fn the_status_of_a_good_route_is_accepted_and_resolved(world: &World) -> Result<()> {
    parent(world, "good", &format!("- {}", backends(80, &[("web-v1", 1)])))?;
    for condition in ["Accepted", "ResolvedRefs"] {
        let (status, reason, message) = world.condition("httproute", "shop/good", condition)?;
        assert_eq!((status.as_str(), reason.as_str()), ("True", condition), "{message}");
    }
    // Its status has arrived by now.
    let route = world.get("httproute", "shop/good")?;
    let entry = &route["status"]["parents"][0];
    assert_eq!(entry["controllerName"], "heddle.dev/mesh-controller", "{entry}");
    assert_eq!(entry["parentRef"]["name"], "good", "{entry}");
    assert_eq!(entry["conditions"][0]["observedGeneration"], route["metadata"]["generation"], "{route}");
    Ok(())
}

fn producer_routes_hold_for_all_and_consumer_routes_for_their_own_namespace(world: &World) -> Result<()> {
    parent(world, "owned", &format!("- {}", backends(80, &[("web-v1", 1)])))?;
    let from = |pod: &str| Ok::<_, anyhow::Error>(world.curl(pod, &["http://owned.shop/"])?.server());
    assert_eq!((from(CLIENT)?.as_str(), from(DESK)?.as_str()), ("web-v1", "web-v1"), "the producer's route");
    // The desk decides for itself: its route names the producer's Service, and backends there.
    let rules = "- backendRefs: [{name: web-v2, namespace: shop, port: 80}]";
    world.apply(&http_route("desk", "own", "shop/owned", rules))?;
    world.lab(&["wait", "httproute", "desk/own"])?.good()?;
    assert_eq!((from(CLIENT)?.as_str(), from(DESK)?.as_str()), ("web-v1", "web-v2"), "and the consumer's");
    world.lab(&["delete", "httproute", "desk/own"])?.good()?;
    e2e::until("the producer's route is back", std::time::Duration::from_secs(5), || {
        let server = from(DESK)?;
        ensure!(server == "web-v1", "{server} answers");
        Ok(())
    })
}

fn a_backend_may_live_in_another_namespace(world: &World) -> Result<()> {
    let service = service_with("desk", "far", &[(80, 8080)], "");
    let rules = "- backendRefs: [{name: web-v2, namespace: shop, port: 80}]";
    world.apply(&[service, http_route("desk", "far", "far", rules)].concat())?;
    let reply = world.curl(CLIENT, &["http://far.desk/"])?;
    assert_eq!((reply.status, reply.server().as_str()), (200, "web-v2"), "{reply:?}");
    Ok(())
}

fn a_deleted_route_gives_the_service_back_its_own_endpoints(world: &World) -> Result<()> {
    parent(world, "passing", "- filters: [{type: RequestRedirect, requestRedirect: {hostname: elsewhere}}]")?;
    check(&who(world, &["http://passing/"])?, "302", "with the route");
    world.lab(&["delete", "httproute", "shop/passing"])?.good()?;
    e2e::until("the Service's own endpoints answer", std::time::Duration::from_secs(5), || {
        let answer = who(world, &["http://passing/"])?;
        ensure!(answer.starts_with("web-"), "{answer}");
        Ok(())
    })
}

fn the_table_names_routes_backends_and_identities(world: &World) -> Result<()> {
    parent(world, "tabled", &format!("- {}", backends(80, &[("web-v1", 1)])))?;
    world.curl(CLIENT, &["http://tabled/"])?;
    let table = world.table(CLIENT)?;
    assert_eq!(table["identity"], "spiffe://cluster.local/ns/shop/sa/client", "{table}");
    let services = table["services"].as_array().cloned().unwrap_or_default();
    let service = services.iter().find(|service| service["name"] == "tabled").cloned().unwrap_or_default();
    let port = &service["ports"][0];
    assert_eq!(
        (&port["governing"], &port["routes"][0]),
        (&"HTTPRoute".into(), &"shop/tabled".into()),
        "{service}"
    );
    let endpoint = &port["backends"][0]["endpoints"][0];
    assert_eq!(endpoint["identity"], "spiffe://cluster.local/ns/shop/sa/web-v1", "{service}");
    let objects = table["objects"].as_array().cloned().unwrap_or_default();
    let route = objects.iter().find(|object| object["kind"] == "HTTPRoute" && object["name"] == "tabled");
    assert!(route.is_some_and(|route| route["resourceVersion"].is_string()), "{table}");
    Ok(())
}
