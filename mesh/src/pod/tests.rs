use super::*;

const POD: &str = "
metadata:
  name: web-1
  namespace: shop
  uid: u-1
  resourceVersion: '7'
  annotations: {heddle.dev/meshed: 'true', example.com/secret: x}
  labels: {app: web, topology.kubernetes.io/zone: lie}
spec:
  serviceAccountName: web
  nodeName: n1
  initContainers:
  - {name: heddle-proxy, restartPolicy: Always, env: [{name: HEDDLE_OPAQUE_PORTS, value: '6379'}]}
  containers: [{name: app, env: [{name: PASSWORD, value: secret}]}]
status:
  phase: Running
  podIPs: [{ip: 10.1.0.1}, {ip: 'fd00::1'}]
  conditions: [{type: Ready, status: 'True', message: m}, {type: PodScheduled, status: 'True'}]
";

fn pod(change: impl FnOnce(&mut Pod)) -> Pod {
    let mut pod = serde_norway::from_str(POD).unwrap();
    change(&mut pod);
    pod
}

fn facts(pod: &Pod) -> PodFacts {
    PodFacts::from_reduced(&reduce(pod, None, None)).unwrap()
}

#[test]
fn a_reduced_pod_tells_its_facts() {
    let facts = facts(&pod(|_| {}));
    assert_eq!(
        (facts.name.to_string(), facts.uid.as_str(), facts.service_account.as_str()),
        ("shop/web-1".into(), "u-1", "web")
    );
    assert_eq!((facts.ips.len(), facts.node.as_deref()), (2, Some("n1")));
    assert!(facts.meshed && facts.ready && !facts.terminating && !facts.finished && !facts.host_network);
    assert!(facts.opaque_ports.contains(6379) && facts.skip_inbound_ports.is_empty());
}

#[test]
fn a_reduced_pod_tells_nothing_else() {
    let text = serde_json::to_string(&reduce(&pod(|_| {}), None, None)).unwrap();
    for secret in ["secret", "PASSWORD", "example.com", "\"app\"", "message", "PodScheduled"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[test]
fn only_the_container_says_that_a_pod_is_meshed() {
    let without = pod(|pod| pod.spec.as_mut().unwrap().init_containers = None);
    assert!(!facts(&without).meshed);
    let not_a_sidecar =
        pod(|pod| pod.spec.as_mut().unwrap().init_containers.as_mut().unwrap()[0].restart_policy = None);
    assert!(!facts(&not_a_sidecar).meshed);
    let on_the_node = pod(|pod| pod.spec.as_mut().unwrap().host_network = Some(true));
    assert!(!facts(&on_the_node).meshed && facts(&on_the_node).host_network);
}

/// The ports that are opaque, and those that are not captured, of a pod whose annotations have changed since it was made.
#[track_caller]
fn check_ports(pod: &Pod, opaque: &str, skipped: &str) {
    let yaml = "metadata: {name: shop, annotations: {heddle.dev/opaque-ports: '1', heddle.dev/skip-inbound-ports: '22'}}";
    let namespace: Namespace = serde_norway::from_str(yaml).unwrap();
    let facts = PodFacts::from_reduced(&reduce(pod, Some(&namespace), None)).unwrap();
    let ports = (facts.opaque_ports.to_string(), facts.skip_inbound_ports.to_string());
    assert_eq!(ports, (opaque.into(), skipped.into()));
}

#[test]
fn a_meshed_pods_ports_are_those_that_its_proxy_was_told() {
    check_ports(&pod(|_| {}), "6379", "");
}

#[test]
fn of_a_pod_without_a_proxy_the_annotations_tell_what_is_opaque() {
    check_ports(&pod(|pod| pod.spec.as_mut().unwrap().init_containers = None), "1", "");
}

#[test]
fn the_zone_is_the_nodes() {
    let node: Node =
        serde_norway::from_str("metadata: {name: n1, labels: {topology.kubernetes.io/zone: z}}").unwrap();
    let facts = PodFacts::from_reduced(&reduce(&pod(|_| {}), None, Some(&node))).unwrap();
    assert_eq!(facts.zone.as_deref(), Some("z"));
}

#[test]
fn ended_and_ending_pods_are_told() {
    let ended = pod(|pod| pod.status.as_mut().unwrap().phase = Some("Succeeded".to_owned()));
    assert!(facts(&ended).finished);
    let yaml = POD.replace("  uid: u-1", "  uid: u-1\n  deletionTimestamp: '2026-01-01T00:00:00Z'");
    assert!(facts(&serde_norway::from_str(&yaml).unwrap()).terminating);
}

#[test]
fn an_identity_is_the_service_accounts() {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let identity = facts(&pod(|_| {})).identity(&domain).unwrap();
    assert_eq!(identity.as_str(), "spiffe://cluster.local/ns/shop/sa/web");
    let anonymous = pod(|pod| pod.spec.as_mut().unwrap().service_account_name = None);
    assert_eq!(facts(&anonymous).service_account, "default");
}

#[test]
fn a_pod_without_a_name_is_none() {
    assert_eq!(PodFacts::from_reduced(&ReducedPod::default()), None);
}
