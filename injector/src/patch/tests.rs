use super::*;

use std::fs;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use serde::Deserialize;

const NONCE: Nonce = Nonce(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);

pub(super) fn config() -> Config {
    Config {
        proxy_image: "heddle-proxy:test".to_owned(),
        init_image: "heddle-init:test".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        mtls_mode: MtlsMode::Permissive,
        cluster_cidrs: vec!["10.0.0.0/8".to_owned(), "fd00::/8".to_owned()],
        otlp_endpoint: None,
        trace_ratio: None,
    }
}

fn pod(value: &Value) -> Pod {
    Pod::deserialize(value).unwrap()
}

/// The pod as it then runs.
fn patched(value: &Value, operations: &[Value]) -> Value {
    let mut value = value.clone();
    let patch: json_patch::Patch = serde_json::from_value(json!(operations)).unwrap();
    json_patch::patch(&mut value, &patch).unwrap();
    value
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Compares what becomes of `NAME.in.yaml` with `NAME.out.yaml`; UPDATE_GOLDEN=1 writes it anew.
#[track_caller]
fn check(name: &str) {
    let text = fs::read_to_string(golden().join(format!("{name}.in.yaml"))).unwrap();
    let documents =
        serde_norway::Deserializer::from_str(&text).map(|document| Value::deserialize(document).unwrap());
    let documents: Vec<Value> = documents.collect();
    let of_kind = |kind: &str| documents.iter().find(|document| document["kind"] == kind);
    let namespace = of_kind("Namespace").map(|value| Namespace::deserialize(value).unwrap());
    let value = of_kind("Pod").unwrap();
    let outcome = match decide(&pod(value), "shop", namespace.as_ref(), &config(), NONCE) {
        Decision::Patch { operations, .. } => patched(value, &operations),
        Decision::Leave => json!("left"),
        Decision::Skip(reason) => json!({"skipped": reason}),
        Decision::Deny(reason) => json!({"denied": reason}),
    };
    let found = serde_norway::to_string(&outcome).unwrap();
    let path = golden().join(format!("{name}.out.yaml"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &found).unwrap();
    }
    assert_eq!(found, fs::read_to_string(path).unwrap());
}

#[test]
fn a_pod_gets_two_containers_and_two_volumes() {
    check("plain");
}

#[test]
fn annotations_become_arguments_environment_and_resources() {
    check("settings");
}

#[test]
fn probes_and_hooks_are_led_through_the_proxy() {
    check("probes");
}

#[test]
fn a_hooks_path_cannot_be_guessed() {
    let get = json!({"httpGet": {"port": 80}});
    let hooks = json!({"preStop": get, "postStart": get});
    let value = minimal(&json!({"containers": [{"name": "web", "lifecycle": hooks}]}));
    let after = |nonce| match decide(&pod(&value), "shop", None, &config(), nonce) {
        Decision::Patch { operations, .. } => patched(&value, &operations),
        Decision::Leave | Decision::Skip(_) | Decision::Deny(_) => panic!("it is not patched"),
    };
    let (one, other) = (after(NONCE), after(Nonce(7)));
    for hook in ["preStop", "postStart"] {
        let path = |pod: &Value| {
            let hook = &pod["spec"]["containers"][0]["lifecycle"][hook];
            hook["httpGet"]["path"].as_str().unwrap().to_owned()
        };
        assert_eq!(path(&one), format!("/app-probe/web/{hook}/0123456789abcdef0123456789abcdef"));
        assert_eq!(path(&other), format!("/app-probe/web/{hook}/00000000000000000000000000000007"));
        let key = path(&one).replace("/app-probe/", "");
        assert!(one["spec"]["initContainers"].to_string().contains(&key));
    }
}

#[test]
fn the_pods_label_wins() {
    check("disabled");
}

#[test]
fn the_nodes_network_is_left_alone() {
    check("host-network");
}

#[test]
fn the_proxys_user_is_refused() {
    check("user-1337");
}

#[test]
fn wrong_annotations_are_refused_all_at_once() {
    check("bad-annotations");
}

fn minimal(spec: &Value) -> Value {
    json!({"metadata": {"name": "web", "labels": {"heddle.dev/inject": "enabled"}}, "spec": spec})
}

#[track_caller]
fn check_denied(spec: &Value, reason: &str) {
    match decide(&pod(&minimal(spec)), "shop", None, &config(), NONCE) {
        Decision::Deny(found) => assert_eq!(found, reason),
        Decision::Patch { .. } | Decision::Leave | Decision::Skip(_) => panic!("it is not denied"),
    }
}

#[test]
fn what_would_weaken_or_break_the_pod_is_refused() {
    check_denied(
        &json!({"containers": [{"name": "app", "securityContext": {"runAsUser": 1337}}]}),
        "container app runs as user 1337, whose traffic bypasses the mesh: choose another runAsUser",
    );
    check_denied(
        &json!({"containers": [{"name": "heddle-proxy"}]}),
        "the container name heddle-proxy is reserved: give the container another one",
    );
    for port in [15000, 15001, 15006, 15008, 15020, 15021] {
        check_denied(
            &json!({"containers": [{"name": "app", "ports": [{"containerPort": port}]}]}),
            &format!("container app declares port {port}, which belongs to the proxy: choose another port"),
        );
    }
    check_denied(
        &json!({"containers": [{"name": "app"}], "volumes": [{"name": "heddle-token"}]}),
        "the volume name heddle-token is reserved: give the volume another one",
    );
    check_denied(
        &json!({"containers": [{"name": "app", "livenessProbe": {"httpGet": {"port": "http"}}}]}),
        "container app: its livenessProbe names port \"http\", which is no port of the container",
    );
}

#[test]
fn a_container_may_choose_another_user_than_its_pods() {
    let spec = json!({
        "securityContext": {"runAsUser": 1337},
        "containers": [{"name": "app", "securityContext": {"runAsUser": 1000}}],
    });
    assert!(matches!(decide(&pod(&minimal(&spec)), "shop", None, &config(), NONCE), Decision::Patch { .. }));
}

#[test]
fn the_clusters_own_namespaces_are_left_alone() {
    let value = minimal(&json!({"containers": [{"name": "app"}]}));
    for namespace in EXCLUDED {
        assert!(matches!(decide(&pod(&value), namespace, None, &config(), NONCE), Decision::Skip(_)));
    }
}

fn probe() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        Just(None),
        (1u16..15000).prop_map(|port| Some(json!({"httpGet": {"port": port, "path": "/x"}}))),
        (1u16..15000).prop_map(|port| Some(json!({"tcpSocket": {"port": port}, "timeoutSeconds": 2}))),
        (1u16..15000).prop_map(|port| Some(json!({"grpc": {"port": port}}))),
        Just(Some(json!({"exec": {"command": ["true"]}}))),
    ]
}

fn container(name: String) -> impl Strategy<Value = Value> {
    (probe(), probe(), any::<bool>()).prop_map(move |(liveness, readiness, hook)| {
        let mut container = json!({"name": name, "env": [{"name": "A", "value": "1"}]});
        for (name, probe) in [("livenessProbe", liveness), ("readinessProbe", readiness)] {
            if let Some(probe) = probe {
                container[name] = probe;
            }
        }
        if hook {
            container["lifecycle"] = json!({"preStop": {"httpGet": {"port": 80}}});
        }
        container
    })
}

fn any_pod() -> impl Strategy<Value = Value> {
    let containers = (1usize..4)
        .prop_flat_map(|count| (0..count).map(|index| container(format!("app-{index}"))).collect::<Vec<_>>());
    (containers, vec(any::<bool>(), 0..3), any::<bool>(), any::<bool>()).prop_map(|(containers, sidecars, volumes, annotated)| {
        let mut pod = minimal(&json!({"containers": containers}));
        let init = sidecars.iter().enumerate().map(|(index, sidecar)| match sidecar {
            true => json!({"name": format!("side-{index}"), "restartPolicy": "Always", "livenessProbe": {"tcpSocket": {"port": 1}}}),
            false => json!({"name": format!("init-{index}")}),
        });
        let init: Vec<Value> = init.collect();
        if !init.is_empty() {
            pod["spec"]["initContainers"] = json!(init);
        }
        if volumes {
            pod["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
        }
        if annotated {
            pod["metadata"]["annotations"] = json!({"example.org/note": "kept"});
        }
        pod
    })
}

/// `value` without what the patch may change in a container.
fn without_probes(value: &Value) -> Value {
    let mut value = value.clone();
    for field in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
        value.as_object_mut().unwrap().remove(field);
    }
    value
}

proptest! {
    #[test]
    fn injecting_twice_is_injecting_once(value in any_pod()) {
        let Decision::Patch { operations, .. } = decide(&pod(&value), "shop", None, &config(), NONCE) else { panic!() };
        let after = patched(&value, &operations);
        let again = decide(&pod(&after), "shop", None, &config(), NONCE);
        prop_assert_eq!(again, Decision::Leave);
    }

    #[test]
    fn the_applications_containers_stay_as_they_are_and_come_after(value in any_pod()) {
        let Decision::Patch { operations, .. } = decide(&pod(&value), "shop", None, &config(), NONCE) else { panic!() };
        let after = patched(&value, &operations);
        let list = |value: &Value, field: &str| value["spec"][field].as_array().cloned().unwrap_or_default();
        let init = list(&after, "initContainers");
        prop_assert_eq!([&init[0]["name"], &init[1]["name"]], ["heddle-init", "heddle-proxy"]);
        let kept: Vec<Value> = init[2..].iter().chain(&list(&after, "containers")).map(without_probes).collect();
        let before: Vec<Value> = list(&value, "initContainers").iter().chain(&list(&value, "containers")).map(without_probes).collect();
        prop_assert_eq!(kept, before);
    }

    #[test]
    fn no_probe_reaches_the_application_past_the_proxy(value in any_pod()) {
        let Decision::Patch { operations, .. } = decide(&pod(&value), "shop", None, &config(), NONCE) else { panic!() };
        let after = pod(&patched(&value, &operations));
        for container in containers(&after) {
            for probe in [&container.liveness_probe, &container.readiness_probe].into_iter().flatten() {
                prop_assert!(probe.tcp_socket.is_none() && probe.grpc.is_none());
                let port = probe.http_get.as_ref().map(|get| get.port.clone());
                prop_assert!(port.is_none_or(|port| port == k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(15021)));
            }
        }
    }
}
