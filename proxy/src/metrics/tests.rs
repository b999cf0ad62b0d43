use super::*;
use mesh::{
    identity::Identity,
    names::ObjectName,
    route::{BackendKey, RouteKind, RouteRef},
};

fn key(name: &str, port: u16) -> BackendKey {
    BackendKey { service: ObjectName::new("shop", name), port }
}

fn way() -> Way {
    let route = RouteRef { kind: RouteKind::Http, name: ObjectName::new("shop", "split") };
    let peer = Identity::parse("spiffe://cluster.local/ns/shop/sa/web").expect("identity");
    Way {
        parent: Some(key("web", 80)),
        rule: Some(Rule { route, index: 1, name: None }),
        backend: Some(key("web-v2", 8080)),
        ..Way::with_peer(Some(&peer))
    }
}

fn get(status: u16, failed: Failed) -> RequestLabels {
    RequestLabels {
        direction: Direction::Outbound,
        exchange: Exchange::Http { method: "GET", status: Some(status) },
        failed,
        way: way(),
        overflow: false,
    }
}

#[track_caller]
fn check(metrics: &Metrics, line: &str) {
    let page = metrics.page().expect("page");
    assert!(page.lines().any(|found| found == line), "no {line}\n{page}");
}

const WAY: &str = concat!(
    r#"parent_namespace="shop",parent_name="web",parent_port="80","#,
    r#"route_kind="HTTPRoute",route_namespace="shop",route_name="split",route_rule="1","#,
    r#"backend_namespace="shop",backend_name="web-v2",backend_port="8080","#,
    r#"peer_identity="spiffe://cluster.local/ns/shop/sa/web",security="mutual_tls""#,
);

#[test]
fn a_request_is_told_by_its_parent_rule_backend_and_peer() {
    let metrics = Metrics::new();
    metrics.request(&get(200, Failed::No), Duration::from_millis(7), Instant::now());
    let head = r#"http_request_method="GET",http_response_status_code="200""#;
    check(&metrics, &format!("http_client_request_duration_seconds_count{{{head},{WAY}}} 1"));
    check(&metrics, &format!("http_client_request_duration_seconds_sum{{{head},{WAY}}} 0.007"));
    check(&metrics, &format!(r#"http_client_request_duration_seconds_bucket{{le="0.01",{head},{WAY}}} 1"#));
}

#[test]
fn an_error_says_why_or_names_the_status() {
    let metrics = Metrics::new();
    let mut unanswered = get(503, Failed::Reason("destination_unavailable"));
    unanswered.way.rule = unanswered.way.rule.map(|rule| Rule { name: Some("canary".into()), ..rule });
    metrics.request(&unanswered, Duration::ZERO, Instant::now());
    metrics.request(&get(500, Failed::Status), Duration::ZERO, Instant::now());
    let page = metrics.page().expect("page");
    assert!(
        page.contains(r#"http_response_status_code="503",error_type="destination_unavailable""#),
        "{page}"
    );
    assert!(page.contains(r#"http_response_status_code="500",error_type="500""#), "{page}");
    assert!(page.contains(r#"route_rule="canary""#), "{page}");
}

#[test]
fn a_call_of_grpc_is_counted_as_one_and_not_as_http() {
    let metrics = Metrics::new();
    let exchange = Exchange::Grpc { status: Some("UNAVAILABLE") };
    let labels = RequestLabels { exchange, direction: Direction::Inbound, ..get(200, Failed::Status) };
    metrics.request(&labels, Duration::ZERO, Instant::now());
    let head = r#"rpc_system_name="grpc",rpc_status_code="UNAVAILABLE",error_type="UNAVAILABLE""#;
    check(&metrics, &format!("rpc_server_call_duration_seconds_count{{{head},{WAY}}} 1"));
    assert!(!metrics.page().expect("page").contains("http_server"));
}

#[test]
fn a_connection_is_counted_while_it_lasts() {
    let metrics = Metrics::new();
    let series =
        metrics.connections(&TcpLabels { direction: Direction::Outbound, way: way(), overflow: false });
    series.opened.fetch_add(1, Relaxed);
    series.sent.fetch_add(1000, Relaxed);
    let head = r#"direction="outbound""#;
    check(&metrics, &format!("heddle_tcp_connections_opened_total{{{head},{WAY}}} 1"));
    check(&metrics, &format!("heddle_tcp_connections_closed_total{{{head},{WAY}}} 0"));
    check(&metrics, &format!("heddle_tcp_sent_bytes_total{{{head},{WAY}}} 1000"));
}

#[test]
fn what_has_no_room_is_marked_as_opentelemetry_does() {
    let metrics = Metrics::new();
    for port in 0..3000 {
        let way = Way { server_port: Some(port), ..Way::default() };
        metrics.request(&RequestLabels { way, ..get(200, Failed::No) }, Duration::ZERO, Instant::now());
    }
    check(
        &metrics,
        r#"http_client_request_duration_seconds_count{security="none",otel_metric_overflow="true"} 1000"#,
    );
}

#[test]
fn the_process_is_shown_under_the_usual_names() {
    let page = Metrics::new().page().expect("page");
    for name in [
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
        "heddle_build_info{version=\"0.1.0\"}",
        "heddle_control_plane_connected",
    ] {
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        assert!(value.is_some_and(|value| value.parse::<f64>().is_ok()), "{name}: {value:?}\n{page}");
    }
    assert!(page.ends_with("# EOF\n"));
}
