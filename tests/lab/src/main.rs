//! `lab`: Heddle without a cluster. A world of pods from ordinary Kubernetes manifests, on one machine.
//! `docs/lab.md` says what it does for users, `tests/lab/README.md` how it is made.

mod change;
mod cli;
mod client;
mod container;
mod control;
mod down;
mod endpoints;
mod env;
mod hosts;
mod inject;
mod kubelet;
mod kubeproxy;
mod manifest;
mod mounts;
mod net;
mod paths;
mod process;
mod protocol;
mod query;
mod ready;
mod requests;
mod schema;
mod services;
mod settle;
mod store;
mod supervisor;
mod table;
mod taken;
mod tokens;
mod validate;
mod volumes;
mod world;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use serde_json::Value;

use cli::{Cli, Command, Format};
use manifest::{Key, Kind};
use paths::Place;
use protocol::Request;
use world::Settings;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("lab: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let place = Place::new(&cli.world).map_err(anyhow::Error::msg)?;
    let ask = |request: Request| client::ask(&place, &request);
    let key = |kind: &str, name: &str| Key::from_words(kind, name).map_err(anyhow::Error::msg);
    match cli.command {
        Command::Up { mode, leaf_ttl, otlp_endpoint, timeout, files } => {
            let world = place.world.clone();
            let settings = Settings { world, mode: mode.as_str().to_owned(), leaf_ttl, otlp_endpoint };
            client::up(&place, &settings, timeout, &files)
        }
        Command::Apply { timeout, files } => {
            ask(Request::Apply { sources: client::read(&files)?, timeout }).map(drop)
        }
        Command::Delete { kind, name, timeout } => {
            ask(Request::Delete { key: key(&kind, &name)?, timeout }).map(drop)
        }
        Command::Wait { kind, name, timeout } => {
            let done = ask(Request::Wait { key: key(&kind, &name)?, timeout })?;
            print(&match done["proxies"].as_u64() {
                Some(1) => "1 proxy holds it\n".to_owned(),
                count => format!("{} proxies hold it\n", count.unwrap_or_default()),
            })
        }
        Command::Exec { stdin, pod, container, command } => {
            client::exec(&place, &pod, container, stdin, &command)
        }
        Command::Ps { json } => {
            let ps = ask(Request::Ps)?;
            print(&if json { format!("{ps:#}\n") } else { table::table(&ps) })
        }
        Command::Get { kind, name, output } => {
            let key = name.map(|name| key(&kind, &name)).transpose()?;
            let kind = Kind::find(&kind).map_err(anyhow::Error::msg)?.kind.to_owned();
            print_object(&ask(Request::Get { kind, key })?, output)
        }
        Command::Logs { pod, container, follow, .. } => {
            client::logs(&place, pod.as_deref(), container, follow)
        }
        Command::Restart { pod, timeout } => {
            ask(Request::Restart { pod: client::pod_name(&pod), timeout }).map(drop)
        }
        Command::Kill { pod, container } => {
            ask(Request::Kill { pod: client::pod_name(&pod), container }).map(drop)
        }
        Command::Control { action } => ask(Request::Control { action }).map(drop),
        Command::Down => {
            let was = down::clear(&place)?;
            eprintln!("world {} {}", place.world, if was { "is down" } else { "was not up" });
            Ok(())
        }
        Command::Supervise { settings } => supervisor::supervise(&settings),
        Command::Container { spec } => container::become_container(&container::Spec::read(&spec)?),
        Command::Enter { target, command } => {
            let target = serde_json::from_slice(&std::fs::read(target)?)?;
            container::enter(&target, &command)
        }
    }
}

fn print_object(object: &Value, format: Format) -> Result<()> {
    print(&match format {
        Format::Json => format!("{object:#}\n"),
        Format::Yaml => serde_norway::to_string(object)?,
    })
}

/// Output for users; a reader that has left is no fault.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(why) if why.kind() != std::io::ErrorKind::BrokenPipe => Err(why.into()),
        _ => Ok(()),
    }
}
