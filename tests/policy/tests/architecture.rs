//! The shape of the repository: who depends on whom, and how long things may get.

use policy::files::committed;
use policy::workspace::{Metadata, needed_by, root};

/// The longest a source file may be before it holds more than one thought.
const LONGEST_SOURCE: usize = 600;

/// The longest that a newcomer reads at one sitting.
const LONGEST_ARCHITECTURE: usize = 250;

#[track_caller]
fn check(rule: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

#[test]
fn packages_depend_on_mesh_and_never_on_each_other() {
    let metadata = Metadata::read();
    let mut offenders = Vec::new();
    for package in metadata.own() {
        // The tests in a cluster and those without one are run and judged alike.
        let shared = |name: &str| name == "mesh" || (name == "e2e" && package.name == "cluster");
        let own = package.dependencies.iter().filter(|line| line.path.is_some() && !shared(&line.name));
        offenders.extend(own.map(|line| format!("{} depends on {}", package.name, line.name)));
    }
    check("only mesh is shared", &offenders);
}

#[test]
fn every_program_speaks_of_the_mesh_in_its_words() {
    let metadata = Metadata::read();
    let programs =
        metadata.own().filter(|package| ["init", "proxy", "injector"].contains(&package.name.as_str()));
    let without = programs.filter(|package| !package.dependencies.iter().any(|line| line.name == "mesh"));
    let offenders: Vec<_> = without.map(|package| package.name.clone()).collect();
    check("the contract is written once, in mesh", &offenders);
}

#[test]
fn mesh_needs_no_runtime_no_wire_and_no_client() {
    const IMPURE: [&str; 10] = [
        "tokio",
        "mio",
        "socket2",
        "hyper",
        "hyper-util",
        "h2",
        "rustls",
        "tokio-rustls",
        "aws-lc-rs",
        "kube-client",
    ];
    let needed: Vec<String> = needed_by("mesh").into_iter().map(|(name, _)| name).collect();
    assert!(needed.iter().any(|name| name == "gateway-api"), "cargo tree no longer says what mesh needs");
    let offenders: Vec<_> = needed.into_iter().filter(|name| IMPURE.contains(&name.as_str())).collect();
    check("mesh is pure", &offenders);
}

#[test]
fn no_source_file_is_too_long() {
    let sources = committed().into_iter().filter(|file| file.path.ends_with(".rs"));
    let counted = sources.map(|file| (file.text.lines().count(), file.path));
    let long = counted.filter(|(lines, _)| *lines > LONGEST_SOURCE);
    let offenders: Vec<_> = long.map(|(lines, path)| format!("{path}: {lines} lines")).collect();
    check("longer than 600 lines", &offenders);
}

#[test]
fn the_architecture_is_described_in_one_sitting() {
    let path = root().join("docs/ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).expect("docs/ARCHITECTURE.md is there");
    let lines = text.lines().count();
    assert!(lines < LONGEST_ARCHITECTURE, "docs/ARCHITECTURE.md has {lines} lines");
}

#[test]
fn nothing_speaks_of_the_machine_it_was_written_on() {
    // Written in halves, or this file would break its own rule.
    const WORDS: [(&str, &str); 6] = [
        ("/wo", "rk/"),
        ("/ro", "ot/"),
        (".lib", "rary/"),
        ("../sha", "red/"),
        ("SPE", "C.md"),
        ("issues", " show"),
    ];
    let words = WORDS.map(|(head, tail)| format!("{head}{tail}"));
    let mut offenders = Vec::new();
    for file in committed() {
        for (number, line) in file.text.lines().enumerate() {
            let found = words.iter().filter(|word| line.contains(word.as_str()));
            offenders.extend(found.map(|word| format!("{}:{}: {word}", file.path, number + 1)));
        }
    }
    check("a path or word of somebody's own machine", &offenders);
}
