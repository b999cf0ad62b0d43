//! The TCP client: plays a dialogue of steps, once or many times, and counts who answered, and how long the server's
//! first byte took. The server can play one, too.
//!
//! Steps: `send TEXT` (with `\r`, `\n`, `\t`), `expect TEXT` (reads until it has arrived), `line` (reads a
//! line; it names the server), `round BYTES` (sends so many and reads the same back, both at once), `wait MS`
//! (is silent), `meet` (waits until all dialogues played together have come this far, and says so on standard
//! error), `shut` (closes its own direction), `eof` (reads to the end), `broken` (reads to a reset, and takes no clean
//! end for one), `refused` (sends until that is refused), `reset` (ends the connection with one).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::report::Report;

/// The most that one `expect`, `line` or `eof` reads, bytes.
const MOST: usize = 16 << 20;

/// How often `refused` tries, and how long it waits between.
const TRIES: usize = 500;
const PAUSE: Duration = Duration::from_millis(10);

/// What the client is told.
#[derive(clap::Args, Clone)]
pub struct Options {
    /// Where to: HOST:PORT
    address: String,
    /// The dialogue, one step an argument: 'send hello\n' 'expect hello' line 'wait MS' meet shut eof broken refused reset
    steps: Vec<String>,
    /// How many times, each over a connection of its own
    #[arg(long, default_value_t = 1)]
    times: u64,
    /// Play all of them at once, not one after the other
    #[arg(long)]
    together: bool,
    /// Longest time for one dialogue, in seconds
    #[arg(long, default_value_t = 10)]
    timeout: u64,
    /// Print the counts as JSON, not what was read
    #[arg(long)]
    json: bool,
}

/// Plays the dialogue; fails if any of them failed.
pub async fn run(options: Options) -> Result<()> {
    let steps = options.steps.iter().map(|step| Step::parse(step)).collect::<Result<Vec<_>>>()?;
    let at_once = if options.together { options.times } else { 1 };
    let scene = Arc::new(Scene { steps, meeting: Barrier::new(usize::try_from(at_once)?) });
    let mut report = Report::start();
    let mut playing = JoinSet::new();
    for number in 1..=options.times {
        playing.spawn(play_in_time(Arc::clone(&scene), options.clone()));
        if options.together && number < options.times {
            continue;
        }
        while let Some(played) = playing.join_next().await {
            take(played?, &options, &mut report)?;
        }
    }
    if options.json {
        report.print_json();
    }
    report.verdict()
}

/// What dialogues that are played together share.
pub struct Scene {
    steps: Vec<Step>,
    meeting: Barrier,
}

impl Scene {
    /// For one player.
    pub fn alone(steps: &[String]) -> Result<Self> {
        let steps = steps.iter().map(|step| Step::parse(step)).collect::<Result<Vec<_>>>()?;
        Ok(Self { steps, meeting: Barrier::new(1) })
    }
}

async fn play_in_time(scene: Arc<Scene>, options: Options) -> Result<Heard> {
    let limit = Duration::from_secs(options.timeout);
    let played = tokio::time::timeout(limit, play(&options.address, &scene)).await;
    played.unwrap_or_else(|_| Err(anyhow!("not done within {} s", options.timeout)))
}

/// Counts a dialogue; the failure of a single one is the program's.
fn take(played: Result<Heard>, options: &Options, report: &mut Report) -> Result<()> {
    match played {
        Ok(heard) => {
            show(options, &heard.text);
            report.answered("done", &heard.server);
            heard.first.into_iter().for_each(|took| report.took(took));
        }
        Err(error) if options.times == 1 && !options.json => return Err(error),
        Err(error) => report.failed(&format!("{error:#}")),
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what was read is what the user asked for")]
fn show(options: &Options, text: &[u8]) {
    if !options.json {
        print!("{}", String::from_utf8_lossy(text));
    }
}

enum Step {
    Send(Vec<u8>),
    Expect(Vec<u8>),
    Line,
    Round(usize),
    Wait(Duration),
    Meet,
    Shut,
    Eof,
    Broken,
    Refused,
    Reset,
}

impl Step {
    fn parse(text: &str) -> Result<Self> {
        let (verb, argument) = text.split_once(' ').unwrap_or((text, ""));
        Ok(match verb {
            "send" => Self::Send(unescape(argument)),
            "expect" => Self::Expect(unescape(argument)),
            "line" => Self::Line,
            "round" => Self::Round(argument.parse().context("round BYTES")?),
            "wait" => Self::Wait(Duration::from_millis(argument.parse().context("wait MILLISECONDS")?)),
            "meet" => Self::Meet,
            "shut" => Self::Shut,
            "eof" => Self::Eof,
            "broken" => Self::Broken,
            "refused" => Self::Refused,
            "reset" => Self::Reset,
            _ => bail!(
                "no such step: {text:?}; there are: send TEXT, expect TEXT, line, round BYTES, wait MS, meet, shut, eof, broken, refused, reset"
            ),
        })
    }
}

fn unescape(text: &str) -> Vec<u8> {
    text.replace("\\r", "\r").replace("\\n", "\n").replace("\\t", "\t").into_bytes()
}

/// What a dialogue brought.
#[derive(Default)]
pub struct Heard {
    /// Everything read.
    text: Vec<u8>,
    /// How much of it earlier steps have taken.
    taken: usize,
    /// What the `line` step read.
    server: String,
    /// How long the first of it took, from before the connection was made.
    first: Option<Duration>,
    began: Option<Instant>,
}

async fn play(address: &str, scene: &Scene) -> Result<Heard> {
    let began = Instant::now();
    let stream = TcpStream::connect(address).await.with_context(|| format!("cannot connect to {address}"))?;
    play_on(stream, scene, began).await
}

/// Plays on a connection that was begun then.
pub async fn play_on(mut stream: TcpStream, scene: &Scene, began: Instant) -> Result<Heard> {
    stream.set_nodelay(true)?;
    let mut heard = Heard { began: Some(began), ..Heard::default() };
    for step in &scene.steps {
        match step {
            Step::Send(bytes) => stream.write_all(bytes).await.context("cannot send")?,
            Step::Expect(bytes) => drop(heard.until(&mut stream, bytes).await?),
            Step::Line => {
                let line = heard.until(&mut stream, b"\n").await?;
                line.trim_end().clone_into(&mut heard.server);
            }
            Step::Round(size) => round(&mut stream, *size).await?,
            Step::Wait(time) => tokio::time::sleep(*time).await,
            Step::Meet => meet(&scene.meeting).await,
            Step::Shut => stream.shutdown().await.context("cannot close")?,
            Step::Eof => while heard.more(&mut stream).await? {},
            Step::Broken => heard.broken(&mut stream).await?,
            Step::Refused => refused(&mut stream).await?,
            // Closing with no time to linger is a reset.
            Step::Reset => stream.set_zero_linger()?,
        }
    }
    Ok(heard)
}

async fn meet(meeting: &Barrier) {
    if meeting.wait().await.is_leader() {
        eprintln!("all have met");
    }
}

/// Sends until the other side refuses it: once it has ended its own direction, no read tells its reset.
async fn refused(stream: &mut TcpStream) -> Result<()> {
    for _ in 0..TRIES {
        if stream.write_all(b"more").await.is_err() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    bail!("everything was taken, none refused")
}

/// Sends so many bytes while it reads them back.
async fn round(stream: &mut TcpStream, size: usize) -> Result<()> {
    // No short period, so that a lost or doubled piece shows.
    let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
    let mut back = vec![0; size];
    let (mut from, mut to) = stream.split();
    let (sent, read) = tokio::join!(to.write_all(&bytes), from.read_exact(&mut back));
    sent.context("cannot send")?;
    read.context("not all came back")?;
    if back == bytes { Ok(()) } else { bail!("what came back is not what was sent") }
}

impl Heard {
    /// Reads until `mark` has arrived; what came before it and it.
    async fn until(&mut self, stream: &mut TcpStream, mark: &[u8]) -> Result<String> {
        loop {
            let fresh = self.text.get(self.taken..).unwrap_or_default();
            if let Some(at) = fresh.windows(mark.len().max(1)).position(|window| window == mark) {
                let text = String::from_utf8_lossy(&fresh[..at + mark.len()]).into_owned();
                self.taken += at + mark.len();
                return Ok(text);
            }
            if !self.more(stream).await? {
                bail!("closed before {:?} came", String::from_utf8_lossy(mark));
            }
        }
    }

    /// Reads once; false at the end.
    async fn more(&mut self, stream: &mut TcpStream) -> Result<bool> {
        if self.text.len() > MOST {
            bail!("more than {MOST} bytes");
        }
        Ok(self.read(stream).await.context("cannot read")? > 0)
    }

    /// Reads to a reset.
    async fn broken(&mut self, stream: &mut TcpStream) -> Result<()> {
        loop {
            match self.read(stream).await {
                Ok(0) => bail!("a clean end, not a reset"),
                Ok(_) => (),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error).context("not a reset"),
            }
        }
    }

    async fn read(&mut self, stream: &mut TcpStream) -> io::Result<usize> {
        let read = stream.read_buf(&mut self.text).await?;
        self.first = self.first.or_else(|| self.began.map(|began| began.elapsed()));
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_are_written_as_escapes() {
        assert_eq!(unescape("a\\r\\n\\tb"), b"a\r\n\tb");
    }

    #[test]
    fn an_unknown_step_is_refused_with_those_that_exist() {
        let error = Step::parse("sned x").err().map(|error| error.to_string());
        assert!(error.is_some_and(|text| text.contains("send TEXT")));
    }
}
