//! One measurement: a scenario with a subject, once.

mod memory;
mod quiet;
mod start;
mod syscalls;
mod traffic;

use anyhow::{Context, Result};

use crate::options::Plan;
use crate::scenario::Scenario;
use crate::stage::Stage;
use crate::subject::{Side, Subject};

/// What was found: figures by their names, and why they should not be believed, if they should not.
#[derive(Debug, Default)]
pub struct Measured {
    /// The name of a figure, and its value in the figure's unit.
    pub values: Vec<(String, f64)>,
    /// What disturbed the measurement.
    pub disturbance: Option<String>,
}

/// Measures.
pub fn measure(stage: &Stage, plan: &Plan, scenario: Scenario, subject: Subject) -> Result<Measured> {
    let found = match scenario {
        Scenario::Start => start::measure(stage, subject),
        Scenario::Memory => memory::measure(stage, subject),
        Scenario::Syscalls => syscalls::measure(stage, plan, subject),
        Scenario::Binary => size(stage, subject),
        Scenario::Http1
        | Scenario::Http2
        | Scenario::Open
        | Scenario::Bulk1
        | Scenario::Bulk8
        | Scenario::Short
        | Scenario::Handshake => traffic::measure(stage, plan, scenario, subject),
    };
    found.with_context(|| format!("{} with {}", scenario.name(), subject.name()))
}

/// MiB, as the linker left it: what ships is stripped, and so is Envoy's.
fn size(stage: &Stage, subject: Subject) -> Result<Measured> {
    let bytes = std::fs::metadata(stage.sidecar_program(subject))?.len();
    Ok(Measured { values: vec![("binary.size".to_owned(), mebibytes(bytes))], disturbance: None })
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The processes of a subject's two sidecars, the client's first; none if it has none.
fn sidecars(stage: &Stage, subject: Subject) -> Result<Vec<i32>> {
    if subject.sidecar().is_none() {
        return Ok(Vec::new());
    }
    Side::ALL.iter().map(|side| stage.proxy(subject, *side)).collect()
}
