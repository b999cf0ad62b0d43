//! A connection whose first bytes have been looked at and are still to be delivered.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use hyper::body::{Buf as _, Bytes};
use mesh::detect::{Detected, Detection, detect};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::stream::Stream;

/// How much is read at once while looking: a ClientHello with a post-quantum key share fits.
const PEEK: usize = 4096;
/// The most that is ever held back before a connection's protocol is settled.
const PEEK_MAX: usize = 18 * 1024;

/// A connection with bytes that were read ahead.
#[derive(Debug)]
pub struct Peeked<S = TcpStream> {
    stream: S,
    ahead: Vec<u8>,
    taken: usize,
}

/// What a connection's first bytes came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// They tell the protocol.
    Speaks(Detected),
    /// The client ended before they did.
    Ended,
    /// They may be the beginning of several, and no more came in time.
    Undecided,
}

impl<S: Stream> Peeked<S> {
    /// A connection of which nothing has been read.
    pub fn new(stream: S) -> Self {
        Self { stream, ahead: Vec::new(), taken: 0 }
    }

    /// The same of any kind, so that there is code for one kind alone.
    pub fn boxed(self) -> Peeked<Box<dyn Stream>>
    where
        S: 'static,
    {
        Peeked { stream: Box::new(self.stream), ahead: self.ahead, taken: self.taken }
    }

    /// What has been read ahead.
    pub fn ahead(&self) -> &[u8] {
        self.ahead.get(self.taken..).unwrap_or_default()
    }

    /// The connection, and what must be written to the other side before anything that is read from it.
    pub fn into_parts(self) -> (Bytes, S) {
        let mut ahead = Bytes::from(self.ahead);
        ahead.advance(self.taken);
        (ahead, self.stream)
    }

    /// Gives back what was read and not used: it is read again.
    pub fn unread(&mut self, bytes: &[u8]) {
        let rest = self.ahead.get(self.taken..).unwrap_or_default();
        self.ahead = [bytes, rest].concat();
        self.taken = 0;
    }

    /// Reads until the bytes tell the protocol. `None`: the client ended before it said enough.
    ///
    /// Safe to cancel: what was read stays.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn detect(&mut self) -> io::Result<Option<Detected>> {
        loop {
            if let Detection::Known(protocol) = detect(self.ahead()) {
                return Ok(Some(protocol));
            }
            if !self.read_more().await? {
                return Ok(None);
            }
        }
    }

    /// Like [`Peeked::detect`], but once the first byte is there it waits at most `limit` for the rest.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn settle(&mut self, limit: impl Fn(u8) -> Duration) -> io::Result<Settled> {
        while self.ahead().is_empty() {
            if !self.read_more().await? {
                return Ok(Settled::Ended);
            }
        }
        let limit = self.ahead().first().copied().map_or(Duration::ZERO, limit);
        Ok(match timeout(limit, self.detect()).await {
            Ok(detected) => detected?.map_or(Settled::Ended, Settled::Speaks),
            Err(_) => Settled::Undecided,
        })
    }

    /// Reads a little more. `false`: the end of the stream, or the bound, is reached.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn read_more(&mut self) -> io::Result<bool> {
        if self.ahead.len() >= PEEK_MAX {
            return Ok(false);
        }
        self.ahead.reserve(PEEK);
        Ok(self.stream.read_buf(&mut self.ahead).await? > 0)
    }
}

impl<S: Stream> Stream for Peeked<S> {
    fn socket(&self) -> &TcpStream {
        self.stream.socket()
    }

    fn is_plain(&self) -> bool {
        self.stream.is_plain()
    }

    fn certificates_end(&self) -> Option<SystemTime> {
        self.stream.certificates_end()
    }
}

impl<S: Stream> AsyncRead for Peeked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead().is_empty() {
            // Even a read that brought nothing has made room.
            (self.ahead, self.taken) = (Vec::new(), 0);
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = self.ahead().len().min(buf.remaining());
        buf.put_slice(&self.ahead()[..n]);
        self.taken += n;
        if self.taken == self.ahead.len() {
            // The memory goes back at once: an idle connection holds no buffer.
            self.ahead = Vec::new();
            self.taken = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for Peeked<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;

    use super::*;
    use crate::net::relay::pair;

    #[tokio::test]
    async fn an_idle_connection_holds_no_buffer_whether_something_came_or_not() {
        let (mut near, far) = pair().await;
        let mut far = Peeked::new(far);
        for came in [&b""[..], b"hello"] {
            near.write_all(came).await.expect("write");
            let _ = timeout(Duration::from_millis(1), far.read_more()).await;
            assert!(far.ahead() == came && far.ahead.capacity() > 0);
            let mut read = vec![0; came.len()];
            far.read_exact(&mut read).await.expect("read");
            assert_eq!(read, came);
            poll_fn(|cx| {
                let waits = Pin::new(&mut far).poll_read(cx, &mut ReadBuf::new(&mut [0]));
                assert!(waits.is_pending());
                Poll::Ready(())
            })
            .await;
            assert_eq!(far.ahead.capacity(), 0);
        }
    }
}
