//! Workloads of every kind go on working when they are meshed, and strict mode keeps out what it should.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster::Home;
use cluster::manifest::{
    client, container, deployment, echo_advanced, http_server, namespace, permissive, pod, service, spec,
    strict, web, workload,
};
use e2e::until;

const HERE: &str = "work-here";
const THERE: &str = "work-there";
const OPEN: &str = "work-open";
const PLAIN: &str = "work-plain";
const CLIENT: &str = "work-here/client";
const STRANGER: &str = "work-plain/client";
const SOON: Duration = Duration::from_secs(60);

e2e::prove!(
    up,
    [
        strict_namespaces_reach_each_other_and_prove_who_they_are,
        a_stranger_gets_nothing_out_of_a_strict_namespace,
        a_stranger_is_served_in_a_permissive_namespace_without_a_name,
        prometheus_scrapes_applications_and_proxies,
        each_pod_of_a_stateful_set_is_reached_by_its_own_name_in_mutual_tls,
        both_address_families_are_in_the_mesh,
        a_job_whose_containers_dial_in_their_first_moment_completes,
        probes_of_every_kind_pass_in_strict_mode,
        a_failing_readiness_probe_takes_the_pod_out_and_brings_it_back,
        a_failing_liveness_probe_restarts_the_container,
        a_lifecycle_hook_over_http_reaches_the_application,
    ]
);

fn up() -> Result<Home> {
    let manifests = [
        strict(HERE),
        strict(THERE),
        permissive(OPEN),
        namespace(PLAIN, "", ""),
        pod(HERE, "client", "", &client()),
        pod(PLAIN, "client", "", &client()),
        deployment(THERE, "web", 2, &http_server()),
        dual_stack(&web(THERE, "web", "web")),
        deployment(OPEN, "web", 1, &http_server()),
        web(OPEN, "web", "web"),
        deployment(OPEN, "measured", 1, &spec("", &echo_advanced(&["--port=8090", "--metrics=9091"], ""))),
        workload("StatefulSet", THERE, "db", "serviceName: db\nreplicas: 2", &http_server()),
        service(THERE, "db", "db", "clusterIP: None", "{name: http, port: 8080}"),
        pod(THERE, "probed", "", &probed()),
        pod(THERE, "ready", "", &becoming("readinessProbe")),
        pod(THERE, "alive", "", &becoming("livenessProbe")),
    ];
    Home::up(&manifests.concat())
}

fn dual_stack(service: &str) -> String {
    service.replace("spec:\n", "spec:\n  ipFamilyPolicy: PreferDualStack\n")
}

/// A container for each kind of probe, which it has as readiness and as liveness probe.
fn probed() -> String {
    let both = |probe: &str| {
        format!("readinessProbe: {{{probe}, periodSeconds: 1}}\nlivenessProbe: {{{probe}, periodSeconds: 1}}")
    };
    let named = |name: &str, container: String| container.replacen("name: app", &format!("name: {name}"), 1);
    let tls = ["--port=8090", "--port=8443", "--tls=8443", "--crt=/cert.crt", "--key=/cert.key"];
    let containers = [
        container(
            &["http", "--port", "8080"],
            &both("httpGet: {path: /probed, port: 8080, httpHeaders: [{name: x-probe, value: '1'}]}"),
        ),
        named("tcp", container(&["tcp", "--port", "9000"], &both("tcpSocket: {port: 9000}"))),
        named("exec", container(&["tcp", "--port", "9001"], &both("exec: {command: [echo, --version]}"))),
        named("tls", echo_advanced(&tls, &both("httpGet: {path: /, port: 8443, scheme: HTTPS}"))),
        named("grpc", container(&["http", "--port", "7071"], &both("grpc: {port: 7071}"))),
    ];
    spec("", &containers.concat())
}

/// A server whose probe fails when it is told to become something else than well.
fn becoming(probe: &str) -> String {
    let more =
        format!("{probe}: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1, failureThreshold: 1}}");
    spec("", &container(&["http", "--port", "8080"], &more))
}

fn strict_namespaces_reach_each_other_and_prove_who_they_are(home: &Home) -> Result<()> {
    let reply = home.curl(CLIENT, &[&format!("http://web.{THERE}/")])?;
    let expected = format!("spiffe://cluster.local/ns/{HERE}/sa/default");
    assert_eq!((reply.status, reply.client_identity()), (200, Some(expected)), "{reply:?}");
    Ok(())
}

fn a_stranger_gets_nothing_out_of_a_strict_namespace(home: &Home) -> Result<()> {
    let pod = home.address(THERE, "app=web")?;
    for host in
        [format!("web.{THERE}"), format!("{pod}:8080"), format!("{pod}:15006"), format!("{pod}:15000")]
    {
        let output = home.try_curl(STRANGER, &[&format!("http://{host}/")])?.bad()?;
        assert_eq!(output.out, "", "{host}");
    }
    Ok(())
}

fn a_stranger_is_served_in_a_permissive_namespace_without_a_name(home: &Home) -> Result<()> {
    let claim = "x-forwarded-client-cert: By=spiffe://cluster.local/ns/a/sa/b;URI=spiffe://cluster.local/ns/a/sa/root";
    let reply = home.curl(STRANGER, &["-H", claim, &format!("http://web.{OPEN}/")])?;
    assert_eq!((reply.status, reply.client_identity()), (200, None), "{reply:?}");
    let reply = home.curl(CLIENT, &[&format!("http://web.{OPEN}/")])?;
    assert!(reply.client_identity().is_some(), "and a friend has one: {reply:?}");
    Ok(())
}

fn prometheus_scrapes_applications_and_proxies(home: &Home) -> Result<()> {
    // It is on the node, outside of the mesh: of the strict pods it may see the proxies, of the permissive ones the
    // applications, too.
    let (strict, open) = (home.address(THERE, "app=web")?, home.address(OPEN, "app=measured")?);
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("prometheus.yaml");
    std::fs::write(
        &config,
        format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - {{job_name: proxies, static_configs: [{{targets: ['{strict}:15020', '{open}:15020']}}]}}
  - {{job_name: applications, static_configs: [{{targets: ['{open}:9091']}}]}}
  - {{job_name: closed, static_configs: [{{targets: ['{strict}:8080']}}]}}
"
        ),
    )?;
    let flag = |name: &str, value: &str| format!("--{name}={value}");
    let _prometheus = home.start_in_node(&[
        "prometheus",
        &flag("config.file", &config.display().to_string()),
        &flag("storage.tsdb.path", &directory.path().join("data").display().to_string()),
        &flag("web.listen-address", "127.0.0.1:19090"),
    ])?;
    let query = "http://127.0.0.1:19090/api/v1/query?query=sum+by+(job)+(up)";
    until("every target is scraped that may be", SOON, || {
        let said = home.in_node(&["curl", "-sS", query], SOON)?.good()?.out;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        let results = said["data"]["result"].as_array().context("no results")?;
        let of =
            |job: &str| results.iter().find(|one| one["metric"]["job"] == job).map(|one| &one["value"][1]);
        let up = ["proxies", "applications", "closed"].map(of);
        ensure!(up == [Some(&"2".into()), Some(&"1".into()), Some(&"0".into())], "{said}");
        Ok(())
    })
}

fn each_pod_of_a_stateful_set_is_reached_by_its_own_name_in_mutual_tls(home: &Home) -> Result<()> {
    for name in ["db-0", "db-1"] {
        let url = format!("http://{name}.db.{THERE}.svc.cluster.local:8080/");
        let reply = home.curl(CLIENT, &[&url])?;
        assert_eq!((reply.status, reply.server().as_str()), (200, name), "{reply:?}");
        assert!(reply.client_identity().is_some(), "in mutual TLS: {reply:?}");
    }
    Ok(())
}

fn both_address_families_are_in_the_mesh(home: &Home) -> Result<()> {
    for family in ["-4", "-6"] {
        let reply = home.curl(CLIENT, &[family, &format!("http://web.{THERE}.svc.cluster.local/")])?;
        assert!(reply.status == 200 && reply.client_identity().is_some(), "{family}: {reply:?}");
    }
    Ok(())
}

fn a_job_whose_containers_dial_in_their_first_moment_completes(home: &Home) -> Result<()> {
    let url = format!("http://web.{THERE}/");
    let dial = ["load", &url, "--requests", "1", "--expect-zero-failures"];
    let first = container(&dial, "").replace("name: app", "name: first");
    let first: String = first.lines().map(|line| format!("{line}\n")).collect();
    let pod = spec(&format!("restartPolicy: Never\ninitContainers:\n{first}"), &container(&dial, ""));
    let pod: String = pod.lines().map(|line| format!("      {line}\n")).collect();
    home.kubectl.apply(&format!(
        "---\napiVersion: batch/v1\nkind: Job\nmetadata: {{name: once, namespace: {HERE}}}\nspec:\n  backoffLimit: 0\n  completions: 4\n  parallelism: 2\n  template:\n    spec:\n{pod}"
    ))?;
    let wait = ["wait", "job/once", "-n", HERE, "--for", "condition=Complete", "--timeout", "90s"];
    home.kubectl.run(&wait).map(drop)
}

fn restarts(home: &Home, name: &str) -> Result<u64> {
    let pod = home.kubectl.get(&["pod", "-n", THERE, name])?;
    let containers = pod["status"]["containerStatuses"].as_array().context("containers")?;
    Ok(containers.iter().filter_map(|one| one["restartCount"].as_u64()).sum())
}

fn is_ready(home: &Home, name: &str) -> Result<bool> {
    let pod = home.kubectl.get(&["pod", "-n", THERE, name])?;
    let conditions = pod["status"]["conditions"].as_array().context("conditions")?;
    Ok(conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

/// How many requests an application has had, asked within its pod.
fn requests(home: &Home, name: &str) -> Result<u64> {
    let reply = home.curl(&format!("{THERE}/{name}"), &["http://127.0.0.1:8080/counts"])?;
    serde_json::from_str::<serde_json::Value>(&reply.body)?["requests"].as_u64().context("no count")
}

fn probes_of_every_kind_pass_in_strict_mode(home: &Home) -> Result<()> {
    // It is ready, which all readiness probes say; and liveness probes would have restarted it by now.
    until("the application has been probed a while", SOON, || {
        let count = requests(home, "probed")?;
        ensure!(count >= 12, "{count} times");
        Ok(())
    })?;
    assert!(is_ready(home, "probed")?);
    assert_eq!(restarts(home, "probed")?, 0);
    Ok(())
}

/// Lets an application answer its probe with a status from now on.
fn becomes(home: &Home, name: &str, status: u16) -> Result<()> {
    home.curl(&format!("{THERE}/{name}"), &[&format!("http://127.0.0.1:8080/become/{status}")]).map(drop)
}

fn a_failing_readiness_probe_takes_the_pod_out_and_brings_it_back(home: &Home) -> Result<()> {
    for (status, ready) in [(503, false), (200, true)] {
        becomes(home, "ready", status)?;
        until("the probe's result is seen", SOON, || {
            ensure!(is_ready(home, "ready")? == ready, "not yet");
            Ok(())
        })?;
    }
    Ok(())
}

fn a_failing_liveness_probe_restarts_the_container(home: &Home) -> Result<()> {
    becomes(home, "alive", 500)?;
    until("the container is restarted", SOON, || {
        ensure!(restarts(home, "alive")? == 1, "not yet");
        Ok(())
    })
}

fn a_lifecycle_hook_over_http_reaches_the_application(home: &Home) -> Result<()> {
    let hook = "lifecycle: {preStop: {httpGet: {path: /delay/5000, port: 8080}}}";
    home.apply(&pod(THERE, "hooked", "", &spec("", &container(&["http", "--port", "8080"], hook))))?;
    assert_eq!(requests(home, "hooked")?, 0);
    home.kubectl.run(&["delete", "pod", "-n", THERE, "hooked", "--wait=false"])?;
    until("the hook has called", SOON, || {
        ensure!(requests(home, "hooked")? == 1, "not yet");
        Ok(())
    })
}
