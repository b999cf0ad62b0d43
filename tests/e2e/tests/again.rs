//! Requests that a server did not process: they go again, to another connection or another server, and nobody notices.
//!
//! nginx is the server that says so: it ends HTTP/2 connections after some requests (GOAWAY), and refuses streams above
//! its bound (REFUSED_STREAM).

use anyhow::Result;
use e2e::manifest::{client, h2c_service, http_server, meshed_namespace, namespace, pod, pod_with, service};
use e2e::{Reply, World};

const CLIENT: &str = "mesh/client";
const PORTS: &[(u16, u16)] = &[(80, 8080)];

e2e::prove!(
    up,
    [
        a_request_that_a_peers_application_did_not_get_goes_to_another,
        a_body_goes_again_with_its_request,
        a_body_beyond_what_is_remembered_fails_with_the_reason,
        connections_that_a_server_ends_lose_no_request,
        streams_that_a_server_refuses_go_again,
        what_no_server_takes_is_told_with_the_reason,
        an_unmeshed_caller_of_an_application_that_is_away_is_sent_elsewhere,
    ]
);

fn up() -> Result<World> {
    let each = |home: &str| {
        let ending = nginx(home, "ending", "keepalive_requests 10;");
        let narrow = nginx(home, "narrow", "http2_max_concurrent_streams 2;");
        [
            ending,
            narrow,
            h2c_service(home, "ending", "app: ending", PORTS),
            h2c_service(home, "narrow", "app: narrow", PORTS),
        ]
        .concat()
    };
    let manifests = [
        meshed_namespace("mesh"),
        namespace("plain", ""),
        client("mesh", "client"),
        client("plain", "client"),
        http_server("mesh", "web", "app: half"),
        // Ready, and nobody listens.
        pod("mesh", "deaf", "app: half, deaf: all", &["sleep", "infinity"]),
        service("mesh", "half", "app: half", &[(80, 8080)]),
        service("mesh", "deaf", "deaf: all", &[(80, 8080)]),
        each("mesh"),
        each("plain"),
    ];
    World::up("again", &[], &manifests.concat())
}

/// nginx that speaks HTTP/2 without TLS, with one more setting.
fn nginx(namespace: &str, name: &str, setting: &str) -> String {
    let config = format!(
        "daemon off; error_log stderr; pid /data/pid; events {{}} http {{ access_log off; \
         client_body_temp_path /data; proxy_temp_path /data; fastcgi_temp_path /data; uwsgi_temp_path /data; scgi_temp_path /data; \
         server {{ listen 8080 http2; listen [::]:8080 http2; {setting} location / {{ add_header x-server {name}; return 200 here; }} }} }}"
    );
    let script =
        format!("mkdir -p /data && echo '{config}' >/data/nginx.conf && exec nginx -c /data/nginx.conf");
    let ready = "readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}";
    let pod = pod_with(namespace, name, &format!("app: {name}"), &["sh", "-ec", &script], ready);
    let pod = pod.replace("spec:\n", "spec:\n  volumes: [{name: data, emptyDir: {}}]\n");
    pod.replace("    image: none\n", "    image: none\n    volumeMounts: [{name: data, mountPath: /data}]\n")
}

/// A body of so many bytes, posted to a URL so many times over; the answers' statuses and servers.
fn post(world: &World, url: &str, bytes: usize, times: usize) -> Result<Vec<Reply>> {
    let body = world.dir().join(format!("{bytes}"));
    std::fs::write(&body, vec![b'w'; bytes])?;
    let data = format!("@{}", body.display());
    let one = || world.curl(CLIENT, &["-H", "expect:", "--data-binary", &data, url]);
    (0..times).map(|_| one()).collect()
}

fn a_request_that_a_peers_application_did_not_get_goes_to_another(world: &World) -> Result<()> {
    for version in [&[][..], &["--http2"]] {
        let load = world.load(CLIENT, "http://half/", &[&["--requests", "200"], version].concat())?;
        assert_eq!(load.all_well(200).by("web"), 200);
    }
    Ok(())
}

fn a_body_goes_again_with_its_request(world: &World) -> Result<()> {
    for reply in post(world, "http://half/echo", 20_000, 20)? {
        assert_eq!((reply.status, reply.body.len()), (200, 20_000));
    }
    Ok(())
}

fn a_body_beyond_what_is_remembered_fails_with_the_reason(world: &World) -> Result<()> {
    for reply in post(world, "http://half/echo", 4_000_000, 10)? {
        let why = reply.header("proxy-status").unwrap_or_default();
        assert!(
            (reply.status, reply.body.len()) == (200, 4_000_000)
                || (reply.status == 503 && why.contains("connection_refused")),
            "{} {why}",
            reply.status
        );
    }
    Ok(())
}

fn connections_that_a_server_ends_lose_no_request(world: &World) -> Result<()> {
    for host in ["ending.mesh", "ending.plain"] {
        for version in [&[][..], &["--http2"]] {
            let options = [&["--requests", "1000", "--connections", "8"], version].concat();
            world.load(CLIENT, &format!("http://{host}/"), &options)?.all_well(1000);
        }
    }
    Ok(())
}

fn streams_that_a_server_refuses_go_again(world: &World) -> Result<()> {
    for host in ["narrow.mesh", "narrow.plain"] {
        let options = ["--http2", "--requests", "1000", "--connections", "32"];
        world.load(CLIENT, &format!("http://{host}/"), &options)?.all_well(1000);
    }
    Ok(())
}

fn what_no_server_takes_is_told_with_the_reason(world: &World) -> Result<()> {
    let reply = world.curl(CLIENT, &["http://deaf/"])?;
    let why = reply.header("proxy-status").unwrap_or_default();
    assert!(reply.status == 503 && why.contains("error=connection_refused"), "{reply:?}");
    assert_eq!(reply.header("heddle-unsent"), None, "{reply:?}");
    let grpc =
        ["--http2-prior-knowledge", "-H", "content-type: application/grpc", "-d", "", "http://deaf/a.B/C"];
    let reply = world.curl(CLIENT, &grpc)?;
    assert_eq!((reply.status, reply.header("grpc-status").as_deref()), (200, Some("14")), "{reply:?}");
    Ok(())
}

fn an_unmeshed_caller_of_an_application_that_is_away_is_sent_elsewhere(world: &World) -> Result<()> {
    let url = format!("http://{}:8080/", world.pod_ip("mesh/deaf")?);
    let reply = world.curl("plain/client", &[&url])?;
    assert_eq!((reply.status, reply.header("connection").as_deref()), (503, Some("close")), "{reply:?}");
    Ok(())
}
