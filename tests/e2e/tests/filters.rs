//! What rules do to requests and responses on their way: every filter of HTTPRoute that the mesh honours.
//!
//! The official conformance suite has a case for most of these; here they run without a cluster.

use anyhow::Result;
use e2e::World;
use e2e::manifest::{client, http_route, http_server, meshed_namespace, service};

const CLIENT: &str = "shop/client";

e2e::prove!(
    up,
    [
        a_redirect_changes_path_host_port_and_scheme_as_told,
        a_redirect_has_each_of_the_statuses,
        a_prefix_or_a_whole_path_is_rewritten,
        a_host_is_rewritten,
        a_rewrite_and_headers_go_together,
        request_headers_are_changed_for_one_backend_alone,
        response_headers_are_changed_by_the_rule_then_by_the_backend,
        response_headers_are_changed_on_a_redirect_and_on_http2,
        a_named_rule_is_accepted_and_routes,
        a_route_for_one_port_and_a_route_for_another_stand_side_by_side,
    ]
);

fn up() -> Result<World> {
    let manifests = [
        meshed_namespace("shop"),
        client("shop", "client"),
        http_server("shop", "web", "app: web"),
        service("shop", "web", "app: web", &[(80, 8080), (81, 8080)]),
        service("shop", "other", "app: web", &[(80, 8080)]),
    ];
    World::up("filters", &[], &manifests.concat())
}

/// A Service of its own for each rule, so that none sees another's route.
fn parent(world: &World, name: &str, rules: &str) -> Result<()> {
    let service = service("shop", name, "app: web", &[(80, 8080), (81, 8080)]);
    world.apply(&[service, http_route("shop", name, name, rules)].concat())
}

fn redirect(prefix: &str, how: &str) -> String {
    format!(
        "- matches: [{{path: {{value: {prefix}}}}}]
  filters: [{{type: RequestRedirect, requestRedirect: {{{how}}}}}]\n"
    )
}

#[track_caller]
fn check_redirect(world: &World, url: &str, status: u16, location: &str) -> Result<()> {
    let reply = world.curl(CLIENT, &[url])?;
    let found = (reply.status, reply.header("location").unwrap_or_default());
    assert_eq!(found, (status, location.to_owned()), "{url}: {reply:?}");
    Ok(())
}

fn a_redirect_changes_path_host_port_and_scheme_as_told(world: &World) -> Result<()> {
    let prefix = |to: &str| format!("path: {{type: ReplacePrefixMatch, replacePrefixMatch: {to}}}");
    let full = |to: &str| format!("path: {{type: ReplaceFullPath, replaceFullPath: {to}}}");
    let rules = [
        redirect("/prefix", &prefix("/new")),
        redirect("/strip", &prefix("/")),
        redirect("/full", &full("/whole")),
        redirect("/host", &format!("hostname: example.org, {}", prefix("/new"))),
        redirect("/port", "port: 8083"),
        redirect("/both", "port: 8083, hostname: example.org"),
        redirect("/scheme", "scheme: https"),
        redirect("/secure", "scheme: https, port: 8443, hostname: example.org"),
        redirect("/plain", "scheme: http, port: 80"),
    ];
    parent(world, "moved", &rules.concat())?;
    for (url, location) in [
        ("http://moved/prefix/lemon", "http://moved/new/lemon"),
        ("http://moved/prefix?a=b", "http://moved/new?a=b"),
        ("http://moved/strip/lemon", "http://moved/lemon"),
        ("http://moved/strip", "http://moved/"),
        ("http://moved/full/lemon?a=b", "http://moved/whole?a=b"),
        ("http://moved/host/lemon", "http://example.org/new/lemon"),
        ("http://moved/port", "http://moved:8083/port"),
        ("http://moved/both", "http://example.org:8083/both"),
        ("http://moved/scheme", "https://moved/scheme"),
        ("http://moved/secure", "https://example.org:8443/secure"),
        ("http://moved:81/plain", "http://moved/plain"),
        ("http://moved:81/prefix", "http://moved:81/new"),
    ] {
        check_redirect(world, url, 302, location)?;
    }
    Ok(())
}

fn a_redirect_has_each_of_the_statuses(world: &World) -> Result<()> {
    let statuses = [301, 302, 303, 307, 308];
    let rule = |status: &u16| {
        redirect(&format!("/{status}"), &format!("hostname: example.org, statusCode: {status}"))
    };
    parent(world, "statuses", &statuses.iter().map(rule).collect::<String>())?;
    for status in statuses {
        check_redirect(
            world,
            &format!("http://statuses/{status}"),
            status,
            &format!("http://example.org/{status}"),
        )?;
    }
    Ok(())
}

fn rewrite(prefix: &str, how: &str, more: &str) -> String {
    format!(
        "- matches: [{{path: {{value: {prefix}}}}}]
  filters: [{{type: URLRewrite, urlRewrite: {{{how}}}}}{more}]
  backendRefs: [{{name: web, port: 80}}]\n"
    )
}

fn a_prefix_or_a_whole_path_is_rewritten(world: &World) -> Result<()> {
    let rules = [
        rewrite("/prefix/one", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /one}", ""),
        rewrite("/strip", "path: {type: ReplacePrefixMatch, replacePrefixMatch: /}", ""),
        rewrite("/full/one", "path: {type: ReplaceFullPath, replaceFullPath: /one}", ""),
    ];
    parent(world, "rewritten", &rules.concat())?;
    for (path, arrives) in [
        ("/prefix/one/two", "/one/two"),
        ("/prefix/one", "/one"),
        ("/strip/three", "/three"),
        ("/strip", "/"),
        ("/full/one/two", "/one"),
        ("/full/one/two?a=%2F", "/one?a=%2F"),
    ] {
        let reply = world.curl(CLIENT, &[&format!("http://rewritten{path}")])?;
        assert_eq!(reply.field("path"), arrives, "{path}: {reply:?}");
    }
    Ok(())
}

fn a_host_is_rewritten(world: &World) -> Result<()> {
    parent(world, "hosted", &rewrite("/", "hostname: one.example.org", ""))?;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let reply = world.curl(CLIENT, &[version, "http://hosted/"])?;
        let host = reply.seen("host").unwrap_or_else(|| reply.field("authority"));
        assert_eq!(host, "one.example.org", "{version}: {reply:?}");
    }
    Ok(())
}

fn a_rewrite_and_headers_go_together(world: &World) -> Result<()> {
    let headers = ", {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: new}],
      add: [{name: x-add, value: one}, {name: x-append, value: two}], remove: [x-remove]}}";
    let path = "path: {type: ReplaceFullPath, replaceFullPath: /test}";
    parent(world, "together", &rewrite("/full", path, headers))?;
    let sent = ["-H", "x-set: old", "-H", "x-append: one", "-H", "x-remove: me", "http://together/full/path"];
    let reply = world.curl(CLIENT, &sent)?;
    let seen = ["x-set", "x-add", "x-append", "x-remove"].map(|name| reply.seen(name).unwrap_or_default());
    assert_eq!(
        (reply.field("path").as_str(), seen),
        ("/test", ["new", "one", "one, two", ""].map(str::to_owned)),
        "{reply:?}"
    );
    Ok(())
}

fn request_headers_are_changed_for_one_backend_alone(world: &World) -> Result<()> {
    let rule = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-by, value: rule}], remove: [x-gone]}}]";
    let backend = "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-by, value: backend}], add: [{name: x-more, value: all}]}}]";
    let rules = format!(
        "- matches: [{{path: {{value: /plain}}}}]
  {rule}
  backendRefs: [{{name: web, port: 80}}]
- {rule}
  backendRefs: [{{name: other, port: 80, {backend}}}]\n"
    );
    parent(world, "each", &rules)?;
    for (path, by, more) in [("/plain", "rule", ""), ("/changed", "backend", "all")] {
        let reply = world.curl(CLIENT, &["-H", "x-gone: 1", &format!("http://each{path}")])?;
        let seen = ["x-by", "x-more", "x-gone"].map(|name| reply.seen(name).unwrap_or_default());
        assert_eq!(seen, [by, more, ""], "{path}: {reply:?}");
    }
    Ok(())
}

const RESPONSE: &str = "type: ResponseHeaderModifier, responseHeaderModifier";

fn response_headers_are_changed_by_the_rule_then_by_the_backend(world: &World) -> Result<()> {
    let rules = format!(
        "- filters: [{{{RESPONSE}: {{set: [{{name: x-by, value: rule}}, {{name: content-type, value: text/x-thread}}], remove: [x-server]}}}}]
  backendRefs: [{{name: web, port: 80, filters: [{{{RESPONSE}: {{add: [{{name: x-by, value: backend}}]}}}}]}}]\n"
    );
    parent(world, "answers", &rules)?;
    let reply = world.curl(CLIENT, &["http://answers/"])?;
    let header = |name: &str| reply.header(name).unwrap_or_default();
    assert_eq!(header("content-type"), "text/x-thread", "{reply:?}");
    assert_eq!(header("x-server"), "", "{reply:?}");
    assert_eq!(header("x-by"), "rule, backend", "{reply:?}");
    Ok(())
}

fn response_headers_are_changed_on_a_redirect_and_on_http2(world: &World) -> Result<()> {
    let rules = format!(
        "- matches: [{{path: {{value: /moved}}}}]
  filters: [{{type: RequestRedirect, requestRedirect: {{hostname: example.org}}}}, {{{RESPONSE}: {{set: [{{name: x-by, value: rule}}]}}}}]
- filters: [{{{RESPONSE}: {{set: [{{name: x-by, value: rule}}]}}}}]
  backendRefs: [{{name: web, port: 80}}]\n"
    );
    parent(world, "marked", &rules)?;
    for (path, status) in [("/moved", 302), ("/", 200)] {
        let reply = world.curl(CLIENT, &["--http2-prior-knowledge", &format!("http://marked{path}")])?;
        assert_eq!((reply.status, reply.header("x-by").as_deref()), (status, Some("rule")), "{reply:?}");
    }
    Ok(())
}

fn a_named_rule_is_accepted_and_routes(world: &World) -> Result<()> {
    let rules = "- name: weft\n  backendRefs: [{name: web, port: 80}]\n";
    parent(world, "named", rules)?;
    assert_eq!(world.curl(CLIENT, &["http://named/"])?.status, 200);
    let (status, ..) = world.condition("httproute", "shop/named", "Accepted")?;
    assert_eq!(status, "True");
    Ok(())
}

fn a_route_for_one_port_and_a_route_for_another_stand_side_by_side(world: &World) -> Result<()> {
    let to = |host: &str| redirect("/", &format!("hostname: {host}"));
    let routes = [
        service("shop", "ports", "app: web", &[(80, 8080), (81, 8080), (82, 8080)]),
        http_route("shop", "first", "ports:80", &to("first.example.org")),
        http_route("shop", "second", "ports:81", &to("second.example.org")),
    ];
    world.apply(&routes.concat())?;
    check_redirect(world, "http://ports/", 302, "http://first.example.org/")?;
    check_redirect(world, "http://ports:81/", 302, "http://second.example.org:81/")?;
    assert_eq!(world.curl(CLIENT, &["http://ports:82/"])?.server(), "web");
    Ok(())
}
