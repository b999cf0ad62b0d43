//! Before any number counts: what crosses the node is looked at while each subject carries a marked request and a marked
//! message. Between meshed pods the mark must not be found, between the others it must: a check that cannot fail proves
//! nothing.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::options::Plan;
use crate::program::{run, until};
use crate::scenario::{ECHO, HTTP};
use crate::stage::Stage;
use crate::subject::Subject;

/// A request takes milliseconds, tcpdump to begin a little longer.
const SOON: Duration = Duration::from_secs(15);
/// How much of a packet is written, in bytes: each has a place of that size in the kernel, and with whole packets there were
/// eight places.
const HEAD: &str = "2048";
/// Room for packets that tcpdump has not written yet.
const ROOM_KIB: &str = "8192";

/// What a marked message is filled up to: as long as the server's echo wants it.
const MESSAGE: &str = "exec 3<>/dev/tcp/\"$0\"/\"$1\" && printf %-100s \"$2\" >&3 && head -c 100 <&3";
/// A datagram, which no sidecar captures: when it has been written, so has all that came before.
const DATAGRAM: &str = "printf %s \"$1\" >/dev/udp/\"$0\"/9";

/// Looks at the wire of every subject.
pub fn check(stage: &Stage, plan: &Plan) -> Result<()> {
    for &subject in &plan.subjects {
        let capture = Capture::start(stage)?;
        let marks = [mark(subject, "request"), mark(subject, "message")];
        request(stage, subject, &marks[0])?;
        message(stage, subject, &marks[1])?;
        let last = mark(subject, "end");
        datagram(stage, subject, &last)?;
        until("tcpdump has written all of it", SOON, || capture.has(&last))?;
        let packets = capture.stop()?;
        for mark in marks {
            judge(subject, &mark, contains(&packets, mark.as_bytes()))?;
        }
    }
    eprintln!("bench: the wire: readable where nothing encrypts, and nowhere else");
    Ok(())
}

fn mark(subject: Subject, what: &str) -> String {
    format!("marked-{what}-of-{}", subject.name())
}

fn judge(subject: Subject, mark: &str, seen: bool) -> Result<()> {
    let name = subject.name();
    ensure!(
        !(seen && subject.encrypts()),
        "{mark:?} crossed the node in plaintext between the pods of {name}"
    );
    ensure!(seen || subject.encrypts(), "{mark:?} of {name} was not seen: the capture does not work");
    Ok(())
}

fn request(stage: &Stage, subject: Subject, mark: &str) -> Result<()> {
    let url = format!("http://{}:{HTTP}/", subject.service_ip());
    let header = format!("x-mark: {mark}");
    let options = ["curl", "-sS", "--fail", "--max-time", "10", "-o", "/dev/null", "-H", &header, &url];
    run(stage.in_client(subject, &options), SOON).map(drop)
}

fn message(stage: &Stage, subject: Subject, mark: &str) -> Result<()> {
    let port = ECHO.to_string();
    let words = ["bash", "-c", MESSAGE, subject.service_ip(), &port, mark];
    let answer = run(stage.in_client(subject, &words), SOON)?;
    ensure!(answer.trim_end() == mark, "{} answered a message with {answer:?}", subject.name());
    Ok(())
}

fn datagram(stage: &Stage, subject: Subject, mark: &str) -> Result<()> {
    run(stage.in_client(subject, &["bash", "-c", DATAGRAM, subject.service_ip(), mark]), SOON).map(drop)
}

fn contains(packets: &[u8], mark: &[u8]) -> bool {
    packets.windows(mark.len()).any(|window| window == mark)
}

/// tcpdump in the namespace that all packets between pods cross.
struct Capture {
    tcpdump: Child,
    file: PathBuf,
}

impl Capture {
    /// Returns when it listens.
    fn start(stage: &Stage) -> Result<Self> {
        let file = stage.folder().join("wire.pcap");
        let messages = stage.folder().join("tcpdump.log");
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", stage.node().display()));
        command.args(["tcpdump", "-i", "any", "-U", "-Z", "root", "--immediate-mode"]);
        command.args(["-s", HEAD, "-B", ROOM_KIB, "-w"]).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&messages)?);
        let tcpdump = command.spawn().context("cannot start tcpdump")?;
        let capture = Self { tcpdump, file };
        until("tcpdump listens", SOON, || listens(&messages))?;
        Ok(capture)
    }

    fn has(&self, mark: &str) -> Result<()> {
        ensure!(contains(&fs::read(&self.file)?, mark.as_bytes()), "{mark:?} was not seen");
        Ok(())
    }

    fn stop(mut self) -> Result<Vec<u8>> {
        kill(Pid::from_raw(i32::try_from(self.tcpdump.id())?), Signal::SIGINT)?;
        self.tcpdump.wait().context("tcpdump")?;
        let packets = fs::read(&self.file).context("tcpdump wrote nothing")?;
        fs::remove_file(&self.file)?;
        Ok(packets)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if matches!(self.tcpdump.try_wait(), Ok(None)) {
            let _ = self.tcpdump.kill();
            let _ = self.tcpdump.wait();
        }
    }
}

fn listens(messages: &Path) -> Result<()> {
    let said = fs::read_to_string(messages)?;
    ensure!(said.contains("listening on"), "it says {said:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_between_meshed_pods_stops_the_run() {
        assert!(judge(Subject::Heddle, "m", true).is_err());
        assert!(judge(Subject::Envoy, "m", false).is_ok());
    }

    #[test]
    fn a_capture_that_sees_nothing_stops_the_run() {
        assert!(judge(Subject::Direct, "m", false).is_err());
        assert!(judge(Subject::Floor, "m", true).is_ok());
    }

    #[test]
    fn a_mark_is_found_wherever_it_is() {
        assert!(contains(b"\x00\x01marked\xff", b"marked"));
        assert!(!contains(b"mark", b"marked"));
    }
}
