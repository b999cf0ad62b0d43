//! The files of the stage: manifests, Envoy's configuration and certificates, the floor's program. They lie beside the
//! programs, where the sidecars' user can read them, and stay there to be looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use mesh::contract::PROXY_UID;

use crate::certificates;
use crate::options::Plan;
use crate::program::run;
use crate::subject::{Side, Subject};

const SERVER: &str = include_str!("../../stage/server.yaml");
const CLIENT: &str = include_str!("../../stage/client.yaml");
const SIDECAR: &str = include_str!("../../stage/sidecar.yaml");
const OUTBOUND: &str = include_str!("../../envoy/outbound.yaml");
const INBOUND: &str = include_str!("../../envoy/inbound.yaml");
const FLOOR: &str = include_str!("../../floor/floor.c");

/// For a C compiler.
const COMPILE: Duration = Duration::from_secs(60);

/// Makes what the server's pods need.
pub fn prepare(plan: &Plan, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    if plan.subjects.contains(&Subject::Floor) {
        compile_floor(folder)?;
    }
    if plan.subjects.contains(&Subject::Envoy) {
        certificates::of_envoy(&certificates(folder))?;
        // The cache may be in a home that only its owner enters; the sidecars' user is somebody else.
        fs::copy(&plan.envoy, folder.join(Subject::Envoy.name())).context("cannot copy Envoy's program")?;
        let values =
            [("CERTIFICATES", path(&certificates(folder))), ("TRUST_DOMAIN", certificates::trust_domain())];
        fs::write(envoy_file(folder, Side::Inbound), fill(INBOUND, &values))?;
    }
    Ok(())
}

fn compile_floor(folder: &Path) -> Result<()> {
    let source = folder.join("floor.c");
    fs::write(&source, FLOOR)?;
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-o"]).arg(folder.join(Subject::Floor.name())).arg(&source);
    run(compiler, COMPILE).context("cannot compile the floor").map(drop)
}

/// The manifests that come first.
pub fn servers(plan: &Plan, folder: &Path) -> Result<PathBuf> {
    manifests(plan, folder, SERVER, Side::Inbound, "servers.yaml")
}

/// Those that come when it is known where the servers are.
pub fn clients(plan: &Plan, folder: &Path, server_ip: impl Fn(Subject) -> Result<String>) -> Result<PathBuf> {
    if plan.subjects.contains(&Subject::Envoy) {
        let values = [
            ("CERTIFICATES", path(&certificates(folder))),
            ("SERVICE_IP", Subject::Envoy.service_ip().to_owned()),
            ("SERVER_IP", server_ip(Subject::Envoy)?),
            ("SERVER_ID", certificates::identity(Subject::Envoy, Side::Inbound)),
        ];
        fs::write(envoy_file(folder, Side::Outbound), fill(OUTBOUND, &values))?;
    }
    manifests(plan, folder, CLIENT, Side::Outbound, "clients.yaml")
}

/// Where Envoy's certificates are.
pub fn certificates(folder: &Path) -> PathBuf {
    folder.join("certificates")
}

fn manifests(plan: &Plan, folder: &Path, template: &str, side: Side, name: &str) -> Result<PathBuf> {
    let filled = plan.subjects.iter().map(|subject| manifest(template, &plan.bin, folder, *subject, side));
    let file = folder.join(name);
    fs::write(&file, filled.collect::<Vec<_>>().join("---\n"))?;
    Ok(file)
}

fn manifest(template: &str, bin: &Path, folder: &Path, subject: Subject, side: Side) -> String {
    let command = command(folder, subject, side);
    let sidecar = match command {
        Some(command) => fill(SIDECAR, &[("COMMAND", words(&command)), ("UID", PROXY_UID.to_string())]),
        None => "[]".to_owned(),
    };
    let inject = if subject == Subject::Heddle { "enabled" } else { "disabled" };
    let values = [
        ("SIDECAR", sidecar.trim_end().to_owned()),
        ("SUBJECT", subject.name().to_owned()),
        ("INJECT", inject.to_owned()),
        ("SERVICE_IP", subject.service_ip().to_owned()),
        ("BIN", path(bin)),
    ];
    fill(template, &values)
}

/// Of the sidecars that are written by hand.
fn command(folder: &Path, subject: Subject, side: Side) -> Option<Vec<String>> {
    let program = path(&folder.join(subject.name()));
    match subject {
        Subject::Direct | Subject::Heddle => None,
        Subject::Floor => Some(vec![program]),
        // One worker, as a sidecar of Heddle's has; no second process that takes over; as talkative as Istio lets it be.
        Subject::Envoy => {
            let options = ["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "-c"];
            let config = path(&envoy_file(folder, side));
            Some([program].into_iter().chain(options.map(str::to_owned)).chain([config]).collect())
        }
    }
}

fn envoy_file(folder: &Path, side: Side) -> PathBuf {
    folder.join(match side {
        Side::Outbound => "outbound.yaml",
        Side::Inbound => "inbound.yaml",
    })
}

/// Replaces each `${NAME}`.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    values
        .iter()
        .fold(template.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value))
}

/// A list in YAML.
fn words(words: &[String]) -> String {
    serde_json::json!(words).to_string()
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(subject: Subject) -> String {
        manifest(SERVER, Path::new("/bin"), Path::new("/stage"), subject, Side::Inbound)
    }

    #[test]
    fn only_heddles_namespace_asks_for_the_mesh() {
        assert!(server(Subject::Heddle).contains("heddle.dev/inject: \"enabled\""));
        for subject in [Subject::Direct, Subject::Floor, Subject::Envoy] {
            assert!(server(subject).contains("heddle.dev/inject: \"disabled\""));
        }
    }

    #[test]
    fn sidecars_are_written_by_hand_where_nobody_injects_them() {
        assert!(server(Subject::Direct).contains("initContainers: []"));
        assert!(server(Subject::Heddle).contains("initContainers: []"));
        assert!(server(Subject::Floor).contains("command: [\"/stage/floor\"]"));
        assert!(server(Subject::Envoy).contains("\"-c\",\"/stage/inbound.yaml\"]"));
    }

    #[test]
    fn everything_that_begins_with_a_dollar_sign_is_filled_in() {
        for subject in Subject::ALL {
            assert!(!server(subject).contains("${"), "{}", server(subject));
        }
    }
}
