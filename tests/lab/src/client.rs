//! The commands' side of the socket: ask, show progress, return the answer.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::container;
use crate::down;
use crate::manifest::parse;
use crate::paths::{Place, ROOT};
use crate::process::Recorded;
use crate::protocol::{PodName, Reply, Request, Source, Target};
use crate::validate::validate;
use crate::world::Settings;

/// How long a supervisor takes at most to be there.
const START: Duration = Duration::from_secs(20);

/// Asks the world's supervisor; progress goes to standard error.
pub fn ask(place: &Place, request: &Request) -> Result<Value> {
    let mut stream = match UnixStream::connect(place.socket()) {
        Ok(stream) => stream,
        Err(_) if place.dir().exists() => {
            bail!("world {} has crashed: `lab up` starts it afresh, `lab down` clears it away", place.world)
        }
        Err(_) => bail!("there is no world {}: start it with `lab up`", place.world),
    };
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line?)? {
            Reply::Progress(text) => eprintln!("{text}"),
            Reply::Done(value) => return Ok(value),
            Reply::Failed(why) => bail!(why),
        }
    }
    bail!("the world ended before it answered (see {})", place.supervisor_log().display())
}

/// Starts a world.
pub fn up(place: &Place, settings: &Settings, timeout: u64, files: &[PathBuf]) -> Result<()> {
    let sources = read(files)?;
    parse(&sources).and_then(validate).map_err(anyhow::Error::msg)?;
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab makes network namespaces, so it needs root");
    }
    if down::is_up(place) {
        bail!("world {} is up already: change it with `lab apply`, or end it with `lab down`", place.world);
    }
    if down::clear(place)? {
        eprintln!("cleared away what an earlier world {} had left", place.world);
    }
    start_supervisor(place, settings)?;
    let done = ask(place, &Request::Up { sources, timeout });
    done.context("the world is up, but not as it should be (`lab ps`, `lab logs`, `lab down`)")?;
    eprintln!("world {} is up", place.world);
    Ok(())
}

fn start_supervisor(place: &Place, settings: &Settings) -> Result<()> {
    fs::create_dir_all(place.dir()).with_context(|| format!("cannot make {ROOT}"))?;
    let file = place.dir().join("settings.json");
    fs::write(&file, serde_json::to_vec(settings)?)?;
    let log = fs::File::create(place.supervisor_log())?;
    let mut child = Command::new("/proc/self/exe")
        .args([Path::new("supervise"), &file])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the supervisor")?;
    let process = Recorded::of(i32::try_from(child.id())?).context("the supervisor ended at once")?;
    fs::write(place.supervisor(), serde_json::to_vec(&process)?)?;
    let begun = Instant::now();
    while UnixStream::connect(place.socket()).is_err() {
        if child.try_wait()?.is_some() || begun.elapsed() > START {
            bail!("the world could not start: {}", fs::read_to_string(place.supervisor_log())?.trim());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Reads manifests; `-` is standard input.
pub fn read(files: &[PathBuf]) -> Result<Vec<Source>> {
    let read_one = |file: &PathBuf| {
        let name = file.display().to_string();
        let mut text = String::new();
        match name.as_str() {
            "-" => std::io::stdin().read_to_string(&mut text).map(drop),
            _ => fs::read_to_string(file).map(|found| text = found),
        }
        .with_context(|| format!("cannot read {name}"))?;
        Ok(Source { file: name, text })
    };
    files.iter().map(read_one).collect()
}

/// `NAMESPACE/POD`, or `POD` of the namespace `default`.
pub fn pod_name(text: &str) -> PodName {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    PodName { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// Becomes a command in a pod; returns only to say why it could not.
pub fn exec(
    place: &Place,
    pod: &str,
    container: Option<String>,
    stdin: bool,
    command: &[String],
) -> Result<()> {
    let target = ask(place, &Request::Target { pod: pod_name(pod), container })?;
    let target: Target = serde_json::from_value(target)?;
    if !stdin {
        nix::unistd::dup2_stdin(fs::File::open("/dev/null")?)?;
    }
    container::enter(&target, command)
}

/// Prints a log, and with `follow` what is added to it.
pub fn logs(place: &Place, pod: Option<&str>, container: Option<String>, follow: bool) -> Result<()> {
    let path = ask(place, &Request::LogFile { pod: pod.map(pod_name), container })?;
    let path = path.as_str().context("no file")?;
    let mut out = std::io::stdout().lock();
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(_) if !follow => bail!("it has not started yet, so there is no log"),
        Err(_) => fs::OpenOptions::new().create(true).append(true).read(true).open(path)?,
    };
    loop {
        std::io::copy(&mut file, &mut out)?;
        out.flush()?;
        if !follow {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
