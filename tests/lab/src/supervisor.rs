//! The world's own process: owns everything, answers the commands on a socket.

use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::change;
use crate::kubelet::state::ContainerState;
use crate::paths::Place;
use crate::protocol::{PodName, Reply, Request};
use crate::query;
use crate::world::{Settings, World};

/// Tells the waiting user what happens.
pub struct Say(UnboundedSender<Reply>);

impl Say {
    /// One line of progress. Nobody may be there any more to hear it.
    pub fn line(&self, text: &str) {
        let _ = self.0.send(Reply::Progress(text.to_owned()));
    }
}

/// Runs a world until it is killed by `lab down`.
pub fn supervise(settings: &Path) -> Result<()> {
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/")?;
    let settings: Settings = serde_json::from_slice(&std::fs::read(settings)?)?;
    let place = Place::new(&settings.world).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let world = World::create(place, settings)?;
        // The socket is there when the world is.
        let listener =
            UnixListener::bind(world.place.socket()).context("cannot listen on the world's socket")?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::task::spawn_local(serve(world.clone(), stream))),
                Err(why) => eprintln!("cannot accept a command: {why}"),
            }
        }
    })
}

async fn serve(world: Rc<World>, stream: UnixStream) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let (sender, mut replies) = unbounded_channel();
    if BufReader::new(read).read_line(&mut line).await.is_err() {
        return;
    }
    tokio::task::spawn_local(async move {
        let reply = match carry_out(&world, &line, &Say(sender.clone())).await {
            Ok(value) => Reply::Done(value),
            Err(why) => Reply::Failed(format!("{why:#}")),
        };
        let _ = sender.send(reply);
    });
    while let Some(reply) = replies.recv().await {
        let Ok(mut text) = serde_json::to_string(&reply) else { return };
        text.push('\n');
        // A user who left does not end what was asked for.
        if write.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn carry_out(world: &Rc<World>, line: &str, say: &Say) -> Result<Value> {
    let request: Request =
        serde_json::from_str(line).context("not a request: is this another version of the lab?")?;
    match request {
        Request::Up { sources, timeout } => change::up(world, &sources, timeout, say).await,
        Request::Apply { sources, timeout } => change::apply(world, &sources, timeout, say).await,
        Request::Delete { key, timeout } => change::delete(world, &key, timeout, say).await,
        Request::Wait { key, timeout } => query::wait(world, &key, timeout).await,
        Request::Get { kind, key } => query::get(world, &kind, key.as_ref()).await,
        Request::Ps => Ok(query::ps(world)),
        Request::Target { pod, container } => {
            Ok(serde_json::to_value(query::target(world, &pod, container.as_deref()).await?)?)
        }
        Request::LogFile { pod, container } => query::log_file(world, pod.as_ref(), container.as_deref()),
        Request::Restart { pod, timeout } => change::restart(world, &pod, timeout, say).await,
        Request::Kill { pod, container } => kill(world, &pod, &container),
        Request::Control { action } => world.control.act(world, action).await.map(|()| json!({})),
    }
}

fn kill(world: &World, name: &PodName, container: &str) -> Result<Value> {
    let run = world.pod(name)?;
    let process = run.state.borrow().container(container).and_then(ContainerState::process);
    let process = process.with_context(|| format!("container {container} of pod {name} does not run"))?;
    process.signal(Signal::SIGKILL);
    Ok(json!({"pid": process.pid}))
}
