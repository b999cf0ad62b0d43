use super::*;

const SERVICE: &str = "
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80, targetPort: 8080}, {name: db, port: 81}, {name: dns, port: 82, protocol: UDP}]}
";

fn slice(yaml: &str) -> EndpointSlice {
    let yaml = format!(
        "{{metadata: {{name: s, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}, addressType: IPv4, {yaml}}}"
    );
    serde_norway::from_str(&yaml).unwrap()
}

fn http(endpoints: &str) -> EndpointSlice {
    slice(&format!("ports: [{{name: http, port: 8080}}], endpoints: [{endpoints}]"))
}

#[track_caller]
fn check(slices: &[EndpointSlice], port: u16, expected: &[&str]) {
    let service: Service = serde_norway::from_str(SERVICE).unwrap();
    let found: Vec<_> = endpoints(&service, port, slices.iter()).iter().map(|e| e.addr.to_string()).collect();
    assert_eq!(found, expected);
}

#[test]
fn ports_meet_by_name() {
    let slice = slice(
        "ports: [{name: db, port: 5432}, {name: http, port: 8080}], endpoints: [{addresses: [10.1.0.1]}]",
    );
    check(std::slice::from_ref(&slice), 80, &["10.1.0.1:8080"]);
    check(std::slice::from_ref(&slice), 81, &["10.1.0.1:5432"]);
    check(std::slice::from_ref(&slice), 82, &[]);
    check(&[slice], 8080, &[]);
}

#[test]
fn an_unnamed_port_meets_an_unnamed_port() {
    let service: Service =
        serde_norway::from_str("{metadata: {name: web, namespace: shop}, spec: {ports: [{port: 80}]}}")
            .unwrap();
    for port in ["{port: 8080}", "{name: '', port: 8080}"] {
        let slice = slice(&format!("ports: [{port}], endpoints: [{{addresses: [10.1.0.1]}}]"));
        assert_eq!(endpoints(&service, 80, [slice].iter()).len(), 1);
    }
}

#[test]
fn endpoints_are_ordered_and_each_there_once() {
    let one = http("{addresses: [10.1.0.2]}, {addresses: [10.1.0.1]}");
    let two = http("{addresses: [10.1.0.2], conditions: {ready: false}}");
    check(&[one.clone(), two.clone()], 80, &["10.1.0.1:8080", "10.1.0.2:8080"]);
    check(&[two, one], 80, &["10.1.0.1:8080", "10.1.0.2:8080"]);
}

#[test]
fn only_ready_ones_are_used() {
    check(
        &[http(
            "{addresses: [10.1.0.1], conditions: {ready: false}}, {addresses: [10.1.0.2], conditions: {}}",
        )],
        80,
        &["10.1.0.2:8080"],
    );
}

#[test]
fn terminating_ones_serve_when_nothing_else_does() {
    let terminating = "{addresses: [10.1.0.1], conditions: {ready: false, serving: true, terminating: true}}";
    let gone = "{addresses: [10.1.0.2], conditions: {ready: false, serving: false, terminating: true}}";
    check(&[http(&format!("{terminating}, {gone}"))], 80, &["10.1.0.1:8080"]);
    check(&[http(&format!("{terminating}, {{addresses: [10.1.0.3]}}"))], 80, &["10.1.0.3:8080"]);
}

#[test]
fn addresses_of_the_dialling_host_are_no_endpoints() {
    for ip in [
        "127.0.0.1",
        "127.8.8.8",
        "169.254.169.254",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "255.255.255.255",
        "'::1'",
        "'::'",
        "'fe80::1'",
        "'ff02::1'",
        "'::ffff:127.0.0.1'",
        "'::ffff:169.254.169.254'",
        "example.com",
    ] {
        check(&[http(&format!("{{addresses: [{ip}]}}"))], 80, &[]);
    }
    check(&[http("{addresses: ['fd00::1']}")], 80, &["[fd00::1]:8080"]);
}

#[test]
fn other_services_slices_do_not_count() {
    let mut other = http("{addresses: [10.1.0.1]}");
    other.metadata.namespace = Some("else".to_owned());
    check(&[other], 80, &[]);
    let mut other = http("{addresses: [10.1.0.1]}");
    other.metadata.labels = Some([(SERVICE_LABEL.to_owned(), "db".to_owned())].into());
    check(&[other], 80, &[]);
}

#[test]
fn hints_are_told() {
    let slice =
        http("{addresses: [10.1.0.1], hints: {forZones: [{name: a}, {name: b}], forNodes: [{name: n}]}}");
    let service: Service = serde_norway::from_str(SERVICE).unwrap();
    let found = endpoints(&service, 80, [slice].iter());
    assert_eq!(
        (found[0].for_zones.as_slice(), found[0].for_nodes.as_slice()),
        (&["a", "b"].map(str::to_owned)[..], &["n".to_owned()][..])
    );
}
