//! Full handshakes of mutual TLS 1.3, and nothing else.
//!
//! In TLS 1.3 the client is done before the server has seen the client's certificate. So a handshake only counts when
//! the server showed that it went on: by the end that answers ours, which is an alert if it refused us. That it would is
//! seen first: a client without a certificate must be.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use crate::connection::dial;
use crate::crew::{self, PAUSE};
use crate::tally::{self, Tally};
use crate::target::{Target, seconds};
use crate::tls;

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
    let tally = Tally::start();
    let until = tally.began() + options.seconds;
    let job = Arc::new(Job { to: options.to, connector, name, until, tally });
    let stranger = TlsConnector::from(Arc::new(options.tls.stranger()?));
    ensure!(shake(&job, &stranger).await.is_err(), "the server takes a client without a certificate");
    crew::work(options.concurrency, until, &job.tally, || keep_shaking(Arc::clone(&job))).await;
    tally::print(&job.tally.report("handshakes"));
    Ok(())
}

async fn keep_shaking(job: Arc<Job>) {
    while Instant::now() < job.until {
        let began = Instant::now();
        match shake(&job, &job.connector).await {
            Ok(()) => job.tally.succeeded(began.elapsed()),
            Err(error) => {
                job.tally.failed(&error);
                sleep(PAUSE).await;
            }
        }
    }
}

async fn shake(job: &Job, connector: &TlsConnector) -> Result<()> {
    let stream = dial(job.to.address).await?;
    let mut tls = connector.connect(job.name.clone(), stream).await.context("no handshake")?;
    let agreed = tls.get_ref().1.alpn_protocol().is_some();
    ensure!(agreed != connector.config().alpn_protocols.is_empty(), "no protocol was agreed on");
    tls.shutdown().await.context("cannot end")?;
    end(&mut tls).await
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
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;

    /// A connection that ends like this.
    struct Ends(ErrorKind);

    impl AsyncRead for Ends {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(self.0.into()))
        }
    }

    #[tokio::test]
    async fn an_end_is_no_refusal_and_an_error_is() {
        assert!(end(&mut &b"SETTINGS"[..]).await.is_ok());
        assert!(end(&mut Ends(ErrorKind::UnexpectedEof)).await.is_ok());
        // rustls' for an alert, and the socket's own.
        assert!(end(&mut Ends(ErrorKind::InvalidData)).await.is_err());
        assert!(end(&mut Ends(ErrorKind::ConnectionReset)).await.is_err());
    }
}
