//! How TCP connections end: half-closes, resets and truncated TLS mean behind the proxies what they meant before.
//!
//! Every rule runs for each pair of a client and a server, meshed or not: mTLS between two proxies, plain on one leg,
//! and, as the control, no mesh at all.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::manifest::{client, echo, meshed_namespace, namespace, pod_with, service};
use e2e::{Running, World, until};

const SOON: Duration = Duration::from_secs(10);
const CLIENTS: [&str; 2] = ["shop/client", "plain/client"];
const SERVERS: [&str; 2] = ["shop", "plain"];

e2e::prove!(
    up,
    [
        a_client_that_closes_half_still_gets_a_late_answer,
        a_server_that_closes_half_still_gets_what_comes_later,
        a_clients_reset_arrives_as_a_reset,
        a_servers_reset_arrives_as_a_reset,
        a_clients_reset_after_its_half_close_stops_the_server,
        the_death_of_the_servers_proxy_is_no_clean_end,
        the_death_of_the_clients_proxy_is_no_clean_end,
    ]
);

/// What the server does on each of its ports.
const PLAYS: [(u16, &[&str]); 5] = [
    (9001, &["expect question", "eof", "wait 200", "send late answer"]),
    (9002, &["expect question", "send bye\\n", "shut", "expect afterwards", "eof"]),
    (9003, &["expect question", "send half\\n", "broken"]),
    (9004, &["expect question", "send half\\n", "expect now", "reset"]),
    (9005, &["expect question", "eof", "send half\\n", "refused"]),
];

fn up() -> Result<World> {
    let all = [
        meshed_namespace("shop"),
        namespace("plain", ""),
        client("shop", "client"),
        client("plain", "client"),
        server("shop"),
        server("plain"),
    ];
    World::up("ends", &[], &all.concat())
}

fn server(namespace: &str) -> String {
    let play = |(port, steps): &(u16, &[&str])| {
        let steps: String = steps.iter().map(|step| format!(" --step '{step}'")).collect();
        format!("{} tcp --port {port}{steps} 2>&1 | sed -u 's/^/{port} /' & ", echo())
    };
    let script = PLAYS.iter().map(play).collect::<String>() + "wait";
    let listening = PLAYS.map(|(port, _)| format!("ss -Hltn sport = {port} | grep -q .")).join(" && ");
    let ready = format!("readinessProbe: {{exec: {{command: [sh, -c, '{listening}']}}, periodSeconds: 1}}");
    let ports = PLAYS.map(|(port, _)| (port, port));
    pod_with(namespace, "server", "app: server", &["sh", "-c", &script], &ready)
        + &service(namespace, "server", "app: server", &ports)
}

/// Plays with each pair; both sides must be content.
fn each_pair(world: &World, port: u16, steps: &[&str]) -> Result<()> {
    for client in CLIENTS {
        for server in SERVERS {
            let pair = format!("{client} with {server}/server:{port}");
            let before = played(world, server, port)?;
            world
                .dialogue(client, &format!("server.{server}:{port}"), steps)?
                .good()
                .context(pair.clone())?;
            until(&format!("{pair}: the server is content"), SOON, || {
                let after = played(world, server, port)?;
                ensure!(after > before, "{}", world.logs(&format!("{server}/server"), "app")?);
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// How many dialogues the server has played to their end on a port.
fn played(world: &World, server: &str, port: u16) -> Result<usize> {
    let log = world.logs(&format!("{server}/server"), "app")?;
    Ok(log.lines().filter(|line| line.ends_with(&format!("{port} played"))).count())
}

fn a_client_that_closes_half_still_gets_a_late_answer(world: &World) -> Result<()> {
    each_pair(world, 9001, &["send question", "shut", "expect late answer", "eof"])
}

fn a_server_that_closes_half_still_gets_what_comes_later(world: &World) -> Result<()> {
    each_pair(world, 9002, &["send question", "expect bye", "eof", "wait 100", "send afterwards", "shut"])
}

fn a_clients_reset_arrives_as_a_reset(world: &World) -> Result<()> {
    each_pair(world, 9003, &["send question", "expect half", "reset"])
}

fn a_servers_reset_arrives_as_a_reset(world: &World) -> Result<()> {
    each_pair(world, 9004, &["send question", "expect half", "send now", "broken"])
}

fn a_clients_reset_after_its_half_close_stops_the_server(world: &World) -> Result<()> {
    each_pair(world, 9005, &["send question", "shut", "expect half", "reset"])
}

/// The kernel closes what a killed process leaves, without TLS's own end.
fn the_death_of_the_servers_proxy_is_no_clean_end(world: &World) -> Result<()> {
    let client = talk(world, &["send question", "expect half", "meet", "broken"])?;
    world.lab(&["kill", "shop/server", "-c", "heddle-proxy"])?.good()?;
    client.finish(SOON)?.good().map(drop)
}

fn the_death_of_the_clients_proxy_is_no_clean_end(world: &World) -> Result<()> {
    let before = played(world, "shop", 9003)?;
    let _client = talk(world, &["send question", "expect half", "meet", "wait 10000"])?;
    world.lab(&["kill", "shop/client", "-c", "heddle-proxy"])?.good()?;
    until("the server sees a reset", SOON, || {
        ensure!(played(world, "shop", 9003)? > before, "{}", world.logs("shop/server", "app")?);
        Ok(())
    })
}

/// A dialogue over mTLS that has come to its `meet`.
fn talk(world: &World, steps: &[&str]) -> Result<Running> {
    let begin = || {
        let client =
            world.start("shop/client", &[&[echo(), "tcp-client", "server.shop:9003"], steps].concat())?;
        until("the two talk", SOON, || {
            ensure!(client.written()?.contains("all have met"), "{}", client.written()?);
            Ok(())
        })?;
        Ok(client)
    };
    // After a proxy's death the next needs its certificate first.
    until("a dialogue begins", SOON * 3, begin)
}
