//! The control plane's process: the program that ships, over a directory of manifests, on ports of loopback.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::RANGES;
use crate::link::Target;
use crate::process::{self, Memory};

/// For reading all of the manifests.
const READY: Duration = Duration::from_secs(300);
/// Between two looks at whether it is ready.
const GLANCE: Duration = Duration::from_millis(20);

/// A control plane that runs; it ends when this is dropped.
pub struct Injector {
    child: Child,
    home: PathBuf,
    /// Of the control port, the webhook, the metrics and the health port.
    ports: [u16; 4],
}

impl Injector {
    /// Starts it over `manifests`, with its own files in `home`; returns when it is ready.
    pub fn start(program: &Path, manifests: &Path, home: &Path, token_key: &str) -> Result<Self> {
        fs::write(home.join("token.pem"), token_key)?;
        let log = fs::File::create(home.join("log"))?;
        let mut command = Command::new(program);
        command.arg("--manifests").arg(manifests);
        for (flag, file) in [
            ("token-key", "token.pem"),
            ("state", "state"),
            ("bundle-out", "root.pem"),
            ("ports-out", "ports"),
        ] {
            command.arg(format!("--{flag}")).arg(home.join(file));
        }
        command.args(RANGES.iter().flat_map(|range| ["--cluster-cidr", range]));
        command.args(["--listen", "127.0.0.1", "--log", "warn"]);
        for port in ["control", "webhook", "metrics", "health"] {
            command.args([&format!("--{port}-port"), "0"]);
        }
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let child = child.with_context(|| format!("cannot start {}", program.display()))?;
        let mut injector = Self { child, home: home.to_owned(), ports: [0; 4] };
        injector.wait_until_ready()?;
        Ok(injector)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.home.join("log")).unwrap_or_default();
                bail!("the control plane ended ({status}): {}", log.lines().last().unwrap_or_default());
            }
            if let Some(ports) = fs::read_to_string(self.home.join("ports")).ok().as_deref().and_then(parse) {
                self.ports = ports;
                if self.page(3, "/ready").is_ok() {
                    return Ok(());
                }
            }
            ensure!(began.elapsed() < READY, "the control plane is not ready after {READY:?}");
            thread::sleep(GLANCE);
        }
    }

    /// How its sidecars reach it.
    pub fn target(&self) -> Result<Target> {
        let bundle = fs::read(self.home.join("root.pem")).context("the control plane wrote no roots")?;
        Target::new(self.at(0), &bundle)
    }

    /// The CPU time that it has used.
    pub fn cpu(&self) -> Result<Duration> {
        process::cpu(self.child.id())
    }

    /// The memory that it holds.
    pub fn memory(&self) -> Result<Memory> {
        process::memory(self.child.id())
    }

    /// How many watches it says are open.
    pub fn watches(&self) -> Result<usize> {
        let page = self.page(2, "/metrics")?;
        let line = page.lines().find_map(|line| line.strip_prefix("heddle_injector_watches "));
        line.and_then(|count| count.trim().parse().ok())
            .context("the control plane does not count its watches")
    }

    /// A page of one of its ports without TLS, answered with 200.
    fn page(&self, port: usize, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.at(port))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        Ok(answer)
    }

    fn at(&self, port: usize) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[port]).into()
    }
}

impl Drop for Injector {
    fn drop(&mut self) {
        // One that has ended already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// "control webhook metrics health"
fn parse(ports: &str) -> Option<[u16; 4]> {
    let ports: Vec<u16> = ports.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    ports.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_once_all_are_there() {
        assert_eq!(parse("1 2 3 4"), Some([1, 2, 3, 4]));
        assert_eq!(parse("1 2"), None);
        assert_eq!(parse(""), None);
    }
}
