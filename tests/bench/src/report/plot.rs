//! A plot of one figure: a bar for each subject, its least and most as a thin line, and where the target is. Colours are
//! the reader's: dark or light, as they have it.

use std::fmt::Write as _;

use super::judged::Found;
use super::{Judged, number};
use crate::subject::Subject;

/// In pixels: the whole width, where bars begin, the longest bar, a bar's height, from bar to bar, the head.
const WIDTH: f64 = 640.0;
const LEFT: f64 = 80.0;
const LONGEST: f64 = 440.0;
const BAR: f64 = 18.0;
const STEP: f64 = 28.0;
const HEAD: f64 = 40.0;

const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#1f2328}.t{font-weight:600;font-size:14px}\
    rect{fill:#8c959f}.heddle{fill:#0969da}.s{stroke:#1f2328;stroke-width:1.5}\
    .g{stroke:#1a7f37;stroke-width:1.5;stroke-dasharray:4 3}.gt{fill:#1a7f37;font-size:11px}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}rect{fill:#6e7681}.heddle{fill:#4493f8}\
    .s{stroke:#e6edf3}.g{stroke:#3fb950}.gt{fill:#3fb950}}";

/// Where a figure's plot is.
pub fn file_name(figure: &Judged) -> String {
    format!("{}.svg", figure.name)
}

/// The plot.
pub fn svg(figure: &Judged) -> String {
    let rows: Vec<(&Subject, &Found)> = figure.subjects.iter().collect();
    let bars = HEAD + STEP * rows.iter().fold(0.0, |rows, _| rows + 1.0);
    let height = bars + 22.0;
    let scale = Scale::of(figure);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\">\n<style>{STYLE}</style>\n<title>{}</title>\n",
        heading(figure)
    );
    let _ = writeln!(text, "<text class=\"t\" x=\"8\" y=\"22\">{}</text>", heading(figure));
    let mut top = HEAD;
    for (subject, found) in rows {
        text += &bar(*subject, found, top, &scale);
        top += STEP;
    }
    text += &target_line(figure, bars, &scale);
    text + "</svg>\n"
}

fn heading(figure: &Judged) -> String {
    let unit = if figure.unit.is_empty() { String::new() } else { format!(" ({})", figure.unit) };
    escape(&format!("{}{unit}", figure.title))
}

fn bar(subject: Subject, found: &Found, top: f64, scale: &Scale) -> String {
    let (spread, name) = (found.spread, subject.name());
    let [from, to, middle] = [spread.minimum, spread.maximum, spread.median].map(|value| scale.x(value));
    let (line, baseline) = (top + BAR / 2.0, top + BAR - 5.0);
    let mut text = format!("<text x=\"8\" y=\"{baseline:.1}\">{name}</text>\n");
    let width = middle - LEFT;
    let _ = writeln!(
        text,
        "<rect class=\"{name}\" x=\"{LEFT}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{BAR}\"/>"
    );
    let _ = writeln!(
        text,
        "<line class=\"s\" x1=\"{from:.1}\" y1=\"{line:.1}\" x2=\"{to:.1}\" y2=\"{line:.1}\"/>"
    );
    let label = to.max(middle) + 8.0;
    let _ = writeln!(
        text,
        "<text x=\"{label:.1}\" y=\"{baseline:.1}\">{}</text>",
        escape(&number(spread.median))
    );
    text
}

/// At so many times Envoy's median; the bar of Heddle should end before it.
fn target_line(figure: &Judged, bottom: f64, scale: &Scale) -> String {
    let envoy = figure.subjects.get(&Subject::Envoy).map(|found| found.spread.median);
    let Some((target, envoy)) = figure.target.zip(envoy) else { return String::new() };
    let x = scale.x(target * envoy);
    let (from, label) = (HEAD - 6.0, bottom + 12.0);
    format!(
        "<line class=\"g\" x1=\"{x:.1}\" y1=\"{from:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>\n\
         <text class=\"gt\" x=\"{x:.1}\" y=\"{label:.1}\" text-anchor=\"middle\">target: {target:.2} of envoy</text>\n"
    )
}

/// From values to pixels.
struct Scale(f64);

impl Scale {
    fn of(figure: &Judged) -> Self {
        Self(figure.subjects.values().map(|found| found.spread.maximum).fold(f64::MIN_POSITIVE, f64::max))
    }

    /// What is less than nothing begins where nothing is.
    fn x(&self, value: f64) -> f64 {
        LEFT + LONGEST * (value / self.0).clamp(0.0, 1.0)
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::judged::judge;
    use super::super::judged::tests::sample;
    use super::*;

    fn plot() -> String {
        let samples = [
            sample("http1.cpu", Subject::Direct, 1, 0.0),
            sample("http1.cpu", Subject::Envoy, 1, 300.0),
            sample("http1.cpu", Subject::Envoy, 2, 340.0),
            sample("http1.cpu", Subject::Heddle, 1, 80.0),
        ];
        svg(&judge(&samples)[0])
    }

    #[test]
    fn the_longest_value_is_the_longest_line() {
        // Envoy's most is 340: its line ends at 80 + 440.
        assert!(plot().contains("x2=\"520.0\""), "{}", plot());
        // Its median is 320.
        assert!(plot().contains("<rect class=\"envoy\" x=\"80\" y=\"68.0\" width=\"414.1\""), "{}", plot());
        assert!(plot().contains("<rect class=\"direct\" x=\"80\" y=\"40.0\" width=\"0.0\""), "{}", plot());
    }

    #[test]
    fn the_target_is_where_it_says() {
        // 0.30 × 320 of 340.
        assert!(plot().contains("<line class=\"g\" x1=\"204.2\""), "{}", plot());
    }

    #[test]
    fn it_is_readable_in_the_dark_and_well_formed() {
        let plot = plot();
        assert!(plot.contains("prefers-color-scheme:dark"));
        assert!(plot.starts_with("<svg ") && plot.ends_with("</svg>\n"));
        assert_eq!(plot.matches("<text").count(), plot.matches("</text>").count());
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(escape("a<b & c>d"), "a&lt;b &amp; c&gt;d");
    }
}
