//! The lab as its users meet it: what its commands answer, what they refuse, and that nothing is left behind.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::manifest::{client, echo, http_route, http_server, meshed_namespace, namespace, service};
use e2e::{Output, World, run, until};

const CLIENT: &str = "shop/client";
const SOON: Duration = Duration::from_secs(10);

e2e::prove!(
    up,
    [
        exec_returns_the_commands_own_exit_status,
        exec_hands_over_standard_input_when_asked,
        ps_names_pods_services_and_the_control_plane,
        names_resolve_in_every_form,
        logs_are_there_for_containers_and_the_control_plane,
        a_pod_that_succeeds_is_done_and_its_proxy_leaves,
        an_unlabelled_pod_and_a_refusing_one_are_not_injected,
        configuration_reaches_containers,
        a_broken_manifest_is_refused_with_file_and_reason_and_nothing_is_lost,
        a_field_that_the_lab_does_not_honour_is_named,
        an_unknown_annotation_of_ours_is_refused_with_the_reason,
        wait_returns_when_proxies_hold_the_present_version,
        a_proxy_whose_ports_are_in_use_says_so,
        a_control_plane_whose_ports_are_in_use_says_so,
        init_without_the_capability_names_it,
        init_can_be_run_twice,
        a_restarted_control_plane_keeps_its_root,
        two_worlds_do_not_touch,
        a_crashed_world_is_cleared_away_by_the_next_up,
        down_leaves_nothing_behind,
    ]
);

fn up() -> Result<World> {
    World::up("life", &[], &manifests())
}

fn manifests() -> String {
    let world = [
        meshed_namespace("shop"),
        namespace("plain", ""),
        client("shop", "client"),
        client("plain", "client"),
        http_server("shop", "web", "app: web"),
        service("shop", "web", "app: web", &[(80, 8080)]),
    ];
    world.concat()
}

fn check_works(world: &World) -> Result<()> {
    let reply = world.curl(CLIENT, &["http://web/"])?;
    assert_eq!((reply.status, reply.server().as_str()), (200, "web"), "{reply:?}");
    assert!(reply.client_identity().is_some(), "{reply:?}");
    Ok(())
}

/// A program beside the lab.
fn program(name: &str) -> String {
    Path::new(echo()).with_file_name(name).display().to_string()
}

fn exec_returns_the_commands_own_exit_status(world: &World) -> Result<()> {
    for status in [0, 3, 42] {
        let output = world.exec(CLIENT, &["sh", "-c", &format!("echo out; echo err >&2; exit {status}")])?;
        assert_eq!((output.status, output.out.as_str()), (Some(status), "out\n"), "{output:?}");
        assert!(output.err.contains("err"), "{output:?}");
    }
    world.exec("shop/nobody", &["true"])?.bad()?;
    Ok(())
}

fn exec_hands_over_standard_input_when_asked(world: &World) -> Result<()> {
    let mut shell = Command::new("sh");
    let script = "echo through the pipe | \"$1\" exec --world \"$2\" -i shop/client -- cat";
    shell.args(["-c", script, "sh", &program("lab"), world.name()]);
    assert_eq!(run(shell, SOON)?.good()?.out, "through the pipe\n");
    Ok(())
}

fn ps_names_pods_services_and_the_control_plane(world: &World) -> Result<()> {
    let ps = world.ps()?;
    let (meshed, plain) = (world.pod(CLIENT)?, world.pod("plain/client")?);
    assert_eq!((&meshed["meshed"], &plain["meshed"]), (&true.into(), &false.into()), "{ps}");
    assert_eq!((&meshed["phase"], &meshed["ready"]), (&"Running".into(), &true.into()), "{ps}");
    assert!(world.pid(CLIENT, "heddle-proxy")? > 1 && world.pid(CLIENT, "app")? > 1, "{ps}");
    assert!(Path::new("/run/netns").join(meshed["netns"].as_str().unwrap_or("?")).exists(), "{ps}");
    assert!(world.cluster_ip("shop/web", '.')? != world.cluster_ip("shop/web", ':')?, "{ps}");
    assert!(ps["control"]["pid"].as_u64().is_some(), "{ps}");
    let table = world.lab(&["ps"])?.good()?.out;
    assert!(["shop", "client", "web"].iter().all(|word| table.contains(word)), "{table}");
    Ok(())
}

fn names_resolve_in_every_form(world: &World) -> Result<()> {
    for host in ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local"] {
        assert_eq!(world.curl(CLIENT, &[&format!("http://{host}/")])?.server(), "web", "{host}");
    }
    Ok(())
}

fn logs_are_there_for_containers_and_the_control_plane(world: &World) -> Result<()> {
    assert!(!world.logs(CLIENT, "heddle-proxy")?.is_empty());
    assert!(!world.lab(&["logs", "--control"])?.good()?.out.is_empty());
    Ok(())
}

fn a_pod_that_succeeds_is_done_and_its_proxy_leaves(world: &World) -> Result<()> {
    let job = e2e::manifest::pod("shop", "job", "app: job", &["curl", "-sSf", "http://web/"]);
    let once = job.replace("spec:\n", "spec:\n  restartPolicy: Never\n");
    world.apply(&once)?;
    until("the job has succeeded", SOON * 3, || {
        let pod = world.pod("shop/job")?;
        ensure!(pod["phase"] == "Succeeded", "{pod}");
        Ok(())
    })?;
    assert!(world.logs("shop/job", "app")?.contains("\"server\":\"web\""));
    Ok(())
}

fn an_unlabelled_pod_and_a_refusing_one_are_not_injected(world: &World) -> Result<()> {
    let refusing = http_server("shop", "refusing", "heddle.dev/inject: disabled");
    let asking = http_server("plain", "asking", "heddle.dev/inject: enabled");
    world.apply(&[refusing, asking].concat())?;
    let meshed = |pod: &str| Ok::<_, anyhow::Error>(world.pod(pod)?["meshed"].clone());
    assert_eq!((meshed("shop/refusing")?, meshed("plain/asking")?), (false.into(), true.into()));
    Ok(())
}

fn configuration_reaches_containers(world: &World) -> Result<()> {
    let reader = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: words, namespace: shop}
data: {warp: threads}
---
apiVersion: v1
kind: Secret
metadata: {name: hidden, namespace: shop}
stringData: {weft: yarn}
---
apiVersion: v1
kind: Pod
metadata: {name: reader, namespace: shop}
spec:
  volumes:
  - {name: words, configMap: {name: words}}
  - {name: hidden, secret: {secretName: hidden}}
  - {name: scratch, emptyDir: {}}
  initContainers:
  - {name: first, image: none, command: [sh, -c, 'echo begun >/scratch/init'], volumeMounts: [{name: scratch, mountPath: /scratch}]}
  containers:
  - name: app
    image: none
    command: [sleep, infinity]
    workingDir: /tmp
    env: [{name: WEFT, valueFrom: {secretKeyRef: {name: hidden, key: weft}}}]
    volumeMounts: [{name: words, mountPath: /words}, {name: hidden, mountPath: /hidden}, {name: scratch, mountPath: /scratch}]
";
    world.apply(reader)?;
    let output = world
        .exec("shop/reader", &["sh", "-c", "cat /words/warp /hidden/weft /scratch/init; echo $WEFT; pwd"])?;
    assert_eq!(output.good()?.out, "threadsyarnbegun\nyarn\n/tmp\n");
    Ok(())
}

/// An `apply` that must be refused, with words that its message must hold.
#[track_caller]
fn check_refused(world: &World, manifest: &str, words: &[&str]) -> Result<()> {
    let file = world.write(manifest)?;
    let file = file.to_str().context("UTF-8")?;
    let Output { err, .. } = world.lab(&["apply", file])?.bad()?;
    let name = file.rsplit('/').next().unwrap_or(file);
    for word in [&[name], words].concat() {
        assert!(err.contains(word), "the message should hold {word:?}: {err}");
    }
    check_works(world)
}

fn a_broken_manifest_is_refused_with_file_and_reason_and_nothing_is_lost(world: &World) -> Result<()> {
    check_refused(world, "apiVersion: v1\nkind: Service\n  metadata: {name: web", &["line"])?;
    check_refused(world, "apiVersion: v1\nkind: Service\nmetadata: {namespace: shop}\n", &["name"])?;
    check_refused(
        world,
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: shop}\n",
        &["Deployment"],
    )?;
    let text = http_route("shop", "web", "web", "- backendRefs: [{name: web, port: eighty}]");
    check_refused(world, &text, &["shop/web", "port"])
}

fn a_field_that_the_lab_does_not_honour_is_named(world: &World) -> Result<()> {
    let pod = client("shop", "strange").replace("spec:\n", "spec:\n  shareProcessNamespace: true\n");
    check_refused(world, &pod, &["shareProcessNamespace"])
}

fn an_unknown_annotation_of_ours_is_refused_with_the_reason(world: &World) -> Result<()> {
    let pod = client("shop", "misspelt");
    let wrong = pod.replacen(
        "kind: Pod\nmetadata: {",
        "kind: Pod\nmetadata: {annotations: {heddle.dev/opaque-port: '1'}, ",
        1,
    );
    let file = world.write(&wrong)?;
    let output = world.lab(&["apply", file.to_str().context("UTF-8")?])?.bad()?;
    assert!(output.err.contains("heddle.dev/opaque-port"), "{output:?}");
    world.lab(&["delete", "pod", "shop/misspelt"])?;
    check_works(world)
}

fn wait_returns_when_proxies_hold_the_present_version(world: &World) -> Result<()> {
    check_works(world)?;
    for host in ["first.example", "second.example", "third.example"] {
        let redirect =
            format!("- filters: [{{type: RequestRedirect, requestRedirect: {{hostname: {host}}}}}]");
        world.apply(
            &[
                service("shop", "there", "app: web", &[(80, 8080)]),
                http_route("shop", "there", "there", &redirect),
            ]
            .concat(),
        )?;
        world.lab(&["wait", "httproute", "shop/there"])?.good()?;
        let location = world.curl(CLIENT, &["http://there/"])?.header("location").unwrap_or_default();
        assert!(location.contains(host), "{location} instead of {host}");
    }
    Ok(())
}

fn a_proxy_whose_ports_are_in_use_says_so(world: &World) -> Result<()> {
    let output =
        world.exec("shop/client:heddle-proxy", &["timeout", "5", &program("heddle-proxy")])?.bad()?;
    let said = output.out + &output.err;
    assert!(said.contains("in use") && said.contains("150"), "{said}");
    Ok(())
}

fn a_control_plane_whose_ports_are_in_use_says_so(world: &World) -> Result<()> {
    let dir = world.dir().join("second");
    std::fs::create_dir_all(&dir)?;
    let key = dir.join("key.pem");
    let mut openssl = Command::new("sh");
    openssl
        .args(["-c", "openssl ecparam -name prime256v1 -genkey -noout | openssl ec -pubout -out \"$0\""])
        .arg(&key);
    run(openssl, SOON)?.good()?;
    let _taken = world.start("plain/client", &[echo(), "tcp", "--port", "15012"])?;
    let here = dir.display().to_string();
    let (key, bundle) = (key.display().to_string(), format!("{here}/root.pem"));
    let second = [
        &program("heddle-injector"),
        "--manifests",
        &here,
        "--state",
        &here,
        "--token-key",
        &key,
        "--bundle-out",
        &bundle,
        "--cluster-cidr",
        "10.0.0.0/8",
    ];
    until("the port is taken", SOON, || {
        let output = world.exec("plain/client", &[&["timeout", "5"], &second[..]].concat())?.bad()?;
        let said = output.out + &output.err;
        ensure!(said.contains("15012") && said.contains("in use"), "{said}");
        Ok(())
    })
}

fn init_without_the_capability_names_it(world: &World) -> Result<()> {
    let unprivileged =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", &program("heddle-init")];
    let output = world.exec("plain/client", &unprivileged)?.bad()?;
    assert!((output.out.clone() + &output.err).contains("NET_ADMIN"), "{output:?}");
    Ok(())
}

fn init_can_be_run_twice(world: &World) -> Result<()> {
    let rules = || world.exec("shop/web", &["iptables-save", "-t", "nat"]).and_then(Output::good);
    let strip = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect()
    };
    let before = strip(&rules()?.out);
    world.exec("shop/web", &[&program("heddle-init"), "--no-verify"])?.good()?;
    assert_eq!(strip(&rules()?.out), before);
    check_works(world)
}

fn a_restarted_control_plane_keeps_its_root(world: &World) -> Result<()> {
    world.lab(&["control", "kill"])?.good()?;
    world.lab(&["control", "start"])?.good()?;
    world.apply(&http_server("shop", "later", "app: later"))?;
    world.apply(&service("shop", "later", "app: later", &[(80, 8080)]))?;
    // The client's certificate is from before, the new server's from after: both from one root.
    let reply = world.curl(CLIENT, &["http://later/"])?;
    assert!(reply.server() == "later" && reply.client_identity().is_some(), "{reply:?}");
    Ok(())
}

fn two_worlds_do_not_touch(world: &World) -> Result<()> {
    let other = World::up("other", &[], &manifests())?;
    check_works(&other)?;
    let elsewhere = other.pod_ip("shop/web")?;
    if elsewhere != world.pod_ip("shop/web")? {
        let output =
            world.try_curl("plain/client", &["--max-time", "2", &format!("http://{elsewhere}:8080/")])?;
        assert_ne!(output.status, Some(0), "the other world's pod answered: {output:?}");
    }
    drop(other);
    check_works(world)
}

/// Network namespaces, mounts and processes of a world.
fn remains(name: &str) -> Result<String> {
    let mut shell = Command::new("sh");
    let script = "ls -d /run/netns/lab-\"$0\"-* /run/heddle-lab/\"$0\" 2>/dev/null; grep /run/heddle-lab/\"$0\"/ /proc/mounts; \
                  for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -F /run/heddle-lab/\"$0\"/; done; true";
    shell.args(["-c", script, name]);
    Ok(run(shell, SOON)?.good()?.out)
}

fn a_crashed_world_is_cleared_away_by_the_next_up(_: &World) -> Result<()> {
    let world = World::up("crash", &[], &manifests())?;
    let ps = world.ps()?;
    let supervisor = std::fs::read_to_string(format!("/run/heddle-lab/{}/supervisor.json", world.name()))?;
    let supervisor: serde_json::Value = serde_json::from_str(&supervisor)?;
    let pids =
        [supervisor["pid"].as_u64(), ps["control"]["pid"].as_u64(), Some(world.pid("shop/web", "app")?)];
    for pid in pids {
        let pid = pid.context("a process to kill")?.to_string();
        let mut kill = Command::new("kill");
        kill.args(["-KILL", &pid]);
        run(kill, SOON)?.good()?;
    }
    let file = world.write(&manifests())?;
    world.again(&[], &file)?.good()?;
    check_works(&world)
}

fn down_leaves_nothing_behind(_: &World) -> Result<()> {
    let world = World::up("down", &[], &manifests())?;
    let name = world.name().to_owned();
    assert!(!remains(&name)?.is_empty(), "a world that is up is to be seen");
    world.lab(&["down"])?.good()?;
    assert_eq!(remains(&name)?, "");
    Ok(())
}
