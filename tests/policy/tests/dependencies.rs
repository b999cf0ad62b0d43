//! What comes in from outside: its licences, its versions, its origin, its number.

use policy::deny::Deny;
use policy::licence::is_accepted;
use policy::workspace::{Metadata, Package, built, features};

/// Lists what breaks a rule, so that one run shows everything.
#[track_caller]
fn check(rule: &str, offenders: &[String]) {
    assert!(offenders.is_empty(), "{rule}:\n  {}", offenders.join("\n  "));
}

#[test]
fn every_licence_is_accepted() {
    let (metadata, deny) = (Metadata::read(), Deny::read());
    let refused = |package: &&Package| {
        let licence = package.license.as_deref().unwrap_or_default();
        !is_accepted(licence, &deny.licenses.allow)
    };
    let name = |package: &Package| format!("{} {}: {:?}", package.name, package.version, package.license);
    let offenders: Vec<_> = metadata.packages.iter().filter(refused).map(name).collect();
    check("not satisfied by the licences that deny.toml allows", &offenders);
}

#[test]
fn no_banned_crate_or_version_is_used() {
    let deny = Deny::read();
    let mut offenders = Vec::new();
    for (name, version) in built() {
        let bans = deny.bans.deny.iter().filter(|ban| ban.covers(&name, &version));
        offenders.extend(bans.map(|ban| format!("{name} {version}: {}", ban.reason)));
    }
    check("banned in deny.toml", &offenders);
}

#[test]
fn every_crate_comes_from_an_allowed_registry() {
    let (metadata, deny) = (Metadata::read(), Deny::read());
    let allowed: Vec<_> =
        deny.sources.allow_registry.iter().map(|address| format!("registry+{address}")).collect();
    let stranger =
        |package: &&Package| package.source.as_ref().is_some_and(|source| !allowed.contains(source));
    let name = |package: &Package| format!("{} {}: {:?}", package.name, package.version, package.source);
    let offenders: Vec<_> = metadata.packages.iter().filter(stranger).map(name).collect();
    check("not from a registry that deny.toml allows", &offenders);
}

#[test]
fn no_package_has_more_dependencies_than_it_had() {
    // Crates of others that each program or library asks for directly. Whoever raises a number
    // says in the commit why the crate is worth its weight.
    const MOST: [(&str, usize); 11] = [
        ("mesh", 8),
        ("init", 4),
        ("proxy", 33),
        ("injector", 30),
        ("lab", 22),
        ("echo", 8),
        ("e2e", 4),
        ("cluster", 3),
        ("chart", 3),
        ("policy", 4),
        // What a client, a server and a sidecar that is none are made of.
        ("bench", 22),
    ];
    let metadata = Metadata::read();
    let most = |name: &str| MOST.iter().find(|(package, _)| *package == name).map_or(0, |(_, most)| *most);
    let foreign = |package: &Package| {
        package.dependencies.iter().filter(|line| line.kind.is_none() && line.path.is_none()).count()
    };
    let counted = metadata.own().map(|package| (package.name.as_str(), foreign(package)));
    let excess = counted.filter(|(name, count)| *count > most(name));
    let offenders: Vec<_> = excess.map(|(name, count)| format!("{name}: {count} > {}", most(name))).collect();
    check("more direct dependencies than allowed here", &offenders);
}

#[test]
fn what_only_tests_use_changes_little_of_what_ships() {
    // The workspace is built as a whole, so that the tests run what ships: a feature that a test's crate asks for is on for
    // everybody. Whoever adds one has looked at what it does in a proxy.
    const HARMLESS: [(&str, &str); 11] = [
        ("bitflags", "std"),
        ("hyper-util", "server-graceful"),
        ("nix", "hostname"),
        ("nix", "mount"),
        ("nix", "sched"),
        ("nix", "signal"),
        ("nix", "term"),
        ("nix", "time"),
        ("nix", "uio"),
        ("tokio", "io-std"),
        // Looks after each wait for children that nobody waits for, of which there are none: two locks that nobody else takes.
        ("tokio", "process"),
    ];
    let alone = features(&["--package=proxy", "--package=init", "--package=injector"]);
    let ships: Vec<_> = alone.iter().map(|(name, _)| name).collect();
    let added = features(&["--workspace"]).into_iter().filter(|feature| !alone.contains(feature));
    let known = |name: &str, feature: &str| HARMLESS.contains(&(name, feature));
    let offenders = added.filter(|(name, feature)| ships.contains(&name) && !known(name, feature));
    let offenders: Vec<_> = offenders.map(|(name, feature)| format!("{name}: {feature}")).collect();
    check("turned on in what ships by a crate for tests", &offenders);
}
