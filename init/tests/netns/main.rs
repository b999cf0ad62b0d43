//! heddle-init in real network namespaces: what the kernel does with its rules, and what it says
//! when it cannot have its way. Needs root, iptables and iproute2.

mod refusals;
mod world;

use std::net::UdpSocket;

use world::{Namespace, PEER_V4, PEER_V6, POD_V4, POD_V6, World, original};

/// Redirects a fresh pod with one back end, twice: the second time must change nothing.
#[track_caller]
fn check_idempotent(backend: &str) {
    let world = World::new();
    let arguments =
        format!("--backend {backend} --skip-outbound-ports 25,5000-5100 --skip-outbound-cidrs 10.9.0.0/16");
    let said = world.pod.redirect(&arguments);
    assert!(said.contains("IPv4 checked") && said.contains("IPv6 checked"), "{said}");
    let tools = [format!("iptables-{backend}"), format!("ip6tables-{backend}")];
    let first = tools.each_ref().map(|tool| world.pod.rules(tool));
    assert!(first.iter().all(|rules| rules.contains("-j REDIRECT --to-ports 15001")), "{first:?}");
    world.pod.redirect(&arguments);
    assert_eq!(first, tools.each_ref().map(|tool| world.pod.rules(tool)));
}

#[test]
fn applying_twice_with_nft_changes_nothing() {
    check_idempotent("nft");
}

#[test]
fn applying_twice_with_legacy_changes_nothing() {
    check_idempotent("legacy");
}

#[test]
fn other_options_replace_the_rules_and_leave_those_of_others() {
    let world = World::new();
    world.pod.exec("iptables-nft -t nat -A OUTPUT -p tcp -d 192.0.2.99 -j ACCEPT");
    world.pod.redirect("--skip-outbound-ports 25");
    world.pod.redirect("--skip-outbound-ports 26");
    let rules = world.pod.rules("iptables-nft");
    assert!(rules.contains("--dport 26 ") && !rules.contains("--dport 25 "), "{rules}");
    assert!(rules.contains("-d 192.0.2.99/32"), "{rules}");
}

#[test]
fn the_back_end_that_has_rules_is_used() {
    let world = World::new();
    world.pod.exec("ip6tables-legacy -A INPUT -p udp --dport 9 -j DROP");
    let said = world.pod.redirect("");
    assert!(said.contains("with iptables-legacy"), "{said}");
    assert_eq!(world.pod.rules("iptables-nft"), "");
}

#[test]
fn what_the_pod_sends_arrives_at_the_outbound_port() {
    let world = World::new();
    world.pod.redirect("--skip-outbound-ports 3306 --skip-outbound-cidrs 10.77.0.0/28");
    let (v4, v6) = (world.pod.listen("127.0.0.1:15001"), world.pod.listen("[::1]:15001"));
    for (proxy, destination) in [(&v4, "192.0.2.9:80"), (&v6, "[2001:db8::9]:80")] {
        world.pod.dial(destination).expect("redirected");
        assert_eq!(original(proxy), destination);
    }
    let _server = world.peer.listen("[::]:3306");
    world.pod.dial(&format!("{PEER_V4}:3306")).expect("a skipped port");
    world.pod.dial(&format!("[{PEER_V6}]:3306")).expect("a skipped port");
    let _web = world.peer.listen(&format!("{PEER_V4}:80"));
    world.pod.dial(&format!("{PEER_V4}:80")).expect("a skipped network");
    assert!(v4.accept().is_err() && v6.accept().is_err(), "what is skipped was redirected");
}

#[test]
fn only_the_proxys_user_with_its_group_is_left_alone() {
    let world = World::new();
    world.pod.redirect("");
    let proxy = world.pod.listen("127.0.0.1:15001");
    let server = world.peer.listen("0.0.0.0:80");
    let destination = format!("{PEER_V4}:80");
    world.pod.dial_as(1337, 1337, &destination).expect("the proxy reaches the peer");
    server.accept().expect("the peer was reached");
    for (uid, gid) in [(0, 0), (1337, 0), (0, 1337), (1000, 1000)] {
        world.pod.dial_as(uid, gid, &destination).expect("redirected");
        assert_eq!(original(&proxy), destination);
    }
    assert!(server.accept().is_err(), "another user went past the proxy");
}

#[test]
fn what_the_pod_receives_arrives_at_the_inbound_port() {
    let world = World::new();
    world.pod.redirect("--skip-inbound-ports 22");
    let v4 = world.pod.listen("0.0.0.0:15006");
    let destination = format!("{POD_V4}:8080");
    world.peer.dial(&destination).expect("redirected");
    assert_eq!(original(&v4), destination);
    let straight_to_the_proxy = format!("{POD_V4}:15001");
    world.peer.dial(&straight_to_the_proxy).expect("redirected");
    assert_eq!(original(&v4), straight_to_the_proxy);
    for port in [15020, 15021, 22] {
        let direct = world.pod.listen(&format!("0.0.0.0:{port}"));
        world.peer.dial(&format!("{POD_V4}:{port}")).expect("direct");
        direct.accept().expect("not redirected");
    }
}

#[test]
fn ipv6_that_the_pod_receives_arrives_at_the_inbound_port() {
    let world = World::new();
    world.pod.redirect("");
    let proxy = world.pod.listen("[::]:15006");
    let destination = format!("[{POD_V6}]:8080");
    world.peer.dial(&destination).expect("redirected");
    assert_eq!(original(&proxy), destination);
}

#[test]
fn a_pod_that_calls_itself_needs_no_proxy() {
    let world = World::new();
    world.pod.redirect("");
    for address in ["127.0.0.1", "127.9.9.9", POD_V4, "[::1]", &format!("[{POD_V6}]")] {
        let server = world.pod.listen(&format!("{address}:8080"));
        world.pod.dial(&format!("{address}:8080")).expect("reaches itself");
        server.accept().expect("not redirected");
    }
}

#[test]
fn udp_and_dns_over_tcp_are_not_captured() {
    let world = World::new();
    world.pod.redirect("");
    let server = world.peer.inside(|| UdpSocket::bind((PEER_V4, 5353)).expect("a free port"));
    let client = world.pod.inside(|| UdpSocket::bind((POD_V4, 0)).expect("a free port"));
    client.send_to(b"question", (PEER_V4, 5353)).expect("sent");
    let mut buffer = [0; 16];
    assert_eq!(server.recv(&mut buffer).expect("received"), 8);
    let dns = world.peer.listen(&format!("{PEER_V4}:53"));
    world.pod.dial(&format!("{PEER_V4}:53")).expect("direct");
    dns.accept().expect("not redirected");
}

#[test]
fn what_a_pod_forwards_is_not_its_own() {
    let world = World::new();
    world.pod.redirect("");
    world.pod.exec("sysctl -q -w net.ipv4.ip_forward=1");
    let inner = Namespace::new("inner");
    world.pod.ip(&format!("link add inner0 type veth peer name eth0 netns {}", inner.name));
    world.pod.ip("address add 10.78.0.1/24 dev inner0");
    world.pod.ip("link set inner0 up");
    inner.ip("address add 10.78.0.2/24 dev eth0");
    inner.ip("link set eth0 up");
    inner.ip("route add default via 10.78.0.1");
    world.peer.ip(&format!("route add 10.78.0.0/24 via {POD_V4}"));
    let server = world.peer.listen(&format!("{PEER_V4}:80"));
    inner.dial(&format!("{PEER_V4}:80")).expect("forwarded");
    server.accept().expect("not redirected");
}

#[test]
fn a_pod_without_a_route_is_redirected_untried() {
    let alone = Namespace::new("alone");
    let said = alone.redirect("");
    assert!(said.contains("IPv4 rules are in place, but not tried: the pod has no route"), "{said}");
    assert!(said.contains("IPv6 rules are in place, but not tried: the pod has no route"), "{said}");
}

#[test]
fn a_pod_without_a_default_route_tries_a_neighbour() {
    let world = World::new();
    world.pod.ip("route del default");
    world.pod.ip("-6 route del default");
    let said = world.pod.redirect("");
    assert!(said.contains("IPv4 checked: a connection to 10.77.0."), "{said}");
    assert!(said.contains("IPv6 checked: a connection to [fd77::"), "{said}");
}

#[test]
fn a_proxy_that_runs_already_is_no_error() {
    let world = World::new();
    let _proxy = world.pod.listen("0.0.0.0:15001");
    let said = world.pod.redirect("");
    assert!(said.contains("port 15001 is taken"), "{said}");
}

#[test]
fn ipv6_that_is_switched_off_is_redirected_all_the_same() {
    let world = World::new();
    world.pod.exec("sysctl -q -w net.ipv6.conf.all.disable_ipv6=1");
    world.pod.exec("sysctl -q -w net.ipv6.conf.default.disable_ipv6=1");
    let said = world.pod.redirect("");
    assert!(said.contains("IPv4 checked") && said.contains("IPv6 rules are in place"), "{said}");
    assert!(world.pod.rules("ip6tables-nft").contains("REDIRECT"));
}

#[test]
fn a_dry_run_changes_nothing() {
    let world = World::new();
    let said = world.pod.redirect("--dry-run");
    assert!(said.contains("-A HEDDLE_OUTBOUND"), "{said}");
    assert_eq!(world.pod.rules("iptables-nft"), "");
}
