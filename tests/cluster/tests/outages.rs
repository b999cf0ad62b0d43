//! What is replaced, stopped or killed costs no request.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::manifest::{client, container, deployment, http_server, namespace, permissive, pod, spec, web};
use cluster::{Home, check_nothing_failed, counts, script};
use e2e::{Running, until};

const HOME: &str = "outages";
const PLAIN: &str = "outages-plain";
const CLIENT: &str = "outages/client";
const URL: &str = "http://web.outages/";
const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(120);
/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(120);
/// How many proxies learn of everything again after the outage.
const MANY: usize = 50;

e2e::prove!(
    up,
    [
        clients_and_servers_are_replaced_under_load_and_no_request_fails,
        while_the_webhook_is_down_labelled_namespaces_wait_and_others_do_not,
        the_api_server_and_the_control_plane_may_go_and_no_request_fails,
        every_proxy_learns_what_changed_meanwhile,
    ]
);

fn up() -> Result<Home> {
    let manifests = [
        permissive(HOME),
        namespace(PLAIN, "", ""),
        pod(HOME, "client", "", &client()),
        deployment(HOME, "web", 3, &http_server()),
        web(HOME, "web", "web"),
        deployment(
            HOME,
            "many",
            u32::try_from(MANY)?,
            &spec("", &container(&["http", "--port", "7000"], "")),
        ),
    ];
    let home = Home::up(&manifests.concat())?;
    ensure!(
        home.kubectl.is_own(),
        "these rules take Heddle and the API server away: only in the tests' own cluster"
    );
    // Only now: what it asks before any server is ready is refused, and no failure of the mesh.
    home.apply(&deployment(HOME, "caller", 2, &caller()))?;
    Ok(home)
}

/// A client that calls all its life, and when it is told to end finishes what it is at: each line of its log is a count.
fn caller() -> String {
    let script = format!(
        "trap end=1 TERM; while [ -z \"$end\" ]; do /usr/local/bin/echo load {URL} --json --rate 100 --connections 4 --seconds 3 --requests 100000; done"
    );
    let container = container(&[], "").replace("  args: []\n", &format!("  command: [sh, -c, '{script}']\n"));
    spec("", &container).replace("terminationGracePeriodSeconds: 10", "terminationGracePeriodSeconds: 30")
}

/// The counts of a caller, as they come.
fn follow(home: &Home) -> Result<Vec<Running>> {
    let pods = home.pods(HOME, "app=caller")?;
    let names = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
    names
        .map(|name| home.kubectl.start(&["logs", "-n", HOME, name, "-c", "app", "-f", "--since=1s"]))
        .collect()
}

fn clients_and_servers_are_replaced_under_load_and_no_request_fails(home: &Home) -> Result<()> {
    let before = follow(home)?;
    home.restart(HOME, "deployment/web")?;
    home.restart(HOME, "deployment/caller")?;
    // The callers that were there have ended, and with them their logs.
    for log in before {
        check_nothing_failed(&log.finish(LONG)?.out)?;
    }
    let pods = home.pods(HOME, "app=caller")?;
    for name in pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()) {
        until("the callers that came after them have counted", SOON, || {
            let log = home.kubectl.run(&["logs", "-n", HOME, name, "-c", "app"])?;
            ensure!(!counts(&log)?.is_empty(), "not yet");
            check_nothing_failed(&log)
        })?;
    }
    Ok(())
}

fn while_the_webhook_is_down_labelled_namespaces_wait_and_others_do_not(home: &Home) -> Result<()> {
    let system = "heddle-system";
    // What a proxy has never seen it cannot learn without a control plane.
    home.load(CLIENT, URL, &["--requests", "10"])?.all_well(10);
    home.kubectl.run(&["scale", "-n", system, "deployment/heddle-injector", "--replicas=0"])?;
    home.kubectl.run(&[
        "wait",
        "-n",
        system,
        "pod",
        "-l",
        "app.kubernetes.io/name=heddle-injector",
        "--for=delete",
        "--timeout",
        "60s",
    ])?;
    let waited = (|| {
        home.kubectl.apply(&deployment(HOME, "late", 1, &client()))?;
        until("the event says why the pod is not made", SOON, || {
            let events = home.kubectl.get(&["events", "-n", HOME])?.to_string();
            ensure!(events.contains("failed calling webhook"), "no such event");
            Ok(())
        })?;
        ensure!(
            home.pods(HOME, "app=late")?.is_empty(),
            "a pod that was to be meshed runs without its proxy"
        );
        home.kubectl.apply(&deployment(PLAIN, "free", 1, &client()))?;
        home.rolled_out(PLAIN, "deployment/free")?;
        // Who is meshed already does not need it.
        home.load(CLIENT, URL, &["--requests", "200"]).map(|load| drop(load.all_well(200)))
    })();
    home.kubectl.run(&["scale", "-n", system, "deployment/heddle-injector", "--replicas=2"])?;
    home.rolled_out(system, "deployment/heddle-injector")?;
    waited?;
    home.rolled_out(HOME, "deployment/late")
}

/// The pods that only wait: each asks once, so that its proxy watches the Service from then on.
fn everybody_calls(home: &Home) -> Result<Vec<String>> {
    let pods = home.pods(HOME, "app=many")?;
    let names = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
    let names: Vec<String> = names.map(|name| format!("{HOME}/{name}")).collect();
    ensure!(names.len() == MANY, "{} pods", names.len());
    for name in &names {
        ensure!(home.curl(name, &[URL])?.status == 200, "{name} gets no answer");
    }
    Ok(names)
}

fn the_api_server_and_the_control_plane_may_go_and_no_request_fails(home: &Home) -> Result<()> {
    everybody_calls(home)?;
    let containers = containers(home)?;
    ensure!(containers.len() == 2, "two replicas: {containers:?}");
    // As a node's loss ends it: with what hangs on it, a polite end takes up to a minute.
    script("part.sh", &["signal", "kube-apiserver", "KILL"])?;
    let began = Instant::now();
    let killed = containers.iter().try_for_each(|id| kill(home, id));
    // The callers count on: it is their log that tells.
    std::thread::sleep(AWAY.saturating_sub(began.elapsed()));
    script("part.sh", &["start", "kube-apiserver"])?;
    killed?;
    for pod in home.pods(HOME, "app=caller")? {
        let name = pod["metadata"]["name"].as_str().context("a name")?;
        let log = home.kubectl.run(&["logs", "-n", HOME, name, "-c", "app"])?;
        let during = counts(&log)?.len();
        ensure!(during > 30, "it counted {during} times only");
        check_nothing_failed(&log)?;
    }
    Ok(())
}

/// The control plane's containers, as containerd knows them.
fn containers(home: &Home) -> Result<Vec<String>> {
    let pods = home.pods("heddle-system", "app.kubernetes.io/name=heddle-injector")?;
    let ids = pods.iter().filter_map(|pod| pod["status"]["containerStatuses"][0]["containerID"].as_str());
    Ok(ids.filter_map(|id| id.strip_prefix("containerd://")).map(str::to_owned).collect())
}

/// As a crash ends it.
fn kill(home: &Home, container: &str) -> Result<()> {
    home.in_node(&["ctr", "-n", "k8s.io", "task", "kill", "-s", "SIGKILL", container], SOON)?.good().map(drop)
}

fn every_proxy_learns_what_changed_meanwhile(home: &Home) -> Result<()> {
    home.rolled_out("heddle-system", "deployment/heddle-injector").context("the control plane is back")?;
    let marked = "[{filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: x-learned, value: it}]}}], backendRefs: [{name: web, port: 80}]}]";
    home.kubectl.apply(&format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: learned, namespace: {HOME}}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: web}}]\n  rules: {marked}\n"
    ))?;
    for pod in home.pods(HOME, "app=many")? {
        let name = format!("{HOME}/{}", pod["metadata"]["name"].as_str().context("a name")?);
        until(&format!("{name} has learned of the route"), SOON, || {
            let reply = home.curl(&name, &[URL])?;
            ensure!(reply.header("x-learned").is_some(), "{reply:?}");
            Ok(())
        })?;
    }
    Ok(())
}
