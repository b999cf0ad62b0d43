//! The conformance programs of `tests/tools`: h2spec, and gRPC's interop client and server.

use std::collections::HashMap;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::run;

/// For the first run, which builds them.
const BUILT: Duration = Duration::from_secs(600);

/// The path of one of them: in `HEDDLE_TOOLS`, or where `tests/tools/build.sh` keeps what it built.
pub fn tool(name: &str) -> Result<String> {
    static PLACE: OnceLock<Result<String, String>> = OnceLock::new();
    match PLACE.get_or_init(|| place().map_err(|error| format!("{error:#}"))) {
        Ok(place) => Ok(format!("{place}/{name}")),
        Err(error) => Err(anyhow!("{error}")),
    }
}

fn place() -> Result<String> {
    if let Ok(place) = std::env::var("HEDDLE_TOOLS") {
        return Ok(place);
    }
    let build = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/build.sh"));
    Ok(run(build, BUILT)?.good()?.out.trim_end().to_owned())
}

/// What h2spec found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Conformance {
    /// How many cases ran.
    pub cases: usize,
    /// Those that failed, each with what was seen: `http2/3.5/2` is the second case of section 3.5.
    pub failed: Vec<(String, String)>,
}

impl Conformance {
    /// Of h2spec's JUnit report: a line for each case, what went wrong below it.
    pub fn parse(report: &str) -> Self {
        let (mut found, mut numbers) = (Self::default(), HashMap::new());
        let mut case = String::new();
        for line in report.lines().map(str::trim) {
            if let Some(section) = line.strip_prefix("<testcase package=\"").and_then(|l| l.split('"').next())
            {
                let number = numbers.entry(section.to_owned()).or_insert(0);
                *number += 1;
                case = format!("{section}/{number}");
                found.cases += 1;
            }
            if let Some(expected) = ["<error>", "<failure>"].iter().find_map(|tag| line.split_once(tag)) {
                found.failed.push((case.clone(), format!("expected {}", expected.1)));
            } else if let Some(seen) =
                ["</error>", "</failure>"].iter().find_map(|tag| line.strip_suffix(tag))
            {
                found.failed.last_mut().into_iter().for_each(|failed| failed.1 += &format!(", saw {seen}"));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_failed_is_named_by_its_section_and_place() {
        let report = r#"<testsuites>
  <testsuite name="3.5. Preface" package="http2/3.5" id="3.5" tests="2" skipped="0" failures="0" errors="1">
    <testcase package="http2/3.5" classname="Sends client connection preface" time="0.0004"></testcase>
    <testcase package="http2/3.5" classname="Sends invalid connection preface" time="0.0005">
      <error>Connection closed
Error: unexpected EOF</error>
    </testcase>
  </testsuite>
  <testsuite name="4.1. Frame Format" package="http2/4.1" id="4.1" tests="1" skipped="0" failures="0" errors="0">
    <testcase package="http2/4.1" classname="Sends a frame with unknown type" time="0.0015"></testcase>
  </testsuite>
</testsuites>"#;
        let seen = "expected Connection closed, saw Error: unexpected EOF".to_owned();
        assert_eq!(
            Conformance::parse(report),
            Conformance { cases: 3, failed: vec![("http2/3.5/2".to_owned(), seen)] }
        );
    }
}
