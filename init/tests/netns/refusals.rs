//! What heddle-init says when something is missing, and that nothing is left half done.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::world::{World, said};

/// Runs heddle-init behind `wrapper`; it must fail, say all of `expected` and change nothing.
#[track_caller]
fn check(world: &World, wrapper: &str, arguments: &str, expected: &[&str]) {
    let output = world.pod.exec(&format!("{wrapper} {} {arguments}", env!("CARGO_BIN_EXE_heddle-init")));
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in expected {
        assert!(said.contains(part), "{part:?} is missing in: {said}");
    }
    assert_eq!(world.pod.rules("iptables-nft"), "", "rules were left");
}

/// A directory whose tools of these names fail, to go first in PATH; removed at the end.
struct Broken(PathBuf);

impl Broken {
    fn new(name: &str, tools: &[&str]) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        for tool in tools {
            let path = directory.join(tool);
            fs::write(&path, format!("#!/bin/sh\necho '{tool} is broken' >&2\nexit 3\n")).expect("a script");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        }
        Self(directory)
    }

    fn wrapper(&self) -> String {
        format!("env PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", self.0.display())
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[test]
fn a_missing_net_admin_is_named() {
    let expected = ["the capability NET_ADMIN is missing", "securityContext.capabilities.add"];
    check(&World::new(), "setpriv --bounding-set -net_admin", "", &expected);
}

#[test]
fn legacy_without_net_raw_is_named() {
    let expected = ["the capability NET_RAW is missing", "iptables-legacy-restore failed"];
    check(&World::new(), "setpriv --bounding-set -net_raw", "--backend legacy", &expected);
}

#[test]
fn nft_does_without_net_raw() {
    let world = World::new();
    let init = env!("CARGO_BIN_EXE_heddle-init");
    // What an injected pod is given: these two, and no way to become another user.
    let output = world.pod.exec(&format!("setpriv --bounding-set -all,+net_admin {init}"));
    assert!(output.status.success(), "{}", said(&output));
    let output =
        world.pod.exec(&format!("setpriv --bounding-set -all,+net_admin,+net_raw {init} --backend legacy"));
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_network_namespace_of_another_user_namespace_is_explained() {
    let expected =
        ["hostUsers", "neither back end", "iptables-nft-save failed", "iptables-legacy-restore failed"];
    check(&World::new(), "unshare --user --map-root-user", "", &expected);
}

#[test]
fn ipv4_is_put_back_when_ipv6_fails() {
    let broken = Broken::new("half", &["ip6tables-nft-restore"]);
    let expected = ["cannot redirect with the nft back end", "ip6tables-nft-restore is broken"];
    check(&World::new(), &broken.wrapper(), "--backend nft", &expected);
}

#[test]
fn what_others_had_is_put_back_too() {
    let world = World::new();
    world.pod.exec("iptables-nft -t nat -A OUTPUT -p tcp -d 192.0.2.99 -j ACCEPT");
    let broken = Broken::new("others", &["ip6tables-nft-restore"]);
    let output = world.pod.exec(&format!("{} {}", broken.wrapper(), env!("CARGO_BIN_EXE_heddle-init")));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(world.pod.rules("iptables-nft"), "-A OUTPUT -d 192.0.2.99/32 -p tcp -j ACCEPT");
}

#[test]
fn legacy_is_used_where_nft_does_not_work() {
    let world = World::new();
    let broken = Broken::new("nft", &["iptables-nft-restore"]);
    let output = world.pod.exec(&format!("{} {}", broken.wrapper(), env!("CARGO_BIN_EXE_heddle-init")));
    let said = said(&output);
    assert!(output.status.success() && said.contains("with iptables-legacy"), "{said}");
}

#[test]
fn both_errors_are_named_where_neither_works() {
    let broken = Broken::new("both", &["iptables-nft-restore", "iptables-legacy-restore"]);
    let expected = ["iptables-nft-restore is broken", "iptables-legacy-restore is broken"];
    check(&World::new(), &broken.wrapper(), "", &expected);
}

#[test]
fn rules_that_do_not_work_are_noticed() {
    let world = World::new();
    world.pod.exec("iptables-nft -t nat -A OUTPUT -p tcp -j ACCEPT");
    let output = world.pod.init("");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("did not reach") && said.contains("another program"), "{said}");
}
