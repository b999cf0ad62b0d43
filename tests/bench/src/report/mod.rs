//! What a run found: for machines (JSON), for readers (a table) and for those who look (plots).

mod judged;
mod plot;
pub mod table;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::options::Plan;
use crate::rounds::Sample;
use crate::subject::Subject;
use bench::machine::Machine;

pub use judged::Judged;

/// The form of the results; another number, other keys.
const FORM: u32 = 1;

/// Between these two lines of a folder's README.md the table is written, too.
const BEGIN: &str = "<!-- results: written by the bench -->";
const END: &str = "<!-- results: end -->";

/// Everything.
#[derive(Debug, Serialize)]
pub struct Report {
    form: u32,
    quick: bool,
    rounds: u32,
    round_seconds: u32,
    took_seconds: u64,
    machine: Machine,
    subjects: Vec<Subject>,
    figures: Vec<Judged>,
}

impl Report {
    /// Judges what was measured.
    pub fn new(plan: &Plan, machine: Machine, samples: &[Sample], took: Duration) -> Self {
        Self {
            form: FORM,
            quick: plan.quick,
            rounds: plan.rounds,
            round_seconds: plan.seconds,
            took_seconds: took.as_secs(),
            machine,
            subjects: plan.subjects.clone(),
            figures: judged::judge(samples),
        }
    }

    /// Figures with a target.
    fn headlines(&self) -> impl Iterator<Item = &Judged> {
        self.figures.iter().filter(|figure| figure.target.is_some())
    }

    /// Those that say why.
    fn details(&self) -> impl Iterator<Item = &Judged> {
        self.figures.iter().filter(|figure| figure.target.is_none())
    }
}

/// Writes results.json, results.md and a plot for each figure with a target; and the table into README.md.
pub fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let put = |name: &str, text: &str| {
        fs::write(folder.join(name), text)
            .with_context(|| format!("cannot write {name} in {}", folder.display()))
    };
    put("results.json", &(serde_json::to_string_pretty(report)? + "\n"))?;
    put("results.md", &table::document(report))?;
    for figure in report.headlines() {
        put(&plot::file_name(figure), &plot::svg(figure))?;
    }
    match fs::read_to_string(folder.join("README.md"))
        .ok()
        .and_then(|text| fill(&text, &table::summary(report)))
    {
        Some(text) => put("README.md", &text),
        None => Ok(()),
    }
}

/// Puts a text between the two lines that say so, if they are there.
fn fill(readme: &str, text: &str) -> Option<String> {
    let (before, rest) = readme.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{text}{END}{after}"))
}

/// A value with about three figures, as people read it.
pub fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 1000.0 => thousands(value),
        middle if middle >= 99.5 => format!("{value:.0}"),
        small if small >= 9.95 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.split_at(digits.len() - digits.trim_start_matches('-').len());
    let mut text = String::from(sign);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(value: f64, expected: &str) {
        assert_eq!(number(value), expected);
    }

    #[test]
    fn numbers_are_as_long_as_they_are_known() {
        check(0.3, "0.30");
        check(-0.004, "-0.00");
        check(9.99, "10.0");
        check(42.25, "42.2");
        check(99.6, "100");
        check(327.4, "327");
        check(1500.0, "1,500");
        check(-1_234_567.0, "-1,234,567");
    }

    #[test]
    fn the_readme_keeps_what_is_around_the_results() {
        let readme = format!("# Head\n{BEGIN}\nold\n{END}\ntail\n");
        let filled = fill(&readme, "new\n").expect("both lines are there");
        assert_eq!(filled, format!("# Head\n{BEGIN}\nnew\n{END}\ntail\n"));
        assert_eq!(fill(&filled, "new\n").as_deref(), Some(filled.as_str()));
        assert_eq!(fill("# Head\n", "new\n"), None);
    }
}
