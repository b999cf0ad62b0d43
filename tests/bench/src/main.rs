//! The bench's runner: what Heddle's sidecars cost beside Envoy's, beside the kernel's own price, and beside nothing at
//! all, on one stage, in interleaved rounds of one run.
//!
//! It builds nothing: the programs are beside it. How it measures is in docs/benchmarks/README.md.

mod certificates;
mod figures;
mod lab;
mod measure;
mod options;
mod program;
mod report;
mod rounds;
mod scenario;
mod stage;
mod subject;
mod wire;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use bench::machine::Machine;
use clap::Parser as _;

use options::{Options, Plan};
use report::Report;
use stage::Stage;

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<()> {
    let began = Instant::now();
    let plan = options.plan()?;
    let machine = Machine::read(stage::CONGESTION_CONTROL)?;
    let stage = Stage::up(&plan)?;
    wire::check(&stage, &plan)?;
    let samples = rounds::play(&stage, &plan)?;
    drop(stage);
    let report = Report::new(&plan, machine, &samples, began.elapsed());
    report::table::print(&report);
    write(&plan, &report)
}

/// A run of less than everything is for whoever runs it, unless they say where to put it.
fn write(plan: &Plan, report: &Report) -> Result<()> {
    let Some(folder) = &plan.out else { return Ok(()) };
    report::write(report, folder)?;
    eprintln!("bench: the report is in {}", folder.display());
    Ok(())
}
