//! Heddle itself is changed, its root is replaced, its Secret vanishes, it is removed: what runs goes on.
//!
//! These rules replace the Heddle of the cluster: they come last, in their order.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cluster::Home;
use cluster::manifest::{client, container, deployment, http_server, namespace, permissive, pod, spec, web};
use e2e::until;

const HOME: &str = "leaving";
const PLAIN: &str = "leaving-plain";
const CLIENT: &str = "leaving/client";
const URL: &str = "http://web.leaving/";
const SYSTEM: &str = "heddle-system";
const SOON: Duration = Duration::from_secs(60);
/// Kubelets show a changed ConfigMap to their pods within this time.
const SHOWN: Duration = Duration::from_secs(150);
/// The life of certificates while the root is replaced, seconds.
const LEAF: u64 = 60;
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/heddle");

e2e::prove!(
    up,
    [
        a_second_release_is_refused_and_changes_nothing,
        an_upgrade_costs_no_request_and_keeps_the_root,
        a_token_of_another_audience_or_of_no_pod_is_refused,
        a_root_is_replaced_by_the_documented_steps_and_no_request_fails,
        without_its_secret_nothing_is_signed_and_nothing_is_made_in_its_place,
        without_the_label_the_pods_work_as_before,
        without_heddle_everything_works_as_before,
        installed_again_it_is_the_same_mesh,
    ]
);

fn up() -> Result<Home> {
    let manifests = [
        permissive(HOME),
        namespace(PLAIN, "", ""),
        pod(HOME, "client", "", &client()),
        pod(PLAIN, "client", "", &client()),
        deployment(HOME, "web", 2, &http_server()),
        web(HOME, "web", "web"),
    ];
    let home = Home::up(&manifests.concat())?;
    ensure!(
        home.kubectl.is_own(),
        "these rules take Heddle and the API server away: only in the tests' own cluster"
    );
    // After an outage of the API server, the cluster's DNS learns of a new name only when it has found it again.
    until("the Service has its name", SOON * 2, || {
        ensure!(home.curl(CLIENT, &[URL])?.status == 200, "no answer");
        Ok(())
    })?;
    // Only then: a caller without the name would fail before anything was done to it.
    home.apply(&pod(HOME, "caller", "", &caller()))?;
    Ok(home)
}

/// Calls all its life; each line of its log is a count.
fn caller() -> String {
    let script = format!(
        "while :; do /usr/local/bin/echo load {URL} --json --rate 50 --connections 2 --seconds 2 --requests 100000; done"
    );
    let command = format!("  command: [sh, -c, '{script}']\n");
    spec("", &container(&[], "").replace("  args: []\n", &command)).replace("Seconds: 10", "Seconds: 1")
}

/// Nothing has failed since `began`.
fn check_nothing_failed(home: &Home, began: Instant) -> Result<()> {
    let since = format!("--since={}s", began.elapsed().as_secs().max(5));
    cluster::check_nothing_failed(&home.kubectl.run(&["logs", "-n", HOME, "caller", "-c", "app", &since])?)
}

/// What vouches for whom, as an object's field holds it, decoded.
fn decoded(home: &Home, arguments: &[&str]) -> Result<String> {
    home.kubectl.run(&[&["get", "-n", SYSTEM], arguments].concat())
}

fn root(home: &Home) -> Result<String> {
    decoded(home, &["configmap", "heddle-root", "-o", "jsonpath={.data.root\\.pem}"])
}

fn a_second_release_is_refused_and_changes_nothing(home: &Home) -> Result<()> {
    let second = home.kubectl.helm(&["install", "other", CHART])?.bad()?;
    assert!(second.err.contains("Heddle is here already"), "{}", second.err);
    let elsewhere = home.kubectl.helm(&["install", "other", CHART, "-n", "default"])?.bad()?;
    assert!(elsewhere.err.contains("heddle-system"), "{}", elsewhere.err);
    assert_eq!(home.curl(CLIENT, &[URL])?.status, 200);
    Ok(())
}

/// helm upgrade, keeping the values, with others.
fn upgrade(home: &Home, options: &[&str]) -> Result<()> {
    let keep = ["upgrade", "heddle", CHART, "--reset-then-reuse-values", "--wait", "--timeout", "120s"];
    home.kubectl.helm(&[&keep[..], options].concat())?.good().map(drop)
}

fn an_upgrade_costs_no_request_and_keeps_the_root(home: &Home) -> Result<()> {
    let began = Instant::now();
    let before = root(home)?;
    upgrade(home, &["--set", "log=debug"])?;
    assert_eq!(root(home)?, before);
    home.restart(HOME, "deployment/web")?;
    upgrade(home, &["--set", &format!("identity.leafTtlSeconds={LEAF}"), "--set", "log=info"])?;
    check_nothing_failed(home, began)
}

/// The status and the words with which the control plane answers a token.
fn ask_to_sign(home: &Home, token: &str) -> Result<(u16, String)> {
    let bearer = format!("authorization: Bearer {}", token.trim());
    let url = "https://heddle-injector.heddle-system.svc:15012/v1/sign";
    let reply = home.curl(&format!("{PLAIN}/client"), &["-k", "-X", "POST", "-H", &bearer, url])?;
    Ok((reply.status, reply.body))
}

fn a_token_of_another_audience_or_of_no_pod_is_refused(home: &Home) -> Result<()> {
    let token =
        |more: &[&str]| home.kubectl.run(&[&["create", "token", "default", "-n", HOME], more].concat());
    let (status, said) = ask_to_sign(home, &token(&["--audience", "somebody.else"])?)?;
    assert!(status == 401, "{status} {said}");
    let (status, said) = ask_to_sign(home, &token(&["--audience", "heddle.dev"])?)?;
    assert!(status == 401 && said.contains("pod"), "{status} {said}");
    let (status, said) = ask_to_sign(home, "garbage")?;
    assert!(status == 401, "{status} {said}");
    Ok(())
}

/// Fields of the authority's Secret, each of them PEM.
fn set(home: &Home, fields: &[(&str, &str)]) -> Result<()> {
    let fields: serde_json::Map<String, serde_json::Value> =
        fields.iter().map(|(name, text)| ((*name).to_owned(), (*text).into())).collect();
    let patch = serde_json::json!({"stringData": fields}).to_string();
    home.kubectl.run(&["patch", "secret", "heddle-ca", "-n", SYSTEM, "-p", &patch]).map(drop)
}

fn a_root_is_replaced_by_the_documented_steps_and_no_request_fails(home: &Home) -> Result<()> {
    let began = Instant::now();
    // Step 1: docs/operations.md. The pods have certificates of a short life by now.
    home.restart(HOME, "deployment/web")?;
    home.kubectl.run(&["delete", "pod", "-n", HOME, "caller", "client"])?;
    home.apply(&[pod(HOME, "caller", "", &caller()), pod(HOME, "client", "", &client())].concat())?;
    let (key, new) = make_root()?;
    let old = root(home)?;
    // Step 2: trust both.
    set(home, &[("ca.crt", &format!("{old}{new}"))])?;
    until("the ConfigMaps hold both roots", SOON, || {
        let shown = home.kubectl.run(&[
            "get",
            "configmap",
            "heddle-root",
            "-n",
            HOME,
            "-o",
            "jsonpath={.data.root\\.pem}",
        ])?;
        ensure!(shown.matches("BEGIN CERTIFICATE").count() == 2, "{shown}");
        Ok(())
    })?;
    until("every proxy trusts both", SHOWN, || each_proxy_trusts(home, 2))?;
    // Step 3: sign with the new one; step 4: wait until all have certificates of it.
    set(home, &[("tls.crt", &new), ("tls.key", &key)])?;
    std::thread::sleep(Duration::from_secs(LEAF + 10));
    // Step 5: trust only the new one.
    set(home, &[("ca.crt", &new)])?;
    until("every proxy trusts the new one alone", SHOWN, || each_proxy_trusts(home, 1))?;
    assert_eq!(home.load(CLIENT, URL, &["--requests", "50"])?.all_well(50).answered(), 50);
    check_nothing_failed(home, began)?;
    // A pod that comes now is of the new root, too.
    home.restart(HOME, "deployment/web")?;
    check_nothing_failed(home, began)
}

/// A page of a pod's proxy (`15020/metrics`).
fn proxy_says(home: &Home, pod: &str, page: &str) -> Result<String> {
    let url = format!("http://127.0.0.1:{page}");
    Ok(home.exec(pod, &["curl", "-sS", "--max-time", "5", &url])?.good()?.out)
}

/// How many roots each proxy trusts, by its own word.
fn each_proxy_trusts(home: &Home, roots: u64) -> Result<()> {
    let expected = format!("heddle_trusted_roots {roots}");
    for pod in home.pods(HOME, "app in (client, caller, web)")? {
        let name = format!("{HOME}/{}", pod["metadata"]["name"].as_str().context("a name")?);
        let page = proxy_says(home, &name, "15020/metrics")?;
        let said = page.lines().find(|line| line.starts_with("heddle_trusted_roots ")).unwrap_or_default();
        ensure!(said == expected, "{name}: {said:?}");
    }
    Ok(())
}

/// Whether the proxies of the callers know every server by its address.
fn callers_know_every_server(home: &Home) -> Result<()> {
    let servers = home.pods(HOME, "app=web")?;
    for caller in ["leaving/caller", CLIENT] {
        let table = proxy_says(home, caller, "15000/table")?;
        for server in &servers {
            let ip = server["status"]["podIP"].as_str().context("an address")?;
            ensure!(table.contains(&format!("\"{ip}:")), "{caller} does not know {ip}");
        }
    }
    Ok(())
}

/// A key and a root, as docs/operations.md makes them.
fn make_root() -> Result<(String, String)> {
    let directory = tempfile::tempdir()?;
    let (key, certificate) = (directory.path().join("new.key"), directory.path().join("new.crt"));
    let mut openssl = std::process::Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "3650",
    ]);
    openssl.args(["-subj", "/CN=Heddle root 2", "-addext", "keyUsage=critical,keyCertSign,cRLSign"]);
    openssl
        .args(["-addext", "subjectAltName=URI:spiffe://cluster.local", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    e2e::run(openssl, SOON)?.good()?;
    Ok((std::fs::read_to_string(key)?, std::fs::read_to_string(certificate)?))
}

fn without_its_secret_nothing_is_signed_and_nothing_is_made_in_its_place(home: &Home) -> Result<()> {
    let began = Instant::now();
    let mut secret = home.kubectl.get(&["secret", "heddle-ca", "-n", SYSTEM])?;
    home.kubectl.run(&["delete", "secret", "heddle-ca", "-n", SYSTEM])?;
    // Not even by a control plane that has never seen it.
    home.kubectl.run(&["rollout", "restart", "-n", SYSTEM, "deployment/heddle-injector"])?;
    let said = until("a new control plane says what is missing", SOON, || {
        let selector = ["-l", "app.kubernetes.io/name=heddle-injector", "--tail=50"];
        let said = home.kubectl.run(&[&["logs", "-n", SYSTEM], &selector[..]].concat())?;
        ensure!(said.contains("heddle-ca"), "{said}");
        Ok(said)
    });
    let made = home.kubectl.try_run(&["get", "secret", "heddle-ca", "-n", SYSTEM])?.status == Some(0);
    let metadata = secret["metadata"].as_object_mut().context("metadata")?;
    metadata.retain(|field, _| ["name", "namespace", "labels", "annotations"].contains(&field.as_str()));
    home.kubectl.apply(&secret.to_string())?;
    home.rolled_out(SYSTEM, "deployment/heddle-injector")?;
    said?;
    ensure!(!made, "there is a new Secret");
    home.restart(HOME, "deployment/web")?;
    check_nothing_failed(home, began)
}

fn without_the_label_the_pods_work_as_before(home: &Home) -> Result<()> {
    let began = Instant::now();
    home.kubectl.run(&["label", "namespace", HOME, "heddle.dev/inject-"])?;
    home.restart(HOME, "deployment/web")?;
    let pods = home.pods(HOME, "app=web")?;
    ensure!(pods.iter().all(|pod| pod["spec"]["initContainers"].is_null()), "they are meshed");
    // Meshed callers and others reach them.
    check_nothing_failed(home, began)?;
    assert_eq!(home.curl(&format!("{PLAIN}/client"), &[URL])?.status, 200);
    Ok(())
}

fn without_heddle_everything_works_as_before(home: &Home) -> Result<()> {
    let began = Instant::now();
    home.kubectl.helm(&["uninstall", "heddle", "--wait", "--timeout", "120s"])?.good()?;
    let hooks = home.kubectl.run(&["get", "mutatingwebhookconfiguration", "-o", "name"])?;
    ensure!(!hooks.contains("heddle"), "{hooks}");
    home.kubectl.run(&["label", "namespace", HOME, "heddle.dev/inject=enabled"])?;
    home.restart(HOME, "deployment/web")?;
    // Who is still meshed works on with what it knows.
    check_nothing_failed(home, began)?;
    home.load(CLIENT, URL, &["--requests", "50"]).map(|load| drop(load.all_well(50)))
}

fn installed_again_it_is_the_same_mesh(home: &Home) -> Result<()> {
    let began = Instant::now();
    let before = root(home)?;
    cluster::script("heddle.sh", &[])?;
    assert_eq!(root(home)?, before, "the authority is the one that was left");
    // Heddle's Service has another address now, and the cluster's DNS remembers the one before for half a minute: servers
    // that went meanwhile would be all that the callers know. One that is new tells when they follow again.
    home.kubectl.run(&["scale", "-n", HOME, "deployment/web", "--replicas=3"])?;
    home.rolled_out(HOME, "deployment/web")?;
    until("the callers know every server", SOON * 2, || callers_know_every_server(home))?;
    home.restart(HOME, "deployment/web")?;
    let reply = home.curl(CLIENT, &[URL])?;
    assert!(reply.status == 200 && reply.client_identity().is_some(), "{reply:?}");
    check_nothing_failed(home, began)
}
