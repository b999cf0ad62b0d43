//! What an operator sees: the metrics page, the access log, and traces.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::manifest::{
    backends, client, http_route, http_server, meshed_namespace, namespace, service, tcp_route, tcp_server,
};
use e2e::{World, until};
use serde_json::Value;

const CLIENT: &str = "shop/client";
/// Outside the mesh.
const STRANGER: &str = "plain/client";
/// How long an account may take to show.
const SOON: Duration = Duration::from_secs(10);

e2e::prove!(
    up,
    [
        a_request_is_counted_by_route_parent_backend_and_peer_on_both_sides,
        an_error_says_why,
        a_call_of_grpc_is_counted_by_its_status,
        a_connection_is_counted_by_its_way_while_it_lasts,
        the_page_is_openmetrics_and_tells_the_proxys_health,
        the_access_log_has_a_line_of_json_for_each_request_and_connection,
        trace_context_passes_as_it_is,
    ]
);

fn up() -> Result<World> {
    let route = "- name: canary\n  matches: [{path: {value: /new}}]\n  backendRefs: [{name: web-v2, port: 80}]\n- backendRefs: [{name: web-v1, port: 80}]";
    let labels = |name: &str| format!("app: web, name: {name}");
    let manifests = [
        meshed_namespace("shop").replace("labels:", "annotations: {heddle.dev/access-log: all}, labels:"),
        client("shop", "client"),
        namespace("plain", ""),
        client("plain", "client"),
        http_server("shop", "web-v1", &labels("web-v1")),
        http_server("shop", "web-v2", &labels("web-v2")),
        tcp_server("shop", "bytes-v1", "app: bytes", &["--answer", "bytes-v1"]),
        service("shop", "web", "app: web", &[(80, 8080)]),
        service("shop", "web-v1", "name: web-v1", &[(80, 8080)]),
        service("shop", "web-v2", "name: web-v2", &[(80, 8080)]),
        service("shop", "bytes", "app: none", &[(9000, 9000)]),
        service("shop", "bytes-v1", "app: bytes", &[(9000, 9000)]),
        http_route("shop", "split", "web", route),
        tcp_route("shop", "bytes", "bytes", &format!("- {}", backends(9000, &[("bytes-v1", 1)]))),
    ];
    World::up("observe", &[], &manifests.concat())
}

/// Waits until a proxy's page has a line of a metric with all of these labels; its value.
#[track_caller]
fn counted(world: &World, pod: &str, metric: &str, labels: &[&str]) -> Result<f64> {
    let mut value = 0.0;
    until(&format!("{metric} of {pod} with {labels:?}"), SOON, || {
        let page = world.metrics(pod)?;
        let lines = page.lines().filter(|line| line.split('{').next() == Some(metric));
        let line = lines.clone().find(|line| labels.iter().all(|label| line.contains(label)));
        let lines: Vec<_> = lines.collect();
        let line = line.with_context(|| format!("there is only\n{}", lines.join("\n")))?;
        value = line.rsplit(' ').next().context("value")?.parse()?;
        Ok(())
    })?;
    Ok(value)
}

fn a_request_is_counted_by_route_parent_backend_and_peer_on_both_sides(world: &World) -> Result<()> {
    assert_eq!(world.curl(CLIENT, &["http://web/new"])?.server(), "web-v2");
    assert_eq!(world.curl(CLIENT, &["http://web/"])?.server(), "web-v1");
    let parent = r#"parent_namespace="shop",parent_name="web",parent_port="80""#;
    let route = r#"route_kind="HTTPRoute",route_namespace="shop",route_name="split""#;
    let peer = |name: &str| {
        format!(r#"peer_identity="spiffe://cluster.local/ns/shop/sa/{name}",security="mutual_tls""#)
    };
    let get = r#"http_request_method="GET",http_response_status_code="200""#;
    for (rule, backend) in [("canary", "web-v2"), ("1", "web-v1")] {
        let rule = format!(r#"{route},route_rule="{rule}""#);
        let to = format!(r#"backend_namespace="shop",backend_name="{backend}",backend_port="80""#);
        let labels = [get, parent, &rule, &to, &peer(backend)];
        counted(world, CLIENT, "http_client_request_duration_seconds_count", &labels)?;
    }
    let labels = [get, r#"server_port="8080""#, &peer("client")];
    counted(world, "shop/web-v2", "http_server_request_duration_seconds_count", &labels)?;
    world.curl(STRANGER, &["http://web-v2.shop/"])?;
    let labels = [get, r#"server_port="8080",security="none""#];
    counted(world, "shop/web-v2", "http_server_request_duration_seconds_count", &labels).map(drop)
}

fn an_error_says_why(world: &World) -> Result<()> {
    let lost = "- backendRefs: [{name: nobody, port: 80}]";
    let manifests =
        [service("shop", "lost", "app: web", &[(80, 8080)]), http_route("shop", "lost", "lost", lost)];
    world.apply(&manifests.concat())?;
    assert_eq!(world.curl(CLIENT, &["http://lost/"])?.status, 500);
    let labels = [r#"http_response_status_code="500",error_type="no-valid-backend""#, r#"route_name="lost""#];
    counted(world, CLIENT, "http_client_request_duration_seconds_count", &labels)?;
    assert_eq!(world.curl(CLIENT, &["http://web/status/503"])?.status, 503);
    let labels = [r#"http_response_status_code="503",error_type="503""#, r#"route_name="split""#];
    counted(world, CLIENT, "http_client_request_duration_seconds_count", &labels).map(drop)
}

/// The server is none of gRPC's, so the call ends as a gRPC client would see it: a page without a status is UNKNOWN.
fn a_call_of_grpc_is_counted_by_its_status(world: &World) -> Result<()> {
    let call =
        ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "-d", "", "http://web/a.B/C"];
    world.curl(CLIENT, &call)?;
    let labels =
        [r#"rpc_system_name="grpc",rpc_status_code="UNKNOWN",error_type="UNKNOWN""#, r#"route_name="split""#];
    counted(world, CLIENT, "rpc_client_call_duration_seconds_count", &labels)?;
    let labels =
        [r#"rpc_status_code="UNKNOWN""#, r#"peer_identity="spiffe://cluster.local/ns/shop/sa/client""#];
    counted(world, "shop/web-v1", "rpc_server_call_duration_seconds_count", &labels).map(drop)
}

fn a_connection_is_counted_by_its_way_while_it_lasts(world: &World) -> Result<()> {
    let way = [
        r#"direction="outbound",parent_namespace="shop",parent_name="bytes",parent_port="9000""#,
        r#"route_kind="TCPRoute",route_namespace="shop",route_name="bytes",route_rule="0""#,
        r#"backend_namespace="shop",backend_name="bytes-v1",backend_port="9000""#,
        r#"peer_identity="spiffe://cluster.local/ns/shop/sa/bytes-v1",security="mutual_tls""#,
    ];
    let count = |what: &str| counted(world, CLIENT, &format!("heddle_tcp_{what}_total"), &way);
    let steps = ["send hello\\n", "line", "expect hello", "wait 60000"];
    let long = [e2e::manifest::echo(), "tcp-client", "bytes:9000"];
    let running = world.start(CLIENT, &[&long[..], &steps].concat())?;
    until("the open connection's bytes are counted", SOON, || {
        let (sent, received) = (count("sent_bytes")?, count("received_bytes")?);
        ensure!(sent >= 6.0 && received >= 6.0, "{sent} {received}");
        Ok(())
    })?;
    assert_eq!((count("connections_opened")?, count("connections_closed")?), (1.0, 0.0));
    drop(running);
    until("its end is counted", SOON, || {
        let closed = count("connections_closed")?;
        ensure!(closed >= 1.0, "{closed}");
        Ok(())
    })?;
    let labels = [
        r#"direction="inbound",server_port="9000",peer_identity="spiffe://cluster.local/ns/shop/sa/client""#,
    ];
    counted(world, "shop/bytes-v1", "heddle_tcp_connections_opened_total", &labels).map(drop)
}

fn the_page_is_openmetrics_and_tells_the_proxys_health(world: &World) -> Result<()> {
    world.curl(CLIENT, &["http://web/"])?;
    let page = world.metrics(CLIENT)?;
    assert!(page.ends_with("# EOF\n"));
    let mut typed = std::collections::BTreeSet::new();
    for line in page.lines().filter(|line| *line != "# EOF") {
        check_line(line, &mut typed).with_context(|| line.to_owned())?;
    }
    assert_eq!(counted(world, CLIENT, "heddle_control_plane_connected 1", &[]).ok(), Some(1.0));
    for (metric, least) in [
        ("heddle_watched_objects ", 3.0),
        ("heddle_config_generation_total ", 1.0),
        ("heddle_certificate_expiry_timestamp_seconds ", 1.7e9),
        ("process_resident_memory_bytes ", 1e6),
        ("process_start_time_seconds ", 1.7e9),
    ] {
        let value = page.lines().find_map(|line| line.strip_prefix(metric)).context(metric)?;
        ensure!(value.parse::<f64>()? >= least, "{metric}{value}");
    }
    Ok(())
}

/// A line of the exposition format: what describes a family, or a sample of one that has been described.
fn check_line(line: &str, typed: &mut std::collections::BTreeSet<String>) -> Result<()> {
    if let Some(described) = line.strip_prefix("# ") {
        let mut words = described.split(' ');
        let (what, name) = (words.next().context("word")?, words.next().context("name")?);
        ensure!(["HELP", "TYPE", "UNIT"].contains(&what));
        typed.insert(name.to_owned());
        return Ok(());
    }
    let (series, value) = line.rsplit_once(' ').context("no value")?;
    value.parse::<f64>().context("no number")?;
    let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
    let families = ["", "_total", "_sum", "_count", "_bucket", "_info"];
    let family = families.iter().filter_map(|suffix| name.strip_suffix(suffix)).find(|f| typed.contains(*f));
    family.context("of no family")?;
    let labels = labels.strip_suffix('}').context("open")?;
    for label in labels.split("\",").filter(|label| !label.is_empty()) {
        let (name, value) = label.split_once("=\"").context("no label")?;
        ensure!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        ensure!(!value.is_empty(), "{name} is empty");
    }
    Ok(())
}

/// The line of a proxy's access log that holds this; every line must be JSON.
fn logged(world: &World, pod: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut found = Value::Null;
    until("the access log has the line", SOON, || {
        let log = world.logs(pod, "heddle-proxy")?;
        let lines = log.lines().filter(|line| line.starts_with('{'));
        let lines: Vec<Value> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        found = lines.into_iter().find(|line| holds(line)).with_context(|| log.clone())?;
        Ok(())
    })?;
    Ok(found)
}

#[track_caller]
fn check_fields(line: &Value, fields: &[(&str, Value)]) {
    for (name, value) in fields {
        assert_eq!(&line[*name], value, "{name} of {line}");
    }
}

fn the_access_log_has_a_line_of_json_for_each_request_and_connection(world: &World) -> Result<()> {
    world.curl(CLIENT, &["-d", "four", "http://web/new/%0a?secret=1"])?;
    let of = |line: &Value| line["url.path"] == "/new/%0a";
    let line = logged(world, CLIENT, of)?;
    check_fields(
        &line,
        &[
            ("heddle.direction", "outbound".into()),
            ("http.request.method", "POST".into()),
            ("http.response.status_code", 200.into()),
            ("http.request.body.size", 4.into()),
            ("server.address", "web".into()),
            ("server.port", 80.into()),
            ("network.protocol.version", "1.1".into()),
            ("network.peer.address", world.pod_ip("shop/web-v2")?.into()),
            ("network.peer.port", 8080.into()),
            ("heddle.parent", "shop/web:80".into()),
            ("heddle.route", "HTTPRoute/shop/split".into()),
            ("heddle.rule", "canary".into()),
            ("heddle.backend", "shop/web-v2:80".into()),
            ("heddle.peer.identity", "spiffe://cluster.local/ns/shop/sa/web-v2".into()),
            ("heddle.security", "mutual_tls".into()),
            ("error.type", Value::Null),
        ],
    );
    ensure!(line["timestamp"].as_str().is_some_and(|at| at.ends_with('Z')), "{line}");
    ensure!(line["heddle.duration_seconds"].as_f64().is_some_and(|took| took > 0.0), "{line}");
    ensure!(line["http.response.body.size"].as_u64().is_some_and(|size| size > 0), "{line}");
    ensure!(!line.to_string().contains("secret"), "a query may hold secrets: {line}");
    let line = logged(world, "shop/web-v2", of)?;
    check_fields(
        &line,
        &[
            ("heddle.direction", "inbound".into()),
            ("server.port", 8080.into()),
            ("network.peer.address", world.pod_ip(CLIENT)?.into()),
            ("heddle.peer.identity", "spiffe://cluster.local/ns/shop/sa/client".into()),
        ],
    );
    world
        .dialogue(CLIENT, "bytes:9000", &["send hello\\n", "line", "expect hello", "shut", "eof"])?
        .good()?;
    let line =
        logged(world, CLIENT, |line| line["network.transport"] == "tcp" && line["heddle.sent_bytes"] == 6)?;
    check_fields(&line, &[("heddle.route", "TCPRoute/shop/bytes".into()), ("error.type", Value::Null)]);
    Ok(())
}

fn trace_context_passes_as_it_is(world: &World) -> Result<()> {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = ["-H", &format!("traceparent: {parent}"), "-H", "tracestate: vendor=1,other=2"];
    let reply = world.curl(CLIENT, &[&headers[..], &["http://web/traced"]].concat())?;
    assert_eq!(reply.seen("traceparent").as_deref(), Some(parent));
    assert_eq!(reply.seen("tracestate").as_deref(), Some("vendor=1,other=2"));
    assert_eq!(world.curl(CLIENT, &["http://web/"])?.seen("traceparent"), None);
    let line = logged(world, CLIENT, |line| line["url.path"] == "/traced")?;
    assert_eq!(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    Ok(())
}
