//! What the documents promise exists: each test that `docs/what-changes.md` names is a rule of that world.

use std::path::Path;

use anyhow::{Context, Result};

#[test]
fn every_row_of_what_changes_names_tests_that_exist() -> Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(here.join("../../docs/what-changes.md"))?;
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ") && line.contains('`')).collect();
    assert!(rows.len() > 20, "only {} rows found", rows.len());
    for row in rows {
        let proof = row.trim_end_matches(" |").rsplit("| ").next().context("a last column")?;
        check(here, proof).with_context(|| row.to_owned())?;
    }
    Ok(())
}

/// Like: `world`: `a_rule`, `another_rule`; `other_world`: `its_rule`.
fn check(here: &Path, proof: &str) -> Result<()> {
    for part in proof.split("; ") {
        let mut names = part.split('`').skip(1).step_by(2);
        let world = names.next().context("a world")?;
        let rules = std::fs::read_to_string(here.join(format!("tests/{world}.rs")))?;
        for name in names {
            anyhow::ensure!(rules.contains(&format!("fn {name}(")), "{world} has no rule {name}");
        }
    }
    Ok(())
}
