//! heddle-injector: the control plane of Heddle.
//!
//! One thread answers all requests from memory. Decisions (`patch`, `status`, `review`, `said`, `limit`,
//! `discovery::query`) are pure and apart from the edges (`serve`, `source`, `cluster`).

mod answer;
mod authority;
mod certificate;
mod cluster;
mod connections;
mod control;
mod count;
mod discovery;
mod flags;
mod index;
mod limit;
mod metrics;
mod object;
mod patch;
mod peer;
mod place;
mod plain;
mod review;
mod said;
mod serve;
mod source;
mod start;
mod status;
mod stay;
mod tokens;
mod turns;
mod webhook;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use tracing_subscriber::{filter::Targets, fmt::layer, layer::SubscriberExt, util::SubscriberInitExt};

use flags::Flags;

fn main() -> ExitCode {
    let flags = Flags::parse();
    harden();
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("heddle-injector: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> Result<()> {
    let filter: Targets = flags.log.parse().with_context(|| format!("--log {:?}", flags.log))?;
    let lines = layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(lines).with(filter).init();
    // Two crates bring a provider; the one that all of Heddle uses is meant wherever none is named.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(start::start(flags))
}

/// The authority's key must not end in a core dump, nor be read by another process of this user; and there must be files
/// enough for every connection.
fn harden() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // None can fail but on kernels that lack the limit, where there is nothing to set.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let _ = nix::sys::prctl::set_dumpable(false);
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
