//! Reading a connection in turns, little in each: what was read is answered before more of it is read.
//!
//! A proxy that starts asks for dozens of things at once. HTTP/2 would take in all of them, then all of their answers, before
//! the first leaves, and it keeps the room for so many as long as the connection lasts. So it reads once each time its task
//! runs; meanwhile whoever else has something to do has his turn.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read in a turn at most: two or three requests, each with its token.
const PART: usize = 2 * 1024;

/// A connection that is read in turns.
#[derive(Debug)]
pub struct Turns<S> {
    stream: S,
    turn: Turn,
}

/// The present turn: whether it has its read yet.
#[derive(Debug, Clone, Default)]
pub struct Turn(Arc<AtomicBool>);

impl Turn {
    /// `served`, which reads the connection; each time it is polled is a turn.
    pub fn each<F: Future + Unpin>(&self, mut served: F) -> impl Future<Output = F::Output> {
        poll_fn(move |cx| {
            self.0.store(true, Ordering::Relaxed);
            Pin::new(&mut served).poll(cx)
        })
    }
}

impl<S> Turns<S> {
    /// Reads `stream` when it is its turn.
    pub fn new(stream: S, turn: &Turn) -> Self {
        Self { stream, turn: turn.clone() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Turns<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.turn.0.load(Ordering::Relaxed) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let size = buffer.remaining().min(PART);
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(size));
        let outcome = Pin::new(&mut self.stream).poll_read(cx, &mut part);
        let read = part.filled().len();
        buffer.advance(read);
        self.turn.0.store(outcome.is_pending(), Ordering::Relaxed);
        outcome
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Turns<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_turn_has_one_short_read_and_nothing_is_lost() {
        let (mut far, near) = tokio::io::duplex(10 * PART);
        let turn = Turn::default();
        let mut turns = Turns::new(near, &turn);
        let sent: Vec<u8> = (0..=255).cycle().take(3 * PART).collect();
        far.write_all(&sent).await.unwrap();
        drop(far);
        let (mut first, mut more, mut rest) = (vec![0; 8 * PART], [0], Vec::new());
        assert!(turns.read(&mut first).now_or_never().is_none(), "it is nobody's turn");
        let read = turn.each(Box::pin(turns.read(&mut first))).await.unwrap();
        assert_eq!(read, PART);
        assert!(turns.read(&mut more).now_or_never().is_none(), "the turn is over");
        // Nobody has to wake it: the rest is there, and so is the end.
        turn.each(Box::pin(turns.read_to_end(&mut rest))).await.unwrap();
        assert_eq!([&first[..PART], &rest].concat(), sent);
    }

    #[tokio::test]
    async fn a_turn_without_anything_to_read_is_not_over() {
        let (mut far, near) = tokio::io::duplex(10);
        let turn = Turn::default();
        let mut turns = Turns::new(near, &turn);
        assert!(turn.each(Box::pin(turns.read_u8())).now_or_never().is_none());
        far.write_all(b"a").await.unwrap();
        assert_eq!(turns.read_u8().now_or_never().unwrap().unwrap(), b'a');
    }

    #[tokio::test]
    async fn what_is_written_waits_for_no_turn() {
        let (mut far, near) = tokio::io::duplex(10);
        let mut turns = Turns::new(near, &Turn::default());
        turns.write_all(b"ab").now_or_never().unwrap().unwrap();
        turns.shutdown().now_or_never().unwrap().unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "ab");
    }
}
