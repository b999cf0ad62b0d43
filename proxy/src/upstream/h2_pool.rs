//! HTTP/2 connections to one endpoint, over which every request to it is multiplexed: a peer's proxy in mesh TLS, or
//! a server that speaks HTTP/2 itself.
//!
//! A mesh connection belongs to the generation of our certificate that made it; after a renewal, and before the peer's
//! certificate ends, new requests go to a new one, and the old ends with its last stream.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use tracing::debug;

use super::{Endpoint, Upstream};
use crate::{
    body::Body,
    failure::{ConnectError, chain},
    identity::Inside,
    net::batch::Batch,
};

/// Below a peer's bound of 256 streams, or the server's own: past it another connection is opened, so that no request
/// queues.
const STREAMS_MAX: usize = 250;
/// A connection without a stream for this long is closed.
const IDLE: Duration = Duration::from_secs(300);
/// What one stream may have in flight towards us…
const STREAM_WINDOW: u32 = 256 * 1024;
/// …and all of them together: bodies that nobody reads hold up no other stream. It is a bound, not a reservation.
const CONNECTION_WINDOW: u32 = 250 * STREAM_WINDOW;
/// What one stream may have buffered towards the peer.
const SEND_BUFFER: usize = 64 * 1024;
/// The decoded head of a response, at most.
const HEAD_MAX: u32 = 64 * 1024;

/// The connections to one peer.
pub(super) struct Pool {
    open: Mutex<Vec<Connection>>,
    /// How many streams the other side said that it takes on a connection: what a new one begins with, so that those who
    /// waited for it do not all meet a bound that is known.
    bound: Arc<AtomicUsize>,
    /// Held while dialling: requests that arrive meanwhile share what comes of it.
    dialling: AsyncMutex<Option<Failed>>,
}

/// The last attempt to dial, if it failed.
struct Failed {
    at: Instant,
    reason: &'static str,
    why: String,
}

struct Connection {
    sender: SendRequest<Body>,
    generation: u64,
    /// When our certificate or the peer's is near its end: no new requests from then on.
    until: Option<Instant>,
    /// One clone for each running stream.
    streams: Arc<()>,
    /// How many the other side takes at once.
    streams_max: Arc<AtomicUsize>,
    used: Instant,
}

/// The right to one stream of a connection.
pub(super) struct Lease {
    /// What sends the request.
    pub sender: SendRequest<Body>,
    /// To be held until the response has ended.
    pub stream: Arc<()>,
    /// The connection was made for another request, so the other side may have just given it up.
    pub kept: bool,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            open: Mutex::default(),
            bound: Arc::new(AtomicUsize::new(STREAMS_MAX)),
            dialling: AsyncMutex::default(),
        }
    }
}

impl Pool {
    /// A stream on an open connection, or on a new one.
    pub(super) async fn lease(&self, endpoint: &Endpoint) -> Result<Lease, ConnectError> {
        let generation = endpoint.generation()?;
        if let Some(lease) = self.open_lease(generation) {
            return Ok(lease);
        }
        let arrived = Instant::now();
        let mut last = self.dialling.lock().await;
        if let Some(lease) = self.open_lease(generation) {
            return Ok(lease);
        }
        // Who waited for an attempt that failed takes its failure, instead of waiting for one of its own.
        if let Some(failed) = last.as_ref().filter(|failed| failed.at > arrived) {
            return Err(ConnectError::Shared { reason: failed.reason, why: failed.why.clone() });
        }
        self.dial(endpoint, generation).await.inspect_err(|error| {
            *last = Some(Failed { at: Instant::now(), reason: error.reason(), why: chain(error) });
        })
    }

    async fn dial(&self, endpoint: &Endpoint, generation: u64) -> Result<Lease, ConnectError> {
        let stream = endpoint.connect(Inside::H2).await?;
        let until = stream.usable().map(|time| Instant::now() + time);
        let batch = Batch::new(stream);
        // One at least: a server that takes none for now may take one later.
        let expected = self.bound.load(Ordering::Relaxed).max(1);
        let (sender, mut connection) = http2::Builder::new(Tasks::of(&batch))
            .timer(TokioTimer::new())
            .initial_max_send_streams(expected)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEAD_MAX)
            .keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(3))
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(batch.clone()))
            .await
            .map_err(ConnectError::Http)?;
        let peer = endpoint.addr;
        let streams_max = Arc::new(AtomicUsize::new(expected));
        let (told, bound) = (Arc::clone(&streams_max), Arc::clone(&self.bound));
        tokio::spawn(async move {
            let ended = poll_fn(|cx| {
                let ended = Pin::new(&mut connection).poll(cx);
                let now = connection.current_max_send_streams().min(STREAMS_MAX);
                if told.swap(now, Ordering::Relaxed) != now {
                    bound.store(now, Ordering::Relaxed);
                }
                ended
            });
            let ended = ended.await;
            debug!(%peer, ?ended, "an HTTP/2 connection ended");
        });
        Ok(self.keep(Connection {
            sender,
            generation,
            until,
            streams: Arc::default(),
            streams_max,
            used: Instant::now(),
        }))
    }

    /// Closes connections that nobody used for long.
    pub(super) fn sweep(&self) {
        self.open().retain(|c| c.is_usable() && (c.streams() > 0 || c.used.elapsed() < IDLE));
    }

    fn open_lease(&self, generation: u64) -> Option<Lease> {
        let mut open = self.open();
        open.retain(|connection| connection.generation == generation && connection.is_usable());
        let connection = open.iter_mut().find(|connection| connection.has_room())?;
        connection.used = Instant::now();
        Some(connection.lease())
    }

    fn keep(&self, connection: Connection) -> Lease {
        let lease = Lease { kept: false, ..connection.lease() };
        self.open().push(connection);
        lease
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs what hyper spawns for one connection. The first task is the connection's own, which reads and writes it.
#[derive(Clone)]
struct Tasks {
    batch: Batch<Upstream>,
    begun: Arc<AtomicBool>,
}

impl Tasks {
    fn of(batch: &Batch<Upstream>) -> Self {
        Self { batch: batch.clone(), begun: Arc::default() }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        if self.begun.swap(true, Ordering::Relaxed) {
            tokio::spawn(task);
            return;
        }
        let batch = self.batch.clone();
        tokio::spawn(async move {
            let mut task = pin!(task);
            poll_fn(|cx| batch.poll(task.as_mut(), cx)).await;
        });
    }
}

impl Connection {
    /// Whether it takes new requests. One that does not ends with its last stream.
    fn is_usable(&self) -> bool {
        !self.sender.is_closed() && self.until.is_none_or(|until| Instant::now() < until)
    }

    fn has_room(&self) -> bool {
        self.streams() < self.streams_max.load(Ordering::Relaxed)
    }

    fn streams(&self) -> usize {
        Arc::strong_count(&self.streams) - 1
    }

    fn lease(&self) -> Lease {
        Lease { sender: self.sender.clone(), stream: Arc::clone(&self.streams), kept: true }
    }
}
