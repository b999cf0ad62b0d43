//! A mesh connection that ends in a reset as soon as the peer's root has left the bundle, whatever it carries.
//!
//! It stands below everything else, so that HTTP/2, tunnels and switched protocols are cut alike, on both sides.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tracing::warn;

use super::{Credentials, CurrentCredentials, Proven};
use crate::net::{socket::reset_on_close, stream::Stream};

/// A connection with a peer, for as long as it is trusted.
pub struct Trusted<S> {
    stream: S,
    ends: SystemTime,
    usable: Duration,
    /// Ready when the peer's root has left the bundle; none once the connection is cut.
    distrusted: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// How often it has not been looked at.
    unlooked: u8,
}

/// How many reads and writes may succeed in a row before the peer's root is looked at.
const UNLOOKED_MAX: u8 = 32;

impl<S: Stream> Trusted<S> {
    /// A connection that was made with these credentials, to this peer.
    pub fn new(stream: S, peer: Proven, made_with: &Credentials, current: CurrentCredentials) -> Self {
        let (ends, now) = (peer.ends().min(made_with.not_after), SystemTime::now());
        let usable = peer.usable(now).min(made_with.usable(now));
        let distrusted = peer.distrusted(made_with.roots(), current);
        Self { stream, ends, usable, distrusted: Some(Box::pin(distrusted)), unlooked: 0 }
    }

    /// How long from its beginning on it may take new requests.
    pub fn usable(&self) -> Duration {
        self.usable
    }

    /// What is below.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Reads or writes, unless the connection is cut. That is looked at whenever it would wait, and now and then if it never
    /// does.
    fn poll_trusted<T>(
        &mut self,
        cx: &mut Context<'_>,
        act: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Some(distrusted) = &mut self.distrusted {
            let acted = act(Pin::new(&mut self.stream), cx);
            if acted.is_ready() && self.unlooked < UNLOOKED_MAX {
                self.unlooked += 1;
                return acted;
            }
            self.unlooked = 0;
            if distrusted.as_mut().poll(cx).is_pending() {
                return acted;
            }
            warn!("cut a connection: its peer's root has left the bundle");
            reset_on_close(self.stream.socket());
            self.distrusted = None;
        }
        Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
    }
}

impl<S: Stream> Stream for Trusted<S> {
    fn socket(&self) -> &TcpStream {
        self.stream.socket()
    }

    fn certificates_end(&self) -> Option<SystemTime> {
        Some(self.ends)
    }
}

impl<S: Stream> AsyncRead for Trusted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_trusted(cx, |stream, cx| stream.poll_read(cx, buf))
    }
}

impl<S: Stream> AsyncWrite for Trusted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_trusted(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_trusted(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Looks in any case: whoever does nothing else for long does this first.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.unlooked = UNLOOKED_MAX;
        self.poll_trusted(cx, S::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_trusted(cx, S::poll_shutdown)
    }
}

impl<S> fmt::Debug for Trusted<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trusted").field("ends", &self.ends).finish_non_exhaustive()
    }
}
