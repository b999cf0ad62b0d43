//! UDP, which a mesh must leave alone: a server that sends back every datagram, and a client for one.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::UdpSocket;

/// The longest datagram, bytes.
const MOST: usize = 2048;

/// What the server is told.
#[derive(clap::Args)]
pub struct Options {
    /// Port to listen on, over IPv4 and IPv6
    #[arg(long, default_value_t = 9000)]
    port: u16,
}

/// What the client is told.
#[derive(clap::Args)]
pub struct ClientOptions {
    /// Where to: HOST:PORT
    address: String,
    /// The datagram
    text: String,
    /// Longest time for the answer, in seconds
    #[arg(long, default_value_t = 5)]
    timeout: u64,
}

/// Serves until it is killed.
pub async fn serve(options: Options) -> Result<()> {
    let port = options.port;
    let socket =
        UdpSocket::bind(("::", port)).await.with_context(|| format!("cannot listen on port {port}"))?;
    let mut datagram = [0; MOST];
    loop {
        // An answer that a client no longer wants comes back as an error of the next call.
        if let Ok((size, peer)) = socket.recv_from(&mut datagram).await {
            let _ = socket.send_to(&datagram[..size], peer).await;
        }
    }
}

/// Sends one datagram and prints the answer.
#[expect(clippy::print_stdout, reason = "the answer is what the user asked for")]
pub async fn ask(options: ClientOptions) -> Result<()> {
    let (address, limit) = (&options.address, Duration::from_secs(options.timeout));
    let peer = tokio::net::lookup_host(address).await?.next();
    let peer = peer.with_context(|| format!("{address} has no address"))?;
    let own = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(own).await?;
    socket.connect(peer).await?;
    socket.send(options.text.as_bytes()).await?;
    let mut answer = [0; MOST];
    let size = tokio::time::timeout(limit, socket.recv(&mut answer))
        .await
        .with_context(|| format!("no answer from {address} within {} s", limit.as_secs()))??;
    println!("{}", String::from_utf8_lossy(&answer[..size]));
    Ok(())
}
