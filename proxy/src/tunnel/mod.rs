//! TCP connections in tunnels, one after another over one mesh TLS connection (`heddle/tunnels`), so that a short one
//! pays for no handshake. At any time there is one tunnel in it at most: none waits for another.
//!
//! Everything is a frame, which begins with two bytes (big endian):
//!
//! | the bytes | who | what |
//! | --- | --- | --- |
//! | `FFFF` | client | OPEN: a tunnel begins |
//! | `FFFE` | server | LAST: a tunnel that has begun is carried, none after it |
//! | `0000` | both | END of this direction: a half-close |
//! | 1 to 32766 | both | so many bytes of the tunnel follow |
//!
//! A tunnel has ended when both sides have said END; then the next may begin. However else it ends, the connection ends
//! with it, in a reset. A connection that ends before END, by whatever means, is broken.

mod head;
mod lent;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::SystemTime,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use self::head::{Code, Head};
use crate::{identity::Trusted, net::stream::Stream, tls::Tls};

pub use lent::Lent;

/// A caller's proxy, as its handshake left it.
pub type Peer = Box<Trusted<Tls<TcpStream>>>;

/// A connection that carries tunnels, one after another. What is read and written is the present tunnel's.
#[derive(Debug)]
pub struct Tunnels<S> {
    stream: S,
    /// The first byte of a frame's head, whose second has not come yet.
    half: Option<u8>,
    incoming: Way,
    outgoing: Way,
    /// Heads that are still to be written.
    head: Head,
    /// No tunnel follows the present one.
    last: bool,
    /// It is the server's side, to which nobody says LAST.
    serves: bool,
}

/// One direction of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// So many bytes of the present frame are still to pass.
    Open(u16),
    /// END has been said, or nothing has begun.
    Ended,
}

impl<S: Stream> Tunnels<S> {
    /// A connection without a tunnel.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            half: None,
            incoming: Way::Ended,
            outgoing: Way::Ended,
            head: Head::default(),
            last: false,
            serves: false,
        }
    }

    /// The client's side: begins a tunnel. The peer learns of it with the first bytes, or by a flush.
    pub fn open(&mut self) {
        self.head.push(Code::Open);
        self.begin();
    }

    /// The server's side: waits for a tunnel to begin. `false`: the peer has closed the connection.
    ///
    /// Safe to cancel.
    ///
    /// # Errors
    /// When the connection breaks, or the peer says anything else.
    pub async fn accept(&mut self) -> io::Result<bool> {
        match std::future::poll_fn(|cx| self.poll_code(cx)).await? {
            Some(Code::Open) => {
                self.serves = true;
                self.begin();
                Ok(true)
            }
            Some(_) => Err(invalid("a frame outside of a tunnel")),
            None => Ok(false),
        }
    }

    /// The server's side, without a tunnel: says that it takes no more. One that has just been opened is still to be served.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn take_no_more(&mut self) -> io::Result<()> {
        self.last = true;
        self.head.push(Code::Last);
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_flush(cx)).await
    }

    /// Whether the present tunnel has come to its end on both sides, so that another may begin.
    pub fn is_free(&self) -> bool {
        let ended = self.incoming == Way::Ended && self.outgoing == Way::Ended;
        ended && self.head.is_empty() && !self.last
    }

    /// The client's side: whether a kept connection is still there, and the peer takes another tunnel.
    pub fn is_alive(&mut self) -> bool {
        self.is_free() && self.poll_code(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    /// What is below.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Returns when the peer has something to say within the tunnel, or has ended it.
    pub async fn readable(&mut self) {
        let readable = |cx: &mut Context<'_>| {
            // The peer must know of the tunnel before it can speak.
            ready!(Pin::new(&mut *self).poll_flush(cx))?;
            self.poll_frame(cx).map_ok(drop)
        };
        // A broken one says so again when it is read.
        let _: io::Result<()> = std::future::poll_fn(readable).await;
    }

    fn begin(&mut self) {
        self.incoming = Way::Open(0);
        self.outgoing = Way::Open(0);
    }

    /// How much of the present frame is still to come; none at the peer's END.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<u16>>> {
        while self.incoming == Way::Open(0) {
            match ready!(self.poll_code(cx))? {
                Some(Code::Bytes(count)) => self.incoming = Way::Open(count),
                Some(Code::End) => self.incoming = Way::Ended,
                Some(Code::Last) if !self.serves && !self.last => self.last = true,
                Some(Code::Last) => return Poll::Ready(Err(invalid("a last word too many"))),
                Some(Code::Open) => return Poll::Ready(Err(invalid("a tunnel within a tunnel"))),
                None => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
        Poll::Ready(Ok(match self.incoming {
            Way::Open(left) => Some(left),
            Way::Ended => None,
        }))
    }

    /// The next frame's head; none at the end of the connection.
    fn poll_code(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Code>>> {
        let mut bytes = [0; 2];
        loop {
            let (had, room) = match self.half {
                Some(first) => {
                    bytes[0] = first;
                    (true, &mut bytes[1..])
                }
                None => (false, &mut bytes[..]),
            };
            let mut buf = ReadBuf::new(room);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            match (had, buf.filled().len()) {
                (false, 0) => return Poll::Ready(Ok(None)),
                (true, 0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                (false, 1) => self.half = Some(bytes[0]),
                _ => break,
            }
        }
        self.half = None;
        let code = Code::read(bytes).ok_or_else(|| invalid("an unknown frame"))?;
        Poll::Ready(Ok(Some(code)))
    }
}

impl<S: Stream> Stream for Tunnels<S> {
    fn socket(&self) -> &TcpStream {
        self.stream.socket()
    }

    fn certificates_end(&self) -> Option<SystemTime> {
        self.stream.certificates_end()
    }
}

impl<S: Stream> AsyncRead for Tunnels<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(left) = ready!(self.poll_frame(cx))? else { return Poll::Ready(Ok(())) };
        let room = buf.remaining().min(left.into());
        let mut frame = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut frame))?;
        let read = frame.filled().len();
        buf.advance(read);
        if read == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.incoming = Way::Open(left.saturating_sub(count(read)));
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for Tunnels<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            let promised = match this.outgoing {
                Way::Open(0) => {
                    let promised = count(buf.len().min(head::BYTES_MAX.into()));
                    this.head.push(Code::Bytes(promised));
                    promised
                }
                Way::Open(promised) => promised,
                Way::Ended => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
            this.outgoing = Way::Open(promised);
            let payload = &buf[..buf.len().min(promised.into())];
            let written = if this.head.is_empty() {
                ready!(Pin::new(&mut this.stream).poll_write(cx, payload))?
            } else {
                let both = [io::IoSlice::new(this.head.bytes()), io::IoSlice::new(payload)];
                ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, &both))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_payload = this.head.written(written);
            if of_payload > 0 {
                this.outgoing = Way::Open(promised.saturating_sub(count(of_payload)));
                return Poll::Ready(Ok(of_payload));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while !this.head.is_empty() {
            let written = ready!(Pin::new(&mut this.stream).poll_write(cx, this.head.bytes()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.head.written(written);
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    /// Ends this direction of the tunnel; the connection stays.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.outgoing {
            Way::Open(0) => {
                self.head.push(Code::End);
                self.outgoing = Way::Ended;
            }
            Way::Open(_) => return Poll::Ready(Err(invalid("an end within a frame"))),
            Way::Ended => {}
        }
        self.poll_flush(cx)
    }
}

/// What a frame counts; never more than [`head::BYTES_MAX`].
fn count(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(head::BYTES_MAX)
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests;
