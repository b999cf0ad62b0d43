//! Tables in Markdown.

use std::fmt::Write as _;

use super::{Judged, Report, number, plot};
use crate::subject::Subject;

/// Writes the tables to standard output.
#[expect(clippy::print_stdout, reason = "a program for a terminal")]
pub fn print(report: &Report) {
    println!("{}", body(report));
}

/// All of results.md.
pub fn document(report: &Report) -> String {
    let mut text =
        String::from("# Results\n\nWritten by the bench; how it measures is in [README.md](README.md).\n\n");
    text += &summary(report);
    text += "\n## Beside each other\n\n";
    for figure in report.headlines() {
        let _ = writeln!(text, "![{}]({})", figure.title, plot::file_name(figure));
    }
    text += "\n## Why\n\n";
    text + &table(report, report.details())
}

/// What was reached, and where.
pub fn summary(report: &Report) -> String {
    format!("{}\n\n{}\n{}", conditions(report), table(report, report.headlines()), footnotes(report))
}

fn body(report: &Report) -> String {
    if report.details().next().is_none() {
        return summary(report);
    }
    format!("{}\n{}", summary(report), table(report, report.details()))
}

fn conditions(report: &Report) -> String {
    let Report { rounds, round_seconds, took_seconds, .. } = report;
    let minutes = took_seconds.div_ceil(60);
    let quick = if report.quick { "A quick run: " } else { "" };
    format!(
        "{quick}{rounds} rounds of {round_seconds} s, {minutes} minutes in all, on {}. Medians, with the least and the \
         most in brackets; CPU is that of both sidecars together unless it says of which.",
        report.machine.describe()
    )
}

fn table<'a>(report: &Report, figures: impl Iterator<Item = &'a Judged>) -> String {
    let subjects = report.subjects.iter().map(|subject| subject.name()).collect::<Vec<_>>();
    let mut text = format!("| | {} | heddle ÷ envoy | target |\n", subjects.join(" | "));
    let _ = writeln!(text, "| --- |{} --- | --- |", " --- |".repeat(subjects.len()));
    for figure in figures {
        let cells = report.subjects.iter().map(|subject| cell(figure, *subject)).collect::<Vec<_>>();
        let ratio = figure.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        let _ =
            writeln!(text, "| {} | {} | {ratio} | {} |", heading(figure), cells.join(" | "), verdict(figure));
    }
    text
}

fn heading(figure: &Judged) -> String {
    if figure.unit.is_empty() {
        figure.title.to_owned()
    } else {
        format!("{}, {}", figure.title, figure.unit)
    }
}

/// A dagger says that some of its rounds were disturbed.
fn cell(figure: &Judged, subject: Subject) -> String {
    let Some(found) = figure.subjects.get(&subject) else { return "–".to_owned() };
    let spread = found.spread;
    let dagger = if found.disturbances.is_empty() { "" } else { " †" };
    if found.values.len() < 2 {
        return number(spread.median) + dagger;
    }
    format!("{} ({}–{}){dagger}", number(spread.median), number(spread.minimum), number(spread.maximum))
}

fn verdict(figure: &Judged) -> String {
    let Some(target) = figure.target else { return String::new() };
    let word = match figure.reached {
        Some(true) => " reached",
        Some(false) => " **missed**",
        None => "",
    };
    format!("≤ {target:.2}{word}")
}

/// Each disturbance once.
fn footnotes(report: &Report) -> String {
    let mut reasons: Vec<String> = Vec::new();
    for figure in report.headlines() {
        for (subject, found) in &figure.subjects {
            let named =
                found.disturbances.iter().map(|why| format!("{}, {}: {why}", figure.title, subject.name()));
            reasons.extend(named);
        }
    }
    if reasons.is_empty() {
        return String::new();
    }
    let list: String = reasons.iter().map(|reason| format!("- {reason}\n")).collect();
    format!("† Rounds that were disturbed again each time they were repeated:\n\n{list}")
}

#[cfg(test)]
mod tests {
    use super::super::judged::judge;
    use super::super::judged::tests::sample;
    use super::*;
    use crate::rounds::Sample;
    use bench::machine::Machine;

    fn report(samples: &[Sample]) -> Report {
        let machine = Machine {
            cores: 2,
            cpu: "Loom 2000".to_owned(),
            kernel: "6.12".to_owned(),
            memory: 4096,
            congestion_control: "reno",
        };
        Report {
            form: 1,
            quick: false,
            rounds: 3,
            round_seconds: 5,
            took_seconds: 61,
            machine,
            subjects: Subject::ALL.to_vec(),
            figures: judge(samples),
        }
    }

    #[test]
    fn a_row_has_medians_spreads_ratio_and_verdict() {
        let samples = [
            sample("http1.cpu", Subject::Floor, 1, 50.0),
            sample("http1.cpu", Subject::Envoy, 1, 320.0),
            sample("http1.cpu", Subject::Envoy, 2, 340.0),
            sample("http1.cpu", Subject::Heddle, 1, 99.0),
        ];
        let text = summary(&report(&samples));
        let row = "| HTTP/1, 64 connections: CPU per request, µs | – | 50.0 | 330 (320–340) | 99.0 | 0.30 | ≤ 0.30 reached |";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("on 2 cores of Loom 2000, 4096 MiB, Linux 6.12, TCP reno."), "{text}");
    }

    #[test]
    fn what_is_missed_stands_out() {
        let samples =
            [sample("short.cpu", Subject::Envoy, 1, 100.0), sample("short.cpu", Subject::Heddle, 1, 150.0)];
        assert!(summary(&report(&samples)).contains("| 1.50 | ≤ 0.20 **missed** |"));
    }

    #[test]
    fn disturbed_rounds_are_marked_and_explained() {
        let noisy =
            Sample { disturbance: Some("noise".to_owned()), ..sample("http1.cpu", Subject::Heddle, 1, 70.0) };
        let text = summary(&report(&[noisy]));
        assert!(text.contains("70.0 †"), "{text}");
        assert!(text.contains("- HTTP/1, 64 connections: CPU per request, heddle: noise\n"), "{text}");
    }

    #[test]
    fn the_document_shows_every_plot() {
        let samples =
            [sample("http1.cpu", Subject::Heddle, 1, 70.0), sample("http1.rate", Subject::Heddle, 1, 9.0)];
        let text = document(&report(&samples));
        assert!(text.contains("(http1.cpu.svg)"), "{text}");
        assert!(text.contains("| HTTP/1: requests, 1/s |"), "{text}");
    }
}
