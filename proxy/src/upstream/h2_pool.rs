//! HTTP/2 connections to one endpoint, over which every request to it is multiplexed: a peer's proxy in mesh TLS, or
//! a server that speaks HTTP/2 itself.
//!
//! A mesh connection belongs to the generation of our certificate that made it; after a renewal new requests go to a
//! new one, and the old ends with its last stream.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use tracing::debug;

use super::Endpoint;
use crate::{body::Body, failure::ConnectError, identity::Inside};

/// Below the peer's bound of 256 streams: past it another connection is opened, so that no request queues.
const STREAMS_MAX: usize = 250;
/// A connection without a stream for this long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// What one stream may have in flight towards us…
const STREAM_WINDOW: u32 = 512 * 1024;
/// …and all of them together.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;
/// What one stream may have buffered towards the peer.
const SEND_BUFFER: usize = 64 * 1024;
/// The decoded head of a response, at most.
const HEAD_MAX: u32 = 64 * 1024;

/// The connections to one peer.
#[derive(Default)]
pub(super) struct Pool {
    open: Mutex<Vec<Connection>>,
    /// Held while dialling: requests that arrive meanwhile share the connection that comes.
    dialling: AsyncMutex<()>,
}

struct Connection {
    sender: SendRequest<Body>,
    generation: u64,
    /// One clone for each running stream.
    streams: Arc<()>,
    used: Instant,
}

/// The right to one stream of a connection.
pub(super) struct Lease {
    /// What sends the request.
    pub sender: SendRequest<Body>,
    /// To be held until the response has ended.
    pub stream: Arc<()>,
}

impl Pool {
    /// A stream on an open connection, or on a new one.
    pub(super) async fn lease(&self, endpoint: &Endpoint) -> Result<Lease, ConnectError> {
        let generation = endpoint.generation()?;
        if let Some(lease) = self.open_lease(generation) {
            return Ok(lease);
        }
        let _dialling = self.dialling.lock().await;
        if let Some(lease) = self.open_lease(generation) {
            return Ok(lease);
        }
        let stream = endpoint.connect(Inside::H2).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEAD_MAX)
            .keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(3))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Http)?;
        let peer = endpoint.addr;
        tokio::spawn(async move {
            let ended = connection.await;
            debug!(%peer, ?ended, "an HTTP/2 connection ended");
        });
        Ok(self.keep(sender, generation))
    }

    /// Closes connections that nobody used for long.
    pub(super) fn sweep(&self) {
        self.open().retain(|c| !c.sender.is_closed() && (c.streams() > 0 || c.used.elapsed() < IDLE));
    }

    fn open_lease(&self, generation: u64) -> Option<Lease> {
        let mut open = self.open();
        open.retain(|connection| connection.generation == generation && !connection.sender.is_closed());
        let connection = open.iter_mut().find(|connection| connection.streams() < STREAMS_MAX)?;
        connection.used = Instant::now();
        Some(connection.lease())
    }

    fn keep(&self, sender: SendRequest<Body>, generation: u64) -> Lease {
        let connection = Connection { sender, generation, streams: Arc::default(), used: Instant::now() };
        let lease = connection.lease();
        self.open().push(connection);
        lease
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn streams(&self) -> usize {
        Arc::strong_count(&self.streams) - 1
    }

    fn lease(&self) -> Lease {
        Lease { sender: self.sender.clone(), stream: Arc::clone(&self.streams) }
    }
}
