//! Who is who, and what the wire shows: a strict world whose certificates live for 30 seconds.
//!
//! `vault` is strict as the world is, `open` is permissive by its own annotation, `plain` is not in the mesh.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::manifest::{client, echo, http_server, meshed_namespace, namespace, pod_with, service, tcp_server};
use e2e::{Capture, Reply, World, run, until};

const CLIENT: &str = "vault/client";
const STRANGER: &str = "plain/client";

e2e::prove!(
    up,
    [
        a_meshed_client_enters_and_is_known_by_its_service_account,
        strict_refuses_plaintext_before_the_application_sees_a_byte,
        strict_refuses_plaintext_on_the_proxys_own_ports,
        plaintext_inbound_ports_stay_open_in_strict,
        a_permissive_namespace_accepts_plaintext,
        the_wire_shows_no_plaintext_between_meshed_pods,
        a_pod_that_took_over_anothers_address_is_refused_by_identity,
        certificates_are_renewed_under_load,
    ]
);

fn up() -> Result<World> {
    let annotated = "labels: {heddle.dev/inject: enabled}, annotations: {heddle.dev/mtls-mode: permissive}";
    let both = [echo(), "http", "--port", "8080", "--name", "half"];
    let half = pod_with("vault", "half", "app: half", &both, "");
    let manifests = [
        meshed_namespace("vault"),
        namespace("open", annotated),
        namespace("plain", ""),
        client("vault", "client"),
        client("plain", "client"),
        http_server("vault", "web", "app: web"),
        http_server("vault", "victim", "app: victim"),
        http_server("vault", "mallory", "app: mallory"),
        tcp_server("vault", "tcp", "app: tcp", &["--greet", "hello"]),
        half.replacen(
            "kind: Pod\nmetadata: {",
            "kind: Pod\nmetadata: {annotations: {heddle.dev/plaintext-inbound-ports: '8080'}, ",
            1,
        ),
        http_server("open", "web", "app: web"),
        http_server("plain", "web", "app: web"),
        ["web", "victim", "half"]
            .map(|name| service("vault", name, &format!("app: {name}"), &[(80, 8080)]))
            .concat(),
        service("vault", "tcp", "app: tcp", &[(9000, 9000)]),
        service("open", "web", "app: web", &[(80, 8080)]),
        service("plain", "web", "app: web", &[(80, 8080)]),
    ];
    World::up("trust", &["--mode", "strict", "--leaf-ttl", "30"], &manifests.concat())
}

fn a_meshed_client_enters_and_is_known_by_its_service_account(world: &World) -> Result<()> {
    for url in ["http://web/", "http://web.open/"] {
        let reply = world.curl(CLIENT, &[url])?;
        assert_eq!((reply.status, reply.server().as_str()), (200, "web"), "{reply:?}");
        assert_eq!(
            reply.client_identity().as_deref(),
            Some("spiffe://cluster.local/ns/vault/sa/client"),
            "{reply:?}"
        );
    }
    Ok(())
}

/// The pod's log of requests is its own; a refused caller is cut off without an answer.
#[track_caller]
fn check_refused(world: &World, url: &str) -> Result<()> {
    let output = world.try_curl(STRANGER, &["-g", "--max-time", "5", url])?;
    assert!(output.status != Some(0) && output.out.is_empty(), "{url} let a stranger in: {output:?}");
    assert_ne!(output.status, Some(28), "{url} left the stranger waiting: {output:?}");
    Ok(())
}

fn strict_refuses_plaintext_before_the_application_sees_a_byte(world: &World) -> Result<()> {
    check_refused(world, "http://web.vault/")?;
    check_refused(world, &format!("http://{}:8080/", world.pod_ip("vault/web")?))?;
    check_refused(world, &format!("http://[{}]/", world.cluster_ip("vault/web", ':')?))?;
    // A server that speaks first must not be heard, either.
    let listen = [echo(), "tcp-client", "tcp.vault:9000", "line", "--timeout", "2"];
    let heard = world.exec(STRANGER, &listen)?.bad()?;
    assert!(!heard.out.contains("hello"), "{heard:?}");
    Ok(())
}

fn strict_refuses_plaintext_on_the_proxys_own_ports(world: &World) -> Result<()> {
    let ip = world.pod_ip("vault/web")?;
    for port in [15001, 15006, 15008] {
        check_refused(world, &format!("http://{ip}:{port}/"))?;
    }
    Ok(())
}

fn plaintext_inbound_ports_stay_open_in_strict(world: &World) -> Result<()> {
    let reply = world.curl(STRANGER, &["http://half.vault/"])?;
    assert_eq!((reply.server().as_str(), reply.client_identity()), ("half", None), "{reply:?}");
    Ok(())
}

fn a_permissive_namespace_accepts_plaintext(world: &World) -> Result<()> {
    let reply = world.curl(STRANGER, &["http://web.open/"])?;
    assert_eq!((reply.server().as_str(), reply.client_identity()), ("web", None), "{reply:?}");
    Ok(())
}

fn the_wire_shows_no_plaintext_between_meshed_pods(world: &World) -> Result<()> {
    let capture = Capture::start(world, "wire")?;
    world.curl(CLIENT, &["-H", "X-Secret: meshed-header", "-d", "meshed-body", "http://web/meshed-path"])?;
    world.curl(CLIENT, &["-d", "pod-body", &format!("http://{}:8080/", world.pod_ip("vault/web")?)])?;
    world.dialogue(CLIENT, "tcp:9000", &["line", "send meshed-bytes", "expect meshed-bytes"])?.good()?;
    world.curl(STRANGER, &["-H", "X-Secret: plain-header", "http://web.plain/"])?;
    let bytes = capture.bytes()?;
    assert!(Capture::shows(&bytes, "plain-header"), "the capture must be able to show plaintext");
    for secret in ["meshed-header", "meshed-body", "meshed-path", "pod-body", "meshed-bytes"] {
        assert!(!Capture::shows(&bytes, secret), "{secret} is on the wire");
    }
    Ok(())
}

/// In the node's namespace, which stands for the network.
fn on_the_node(world: &World, command: &[&str]) -> Result<String> {
    in_netns(&world.node_netns(), command)
}

fn in_netns(netns: &str, command: &[&str]) -> Result<String> {
    let mut enter = Command::new("nsenter");
    enter.arg(format!("--net=/run/netns/{netns}")).args(command);
    Ok(run(enter, Duration::from_secs(5))?.good()?.out)
}

/// The interface through which the node sends to an address.
fn device(world: &World, ip: &str) -> Result<String> {
    let route = on_the_node(world, &["ip", "-o", "route", "get", ip])?;
    let device = route.split_whitespace().skip_while(|word| *word != "dev").nth(1);
    device.map(str::to_owned).with_context(|| format!("no device in {route}"))
}

fn a_pod_that_took_over_anothers_address_is_refused_by_identity(world: &World) -> Result<()> {
    let (victim, mallory) = (world.pod_ip("vault/victim")?, world.pod_ip("vault/mallory")?);
    let netns = world.pod("vault/mallory")?["netns"].as_str().context("the pod's netns")?.to_owned();
    let before = device(world, &victim)?;
    let stolen = format!("{victim}/32");
    in_netns(&netns, &["ip", "address", "add", &stolen, "dev", "lo"])?;
    on_the_node(world, &["ip", "route", "replace", &stolen, "dev", &device(world, &mallory)?])?;
    let url = format!("http://{victim}:8080/");
    let reply = world.curl(CLIENT, &[&url]);
    on_the_node(world, &["ip", "route", "replace", &stolen, "dev", &before])?;
    check_identity_refused(world, &reply?)?;
    until("the true victim answers again", Duration::from_secs(10), || {
        let reply = world.curl(CLIENT, &[&url])?;
        ensure!(reply.server() == "victim", "{reply:?}");
        Ok(())
    })
}

fn check_identity_refused(world: &World, reply: &Reply) -> Result<()> {
    assert!((500..=599).contains(&reply.status) && reply.server().is_empty(), "{reply:?}");
    let log = world.logs(CLIENT, "heddle-proxy")?;
    for identity in
        ["spiffe://cluster.local/ns/vault/sa/victim", "spiffe://cluster.local/ns/vault/sa/mallory"]
    {
        assert!(log.contains(identity), "the log names both identities, not only one: {log}");
    }
    Ok(())
}

fn certificates_are_renewed_under_load(world: &World) -> Result<()> {
    let of = |pod: &str| {
        Ok::<_, anyhow::Error>(world.table(pod)?["certificate"]["generation"].as_u64().unwrap_or(0))
    };
    let began = (of(CLIENT)?, of("vault/web")?);
    // Longer than a certificate lives, so that every one of the beginning has ended.
    let load = world.start_load(
        CLIENT,
        "http://web/",
        &["--seconds", "40", "--rate", "200", "--connections", "4"],
    )?;
    let load = e2e::Load::parse(&load.finish(Duration::from_secs(60))?.out)?;
    assert_eq!(load.failed(), 0, "{:?} of {load:?}", load.errors());
    let now = (of(CLIENT)?, of("vault/web")?);
    assert!(now.0 > began.0 && now.1 > began.1, "generations were {began:?} and are {now:?}");
    Ok(())
}
