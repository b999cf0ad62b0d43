//! Full handshakes of mutual TLS 1.3, and nothing else.
//!
//! In TLS 1.3 the client is done before the server has seen the client's certificate. So a handshake only counts when
//! the server showed that it went on: by its first bytes where the protocol lets it speak first (HTTP/2's SETTINGS),
//! else by the end that answers ours, which is an alert if it refused us.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use crate::connection::dial;
use crate::crew::{self, PAUSE};
use crate::tally::{self, Tally};
use crate::target::{Target, seconds};
use crate::tls;

/// The head of an HTTP/2 frame: 3 bytes of length, type, flags, 4 bytes of stream.
const FRAME_HEAD: usize = 9;
/// The type of a SETTINGS frame.
const SETTINGS: u8 = 4;

/// What the client is told.
#[derive(clap::Args)]
pub struct Options {
    /// Where to: ADDR:PORT
    #[arg(long)]
    to: Target,
    #[command(flatten)]
    tls: tls::Options,
    /// The server's name in the ClientHello [default: none]
    #[arg(long)]
    name: Option<String>,
    /// How many handshakes at a time
    #[arg(long, default_value_t = 4)]
    concurrency: usize,
    /// How long, in seconds
    #[arg(long, default_value = "10", value_parser = seconds)]
    seconds: Duration,
}

struct Job {
    to: Target,
    connector: TlsConnector,
    name: ServerName<'static>,
    server_speaks_first: bool,
    until: Instant,
    tally: Tally,
}

/// Shakes hands, and prints the counts.
pub async fn run(options: Options) -> Result<()> {
    let connector = TlsConnector::from(Arc::new(options.tls.config()?));
    // An address as a name is never sent.
    let name = match options.name {
        Some(name) => ServerName::try_from(name)?,
        None => ServerName::from(options.to.address.ip()),
    };
    let server_speaks_first = options.tls.alpn.as_deref().is_some_and(is_http2);
    let tally = Tally::start();
    let until = tally.began() + options.seconds;
    let job = Arc::new(Job { to: options.to, connector, name, server_speaks_first, until, tally });
    crew::work(options.concurrency, until, &job.tally, || keep_shaking(Arc::clone(&job))).await;
    tally::print(&job.tally.report("handshakes"));
    Ok(())
}

fn is_http2(alpn: &str) -> bool {
    alpn.rsplit('/').next() == Some("h2")
}

async fn keep_shaking(job: Arc<Job>) {
    while Instant::now() < job.until {
        let began = Instant::now();
        match shake(&job).await {
            Ok(()) => job.tally.succeeded(began.elapsed()),
            Err(error) => {
                job.tally.failed(&error);
                sleep(PAUSE).await;
            }
        }
    }
}

async fn shake(job: &Job) -> Result<()> {
    let stream = dial(job.to.address).await?;
    let mut tls = job.connector.connect(job.name.clone(), stream).await.context("no handshake")?;
    let agreed = tls.get_ref().1.alpn_protocol().is_some();
    ensure!(agreed != job.connector.config().alpn_protocols.is_empty(), "no protocol was agreed on");
    if job.server_speaks_first {
        settings(&mut tls).await?;
        return tls.shutdown().await.context("cannot end");
    }
    tls.shutdown().await.context("cannot end")?;
    end(&mut tls).await
}

/// Waits for the server's SETTINGS.
async fn settings(stream: &mut (impl AsyncRead + Unpin)) -> Result<()> {
    let mut head = [0; FRAME_HEAD];
    stream.read_exact(&mut head).await.context("the server did not begin")?;
    ensure!(head[3] == SETTINGS, "the server does not begin with SETTINGS");
    Ok(())
}

/// Waits for the server's end, with a close_notify or without one.
async fn end(stream: &mut (impl AsyncRead + Unpin)) -> Result<()> {
    match stream.read_to_end(&mut Vec::new()).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
        Err(error) => Err(error).context("the server refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http2_is_told_by_its_name() {
        for (alpn, expected) in
            [("h2", true), ("heddle/h2", true), ("heddle/tcp", false), ("http/1.1", false)]
        {
            assert_eq!(is_http2(alpn), expected, "{alpn}");
        }
    }

    #[tokio::test]
    async fn a_server_begins_http2_with_settings() {
        let begins = |frame: &'static [u8]| async move { settings(&mut &*frame).await.is_ok() };
        assert!(begins(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await);
        assert!(!begins(&[0, 0, 0, 7, 0, 0, 0, 0, 0]).await);
        assert!(!begins(&[]).await);
    }
}
