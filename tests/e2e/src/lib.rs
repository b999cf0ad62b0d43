//! What the end-to-end tests stand on: a [`World`] from the `lab` program, and programs in its pods.
//!
//! Everything is real: network namespaces, iptables rules, certificates, `curl`, databases. A test file is one
//! world; [`prove!`] brings it up, runs the file's rules against it one after another, and takes it down, also
//! when the test is killed. Every command and every rule has a bound in time, and nothing sleeps for a time: a
//! condition is polled ([`until`]).

mod answer;
mod capture;
mod conformance;
pub mod manifest;
mod process;
mod runner;
mod world;

pub use answer::{Load, Reply};
pub use capture::Capture;
pub use conformance::{Conformance, tool};
pub use process::{Output, Running, run, until};
pub use runner::{Rule, prove, soak};
pub use world::{World, verdict};

/// Runs the named functions, each a rule, against one world: `prove!(up, [rule, other_rule])`.
#[macro_export]
macro_rules! prove {
    ($up:expr, [$($rule:ident),+ $(,)?]) => {
        fn main() -> std::process::ExitCode {
            $crate::prove($up, &[$($crate::Rule { name: stringify!($rule), check: $rule }),+])
        }
    };
}
