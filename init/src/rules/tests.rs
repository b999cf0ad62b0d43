//! What must hold of the rules whatever the options are. The texts themselves are goldens, in
//! `tests/goldens`.

use super::*;

fn plain() -> Redirection {
    Redirection {
        outbound_port: 15001,
        inbound_port: 15006,
        proxy_uid: 1337,
        skip_inbound_ports: ports(""),
        skip_outbound_ports: ports(""),
        skip_outbound_cidrs: Vec::new(),
    }
}

fn ports(text: &str) -> PortSet {
    PortSet::parse(text).expect("ports")
}

/// `present` as `iptables-save` prints it, and which jumps must be added to it.
#[track_caller]
fn check(present: &str, added: &[&str]) {
    let text = plain().restore_text(Family::V4, present);
    let jumps: Vec<_> = text.lines().filter(|line| line.contains("-j HEDDLE_")).collect();
    assert_eq!(jumps, added, "{text}");
}

#[test]
fn a_fresh_pod_gets_both_jumps() {
    check("", &[INBOUND_JUMP, OUTBOUND_JUMP]);
}

#[test]
fn a_jump_that_is_there_is_not_doubled() {
    check(&format!("*nat\n:OUTPUT ACCEPT [0:0]\n{OUTBOUND_JUMP}\nCOMMIT\n"), &[INBOUND_JUMP]);
    check(&format!("*nat\n{INBOUND_JUMP}\n{OUTBOUND_JUMP}\nCOMMIT\n"), &[]);
}

#[test]
fn a_jump_of_another_table_does_not_count() {
    let present = format!("*filter\n{OUTBOUND_JUMP}\nCOMMIT\n*nat\n{INBOUND_JUMP}\nCOMMIT\n");
    check(&present, &[OUTBOUND_JUMP]);
}

#[test]
fn applying_what_is_applied_changes_no_rule() {
    let mut rules = plain();
    rules.skip_outbound_ports = ports("25,5000-5100");
    let first = rules.restore_text(Family::V6, "");
    let second = rules.restore_text(Family::V6, &first);
    let of_chains = |text: &str| -> Vec<String> {
        nat_rules(text).filter(|rule| rule.starts_with("-A HEDDLE_")).map(str::to_owned).collect()
    };
    assert_eq!(of_chains(&first), of_chains(&second));
    assert_eq!(nat_rules(&second).count() + 2, nat_rules(&first).count());
}

#[test]
fn the_proxys_own_packets_leave_before_any_other_rule() {
    for family in [Family::V4, Family::V6] {
        let text = plain().restore_text(family, "");
        let first = nat_rules(&text).find(|rule| rule.starts_with("-A HEDDLE_OUTBOUND"));
        let expected = "-A HEDDLE_OUTBOUND -m owner --uid-owner 1337 --gid-owner 1337 -j RETURN";
        assert_eq!(first, Some(expected));
    }
}

#[test]
fn every_chain_ends_in_its_redirection() {
    let mut rules = plain();
    rules.skip_inbound_ports = ports("22");
    rules.skip_outbound_cidrs = vec!["10.0.0.0/8".parse().expect("a network")];
    let text = rules.restore_text(Family::V4, "");
    let last = |chain: &str| nat_rules(&text).filter(|rule| rule.starts_with(chain)).last();
    assert_eq!(last("-A HEDDLE_INBOUND"), Some("-A HEDDLE_INBOUND -p tcp -j REDIRECT --to-ports 15006"));
    assert_eq!(last("-A HEDDLE_OUTBOUND"), Some("-A HEDDLE_OUTBOUND -p tcp -j REDIRECT --to-ports 15001"));
}

#[test]
fn only_tcp_is_redirected() {
    for family in [Family::V4, Family::V6] {
        let text = plain().restore_text(family, "");
        let mut redirects = nat_rules(&text).filter(|rule| rule.contains("REDIRECT"));
        assert!(redirects.all(|rule| rule.contains(" -p tcp ")));
        let mut jumps = nat_rules(&text).filter(|rule| rule.contains("-j HEDDLE_"));
        assert!(jumps.all(|rule| rule.contains(" -p tcp ")));
    }
}

#[test]
fn a_reserved_port_that_nobody_listens_on_is_no_way_past_the_proxy() {
    for family in [Family::V4, Family::V6] {
        assert!(!plain().restore_text(family, "").contains("15008"));
    }
}

#[test]
fn a_network_is_skipped_in_its_own_family_only() {
    let mut rules = plain();
    rules.skip_outbound_cidrs =
        ["10.9.8.7/16", "fd00:9::1/64"].map(|cidr| cidr.parse().expect("a network")).to_vec();
    let (v4, v6) = (rules.restore_text(Family::V4, ""), rules.restore_text(Family::V6, ""));
    assert!(v4.contains("-d 10.9.0.0/16 -j RETURN") && !v4.contains("fd00:9::"), "{v4}");
    assert!(v6.contains("-d fd00:9::/64 -j RETURN") && !v6.contains("10.9."), "{v6}");
}

#[test]
fn undoing_restores_what_was_there() {
    let before = "# Generated\n*filter\n-A INPUT -j DROP\nCOMMIT\n*nat\n:OUTPUT ACCEPT [7:420]\n-A OUTPUT -d 1.2.3.4/32 -j ACCEPT\nCOMMIT\n# Completed\n";
    assert_eq!(
        undo_text(before),
        "*nat\n:OUTPUT ACCEPT [7:420]\n-A OUTPUT -d 1.2.3.4/32 -j ACCEPT\nCOMMIT\n"
    );
}

#[test]
fn undoing_in_a_fresh_pod_leaves_an_empty_table() {
    assert_eq!(undo_text(""), "*nat\nCOMMIT\n");
}
