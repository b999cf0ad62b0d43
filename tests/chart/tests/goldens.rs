//! What each set of options renders, side by side with the options: `UPDATE_GOLDEN=1 cargo test -p chart` writes it anew.

use std::fs;
use std::path::PathBuf;

use chart::{helm, root, template};

const PLACE: &str = "tests/chart/goldens";

/// The Prometheus operator's API is there when the golden is about it.
const MONITORED: [&str; 2] = ["--api-versions", "monitoring.coreos.com/v1/PodMonitor"];

#[track_caller]
fn check(name: &str, further: &[&str]) {
    let values = format!("{PLACE}/{name}.values.yaml");
    let seen = template(&[&["--values", &values], further].concat()).expect("the chart renders");
    let path: PathBuf = root().join(format!("{PLACE}/{name}.yaml"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &seen).expect("the golden can be written");
    }
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(seen == golden, "{} is not what is rendered:\n{}", path.display(), difference(&golden, &seen));
}

/// From the first line that differs on.
fn difference(golden: &str, seen: &str) -> String {
    let same = golden.lines().zip(seen.lines()).take_while(|(golden, seen)| golden == seen).count();
    let part = |text: &str, sign| -> Vec<String> {
        text.lines().skip(same).take(8).map(|line| format!("{sign} {line}")).collect()
    };
    format!("line {}\n{}\n{}", same + 1, part(golden, '-').join("\n"), part(seen, '+').join("\n"))
}

#[test]
fn without_options() {
    check("default", &[]);
}

#[test]
fn with_images_of_ones_own() {
    check("own-registry", &[]);
}

#[test]
fn strict_and_signed_by_somebody_elses_secret() {
    check("strict-with-an-issuer", &[]);
}

#[test]
fn where_everything_is_denied_by_default() {
    check("denied-by-default", &[]);
}

#[test]
fn observed_by_the_prometheus_operator() {
    check("observed", &MONITORED);
}

#[test]
fn placed_and_sized_by_hand() {
    check("placed", &[]);
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    helm(&["lint", "--strict", "charts/heddle"]).expect("helm lint passes");
}
