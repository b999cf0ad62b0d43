//! What the control plane may do: word for word the list of the security rules, and nothing else.

use std::collections::BTreeSet;

use chart::{NAMESPACE, objects};
use serde_json::Value;

/// Cluster-wide: group, resources, verbs.
const CLUSTER: [(&str, &str, &str); 17] = [
    ("authentication.k8s.io", "tokenreviews", "create"),
    ("", "namespaces nodes pods services", "get list watch"),
    ("discovery.k8s.io", "endpointslices", "get list watch"),
    ("networking.k8s.io", "servicecidrs", "get list watch"),
    ("apiextensions.k8s.io", "customresourcedefinitions", "get list watch"),
    ("gateway.networking.k8s.io", "grpcroutes httproutes tcproutes tlsroutes udproutes", "get list watch"),
    ("gateway.networking.k8s.io", "backendtlspolicies", "get list watch"),
    ("gateway.networking.x-k8s.io", "xbackendtrafficpolicies", "get list watch"),
    (
        "gateway.networking.k8s.io",
        "grpcroutes/status httproutes/status tcproutes/status tlsroutes/status udproutes/status",
        "patch update",
    ),
    ("gateway.networking.k8s.io", "backendtlspolicies/status", "patch update"),
    ("gateway.networking.x-k8s.io", "xbackendtrafficpolicies/status", "patch update"),
    ("gateway.networking.x-k8s.io", "xmeshes", "create get list watch"),
    ("gateway.networking.x-k8s.io", "xmeshes/status", "patch update"),
    // Creation knows no name.
    ("", "configmaps", "create"),
    ("", "configmaps:heddle-root", "get list watch patch update"),
    ("", "events", "create patch update"),
    ("events.k8s.io", "events", "create patch update"),
];

/// On one object of the cluster.
const WEBHOOK: (&str, &str, &str) = (
    "admissionregistration.k8s.io",
    "mutatingwebhookconfigurations:heddle-injector",
    "get list watch patch update",
);

/// In its own namespace.
const LEASE: [(&str, &str, &str); 2] = [
    ("coordination.k8s.io", "leases", "create"),
    ("coordination.k8s.io", "leases:heddle-injector", "get patch update"),
];

/// Of an authority that it makes itself.
const OWN_SECRET: [(&str, &str, &str); 2] = [("", "secrets", "create"), ("", "secrets:heddle-ca", "get")];

/// Of an authority that somebody else writes.
const THEIR_SECRET: [(&str, &str, &str); 1] = [("", "secrets:corp-issuer", "get")];

/// Each right by itself: `group/resource[:name] verb`.
type Rights = BTreeSet<String>;

#[track_caller]
fn check(kind: &str, arguments: &[&str], expected: &[(&str, &str, &str)]) {
    let objects = objects(arguments).expect("the chart renders");
    let roles = objects.iter().filter(|object| object["kind"] == kind);
    let given: Rights = roles.flat_map(|role| list(&role["rules"])).flat_map(rights).collect();
    let expected: Rights = expected.iter().flat_map(|line| spelt_out(*line)).collect();
    let (more, less): (Vec<_>, Vec<_>) =
        (given.difference(&expected).collect(), expected.difference(&given).collect());
    assert!(more.is_empty() && less.is_empty(), "{kind} gives too much: {more:?}, too little: {less:?}");
}

fn spelt_out((group, resources, verbs): (&str, &str, &str)) -> Vec<String> {
    let each = |resource: &str| -> Vec<String> {
        verbs.split(' ').map(|verb| format!("{group}/{resource} {verb}")).collect()
    };
    resources.split(' ').flat_map(each).collect()
}

fn rights(rule: &Value) -> Vec<String> {
    let names: Vec<String> = list(&rule["resourceNames"]).map(|name| format!(":{}", word(name))).collect();
    let names = if names.is_empty() { vec![String::new()] } else { names };
    let mut rights = Vec::new();
    for group in list(&rule["apiGroups"]) {
        for resource in list(&rule["resources"]) {
            for name in &names {
                let verbs = list(&rule["verbs"]);
                rights.extend(
                    verbs.map(|verb| format!("{}/{}{name} {}", word(group), word(resource), word(verb))),
                );
            }
        }
    }
    rights
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn in_the_cluster() {
    check("ClusterRole", &[], &[CLUSTER.as_slice(), &[WEBHOOK]].concat());
}

#[test]
fn in_its_own_namespace() {
    check("Role", &[], &[LEASE.as_slice(), &OWN_SECRET].concat());
}

#[test]
fn an_authority_that_somebody_else_writes_is_only_read() {
    let issuer = ["--set", "identity.issuerSecret=corp-issuer"];
    check("Role", &issuer, &[LEASE.as_slice(), &THEIR_SECRET].concat());
}

#[test]
fn no_wildcard_and_no_listing_of_secrets() {
    for object in objects(&[]).expect("the chart renders") {
        for right in list(&object["rules"]).flat_map(rights) {
            assert!(!right.contains('*'), "{right}");
            assert!(!(right.contains("/secrets") && right.ends_with(" list")), "{right}");
        }
    }
}

#[test]
fn one_account_holds_them_and_nobody_else() {
    let objects = objects(&[]).expect("the chart renders");
    let bindings = objects.iter().filter(|object| word(&object["kind"]).ends_with("RoleBinding"));
    let subjects: Vec<&Value> = bindings.flat_map(|binding| list(&binding["subjects"])).collect();
    let own =
        serde_json::json!({"kind": "ServiceAccount", "name": "heddle-injector", "namespace": NAMESPACE});
    assert_eq!(subjects, [&own, &own]);
}
