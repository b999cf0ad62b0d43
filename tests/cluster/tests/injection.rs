//! What the webhook does to pods, as those see it who create them: with kubectl, in a real API server.

use anyhow::{Context, Result};
use cluster::Home;
use cluster::manifest::{client, container, deployment, namespace, permissive, pod, spec, workload};
use e2e::until;
use serde_json::Value;

const MESHED: &str = "inject-meshed";
const PLAIN: &str = "inject-plain";
const GUARDED: &str = "inject-guarded";
const SOON: std::time::Duration = std::time::Duration::from_secs(20);

e2e::prove!(
    up,
    [
        every_kind_of_workload_of_a_labelled_namespace_is_meshed,
        the_pods_own_label_wins,
        the_sidecar_comes_before_every_other_init_container,
        kubectl_takes_the_application_by_default,
        another_webhooks_turn_changes_nothing_twice,
        a_pod_on_its_nodes_network_is_left_alone_and_its_author_is_told,
        an_unknown_annotation_is_refused_by_its_name,
        a_value_that_is_not_allowed_is_refused_with_what_is,
        a_container_that_would_bypass_the_mesh_is_refused,
        a_namespace_whose_pod_security_would_refuse_is_named_with_its_label,
        an_applications_service_account_needs_no_rights,
        garbage_at_the_webhook_is_refused_and_it_goes_on,
    ]
);

fn up() -> Result<Home> {
    let manifests = [
        permissive(MESHED),
        namespace(PLAIN, "", ""),
        namespace(GUARDED, "heddle.dev/inject: enabled, pod-security.kubernetes.io/enforce: restricted", ""),
        deployment(MESHED, "deployment", 1, &client()),
        workload("StatefulSet", MESHED, "stateful", "serviceName: stateful", &client()),
        workload("DaemonSet", MESHED, "daemon", "", &client()),
        pod(MESHED, "bare", "", &client()),
        job(MESHED),
        pod(PLAIN, "plain", "", &client()),
        pod(PLAIN, "volunteer", "heddle.dev/inject: enabled", &client()),
        pod(MESHED, "refuser", "heddle.dev/inject: disabled", &client()),
    ];
    Home::up(&manifests.concat())
}

/// A CronJob's Job is not waited for: it is enough that its pod is made.
fn job(home: &str) -> String {
    let pod = spec("restartPolicy: Never", &container(&["http", "--port", "7000"], ""));
    let pod: String = pod.lines().map(|line| format!("      {line}\n")).collect();
    format!(
        "---\napiVersion: batch/v1\nkind: Job\nmetadata: {{name: job, namespace: {home}}}\nspec:\n  template:\n    metadata: {{labels: {{app: job}}}}\n    spec:\n{pod}"
    )
}

fn init_containers(pod: &Value) -> Vec<&str> {
    let all = pod["spec"]["initContainers"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter_map(|container| container["name"].as_str()).collect()
}

#[track_caller]
fn check_meshed(home: &Home, namespace: &str, app: &str, meshed: bool) -> Result<()> {
    let pods = home.pods(namespace, &format!("app={app}"))?;
    let pod = pods.first().with_context(|| format!("no pod of {app}"))?;
    let expected: &[&str] = if meshed { &["heddle-init", "heddle-proxy"] } else { &[] };
    assert_eq!(init_containers(pod), expected, "{namespace}/{app}");
    Ok(())
}

fn every_kind_of_workload_of_a_labelled_namespace_is_meshed(home: &Home) -> Result<()> {
    for app in ["deployment", "stateful", "daemon", "bare", "job"] {
        check_meshed(home, MESHED, app, true)?;
    }
    check_meshed(home, PLAIN, "plain", false)
}

fn the_pods_own_label_wins(home: &Home) -> Result<()> {
    check_meshed(home, PLAIN, "volunteer", true)?;
    check_meshed(home, MESHED, "refuser", false)
}

fn the_sidecar_comes_before_every_other_init_container(home: &Home) -> Result<()> {
    let first = "initContainers: [{name: first, image: 'heddle-echo:test', command: [sh, -c, ':']}]";
    let said = home.kubectl.try_apply(
        &pod(MESHED, "dry", "", &spec(first, &container(&["http"], ""))),
        &["--dry-run=server", "-o", "json"],
    )?;
    let pod: Value = serde_json::from_str(&said.good()?.out)?;
    assert_eq!(init_containers(&pod), ["heddle-init", "heddle-proxy", "first"]);
    Ok(())
}

fn kubectl_takes_the_application_by_default(home: &Home) -> Result<()> {
    let said = home.kubectl.run(&["exec", "-n", MESHED, "bare", "--", "echo", "--version"])?;
    assert!(said.starts_with("echo "), "{said}");
    Ok(())
}

fn another_webhooks_turn_changes_nothing_twice(home: &Home) -> Result<()> {
    // What was injected once is created once more, as a backup is restored.
    let mut pod = home.kubectl.get(&["pod", "-n", MESHED, "bare"])?;
    pod["metadata"] = serde_json::json!({
        "name": "copy", "namespace": MESHED,
        "labels": pod["metadata"]["labels"], "annotations": pod["metadata"]["annotations"],
    });
    let spec = pod["spec"].as_object_mut().context("a spec")?;
    spec.remove("nodeName");
    pod["status"] = Value::Null;
    let options = ["--dry-run=server", "-o", "json"];
    let copy: Value = serde_json::from_str(&home.kubectl.try_apply(&pod.to_string(), &options)?.good()?.out)?;
    assert_eq!(init_containers(&copy), ["heddle-init", "heddle-proxy"]);
    let names = |pod: &Value| {
        let volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
        volumes.iter().map(|volume| volume["name"].to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&copy), names(&pod));
    Ok(())
}

fn a_pod_on_its_nodes_network_is_left_alone_and_its_author_is_told(home: &Home) -> Result<()> {
    let host = spec("hostNetwork: true", &container(&["http", "--port", "17777"], ""));
    let said = home.kubectl.apply(&pod(MESHED, "host", "", &host))?;
    assert!(said.err.contains("Warning:") && said.err.contains("hostNetwork"), "{}", said.err);
    check_meshed(home, MESHED, "host", false)?;
    until("there is an event that says why", SOON, || {
        let events = home.kubectl.get(&["events", "-n", MESHED])?.to_string();
        anyhow::ensure!(events.contains("hostNetwork"), "no such event");
        Ok(())
    })?;
    home.kubectl.run(&["delete", "pod", "-n", MESHED, "host", "--now"]).map(drop)
}

/// What the API server says to a pod with this annotation, or of this spec.
fn refusal(home: &Home, annotation: &str, spec: &str) -> Result<String> {
    let annotated = pod(MESHED, "refused", "", spec)
        .replace("metadata: {", &format!("metadata: {{annotations: {{{annotation}}}, "));
    Ok(home.kubectl.try_apply(&annotated, &["--dry-run=server"])?.bad()?.err)
}

fn an_unknown_annotation_is_refused_by_its_name(home: &Home) -> Result<()> {
    let said = refusal(home, "heddle.dev/opaque-prots: '3306'", &client())?;
    assert!(
        said.contains("heddle.dev/opaque-prots")
            && said.contains("known are")
            && said.contains("opaque-ports"),
        "{said}"
    );
    Ok(())
}

fn a_value_that_is_not_allowed_is_refused_with_what_is(home: &Home) -> Result<()> {
    let said = refusal(home, "heddle.dev/access-log: everything", &client())?;
    assert!(said.contains("everything") && said.contains("errors") && said.contains("all"), "{said}");
    let said = refusal(home, "heddle.dev/mtls-mode: permissive", &client())?;
    assert!(said.contains("mtls-mode") && said.contains("Namespace"), "{said}");
    Ok(())
}

fn a_container_that_would_bypass_the_mesh_is_refused(home: &Home) -> Result<()> {
    let as_proxy = spec("", &container(&["http"], "securityContext: {runAsUser: 1337}"));
    let said = refusal(home, "", &as_proxy)?;
    assert!(said.contains("1337") && said.contains("runAsUser"), "{said}");
    Ok(())
}

fn a_namespace_whose_pod_security_would_refuse_is_named_with_its_label(home: &Home) -> Result<()> {
    let said = home.kubectl.try_apply(&pod(GUARDED, "guarded", "", &client()), &[])?.bad()?.err;
    assert!(said.contains("pod-security.kubernetes.io/enforce: privileged"), "{said}");
    Ok(())
}

fn an_applications_service_account_needs_no_rights(home: &Home) -> Result<()> {
    let account = format!("system:serviceaccount:{MESHED}:default");
    for resource in
        ["pods", "services", "httproutes.gateway.networking.k8s.io", "endpointslices.discovery.k8s.io"]
    {
        let said =
            home.kubectl.try_run(&["auth", "can-i", "list", resource, "-n", MESHED, "--as", &account])?;
        assert_eq!(said.out.trim(), "no", "{resource}");
    }
    Ok(())
}

fn garbage_at_the_webhook_is_refused_and_it_goes_on(home: &Home) -> Result<()> {
    let url = "https://heddle-injector.heddle-system.svc:15017/inject";
    let caller = format!("{PLAIN}/plain");
    for body in ["", "{", "[]", r#"{"kind":"AdmissionReview"}"#, r#"{"request":{"uid":"1","object":7}}"#] {
        let headers = ["-k", "-H", "content-type: application/json", "--data-raw", body, url];
        let reply = home.curl(&caller, &headers)?;
        assert!(reply.status == 400 || reply.body.contains(r#""allowed":false"#), "{body}: {reply:?}");
    }
    every_kind_of_workload_of_a_labelled_namespace_is_meshed(home)?;
    let said = refusal(home, "heddle.dev/access-log: everything", &client())?;
    assert!(said.contains("everything"), "the webhook still judges: {said}");
    Ok(())
}
