//! What cargo knows of the workspace and of everything that it depends on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use semver::Version;
use serde::Deserialize;

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the root is two folders up")
}

/// Every package that some package of the workspace needs on Linux.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    /// The workspace's and the registry's.
    pub packages: Vec<Package>,
}

/// One package, as its manifest says.
#[derive(Debug, Deserialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// Its SPDX expression.
    pub license: Option<String>,
    /// Where it came from; the workspace's own came from nowhere.
    pub source: Option<String>,
    /// What it asks for directly.
    pub dependencies: Vec<Dependency>,
}

/// A line of a manifest.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    /// The package's name.
    pub name: String,
    /// `None` for what the program itself needs, else `dev` or `build`.
    pub kind: Option<String>,
    /// Where it lies, if it is of this workspace.
    pub path: Option<PathBuf>,
}

impl Metadata {
    /// Asks cargo, which must find the lock file complete and every crate downloaded.
    pub fn read() -> Self {
        let host = host();
        let text =
            cargo(&["metadata", "--format-version=1", "--locked", "--offline", "--filter-platform", &host]);
        serde_json::from_str(&text).expect("cargo metadata writes JSON")
    }

    /// The workspace's own packages.
    pub fn own(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.source.is_none())
    }
}

/// A crate, and a feature of it.
pub type Feature = (String, String);

/// A crate that is really compiled.
pub type Built = (String, Version);

/// All that building and testing the workspace compiles. (`cargo metadata` also lists what an
/// optional feature that nobody turns on would need.)
pub fn built() -> BTreeSet<Built> {
    tree(&["--workspace", "--edges=normal,build,dev"])
}

/// All that building `package` alone compiles into it. (The graph in `cargo metadata` has the
/// features of the whole workspace, which say nothing about one package.)
pub fn needed_by(package: &str) -> BTreeSet<Built> {
    tree(&["--package", package, "--edges=normal"])
}

/// The features with which these packages, built together, have each crate compiled.
pub fn features(packages: &[&str]) -> BTreeSet<Feature> {
    let format = ["tree", "--locked", "--offline", "--prefix=none", "--edges=normal", "--format={p}|{f}"];
    let text = cargo(&[&format, packages].concat());
    let lines = text.lines().filter_map(|line| line.split_once('|'));
    lines
        .flat_map(|(package, features)| {
            let name = package.split_whitespace().next().unwrap_or_default();
            let features = features.split([',', ' ']).filter(|feature| !["", "(*)"].contains(feature));
            features.map(|feature| (name.to_owned(), feature.to_owned()))
        })
        .collect()
}

/// Each line of `cargo tree` is `NAME vVERSION` and what else there is to say.
fn tree(arguments: &[&str]) -> BTreeSet<Built> {
    let text = cargo(&[&["tree", "--locked", "--offline", "--prefix=none"], arguments].concat());
    let built = |line: &str| -> Option<Built> {
        let mut words = line.split_whitespace();
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        Some((name.to_owned(), Version::parse(version).ok()?))
    };
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| built(line).expect("a line is a name and a version")).collect()
}

fn cargo(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "cargo {}: {said}(`cargo fetch` downloads what is missing)",
        arguments.join(" ")
    );
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}

fn host() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}
