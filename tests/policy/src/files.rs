//! The files that git keeps.

use std::path::PathBuf;
use std::process::Command;

use crate::workspace;

/// A committed text file.
#[derive(Debug)]
pub struct TextFile {
    /// Relative to the root.
    pub path: String,
    /// As it is now.
    pub text: String,
}

/// Every committed file that is text and still there.
pub fn committed() -> Vec<TextFile> {
    let output = Command::new("git").args(["ls-files", "-z"]).current_dir(workspace::root()).output();
    let output = output.expect("git is installed");
    assert!(output.status.success(), "these tests read what is committed: run them in a clone");
    let paths = String::from_utf8(output.stdout).expect("paths are UTF-8");
    let paths = paths.split_terminator('\0').map(str::to_owned);
    paths.filter_map(read).collect()
}

fn read(path: String) -> Option<TextFile> {
    let full: PathBuf = workspace::root().join(&path);
    let text = std::fs::read_to_string(full).ok()?;
    Some(TextFile { path, text })
}
