//! Mesh TLS connections.
//!
//! rustls makes the handshake, keeps the secrets, and seals and opens each record. What is read and written when, and
//! where it waits until then, is ours: an idle connection holds no buffer, what comes is opened where it was read, and a
//! system call reads two full ones, or writes four.

mod handshake;
mod incoming;
mod records;

use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use rustls::{AlertDescription, Error, crypto::cipher::OutboundChunks};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::{coop::poll_proceed, yield_now},
};

use self::{
    incoming::Incoming,
    records::{Opened, PLAIN_MAX, Records},
};
use crate::net::stream::Stream;

#[cfg(test)]
pub use handshake::Agreed;
pub use handshake::{accept, connect};

/// How many full records are written at once, and held while the other side takes nothing.
const RECORDS_MAX: usize = 4;
/// How many slices are taken at once.
const SLICES_MAX: usize = 16;
/// How many records, however little is in them, are opened for one of the 128 operations that tokio gives a task in its turn.
const RECORDS_OPERATION: u8 = 16;

/// An established connection.
pub struct Tls<S> {
    io: S,
    records: Records,
    incoming: Incoming,
    /// How many records were opened since an operation was taken for them.
    opened: u8,
    /// Records that are not all written yet, the next first; so much of that is.
    outgoing: [Vec<u8>; RECORDS_MAX],
    written: usize,
    /// The peer has said close_notify.
    ended: bool,
    /// Nothing more is sealed: we have said close_notify, or the connection is broken.
    closed: bool,
    /// Why nothing can be read any more.
    broken: Option<Box<(io::ErrorKind, String)>>,
}

impl<S: Stream> Tls<S> {
    fn new(io: S, records: Records, incoming: Incoming) -> Self {
        let (outgoing, written, broken) = (Default::default(), 0, None);
        Self { io, records, incoming, opened: 0, outgoing, written, ended: false, closed: false, broken }
    }

    /// Ready when there is something to read, or with `false` at the peer's clean end. Nothing is consumed.
    ///
    /// # Errors
    /// When the connection breaks, or ends without a word.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.incoming.plain().is_empty() {
            if self.ended {
                return Poll::Ready(Ok(false));
            }
            if let Some((kind, why)) = self.broken.as_deref() {
                return Poll::Ready(Err(io::Error::new(*kind, why.clone())));
            }
            if self.opened == RECORDS_OPERATION {
                ready!(poll_proceed(cx)).made_progress();
                self.opened = 0;
            }
            let filled = match self.open_next() {
                Ok(true) => continue,
                Ok(false) => ready!(self.incoming.poll_fill(&mut self.io, cx)),
                Err(error) => Err(self.refuse(error, cx)),
            };
            let ended = || Err(io::ErrorKind::UnexpectedEof.into());
            if let Err(error) = filled.and_then(|read| if read == 0 { ended() } else { Ok(()) }) {
                self.incoming.clear();
                self.broken = Some(Box::new((error.kind(), error.to_string())));
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Whether the peer is still there: `false` once it has ended cleanly. The event loop looks once more, so that what follows
    /// a handshake at once has come; it waits for nothing. Nothing is consumed.
    ///
    /// # Errors
    /// As [`Tls::poll_readable`].
    pub async fn look(&mut self) -> io::Result<bool> {
        tokio::select! {
            biased;
            readable = poll_fn(|cx| self.poll_readable(cx)) => readable,
            () = yield_now() => Ok(true),
        }
    }

    /// Opens the next record, if it is all there.
    fn open_next(&mut self) -> Result<bool, Error> {
        let Some(record) = self.incoming.record()? else { return Ok(false) };
        self.opened += 1;
        match self.records.open(record)? {
            Opened::Data(length) => self.incoming.opened(length),
            Opened::Nothing => self.incoming.opened(0),
            Opened::End => {
                self.ended = true;
                self.incoming.clear();
            }
        }
        Ok(true)
    }

    /// Nothing more is written; the peer is told why, as far as that can be done at once.
    fn refuse(&mut self, error: Error, cx: &mut Context<'_>) -> io::Error {
        let heard = matches!(error, Error::AlertReceived(_));
        // Behind what the peer does not take it would not arrive, and a writer who waits for that keeps his waker.
        if !heard && !self.closed && self.outgoing[0].is_empty() {
            let _ = self.alert(records::alert_of(&error)).map(|()| self.poll_written(cx));
        }
        self.closed = true;
        invalid(error)
    }

    /// Writes what is sealed.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing[0].is_empty() {
            let (io, rest) = (Pin::new(&mut self.io), &self.outgoing[0][self.written..]);
            // One is written for less than a list of one.
            let written = if self.outgoing[1].is_empty() {
                io.poll_write(cx, rest)
            } else {
                let mut records = self.outgoing.each_ref().map(|record| IoSlice::new(record));
                records[0] = IoSlice::new(rest);
                io.poll_write_vectored(cx, &records)
            };
            let written = ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            while !self.outgoing[0].is_empty() && self.written >= self.outgoing[0].len() {
                self.written -= self.outgoing[0].len();
                self.outgoing[0] = Vec::new();
                self.outgoing.rotate_left(1);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Seals as much as is written at once, and says how much that is.
    fn seal(&mut self, data: &OutboundChunks<'_>) -> Result<usize, Error> {
        let (now, _) = data.split_at(RECORDS_MAX * PLAIN_MAX);
        let (taken, mut rest) = (now.len(), now);
        for outgoing in &mut self.outgoing {
            let (record, more) = rest.split_at(PLAIN_MAX);
            if !record.is_empty() {
                self.records.seal(record, outgoing)?;
            }
            rest = more;
        }
        Ok(taken)
    }

    /// Seals an alert behind everything else.
    fn alert(&mut self, what: AlertDescription) -> Result<(), Error> {
        let last = self.outgoing.iter().rposition(|record| !record.is_empty()).unwrap_or(0);
        self.records.alert(what, &mut self.outgoing[last])
    }

    #[cfg(test)]
    fn held(&self) -> usize {
        self.incoming.held() + self.outgoing.iter().map(Vec::capacity).sum::<usize>()
    }
}

impl<S: Stream> Stream for Tls<S> {
    fn socket(&self) -> &TcpStream {
        self.io.socket()
    }
}

impl<S: Stream> AsyncRead for Tls<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            // What has come is handed on before more is waited for.
            let more = match self.poll_readable(cx) {
                Poll::Ready(Ok(more)) => more,
                _ if buf.filled().len() > before => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            if !more {
                break;
            }
            let plain = self.incoming.plain();
            let count = plain.len().min(buf.remaining());
            buf.put_slice(&plain[..count]);
            self.incoming.consume(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Stream> AsyncWrite for Tls<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_written(cx))?;
        if self.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut slices = [&[][..]; SLICES_MAX];
        let mut count = 0;
        for (slice, buf) in slices.iter_mut().zip(bufs.iter().filter(|buf| !buf.is_empty())) {
            *slice = buf;
            count += 1;
        }
        if count == 0 {
            return Poll::Ready(Ok(0));
        }
        let taken = self.seal(&OutboundChunks::new(&slices[..count])).map_err(|error| {
            // What is sealed already is no whole of anything: no close_notify may follow it.
            self.closed = true;
            invalid(error)
        })?;
        // What the peer does not take now waits for the next write, or a flush.
        match self.poll_written(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_written(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Says close_notify, and ends this direction of the connection below.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.closed {
            this.closed = true;
            this.alert(AlertDescription::CloseNotify).map_err(invalid)?;
        }
        ready!(this.poll_written(cx))?;
        match ready!(Pin::new(&mut this.io).poll_shutdown(cx)) {
            // The peer has ended both ways.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            ended => Poll::Ready(ended),
        }
    }
}

impl<S> fmt::Debug for Tls<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ended, closed, broken, .. } = self;
        let mut shown = f.debug_struct("Tls");
        shown.field("ended", ended).field("closed", closed).field("broken", broken).finish_non_exhaustive()
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
