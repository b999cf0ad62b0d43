//! One golden per option set: the command on the first line, then what it prints. Set
//! UPDATE_GOLDENS=1 to write them anew, and read the difference.

use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn every_option_set_prints_its_golden() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let mut files: Vec<PathBuf> =
        directory.read_dir().expect("goldens").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() >= 5, "the goldens are gone from {}", directory.display());
    files.iter().for_each(|file| check(file));
}

#[track_caller]
fn check(file: &Path) {
    let golden = std::fs::read_to_string(file).expect("a readable golden");
    let command = golden.lines().next().and_then(|line| line.strip_prefix("$ heddle-init"));
    let command = command.expect("the first line is the command");
    let output = Command::new(env!("CARGO_BIN_EXE_heddle-init"))
        .args(command.split_whitespace())
        .output()
        .expect("runs");
    let printed = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let actual = format!("$ heddle-init{command}\n{printed}");
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        std::fs::write(file, &actual).expect("a writable golden");
        return;
    }
    assert_eq!(golden, actual, "{}", file.display());
}
