//! Writes of one turn of the event loop, made at its end as one.
//!
//! h2 writes each frame of data by itself and flushes after it. For small bodies that is a system call, a TLS record and a
//! segment for each response; a connection that carries a hundred of them at a time needs a few. So what is written goes
//! into a buffer, a flush says yes, and whoever polls the connection writes the buffer when it has nothing more to say.
//!
//! The buffer is the thread's: a connection holds it from its first write to the end of its turn, and keeps it only while
//! its reader is slow.

use std::{
    cell::Cell,
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered at most: four full TLS records.
const GATHERED_MAX: usize = 64 * 1024;
/// What is not gathered: it fills records of its own.
const LARGE: usize = 16 * 1024;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection whose writes wait for the end of the turn. Its clones are the same connection.
#[derive(Debug)]
pub struct Batch<S>(Arc<Mutex<Gathered<S>>>);

#[derive(Debug)]
struct Gathered<S> {
    stream: S,
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
    /// The stream has taken bytes since it was flushed.
    unflushed: bool,
    /// Why writing ended.
    broken: Option<io::ErrorKind>,
    /// Something has come since that was asked last.
    heard: bool,
}

impl<S> Clone for Batch<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Batch<S> {
    /// Gathers what is written to `stream`.
    pub fn new(stream: S) -> Self {
        Self(Arc::new(Mutex::new(Gathered {
            stream,
            bytes: Vec::new(),
            written: 0,
            unflushed: false,
            broken: None,
            heard: false,
        })))
    }

    /// Whether anything has come from the other side since this was asked last.
    pub fn heard(&self) -> bool {
        std::mem::take(&mut self.gathered().heard)
    }

    /// Polls what reads and writes the connection, and then writes what it has gathered.
    pub fn poll<F: Future>(&self, connection: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let polled = connection.poll(cx);
        let mut gathered = self.gathered();
        if let Poll::Ready(Err(error)) = gathered.poll_all(cx) {
            gathered.broken = Some(error.kind());
            // It learns of it by its next write.
            cx.waker().wake_by_ref();
        }
        polled
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gathered<S> {
    /// Writes everything, and flushes.
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken.is_some() {
            return Poll::Ready(Ok(()));
        }
        while let Some(rest) = self.bytes.get(self.written..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.unflushed = true;
        }
        if !self.bytes.is_empty() {
            self.bytes.clear();
            self.written = 0;
            SPARE.set(std::mem::take(&mut self.bytes));
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Room for more; pending while the reader is slow.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(kind) = self.broken {
            return Poll::Ready(Err(kind.into()));
        }
        if self.bytes.len() >= GATHERED_MAX {
            ready!(self.poll_all(cx))?;
        }
        Poll::Ready(Ok(GATHERED_MAX - self.bytes.len()))
    }

    fn gather(&mut self, room: usize, bytes: &[u8]) -> usize {
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.bytes.extend_from_slice(taken);
        taken.len()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Batch<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (mut gathered, before) = (self.gathered(), buf.filled().len());
        let read = Pin::new(&mut gathered.stream).poll_read(cx, buf);
        gathered.heard |= buf.filled().len() > before;
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Batch<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut gathered = self.gathered();
        let mut room = ready!(gathered.poll_room(cx))?;
        if gathered.bytes.is_empty() && bufs.iter().map(|buf| buf.len()).sum::<usize>() >= LARGE {
            gathered.unflushed = true;
            return Pin::new(&mut gathered.stream).poll_write_vectored(cx, bufs);
        }
        if gathered.bytes.capacity() == 0 {
            gathered.bytes = SPARE.take();
        }
        let mut taken = 0;
        for buf in bufs {
            let count = gathered.gather(room, buf);
            taken += count;
            room -= count;
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What is gathered goes out at the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.gathered().broken {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        })
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.gathered();
        ready!(gathered.poll_all(cx))?;
        Pin::new(&mut gathered.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::pin,
        sync::atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// Counts the writes that reach a stream.
    struct Counted(DuplexStream, Arc<AtomicUsize>);

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.1.fetch_add(1, Relaxed);
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn the_writes_of_a_turn_are_one() {
        let (near, mut far) = duplex(1 << 20);
        let writes = Arc::default();
        let batch = Batch::new(Counted(near, Arc::clone(&writes)));
        let mut writer = batch.clone();
        let mut connection = pin!(async move {
            for _ in 0..20 {
                writer.write_all(&[7; 1033]).await?;
                writer.flush().await?;
            }
            io::Result::Ok(writer)
        });
        let writer = poll_fn(|cx| batch.poll(connection.as_mut(), cx)).await.expect("writes");
        assert_eq!(writes.load(Relaxed), 1);
        drop((batch, writer));
        let mut arrived = Vec::new();
        far.read_to_end(&mut arrived).await.expect("reads");
        assert_eq!(arrived, [7; 20 * 1033]);
    }

    #[tokio::test]
    async fn a_slow_reader_stops_the_writer_and_loses_nothing() {
        let (near, mut far) = duplex(1000);
        let batch = Batch::new(near);
        let mut writer = batch.clone();
        let sent: Vec<u8> = (0..300_000u32).map(|at| at.to_le_bytes()[0]).collect();
        let bytes = sent.clone();
        let writing = tokio::spawn(async move {
            let mut connection = pin!(async move {
                for chunk in bytes.chunks(5000) {
                    writer.write_all(chunk).await?;
                }
                writer.shutdown().await
            });
            poll_fn(|cx| batch.poll(connection.as_mut(), cx)).await
        });
        tokio::task::yield_now().await;
        assert!(!writing.is_finished(), "300 kB do not fit anywhere");
        let mut arrived = Vec::new();
        far.read_to_end(&mut arrived).await.expect("reads");
        writing.await.expect("task").expect("writes");
        assert!(arrived == sent);
    }

    #[tokio::test]
    async fn a_writer_learns_that_nobody_reads_any_more() {
        let (near, far) = duplex(1000);
        drop(far);
        let batch = Batch::new(near);
        let mut writer = batch.clone();
        let mut connection = pin!(async move {
            loop {
                writer.write_all(b"x").await?;
                tokio::task::yield_now().await;
            }
        });
        let ended: io::Result<()> = poll_fn(|cx| batch.poll(connection.as_mut(), cx)).await;
        assert_eq!(ended.expect_err("an end").kind(), io::ErrorKind::BrokenPipe);
    }
}
