//! Goldens: `tests/golden/NAME.yaml` is what users write; beside it `NAME.table` is what proxies route by and
//! `NAME.status` is what the routes' status says. To write them anew: `UPDATE_GOLDEN=1 cargo test -p mesh golden`, then
//! read the difference.

use super::verdicts;
use crate::route::{Action, Filters, Governing, HttpTable, PathModifier, Redirect, ServiceTable, Split};
use crate::testing::World;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

#[test]
fn goldens_hold() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let inputs: Vec<PathBuf> =
        files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
    assert!(!inputs.is_empty());
    for input in inputs {
        let world = World::new(&std::fs::read_to_string(&input).unwrap());
        check(&input.with_extension("table"), &tables(&world));
        check(&input.with_extension("status"), &status(&world));
    }
}

#[track_caller]
fn check(golden: &Path, text: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, text).unwrap();
    }
    let expected = std::fs::read_to_string(golden).unwrap_or_default();
    assert_eq!(text, expected, "{}: run UPDATE_GOLDEN=1 cargo test -p mesh golden", golden.display());
}

/// Every Service as the clients of each namespace see it.
fn tables(world: &World) -> String {
    let services = world.services.keys();
    let routes = world.routes.iter().map(crate::route::Route::name);
    let namespaces: BTreeSet<_> = services.clone().chain(routes).map(|name| &*name.namespace).collect();
    let mut text = String::new();
    for service in services {
        for client in &namespaces {
            writeln!(text, "{service} for clients in {client}").unwrap();
            write_table(&mut text, &world.table(&service.to_string(), client));
        }
    }
    text
}

fn write_table(text: &mut String, table: &ServiceTable) {
    for (number, port) in &table.ports {
        let kind = port.governing.kind().map_or("the Service's own endpoints", |kind| kind.as_str());
        let declared = port.declared.map(|declared| format!(", declared {declared:?}")).unwrap_or_default();
        writeln!(text, "  port {number}{declared}: {kind}").unwrap();
        match &port.governing {
            Governing::Default => {}
            Governing::Http { table: http, .. } => write_http(text, table, http),
            Governing::Tcp { table: tcp } | Governing::Tls { table: tcp } => {
                let split = tcp
                    .split()
                    .map_or_else(|failure| failure.reason().to_owned(), |split| shares(table, split));
                writeln!(text, "    {}: {split}", tcp.route().name).unwrap();
            }
            Governing::Refused { route, message, .. } => writeln!(text, "    {route}: {message}").unwrap(),
        }
    }
}

fn write_http(text: &mut String, table: &ServiceTable, http: &HttpTable) {
    for (matched, rule) in http.matches() {
        let action = match &rule.action {
            Action::Forward(split) => shares(table, split),
            Action::Redirect(to) => redirect(to),
            Action::Fail(failure) => format!("{} {}", failure.status().as_u16(), failure.reason()),
        };
        writeln!(
            text,
            "    {matched} -> {action}{} [{} rule {}]",
            filters(&rule.filters),
            rule.route.name,
            rule.rule
        )
        .unwrap();
    }
    writeln!(text, "    else 404").unwrap();
}

fn shares(table: &ServiceTable, split: &Split) -> String {
    let share = |backend: &crate::route::WeightedBackend| {
        let target = match backend.target {
            Ok(ix) => format!("{}:{}", table.backends[ix].service, table.backends[ix].port),
            Err(failure) => failure.reason().to_owned(),
        };
        format!("{} of {target}{}", backend.weight, filters(&backend.filters))
    };
    split.backends().iter().map(share).collect::<Vec<_>>().join(", ")
}

fn redirect(to: &Redirect) -> String {
    let mut text = format!("{} to", to.status.as_u16());
    let scheme = to.scheme.map(crate::route::Scheme::as_str);
    let parts = [
        ("scheme", scheme.map(str::to_owned)),
        ("host", to.hostname.clone()),
        ("port", to.port.map(|p| p.to_string())),
    ];
    for (name, value) in parts.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        write!(text, " {name} {value}").unwrap();
    }
    text + &to.path.as_ref().map(path).unwrap_or_default()
}

fn path(modifier: &PathModifier) -> String {
    match modifier {
        PathModifier::Full(path) => format!(" path {path}"),
        PathModifier::Prefix(path) => format!(" prefix {path}"),
    }
}

fn filters(filters: &Filters) -> String {
    let mut text = String::new();
    for (side, modifier) in
        [("request", filters.request_headers.as_ref()), ("response", filters.response_headers.as_deref())]
    {
        let Some(modifier) = modifier else { continue };
        for (verb, pairs) in [("set", &modifier.set), ("add", &modifier.add)] {
            for (name, value) in pairs {
                write!(text, ", {side} {verb} {name}: {}", value.to_str().unwrap()).unwrap();
            }
        }
        for name in &modifier.remove {
            write!(text, ", {side} remove {name}").unwrap();
        }
    }
    if let Some(rewrite) = &filters.rewrite {
        let host = rewrite.hostname.as_ref().map(|name| format!(" host {}", name.to_str().unwrap()));
        let path = rewrite.path.as_ref().map(path);
        write!(text, ", rewrite{}{}", host.unwrap_or_default(), path.unwrap_or_default()).unwrap();
    }
    text
}

fn status(world: &World) -> String {
    let mut text = String::new();
    for route in &world.routes {
        writeln!(text, "{} {}", route.kind().as_str(), route.name()).unwrap();
        for verdict in verdicts(route, world) {
            writeln!(text, "  parent {}", verdict.parent.to_json()).unwrap();
            for (kind, condition) in [("Accepted", verdict.accepted), ("ResolvedRefs", verdict.resolved_refs)]
            {
                let status = if condition.status { "True" } else { "False" };
                writeln!(text, "    {kind}={status} {}: {}", condition.reason, condition.message).unwrap();
            }
        }
    }
    text
}
