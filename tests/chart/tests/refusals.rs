//! Values that are refused before anything is installed, and what is said.

use std::collections::BTreeSet;
use std::fs;

use chart::{helm, parse, root, template};
use serde_json::Value;

#[track_caller]
fn check(set: &str, expected: &str) {
    let said = template(&["--set", set]).expect_err("this is to be refused");
    assert!(said.contains(expected), "{set}: helm does not say {expected:?}:\n{said}");
}

#[test]
fn names_that_do_not_exist() {
    check("mtlsmode=strict", "additional properties 'mtlsmode' not allowed");
    check("image.repository=x", "at '/image': additional properties 'repository' not allowed");
    check("webhook.failurePolicy=Ignore", "at '/webhook': additional properties 'failurePolicy' not allowed");
}

#[test]
fn values_that_cannot_be() {
    check("mtlsMode=Strict", "at '/mtlsMode': value must be one of 'permissive', 'strict'");
    check("replicas=0", "at '/replicas': minimum: got 0, want 1");
    check("identity.leafTtlSeconds=5", "at '/identity/leafTtlSeconds': minimum: got 5, want 10");
    check("identity.trustDomain=Prod", "at '/identity/trustDomain': 'Prod' does not match pattern");
    check("clusterCidrs={10.96.0.0}", "at '/clusterCidrs/0': '10.96.0.0' does not match pattern");
    check("image.registry=https://example.com", "at '/image/registry': 'https://example.com' does not match");
    check("image.pullPolicy=Sometimes", "at '/image/pullPolicy': value must be one of");
    check(
        "tracing.otlpEndpoint=collector:4318",
        "at '/tracing/otlpEndpoint': 'collector:4318' does not match",
    );
    check("tracing.ratio=2", "at '/tracing/ratio': maximum: got 2, want 1");
    check("podMonitor.interval=30", "at '/podMonitor/interval': got number, want string");
}

#[test]
fn labels_that_would_take_pods_out_of_their_service() {
    check(r"podLabels.app\.kubernetes\.io/name=other", "invalid propertyName 'app.kubernetes.io/name'");
}

#[test]
fn another_namespace_than_the_one_where_proxies_look() {
    let said = helm(&["template", "heddle", "charts/heddle", "--namespace", "mesh"]);
    let said = said.expect_err("this is to be refused");
    assert!(said.contains("add -n heddle-system --create-namespace"), "{said}");
}

#[test]
fn every_value_has_its_default_and_its_schema() {
    let read = |name: &str| fs::read_to_string(root().join("charts/heddle").join(name)).expect("it is there");
    let values = parse(&read("values.yaml")).expect("values.yaml is YAML").remove(0);
    let schema: Value = serde_json::from_str(&read("values.schema.json")).expect("the schema is JSON");
    let (mut given, mut known) = (BTreeSet::new(), BTreeSet::new());
    keys(&values, &schema, "", &mut given, &mut known);
    known.remove("/global");
    assert_eq!(given, known, "values.yaml on the left, values.schema.json on the right");
}

/// Collects the paths of `values` and of `schema`, as deep as the schema lists properties by name.
fn keys(
    values: &Value,
    schema: &Value,
    path: &str,
    given: &mut BTreeSet<String>,
    known: &mut BTreeSet<String>,
) {
    let Some(properties) = schema["properties"].as_object() else { return };
    given
        .extend(values.as_object().into_iter().flat_map(|map| map.keys()).map(|key| format!("{path}/{key}")));
    for (key, below) in properties {
        known.insert(format!("{path}/{key}"));
        keys(&values[key], below, &format!("{path}/{key}"), given, known);
    }
}
