//! Traces: a collector gets a span of each side, and each names the one before it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::manifest::{
    client, http_route, http_server, meshed_namespace, namespace, pod_with, service, service_with,
};
use e2e::{World, until};
use serde_json::Value;

const CLIENT: &str = "shop/client";
const COLLECTOR: &str = "obs/collector";
const ENDPOINT: &str = "10.96.99.99";
/// Spans are gathered for a second.
const SOON: Duration = Duration::from_secs(20);

e2e::prove!(
    up,
    [
        both_proxies_make_a_span_and_each_names_the_one_before_it,
        a_request_without_a_trace_begins_one,
        a_trace_that_is_not_recorded_passes_as_it_is,
        a_failure_is_an_error_of_its_span,
    ]
);

/// A collector of OTLP over HTTP: it walks the protobuf of what it gets and prints each span as a line of JSON.
/// (ExportTraceServiceRequest.resource_spans = 1; .resource = 1, .scope_spans = 2; ScopeSpans.spans = 2; Span:
/// trace_id 1, span_id 2, parent_span_id 4, name 5, kind 6, attributes 9, status 15.)
const SCRIPT: &str = r#"
import http.server, json
def fields(b):
    i = 0
    def varint():
        nonlocal i
        n = shift = 0
        while True:
            c = b[i]; i += 1
            n |= (c & 127) << shift; shift += 7
            if c < 128: return n
    while i < len(b):
        key = varint(); wire = key & 7
        if wire == 0: yield key >> 3, varint()
        elif wire == 1: yield key >> 3, b[i:i+8]; i += 8
        elif wire == 5: yield key >> 3, b[i:i+4]; i += 4
        else:
            n = varint(); yield key >> 3, b[i:i+n]; i += n
def all_of(b, number): return [v for k, v in fields(b) if k == number]
def one(b, number, default=b''): return (all_of(b, number) or [default])[0]
def value(b):
    for k, v in fields(b): return v.decode() if k == 1 else v
def attributes(pairs): return {one(p, 1).decode(): value(one(p, 2)) for p in pairs}
class Collector(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.answer()
    def do_POST(self):
        body = self.rfile.read(int(self.headers['content-length']))
        for rs in all_of(body, 1):
            pod = attributes(all_of(one(rs, 1), 1))
            for scope in all_of(rs, 2):
                for s in all_of(scope, 2):
                    print(json.dumps({'trace': one(s, 1).hex(), 'span': one(s, 2).hex(), 'parent': one(s, 4).hex(),
                        'name': one(s, 5).decode(), 'kind': one(s, 6, 0), 'error': one(one(s, 15), 3, 0) == 2,
                        'pod': pod, 'attributes': attributes(all_of(s, 9))}), flush=True)
        self.answer()
    def answer(self):
        self.send_response(200); self.send_header('content-length', '0'); self.end_headers()
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(('', 4318), Collector).serve_forever()
"#;
/// Kinds of spans.
const SERVER: u64 = 2;
const CLIENT_KIND: u64 = 3;

fn up() -> Result<World> {
    let ready = "readinessProbe: {httpGet: {path: /, port: 4318}, periodSeconds: 1}";
    let cluster_ip = format!("selector: {{app: collector}}\nclusterIP: {ENDPOINT}");
    let route = "- backendRefs: [{name: web, port: 80}]";
    let manifests = [
        meshed_namespace("shop"),
        client("shop", "client"),
        http_server("shop", "web", "app: web"),
        service("shop", "web", "app: web", &[(80, 8080)]),
        http_route("shop", "web", "web", route),
        namespace("obs", ""),
        pod_with("obs", "collector", "app: collector", &["python3", "-c", SCRIPT], ready),
        service_with("obs", "collector", &[(4318, 4318)], &cluster_ip),
    ];
    World::up("traces", &["--otlp-endpoint", &format!("http://{ENDPOINT}:4318")], &manifests.concat())
}

/// The span of one kind that the collector got for a path.
fn span(world: &World, path: &str, kind: u64) -> Result<Value> {
    let mut found = Value::Null;
    until(&format!("the collector has a span of kind {kind} for {path}"), SOON, || {
        let log = world.logs(COLLECTOR, "app")?;
        let spans = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let of = |span: &Value| span["kind"] == kind && span["attributes"]["url.path"] == path;
        found = spans.into_iter().find(of).with_context(|| log.clone())?;
        Ok(())
    })?;
    Ok(found)
}

#[track_caller]
fn check_link(parent: &Value, child: &Value) {
    assert_eq!(child["trace"], parent["trace"], "one trace");
    assert_eq!(child["parent"], parent["span"], "the child names its parent");
}

fn both_proxies_make_a_span_and_each_names_the_one_before_it(world: &World) -> Result<()> {
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let headers = ["-H", &format!("traceparent: 00-{trace}-{parent}-01"), "-H", "tracestate: vendor=1"];
    let reply = world.curl(CLIENT, &[&headers[..], &["http://web/linked"]].concat())?;
    let (of_client, of_server) = (span(world, "/linked", CLIENT_KIND)?, span(world, "/linked", SERVER)?);
    assert_eq!((&of_client["trace"], &of_client["parent"]), (&trace.into(), &parent.into()));
    check_link(&of_client, &of_server);
    let span_id = of_server["span"].as_str().context("span")?;
    let seen = reply.seen("traceparent");
    assert_eq!(seen, Some(format!("00-{trace}-{span_id}-01")), "the application goes on from there");
    assert_eq!(reply.seen("tracestate").as_deref(), Some("vendor=1"));
    assert_eq!(of_client["pod"]["k8s.pod.name"], "client");
    assert_eq!(of_server["pod"]["service.name"], "web");
    assert_eq!(of_server["pod"]["service.namespace"], "shop");
    let said = |span: &Value, key: &str| span["attributes"][key].clone();
    assert_eq!(said(&of_client, "heddle.route"), "HTTPRoute/shop/web");
    assert_eq!(said(&of_client, "heddle.peer.identity"), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(said(&of_server, "heddle.peer.identity"), "spiffe://cluster.local/ns/shop/sa/client");
    for span in [&of_client, &of_server] {
        assert_eq!((said(span, "http.response.status_code"), &span["name"]), (200.into(), &"GET".into()));
        assert_eq!(span["error"], false);
    }
    Ok(())
}

fn a_request_without_a_trace_begins_one(world: &World) -> Result<()> {
    world.curl(CLIENT, &["http://web/root"])?;
    let root = span(world, "/root", CLIENT_KIND)?;
    assert_eq!(root["parent"], "", "{root}");
    check_link(&root, &span(world, "/root", SERVER)?);
    Ok(())
}

fn a_trace_that_is_not_recorded_passes_as_it_is(world: &World) -> Result<()> {
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-00";
    let reply = world.curl(CLIENT, &["-H", &format!("traceparent: {parent}"), "http://web/quiet"])?;
    assert_eq!(reply.seen("traceparent").as_deref(), Some(parent));
    // What came after it has arrived, so it would have.
    world.curl(CLIENT, &["http://web/loud"])?;
    span(world, "/loud", CLIENT_KIND)?;
    ensure!(!world.logs(COLLECTOR, "app")?.contains("/quiet"));
    Ok(())
}

fn a_failure_is_an_error_of_its_span(world: &World) -> Result<()> {
    let lost = http_route("shop", "lost", "lost", "- backendRefs: [{name: nobody, port: 80}]");
    world.apply(&[service("shop", "lost", "app: web", &[(80, 8080)]), lost].concat())?;
    assert_eq!(world.curl(CLIENT, &["http://lost/lost"])?.status, 500);
    let failed = span(world, "/lost", CLIENT_KIND)?;
    assert_eq!(
        (&failed["error"], &failed["attributes"]["error.type"]),
        (&true.into(), &"no-valid-backend".into())
    );
    Ok(())
}
