//! Probes and lifecycle hooks. A new container is probed at once and then often until it first succeeds, so that
//! starting is quick; from then on with its own period.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use k8s_openapi::api::core::v1::{Container, ExecAction, HTTPGetAction, LifecycleHandler, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep, timeout};

use super::PodRun;
use crate::endpoints::named_port;
use crate::protocol::Target;
use crate::requests;
use crate::world::World;

/// Between attempts before the first success.
const QUICK: Duration = Duration::from_millis(100);

/// For so long a readiness probe that never succeeded is tried often.
const HOPEFUL: Duration = Duration::from_secs(60);

/// What watching a container finds out.
#[derive(Debug)]
pub enum Event {
    /// The startup probe succeeded (or there is none).
    Started,
    /// Readiness changed.
    Ready(bool),
    /// The container is to be ended; why.
    Unhealthy(String),
}

/// One container's probes, with what they need.
pub struct Watched {
    /// The world.
    pub world: Rc<World>,
    /// The pod.
    pub run: Rc<PodRun>,
    /// The container's manifest.
    pub container: Container,
    /// Its process, for exec.
    pub target: Target,
}

impl Watched {
    /// Watches until dropped; the first failure of postStart, startup or liveness is the last event.
    pub async fn watch(&self, events: UnboundedSender<Event>) {
        // Nobody listens any more when the container has ended.
        let tell = |event| drop(events.send(event));
        if let Some(hook) = self.container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref())
            && let Err(why) = self.hook(hook).await
        {
            return tell(Event::Unhealthy(format!("postStart failed: {why}")));
        }
        if let Some(probe) = &self.container.startup_probe
            && let Err(why) = self.startup(probe).await
        {
            return tell(Event::Unhealthy(format!("the startup probe failed: {why}")));
        }
        tell(Event::Started);
        let readiness = async {
            match &self.container.readiness_probe {
                None => tell(Event::Ready(true)),
                Some(probe) => self.readiness(probe, &tell).await,
            }
        };
        let liveness = async {
            match &self.container.liveness_probe {
                None => std::future::pending().await,
                Some(probe) => tell(Event::Unhealthy(format!(
                    "the liveness probe failed: {}",
                    self.liveness(probe).await
                ))),
            }
        };
        tokio::join!(readiness, liveness);
    }

    async fn startup(&self, probe: &Probe) -> Result<(), String> {
        sleep(seconds(probe.initial_delay_seconds, 0)).await;
        // What failureThreshold attempts a period apart would take.
        let patience = seconds(probe.period_seconds, 10) * threshold(probe.failure_threshold, 3);
        let deadline = Instant::now() + patience;
        loop {
            match self.attempt(probe).await {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() > deadline => return Err(why),
                Err(_) => sleep(QUICK).await,
            }
        }
    }

    async fn readiness(&self, probe: &Probe, tell: &impl Fn(Event)) {
        sleep(seconds(probe.initial_delay_seconds, 0)).await;
        let (mut ready, mut ever, mut streak) = (false, false, 0);
        let begun = Instant::now();
        loop {
            let good = self.attempt(probe).await.is_ok();
            streak = if good == ready { 0 } else { streak + 1 };
            let needed = threshold(
                if good { probe.success_threshold } else { probe.failure_threshold },
                if good { 1 } else { 3 },
            );
            if streak >= needed {
                (ready, ever, streak) = (good, true, 0);
                tell(Event::Ready(ready));
            }
            let hopeful = !ever && begun.elapsed() < HOPEFUL;
            sleep(if hopeful { QUICK } else { seconds(probe.period_seconds, 10) }).await;
        }
    }

    async fn liveness(&self, probe: &Probe) -> String {
        sleep(seconds(probe.initial_delay_seconds, 0)).await;
        let mut failures = 0;
        loop {
            sleep(seconds(probe.period_seconds, 10)).await;
            match self.attempt(probe).await {
                Ok(()) => failures = 0,
                Err(why) => {
                    failures += 1;
                    if failures >= threshold(probe.failure_threshold, 3) {
                        return why;
                    }
                }
            }
        }
    }

    async fn attempt(&self, probe: &Probe) -> Result<(), String> {
        let action = async {
            if let Some(exec) = &probe.exec {
                return self.exec(exec).await;
            }
            if let Some(get) = &probe.http_get {
                return self.http(get).await;
            }
            let port = match (&probe.tcp_socket, &probe.grpc) {
                (Some(tcp), _) => self.port(&tcp.port)?,
                // Whether it listens is what the lab looks at; the health service is the program's own matter.
                (None, Some(grpc)) => self.port(&IntOrString::Int(grpc.port))?,
                (None, None) => return Ok(()),
            };
            let host = probe.tcp_socket.as_ref().and_then(|t| t.host.as_deref());
            let to = self.address(host, port)?;
            requests::connect(&self.world.place.node_netns(), to)
                .await
                .map(drop)
                .map_err(|why| format!("{to}: {why:#}"))
        };
        let limit = seconds(probe.timeout_seconds, 1);
        timeout(limit, action).await.unwrap_or_else(|_| Err(format!("no answer in {} s", limit.as_secs())))
    }

    /// Runs a postStart or preStop hook.
    pub async fn hook(&self, hook: &LifecycleHandler) -> Result<(), String> {
        if let Some(exec) = &hook.exec {
            return self.exec(exec).await;
        }
        if let Some(get) = &hook.http_get {
            return self.http(get).await;
        }
        let pause = hook.sleep.as_ref().map_or(0, |s| s.seconds);
        sleep(Duration::from_secs(u64::try_from(pause).unwrap_or_default())).await;
        Ok(())
    }

    async fn exec(&self, exec: &ExecAction) -> Result<(), String> {
        let file = self.world.place.pod(&self.run.uid).join(format!("{}.target.json", self.container.name));
        let text = serde_json::to_vec(&self.target).map_err(|why| why.to_string())?;
        std::fs::write(&file, text).map_err(|why| why.to_string())?;
        let status = tokio::process::Command::new("/proc/self/exe")
            .args([PathBuf::from("enter"), file, PathBuf::from("--")])
            .args(exec.command.iter().flatten())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await
            .map_err(|why| why.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("the command ended with {status}")) }
    }

    async fn http(&self, get: &HTTPGetAction) -> Result<(), String> {
        let to = self.address(get.host.as_deref(), self.port(&get.port)?)?;
        let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
        let mut request =
            http::Request::get(path).header("host", to.to_string()).header("user-agent", "kube-probe/1.35");
        for header in get.http_headers.iter().flatten() {
            request = request.header(&header.name, &header.value);
        }
        if let Some(headers) = request.headers_mut() {
            last_host_wins(headers);
        }
        let request = request.body(Full::new(Bytes::new())).map_err(|why| why.to_string())?;
        let node = self.world.place.node_netns();
        let answer = match get.scheme.as_deref() {
            Some("HTTPS") => {
                let config = requests::trusting_all().map_err(|why| why.to_string())?;
                requests::secure(&node, to, &to.ip().to_string(), config, request).await
            }
            _ => requests::plain(&node, to, request).await,
        };
        match answer {
            Ok((status, _)) if (200..400).contains(&status.as_u16()) => Ok(()),
            Ok((status, _)) => Err(format!("http://{to}{path} answers {status}")),
            Err(why) => Err(format!("http://{to}{path}: {why:#}")),
        }
    }

    fn address(&self, host: Option<&str>, port: u16) -> Result<SocketAddr, String> {
        let ip: IpAddr = match host {
            None | Some("") => self.run.addresses.v4.into(),
            Some(host) => host.parse().map_err(|_| format!("host {host} is not an IP address"))?,
        };
        Ok(SocketAddr::new(ip, port))
    }

    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => {
                named_port(&self.run.pod.borrow(), name).or_else(|| name.parse().ok())
            }
        };
        let number = number.and_then(|n| u16::try_from(n).ok());
        number.ok_or_else(|| format!("there is no port {port:?}"))
    }
}

/// A probe's own Host header replaces ours.
fn last_host_wins(headers: &mut http::HeaderMap) {
    let last = headers.get_all("host").iter().next_back().cloned();
    if let Some(last) = last {
        headers.insert("host", last);
    }
}

fn seconds(value: Option<i32>, default: u32) -> Duration {
    let given = value.filter(|v| *v > 0).and_then(|v| u32::try_from(v).ok());
    Duration::from_secs(given.unwrap_or(default).into())
}

fn threshold(value: Option<i32>, default: u32) -> u32 {
    value.filter(|v| *v > 0).and_then(|v| u32::try_from(v).ok()).unwrap_or(default)
}
