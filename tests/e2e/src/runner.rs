//! Runs a file's rules against its world and prints them as `cargo test` prints its own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};

/// No rule takes longer, but for the one that soaks.
const LIMIT: Duration = Duration::from_secs(240);
/// How long a soak lasts, if `HEDDLE_SOAK_SECONDS` says nothing.
const SOAK: Duration = Duration::from_secs(60);
/// A rule that takes longer says from time to time that it is still at it.
const LONG: Duration = Duration::from_secs(20);

/// A sentence about Heddle, and the function that proves it in a world of its kind.
pub struct Rule<W> {
    /// The sentence, in snake case.
    pub name: &'static str,
    /// Fails, by error or panic, if the sentence is not true.
    pub check: fn(&W) -> Result<()>,
}

/// Brings the world up, checks every rule whose name contains one of the program's arguments (all without any),
/// and takes the world down.
pub fn prove<W: Sync>(up: fn() -> Result<W>, rules: &[Rule<W>]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return list(rules);
    }
    let wanted: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with('-')).collect();
    let chosen: Vec<&Rule<W>> = rules
        .iter()
        .filter(|rule| wanted.is_empty() || wanted.iter().any(|want| rule.name.contains(want)))
        .collect();
    if chosen.is_empty() {
        say("\nrunning 0 tests\n\ntest result: ok. 0 passed; 0 failed");
        return ExitCode::SUCCESS;
    }
    prove_in(up, &chosen)
}

fn list<W>(rules: &[Rule<W>]) -> ExitCode {
    for rule in rules {
        say(&format!("{}: test", rule.name));
    }
    ExitCode::SUCCESS
}

fn prove_in<W: Sync>(up: fn() -> Result<W>, rules: &[&Rule<W>]) -> ExitCode {
    say(&format!("\nrunning {} tests", rules.len()));
    std::panic::set_hook(Box::new(|panic| *last_panic() = panic.to_string()));
    let began = Instant::now();
    let mut failures = Vec::new();
    match up() {
        Ok(world) => {
            say(&format!("(the world is up after {:.1} s)", began.elapsed().as_secs_f64()));
            for (number, rule) in (1..).zip(rules) {
                let place = format!("{number}/{}", rules.len());
                failures.extend(prove_one(&world, rule, &place).err().map(|error| (rule.name, error)));
            }
        }
        Err(error) => failures.push(("the_world_comes_up", error)),
    }
    conclude(rules.len(), &failures, began.elapsed())
}

/// `place` is which of how many it is.
fn prove_one<W: Sync>(world: &W, rule: &Rule<W>, place: &str) -> Result<()> {
    let began = Instant::now();
    let outcome = within_limit(world, rule);
    let word = if outcome.is_ok() { "ok" } else { "FAILED" };
    say(&format!("test {} [{place}, {:.1} s] ... {word}", rule.name, began.elapsed().as_secs_f64()));
    outcome
}

fn conclude(rules: usize, failures: &[(&str, Error)], took: Duration) -> ExitCode {
    if !failures.is_empty() {
        say("\nfailures:\n");
    }
    for (name, error) in failures {
        say(&format!("---- {name} stdout ----\n{error:#}\n"));
    }
    if !failures.is_empty() {
        say("\nfailures:");
    }
    failures.iter().for_each(|(name, _)| say(&format!("    {name}")));
    let (passed, failed) = (rules.saturating_sub(failures.len()), failures.len());
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    let counts = format!("{verdict}. {passed} passed; {failed} failed; 0 ignored");
    say(&format!("\ntest result: {counts}; finished in {:.1} s\n", took.as_secs_f64()));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How long the mesh is watched under load (`make soak` asks for longer).
pub fn soak() -> Duration {
    let asked = std::env::var("HEDDLE_SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    asked.map_or(SOAK, Duration::from_secs)
}

fn limit() -> Duration {
    LIMIT.max(soak() + LIMIT / 2)
}

fn within_limit<W: Sync>(world: &W, rule: &Rule<W>) -> Result<()> {
    let (done, outcome) = channel();
    std::thread::scope(|threads| {
        threads.spawn(move || done.send(catch(world, rule)));
        let began = Instant::now();
        loop {
            match outcome.recv_timeout(LONG) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Disconnected) => return Err(anyhow!("ended without a word")),
                Err(RecvTimeoutError::Timeout) if began.elapsed() < limit() => {
                    say(&format!("(still at {} after {:.0} s)", rule.name, began.elapsed().as_secs_f64()));
                }
                Err(RecvTimeoutError::Timeout) => give_up(rule),
            }
        }
    })
}

/// The thread cannot be ended; the process can, and its world goes with it.
fn give_up<W>(rule: &Rule<W>) -> ! {
    say(&format!("test {} ... FAILED\n\nnot done within {} s", rule.name, LIMIT.as_secs()));
    std::process::exit(1)
}

fn catch<W>(world: &W, rule: &Rule<W>) -> Result<()> {
    let outcome = catch_unwind(AssertUnwindSafe(|| (rule.check)(world)));
    outcome.unwrap_or_else(|_| Err(anyhow!("{}", std::mem::take(&mut *last_panic()))))
}

/// What the last panic said, with its place: it is shown with the failures, not when it happens.
fn last_panic() -> MutexGuard<'static, String> {
    static LAST: Mutex<String> = Mutex::new(String::new());
    LAST.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::print_stdout, reason = "a test program speaks on standard output")]
fn say(text: &str) {
    println!("{text}");
}
