//! The control plane's process, and the lab's requests to it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use mesh::contract::{CONTROL_HEALTH_PORT, CONTROL_METRICS_PORT, CONTROL_PORT, TOKEN_AUDIENCE, WEBHOOK_PORT};
use nix::sys::signal::Signal;
use rustls::ClientConfig;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::container::{Bind, Spec, User};
use crate::manifest::Key;
use crate::net::{self, CONTROL, POD_RANGES, SERVICE_RANGES, netns_file};
use crate::paths::write_atomically;
use crate::process::Recorded;
use crate::protocol::{ControlAction, PodName};
use crate::requests;
use crate::store::unix_now;
use crate::world::{LAB_POD, World};

const PROGRAM: &str = "heddle-injector";
const NAME: &str = "heddle-injector.heddle-system.svc";
/// A request that takes longer has failed: the control plane is stopped or stuck.
const PATIENCE: Duration = Duration::from_secs(2);
/// Life of the lab's own token, seconds, and how much of it is left when a new one is made.
const TOKEN_LIFE: u64 = 600;
const TOKEN_REST: u64 = 60;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// It was never started in this world.
    #[default]
    Absent,
    Running(Recorded),
    Stopped(Recorded),
    Exited(Option<i32>),
}

/// The control plane of a world.
#[derive(Default)]
pub struct Control {
    state: RefCell<State>,
    trust: RefCell<Option<(Vec<u8>, Arc<ClientConfig>)>>,
    discovery: requests::Kept,
    /// The lab's own token and when it ends: the control plane verifies a token once, and only so many a second.
    token: RefCell<Option<(String, u64)>>,
}

impl Control {
    /// Whether its program is beside the lab's.
    pub fn available(world: &World) -> bool {
        world.programs.join(PROGRAM).is_file()
    }

    /// Starts it in a namespace of its own.
    pub fn start(&self, world: &Rc<World>) -> Result<()> {
        if !Self::available(world) {
            bail!("there is no {PROGRAM} in {}: build it first", world.programs.display());
        }
        let netns = world.place.control_netns();
        if !netns_file(&netns).exists() {
            net::make_pod(&world.place, &netns, "control", CONTROL)?;
        }
        let spec = spec(world)?;
        let file = world.place.dir().join("control.json");
        write_atomically(&world.place.staging(), &file, &serde_json::to_vec(&spec)?)?;
        let log = OpenOptions::new().create(true).append(true).open(world.place.control_log())?;
        let child = Command::new("/proc/self/exe")
            .args([PathBuf::from("container"), file])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the control plane")?;
        let pid =
            child.id().and_then(|pid| i32::try_from(pid).ok()).context("the control plane ended at once")?;
        let process = Recorded::of(pid).context("the control plane ended at once")?;
        self.state.replace(State::Running(process));
        tokio::task::spawn_local(notice_exit(world.clone(), child, process));
        Ok(())
    }

    /// Waits until it says that it is ready; the error says what it said in its log if it ended.
    pub async fn ready(&self, world: &World) -> Result<()> {
        let to = SocketAddr::new(CONTROL.v4.into(), CONTROL_HEALTH_PORT);
        loop {
            if let State::Exited(code) = *self.state.borrow() {
                let log = fs::read_to_string(world.place.control_log()).unwrap_or_default();
                let last = log.lines().next_back().unwrap_or("without a word");
                bail!("the control plane ended (status {}): {last}", code.unwrap_or(-1));
            }
            let request = Request::get("/ready").header("host", NAME).body(Full::default())?;
            let answer = timeout(PATIENCE, requests::plain(&world.place.node_netns(), to, request)).await;
            if matches!(answer, Ok(Ok((StatusCode::OK, _)))) && world.place.bundle().exists() {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stop, continue, kill or start.
    pub async fn act(&self, world: &Rc<World>, action: ControlAction) -> Result<()> {
        let state = *self.state.borrow();
        match (action, state) {
            (ControlAction::Stop, State::Running(p)) => self.signal(p, Signal::SIGSTOP, State::Stopped(p)),
            (ControlAction::Cont, State::Stopped(p)) => self.signal(p, Signal::SIGCONT, State::Running(p)),
            (ControlAction::Kill, State::Running(p) | State::Stopped(p)) => {
                p.signal(Signal::SIGKILL);
                while matches!(*self.state.borrow(), State::Running(_) | State::Stopped(_)) {
                    sleep(Duration::from_millis(2)).await;
                }
                Ok(())
            }
            (ControlAction::Start, State::Absent | State::Exited(_)) => {
                self.start(world)?;
                self.ready(world).await
            }
            (_, state) => bail!("the control plane is {}", describe(state)),
        }
    }

    fn signal(&self, process: Recorded, signal: Signal, then: State) -> Result<()> {
        if !process.signal(signal) {
            bail!("the control plane is gone");
        }
        self.state.replace(then);
        Ok(())
    }

    /// Whether it can answer now; if not, why.
    pub fn answers(&self) -> Result<()> {
        match *self.state.borrow() {
            State::Running(_) => Ok(()),
            State::Stopped(_) => bail!("the control plane is stopped (`lab control cont`)"),
            State::Exited(_) => bail!("the control plane is not running (`lab control start`)"),
            State::Absent => bail!("this world has no control plane"),
        }
    }

    /// For `lab ps`.
    pub fn describe(&self, world: &World) -> Value {
        let state = *self.state.borrow();
        let pid = match state {
            State::Running(p) | State::Stopped(p) => Some(p.pid),
            State::Absent | State::Exited(_) => None,
        };
        json!({
            "state": describe(state),
            "pid": pid,
            "netns": world.place.control_netns(),
            "addresses": CONTROL.texts(),
        })
    }

    /// Asks the webhook about a pod.
    pub async fn review(&self, world: &World, review: Vec<u8>) -> Result<Bytes> {
        let request = Request::post("/inject").header("content-type", "application/json");
        let request = request.header("host", NAME).body(Full::new(Bytes::from(review)))?;
        let (to, config) = self.server(world, WEBHOOK_PORT)?;
        let netns = world.place.node_netns();
        let answer = requests::secure(&netns, to, NAME, config, request);
        let (status, body) = in_time(answer).await?;
        match status {
            StatusCode::OK => Ok(body),
            other => bail!("it answers {other}: {}", String::from_utf8_lossy(&body).trim()),
        }
    }

    /// Reads an object as the mesh sees it, with the lab's own token; `None` if it is not served.
    pub async fn read(&self, world: &World, key: &Key) -> Result<Option<Value>> {
        let Some(path) = key.api_path() else { return Ok(None) };
        let request = Request::get(path).header("authorization", self.bearer(world)?).header("host", NAME);
        let (to, config) = self.server(world, CONTROL_PORT)?;
        let netns = world.place.node_netns();
        let answer = self.discovery.secure(&netns, to, NAME, config, request.body(Full::default())?);
        let (status, body) = in_time(answer).await?;
        match status {
            StatusCode::OK => Ok(Some(serde_json::from_slice(&body).context("its answer is not JSON")?)),
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => Ok(None),
            other => bail!("the control plane answers {other}: {}", String::from_utf8_lossy(&body).trim()),
        }
    }

    /// What it says of the files that it reads: by file name, the error if there is one.
    pub async fn sources(&self, world: &World) -> Result<BTreeMap<String, Option<String>>> {
        let to = SocketAddr::new(CONTROL.v4.into(), CONTROL_METRICS_PORT);
        let request = Request::get("/sources").header("host", NAME).body(Full::default())?;
        let (_, body) = timeout(PATIENCE, requests::plain(&world.place.node_netns(), to, request)).await??;
        let answer: Value = serde_json::from_slice(&body).context("/sources is not JSON")?;
        let files = answer["files"].as_array().cloned().unwrap_or_default();
        let found = files.iter().filter_map(|file| {
            let name = Path::new(file["path"].as_str()?).file_name()?.to_str()?.to_owned();
            Some((name, file["error"].as_str().map(str::to_owned)))
        });
        Ok(found.collect())
    }

    fn bearer(&self, world: &World) -> Result<String> {
        let now = unix_now();
        let mut token = self.token.borrow_mut();
        if let Some((token, _)) = token.as_ref().filter(|(_, end)| now + TOKEN_REST < *end) {
            return Ok(format!("Bearer {token}"));
        }
        let (namespace, name) = LAB_POD;
        let pod = PodName { namespace: namespace.to_owned(), name: name.to_owned() };
        let object =
            world.store.borrow().get(&Key::new("Pod", namespace, name)).cloned().context("no lab pod")?;
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let subject = world.subject(&pod, name, uid);
        let fresh = world.signer.token(&subject, TOKEN_AUDIENCE, TOKEN_LIFE, now)?;
        let bearer = format!("Bearer {fresh}");
        *token = Some((fresh, now + TOKEN_LIFE));
        Ok(bearer)
    }

    /// Where a port of the running control plane is, and how to trust it.
    fn server(&self, world: &World, port: u16) -> Result<(SocketAddr, Arc<ClientConfig>)> {
        self.answers()?;
        Ok((SocketAddr::new(CONTROL.v4.into(), port), self.tls(world)?))
    }

    /// TLS that trusts the mesh's own root; made anew when the bundle changes.
    fn tls(&self, world: &World) -> Result<Arc<ClientConfig>> {
        let pem = fs::read(world.place.bundle()).context("it has not written its certificate yet")?;
        let mut trust = self.trust.borrow_mut();
        if let Some((_, config)) = trust.as_ref().filter(|(old, _)| *old == pem) {
            return Ok(config.clone());
        }
        let config = requests::trusting(&pem)?;
        *trust = Some((pem, config.clone()));
        Ok(config)
    }
}

async fn in_time(answer: impl Future<Output = Result<requests::Answer>>) -> Result<requests::Answer> {
    timeout(PATIENCE, answer).await.context("the control plane does not answer")?
}

async fn notice_exit(world: Rc<World>, mut child: Child, process: Recorded) {
    let code = child.wait().await.ok().and_then(|status| status.code());
    let current = *world.control.state.borrow();
    if matches!(current, State::Running(p) | State::Stopped(p) if p == process) {
        world.control.state.replace(State::Exited(code));
    }
    eprintln!("the control plane ended with {code:?}");
}

fn describe(state: State) -> &'static str {
    match state {
        State::Absent => "absent",
        State::Running(_) => "running",
        State::Stopped(_) => "stopped",
        State::Exited(_) => "exited",
    }
}

fn spec(world: &World) -> Result<Spec> {
    let hosts = world.place.dir().join("control-hosts");
    write_atomically(&world.place.staging(), &hosts, b"127.0.0.1 localhost\n::1 localhost\n")?;
    let path = std::env::var("PATH").unwrap_or_default();
    let bind = Bind { source: hosts, target: PathBuf::from("/etc/hosts"), read_only: true };
    Ok(Spec {
        netns: netns_file(&world.place.control_netns()),
        hostname: PROGRAM.to_owned(),
        binds: vec![bind],
        read_only_root: false,
        directory: PathBuf::from("/"),
        user: User::default(),
        capabilities: Vec::new(),
        no_new_privileges: true,
        // Its log is a file: no colours (https://no-color.org).
        env: BTreeMap::from([("PATH".to_owned(), path), ("NO_COLOR".to_owned(), "1".to_owned())]),
        command: command(world),
    })
}

fn command(world: &World) -> Vec<String> {
    let dir = world.place.dir();
    let path = |path: &Path| path.display().to_string();
    let mut words = vec![path(&world.programs.join(PROGRAM))];
    let mut flag = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    flag("manifests", path(&world.place.manifests()));
    flag("token-key", path(&dir.join("token-key.pub")));
    flag("state", path(&dir.join("state")));
    flag("bundle-out", path(&world.place.bundle()));
    flag("mtls-mode", world.settings.mode.clone());
    if let Some(seconds) = world.settings.leaf_ttl {
        flag("leaf-ttl", seconds.to_string());
    }
    if let Some(endpoint) = &world.settings.otlp_endpoint {
        flag("otlp-endpoint", endpoint.clone());
    }
    for range in POD_RANGES.into_iter().chain(SERVICE_RANGES) {
        flag("cluster-cidr", range.to_owned());
    }
    words
}
