//! Runs a file's rules against its world and prints them as `cargo test` prints its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::World;

/// No rule takes longer, except when it says so by its commands' own limits.
const LIMIT: Duration = Duration::from_secs(180);

/// A sentence about Heddle, and the function that proves it.
pub struct Rule {
    /// The sentence, in snake case.
    pub name: &'static str,
    /// Fails, by error or panic, if the sentence is not true.
    pub check: fn(&World) -> Result<()>,
}

/// Brings the world up, checks every rule whose name contains one of the program's arguments (all without any),
/// and takes the world down.
pub fn prove(up: fn() -> Result<World>, rules: &[Rule]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return list(rules);
    }
    let wanted: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with('-')).collect();
    let chosen: Vec<&Rule> = rules
        .iter()
        .filter(|rule| wanted.is_empty() || wanted.iter().any(|want| rule.name.contains(want)))
        .collect();
    if chosen.is_empty() {
        say("\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed");
        return ExitCode::SUCCESS;
    }
    prove_in(up, &chosen)
}

fn list(rules: &[Rule]) -> ExitCode {
    for rule in rules {
        say(&format!("{}: test", rule.name));
    }
    ExitCode::SUCCESS
}

fn prove_in(up: fn() -> Result<World>, rules: &[&Rule]) -> ExitCode {
    say(&format!("\nrunning {} tests", rules.len()));
    let began = Instant::now();
    let world = match up() {
        Ok(world) => world,
        Err(error) => {
            say(&format!(
                "test the_world_comes_up ... FAILED\n{error:#}\n\ntest result: FAILED. 0 passed; 1 failed"
            ));
            return ExitCode::FAILURE;
        }
    };
    say(&format!("(the world is up after {:.1} s)", began.elapsed().as_secs_f64()));
    let failed = rules.iter().filter(|rule| !holds(&world, rule)).count();
    drop(world);
    let (verdict, passed) = (if failed == 0 { "ok" } else { "FAILED" }, rules.len() - failed);
    let seconds = began.elapsed().as_secs_f64();
    say(&format!("\ntest result: {verdict}. {passed} passed; {failed} failed; finished in {seconds:.1} s\n"));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn holds(world: &World, rule: &Rule) -> bool {
    let began = Instant::now();
    let outcome = within_limit(world, rule);
    let seconds = began.elapsed().as_secs_f64();
    match &outcome {
        Ok(()) => say(&format!("test {} ... ok ({seconds:.1} s)", rule.name)),
        Err(error) => say(&format!("test {} ... FAILED ({seconds:.1} s)\n{error:#}\n", rule.name)),
    }
    outcome.is_ok()
}

fn within_limit(world: &World, rule: &Rule) -> Result<()> {
    let (done, outcome) = channel();
    std::thread::scope(|threads| {
        threads.spawn(move || done.send(catch(world, rule)));
        match outcome.recv_timeout(LIMIT) {
            Ok(outcome) => outcome,
            Err(RecvTimeoutError::Disconnected) => Err(anyhow!("ended without a word")),
            Err(RecvTimeoutError::Timeout) => {
                // The thread cannot be ended; the process can, and its world goes with it.
                say(&format!("test {} ... FAILED: not done within {} s", rule.name, LIMIT.as_secs()));
                std::process::exit(1)
            }
        }
    })
}

fn catch(world: &World, rule: &Rule) -> Result<()> {
    catch_unwind(AssertUnwindSafe(|| (rule.check)(world)))
        .unwrap_or_else(|_| Err(anyhow!("see the panic above")))
}

#[expect(clippy::print_stdout, reason = "a test program speaks on standard output")]
fn say(text: &str) {
    println!("{text}");
}
