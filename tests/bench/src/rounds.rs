//! All measurements of a run, interleaved, so that what changes while it goes on meets every subject alike.

use std::time::Duration;

use anyhow::Result;

use crate::measure::{Measured, measure};
use crate::options::Plan;
use crate::scenario::Scenario;
use crate::stage::Stage;
use crate::subject::Subject;

/// How often a disturbed measurement is made again before it is taken as it is, and called disturbed.
const REPEATS: u32 = 3;

/// Before a disturbed measurement is made again.
const PAUSE: Duration = Duration::from_secs(1);

/// One value of one round.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The figure's name.
    pub figure: String,
    /// Whose.
    pub subject: Subject,
    /// From 1 on.
    pub round: u32,
    /// In the figure's unit.
    pub value: f64,
    /// Why it should not be believed, if no repetition helped.
    pub disturbance: Option<String>,
}

/// Plays them all: first the traffic, round by round, then one scenario after the other that starts sidecars anew.
pub fn play(stage: &Stage, plan: &Plan) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for scenarios in phases(&plan.scenarios) {
        let rounds = scenarios.iter().map(|scenario| plan.rounds_of(*scenario)).max().unwrap_or_default();
        for round in 1..=rounds {
            eprintln!("bench: round {round} of {rounds}: {}", names(&scenarios));
            for &scenario in &scenarios {
                for subject in turn(&plan.subjects, round).filter(|subject| scenario.concerns(*subject)) {
                    let measured = settled(PAUSE, || measure(stage, plan, scenario, subject))?;
                    say(scenario, subject, &measured);
                    samples.extend(taken(measured, subject, round));
                }
            }
        }
    }
    Ok(samples)
}

/// What is interleaved with each other.
fn phases(scenarios: &[Scenario]) -> Vec<Vec<Scenario>> {
    let (traffic, rest): (Vec<_>, Vec<_>) = scenarios.iter().partition(|scenario| scenario.is_traffic());
    let alone = rest.into_iter().map(|scenario| vec![scenario]);
    [traffic].into_iter().chain(alone).filter(|phase| !phase.is_empty()).collect()
}

fn names(scenarios: &[Scenario]) -> String {
    scenarios.iter().map(|scenario| scenario.name()).collect::<Vec<_>>().join(", ")
}

/// Another subject begins in each round.
fn turn(subjects: &[Subject], round: u32) -> impl Iterator<Item = Subject> {
    let first = (round as usize - 1) % subjects.len().max(1);
    subjects.iter().cycle().skip(first).take(subjects.len()).copied()
}

/// Again, until nothing disturbs it, but not for ever.
fn settled(pause: Duration, mut measure: impl FnMut() -> Result<Measured>) -> Result<Measured> {
    for _ in 0..REPEATS {
        let measured = measure()?;
        let Some(disturbance) = &measured.disturbance else { return Ok(measured) };
        eprintln!("bench:   again: {disturbance}");
        std::thread::sleep(pause);
    }
    measure()
}

fn say(scenario: Scenario, subject: Subject, measured: &Measured) {
    let values = measured.values.iter().map(|(name, value)| {
        let short = name.strip_prefix(scenario.name()).unwrap_or(name).trim_start_matches('.');
        format!("{short} {}", crate::report::number(*value))
    });
    let disturbed =
        measured.disturbance.as_ref().map_or_else(String::new, |why| format!(" (disturbed: {why})"));
    let values = values.collect::<Vec<_>>().join(", ");
    eprintln!("bench:   {} {}: {values}{disturbed}", scenario.name(), subject.name());
}

fn taken(measured: Measured, subject: Subject, round: u32) -> impl Iterator<Item = Sample> {
    let disturbance = measured.disturbance;
    measured.values.into_iter().map(move |(figure, value)| Sample {
        figure,
        subject,
        round,
        value,
        disturbance: disturbance.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(disturbance: Option<&str>) -> Measured {
        Measured { values: Vec::new(), disturbance: disturbance.map(str::to_owned) }
    }

    #[test]
    fn traffic_is_interleaved_and_the_rest_comes_after_it() {
        let found = phases(&[Scenario::Http1, Scenario::Memory, Scenario::Short, Scenario::Start]);
        assert_eq!(
            found,
            [vec![Scenario::Http1, Scenario::Short], vec![Scenario::Memory], vec![Scenario::Start]]
        );
        assert!(phases(&[]).is_empty());
    }

    #[test]
    fn nobody_always_begins() {
        let subjects = [Subject::Direct, Subject::Envoy, Subject::Heddle];
        assert_eq!(turn(&subjects, 1).next(), Some(Subject::Direct));
        assert_eq!(
            turn(&subjects, 2).collect::<Vec<_>>(),
            [Subject::Envoy, Subject::Heddle, Subject::Direct]
        );
        assert_eq!(turn(&subjects, 4).next(), Some(Subject::Direct));
    }

    #[test]
    fn a_disturbed_round_is_repeated_until_it_is_quiet() {
        let mut disturbances = [Some("noise"), None].into_iter();
        let found = settled(Duration::ZERO, || Ok(measured(disturbances.next().expect("not a third time"))))
            .expect("measured");
        assert_eq!(found.disturbance, None);
    }

    #[test]
    fn a_round_that_is_always_disturbed_is_taken_and_says_so() {
        let mut times = 0;
        let found = settled(Duration::ZERO, || {
            times += 1;
            Ok(measured(Some("noise")))
        });
        assert_eq!(found.expect("measured").disturbance.as_deref(), Some("noise"));
        assert_eq!(times, REPEATS + 1);
    }
}
