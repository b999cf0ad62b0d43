//! What a connection speaks, told by its first words, with nothing configured: servers that speak first are heard at
//! once, TLS passes through, and an HTTPRoute on a Service of mixed ports leaves alone what is not HTTP.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::manifest::{client, echo, http_route, meshed_namespace, namespace, pod_with, service};
use e2e::{World, until};

const CLIENT: &str = "data/client";
const STRANGER: &str = "plain/client";
const SOON: Duration = Duration::from_secs(10);
/// How much later than without the mesh a server's first byte may come.
const LATER_MS: f64 = 30.0;

e2e::prove!(
    up,
    [
        mariadb_greets_at_most_30_ms_later,
        clients_that_speak_first_wait_for_nothing,
        mail_is_delivered_whoever_is_meshed,
        a_portless_http_route_governs_http_alone,
        tls_passes_through_with_its_own_certificate,
        a_client_of_an_explicit_proxy_is_carried_as_it_is,
        a_kept_connection_may_turn_to_an_explicit_proxy_later,
    ]
);

const MARIADB: &str = "mariadb-install-db --no-defaults --user=nobody --datadir=/data/my --skip-test-db >/data/install.log
echo \"CREATE USER app@'%' IDENTIFIED BY 'secret';\" >/data/init.sql
chown -R nobody /data
PATH=$PATH:/usr/sbin exec mariadbd --no-defaults --user=nobody --datadir=/data/my --socket=/data/my.sock --pid-file=/data/my.pid --init-file=/data/init.sql";

/// As much of RFC 5321 as a client needs to deliver one mail at a time.
const MAIL: &str = "import socketserver
class Mail(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b'220 mail ready\\r\\n')
        for line in self.rfile:
            verb = line[:4].upper()
            if verb == b'DATA':
                self.wfile.write(b'354 go on\\r\\n')
                for text in self.rfile:
                    if text == b'.\\r\\n': break
            self.wfile.write(b'221 bye\\r\\n' if verb == b'QUIT' else b'250 ok\\r\\n')
            if verb == b'QUIT': return
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(('', 2525), Mail).serve_forever()";

/// An HTTP proxy that says what it was asked, and talks to itself behind a CONNECT.
const FORWARD: &str = "import http.server
class Forward(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        said = (self.requestline.rsplit(' ', 1)[0] + ';').encode()
        self.send_response(200)
        self.send_header('content-length', str(len(said)))
        self.end_headers()
        self.wfile.write(said)
    def do_CONNECT(self):
        self.send_response(200, self.path + ' is open')
        self.end_headers()
        self.wfile.flush()
        for line in self.rfile: self.wfile.write(line)
        self.close_connection = True
http.server.ThreadingHTTPServer(('', 3128), Forward).serve_forever()";

const NGINX: &str = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=mixed -keyout /data/key -out /data/cert 2>/data/openssl.log
cat >/data/conf <<END
daemon off; pid /data/pid; error_log stderr; events {}
http { access_log off; client_body_temp_path /data/a; proxy_temp_path /data/b; fastcgi_temp_path /data/c; uwsgi_temp_path /data/d; scgi_temp_path /data/e;
server { listen 8443 ssl; ssl_certificate /data/cert; ssl_certificate_key /data/key; location / { return 200 \"nginx in TLS\"; } } }
END
PATH=$PATH:/usr/sbin exec nginx -c /data/conf";

fn up() -> Result<World> {
    let mail = |namespace: &str| {
        let server = scripted(namespace, "mail", "exec python3 -c \"$MAIL\"", "tcpSocket: {port: 2525}");
        server + &service(namespace, "mail", "app: mail", &[(25, 2525)])
    };
    let mariadb = |namespace: &str| {
        let server = scripted(namespace, "my", MARIADB, "tcpSocket: {port: 3306}");
        server + &service(namespace, "my", "app: my", &[(3306, 3306)])
    };
    let forward = |namespace: &str| {
        let server =
            scripted(namespace, "forward", "exec python3 -c \"$FORWARD\"", "tcpSocket: {port: 3128}");
        server + &service(namespace, "forward", "app: forward", &[(3128, 3128)])
    };
    let each = |namespace: &str| client(namespace, "client") + &mail(namespace);
    let all = [
        meshed_namespace("data"),
        namespace(
            "strict",
            "labels: {heddle.dev/inject: enabled}, annotations: {heddle.dev/mtls-mode: strict}",
        ),
        namespace("plain", ""),
        ["data", "strict", "plain"].map(each).concat(),
        ["data", "plain"].map(mariadb).concat(),
        ["data", "plain"].map(forward).concat(),
        mixed(),
    ];
    World::up("words", &[], &all.concat())
}

/// A pod that runs a shell script, with an emptyDir at /data.
fn scripted(namespace: &str, name: &str, script: &str, ready: &str) -> String {
    let more = format!(
        "env: [{{name: MAIL, value: {MAIL:?}}}, {{name: FORWARD, value: {FORWARD:?}}}]
volumeMounts: [{{name: data, mountPath: /data}}]
readinessProbe: {{{ready}, periodSeconds: 1, failureThreshold: 60}}"
    );
    let pod = pod_with(namespace, name, &format!("app: {name}"), &["sh", "-ec", script], &more);
    pod.replace("  containers:\n", "  volumes: [{name: data, emptyDir: {}}]\n  containers:\n")
}

/// A pod that serves HTTP, TLS and a protocol whose server speaks first, behind one Service with an HTTPRoute that names
/// no port.
fn mixed() -> String {
    let echo = echo();
    let script =
        format!("{echo} http --port 8080 --name web & {echo} tcp --port 9000 --greet early & {NGINX}");
    let ports = [(80, 8080), (81, 8080), (443, 8443), (9000, 9000)];
    let rule = "- filters:
  - type: RequestHeaderModifier
    requestHeaderModifier: {set: [{name: x-routed, value: 'yes'}]}
  backendRefs: [{name: mixed, port: 80}]";
    [
        scripted("data", "mixed", &script, "tcpSocket: {port: 8443}"),
        service("data", "mixed", "app: mixed", &ports),
        service("data", "unrouted", "app: mixed", &ports),
        http_route("data", "mixed", "mixed", rule),
    ]
    .concat()
}

/// The median of eleven first bytes, milliseconds.
fn first_byte(world: &World, client: &str, address: &str, steps: &[&str]) -> Result<f64> {
    Ok(world.dialogues(client, address, 11, steps)?.all_well(11).milliseconds("p50"))
}

/// How much later the first byte comes through the mesh; the best of three tries, for the machine may be busy.
fn later(world: &World, client: &str, address: &str, control: &str, steps: &[&str]) -> Result<f64> {
    world.dialogue(client, address, steps)?.good()?;
    let mut least = f64::MAX;
    for _ in 0..3 {
        let without = first_byte(world, STRANGER, control, steps)?;
        least = least.min(first_byte(world, client, address, steps)? - without);
        if least < LATER_MS {
            break;
        }
    }
    eprintln!("{client} hears {address} {least:.1} ms later");
    Ok(least)
}

fn mariadb_greets_at_most_30_ms_later(world: &World) -> Result<()> {
    let steps = ["expect mysql_native_password"];
    for (client, server) in [(CLIENT, "my.data"), (CLIENT, "my.plain"), (STRANGER, "my.data")] {
        let later = later(world, client, &format!("{server}:3306"), "my.plain:3306", &steps)?;
        assert!(later < LATER_MS, "{client} hears {server} {later:.1} ms later than without the mesh");
    }
    Ok(())
}

/// A request's answer does not wait for a server's silence.
fn clients_that_speak_first_wait_for_nothing(world: &World) -> Result<()> {
    let steps = ["send EHLO me\\r\\n", "expect 250"];
    let later = later(world, CLIENT, "mail.data:25", "mail.plain:25", &steps)?;
    assert!(later < LATER_MS, "{later:.1} ms");
    Ok(())
}

fn mail_is_delivered_whoever_is_meshed(world: &World) -> Result<()> {
    let mail = world.dir().join("mail");
    std::fs::write(&mail, "Subject: warp\r\n\r\nweft\r\n")?;
    let mail = mail.to_string_lossy();
    for (client, servers) in [
        (CLIENT, &["data", "strict", "plain"][..]),
        ("strict/client", &["data", "strict", "plain"]),
        (STRANGER, &["data", "plain"]),
    ] {
        for server in servers {
            let url = format!("smtp://mail.{server}:25/me");
            let curl = [
                "curl",
                "-sS",
                "--max-time",
                "10",
                &url,
                "--mail-from",
                "a@b",
                "--mail-rcpt",
                "c@d",
                "-T",
                &mail,
            ];
            world.exec(client, &curl)?.good()?;
        }
    }
    let steps = ["send EHLO me\\r\\n", "expect 220"];
    let refused = world.dialogue(STRANGER, "mail.strict:25", &steps)?.bad()?;
    assert!(refused.out.is_empty(), "not a byte comes out of strict mode: {refused:?}");
    Ok(())
}

fn a_portless_http_route_governs_http_alone(world: &World) -> Result<()> {
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        for port in [80, 81] {
            let reply = world.curl(CLIENT, &[version, &format!("http://mixed:{port}/")])?;
            assert_eq!(reply.seen("x-routed").as_deref(), Some("yes"), "{version} on {port}");
        }
    }
    world
        .dialogues(CLIENT, "mixed:9000", 5, &["line", "send hello", "expect hello", "shut", "eof"])?
        .all_well(5);
    until("TLS is left alone", SOON, || {
        let reply = world.curl(CLIENT, &["-k", "https://mixed/"])?;
        ensure!(reply.body == "nginx in TLS", "{reply:?}");
        Ok(())
    })
}

fn tls_passes_through_with_its_own_certificate(world: &World) -> Result<()> {
    for client in [CLIENT, STRANGER] {
        let ask = "openssl s_client -connect mixed.data:443 -servername mixed </dev/null 2>&1 | grep -o 'CN *= *mixed'";
        world.exec(client, &["sh", "-c", ask])?.good()?;
        assert_eq!(world.curl(client, &["-k", "https://mixed.data/"])?.body, "nginx in TLS");
    }
    Ok(())
}

/// On a port that nothing declares as HTTP, what an explicit proxy is asked is between it and its client.
fn a_client_of_an_explicit_proxy_is_carried_as_it_is(world: &World) -> Result<()> {
    let connect = ["send CONNECT far:443 HTTP/1.1\\r\\nhost: far:443\\r\\n\\r\\n", "expect far:443 is open"];
    let absolute = ["send GET http://far/ HTTP/1.1\\r\\nhost: far\\r\\n\\r\\n", "expect GET http://far/;"];
    let bytes = ["send SSH-2.0-me\\n", "expect SSH-2.0-me", "shut", "eof"];
    each_forward(world, &[&connect[..], &bytes].concat())?;
    each_forward(world, &absolute)?;
    each_forward(world, &[&absolute[..], &connect, &bytes].concat())
}

/// The same after a request that looked like any server's.
fn a_kept_connection_may_turn_to_an_explicit_proxy_later(world: &World) -> Result<()> {
    let plain = ["send GET /own HTTP/1.1\\r\\nhost: forward\\r\\n\\r\\n", "expect GET /own;"];
    let absolute = ["send GET http://far/ HTTP/1.1\\r\\nhost: far\\r\\n\\r\\n", "expect GET http://far/;"];
    let connect = ["send CONNECT far:443 HTTP/1.1\\r\\nhost: far:443\\r\\n\\r\\n", "expect 200"];
    let bytes = ["send SSH-2.0-me\\n", "expect SSH-2.0-me", "shut", "eof"];
    each_forward(world, &[&plain[..], &absolute, &plain, &connect, &bytes].concat())
}

fn each_forward(world: &World, steps: &[&str]) -> Result<()> {
    for server in ["forward.data:3128", "forward.plain:3128"] {
        world.dialogues(CLIENT, server, 3, steps)?.all_well(3);
    }
    Ok(())
}
