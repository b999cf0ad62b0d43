//! The TCP server: sends back every byte, after a greeting if it has one.
//!
//! With a greeting it is a server that speaks first, as databases and mail servers are. With steps it plays a dialogue
//! on each connection, as the client does, and says on standard error how it went.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::dialogue::{Scene, play_on};

/// What the server is told.
#[derive(clap::Args)]
pub struct Options {
    /// Port to listen on
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// Address to listen on [default: all, of IPv4 and IPv6]
    #[arg(long, default_value = "::", hide_default_value = true)]
    address: IpAddr,
    /// Line to send first, before the client has said anything
    #[arg(long)]
    greet: Option<String>,
    /// Line to send after the client's first bytes, in front of them
    #[arg(long)]
    answer: Option<String>,
    /// A step of a dialogue to play instead (repeat for more); see `tcp-client`
    #[arg(long = "step")]
    steps: Vec<String>,
}

/// Serves until it is killed.
pub async fn serve(options: Options) -> Result<()> {
    let listener = listen(options.address, options.port).await?;
    let scene = Arc::new(Scene::alone(&options.steps)?);
    let options = Arc::new(options);
    loop {
        match listener.accept().await {
            Ok((stream, _)) if options.steps.is_empty() => {
                drop(tokio::spawn(converse(stream, Arc::clone(&options))));
            }
            Ok((stream, _)) => drop(tokio::spawn(play(stream, Arc::clone(&scene)))),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Listens on an address; Linux hands IPv4 to a listener on `::`.
pub async fn listen(address: IpAddr, port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind((address, port)).await;
    listener.with_context(|| format!("cannot listen on port {port}"))
}

/// The pod's name as Kubernetes gives it, or the machine's.
pub fn pod_name() -> String {
    let named = std::env::var("POD_NAME").or_else(|_| std::env::var("HOSTNAME"));
    named.unwrap_or_else(|_| {
        std::fs::read_to_string("/etc/hostname")
            .map_or_else(|_| "unnamed".to_owned(), |name| name.trim().to_owned())
    })
}

async fn play(stream: TcpStream, scene: Arc<Scene>) {
    match play_on(stream, &scene, Instant::now()).await {
        Ok(_) => eprintln!("played"),
        Err(error) => eprintln!("failed: {error:#}"),
    }
}

/// A connection that breaks is the client's affair.
async fn converse(mut stream: TcpStream, options: Arc<Options>) {
    let _ = exchange(&mut stream, &options).await;
}

async fn exchange(stream: &mut TcpStream, options: &Options) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.split();
    if let Some(line) = &options.greet {
        to.write_all(format!("{line}\n").as_bytes()).await?;
    }
    if let Some(line) = &options.answer {
        from.readable().await?;
        to.write_all(format!("{line}\n").as_bytes()).await?;
    }
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}
