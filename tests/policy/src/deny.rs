//! `deny.toml`, as far as the tests hold it: one list for cargo-deny and for us.

use semver::{Version, VersionReq};
use serde::Deserialize;

use crate::workspace;

/// The file's tables.
#[derive(Debug, Deserialize)]
pub struct Deny {
    /// Licences.
    pub licenses: Licenses,
    /// Crates that may not be used.
    pub bans: Bans,
    /// Where crates may come from.
    pub sources: Sources,
}

/// What a crate's licence may be.
#[derive(Debug, Deserialize)]
pub struct Licenses {
    /// SPDX identifiers, with their exception if they have one.
    pub allow: Vec<String>,
}

/// What may not be used.
#[derive(Debug, Deserialize)]
pub struct Bans {
    /// One entry per reason.
    pub deny: Vec<Ban>,
}

/// A crate, or some of its versions, that may not be used.
#[derive(Debug, Deserialize)]
pub struct Ban {
    /// `name` or `name:versions`.
    #[serde(rename = "crate")]
    pub spec: String,
    /// Why.
    pub reason: String,
}

/// Where crates may come from.
#[derive(Debug, Deserialize)]
pub struct Sources {
    /// Addresses of registries.
    #[serde(rename = "allow-registry")]
    pub allow_registry: Vec<String>,
}

impl Deny {
    /// Reads the repository's file.
    pub fn read() -> Self {
        let text =
            std::fs::read_to_string(workspace::root().join("deny.toml")).expect("deny.toml is in the root");
        toml::from_str(&text).expect("deny.toml is as cargo-deny wants it")
    }
}

impl Ban {
    /// Whether it bans this version of `name`.
    pub fn covers(&self, name: &str, version: &Version) -> bool {
        let (banned, versions) = self.spec.split_once(':').unwrap_or((&self.spec, "*"));
        let versions = VersionReq::parse(versions).expect("a version requirement follows the colon");
        // `*` alone leaves out pre-releases, a ban without versions does not.
        banned == name && (versions == VersionReq::STAR || versions.matches(version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(spec: &str, name: &str, version: &str, covered: bool) {
        let ban = Ban { spec: spec.to_owned(), reason: String::new() };
        assert_eq!(ban.covers(name, &Version::parse(version).expect("a version")), covered);
    }

    #[test]
    fn a_floor_bans_what_is_older() {
        check("h2:<0.4.18", "h2", "0.4.17", true);
        check("h2:<0.4.18", "h2", "0.4.18", false);
        check("h2:<0.4.18", "h3", "0.1.0", false);
    }

    #[test]
    fn a_development_release_is_banned_and_its_release_is_not() {
        let spec = "rustls:>=0.24.0-dev.0, <0.24.0";
        check(spec, "rustls", "0.24.0-dev.3", true);
        check(spec, "rustls", "0.24.0", false);
        check(spec, "rustls", "0.23.46", false);
    }

    #[test]
    fn a_name_alone_bans_every_version() {
        check("ring", "ring", "0.17.14", true);
        check("ring", "ring", "0.18.0-alpha.1", true);
    }
}
