//! What the mesh costs while everything in it is replaced: pods one by one, certificates, and what dies without a word.
//!
//! `HEDDLE_REQUESTS` (100,000) is how many requests must not fail while pods are replaced; `HEDDLE_SOAK_SECONDS` (60) how
//! long certificates are renewed under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::manifest::{client, echo, http_server, meshed_namespace, namespace, pod_with, service, tcp_server};
use e2e::{Load, Running, World, soak, until};
use serde_json::Value;

const CLIENTS: [&str; 2] = ["shop/client", "plain/client"];
const VERSIONS: [&[&str]; 2] = [&[], &["--http2"]];
const SOON: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(230);
/// How often something is killed under load; what each client asks per second meanwhile, over how many connections.
const KILLS: u64 = 3;
const RATE: u64 = 100;
const CONNECTIONS: u64 = 4;
/// The life of certificates that are renewed under load, seconds.
const LEAF: &str = "30";

e2e::prove!(
    up,
    [
        no_request_fails_while_pods_are_replaced_one_by_one,
        an_answer_that_is_under_way_at_the_deletion_comes_whole,
        an_unmeshed_caller_is_told_to_go_and_still_served,
        what_the_application_calls_works_until_it_has_ended,
        an_idle_proxy_leaves_at_once,
        a_killed_application_costs_no_more_than_what_it_was_doing,
        a_killed_proxy_costs_no_more_than_what_it_was_doing,
        a_killed_control_plane_costs_nothing,
        nothing_fails_while_certificates_are_renewed,
        a_root_that_leaves_the_bundle_takes_its_connections_with_it,
    ]
);

fn up() -> Result<World> {
    World::up("lifecycle", &[], &manifests())
}

fn manifests() -> String {
    let world = [
        meshed_namespace("shop"),
        namespace("plain", ""),
        client("shop", "client"),
        client("plain", "client"),
        lasting_server("web-1"),
        lasting_server("web-2"),
        lasting_server("web-3"),
        service("shop", "web", "app: web", &[(80, 8080)]),
        http_server("shop", "brief-1", "app: brief"),
        http_server("shop", "brief-2", "app: brief"),
        service("shop", "brief", "app: brief", &[(80, 8080)]),
    ];
    world.concat()
}

/// A server that works on for 5 s after its deletion, then finishes what has begun.
fn lasting_server(name: &str) -> String {
    let command = [echo(), "http", "--port", "8080", "--name", name];
    let more = "lifecycle: {preStop: {exec: {command: [sleep, '5']}}}
readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1}";
    let pod = pod_with("shop", name, "app: web", &command, more);
    pod.replace("terminationGracePeriodSeconds: 5", "terminationGracePeriodSeconds: 30")
}

/// A client of each kind, meshed and not, over each version of HTTP.
fn everybody(world: &World, url: &str, options: &[&str]) -> Result<Vec<Running>> {
    let kinds = CLIENTS.iter().flat_map(|pod| VERSIONS.map(|version| (*pod, version)));
    kinds.map(|(pod, version)| world.start_load(pod, url, &[version, options].concat())).collect()
}

fn finish(loads: Vec<Running>) -> Result<Vec<Load>> {
    loads.into_iter().map(|load| Load::parse(&load.finish(LONG)?.out)).collect()
}

fn number(name: &str, default: u64) -> Result<u64> {
    std::env::var(name).map_or(Ok(default), |text| text.parse().with_context(|| format!("{name}={text}")))
}

fn no_request_fails_while_pods_are_replaced_one_by_one(world: &World) -> Result<()> {
    let each = number("HEDDLE_REQUESTS", 100_000)? / 4;
    // A replacement takes a little more than 5 s: the load must last for three of them.
    let (requests, rate) = (each.to_string(), (each / 25).clamp(1, 1000).to_string());
    let options = ["--requests", &requests, "--rate", &rate, "--connections", "4"];
    let mut loads = everybody(world, "http://web.shop/", &options)?;
    for pod in ["shop/web-1", "shop/web-2", "shop/web-3"] {
        assert!(loads.iter_mut().all(|load| !load.is_over()), "the load must last for all replacements");
        let before = world.pod(pod)?["uid"].clone();
        world.lab(&["restart", pod])?.good()?;
        assert_ne!(world.pod(pod)?["uid"], before, "{pod} is another pod");
    }
    let loads: Vec<_> = finish(loads)?.into_iter().map(|load| load.all_well(each)).collect();
    // By all callers together: one of them may well do without a server that was slow once.
    let all = ["web-1", "web-2", "web-3"].map(|server| loads.iter().map(|load| load.by(server)).sum::<u64>());
    assert!(all.iter().all(|answered| *answered > 0), "{all:?}");
    Ok(())
}

/// Waits until a pod is being deleted.
fn deleted(world: &World, pod: &str) -> Result<()> {
    until(&format!("{pod} is being deleted"), SOON, || {
        ensure!(world.pod(pod)?["terminating"] == true, "it is not");
        Ok(())
    })
}

fn leaves(world: &World, pod: &str) -> Result<()> {
    until("the proxy knows of the deletion", SOON, || {
        ensure!(world.logs(pod, "heddle-proxy")?.contains("being deleted"), "it says nothing");
        Ok(())
    })
}

fn an_answer_that_is_under_way_at_the_deletion_comes_whole(world: &World) -> Result<()> {
    let address = format!("http://{}:8080/delay/3000", world.pod_ip("shop/web-1")?);
    let loads = everybody(world, &address, &["--requests", "1"])?;
    let begun = "the requests have come to the server";
    until(begun, SOON, || {
        let running = world.metrics("shop/web-1")?;
        let line = running.lines().find(|line| line.starts_with("heddle_requests_in_flight "));
        let count: u64 = line.context("no such metric")?.rsplit(' ').next().unwrap_or_default().parse()?;
        ensure!(count >= 4, "{count} run");
        Ok(())
    })?;
    world.lab(&["restart", "shop/web-1"])?.good()?;
    for load in finish(loads)? {
        load.all_well(1);
    }
    Ok(())
}

fn restart(world: &World, pod: &str) -> Result<Running> {
    let lab = std::path::Path::new(echo()).with_file_name("lab");
    let mut command = std::process::Command::new(lab);
    command.args(["restart", "--world", world.name(), pod]);
    Running::start(command)
}

fn an_unmeshed_caller_is_told_to_go_and_still_served(world: &World) -> Result<()> {
    let url = format!("http://{}:8080/", world.pod_ip("shop/web-2")?);
    assert_eq!(world.curl("plain/client", &[&url])?.header("connection"), None);
    let restarting = restart(world, "shop/web-2")?;
    deleted(world, "shop/web-2")?;
    leaves(world, "shop/web-2")?;
    // The pod is asked itself, on a new connection, long after its endpoint has gone.
    let reply = world.curl("plain/client", &[&url])?;
    assert_eq!((reply.status, reply.header("connection").as_deref()), (200, Some("close")), "{reply:?}");
    assert_eq!(world.curl("shop/client", &[&url])?.status, 200, "a peer that comes late is served");
    restarting.finish(LONG)?.good().map(drop)
}

fn what_the_application_calls_works_until_it_has_ended(world: &World) -> Result<()> {
    // Its last word is a request: it is told to end, and only then asks.
    let script = format!(
        "trap 'kill $!; {} load http://web/ --requests 20 --rate 10 --connections 2 --json >{}/last; exit' TERM; \
         sleep infinity & wait",
        echo(),
        world.dir().display()
    );
    world.apply(&pod_with("shop", "farewell", "app: farewell", &["sh", "-c", &script], ""))?;
    world.lab(&["delete", "pod", "shop/farewell"])?.good()?;
    let said = std::fs::read_to_string(world.dir().join("last")).context("its last word")?;
    Load::parse(&said)?.all_well(20);
    Ok(())
}

fn an_idle_proxy_leaves_at_once(world: &World) -> Result<()> {
    let server = http_server("shop", "idle", "app: idle");
    world.apply(&server.replace("terminationGracePeriodSeconds: 5", "terminationGracePeriodSeconds: 120"))?;
    // Connections that are kept are no work: one from a peer's proxy, one of an unmeshed client.
    let url = format!("http://{}:8080/", world.pod_ip("shop/idle")?);
    assert_eq!(world.curl("shop/client", &[&url])?.status, 200);
    let _kept =
        world.start_load("plain/client", &url, &["--requests", "2", "--timeout", "100", "--rate", "1"])?;
    let began = Instant::now();
    world.lab(&["delete", "pod", "shop/idle"])?.good()?;
    // The drain limit is 30 s.
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    Ok(())
}

/// What `kill` saw: the loads of all clients, and for how long, in sum, something was down.
struct Killed {
    loads: Vec<Load>,
    down: Duration,
}

/// Kills three times under load, at random moments, and returns when all works again.
fn kill(world: &World, what: &dyn Fn() -> Result<()>) -> Result<Killed> {
    let (rate, connections) = (RATE.to_string(), CONNECTIONS.to_string());
    let options = ["--seconds", "9", "--rate", &rate, "--connections", &connections, "--timeout", "5"];
    let loads = everybody(world, "http://brief.shop/", &options)?;
    let mut down = Duration::ZERO;
    for _ in 0..KILLS {
        std::thread::sleep(Duration::from_millis(500 + u64::from(std::process::id() % 7) * 70));
        let since = Instant::now();
        what()?;
        down += since.elapsed();
    }
    let loads = finish(loads)?;
    for pod in CLIENTS {
        world.load(pod, "http://brief.shop/", &["--requests", "50", "--connections", "2"])?.all_well(50);
    }
    Ok(Killed { loads, down })
}

impl Killed {
    /// Nothing hangs: a failure says so at once. A meshed client loses what was in flight; one outside of the mesh, whose
    /// connections go to whichever server they go to, may besides lose what it asks while something is down.
    fn costs_no_more_than_it_must(self) {
        let in_flight = KILLS * CONNECTIONS * 2;
        let while_down = u64::try_from(self.down.as_millis()).unwrap_or(u64::MAX) * RATE / 1000;
        for (index, load) in self.loads.iter().enumerate() {
            let meshed = index < VERSIONS.len();
            let most = if meshed { in_flight } else { in_flight + while_down };
            assert!(
                load.errors().keys().all(|kind| !kind.contains("no answer within")),
                "nothing hangs: {:?} {load:?}",
                load.errors()
            );
            assert!(
                load.failed() <= most,
                "at most {most} fail (meshed: {meshed}): {:?} {load:?}",
                load.errors()
            );
            assert!(load.answered() > 300, "most are answered: {load:?}");
        }
    }
}

/// Kills a container, and waits until its pod is ready again.
fn kill_container(world: &World, pod: &str, container: &str) -> Result<()> {
    world.lab(&["kill", pod, "-c", container])?.good()?;
    until("the pod is ready again", SOON * 2, || {
        let pod = world.pod(pod)?;
        ensure!(pod["ready"] == true, "{pod}");
        Ok(())
    })
}

fn a_killed_application_costs_no_more_than_what_it_was_doing(world: &World) -> Result<()> {
    kill(world, &|| kill_container(world, "shop/brief-1", "app"))?.costs_no_more_than_it_must();
    Ok(())
}

fn a_killed_proxy_costs_no_more_than_what_it_was_doing(world: &World) -> Result<()> {
    kill(world, &|| kill_container(world, "shop/brief-2", "heddle-proxy"))?.costs_no_more_than_it_must();
    Ok(())
}

fn a_killed_control_plane_costs_nothing(world: &World) -> Result<()> {
    let killed = kill(world, &|| {
        world.lab(&["control", "kill"])?.good()?;
        world.lab(&["control", "start"])?.good().map(drop)
    })?;
    for load in killed.loads {
        assert_eq!(load.failed(), 0, "{:?} {load:?}", load.errors());
    }
    Ok(())
}

/// Which certificate a proxy has, counted from its first.
fn generation(world: &World, pod: &str) -> Result<u64> {
    let table: Value = world.table(pod)?;
    table["certificate"]["generation"].as_u64().with_context(|| format!("no certificate in {table}"))
}

fn nothing_fails_while_certificates_are_renewed(_: &World) -> Result<()> {
    let manifests = [
        meshed_namespace("shop"),
        client("shop", "client"),
        http_server("shop", "web", "app: web"),
        service("shop", "web", "app: web", &[(80, 8080)]),
        tcp_server("shop", "tcp", "app: tcp", &[]),
        service("shop", "tcp", "app: tcp", &[(9000, 9000)]),
    ];
    let world = World::up("renewal", &["--leaf-ttl", LEAF], &manifests.concat())?;
    let pods = ["shop/client", "shop/web", "shop/tcp"];
    let before = pods.map(|pod| generation(&world, pod));
    let seconds = soak().as_secs();
    let (long, limit) = (seconds.to_string(), (seconds + 30).to_string());
    let load = |url, more: &[&str]| {
        let options = ["--seconds", &long, "--rate", "100", "--connections", "4"];
        world.start_load("shop/client", url, &[&options, more].concat())
    };
    let streams = (seconds / 4).to_string();
    let loads = [
        load("http://web/", &[])?,
        load("http://web/", &["--http2"])?,
        // Streams of 4 s each: there is no moment without one, over which the certificates end.
        world.start_load("shop/client", "http://web/delay/4000", &["--http2", "--requests", &streams])?,
    ];
    let silence = format!("wait {}", (seconds / 4) * 1000);
    let round = ["round 10000", &silence];
    let dialogue = [&round[..], &round, &round, &round, &["round 10000", "shut", "eof"]].concat();
    let tunnels = ["tcp-client", "tcp:9000", "--json", "--times", "20", "--together", "--timeout", &limit];
    let tunnels = world.start("shop/client", &[&[echo()], &tunnels[..], &dialogue].concat())?;
    let all = soak() + LONG;
    for load in loads {
        let load = Load::parse(&load.finish(all)?.out)?;
        let answered = load.answered();
        assert!(answered > 0, "{load:?}");
        load.all_well(answered);
    }
    Load::parse(&tunnels.finish(all)?.out)?.all_well(20);
    for (pod, before) in pods.iter().zip(before) {
        let (before, after) = (before?, generation(&world, pod)?);
        // Renewal begins at half of the life at the latest.
        assert!(after >= before + seconds / 20, "{pod} had generation {before}, then {after}");
    }
    Ok(())
}

fn a_root_that_leaves_the_bundle_takes_its_connections_with_it(_: &World) -> Result<()> {
    let manifests = [
        meshed_namespace("shop"),
        client("shop", "client"),
        http_server("shop", "web", "app: web"),
        service("shop", "web", "app: web", &[(80, 8080)]),
        tcp_server("shop", "tcp", "app: tcp", &[]),
        service("shop", "tcp", "app: tcp", &[(9000, 9000)]),
    ];
    let world = World::up("roots", &[], &manifests.concat())?;
    assert_eq!(world.curl("shop/client", &["http://web/"])?.status, 200);
    let tunnel = ["tcp-client", "tcp:9000", "--json", "--times", "3", "--together", "--timeout", "90"];
    let dialogue = ["round 1000", "meet", "eof"];
    let tunnel = world.start("shop/client", &[&[echo()], &tunnel[..], &dialogue].concat())?;
    until("the tunnels stand", SOON, || {
        ensure!(tunnel.written()?.contains("all have met"), "not yet");
        Ok(())
    })?;
    // A control plane whose state is empty begins a new mesh, with another root and nothing else in the bundle.
    world.lab(&["control", "kill"])?.good()?;
    std::fs::remove_dir_all(format!("/run/heddle-lab/{}/state", world.name()))?;
    world.lab(&["control", "start"])?.good()?;
    let ended = Load::parse(&tunnel.finish(SOON * 3)?.out)?;
    assert_eq!((ended.failed(), ended.answered()), (3, 0), "{:?}", ended.errors());
    let reset = |kind: &String| kind.contains("reset");
    assert!(ended.errors().keys().all(reset), "a cut is no clean end: {:?}", ended.errors());
    until("proxies of the new root meet again", SOON * 3, || {
        let reply = world.curl("shop/client", &["http://web/"])?;
        ensure!(reply.status == 200 && reply.client_identity().is_some(), "{reply:?}");
        Ok(())
    })
}
