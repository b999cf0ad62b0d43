//! What the endpoint controller must get right.

use super::*;

fn service(spec: &str) -> Service {
    let yaml = format!("metadata: {{namespace: shop, name: web}}\nspec: {{selector: {{app: web}}, {spec}}}");
    serde_norway::from_str(&yaml).expect("a service")
}

fn pod(name: &str, ip: &str, ready: &str, more: &str) -> Pod {
    let yaml = format!(
        "metadata: {{namespace: shop, name: {name}, labels: {{app: web}}{more}}}\n\
         spec: {{containers: [{{name: a, ports: [{{name: http, containerPort: 8080}}]}}]}}\n\
         status: {{phase: Running, podIPs: [{{ip: {ip}}}, {{ip: 'fd00:1::2'}}], conditions: [{{type: Ready, status: '{ready}'}}]}}"
    );
    serde_norway::from_str(&yaml).expect("a pod")
}

/// Addresses of the first slice, with r(eady), s(erving), t(erminating).
#[track_caller]
fn check(service: &Service, pods: &[Pod], expected: &[(&str, &str)]) {
    let slices = slices(service, pods);
    let found: Vec<(String, String)> = slices[0]["endpoints"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|e| {
            let flags = [("ready", "r"), ("serving", "s"), ("terminating", "t")];
            let flags =
                flags.iter().filter(|(name, _)| e["conditions"][name] == true).map(|(_, c)| *c).collect();
            (e["addresses"][0].as_str().unwrap_or_default().to_owned(), flags)
        })
        .collect();
    let expected: Vec<_> = expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    assert_eq!(found, expected);
}

#[test]
fn only_ready_pods_are_ready_endpoints() {
    let pods = [pod("a", "10.1.0.2", "True", ""), pod("b", "10.1.0.3", "False", "")];
    check(&service("ports: [{port: 80}]"), &pods, &[("10.1.0.2", "rs"), ("10.1.0.3", "")]);
}

#[test]
fn a_pod_that_is_deleted_serves_but_is_not_ready() {
    let pods = [pod("a", "10.1.0.2", "True", ", deletionTimestamp: '2026-01-01T00:00:00Z'")];
    check(&service("ports: [{port: 80}]"), &pods, &[("10.1.0.2", "st")]);
}

#[test]
fn publish_not_ready_addresses_makes_all_ready() {
    let service = service("ports: [{port: 80}], publishNotReadyAddresses: true");
    check(&service, &[pod("a", "10.1.0.2", "False", "")], &[("10.1.0.2", "r")]);
}

#[test]
fn a_named_target_port_is_the_pods_number() {
    let slices =
        slices(&service("ports: [{port: 80, targetPort: http}]"), &[pod("a", "10.1.0.2", "True", "")]);
    assert_eq!(slices[0]["ports"], json!([{"name": "", "port": 8080, "protocol": "TCP"}]));
    assert_eq!(slices.len(), 2, "one per family");
}

#[test]
fn one_family_if_the_service_says_so() {
    let slices =
        slices(&service("ports: [{port: 80}], ipFamilies: [IPv6]"), &[pod("a", "10.1.0.2", "True", "")]);
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0]["endpoints"][0]["addresses"], json!(["fd00:1::2"]));
}

#[test]
fn zones_and_hints_follow_the_pod_and_the_service() {
    let zoned = pod("a", "10.1.0.2", "True", ", annotations: {topology.kubernetes.io/zone: z1}");
    let slices = slices(&service("ports: [{port: 80}], trafficDistribution: PreferClose"), &[zoned]);
    assert_eq!(slices[0]["endpoints"][0]["zone"], "z1");
    assert_eq!(slices[0]["endpoints"][0]["hints"]["forZones"][0]["name"], "z1");
}

#[test]
fn without_a_selector_there_is_nothing_to_do() {
    let service: Service =
        serde_norway::from_str("metadata: {name: a}\nspec: {ports: [{port: 1}]}").expect("yaml");
    assert!(slices(&service, &[]).is_empty());
}
