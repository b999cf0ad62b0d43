//! Measures on a cluster with Heddle what its users would notice, and prints it: nothing here passes or fails.
//!
//! `make figures`. What is measured: how much later a meshed pod is ready than the same pod unmeshed; how soon a changed
//! HTTPRoute takes effect at every proxy, and its status is there; what the control plane holds and does.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use cluster::Home;
use cluster::manifest::{client, container, deployment, http_server, namespace, permissive, pod, spec, web};
use e2e::{Load, Running, until};
use serde_json::Value;

const HOME: &str = "figures";
const PLAIN: &str = "figures-plain";
/// How many pods of each kind are made, one after another.
const PODS: usize = 20;
/// How often the route is changed, and how many proxies must follow.
const CHANGES: usize = 20;
const PROXIES: u32 = 20;
/// What the control plane has to hold: Services, endpoints of each, and proxies that watch.
const SERVICES: usize = 1000;
const ENDPOINTS: usize = 5;
const WATCHERS: u32 = 100;
const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(180);

fn main() -> Result<()> {
    let home = Home::up(&[permissive(HOME), namespace(PLAIN, "", "")].concat())?;
    if std::env::args().nth(1).as_deref() != Some("--without-pods") {
        readiness(&home)?;
    }
    changes(&home)?;
    control_plane(&home)
}

#[expect(clippy::print_stdout, reason = "a program for a terminal")]
fn say(text: &str) {
    println!("{text}");
}

/// Smallest, median, 95th percentile and largest.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let at =
        |share: usize| values.get((values.len() * share / 100).min(values.len().saturating_sub(1))).copied();
    let [least, median, high, most] = [0, 50, 95, 100].map(|share| at(share).unwrap_or(f64::NAN));
    format!(
        "median {median:.0} ms (least {least:.0}, 95 % {high:.0}, most {most:.0}; {} values)",
        values.len()
    )
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// From the pod's creation to its readiness, meshed and not in turn.
fn readiness(home: &Home) -> Result<()> {
    let (mut meshed, mut plain) = (Vec::new(), Vec::new());
    for number in 0..PODS {
        for (namespace, times) in [(PLAIN, &mut plain), (HOME, &mut meshed)] {
            let name = format!("pod-{number}");
            let began = Instant::now();
            home.kubectl.apply(&pod(namespace, &name, "", &http_server()))?;
            home.kubectl.run(&[
                "wait",
                "-n",
                namespace,
                "pod",
                &name,
                "--for=condition=Ready",
                "--timeout",
                "60s",
            ])?;
            times.push(milliseconds(began.elapsed()));
            home.kubectl.run(&["delete", "pod", "-n", namespace, &name, "--now", "--wait=false"])?;
        }
    }
    say(&format!("ready, unmeshed: {}", spread(plain)));
    say(&format!("ready, meshed:   {}", spread(meshed)));
    Ok(())
}

/// From the request that changes a route to the first answer by it at each proxy, and to its status.
fn changes(home: &Home) -> Result<()> {
    let manifests = [
        deployment(HOME, "web-v1", 1, &http_server().replace("\"8080\"]", "\"8080\", \"--name\", \"v1\"]")),
        deployment(HOME, "web-v2", 1, &http_server().replace("\"8080\"]", "\"8080\", \"--name\", \"v2\"]")),
        web(HOME, "web", "web-v1"),
        web(HOME, "web-v1", "web-v1"),
        web(HOME, "web-v2", "web-v2"),
        deployment(HOME, "client", PROXIES, &client()),
        route(1),
    ];
    home.apply(&manifests.concat())?;
    home.condition("httproute", HOME, "split", "Accepted")?;
    let api = Api::open(home)?;
    let clients = home.pods(HOME, "app=client")?;
    let options = ["--rate", "100", "--seconds", "60", "--requests", "1000000", "--connections", "1"];
    let loads = clients.iter().map(|pod| {
        let name = format!("{HOME}/{}", pod["metadata"]["name"].as_str().context("a name")?);
        home.start_load(&name, "http://web/", &options)
    });
    let loads: Vec<Running> = loads.collect::<Result<_>>()?;
    std::thread::sleep(Duration::from_secs(5));
    let (mut changed, mut status) = (Vec::new(), Vec::new());
    for number in 0..CHANGES {
        let version = 2 - number % 2;
        changed.push((now(), format!("v{version}")));
        status.push(api.change(version)?);
        std::thread::sleep(Duration::from_millis(1500));
    }
    let mut effect = Vec::new();
    for load in loads {
        let load = Load::parse(&load.finish(LONG)?.out)?;
        ensure!(load.failed() == 0, "{load:?}");
        for (at, version) in &changed {
            let seen = load.changes().into_iter().find(|(when, server)| when >= at && server == version);
            effect.push(
                seen.map(|(when, _)| Duration::from_millis(when - at)).context("a change was never seen")?,
            );
        }
    }
    say(&format!(
        "a changed HTTPRoute takes effect at {PROXIES} proxies (asked every 10 ms): {}",
        spread(effect.into_iter().map(milliseconds).collect())
    ));
    say(&format!("its status: {}", spread(status.into_iter().map(milliseconds).collect())));
    Ok(())
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(0))
}

fn route(version: usize) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: split, namespace: {HOME}}}\nspec:\n  parentRefs: [{{group: '', kind: Service, name: web}}]\n  rules: [{{backendRefs: [{{name: web-v{version}, port: 80}}]}}]\n"
    )
}

/// The API server through `kubectl proxy`, which costs less than a kubectl for each request.
struct Api {
    port: u16,
    _proxy: Running,
}

impl Api {
    const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/figures/httproutes/split";

    fn open(home: &Home) -> Result<Self> {
        let proxy = home.kubectl.start(&["proxy", "--port=0"])?;
        let port = until("kubectl proxy listens", SOON, || {
            let said = proxy.written()?;
            let port = said.trim().rsplit(':').next().and_then(|port| port.parse().ok());
            port.context("it says no port")
        })?;
        Ok(Self { port, _proxy: proxy })
    }

    fn ask(&self, method: &str, body: &str) -> Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let (route, length) = (Self::ROUTE, body.len());
        write!(
            stream,
            "{method} {route} HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/merge-patch+json\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        ensure!(head.contains(" 200 "), "{answer}");
        Ok(serde_json::from_str(body)?)
    }

    /// Changes the route; how long it takes until its status is of that change.
    fn change(&self, version: usize) -> Result<Duration> {
        let began = Instant::now();
        let patch = serde_json::json!({"spec": {"rules": [{"backendRefs": [{"name": format!("web-v{version}"), "port": 80}]}]}});
        let changed = self.ask("PATCH", &patch.to_string())?;
        let generation = &changed["metadata"]["generation"];
        while began.elapsed() < SOON {
            let conditions = self.ask("GET", "")?["status"]["parents"][0]["conditions"].clone();
            if conditions
                .as_array()
                .is_some_and(|all| all.iter().all(|one| &one["observedGeneration"] == generation))
            {
                return Ok(began.elapsed());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("no status within a minute")
    }
}

/// What each replica of the control plane holds and does, when the cluster is as large as the goal says.
fn control_plane(home: &Home) -> Result<()> {
    measure(home, "the control plane, nearly empty")?;
    let watcher = spec("", &container(&["http", "--port", "7000"], ""));
    home.apply(&deployment(HOME, "watcher", WATCHERS, &watcher))?;
    for pod in home.pods(HOME, "app=watcher")? {
        let name = format!("{HOME}/{}", pod["metadata"]["name"].as_str().context("a name")?);
        ensure!(home.curl(&name, &["http://web/"])?.status == 200, "{name} gets no answer");
    }
    for start in (0..SERVICES).step_by(100) {
        home.kubectl.apply(&(start..start + 100).map(unused_service).collect::<String>())?;
    }
    measure(
        home,
        &format!("with {SERVICES} Services, {} endpoints, {WATCHERS} watching proxies", SERVICES * ENDPOINTS),
    )
}

/// A Service with hand-written endpoints.
fn unused_service(number: usize) -> String {
    let addresses: Vec<String> = (1..=ENDPOINTS)
        .map(|last| {
            format!(
                "{{addresses: ['192.0.{}.{}'], conditions: {{ready: true}}}}",
                number % 256,
                last + number / 256 * 10
            )
        })
        .collect();
    let addresses = addresses.join(", ");
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: unused-{number}, namespace: {PLAIN}}}\nspec: {{ports: [{{name: http, port: 80}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: unused-{number}, namespace: {PLAIN}, labels: {{kubernetes.io/service-name: unused-{number}}}}}\naddressType: IPv4\nports: [{{name: http, port: 80, protocol: TCP}}]\nendpoints: [{addresses}]\n"
    )
}

fn measure(home: &Home, what: &str) -> Result<()> {
    std::thread::sleep(Duration::from_secs(5));
    let before = processes(home)?;
    let time = Duration::from_secs(20);
    std::thread::sleep(time);
    for ((pid, earlier, _), (_, later, resident)) in before.iter().zip(processes(home)?) {
        let share = milliseconds(later - *earlier) / milliseconds(time) * 100.0;
        say(&format!(
            "{what} (process {pid}): {resident:.1} MiB, {share:.2} % of a core while nothing changes"
        ));
    }
    Ok(())
}

/// Of each heddle-injector in the node: its process, CPU time and resident MiB.
fn processes(home: &Home) -> Result<Vec<(String, Duration, f64)>> {
    let script = "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = heddle-injector ] && echo \"${p#/proc/} $(awk '{print $14+$15}' $p/stat) $(awk '/VmRSS/ {print $2}' $p/status)\"; done; true";
    let said = home.in_node(&["sh", "-c", script], SOON)?.good()?.out;
    let lines = said.lines().map(|line| {
        let mut words = line.split_whitespace();
        let pid = words.next().context("a process")?.to_owned();
        let mut number = || words.next().and_then(|word| word.parse::<f64>().ok()).context("a number");
        Ok((pid, Duration::from_secs_f64(number()? / 100.0), number()? / 1024.0))
    });
    lines.collect()
}
