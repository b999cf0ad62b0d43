//! Balancing: who is slow, fails or refuses gets less or nothing, comes back when it is well, and clients see little of
//! it. Zone hints are honoured.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::manifest::{
    client, echo, http_server, meshed_namespace, namespace, pod, pod_with, service, service_with,
};
use e2e::{World, until};
use serde_json::Value;

/// In zone `east`.
const CLIENT: &str = "shop/client";
const SOON: Duration = Duration::from_secs(20);

e2e::prove!(
    up,
    [
        a_slow_endpoint_gets_clearly_less,
        an_endpoint_that_answers_503_is_set_aside_and_comes_back,
        endpoints_that_all_fail_are_all_used,
        a_meshed_endpoint_that_refuses_costs_no_request,
        an_unmeshed_endpoint_that_refuses_costs_no_request,
        connections_avoid_an_endpoint_that_refuses,
        connections_go_where_the_fewest_are,
        zone_hints_are_honoured,
    ]
);

fn up() -> Result<World> {
    let slow = [echo(), "http", "--port", "8080", "--name", "slow", "--delay", "200"];
    let ready = "readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}";
    let east = "role: client, topology.kubernetes.io/zone: east";
    let manifests = [
        meshed_namespace("shop"),
        namespace("plain", ""),
        pod("shop", "client", east, &["sleep", "infinity"]),
        // They serve nothing, and so refuse.
        client("shop", "silent"),
        client("plain", "silent"),
        http_server("shop", "web-a", "app: web, fast: a"),
        http_server("shop", "web-b", "app: web, fast: b"),
        pod_with("shop", "slow", "app: web", &slow, ready),
        service("shop", "all", "app: web", &[(80, 8080)]),
        without_selector("pair"),
        without_selector("half"),
        without_selector("plain"),
        without_selector("bytes"),
        without_selector("zoned"),
    ];
    let world = World::up("balance", &[], &manifests.concat())?;
    let ip = |pod: &str| world.pod_ip(pod);
    let (a, b) = (ip("shop/web-a")?, ip("shop/web-b")?);
    let (silent, plain) = (ip("shop/silent")?, ip("plain/silent")?);
    let slices = [
        slice("pair", &[&a, &b], &[]),
        slice("half", &[&a, &silent], &[]),
        slice("plain", &[&b, &plain], &[]),
        slice("bytes", &[&a, &silent], &[]),
        slice("zoned", &[&a, &b], &["east", "west"]),
    ];
    world.apply(&slices.concat())?;
    Ok(world)
}

/// A Service whose endpoints are written by hand: port 80 speaks what it speaks, port 81 is bytes.
fn without_selector(name: &str) -> String {
    service_with("shop", name, &[(80, 8080), (81, 8080)], "").replace("p81,", "p81, appProtocol: tcp,")
}

/// Its endpoints, each with the zone whose clients should use it (or none has).
fn slice(service: &str, addresses: &[&str], zones: &[&str]) -> String {
    let endpoint = |(i, address): (usize, &&str)| {
        let hint = zones
            .get(i)
            .map_or_else(String::new, |zone| format!(", hints: {{forZones: [{{name: {zone}}}]}}"));
        format!("- {{addresses: [{address}]{hint}}}\n")
    };
    let endpoints: String = addresses.iter().enumerate().map(endpoint).collect();
    format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-1, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: IPv4
ports: [{{name: p80, port: 8080}}, {{name: p81, port: 8080}}]
endpoints:
{endpoints}"
    )
}

/// A server answers with this status from now on.
fn becomes(world: &World, pod: &str, status: u16) -> Result<()> {
    let url = format!("http://{}:8080/become/{status}", world.pod_ip(pod)?);
    let reply = world.curl(CLIENT, &[&url])?;
    ensure!(reply.status == 200, "{reply:?}");
    Ok(())
}

/// What the client's proxy says of a pod as an endpoint of a Service.
fn state(world: &World, service: &str, pod: &str) -> Result<String> {
    let address = format!("{}:8080", world.pod_ip(pod)?);
    let table = world.table(CLIENT)?;
    let services = table["services"].as_array().context("services")?;
    let service = services.iter().find(|one| one["name"] == service).context("the service")?;
    let endpoints = &service["ports"][0]["backends"][0]["endpoints"];
    let found =
        endpoints.as_array().and_then(|all| all.iter().find(|one| one["address"] == address.as_str()));
    Ok(found
        .and_then(|one: &Value| one["state"].as_str())
        .with_context(|| format!("{address} in {endpoints}"))?
        .to_owned())
}

fn a_slow_endpoint_gets_clearly_less(world: &World) -> Result<()> {
    // Once to learn.
    world.load(CLIENT, "http://all/", &["--requests", "100", "--connections", "4"])?.all_well(100);
    let load =
        world.load(CLIENT, "http://all/", &["--requests", "2000", "--connections", "4"])?.all_well(2000);
    ensure!(load.by("slow") < 200, "a fair third would be 667: {load:?}");
    ensure!(load.by("web-a") > 400 && load.by("web-b") > 400, "{load:?}");
    Ok(())
}

fn an_endpoint_that_answers_503_is_set_aside_and_comes_back(world: &World) -> Result<()> {
    world.load(CLIENT, "http://pair/", &["--requests", "100", "--connections", "1"])?.all_well(100);
    becomes(world, "shop/web-b", 503)?;
    let load = world.load(CLIENT, "http://pair/", &["--requests", "1000", "--connections", "1"])?;
    ensure!(load.with_status(503) >= 5, "it has failed: {load:?}");
    ensure!(load.with_status(503) <= 12, "five in a row, then probes: {load:?}");
    ensure!(["ejected", "probing"].contains(&state(world, "pair", "shop/web-b")?.as_str()));
    let metrics = world.metrics(CLIENT)?;
    let counted = metrics.lines().any(|line| {
        line.starts_with("heddle_endpoint_ejections_total{") && line.contains("reason=\"failed_answers\"")
    });
    ensure!(counted, "no ejection in {metrics}");
    becomes(world, "shop/web-b", 200)?;
    until("it gets its share again", SOON * 2, || {
        let load = world.load(CLIENT, "http://pair/", &["--requests", "200", "--connections", "1"])?;
        ensure!(load.by("web-b") > 50, "{load:?}");
        Ok(())
    })?;
    until("it is ready", SOON, || {
        let state = state(world, "pair", "shop/web-b")?;
        ensure!(state == "ready", "{state}");
        Ok(())
    })
}

fn endpoints_that_all_fail_are_all_used(world: &World) -> Result<()> {
    for pod in ["shop/web-a", "shop/web-b"] {
        becomes(world, pod, 503)?;
    }
    let load = world.load(CLIENT, "http://pair/", &["--requests", "200", "--connections", "1"])?;
    for pod in ["shop/web-a", "shop/web-b"] {
        becomes(world, pod, 200)?;
    }
    ensure!(load.with_status(503) == 200, "{load:?}");
    ensure!(load.by("web-a") > 40 && load.by("web-b") > 40, "the servers answer, not the mesh: {load:?}");
    world.load(CLIENT, "http://pair/", &["--requests", "100", "--connections", "1"])?.all_well(100);
    Ok(())
}

fn a_meshed_endpoint_that_refuses_costs_no_request(world: &World) -> Result<()> {
    let load =
        world.load(CLIENT, "http://half/", &["--requests", "500", "--connections", "4"])?.all_well(500);
    ensure!(load.by("web-a") == 500, "{load:?}");
    ensure!(["ejected", "probing"].contains(&state(world, "half", "shop/silent")?.as_str()));
    Ok(())
}

fn an_unmeshed_endpoint_that_refuses_costs_no_request(world: &World) -> Result<()> {
    let load =
        world.load(CLIENT, "http://plain/", &["--requests", "500", "--connections", "4"])?.all_well(500);
    ensure!(load.by("web-b") == 500, "{load:?}");
    ensure!(["ejected", "probing"].contains(&state(world, "plain", "plain/silent")?.as_str()));
    Ok(())
}

fn connections_avoid_an_endpoint_that_refuses(world: &World) -> Result<()> {
    let mut failed = 0;
    for _ in 0..20 {
        let reply = world.try_curl(CLIENT, &["http://bytes:81/"])?;
        failed += u32::from(reply.status != Some(0));
    }
    ensure!(failed <= 8, "two of a row, then probes: {failed} of 20");
    Ok(())
}

/// What an earlier rule set aside gets its part back step by step; until then no count is exact.
fn wait_until_the_pair_is_ready(world: &World) -> Result<()> {
    until("both are ready", SOON, || {
        world.curl(CLIENT, &["http://pair/"])?;
        for pod in ["shop/web-a", "shop/web-b"] {
            let state = state(world, "pair", pod)?;
            ensure!(state == "ready", "{pod} is {state}");
        }
        Ok(())
    })
}

fn connections_go_where_the_fewest_are(world: &World) -> Result<()> {
    let name = "http://pair:81/delay/3000";
    wait_until_the_pair_is_ready(world)?;
    let held: Vec<_> = (0..6)
        .map(|_| world.start(CLIENT, &["curl", "-sS", "-i", "--max-time", "20", name]))
        .collect::<Result<_>>()?;
    let replies: Vec<_> = held
        .into_iter()
        .map(|curl| e2e::Reply::parse(&curl.finish(SOON)?.good()?.out))
        .collect::<Result<_>>()?;
    let a = replies.iter().filter(|reply| reply.server() == "web-a").count();
    ensure!(a == 3, "{a} of 6 connections");
    Ok(())
}

fn zone_hints_are_honoured(world: &World) -> Result<()> {
    let load =
        world.load(CLIENT, "http://zoned/", &["--requests", "100", "--connections", "1"])?.all_well(100);
    ensure!(load.by("web-a") == 100, "web-b is for another zone: {load:?}");
    let (a, b) = (world.pod_ip("shop/web-a")?, world.pod_ip("shop/web-b")?);
    world.apply(&slice("zoned", &[&a, &b], &["east"]))?;
    until("without a hint for each, all are used", SOON, || {
        let load =
            world.load(CLIENT, "http://zoned/", &["--requests", "100", "--connections", "1"])?.all_well(100);
        ensure!(load.by("web-b") > 20, "{load:?}");
        Ok(())
    })
}
