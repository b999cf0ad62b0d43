//! The rooms of the workspace keep apart: `mesh` is pure, and programs know `mesh` but not each other.

use std::path::Path;

/// What would make `mesh` impure: runtimes, sockets, TLS, a Kubernetes client.
const IMPURE: [&str; 9] =
    ["tokio", "hyper", "hyper-util", "h2", "rustls", "tokio-rustls", "socket2", "nix", "kube"];
const PROGRAMS: [&str; 3] = ["proxy", "injector", "init"];

/// The names in the tables of dependencies of a package of the workspace.
fn dependencies(package: &str) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package lies in the workspace");
    let manifest =
        std::fs::read_to_string(root.join(package).join("Cargo.toml")).expect("a package has a manifest");
    let tables = manifest.split("\n[").filter(|table| table.contains("dependencies]"));
    let lines = tables.flat_map(|table| table.lines().skip(1)).filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split(['.', ' ', '=']).next().map(str::to_owned)).collect()
}

#[test]
fn mesh_is_pure() {
    let found = dependencies("mesh");
    assert!(found.contains(&"http".to_owned()), "{found:?}");
    assert!(!found.iter().any(|name| IMPURE.contains(&name.as_str())), "{found:?}");
}

#[test]
fn programs_do_not_know_each_other() {
    for package in PROGRAMS {
        let found = dependencies(package);
        let known =
            |program: &str| found.iter().any(|name| name == program || name == &format!("heddle-{program}"));
        assert!(!PROGRAMS.into_iter().any(known), "{package}: {found:?}");
    }
}
