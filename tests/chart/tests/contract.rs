//! What the chart shares with the programs, with its users, and with the security rules.

use std::fs;

use chart::{NAMESPACE, objects, parse, root};
use mesh::contract::{
    CONTROL_HEALTH_PORT, CONTROL_METRICS_PORT, CONTROL_PORT, INJECT_LABEL, METRICS_PORT, SYSTEM_NAMESPACE,
    WEBHOOK_PORT,
};
use serde_json::{Value, json};

/// Everything that can be rendered at once.
const ALL: [&str; 6] = [
    "--api-versions",
    "monitoring.coreos.com/v1/PodMonitor",
    "--set",
    "podMonitor.enabled=true,networkPolicy.controlPlane=true,networkPolicy.namespaces={shop}",
    "--set",
    "clusterCidrs={10.96.0.0/12},tracing.otlpEndpoint=http://collector:4318",
];

/// The one object of this kind and name.
#[track_caller]
fn one(kind: &str, name: &str) -> Value {
    let objects = objects(&ALL).expect("the chart renders");
    let mut found =
        objects.into_iter().filter(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let one = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
    assert!(found.next().is_none(), "more than one {kind} {name}");
    one
}

fn container() -> Value {
    one("Deployment", "heddle-injector")["spec"]["template"]["spec"]["containers"][0].clone()
}

/// Of each entry of a list.
fn every(list: &Value, field: &str) -> Vec<Value> {
    list.as_array().into_iter().flatten().map(|entry| entry[field].clone()).collect()
}

#[test]
fn the_version_is_the_workspaces() {
    let text = fs::read_to_string(root().join("charts/heddle/Chart.yaml")).expect("it is there");
    let chart = parse(&text).expect("it is YAML").remove(0);
    let own = json!(env!("CARGO_PKG_VERSION"));
    assert_eq!([&chart["version"], &chart["appVersion"]], [&own, &own]);
}

#[test]
fn the_ports_are_the_contracts() {
    let ports = every(&container()["ports"], "containerPort");
    assert_eq!(json!(ports), json!([CONTROL_PORT, WEBHOOK_PORT, CONTROL_METRICS_PORT, CONTROL_HEALTH_PORT]));
    let service = one("Service", "heddle-injector");
    let ports = every(&service["spec"]["ports"], "port");
    assert_eq!(json!(ports), json!([CONTROL_PORT, WEBHOOK_PORT, CONTROL_METRICS_PORT]));
}

#[test]
fn proxies_find_it_where_they_look() {
    assert_eq!(NAMESPACE, SYSTEM_NAMESPACE);
    assert_eq!(one("Service", "heddle-injector")["metadata"]["namespace"], SYSTEM_NAMESPACE);
}

#[test]
fn every_argument_is_a_flag_of_the_program() {
    let source = fs::read_to_string(root().join("injector/src/flags.rs")).expect("it is there");
    let known = |field: &str| source.contains(&format!("pub {field}:"));
    for argument in container()["args"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let name = argument.trim_start_matches("--").split('=').next().unwrap_or_default();
        let field = name.replace('-', "_");
        // These come together.
        let awaited = ["kubernetes", "create_ca", "issuer_secret"].contains(&field.as_str());
        assert!(known(&field) || (awaited && !known("kubernetes")), "heddle-injector has no flag --{name}");
    }
}

#[test]
fn the_control_plane_is_fit_for_restricted_pod_security() {
    let pod = one("Deployment", "heddle-injector")["spec"]["template"]["spec"].clone();
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"], json!({"type": "RuntimeDefault"}));
    let expected = json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true,
    });
    assert_eq!(every(&pod["containers"], "securityContext"), [expected]);
    for field in ["hostNetwork", "hostPID", "hostIPC", "volumes", "initContainers"] {
        assert!(pod[field].is_null(), "{field}");
    }
}

#[test]
fn labelled_pods_wait_for_the_webhook_and_others_never_see_it() {
    let webhooks = one("MutatingWebhookConfiguration", "heddle-injector")["webhooks"].clone();
    for (field, expected) in [
        ("failurePolicy", json!("Fail")),
        ("timeoutSeconds", json!(5)),
        ("reinvocationPolicy", json!("IfNeeded")),
        ("sideEffects", json!("NoneOnDryRun")),
    ] {
        assert_eq!(every(&webhooks, field), [expected.clone(), expected], "{field}");
    }
    let own = json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", NAMESPACE]});
    let label = |operator, value| json!({"key": INJECT_LABEL, "operator": operator, "values": [value]});
    let namespaces = every(&webhooks, "namespaceSelector");
    assert_eq!(namespaces[0]["matchExpressions"], json!([label("In", "enabled"), own]));
    assert_eq!(namespaces[1]["matchExpressions"], json!([label("NotIn", "enabled"), own]));
    let pods = every(&webhooks, "objectSelector");
    assert_eq!(pods[0]["matchExpressions"], json!([label("NotIn", "disabled")]));
    assert_eq!(pods[1]["matchExpressions"], json!([label("In", "enabled")]));
}

#[test]
fn while_its_pods_are_replaced_somebody_answers_the_webhook() {
    let strategy = one("Deployment", "heddle-injector")["spec"]["strategy"].clone();
    assert_eq!(strategy["rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 0}));
    assert!(container()["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64() >= Some(5), "{strategy}");
}

#[test]
fn certificates_are_the_control_planes_own_affair() {
    let objects = objects(&ALL).expect("the chart renders");
    let text = json!(objects).to_string();
    assert!(!text.contains("caBundle") && !text.contains("BEGIN CERTIFICATE"), "{text}");
}

#[test]
fn only_these_kinds_are_made() {
    const KINDS: [&str; 11] = [
        "ClusterRole",
        "ClusterRoleBinding",
        "Deployment",
        "MutatingWebhookConfiguration",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PodMonitor",
        "Role",
        "RoleBinding",
        "Service",
        "ServiceAccount",
    ];
    let mut kinds: Vec<_> = objects(&ALL).expect("the chart renders").iter().map(kind).collect();
    kinds.sort();
    kinds.dedup();
    assert_eq!(kinds, KINDS);
}

fn kind(object: &Value) -> String {
    object["kind"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn pod_monitors_are_left_out_where_nobody_knows_them() {
    let objects = objects(&["--set", "podMonitor.enabled=true"]).expect("the chart renders");
    assert!(!objects.iter().any(|object| kind(object) == "PodMonitor"));
}

#[test]
fn denied_by_default_pods_reach_the_control_plane_and_are_scraped() {
    let policy = one("NetworkPolicy", "heddle-proxy");
    assert_eq!(policy["metadata"]["namespace"], "shop");
    assert_eq!(policy["spec"]["egress"][0]["ports"], json!([{"port": CONTROL_PORT, "protocol": "TCP"}]));
    assert_eq!(policy["spec"]["ingress"][0]["ports"], json!([{"port": METRICS_PORT, "protocol": "TCP"}]));
}
