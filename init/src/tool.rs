//! Debian's four iptables programs (two families, two back ends), as children of this one.

use std::fmt;
use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

use crate::rules::Family;

/// Where iptables lives when PATH, as in many minimal images, leaves it out.
const SYSTEM_PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

/// Legacy iptables locks a file; the container's root is read-only, and what must not change at
/// the same time is this network namespace: so the namespace itself is the file.
const LOCK: &str = "/proc/self/ns/net";

/// Seconds to wait for that lock.
const LOCK_WAIT: &str = "10";

/// The kernel has two iptables, each with rules of its own that the other does not see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// Over nf_tables.
    Nft,
    /// Over the older ip_tables.
    Legacy,
}

/// Why a tool did not do what it should.
#[derive(Debug, thiserror::Error)]
#[error("{tool} failed: {reason}")]
pub struct ToolError {
    /// The program's name.
    pub tool: Box<str>,
    /// What it said, on one line.
    pub reason: Box<str>,
    /// The rule that it named as the culprit.
    pub rule: Option<Box<str>>,
}

/// What `restore` does to the rest of the table.
#[derive(Clone, Copy, Debug)]
pub enum Rest {
    /// Other chains and rules stay.
    Kept,
    /// The table becomes exactly what the text says.
    Replaced,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nft => "nft",
            Self::Legacy => "legacy",
        })
    }
}

impl Backend {
    /// Every table that exists, as `iptables-save` prints it. Asks for no table by name: that
    /// would create it, and a rule-less legacy table makes every later `iptables-nft` warn.
    pub fn save(self, family: Family) -> Result<String, ToolError> {
        let tool = self.tool(family, "save");
        let output = command(&tool).stdin(Stdio::null()).output();
        let output = checked(&tool, output, "")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same with the packet counter of every rule in front of it.
    pub fn save_counters(self, family: Family) -> Result<String, ToolError> {
        let tool = self.tool(family, "save");
        let output = command(&tool).args(["-c", "-t", "nat"]).stdin(Stdio::null()).output();
        let output = checked(&tool, output, "")?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies `text` in one transaction of the kernel: all of it or nothing.
    pub fn restore(self, family: Family, text: &str, rest: Rest) -> Result<(), ToolError> {
        let tool = self.tool(family, "restore");
        let mut command = command(&tool);
        command.args(["-w", LOCK_WAIT]);
        if matches!(rest, Rest::Kept) {
            command.arg("--noflush");
        }
        checked(&tool, feed(&mut command, text), text).map(drop)
    }

    fn tool(self, family: Family, verb: &str) -> String {
        let program = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        format!("{program}-{self}-{verb}")
    }
}

fn command(tool: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(tool);
    command.env("PATH", format!("{path}:{SYSTEM_PATH}")).env("LC_ALL", "C").env("XTABLES_LOCKFILE", LOCK);
    command
}

fn feed(command: &mut Command, text: &str) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // A tool that refuses early closes its end; its message says more than the broken pipe.
    let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    if output.status.success() { written.map(|()| output) } else { Ok(output) }
}

fn checked(tool: &str, output: io::Result<Output>, text: &str) -> Result<Output, ToolError> {
    let failed = |reason: String, rule: Option<&str>| ToolError {
        tool: tool.into(),
        reason: reason.into(),
        rule: rule.map(Into::into),
    };
    let output = output.map_err(|error| failed(unstarted(&error), None))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = one_line(&said).unwrap_or_else(|| output.status.to_string());
    Err(failed(reason, culprit(&said, text)))
}

fn unstarted(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        return "there is no such program; the image needs Debian's package iptables".to_owned();
    }
    error.to_string()
}

/// What the tool said without its advice to read its manual.
fn one_line(said: &str) -> Option<String> {
    let useful = |line: &&str| !line.is_empty() && !line.starts_with("Try `");
    let lines: Vec<_> = said.lines().map(str::trim).filter(useful).take(4).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// The line of `text` that the tool names: "line 9 failed", "line 9: RULE_APPEND failed", "at line: 9".
fn culprit<'t>(said: &str, text: &'t str) -> Option<&'t str> {
    let after = said.split("line").skip(1).find_map(|rest| {
        let digits: String =
            rest.trim_start_matches([':', ' ']).chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<usize>().ok()
    })?;
    let line = text.lines().nth(after.checked_sub(1)?)?;
    line.starts_with("-A ").then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(said: &str, reason: &str, rule: Option<&str>) {
        let text = "*nat\n:A - [0:0]\n-A A -m owner --uid-owner 1 -j RETURN\nCOMMIT\n";
        assert_eq!(one_line(said).as_deref(), Some(reason));
        assert_eq!(culprit(said, text), rule);
    }

    #[test]
    fn nft_names_the_rule_that_failed() {
        let said = "iptables-nft-restore: line 3: RULE_APPEND failed (No such file or directory)\n";
        check(said, said.trim(), Some("-A A -m owner --uid-owner 1 -j RETURN"));
    }

    #[test]
    fn a_failed_commit_names_no_rule() {
        check("iptables-restore: line 4 failed\n", "iptables-restore: line 4 failed", None);
    }

    #[test]
    fn the_advice_to_read_the_manual_is_left_out() {
        let said = "unable to initialize table 'nat'\nError occurred at line: 1\nTry `iptables-restore -h'\n";
        check(said, "unable to initialize table 'nat'; Error occurred at line: 1", None);
    }
}
