//! HTTP/1.1 connections to one endpoint, each used by one request at a time. To a meshed endpoint that is a tunnel, for
//! the few requests that cannot go as HTTP/2.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tracing::debug;

use super::{Endpoint, endpoint::now};
use crate::{body::Body, failure::ConnectError, identity::Inside};

/// Many servers close an idle connection after 5 s (Node.js), some after 2 s (gunicorn); we let go first, so that a request
/// rarely meets a connection that is just being closed.
const IDLE: Duration = Duration::from_millis(1900);
/// The most idle connections kept to one endpoint: what that many clients use at once again and again. They are 17 KiB each,
/// and a burst of them is gone with the next sweep.
const IDLE_MAX: usize = 512;
/// The head of a response, at most.
const HEAD_MAX: usize = 64 * 1024;

/// The idle connections to one endpoint, those that were used last at the end.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Idle>>);

struct Idle {
    sender: SendRequest<Body>,
    since: Duration,
}

impl Idle {
    fn is_old(&self, now: Duration) -> bool {
        now.saturating_sub(self.since) >= IDLE
    }
}

/// A connection, for one request.
pub(super) struct Lease {
    /// What sends the request.
    pub sender: SendRequest<Body>,
    /// When it was given.
    pub since: Duration,
    /// It has carried another request before, so the server may have just given it up.
    pub reused: bool,
}

impl Pool {
    /// The connection that was used last, or a new one.
    pub(super) async fn lease(&self, endpoint: &Endpoint, now: Duration) -> Result<Lease, ConnectError> {
        match self.take(now) {
            Some(sender) => Ok(Lease { sender, since: now, reused: true }),
            // Boxed: the few that dial must not size every request's future.
            None => Box::pin(self.fresh(endpoint)).await,
        }
    }

    /// A new connection.
    pub(super) async fn fresh(&self, endpoint: &Endpoint) -> Result<Lease, ConnectError> {
        let stream = endpoint.connect(Inside::Tcp).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ConnectError::Http(error.into()))?;
        let peer = endpoint.addr;
        tokio::spawn(async move {
            let ended = connection.with_upgrades().await;
            debug!(%peer, ?ended, "a connection ended");
        });
        Ok(Lease { sender, since: now(), reused: false })
    }

    /// Takes a connection back whose response has ended.
    pub(super) fn put(&self, sender: SendRequest<Body>) {
        let mut idle = self.idle();
        if !sender.is_closed() && idle.len() < IDLE_MAX {
            idle.push(Idle { sender, since: now() });
        }
    }

    /// Closes connections that were idle for too long.
    pub(super) fn sweep(&self) {
        let now = now();
        self.idle().retain(|idle| !idle.sender.is_closed() && !idle.is_old(now));
    }

    /// The youngest connection that can take a request at once. One whose response ended before its request had been
    /// sent whole may be busy for as long as that client likes: nobody waits for it.
    fn take(&self, now: Duration) -> Option<SendRequest<Body>> {
        let mut idle = self.idle();
        if idle.first().is_some_and(|oldest| oldest.is_old(now)) {
            let old = idle.partition_point(|idle| idle.is_old(now));
            idle.drain(..old);
        }
        for at in (0..idle.len()).rev() {
            if idle[at].sender.is_ready() {
                return Some(idle.remove(at).sender);
            }
            if idle[at].sender.is_closed() {
                idle.remove(at);
            }
        }
        None
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
