//! heddle-init: sets up the iptables redirection in a pod's network namespace, proves it, and
//! leaves. It runs before every other container of the pod; when it fails, the pod does not
//! start, because a pod that is redirected by half talks in plaintext by half.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

mod advice;
mod apply;
mod options;
mod probe;
mod rules;
mod tool;

use advice::Capabilities;
use apply::ApplyError;
use options::Options;
use probe::Proof;
use rules::{Family, Redirection};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(error.as_ref());
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let redirection = options.redirection();
    if options.dry_run {
        return Ok(dry_run(&redirection)?);
    }
    let capabilities = Capabilities::of_this_process();
    capabilities.require()?;
    let families = families();
    let backend = apply::apply(&redirection, &families, options.backend)
        .inspect_err(|error| advise(error, capabilities))?;
    eprintln!("heddle-init: redirected {} with iptables-{backend}", list(&families));
    if !options.no_verify {
        for &family in &families {
            tell(family, &probe::verify(&redirection, family, backend)?);
        }
    }
    Ok(())
}

fn tell(family: Family, proof: &Proof) {
    match proof {
        Proof::Connected { destination } => {
            eprintln!(
                "heddle-init: {family} checked: a connection to {destination} reaches the proxy's port"
            );
        }
        Proof::RulesOnly { because } => {
            eprintln!("heddle-init: {family} rules are in place, but not tried: {because}");
        }
    }
}

/// IPv6 is left out only where the kernel has none: elsewhere it would be a way around the mesh.
fn families() -> Vec<Family> {
    let ipv6 = socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    match ipv6 {
        Err(nix::errno::Errno::EAFNOSUPPORT) => vec![Family::V4],
        _ => vec![Family::V4, Family::V6],
    }
}

fn dry_run(redirection: &Redirection) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for (family, tool) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
        writeln!(out, "# {family}: {tool}-restore --noflush")?;
        write!(out, "{}", redirection.restore_text(family, ""))?;
    }
    Ok(())
}

fn advise(error: &ApplyError, capabilities: Capabilities) {
    for line in advice::advice(&error.refusals(), capabilities) {
        eprintln!("heddle-init: {line}");
    }
}

fn report(error: &dyn Error) {
    let mut line = format!("heddle-init: error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    eprintln!("{line}");
}

fn list(families: &[Family]) -> String {
    families.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}
