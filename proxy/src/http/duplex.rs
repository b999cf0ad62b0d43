//! A stream of HTTP/2 that was switched to another protocol (RFC 8441), as a connection of bytes.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use h2::{RecvStream, SendStream};
use hyper::body::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::h2_body::poll_room;

/// The most that one write takes: it is copied, since it is on its way for longer than its buffer is ours.
const WRITE_MAX: usize = 16 * 1024;

/// Both directions of a stream. Let go before both have ended, it is reset.
pub struct Duplex {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// What has come and was not read yet.
    rest: Bytes,
}

impl Duplex {
    /// Of the two directions of one stream.
    pub fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self { send, receive, rest: Bytes::new() }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(data) => self.rest = data.map_err(broken)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        // Only what was read makes room for more. It cannot fail: no more is released than has come.
        let _ = self.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let room = ready!(poll_room(&mut self.send, cx)).map_err(broken)?;
        let taken = buf.get(..room.min(WRITE_MAX)).unwrap_or(buf);
        self.send.send_data(Bytes::copy_from_slice(taken), false).map_err(broken)?;
        Poll::Ready(Ok(taken.len()))
    }

    /// What is sent goes out with all else of the connection. Here it only shows whether the stream still runs.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.send.poll_reset(cx) {
            Poll::Ready(reset) => Poll::Ready(Err(broken(reset.map_or_else(|error| error, h2::Error::from)))),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(broken))
    }
}

/// Whatever ends a stream but its end is a reset.
fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}
