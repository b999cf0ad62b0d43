//! What worked before injection works after it: HTTP/1.1 in all its forms, every way to name a pod, and whatever
//! is not the mesh's business.

use std::time::Duration;

use anyhow::Result;
use e2e::manifest::{
    backends, client, echo, http_server, meshed_namespace, namespace, pod, pod_with, service, service_with,
    tcp_route, tcp_server,
};
use e2e::{Reply, World, until};

const CLIENT: &str = "shop/client";
const WEB: &str = "shop/web";
const CLIENT_ID: &str = "spiffe://cluster.local/ns/shop/sa/client";
const SOON: Duration = Duration::from_secs(10);

e2e::prove!(
    up,
    [
        a_request_arrives_unchanged_with_the_clients_identity,
        a_connection_is_kept_alive,
        http_1_0_is_answered_and_closed,
        chunked_bodies_pass_in_both_directions,
        a_large_answer_arrives_whole,
        trailers_pass_in_both_directions,
        a_client_that_expects_100_continue_gets_it,
        a_head_has_no_body_and_a_204_neither,
        a_websocket_is_upgraded_and_carries_bytes,
        websockets_in_hundreds_leave_room_for_requests,
        a_slow_reader_costs_the_proxies_no_memory,
        a_client_that_closes_half_before_the_answer_is_taken_as_gone,
        paths_pass_byte_for_byte,
        ambiguous_framing_is_refused,
        a_request_with_both_framings_smuggles_nothing,
        a_head_above_the_limit_is_refused,
        a_made_up_identity_is_replaced_by_the_real_one,
        a_made_up_identity_in_a_tunnel_does_not_arrive,
        a_made_up_identity_behind_an_empty_line_does_not_arrive,
        a_made_up_identity_in_an_unusual_request_does_not_arrive,
        a_made_up_identity_in_a_request_for_lenient_servers_does_not_arrive,
        a_pod_ip_is_reached_under_mtls,
        a_headless_service_is_reached_under_mtls,
        a_service_without_selector_reaches_its_slices,
        ipv6_cluster_ips_and_pod_ips_work,
        a_server_that_listens_on_ipv4_alone_is_called_over_ipv4,
        a_pod_reaches_itself_by_every_name,
        loopback_stays_in_the_pod,
        a_server_sees_calls_arrive_at_its_pod_address,
        unmeshed_pods_are_reached_as_before,
        unmeshed_clients_are_served_without_identity,
        a_port_where_nobody_listens_fails_quickly,
        udp_is_left_alone,
        skipped_ports_are_left_alone,
        the_proxy_listens_only_where_it_must,
        metrics_count_requests_by_status,
        the_first_connection_to_a_service_costs_little_more_than_the_second,
    ]
);

fn up() -> Result<World> {
    let skipped = "metadata: {annotations: {heddle.dev/skip-outbound-ports: '8099', heddle.dev/skip-inbound-ports: '8099'}, ";
    let raw = pod("shop", "raw", "app: raw", &[echo(), "http", "--port", "8099", "--name", "raw"]);
    let manifests = [
        meshed_namespace("shop"),
        namespace("plain", ""),
        client("shop", "client"),
        client("plain", "client"),
        http_server("shop", "web", "app: web"),
        http_server("plain", "web", "app: web"),
        tcp_server("plain", "tcp", "app: tcp", &["--greet", "plain"]),
        lenient(),
        service("shop", "lenient", "app: lenient", &[(80, 8080)]),
        pod("plain", "udp", "app: udp", &[echo(), "udp", "--port", "5353"]),
        raw.replacen(
            "metadata: {name: raw, namespace: shop, labels",
            &format!("{skipped}name: raw, namespace: shop, labels"),
            1,
        ),
        service("shop", "web", "app: web", &[(80, 8080)]),
        service("shop", "raw", "app: raw", &[(8099, 8099)]),
        service_with("shop", "pods", &[(8080, 8080)], "selector: {app: web}\nclusterIP: None"),
        service("plain", "web", "app: web", &[(80, 8080)]),
        service("plain", "tcp", "app: tcp", &[(9000, 9000)]),
        service_with(
            "plain",
            "udp",
            &[],
            "selector: {app: udp}\nports: [{port: 53, targetPort: 5353, protocol: UDP}]",
        )
        .replacen("  ports:\n", "", 1),
    ];
    World::up("wire", &[], &manifests.concat())
}

/// Python's own HTTP server, which reads requests that others refuse, and says which identity it was told.
fn lenient() -> String {
    let script = "
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = ('told ' + str(self.headers.get('x-forwarded-client-cert'))).encode()
        self.send_response(200)
        self.send_header('content-length', str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    do_CONNECT = do_FOO = do_GET
Handler.protocol_version = 'HTTP/1.1'
http.server.ThreadingHTTPServer(('', 8080), Handler).serve_forever()";
    pod_with(
        "shop",
        "lenient",
        "app: lenient",
        &["/usr/bin/python3", "-c", script],
        "readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}",
    )
}

/// An answer of the server in the mesh to the meshed client, with the client's identity.
#[track_caller]
fn check_meshed(reply: &Reply, server: &str) {
    assert_eq!((reply.status, reply.server().as_str()), (200, server), "{reply:?}");
    assert_eq!(reply.client_identity().as_deref(), Some(CLIENT_ID), "{reply:?}");
}

/// An answer without the mesh on one side.
#[track_caller]
fn check_plain(reply: &Reply, server: &str) {
    assert_eq!((reply.status, reply.server().as_str()), (200, server), "{reply:?}");
    assert_eq!(reply.seen("x-forwarded-client-cert"), None, "{reply:?}");
}

fn a_request_arrives_unchanged_with_the_clients_identity(world: &World) -> Result<()> {
    let reply =
        world.curl(CLIENT, &["-X", "PUT", "-H", "X-Mine: 1", "-d", "body", "http://web/a?b=c%20d"])?;
    check_meshed(&reply, "web");
    assert_eq!([reply.field("method"), reply.field("path")], ["PUT", "/a?b=c%20d"]);
    let seen = ["host", "x-mine", "content-length"].map(|name| reply.seen(name).unwrap_or_default());
    assert_eq!(seen, ["web", "1", "4"], "{reply:?}");
    let certificate = reply.seen("x-forwarded-client-cert").unwrap_or_default();
    assert!(certificate.contains("By=spiffe://cluster.local/ns/shop/sa/web"), "{certificate}");
    Ok(())
}

fn a_connection_is_kept_alive(world: &World) -> Result<()> {
    let twice = [
        "-o",
        "/dev/null",
        "-o",
        "/dev/null",
        "-w",
        "connects=%{num_connects};",
        "http://web/",
        "http://web/",
    ];
    let output = world.exec(CLIENT, &[&["curl", "-sS"], &twice[..]].concat())?.good()?;
    assert_eq!(output.out, "connects=1;connects=0;");
    Ok(())
}

fn http_1_0_is_answered_and_closed(world: &World) -> Result<()> {
    let output = world
        .dialogue(CLIENT, "web:80", &["send GET /old HTTP/1.0\\r\\nHost: web\\r\\n\\r\\n", "eof"])?
        .good()?;
    assert!(output.out.contains(" 200 ") && output.out.contains("\"/old\""), "{output:?}");
    Ok(())
}

fn chunked_bodies_pass_in_both_directions(world: &World) -> Result<()> {
    let (sent, received) = (world.dir().join("sent"), world.dir().join("received"));
    let bytes: Vec<u8> = (0..2_000_003_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(&sent, &bytes)?;
    let data = format!("@{}", sent.display());
    let to = received.display().to_string();
    let chunked = [
        "-H",
        "Transfer-Encoding: chunked",
        "-H",
        "Expect:",
        "--data-binary",
        &data,
        "-o",
        &to,
        "http://web/echo",
    ];
    world.exec(CLIENT, &[&["curl", "-sS"], &chunked[..]].concat())?.good()?;
    assert!(std::fs::read(&received)? == bytes, "what came back is not what was sent");
    Ok(())
}

fn a_large_answer_arrives_whole(world: &World) -> Result<()> {
    let count = ["curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}", "http://web/bytes/50000000"];
    assert_eq!(world.exec(CLIENT, &count)?.good()?.out, "50000000");
    Ok(())
}

fn trailers_pass_in_both_directions(world: &World) -> Result<()> {
    let back =
        world.exec(CLIENT, &["curl", "-sS", "--raw", "-H", "TE: trailers", "http://web/trailers"])?.good()?;
    assert!(back.out.to_ascii_lowercase().contains("\r\nx-sum: 42\r\n"), "{back:?}");
    let head = "POST /echo HTTP/1.1\\r\\nHost: web\\r\\nTE: trailers\\r\\nConnection: TE\\r\\nTrailer: x-mine\\r\\nTransfer-Encoding: chunked";
    let request = format!("send {head}\\r\\n\\r\\n3\\r\\nabc\\r\\n0\\r\\nx-mine: there and back\\r\\n\\r\\n");
    world.dialogue(CLIENT, "web:80", &[&request, "expect abc", "expect there and back"])?.good()?;
    Ok(())
}

fn a_client_that_expects_100_continue_gets_it(world: &World) -> Result<()> {
    let arguments = ["-v", "-H", "Expect: 100-continue", "-d", "after the word", "http://web/"];
    let output = world.try_curl(CLIENT, &arguments)?.good()?;
    assert!(output.err.contains("< HTTP/1.1 100 Continue"), "{output:?}");
    check_meshed(&Reply::parse(&output.out)?, "web");
    // The word comes before the body, not with the answer.
    let head = "send POST /echo HTTP/1.1\\r\\nHost: web\\r\\nExpect: 100-continue\\r\\nContent-Length: 4\\r\\n\\r\\n";
    world
        .dialogue(
            CLIENT,
            "web:80",
            &[head, "expect HTTP/1.1 100", "send body", "expect 200 OK", "expect body"],
        )?
        .good()?;
    Ok(())
}

fn a_head_has_no_body_and_a_204_neither(world: &World) -> Result<()> {
    let requests = "send HEAD / HTTP/1.1\\r\\nHost: web\\r\\n\\r\\nGET /status/204 HTTP/1.1\\r\\nHost: web\\r\\n\\r\\nGET /last HTTP/1.1\\r\\nHost: web\\r\\nConnection: close\\r\\n\\r\\n";
    let output = world.dialogue(CLIENT, "web:80", &[requests, "eof"])?.good()?;
    let (heads, last) = output.out.split_once("{\"").unwrap_or_default();
    assert_eq!(heads.matches("HTTP/1.1 ").count(), 3, "three heads, then the only body: {output:?}");
    assert!(last.contains("/last"), "{output:?}");
    Ok(())
}

const UPGRADE: &str = "send GET /upgrade HTTP/1.1\\r\\nHost: web\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\\r\\n\\r\\n";

fn a_websocket_is_upgraded_and_carries_bytes(world: &World) -> Result<()> {
    let steps = [
        UPGRADE,
        "expect HTTP/1.1 101",
        "expect \\r\\n\\r\\n",
        "send one",
        "expect one",
        "send two",
        "expect two",
        "shut",
        "eof",
    ];
    let output = world.dialogue(CLIENT, "web:80", &steps)?.good()?;
    assert!(output.out.to_ascii_lowercase().contains("upgrade: websocket"), "{output:?}");
    Ok(())
}

fn websockets_in_hundreds_leave_room_for_requests(world: &World) -> Result<()> {
    let program =
        [echo(), "tcp-client", "web:80", "--times", "300", "--together", "--json", "--timeout", "25"];
    let open = [UPGRADE, "expect HTTP/1.1 101", "expect \\r\\n\\r\\n", "meet"];
    let then = ["wait 1500", "send still here", "expect still here", "shut", "eof"];
    let mut sockets = world.start(CLIENT, &[&program[..], &open, &then].concat())?;
    until("all are open", SOON * 2, || {
        anyhow::ensure!(sockets.written()?.contains("all have met") || sockets.is_over(), "not yet");
        Ok(())
    })?;
    check_meshed(&world.curl(CLIENT, &["http://web/"])?, "web");
    e2e::Load::parse(&sockets.finish(SOON * 3)?.out)?.all_well(300);
    Ok(())
}

fn a_slow_reader_costs_the_proxies_no_memory(world: &World) -> Result<()> {
    let held = || -> Result<[u64; 2]> {
        let of = |pod| world.resident_kib(pod, "heddle-proxy");
        Ok([of(CLIENT)?, of(WEB)?])
    };
    let before = held()?;
    let slow = ["curl", "-s", "-o", "/dev/null", "--limit-rate", "10M", "--max-time", "4"];
    let url = ["-w", "%{size_download}", "http://web/bytes/200000000"];
    let mut reader = world.start(CLIENT, &[&slow[..], &url].concat())?;
    let mut most = before;
    while !reader.is_over() {
        let now = held()?;
        most = [most[0].max(now[0]), most[1].max(now[1])];
    }
    let read: u64 = reader.finish(SOON)?.out.parse()?;
    assert!((10_000_000..100_000_000).contains(&read), "it should read slowly, but read {read} bytes");
    let grown = [most[0] - before[0], most[1] - before[1]];
    eprintln!(
        "a slow reader: the client's proxy grows by {} KiB, the server's by {} KiB",
        grown[0], grown[1]
    );
    assert!(grown.iter().all(|kib| *kib < 20 * 1024), "{before:?} grew by {grown:?} KiB");
    Ok(())
}

fn a_client_that_closes_half_before_the_answer_is_taken_as_gone(world: &World) -> Result<()> {
    let request = "send GET /delay/1000 HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n";
    let output = world.dialogue(CLIENT, "web:80", &[request, "shut", "eof"])?;
    assert!(!output.out.contains("200 OK"), "{output:?}");
    // Who keeps its side open gets the same answer.
    world.dialogue(CLIENT, "web:80", &[request, "expect 200 OK"])?.good()?;
    Ok(())
}

fn paths_pass_byte_for_byte(world: &World) -> Result<()> {
    for path in ["/a%2Fb", "//a//b", "/a;b=c", "/%7Ea", "/a?b&c=%26", "/*"] {
        let reply = world.curl(CLIENT, &["--path-as-is", &format!("http://web{path}")])?;
        assert_eq!(reply.field("path"), path);
    }
    Ok(())
}

fn ambiguous_framing_is_refused(world: &World) -> Result<()> {
    let bad = [
        "Content-Length: 3\\r\\nContent-Length: 4\\r\\n\\r\\nabc",
        "Transfer-Encoding: gzip, chunked\\r\\n\\r\\n0\\r\\n\\r\\n",
        "Host: other\\r\\nContent-Length: 0\\r\\n\\r\\n",
    ];
    let accepted = bad.iter().filter_map(|rest| {
        let request = format!("send POST /echo HTTP/1.1\\r\\nHost: web\\r\\n{rest}");
        let output = world.dialogue(CLIENT, "web:80", &[&request, "eof"]).ok()?;
        (!output.out.starts_with("HTTP/1.1 400"))
            .then(|| format!("{rest} was answered: {}{}", output.out, output.err))
    });
    let accepted: Vec<_> = accepted.collect();
    assert!(accepted.is_empty(), "{}", accepted.join("\n"));
    Ok(())
}

fn a_request_with_both_framings_smuggles_nothing(world: &World) -> Result<()> {
    // By its Transfer-Encoding the body ends before GET, by its Content-Length in the midst of it.
    let second = "GET /smuggled HTTP/1.1\\r\\nHost: web\\r\\n\\r\\n";
    for fields in [
        "Content-Length: 8\\r\\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\\r\\nContent-Length: 8",
    ] {
        let first =
            format!("send POST /first HTTP/1.1\\r\\nHost: web\\r\\n{fields}\\r\\n\\r\\n0\\r\\n\\r\\n");
        let output = world.dialogue(CLIENT, "web:80", &[&(first + second), "eof"])?;
        assert!(!output.err.contains("not done"), "the connection is closed: {output:?}");
        assert!(!output.out.contains("/smuggled"), "a server must not see it: {output:?}");
        // What reached the server had one framing.
        assert!(!output.out.contains("content-length\",\"8"), "{output:?}");
    }
    Ok(())
}

fn a_head_above_the_limit_is_refused(world: &World) -> Result<()> {
    let large = format!("X-Large: {}", "x".repeat(70_000));
    let output = world.try_curl(CLIENT, &["-H", &large, "http://web/"])?;
    assert!(output.out.starts_with("HTTP/1.1 431"), "{:.300}{:.300}", output.out, output.err);
    Ok(())
}

fn a_made_up_identity_is_replaced_by_the_real_one(world: &World) -> Result<()> {
    let lie = "X-Forwarded-Client-Cert: By=x;URI=spiffe://cluster.local/ns/shop/sa/admin";
    let reply = world.curl(CLIENT, &["-H", lie, "-H", "Heddle-Anything: x", "http://web/"])?;
    check_meshed(&reply, "web");
    assert!(!reply.body.contains("sa/admin") && reply.seen("heddle-anything").is_none(), "{reply:?}");
    let outside = world.curl("plain/client", &["-H", lie, "http://web.shop/"])?;
    check_plain(&outside, "web");
    Ok(())
}

fn a_made_up_identity_in_a_tunnel_does_not_arrive(world: &World) -> Result<()> {
    // The TCPRoute makes the client's proxy carry bytes; only the server's can look into them.
    let service = service("shop", "tunnel", "app: none", &[(80, 8080)]);
    let route = tcp_route("shop", "tunnel", "tunnel", &format!("- {}", backends(80, &[("web", 1)])));
    world.apply(&[service, route].concat())?;
    world.lab(&["wait", "tcproute", "shop/tunnel"])?.good()?;
    let lie = "X-Forwarded-Client-Cert: By=x;URI=spiffe://cluster.local/ns/shop/sa/admin";
    let reply = world.curl(CLIENT, &["-H", lie, "http://tunnel/"])?;
    assert_eq!((reply.status, reply.server().as_str()), (200, "web"), "{reply:?}");
    assert!(!reply.body.contains("sa/admin"), "{reply:?}");
    Ok(())
}

fn a_made_up_identity_behind_an_empty_line_does_not_arrive(world: &World) -> Result<()> {
    // Servers skip empty lines in front of a request, so they must not keep it from being recognised, at either end.
    let lie = "X-Forwarded-Client-Cert: By=x;URI=spiffe://cluster.local/ns/shop/sa/admin";
    let request = format!("send GET / HTTP/1.1\\r\\nHost: web\\r\\n{lie}\\r\\nConnection: close\\r\\n\\r\\n");
    let pod = format!("{}:8080", world.pod_ip(WEB)?);
    for blank in ["\\r\\n".to_owned(), "\\n".to_owned(), "\\r\\n".repeat(6), "\\n".repeat(70)] {
        let blank = format!("send {blank}");
        for (client, address) in [(CLIENT, "web:80"), (CLIENT, &pod), ("plain/client", "web.shop:80")] {
            for pause in ["wait 0", "wait 150"] {
                let output = world.dialogue(client, address, &[&blank, pause, &request, "eof"])?;
                let how = format!("{client} to {address} after {blank:?}, {pause}");
                assert!(!output.out.contains("sa/admin"), "{how}: {output:?}");
            }
        }
    }
    Ok(())
}

/// Methods and targets that nobody uses are HTTP's all the same; so is a request that comes letter by letter.
fn a_made_up_identity_in_an_unusual_request_does_not_arrive(world: &World) -> Result<()> {
    let lie = "X-Forwarded-Client-Cert: By=x;URI=spiffe://cluster.local/ns/shop/sa/admin";
    let rest = format!("\\r\\nHost: web\\r\\n{lie}\\r\\nConnection: close\\r\\n\\r\\n");
    let (long, method) = ("a".repeat(80), "M".repeat(30));
    let steps = [
        vec![format!("send FOO /{long} HTTP/1.1{rest}")],
        vec![format!("send {method} / HTTP/1.1{rest}")],
        vec!["send GE".to_owned(), "wait 300".to_owned(), format!("send T / HTTP/1.1{rest}")],
    ];
    for steps in &steps {
        for (client, address) in [(CLIENT, "web:80"), ("plain/client", "web.shop:80")] {
            let steps: Vec<_> = steps.iter().map(String::as_str).chain(["eof"]).collect();
            let output = world.dialogue(client, address, &steps)?;
            assert!(!output.out.contains("sa/admin"), "{client} to {address}, {steps:?}: {output:?}");
        }
    }
    Ok(())
}

/// What detection does not take for HTTP, a lenient server may: it must not bring an identity past us.
fn a_made_up_identity_in_a_request_for_lenient_servers_does_not_arrive(world: &World) -> Result<()> {
    let reply = world.curl(CLIENT, &["http://lenient/"])?;
    assert!(reply.body.contains(CLIENT_ID), "the server tells what it was told: {reply:?}");
    let lie = "X-Forwarded-Client-Cert: By=x;URI=spiffe://cluster.local/ns/shop/sa/admin";
    let rest = format!("Host: web\\r\\n{lie}\\r\\nConnection: close\\r\\n\\r\\n");
    let blank = "\\r\\n".repeat(4200);
    let lines = [
        "GET  /a HTTP/1.1",
        "GET ftp://x/a HTTP/1.1",
        "FOO /a  HTTP/1.1",
        "GET\\t/a HTTP/1.1",
        " GET /a HTTP/1.1",
        "GET a HTTP/1.1",
        &format!("{blank}GET /a HTTP/1.1"),
        "CONNECT / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\nGET /a HTTP/1.1",
        "CONNECT x:80 HTTP/1.1\\r\\nHost: x:80\\r\\n\\r\\nGET /a HTTP/1.1",
        "GET /a HTTP/1.1\\r\\nConnection: upgrade\\r\\nUpgrade: h2c ",
    ];
    for line in lines {
        for (client, address) in [(CLIENT, "lenient:80"), ("plain/client", "lenient.shop:80")] {
            for steps in [vec![format!("send {line}\\r\\n{rest}")], letters(line, &rest)] {
                let steps: Vec<_> = steps.iter().map(String::as_str).chain(["eof"]).collect();
                let output = world.dialogue(client, address, &steps)?;
                assert!(!output.out.contains("sa/admin"), "{client} to {address}, {steps:?}: {output:?}");
            }
        }
    }
    Ok(())
}

/// The same in two pieces, cut in the first word.
fn letters(line: &str, rest: &str) -> Vec<String> {
    let (first, more) = line.split_at(2);
    vec![format!("send {first}"), "wait 120".to_owned(), format!("send {more}\\r\\n{rest}")]
}

fn a_pod_ip_is_reached_under_mtls(world: &World) -> Result<()> {
    let url = format!("http://{}:8080/", world.pod_ip(WEB)?);
    check_meshed(&world.curl(CLIENT, &[&url])?, "web");
    Ok(())
}

fn a_headless_service_is_reached_under_mtls(world: &World) -> Result<()> {
    check_meshed(&world.curl(CLIENT, &["http://pods:8080/"])?, "web");
    Ok(())
}

fn a_service_without_selector_reaches_its_slices(world: &World) -> Result<()> {
    let slice = format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: by-hand, namespace: shop, labels: {{kubernetes.io/service-name: by-hand}}}}\naddressType: IPv4\nports: [{{name: p80, port: 8080, protocol: TCP}}]\nendpoints: [{{addresses: ['{}'], conditions: {{ready: true}}}}]\n",
        world.pod_ip(WEB)?
    );
    world.apply(&[service_with("shop", "by-hand", &[(80, 8080)], ""), slice].concat())?;
    check_meshed(&world.curl(CLIENT, &["http://by-hand/"])?, "web");
    Ok(())
}

fn ipv6_cluster_ips_and_pod_ips_work(world: &World) -> Result<()> {
    let service = format!("http://[{}]/", world.cluster_ip("shop/web", ':')?);
    check_meshed(&world.curl(CLIENT, &["-g", &service])?, "web");
    let pod = &world.pod(WEB)?["ips"];
    let v6 =
        pod.as_array().and_then(|ips| ips.iter().filter_map(|ip| ip.as_str()).find(|ip| ip.contains(':')));
    let direct = format!("http://[{}]:8080/", v6.unwrap_or_default());
    check_meshed(&world.curl(CLIENT, &["-g", &direct])?, "web");
    Ok(())
}

fn a_server_that_listens_on_ipv4_alone_is_called_over_ipv4(world: &World) -> Result<()> {
    // As kube-proxy does it: the cluster address's family is the endpoint's.
    let server =
        pod("shop", "four", "app: four", &[echo(), "http", "--name", "four", "--address", "0.0.0.0"]);
    world.apply(&[server, service("shop", "four", "app: four", &[(80, 8080)])].concat())?;
    let url = format!("http://{}/", world.cluster_ip("shop/four", '.')?);
    let load = world.load(CLIENT, &url, &["--requests", "40"])?.all_well(40);
    assert_eq!(load.by("four"), 40);
    Ok(())
}

fn a_pod_reaches_itself_by_every_name(world: &World) -> Result<()> {
    let (own, cluster) = (world.pod_ip(WEB)?, world.cluster_ip("shop/web", '.')?);
    for host in [format!("{own}:8080"), cluster, "web".to_owned(), "pods:8080".to_owned()] {
        let reply = world.curl(WEB, &[&format!("http://{host}/")])?;
        assert_eq!((reply.status, reply.server().as_str()), (200, "web"), "{host}: {reply:?}");
    }
    Ok(())
}

fn loopback_stays_in_the_pod(world: &World) -> Result<()> {
    for (host, peer) in [("127.0.0.1", "127.0.0.1:"), ("[::1]", "[::1]:"), ("localhost", "")] {
        let reply = world.curl(WEB, &["-g", &format!("http://{host}:8080/")])?;
        check_plain(&reply, "web");
        assert!(reply.field("peer").starts_with(peer), "{reply:?}");
    }
    Ok(())
}

fn a_server_sees_calls_arrive_at_its_pod_address(world: &World) -> Result<()> {
    // Never from loopback: a server that trusts 127.0.0.1 must not come to trust the world.
    let peer = world.curl(CLIENT, &["http://web/"])?.field("peer");
    assert!(!peer.starts_with("127.") && !peer.starts_with("[::1]"), "the server sees {peer}");
    Ok(())
}

fn unmeshed_pods_are_reached_as_before(world: &World) -> Result<()> {
    check_plain(&world.curl(CLIENT, &["http://web.plain/"])?, "web");
    check_plain(&world.curl(CLIENT, &[&format!("http://{}:8080/", world.pod_ip("plain/web")?)])?, "web");
    world.dialogue(CLIENT, "tcp.plain:9000", &["line", "send abc", "expect abc", "shut", "eof"])?.good()?;
    let pod = format!("{}:9000", world.pod_ip("plain/tcp")?);
    world.dialogue(CLIENT, &pod, &["line", "send abc", "expect abc", "shut", "eof"])?.good()?;
    Ok(())
}

fn unmeshed_clients_are_served_without_identity(world: &World) -> Result<()> {
    check_plain(&world.curl("plain/client", &["http://web.shop/"])?, "web");
    check_plain(&world.curl("plain/client", &[&format!("http://{}:8080/", world.pod_ip(WEB)?)])?, "web");
    Ok(())
}

fn a_port_where_nobody_listens_fails_quickly(world: &World) -> Result<()> {
    let began = std::time::Instant::now();
    let reply = world.exec(
        CLIENT,
        &["curl", "-sS", "-i", "--max-time", "10", &format!("http://{}:7777/", world.pod_ip(WEB)?)],
    )?;
    assert!(reply.status != Some(0) || reply.out.contains(" 50"), "{reply:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "took {:?}: {reply:?}", began.elapsed());
    Ok(())
}

fn udp_is_left_alone(world: &World) -> Result<()> {
    let ask = |address: &str| world.exec(CLIENT, &[echo(), "udp-client", address, "ping"]);
    for address in ["udp.plain:53".to_owned(), format!("{}:5353", world.pod_ip("plain/udp")?)] {
        let output = ask(&address)?.good()?;
        assert_eq!(output.out.trim(), "ping", "{address}");
    }
    Ok(())
}

fn skipped_ports_are_left_alone(world: &World) -> Result<()> {
    check_plain(&world.curl(CLIENT, &["http://raw:8099/"])?, "raw");
    check_plain(&world.curl("plain/client", &["http://raw.shop:8099/"])?, "raw");
    Ok(())
}

fn the_proxy_listens_only_where_it_must(world: &World) -> Result<()> {
    let ip = world.pod_ip(WEB)?;
    let admin = world.try_curl("plain/client", &[&format!("http://{ip}:15000/table")])?;
    assert_ne!(admin.status, Some(0), "the admin port answers strangers: {admin:?}");
    let metrics = world.curl("plain/client", &[&format!("http://{ip}:15020/metrics")])?;
    assert_eq!(metrics.status, 200, "{metrics:?}");
    let ready = world.curl("plain/client", &[&format!("http://{ip}:15021/ready")])?;
    assert_eq!(ready.status, 200, "{ready:?}");
    Ok(())
}

fn metrics_count_requests_by_status(world: &World) -> Result<()> {
    world.curl(CLIENT, &["http://web/status/418"])?;
    let metrics = until("the request is counted", SOON, || {
        let metrics = world.metrics(CLIENT)?;
        anyhow::ensure!(metrics.contains("418"), "{metrics}");
        Ok(metrics)
    })?;
    assert!(metrics.contains("# TYPE "), "{metrics}");
    Ok(())
}

fn the_first_connection_to_a_service_costs_little_more_than_the_second(world: &World) -> Result<()> {
    world.apply(&service("shop", "fresh", "app: web", &[(80, 8080)]))?;
    let time = || -> Result<f64> {
        let timed = ["curl", "-sS", "-o", "/dev/null", "-w", "%{time_total}", "http://fresh/"];
        Ok(world.exec(CLIENT, &timed)?.good()?.out.parse::<f64>()? * 1000.0)
    };
    let (first, second) = (time()?, time()?);
    eprintln!("first connection {first:.1} ms, second {second:.1} ms (goal: at most 20 ms more)");
    // Generous: other programs share the machine with this test.
    assert!(first - second < 200.0, "first {first:.1} ms, second {second:.1} ms");
    Ok(())
}
