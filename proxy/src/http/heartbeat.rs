//! Signs of life of an HTTP/2 connection. Whatever comes from the other side is one; only when nothing does, it is asked
//! for one by a PING (RFC 9113 section 6.7).

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

/// A silent connection is asked for a sign of life this often…
pub const INTERVAL: Duration = Duration::from_secs(10);
/// …and given up when none comes for this long.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Watches over one connection.
pub struct Heartbeat {
    /// There is one for a connection; none if it is not asked.
    pings: Option<PingPong>,
    /// The next look.
    timer: Pin<Box<Sleep>>,
    asked: bool,
}

/// What a look came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// It lives; about [`INTERVAL`] has passed since the last look.
    Lives,
    /// Nothing came, though it was asked.
    Dead,
}

impl Heartbeat {
    /// Of a connection that begins now. Without `pings` it lives for as long as its socket: within a pod the kernel knows when
    /// the other side has ended, and one that only pauses, in a debugger or a collector of garbage, is to be waited for.
    pub fn new(pings: Option<PingPong>) -> Self {
        Self { pings, timer: Box::pin(sleep(INTERVAL)), asked: false }
    }

    /// Looks when it is time; `heard` says whether anything has come since it was asked last.
    pub fn poll(&mut self, cx: &mut Context<'_>, heard: impl Fn() -> bool) -> Poll<Beat> {
        let mut beat = Poll::Pending;
        while self.timer.as_mut().poll(cx).is_ready() {
            let (next, what) = match (heard(), self.asked) {
                (true, _) => (INTERVAL, Poll::Ready(Beat::Lives)),
                (false, _) if self.pings.is_none() => (INTERVAL, Poll::Ready(Beat::Lives)),
                (false, true) => return Poll::Ready(Beat::Dead),
                (false, false) => (TIMEOUT, Poll::Pending),
            };
            self.asked = what.is_pending();
            if self.asked
                && let Some(pings) = &mut self.pings
            {
                // The answer to the last one may still be there, and forbids another.
                let _ = pings.poll_pong(cx);
                // It fails where the connection is about to end, or an older one was never answered: then all else counts.
                let _ = pings.send_ping(Ping::opaque());
            }
            self.timer.as_mut().reset(Instant::now() + next);
            beat = what;
        }
        beat
    }
}
