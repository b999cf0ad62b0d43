//! HTTP/2 connections to one endpoint, over which every request to it is multiplexed: a peer's proxy in mesh TLS, or
//! a server that speaks HTTP/2 itself.
//!
//! A mesh connection belongs to the generation of our certificate that made it; after a renewal, and before the peer's
//! certificate ends, new requests go to a new one, and the old ends with its last stream.

use std::{
    future::{Future as _, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use h2::client::{Builder, Connection as H2, SendRequest};
use hyper::body::Bytes;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard, oneshot},
    time::Instant,
};
use tracing::debug;

use super::{Endpoint, Upstream, endpoint::now};
use crate::{
    failure::{ConnectError, chain},
    http::{
        h2_body::{BROKEN_MAX, GIVEN_UP_MAX, HEAD_MAX, SEND_BUFFER},
        heartbeat::{Beat, Heartbeat},
    },
    identity::Inside,
    net::{batch::Batch, frames::Frames},
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

/// The connections to one peer.
pub(super) struct Pool {
    open: Mutex<Open>,
    /// Held while dialling: requests that arrive meanwhile share what comes of it.
    dialling: Arc<AsyncMutex<Option<Failed>>>,
}

struct Open {
    connections: Vec<Connection>,
    /// How many streams the other side said that it takes on a connection: what a new one begins with, so that those who
    /// waited for it do not all meet a bound that is known.
    bound: usize,
}

/// The last attempt to dial, if it failed.
struct Failed {
    /// By the real clock, which does not stand still within a turn: it tells who had waited for it.
    at: Instant,
    reason: &'static str,
    why: String,
}

struct Connection {
    sender: SendRequest<Bytes>,
    generation: u64,
    /// When our certificate or the peer's is near its end: no new requests from then on.
    until: Option<Duration>,
    /// One clone for each running stream.
    streams: Arc<()>,
    used: Duration,
}

/// The right to one stream of a connection.
pub(super) struct Lease {
    /// What sends the request.
    pub sender: SendRequest<Bytes>,
    /// To be held until the response has ended.
    pub stream: Arc<()>,
    /// When it was given.
    pub since: Duration,
    /// The connection was made for another request, so the other side may have just given it up.
    pub kept: bool,
}

impl Default for Pool {
    fn default() -> Self {
        let open = Mutex::new(Open { connections: Vec::new(), bound: STREAMS_MAX });
        Self { open, dialling: Arc::default() }
    }
}

impl Pool {
    /// A stream on an open connection, or on a new one.
    pub(super) async fn lease(endpoint: &Arc<Endpoint>, now: Duration) -> Result<Lease, ConnectError> {
        match endpoint.h2.open_lease(endpoint.generation()?, now) {
            Some(lease) => Ok(lease),
            // Boxed: the few that dial must not size every request's future.
            None => Box::pin(Self::new_lease(endpoint)).await,
        }
    }

    async fn new_lease(endpoint: &Arc<Endpoint>) -> Result<Lease, ConnectError> {
        let (pool, arrived) = (&endpoint.h2, Instant::now());
        let last = Arc::clone(&pool.dialling).lock_owned().await;
        // The certificate may have been renewed meanwhile.
        let generation = endpoint.generation()?;
        if let Some(lease) = pool.open_lease(generation, now()) {
            return Ok(lease);
        }
        // Who waited for an attempt that failed takes its failure, instead of waiting for one of its own.
        if let Some(failed) = last.as_ref().filter(|failed| failed.at > arrived) {
            return Err(ConnectError::Shared { reason: failed.reason, why: failed.why.clone() });
        }
        // A task of its own: what a client began is of use to the next one, also when it leaves before it is done. If each
        // attempt ended with its client, impatient clients of a busy proxy would never have a connection.
        let (back, dialled) = oneshot::channel();
        tokio::spawn(attempt(Arc::clone(endpoint), generation, last, back));
        dialled.await.unwrap_or_else(|gone| Err(ConnectError::Io(io::Error::other(gone))))
    }

    async fn dial(&self, endpoint: &Endpoint, generation: u64) -> Result<Lease, ConnectError> {
        let stream = endpoint.connect(Inside::H2).await?;
        let until = stream.usable().map(|time| now() + time);
        let batch = Batch::of(stream, Frames::of_server());
        // One at least: a server that takes none for now may take one later.
        let expected = self.open().bound.max(1);
        let (sender, connection) = Builder::new()
            .enable_push(false)
            .initial_max_send_streams(expected)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(HEAD_MAX)
            .max_concurrent_reset_streams(GIVEN_UP_MAX)
            .max_local_error_reset_streams(Some(BROKEN_MAX))
            .handshake(batch.clone())
            .await
            .map_err(|error| ConnectError::Http(error.into()))?;
        let (peer, here) = (endpoint.addr, endpoint.here);
        tokio::spawn(async move {
            let ended = run(connection, &batch, here).await;
            debug!(%peer, ?ended, "an HTTP/2 connection ended");
        });
        let now = now();
        let connection = Connection { sender, generation, until, streams: Arc::default(), used: now };
        let lease = Lease { kept: false, ..connection.lease(now) };
        self.open().connections.push(connection);
        Ok(lease)
    }

    /// Closes connections that nobody used for long.
    pub(super) fn sweep(&self) {
        let now = now();
        self.open()
            .connections
            .retain_mut(|c| c.is_usable(now) && (c.streams() > 0 || now.saturating_sub(c.used) < IDLE));
    }

    fn open_lease(&self, generation: u64, now: Duration) -> Option<Lease> {
        let Open { connections, bound } = &mut *self.open();
        connections.retain_mut(|connection| connection.generation == generation && connection.is_usable(now));
        let connection = connections.iter_mut().find(|connection| {
            *bound = connection.streams_max();
            connection.streams() < *bound
        })?;
        connection.used = now;
        Some(connection.lease(now))
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dials, and gives what comes of it `back`.
async fn attempt(
    endpoint: Arc<Endpoint>,
    generation: u64,
    mut last: OwnedMutexGuard<Option<Failed>>,
    back: oneshot::Sender<Result<Lease, ConnectError>>,
) {
    let pool = &endpoint.h2;
    let made = pool.dial(&endpoint, generation).await.or_else(|error| {
        *last = Some(Failed { at: Instant::now(), reason: error.reason(), why: chain(&error) });
        // A stream of another connection may have ended meanwhile.
        pool.open_lease(generation, now()).ok_or(error)
    });
    drop(last);
    if let Err(Err(error)) = back.send(made) {
        // Its client has left, and those who waited share it: nobody else says so.
        endpoint.carry(now()).unreached(&error);
    }
}

/// Reads and writes a connection until it ends; it does when nobody can send on it any more and its last stream has ended.
async fn run(
    mut connection: H2<Batch<Upstream>, Bytes>,
    batch: &Batch<Upstream>,
    here: bool,
) -> Result<(), h2::Error> {
    let mut heartbeat = Heartbeat::new(connection.ping_pong().filter(|_| !here));
    let mut run = pin!(poll_fn(|cx| {
        // The connection first: what has come is a sign of life, however late we look.
        if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(ended);
        }
        match heartbeat.poll(cx, || batch.heard()) {
            Poll::Ready(Beat::Dead) => Poll::Ready(Ok(())),
            Poll::Ready(Beat::Lives) | Poll::Pending => Poll::Pending,
        }
    }));
    poll_fn(|cx| batch.poll(run.as_mut(), cx)).await
}

impl Connection {
    /// Whether it takes new requests. One that does not ends with its last stream.
    fn is_usable(&mut self, now: Duration) -> bool {
        // Nobody is woken: what this sender has sent waits for nothing.
        let ready = self.sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Ok(()))) && self.until.is_none_or(|until| now < until)
    }

    /// How many streams it takes at once.
    fn streams_max(&self) -> usize {
        self.sender.current_max_send_streams().min(STREAMS_MAX)
    }

    fn streams(&self) -> usize {
        Arc::strong_count(&self.streams) - 1
    }

    fn lease(&self, now: Duration) -> Lease {
        Lease { sender: self.sender.clone(), stream: Arc::clone(&self.streams), since: now, kept: true }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{net::TcpListener, task::yield_now, time::timeout};

    use super::*;
    use crate::hot_path::World;

    /// A client that leaves as soon as it has asked.
    async fn ask_and_leave(endpoint: &Arc<Endpoint>) {
        let mut asks = pin!(Pool::lease(endpoint, now()));
        assert!(poll_fn(|cx| Poll::Ready(asks.as_mut().poll(cx).is_pending())).await);
    }

    async fn comes(what: impl Fn() -> bool) {
        let all = async {
            while !what() {
                yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), all).await.expect("it goes on without its client");
    }

    #[tokio::test]
    async fn a_connection_is_made_also_if_its_client_leaves_and_is_the_next_ones() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let world = World::new();
        let endpoint = world.proxy.registry.endpoint(server.local_addr().expect("an address"), None);
        ask_and_leave(&endpoint).await;
        comes(|| !endpoint.h2.open().connections.is_empty()).await;
        let lease = Pool::lease(&endpoint, now()).await.expect("a stream");
        assert!(lease.kept, "of the connection that there is");
    }

    #[tokio::test]
    async fn an_endpoint_that_nobody_reaches_is_set_aside_also_if_its_clients_leave() {
        let nobody = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let world = World::new();
        let endpoint = world.proxy.registry.endpoint(nobody.local_addr().expect("an address"), None);
        drop(nobody);
        let before = endpoint.state().word(now());
        for _ in 0..2 {
            ask_and_leave(&endpoint).await;
            comes(|| endpoint.h2.dialling.try_lock().is_ok()).await;
        }
        comes(|| endpoint.state().word(now()) != before).await;
    }
}
