//! One golden per case.

use super::*;

fn services() -> Vec<Service> {
    let yaml = "
- metadata: {namespace: shop, name: web}
  spec: {clusterIPs: [10.96.0.5, 'fd00:96::5'], ports: [{port: 80}]}
- metadata: {namespace: shop, name: dns}
  spec: {clusterIPs: [10.96.0.6], ports: [{name: dns, port: 53, protocol: UDP}]}
- metadata: {namespace: shop, name: headless}
  spec: {clusterIPs: [None], ports: [{port: 80}]}
";
    serde_norway::from_str(yaml).expect("services")
}

fn slice(address_type: &str, addresses: &[(&str, &str)]) -> EndpointSlice {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|(ip, conditions)| format!("{{addresses: ['{ip}'], conditions: {{{conditions}}}}}"))
        .collect();
    let yaml = format!(
        "{{metadata: {{namespace: shop, name: s, labels: {{kubernetes.io/service-name: web}}}}, addressType: {address_type}, \
         ports: [{{name: '', port: 8080, protocol: TCP}}], endpoints: [{}]}}",
        endpoints.join(", ")
    );
    serde_norway::from_str(&yaml).expect("a slice")
}

#[track_caller]
fn check(family: Family, slices: &[EndpointSlice], expected: &str) {
    let node = match family {
        Family::V4 => IpAddr::from([10, 0, 0, 1]),
        Family::V6 => "fd00::1".parse().expect("an address"),
    };
    assert_eq!(rules(family, &services(), slices, node), expected);
}

#[test]
fn connections_are_spread_evenly_over_ready_endpoints() {
    let slice = slice("IPv4", &[("10.1.0.2", "ready: true"), ("10.1.0.3", ""), ("10.1.0.4", "ready: false")]);
    check(
        Family::V4,
        &[slice],
        r#"*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -d 10.96.0.5 -p tcp -m tcp --dport 80 -m comment --comment "shop/web" -m statistic --mode random --probability 0.5000000000 -j DNAT --to-destination 10.1.0.2:8080
-A PREROUTING -d 10.96.0.5 -p tcp -m tcp --dport 80 -m comment --comment "shop/web" -j DNAT --to-destination 10.1.0.3:8080
-A POSTROUTING -s 10.1.0.2 -d 10.1.0.2 -j SNAT --to-source 10.0.0.1
-A POSTROUTING -s 10.1.0.3 -d 10.1.0.3 -j SNAT --to-source 10.0.0.1
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -d 10.96.0.6 -p udp -m udp --dport 53 -m comment --comment "shop/dns" -j REJECT --reject-with icmp-port-unreachable
-A FORWARD -o void -j REJECT --reject-with icmp-host-unreachable
COMMIT
"#,
    );
}

#[test]
fn a_service_without_endpoints_refuses() {
    check(
        Family::V6,
        &[],
        r#"*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
COMMIT
*filter
:FORWARD ACCEPT [0:0]
-A FORWARD -d fd00:96::5 -p tcp -m tcp --dport 80 -m comment --comment "shop/web" -j REJECT --reject-with icmp6-port-unreachable
-A FORWARD -o void -j REJECT --reject-with icmp6-addr-unreachable
COMMIT
"#,
    );
}

#[test]
fn endpoints_that_end_serve_when_nothing_else_does() {
    let ending = slice("IPv4", &[("10.1.0.2", "ready: false, serving: true, terminating: true")]);
    let text = rules(Family::V4, &services(), &[ending], IpAddr::from([10, 0, 0, 1]));
    assert!(text.contains("-j DNAT --to-destination 10.1.0.2:8080"), "{text}");
}
