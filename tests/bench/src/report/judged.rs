//! What was found of each figure, and whether it is good enough.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::figures::{self, Figure, OPEN_ADDED, OPEN_LATENCY};
use crate::rounds::Sample;
use crate::subject::Subject;
use bench::statistics::{Spread, ratio};

/// A figure with its values.
#[derive(Debug, Serialize)]
pub struct Judged {
    /// Its stable name.
    pub name: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Whose values are known.
    pub subjects: BTreeMap<Subject, Found>,
    /// Heddle's median against Envoy's.
    pub ratio: Option<f64>,
    /// The most that this may be.
    pub target: Option<f64>,
    /// Whether it is.
    pub reached: Option<bool>,
}

/// One subject's values.
#[derive(Debug, Serialize)]
pub struct Found {
    /// What to say of them.
    #[serde(flatten)]
    pub spread: Spread,
    /// Round by round.
    pub values: Vec<f64>,
    /// What disturbed rounds that no repetition made quiet.
    pub disturbances: Vec<String>,
}

/// Every figure of which anything was measured.
pub fn judge(samples: &[Sample]) -> Vec<Judged> {
    let added = added(samples);
    let samples: Vec<&Sample> = samples.iter().chain(&added).collect();
    let judged = figures::ALL.iter().map(|figure| one(figure, &samples));
    judged.filter(|judged| !judged.subjects.is_empty()).collect()
}

/// What each round at a fixed rate added to the same round without sidecars.
fn added(samples: &[Sample]) -> Vec<Sample> {
    let of = |subject| move |sample: &&Sample| sample.figure == OPEN_LATENCY && sample.subject == subject;
    let meshed =
        samples.iter().filter(|sample| sample.figure == OPEN_LATENCY && sample.subject != Subject::Direct);
    let subtract = |sample: &Sample| {
        let direct =
            samples.iter().filter(of(Subject::Direct)).find(|direct| direct.round == sample.round)?;
        let disturbance = sample.disturbance.clone().or_else(|| direct.disturbance.clone());
        let value = sample.value - direct.value;
        Some(Sample { figure: OPEN_ADDED.to_owned(), value, disturbance, ..sample.clone() })
    };
    meshed.filter_map(subtract).collect()
}

fn one(figure: &Figure, samples: &[&Sample]) -> Judged {
    let mut subjects = BTreeMap::new();
    for subject in Subject::ALL {
        let of_it: Vec<&&Sample> = samples
            .iter()
            .filter(|sample| sample.figure == figure.name && sample.subject == subject)
            .collect();
        let values: Vec<f64> = of_it.iter().map(|sample| sample.value).collect();
        let disturbances = of_it.iter().filter_map(|sample| sample.disturbance.clone()).collect();
        if let Some(spread) = Spread::of(&values) {
            subjects.insert(subject, Found { spread, values, disturbances });
        }
    }
    let median = |subject| subjects.get(&subject).map(|found: &Found| found.spread.median);
    let ratio =
        median(Subject::Heddle).zip(median(Subject::Envoy)).and_then(|(ours, theirs)| ratio(ours, theirs));
    let target = figure.part.target();
    let reached = target.zip(ratio).map(|(target, ratio)| ratio <= target);
    // Who carried nothing, at an infinite price each, has missed every target.
    let carried = median(Subject::Heddle).is_none_or(f64::is_finite);
    let reached = if carried { reached } else { target.map(|_| false) };
    Judged { name: figure.name, title: figure.title, unit: figure.unit, subjects, ratio, target, reached }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A value of one round.
    pub fn sample(figure: &str, subject: Subject, round: u32, value: f64) -> Sample {
        Sample { figure: figure.to_owned(), subject, round, value, disturbance: None }
    }

    fn http1(envoy: f64, heddle: f64) -> Judged {
        let samples =
            [sample("http1.cpu", Subject::Envoy, 1, envoy), sample("http1.cpu", Subject::Heddle, 1, heddle)];
        judge(&samples).pop().expect("one figure")
    }

    #[test]
    fn a_target_is_reached_or_not() {
        assert_eq!(http1(300.0, 90.0).reached, Some(true));
        assert_eq!(http1(300.0, 91.0).reached, Some(false));
    }

    #[test]
    fn who_carried_nothing_has_missed() {
        assert_eq!(http1(300.0, f64::INFINITY).reached, Some(false));
    }

    #[test]
    fn without_envoy_nothing_is_reached_or_missed() {
        let judged = judge(&[sample("http1.cpu", Subject::Heddle, 1, 90.0)]).pop().expect("one figure");
        assert_eq!((judged.ratio, judged.reached), (None, None));
    }

    #[test]
    fn latency_is_added_to_the_same_rounds() {
        let samples = [
            sample(OPEN_LATENCY, Subject::Direct, 1, 100.0),
            sample(OPEN_LATENCY, Subject::Direct, 2, 200.0),
            sample(OPEN_LATENCY, Subject::Heddle, 1, 400.0),
            sample(OPEN_LATENCY, Subject::Heddle, 2, 450.0),
        ];
        let judged = judge(&samples);
        let added = judged.iter().find(|judged| judged.name == OPEN_ADDED).expect("it is computed");
        assert_eq!(added.subjects[&Subject::Heddle].values, [300.0, 250.0]);
        assert!(!added.subjects.contains_key(&Subject::Direct));
    }

    #[test]
    fn a_disturbed_round_is_named() {
        let noisy =
            Sample { disturbance: Some("noise".to_owned()), ..sample("http1.cpu", Subject::Heddle, 1, 1.0) };
        let judged = judge(&[noisy]).pop().expect("one figure");
        assert_eq!(judged.subjects[&Subject::Heddle].disturbances, ["noise"]);
    }
}
