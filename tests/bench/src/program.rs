//! Programs, each with a bound in time.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// Between two looks whether a program has ended.
const PAUSE: Duration = Duration::from_millis(5);

/// Of a command line, characters in messages.
const MOST_SHOWN: usize = 300;

/// Runs a program to its end; what it wrote to standard output, if it succeeded.
pub fn run(command: Command, limit: Duration) -> Result<String> {
    Ok(Running::start(command)?.finish(limit)?.out)
}

/// What a program wrote.
#[derive(Debug)]
pub struct Written {
    /// To standard output.
    pub out: String,
    /// To standard error.
    pub err: String,
}

/// Looks again and again until there is something to see. The last reason for seeing nothing is in the error.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        match look() {
            Ok(seen) => return Ok(seen),
            Err(why) if began.elapsed() > limit => {
                return Err(why).with_context(|| format!("{what}: not within {} s", limit.as_secs()));
            }
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// A program that runs; it is killed when this is dropped.
pub struct Running {
    child: Child,
    what: String,
    out: Option<JoinHandle<String>>,
    err: Option<JoinHandle<String>>,
}

impl Running {
    /// Starts it, with nothing to read.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null());
        let mut running = Self::spawn(command)?;
        running.out = running.child.stdout.take().map(collect);
        running.err = running.child.stderr.take().map(collect);
        Ok(running)
    }

    fn spawn(mut command: Command) -> Result<Self> {
        let what: String = format!("{command:?}").replace('"', "").chars().take(MOST_SHOWN).collect();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.with_context(|| format!("cannot start {what}"))?;
        Ok(Self { child, what, out: None, err: None })
    }

    /// Waits for its end; what it wrote, if it succeeded.
    pub fn finish(mut self, limit: Duration) -> Result<Written> {
        let status = self.wait(limit);
        // A program that is too slow has said something, too; it must be gone before that can be read.
        self.end();
        let (out, err) = (said(self.out.take()), said(self.err.take()));
        let status = status.with_context(|| format!("{}\n{err}", self.what))?;
        ensure!(status.success(), "{}: {status}\n{}\n{}", self.what, out.trim_end(), err.trim_end());
        Ok(Written { out, err })
    }

    fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if began.elapsed() > limit {
                bail!("not done within {} s", limit.as_secs());
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// A program that says a line when it has got somewhere, and stays there until its standard input ends.
pub struct Holding {
    running: Running,
    input: Option<ChildStdin>,
    /// The line.
    pub said: String,
}

impl Holding {
    /// Starts it; returns when it has said its line.
    pub fn start(mut command: Command, limit: Duration) -> Result<Self> {
        command.stdin(Stdio::piped());
        let mut running = Running::spawn(command)?;
        running.err = running.child.stderr.take().map(collect);
        let input = running.child.stdin.take();
        let out = running.child.stdout.take().context("its output is piped")?;
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let _ = BufReader::new(out).read_line(&mut line);
            let _ = sender.send(line);
        });
        let line = receiver.recv_timeout(limit).unwrap_or_default();
        if line.is_empty() {
            running.end();
            let last = said(running.err.take());
            bail!("{}: said nothing\n{last}", running.what);
        }
        Ok(Self { running, input, said: line })
    }

    /// Lets it go, and waits for its end.
    pub fn release(mut self, limit: Duration) -> Result<()> {
        drop(self.input.take());
        self.running.finish(limit).map(drop)
    }
}

/// Reads all that comes, so that no program waits for a reader.
fn collect(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn said(reader: Option<JoinHandle<String>>) -> String {
    reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failure_says_what_the_program_said() {
        let error = run(shell("echo alas >&2; exit 3"), SOON).expect_err("it failed");
        assert!(format!("{error:#}").contains("alas"), "{error:#}");
    }

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let error = run(shell("echo began >&2; exec sleep 60"), Duration::from_millis(50)).expect_err("late");
        assert!(format!("{error:#}").contains("began"), "{error:#}");
    }

    #[test]
    fn a_holding_program_stays_until_it_is_released() {
        let mut holding = Holding::start(shell("echo here; cat"), SOON).expect("a line");
        assert_eq!(holding.said, "here\n");
        assert!(matches!(holding.running.child.try_wait(), Ok(None)));
        holding.release(SOON).expect("its end");
    }
}
