//! Bytes between two connections, with the meaning of their ends kept.
//!
//! A half-close passes through in both directions. Anything else that ends a side (a reset, TLS without its
//! close_notify) becomes a reset on the other: a truncated stream is never taken for a whole one.
//!
//! All relays of the thread read into one buffer. What the other side does not take at once is moved into memory of its
//! own size, and nothing more is read until that has gone: an idle relay holds no buffer, and a stalled one at most a
//! buffer's worth each way; over TLS two records more.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::body::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    socket::reset_on_close,
    stream::Stream,
    turn::{self, TURN},
};

/// Two full TLS records, with the head of a tunnel's frame.
const BUFFER: usize = 2 * 16 * 1024 - 2;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}

/// How many bytes were carried.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// From the caller to the callee.
    pub sent: u64,
    /// From the callee to the caller.
    pub received: u64,
}

impl std::ops::AddAssign for Carried {
    fn add_assign(&mut self, more: Self) {
        self.sent += more.sent;
        self.received += more.received;
    }
}

/// Carries bytes both ways until both sides have ended; `count` is told of each step. Both are lent: what a future is
/// given it has room for twice.
///
/// # Errors
/// What broke the relay; both sides are then set to end in a reset.
pub async fn relay(
    caller: &mut impl Stream,
    callee: &mut impl Stream,
    count: impl FnMut(Carried),
) -> io::Result<()> {
    let ended = copy(caller, Bytes::new(), callee, count).await;
    if ended.is_err() {
        reset_on_close(caller.socket());
        reset_on_close(callee.socket());
    }
    ended
}

/// Like [`relay`] for streams that know no reset; `ahead` was read from the caller before.
///
/// # Errors
/// What broke one of them.
pub async fn copy<A, B>(
    caller: &mut A,
    ahead: Bytes,
    callee: &mut B,
    mut count: impl FnMut(Carried),
) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Way::new(ahead), Way::new(Bytes::new()));
    poll_fn(|cx| {
        let sent = there.poll(cx, caller, callee, |sent| count(Carried { sent, received: 0 }))?;
        let received = back.poll(cx, callee, caller, |received| count(Carried { sent: 0, received }))?;
        if sent.is_ready() && received.is_ready() {
            return Poll::Ready(Ok(()));
        }
        look(caller, cx)?;
        look(callee, cx)?;
        Poll::Pending
    })
    .await
}

/// Learns of a side's reset even while nothing is read from it, because the other takes nothing or it has ended: its peer
/// may be trusted no more. Whatever else breaks it is found where it matters, by a read or a write.
fn look(side: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> io::Result<()> {
    let flushed = match Pin::new(side).poll_flush(cx) {
        Poll::Ready(flushed) => flushed,
        Poll::Pending => Ok(()),
    };
    flushed.or_else(|error| if error.kind() == io::ErrorKind::ConnectionReset { Err(error) } else { Ok(()) })
}

/// One way of a relay.
struct Way {
    /// What was read and could not be written yet.
    rest: Bytes,
    /// Something was written since the last flush.
    unflushed: bool,
    /// No more will be read.
    ended: bool,
    /// The other side knows.
    shut: bool,
}

impl Way {
    fn new(rest: Bytes) -> Self {
        // A tunnel may still have to say that it is there.
        Self { rest, unflushed: true, ended: false, shut: false }
    }

    fn poll<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        mut count: impl FnMut(u64),
    ) -> Poll<io::Result<()>> {
        for _ in 0..TURN / BUFFER {
            ready!(self.poll_rest(cx, to, &mut count))?;
            if self.ended {
                return self.poll_shutdown(cx, to);
            }
            if self.poll_read(cx, from, to, &mut count)?.is_pending() {
                ready!(self.poll_flush(cx, to))?;
                return Poll::Pending;
            }
        }
        turn::end(cx)
    }

    /// Writes what was left over.
    fn poll_rest<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        count: &mut impl FnMut(u64),
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let written = self.write(cx, to, &self.rest.clone(), count)?;
        self.rest.advance(written);
        if !self.rest.is_empty() {
            return Poll::Pending;
        }
        self.rest = Bytes::new();
        Poll::Ready(Ok(()))
    }

    /// Reads once, and writes as much of it as the other side takes now.
    fn poll_read<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: &mut impl FnMut(u64),
    ) -> Poll<io::Result<()>> {
        SHARED.with_borrow_mut(|shared| {
            let mut buffer = ReadBuf::new(shared);
            ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
            let read = buffer.filled();
            self.ended = read.is_empty();
            let written = self.write(cx, to, read, count)?;
            let rest = read.get(written..).unwrap_or_default();
            if !rest.is_empty() {
                self.rest = Bytes::copy_from_slice(rest);
            }
            Poll::Ready(Ok(()))
        })
    }

    /// Writes what `to` takes now, and says how much that was.
    fn write<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        bytes: &[u8],
        count: &mut impl FnMut(u64),
    ) -> io::Result<usize> {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut *to).poll_write(cx, rest)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(n) => written += n,
                Poll::Pending => break,
            }
        }
        self.unflushed |= written > 0;
        count(written as u64);
        Ok(written)
    }

    fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Passes the half-close on.
    fn poll_shutdown<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(self.poll_flush(cx, to))?;
            ready!(Pin::new(to).poll_shutdown(cx))?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }
}

/// Both ends of a TCP connection, for tests.
#[cfg(test)]
pub async fn pair() -> (tokio::net::TcpStream, tokio::net::TcpStream) {
    use tokio::net::TcpStream;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let dial = TcpStream::connect(listener.local_addr().expect("address"));
    let (near, far) = tokio::join!(dial, listener.accept());
    (near.expect("connect"), far.expect("accept").0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::peek::Peeked;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        net::TcpStream,
    };

    async fn carried(mut caller: TcpStream, mut callee: TcpStream) -> io::Result<Carried> {
        let mut carried = Carried::default();
        relay(&mut caller, &mut callee, |more| carried += more).await.map(|()| carried)
    }

    #[tokio::test]
    async fn a_half_close_passes_and_the_answer_still_comes() {
        let (mut client, caller) = pair().await;
        let (callee, mut server) = pair().await;
        let relay = tokio::spawn(carried(caller, callee));
        client.write_all(b"question").await.expect("write");
        client.shutdown().await.expect("half-close");
        let mut question = String::new();
        server.read_to_string(&mut question).await.expect("read");
        server.write_all(b"the answer").await.expect("write");
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("read");
        assert_eq!((question.as_str(), answer.as_str()), ("question", "the answer"));
        let carried = relay.await.expect("task").expect("relay");
        assert_eq!(carried, Carried { sent: 8, received: 10 });
    }

    #[tokio::test]
    async fn a_reset_passes_as_a_reset() {
        let (client, caller) = pair().await;
        let (callee, mut server) = pair().await;
        let relay = tokio::spawn(carried(caller, callee));
        reset_on_close(&client);
        drop(client);
        assert!(relay.await.expect("task").is_err());
        let error = server.read(&mut [0; 8]).await.expect_err("a reset, not a clean end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    /// Writes until nothing more is taken, and says how much was.
    async fn fill(to: &mut (impl AsyncWrite + Unpin)) -> usize {
        let mut taken = 0;
        loop {
            tokio::select! {
                biased;
                written = to.write(&[7; 1000]) => taken += written.expect("write"),
                // Whoever can go on has had many turns by then.
                () = turns(100) => return taken,
            }
        }
    }

    async fn turns(count: usize) {
        for _ in 0..count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_reader_that_stalls_stops_the_writer_and_loses_nothing() {
        let ((mut client, mut caller), (mut callee, mut server)) = (duplex(4096), duplex(4096));
        let relay = tokio::spawn(async move { copy(&mut caller, Bytes::new(), &mut callee, |_| ()).await });
        let taken = fill(&mut client).await;
        assert!(taken <= 2 * 4096 + BUFFER, "{taken} bytes were taken for a reader that reads nothing");
        client.shutdown().await.expect("half-close");
        let mut arrived = Vec::new();
        server.read_to_end(&mut arrived).await.expect("read");
        assert_eq!(arrived.len(), taken);
        drop(server);
        relay.await.expect("task").expect("relay");
    }

    #[tokio::test]
    async fn what_was_read_ahead_comes_first_and_is_counted() {
        let (mut client, caller) = pair().await;
        let (mut callee, mut server) = pair().await;
        client.write_all(b"ahead").await.expect("write");
        let mut caller = Peeked::new(caller);
        assert!(caller.read_more().await.expect("read"));
        client.write_all(b" and after").await.expect("write");
        drop(client);
        let relay = tokio::spawn(async move {
            let mut carried = Carried::default();
            relay(&mut caller, &mut callee, |more| carried += more).await.map(|()| carried)
        });
        let mut arrived = String::new();
        server.read_to_string(&mut arrived).await.expect("read");
        drop(server);
        assert_eq!(arrived, "ahead and after");
        assert_eq!(relay.await.expect("task").expect("relay").sent, 15);
    }
}
