use super::*;

use mesh::pod::PodFacts;

use crate::object::Object;
use crate::source::appeared;

const NOW: &str = "2026-01-02T03:04:05Z";

/// An index that holds the objects of `yaml` and remembers `log` changes.
pub fn index(log: usize, yaml: &str) -> Index {
    let cluster = ["10.96.0.0/16", "10.1.0.0/16", "fd00::/8"].map(|range| range.parse().unwrap());
    let index = Index::new(VERSIONS_PER_EPOCH + 1, log, cluster.to_vec());
    put(&index, yaml);
    index
}

/// Adds or changes the objects of `yaml`.
pub fn put(index: &Index, yaml: &str) {
    index.apply(appeared(yaml), NOW);
}

/// Removes the objects of `yaml`.
pub fn remove(index: &Index, yaml: &str) {
    let gone = appeared(yaml).into_iter().map(|(key, _)| (key, None));
    index.apply(gone.collect(), NOW);
}

pub fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{clusterIP: {ip}, clusterIPs: [{ip}], ports: [{{port: 80}}]}}\n---\n"
    )
}

pub fn pod(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: uid-{name}}}\n\
         spec: {{serviceAccountName: web, nodeName: node-1, containers: [{{name: app}}]}}\n\
         status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}\n---\n"
    )
}

pub fn slice(service: &str, ips: &str) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {service}-1, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         endpoints: [{{addresses: [{ips}]}}]\nports: [{{port: 8080}}]\n---\n"
    )
}

fn route(backend: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: split, namespace: shop}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: web}}]\n  \
         rules: [{{backendRefs: [{{name: {backend}, port: 80}}]}}]\n---\n"
    )
}

fn condition(index: &Index, kind: &str) -> Option<(bool, String)> {
    let state = index.read();
    let key = Key::new(Kind::Route(mesh::route::RouteKind::Http), "shop", "split");
    let value = &state.get(key.kind, &key.name)?.value;
    let conditions = value["status"]["parents"][0]["conditions"].as_array()?;
    let found = conditions.iter().find(|condition| condition["type"] == kind)?;
    Some((found["status"] == "True", found["reason"].as_str()?.to_owned()))
}

#[track_caller]
fn check_condition(index: &Index, kind: &str, status: bool, reason: &str) {
    assert_eq!(condition(index, kind), Some((status, reason.to_owned())));
}

#[test]
fn the_same_objects_again_change_nothing() {
    let all = service("web", "10.96.0.5") + &route("web") + &pod("web-0", "10.1.0.3");
    let index = index(100, &all);
    let version = index.read().version();
    put(&index, &all);
    assert_eq!(index.read().version(), version);
}

fn known(index: &Index, kind: Kind, name: &str) -> Arc<Entry> {
    let namespace = if kind.namespaced() { "shop" } else { "" };
    Arc::clone(index.read().get(kind, &ObjectName::new(namespace, name)).unwrap())
}

/// The objects of `yaml`, as a source gives them that counts versions.
fn from_a_cluster(yaml: &str, version: &str) -> Vec<Change> {
    let mut changes = appeared(yaml);
    for object in changes.iter_mut().filter_map(|(_, object)| Arc::get_mut(object.as_mut()?)) {
        version.clone_into(&mut object.version);
    }
    changes
}

#[test]
fn what_is_known_is_left_as_it_is_when_it_comes_again() {
    let all = service("web", "10.96.0.5") + &pod("web-0", "10.1.0.3") + &slice("web", "10.1.0.3");
    let index = index(100, "");
    index.apply(from_a_cluster(&all, "7"), NOW);
    let kinds = [(Kind::Service, "web"), (Kind::Pod, "web-0"), (Kind::EndpointSlice, "web-1")];
    let before = kinds.map(|(kind, name)| known(&index, kind, name));
    index.apply(from_a_cluster(&all, "7"), NOW);
    let after = kinds.map(|(kind, name)| known(&index, kind, name));
    assert!(before.iter().zip(&after).all(|(before, after)| Arc::ptr_eq(before, after)));
}

#[test]
fn another_version_that_says_the_same_is_noted_and_no_change() {
    let index = index(100, "");
    index.apply(from_a_cluster(&service("web", "10.96.0.5"), "7"), NOW);
    let before = known(&index, Kind::Service, "web");
    index.apply(from_a_cluster(&service("web", "10.96.0.5"), "8"), NOW);
    let after = known(&index, Kind::Service, "web");
    assert_eq!((after.object.version.as_str(), after.version), ("8", before.version));
    assert_eq!(after.body(), before.body());
    index.apply(from_a_cluster(&service("web", "10.96.0.6"), "9"), NOW);
    assert!(known(&index, Kind::Service, "web").version > before.version);
}

#[test]
fn what_is_kept_as_text_is_served_as_it_came() {
    let index = index(100, "");
    index.apply(from_a_cluster(&(service("web", "10.96.0.5") + &slice("web", "10.1.0.3")), "7"), NOW);
    for (kind, name) in [(Kind::Service, "web"), (Kind::EndpointSlice, "web-1")] {
        let body = known(&index, kind, name).body();
        let served = Object::decode(Key::new(kind, "shop", name), serde_json::from_slice(&body).unwrap());
        let Ok(Object { text, .. }) = served else { panic!("{kind:?}") };
        let value: serde_json::Value = text.read();
        assert_eq!(
            (value["kind"].as_str(), value["metadata"]["name"].as_str()),
            (Some(kind.as_str()), Some(name))
        );
        assert_eq!(text, known(&index, kind, name).object.text);
    }
}

#[test]
fn an_object_says_its_labels_uid_and_age_whether_it_is_kept_as_json_or_text() {
    let metadata =
        "{name: a, namespace: shop, uid: u-1, labels: {app: b}, creationTimestamp: '2020-01-01T00:00:00Z'}";
    for kind in ["Service", "ConfigMap", "ServiceAccount"] {
        let index = index(100, &format!("apiVersion: v1\nkind: {kind}\nmetadata: {metadata}\n"));
        let entry = known(&index, Kind::of("", kind).unwrap(), "a");
        let labels =
            [("app", "b"), ("app", "x"), ("x", "b")].map(|(name, value)| entry.has_label(name, value));
        assert_eq!((labels, entry.uid()), ([true, false, false], Some("u-1")), "{kind}");
    }
    let index = index(100, &format!("apiVersion: v1\nkind: Service\nmetadata: {metadata}\n"));
    assert_eq!(known(&index, Kind::Service, "a").created().to_string(), "2020-01-01T00:00:00Z");
}

#[test]
fn a_pod_has_the_labels_with_which_it_is_served() {
    let zone = "topology.kubernetes.io/zone";
    let node = format!("apiVersion: v1\nkind: Node\nmetadata: {{name: node-1, labels: {{{zone}: z1}}}}\n");
    let index = index(100, &pod("web-0", "10.1.0.3").replace("uid-web-0}", "uid-web-0, labels: {app: web}}"));
    put(&index, &node);
    let entry = known(&index, Kind::Pod, "web-0");
    let served: serde_json::Value = serde_json::from_slice(&entry.body()).unwrap();
    assert_eq!(served["metadata"]["labels"], serde_json::json!({zone: "z1"}));
    assert!(entry.has_label(zone, "z1") && !entry.has_label("app", "web"));
}

#[test]
fn a_node_or_namespace_that_says_nothing_new_of_its_pods_leaves_them_alone() {
    let node = |zone: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: node-1, labels: {{topology.kubernetes.io/zone: {zone}}}}}\n\
             status: {{addresses: [{{type: InternalIP, address: {address}}}]}}\n"
        )
    };
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {a: b}}\n";
    let index = index(100, &(node("z1", "10.2.0.1") + "---\n" + &pod("web-0", "10.1.0.3")));
    let before = known(&index, Kind::Pod, "web-0");
    put(&index, &node("z1", "10.2.0.2"));
    put(&index, namespace);
    assert!(Arc::ptr_eq(&before, &known(&index, Kind::Pod, "web-0")));
    put(&index, &node("z2", "10.2.0.2"));
    assert!(known(&index, Kind::Pod, "web-0").has_label("topology.kubernetes.io/zone", "z2"));
}

#[test]
fn versions_are_of_the_epoch_and_grow() {
    let index = index(100, &service("web", "10.96.0.5"));
    let first = index.read().version();
    assert_eq!(first, VERSIONS_PER_EPOCH + 2);
    put(&index, &service("web", "10.96.0.6"));
    assert_eq!(index.read().version(), first + 1);
    let state = index.read();
    let entry = state.get(Kind::Service, &ObjectName::new("shop", "web")).unwrap();
    let served: serde_json::Value = serde_json::from_slice(&entry.body()).unwrap();
    assert_eq!(served["metadata"]["resourceVersion"], (first + 1).to_string());
}

#[test]
fn an_address_finds_its_present_owner_only() {
    let index = index(100, &service("web", "10.96.0.5"));
    put(&index, &service("web", "10.96.0.6"));
    let state = index.read();
    let found = |ip: &str| state.linked(&Link::ClusterAddress(ip.parse().unwrap())).count();
    assert_eq!((found("10.96.0.5"), found("10.96.0.6")), (0, 1));
}

#[test]
fn finished_pods_are_not_found_by_address() {
    let index = index(100, &pod("job", "10.1.0.3"));
    put(&index, &pod("job", "10.1.0.3").replace("Running", "Succeeded"));
    let state = index.read();
    assert_eq!(state.linked(&Link::PodAddress("10.1.0.3".parse().unwrap())).count(), 0);
    assert!(state.get(Kind::Pod, &ObjectName::new("shop", "job")).is_some());
}

#[test]
fn a_service_has_the_pods_at_the_addresses_of_its_slices() {
    let index =
        index(100, &(pod("web-0", "10.1.0.3") + &pod("web-1", "10.1.0.4") + &slice("web", "10.1.0.4")));
    let pods = index.read().pods_of(&ObjectName::new("shop", "web"));
    assert_eq!(pods.keys().map(|name| &*name.name).collect::<Vec<_>>(), ["web-1"]);
}

#[test]
fn a_pod_follows_its_namespace() {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, annotations: {heddle.dev/opaque-ports: '3306'}}\n";
    let index = index(100, &pod("web-0", "10.1.0.3"));
    let opaque = |index: &Index| {
        let state = index.read();
        let entry = state.get(Kind::Pod, &ObjectName::new("shop", "web-0")).unwrap();
        PodFacts::from_reduced(&entry.text.read()).unwrap().opaque_ports.contains(3306)
    };
    assert!(!opaque(&index));
    put(&index, namespace);
    assert!(opaque(&index));
    remove(&index, namespace);
    assert!(!opaque(&index));
}

#[test]
fn a_pod_is_served_reduced() {
    let index = index(100, &pod("web-0", "10.1.0.3"));
    let state = index.read();
    let entry = state.get(Kind::Pod, &ObjectName::new("shop", "web-0")).unwrap();
    assert!(!String::from_utf8_lossy(&entry.body()).contains("\"app\""));
}

#[test]
fn a_route_has_its_status_from_the_first_moment() {
    let index = index(100, &(service("web", "10.96.0.5") + &route("web")));
    check_condition(&index, "Accepted", true, "Accepted");
    check_condition(&index, "ResolvedRefs", true, "ResolvedRefs");
}

#[test]
fn status_follows_the_services_that_a_route_names() {
    let index = index(100, &(service("web", "10.96.0.5") + &route("api")));
    check_condition(&index, "ResolvedRefs", false, "BackendNotFound");
    put(&index, &service("api", "10.96.0.6"));
    check_condition(&index, "ResolvedRefs", true, "ResolvedRefs");
    remove(&index, &service("api", "10.96.0.6"));
    check_condition(&index, "ResolvedRefs", false, "BackendNotFound");
}

#[test]
fn a_changed_status_is_a_change_of_the_route() {
    let index = index(100, &(service("web", "10.96.0.5") + &route("api")));
    let before = index.read().version();
    put(&index, &service("api", "10.96.0.6"));
    let state = index.read();
    let changed: Vec<String> =
        state.since(before).unwrap().map(|event| event.after.as_ref().unwrap().key.to_string()).collect();
    assert_eq!(changed, ["Service shop/api", "HTTPRoute shop/split"]);
}

#[test]
fn a_route_that_the_closed_types_cannot_hold_is_refused_and_claims_its_ports() {
    let later = "rules: [{filters: [{type: FromALaterVersion}], backendRefs";
    let text = route("web").replace("rules: [{backendRefs", later);
    let index = index(100, &(service("web", "10.96.0.5") + &text));
    check_condition(&index, "Accepted", false, "UnsupportedValue");
    let state = index.read();
    let name = ObjectName::new("shop", "web");
    let table = mesh::resolve::service_table(state.service(&name).unwrap(), "shop", &*state);
    assert_eq!(table.ports[&80].governing.kind(), Some(mesh::route::RouteKind::Http));
}

#[test]
fn a_route_that_leaves_its_service_loses_the_status_of_it() {
    let index = index(100, &(service("web", "10.96.0.5") + &route("web")));
    put(&index, &route("web").replace("group: '', kind: Service, name: web", "name: gateway"));
    assert_eq!(condition(&index, "Accepted"), None);
}

#[test]
fn planning_twice_plans_nothing() {
    let index = index(100, &(service("web", "10.96.0.5") + &route("web")));
    let state = index.read();
    let key = Key::new(Kind::Route(mesh::route::RouteKind::Http), "shop", "split");
    let entry = state.get(key.kind, &key.name).unwrap();
    let Typed::Route(route) = &entry.object.typed else { panic!() };
    let verdicts = mesh::resolve::verdicts(route, &*state);
    assert_eq!(crate::status::plan(&entry.value, &verdicts, "2030-01-01T00:00:00Z"), None);
}

#[test]
fn other_controllers_status_is_kept() {
    let other = "status: {parents: [{controllerName: example.org/gateway, parentRef: {name: gw}, conditions: []}]}\n---\n";
    let text = route("web").replace("---\n", other);
    let index = index(100, &(service("web", "10.96.0.5") + &text));
    let state = index.read();
    let key = Key::new(Kind::Route(mesh::route::RouteKind::Http), "shop", "split");
    let parents = &state.get(key.kind, &key.name).unwrap().value["status"]["parents"];
    let controllers: Vec<&str> =
        parents.as_array().unwrap().iter().map(|entry| entry["controllerName"].as_str().unwrap()).collect();
    assert_eq!(controllers, ["example.org/gateway", mesh::contract::CONTROLLER_NAME]);
}
