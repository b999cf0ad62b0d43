//! scale: what Heddle costs where the cluster is large.
//!
//! Two parts. `plane`: a control plane over a generated cluster, followed by simulated sidecars (real watch clients, all in
//! this process); how soon a change is at the last of them, and what the control plane takes. `proxy`: one sidecar in the
//! lab, before and after thousands of Services that it does not use, and with few and many rules on one that it does.

mod arguments;
mod board;
mod changes;
mod cluster;
mod folder;
mod held;
mod injector;
mod link;
mod manifests;
mod plane;
mod process;
mod proxy;
mod report;
mod sidecar;
mod spread;
mod tokens;
mod watch;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use arguments::{Arguments, Part};
use report::Report;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("scale: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    // Two crates bring a provider of cryptography; the one that all of Heddle uses is meant wherever none is named.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    allow_files();
    let programs = arguments.programs()?;
    let mut report = Report { machine: process::machine(), ..Report::read(&arguments.out) };
    if arguments.includes(Part::Plane) {
        // One thread, so that on two cores the control plane has the other.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let size = arguments.size();
        report.plane = Some(runtime.block_on(unless_told_to_end(plane::measure(&programs, &size)))?);
    }
    if arguments.includes(Part::Proxy) {
        report.proxy = Some(proxy::measure(&programs, &arguments.size())?);
    }
    let text = report.write(&arguments.out).context("cannot write the report")?;
    say(&text);
    Ok(())
}

/// Whoever ends this ends its control plane, too.
async fn unless_told_to_end<T>(measured: impl Future<Output = Result<T>>) -> Result<T> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        measured = measured => measured,
        _ = term.recv() => bail!("told to end"),
        _ = int.recv() => bail!("told to end"),
    }
}

/// Each sidecar has two connections.
fn allow_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Where it cannot be raised, the first connection too many says so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Tells whoever waits what is going on.
#[expect(clippy::print_stderr, reason = "a program for a terminal")]
pub fn say(text: &str) {
    eprintln!("{text}");
}
