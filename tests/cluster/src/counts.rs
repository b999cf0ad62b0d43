//! What a workload that calls all its life has counted: each line of its log that is JSON is a count.

use anyhow::{Result, ensure};
use e2e::Load;

/// The counts of a log.
///
/// # Errors
/// When a line is none.
pub fn counts(log: &str) -> Result<Vec<Load>> {
    log.lines().filter(|line| line.starts_with('{')).map(Load::parse).collect()
}

/// Something was asked, and nothing has failed.
///
/// # Errors
/// When nothing was asked.
#[track_caller]
pub fn check_nothing_failed(log: &str) -> Result<()> {
    let counts = counts(log)?;
    ensure!(
        counts.iter().map(Load::answered).sum::<u64>() > 0 || counts.iter().any(|count| count.failed() > 0),
        "nothing was asked: {}",
        log.chars().take(300).collect::<String>()
    );
    for count in &counts {
        assert_eq!(count.failed(), 0, "{:?} {count:?}", count.errors());
    }
    Ok(())
}
