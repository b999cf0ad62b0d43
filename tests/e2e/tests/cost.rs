//! What connections cost: idle ones little, and those whose reader is slow no more than their bound.
//!
//! Memory is what the kernel says is resident, so each rule has pods of its own: what one has freed must not hide what
//! the next takes.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::manifest::{client, echo, http_server, meshed_namespace, namespace, pod_with, service, tcp_server};
use e2e::{Running, World, until};

const SOON: Duration = Duration::from_secs(60);
/// Idle connections that are compared with few.
const MANY: u64 = 5000;
/// So many are opened at once: more handshakes than a slow machine makes within their limit would fail.
const BATCH: u64 = 250;
/// KiB that an idle connection may take from a proxy, in mesh TLS on one side, and in plaintext on both.
const IDLE_MTLS: u64 = 48;
const IDLE_PLAIN: u64 = 20;
/// Downloads whose readers stall, and KiB that each may take from a proxy.
const STALLED: u64 = 100;
const STALLED_MOST: u64 = 1024;

const REQUEST: &str = "send GET / HTTP/1.1\\r\\nhost: web\\r\\n\\r\\n";

e2e::prove!(
    up,
    [
        an_idle_tcp_connection_in_mtls_costs_little,
        an_idle_tcp_connection_to_an_unmeshed_server_costs_little,
        an_idle_tcp_connection_from_an_unmeshed_client_costs_little,
        an_idle_http_connection_costs_little,
        an_idle_http_connection_from_an_unmeshed_client_costs_little,
        stalled_http_downloads_are_held_back,
        stalled_tcp_downloads_are_held_back,
    ]
);

fn up() -> Result<World> {
    let clients = ["tcp", "out", "http", "stall", "stall-tcp"].map(|name| client("shop", name)).concat();
    let tcp = |namespace: &str, name: &str| {
        tcp_server(namespace, name, &format!("app: {name}"), &["--answer", name])
            + &service(namespace, name, &format!("app: {name}"), &[(9000, 9000)])
    };
    let web = |name: &str| {
        http_server("shop", name, &format!("app: {name}"))
            + &service("shop", name, &format!("app: {name}"), &[(8080, 8080)])
    };
    let all = [
        meshed_namespace("shop"),
        namespace("plain", ""),
        client("plain", "client"),
        clients,
        [tcp("shop", "mtls"), tcp("shop", "in"), tcp("plain", "bare")].concat(),
        ["web", "web-in", "web-stall"].map(web).concat(),
        downloads(),
    ];
    World::up("cost", &[], &all.concat())
}

/// HTTP on a port that says it is none: its answers are carried as bytes.
fn downloads() -> String {
    let command = [echo(), "http", "--port", "9000"];
    let ready = "readinessProbe: {tcpSocket: {port: 9000}, periodSeconds: 1}";
    let service = service("shop", "bytes", "app: bytes", &[(9000, 9000)]);
    pod_with("shop", "bytes", "app: bytes", &command, ready)
        + &service.replace("targetPort:", "appProtocol: tcp, targetPort:")
}

/// Opens connections from a pod; returns when each has come through its steps. They stay until this is dropped.
fn open(world: &World, client: &str, address: &str, times: u64, steps: &[&str]) -> Result<Running> {
    let times = times.to_string();
    let command = [echo(), "tcp-client", address, "--together", "--timeout", "600", "--times", &times];
    let running = world.start(client, &[&command[..], steps, &["meet", "wait 600000"]].concat())?;
    until(&format!("{times} connections to {address}"), SOON, || {
        ensure!(running.written()?.contains("all have met"), "{}", running.written()?);
        Ok(())
    })?;
    Ok(running)
}

/// Each of these proxies gets at most so many KiB larger by each of many connections.
fn idle(world: &World, client: &str, address: &str, steps: &[&str], proxies: &[(&str, u64)]) -> Result<()> {
    let _few = open(world, client, address, 100, steps)?;
    let before = resident(world, proxies)?;
    let many = (0..MANY / BATCH).map(|_| open(world, client, address, BATCH, steps));
    let _many = many.collect::<Result<Vec<_>>>()?;
    let after = resident(world, proxies)?;
    for (((pod, most), before), after) in proxies.iter().zip(before).zip(after) {
        let each = after.saturating_sub(before) as f64 / MANY as f64;
        eprintln!("{client} to {address}: an idle connection costs {pod} {each:.1} KiB");
        assert!(each < *most as f64, "{pod} takes {each:.1} KiB for each connection");
    }
    Ok(())
}

fn resident(world: &World, proxies: &[(&str, u64)]) -> Result<Vec<u64>> {
    proxies.iter().map(|(pod, _)| world.resident_kib(pod, "heddle-proxy")).collect()
}

fn an_idle_tcp_connection_in_mtls_costs_little(world: &World) -> Result<()> {
    let steps = ["send hello\\n", "expect hello"];
    idle(world, "shop/tcp", "mtls.shop:9000", &steps, &[("shop/tcp", IDLE_MTLS), ("shop/mtls", IDLE_MTLS)])
}

fn an_idle_tcp_connection_to_an_unmeshed_server_costs_little(world: &World) -> Result<()> {
    let steps = ["send hello\\n", "expect hello"];
    idle(world, "shop/out", "bare.plain:9000", &steps, &[("shop/out", IDLE_PLAIN)])
}

fn an_idle_tcp_connection_from_an_unmeshed_client_costs_little(world: &World) -> Result<()> {
    let steps = ["send hello\\n", "expect hello"];
    idle(world, "plain/client", "in.shop:9000", &steps, &[("shop/in", IDLE_PLAIN)])
}

fn an_idle_http_connection_costs_little(world: &World) -> Result<()> {
    idle(world, "shop/http", "web:8080", &[REQUEST, "expect }"], &[("shop/http", IDLE_PLAIN)])
}

fn an_idle_http_connection_from_an_unmeshed_client_costs_little(world: &World) -> Result<()> {
    idle(world, "plain/client", "web-in.shop:8080", &[REQUEST, "expect }"], &[("shop/web-in", IDLE_PLAIN)])
}

/// A reader that stalls is the slowest of all; what the proxies hold then is the most that they ever do.
fn stalled(world: &World, client: &str, server: &str, address: &str) -> Result<()> {
    let proxies = [(client, 0), (server, 0)];
    let before = resident(world, &proxies)?;
    let steps = ["send GET /bytes/100000000 HTTP/1.1\\r\\nhost: web\\r\\n\\r\\n", "expect 200 OK"];
    let _stalled = open(world, client, address, STALLED, &steps)?;
    until("the proxies grow no more", SOON, || {
        let some = resident(world, &proxies)?;
        std::thread::sleep(Duration::from_millis(500));
        let more = resident(world, &proxies)?;
        ensure!(more.iter().zip(&some).all(|(more, some)| more.abs_diff(*some) < 64), "{some:?} {more:?}");
        Ok(())
    })?;
    for ((pod, _), (before, after)) in proxies.iter().zip(before.iter().zip(resident(world, &proxies)?)) {
        let each = after.saturating_sub(*before) / STALLED;
        eprintln!("a stalled download from {address} costs {pod} {each} KiB");
        assert!(each < STALLED_MOST, "{pod} takes {each} KiB for each");
    }
    // And nobody else waits for them.
    world.dialogue(client, address, &[REQUEST, "expect 200 OK"])?.good().map(drop)
}

fn stalled_http_downloads_are_held_back(world: &World) -> Result<()> {
    stalled(world, "shop/stall", "shop/web-stall", "web-stall:8080")
}

fn stalled_tcp_downloads_are_held_back(world: &World) -> Result<()> {
    stalled(world, "shop/stall-tcp", "shop/bytes", "bytes:9000")
}
