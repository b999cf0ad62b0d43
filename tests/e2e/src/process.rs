//! Programs with a bound in time.
//!
//! Their output goes to files, not pipes: a program that leaves a child behind cannot hold the test up.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(10);

/// Of a command line, characters in messages.
const MOST_SHOWN: usize = 500;

/// What a program left.
#[derive(Debug)]
pub struct Output {
    /// The command line, for messages.
    pub what: String,
    /// The exit status; none if a signal ended it.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Output {
    /// The output, if the program succeeded.
    pub fn good(self) -> Result<Self> {
        if self.status == Some(0) { Ok(self) } else { bail!("{}", self.describe()) }
    }

    /// The output, if the program failed as it should.
    pub fn bad(self) -> Result<Self> {
        if self.status == Some(0) { bail!("should have failed: {}", self.describe()) } else { Ok(self) }
    }

    fn describe(&self) -> String {
        let Self { what, status, out, err } = self;
        format!("{what}: exit status {status:?}\n{}\n{}", out.trim_end(), err.trim_end())
    }
}

/// Runs a program to its end, but no longer than `limit`.
pub fn run(command: Command, limit: Duration) -> Result<Output> {
    Running::start(command)?.finish(limit)
}

/// Looks again and again until there is something to see, but no longer than `limit`.
/// The last reason for seeing nothing is in the error.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        match look() {
            Ok(seen) => return Ok(seen),
            Err(error) if began.elapsed() > limit => {
                return Err(error).with_context(|| format!("{what}: not within {} s", limit.as_secs()));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// A program that runs; it is killed when this is dropped.
pub struct Running {
    child: Child,
    what: String,
    out: File,
    err: File,
}

impl Running {
    /// Starts it, in a process group of its own.
    pub fn start(mut command: Command) -> Result<Self> {
        let what = shorten(&format!("{command:?}").replace('"', ""));
        let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
        command.stdout(out.try_clone()?).stderr(err.try_clone()?).stdin(Stdio::null()).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {what}"))?;
        Ok(Self { child, what, out, err })
    }

    /// Waits for its end, but no longer than `limit`.
    pub fn finish(mut self, limit: Duration) -> Result<Output> {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status.code();
            }
            if began.elapsed() > limit {
                bail!("{}: not done within {} s\n{}", self.what, limit.as_secs(), self.written()?);
            }
            std::thread::sleep(PAUSE / 5);
        };
        Ok(Output {
            status,
            out: text(&self.out)?,
            err: text(&self.err)?,
            what: std::mem::take(&mut self.what),
        })
    }

    /// What it has written so far.
    pub fn written(&self) -> Result<String> {
        Ok(text(&self.out)? + &text(&self.err)?)
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it as ctrl-C would, and waits.
    pub fn interrupt(self, limit: Duration) -> Result<Output> {
        signal("INT", self.child.id());
        self.finish(limit)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over() {
            signal("KILL", self.child.id());
            let _ = self.child.wait();
        }
    }
}

fn shorten(text: &str) -> String {
    let short: String = text.chars().take(MOST_SHOWN).collect();
    if short.len() < text.len() { short + " ..." } else { short }
}

/// To the program's process group, which it leads.
fn signal(name: &str, group: u32) {
    let _ =
        Command::new("kill").args(["-s", name, "--", &format!("-{group}")]).stderr(Stdio::null()).status();
}

fn text(file: &File) -> Result<String> {
    // The program writes through the same description: its place is the end, and must stay there.
    let mut reader = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))?;
    let mut bytes = Vec::new();
    reader.seek(SeekFrom::Start(0))?;
    reader.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
