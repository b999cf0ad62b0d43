//! Reads and writes of one turn of the event loop: few, and large.
//!
//! h2 writes each frame of data by itself and flushes after it. For small bodies that is a system call, a TLS record and a
//! segment for each response; a connection that carries a hundred of them at a time needs a few. So what is written goes
//! into a buffer, a flush says yes, and whoever polls the connection writes the buffer when it has nothing more to say.
//!
//! And it reads into what is left of a buffer of 8 KiB, seven small responses at a time. So what a socket has is read at once,
//! and handed on as it is asked for. Mesh TLS sees to that itself.
//!
//! Both buffers are the thread's. A connection holds one from its first write to the end of its turn, and keeps it only while
//! its reader is slow; the other while what was read is handed on, and what it has not taken by the end of its turn is kept
//! alone.

use std::{
    cell::Cell,
    future::Future,
    io::{self, IoSlice},
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    frames::Frames,
    spare::Buffer,
    stream::Stream,
    turn::{self, TURN},
};

/// What is gathered at most: four full TLS records.
const GATHERED_MAX: usize = 64 * 1024;
/// What is not gathered: it fills records of its own. Nor is what is read into as much handed on.
const LARGE: usize = 16 * 1024;
/// How much is read at once.
const AHEAD: usize = 32 * 1024;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection whose writes wait for the end of the turn, and which is read as seldom. Its clones are the same connection.
#[derive(Debug)]
pub struct Batch<S>(Arc<Mutex<Gathered<S>>>);

#[derive(Debug)]
struct Gathered<S> {
    stream: S,
    /// What was read and not handed on yet; none if nothing is read ahead.
    ahead: Option<Ahead>,
    /// How much has been given in this turn, by weight.
    given: usize,
    /// Where in what comes.
    frames: Frames,
    /// What was gathered.
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

impl<S: Stream> Batch<S> {
    /// A connection from which `frames` come. What is written is gathered, and it is read ahead if that saves system calls.
    pub fn of(stream: S, frames: Frames) -> Self {
        let plain = stream.is_plain();
        Self::new(stream, plain, frames)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Batch<S> {
    /// `plain` if each read of `stream` is a system call.
    pub(crate) fn new(stream: S, plain: bool, frames: Frames) -> Self {
        Self(Arc::new(Mutex::new(Gathered {
            stream,
            ahead: plain.then(Ahead::default),
            given: 0,
            frames,
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
        gathered.given = 0;
        if let Some(ahead) = &mut gathered.ahead {
            ahead.keep();
        }
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

/// What was read and not handed on yet.
#[derive(Debug, Default)]
struct Ahead {
    bytes: Buffer,
    rest: Range<usize>,
}

impl Ahead {
    /// Hands on what there is, or reads.
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            if buf.remaining() >= LARGE {
                return Pin::new(stream).poll_read(cx, buf);
            }
            ready!(self.poll_fill(stream, cx))?;
        }
        let rest = self.bytes.get(self.rest.clone()).unwrap_or_default();
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.rest.start += count;
        if self.rest.is_empty() {
            *self = Self::default();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = Buffer::lend();
        let mut room = ReadBuf::new(&mut bytes[..AHEAD]);
        ready!(Pin::new(stream).poll_read(cx, &mut room))?;
        let rest = 0..room.filled().len();
        *self = Self { bytes, rest };
        Poll::Ready(Ok(()))
    }

    /// At the end of a turn: what is left, alone.
    fn keep(&mut self) {
        if self.bytes.is_lent() {
            self.bytes.keep(self.rest.clone());
            self.rest = 0..self.bytes.len();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Batch<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (gathered, before) = (&mut *self.gathered(), buf.filled().len());
        if gathered.given >= TURN {
            return turn::end(cx);
        }
        let read = match &mut gathered.ahead {
            Some(ahead) => ahead.poll_read(&mut gathered.stream, cx, buf),
            None => Pin::new(&mut gathered.stream).poll_read(cx, buf),
        };
        let given = &buf.filled()[before..];
        gathered.given += gathered.frames.weigh(given);
        gathered.heard |= !given.is_empty();
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
        time::Duration,
    };

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex, join, repeat, sink},
        time::timeout,
    };

    use super::*;

    /// Counts the reads that bring something, and the writes that reach a stream.
    struct Counted(DuplexStream, Arc<Counts>);

    #[derive(Default)]
    struct Counts {
        reads: AtomicUsize,
        writes: AtomicUsize,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let read = Pin::new(&mut self.0).poll_read(cx, buf);
            self.1.reads.fetch_add(usize::from(!buf.filled().is_empty()), Relaxed);
            read
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.1.writes.fetch_add(1, Relaxed);
            Pin::new(&mut self.0).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    /// Bytes that tell their place.
    fn numbered(count: u32) -> Vec<u8> {
        (0..count).map(|at| at.to_le_bytes()[0]).collect()
    }

    #[tokio::test]
    async fn what_a_socket_has_is_read_at_once_and_in_its_order() {
        let (near, mut far) = duplex(1 << 20);
        let sent = numbered(20_000);
        far.write_all(&sent).await.expect("writes");
        drop(far);
        let counts = Arc::default();
        let batch = Batch::new(Counted(near, Arc::clone(&counts)), true, Frames::of_server());
        let mut reader = batch.clone();
        let mut connection = pin!(async move {
            let mut arrived = Vec::new();
            let mut part = [0; 1033];
            loop {
                match reader.read(&mut part).await? {
                    0 => return io::Result::Ok(arrived),
                    count => arrived.extend_from_slice(&part[..count]),
                }
            }
        });
        let arrived = poll_fn(|cx| batch.poll(connection.as_mut(), cx)).await.expect("reads");
        assert_eq!(counts.reads.load(Relaxed), 1);
        assert!(arrived == sent);
    }

    #[tokio::test]
    async fn what_a_turn_has_not_taken_is_kept_alone_and_comes_first_in_the_next() {
        let (near, mut far) = duplex(1 << 20);
        let sent = numbered(5000);
        far.write_all(&sent).await.expect("writes");
        let batch = Batch::new(near, true, Frames::of_server());
        let kept = || batch.gathered().ahead.as_ref().map_or(0, |ahead| ahead.bytes.held());
        let read = async |count| {
            let mut reader = batch.clone();
            let mut part = vec![0; count];
            let mut turn = pin!(async { reader.read_exact(&mut part).await });
            poll_fn(|cx| batch.poll(turn.as_mut(), cx)).await.expect("reads");
            part
        };
        assert!(read(10).await == sent[..10]);
        assert_eq!(kept(), 4990);
        assert!(read(4990).await == sent[10..]);
        assert_eq!(kept(), 0);
    }

    #[tokio::test]
    async fn a_connection_that_always_has_more_leaves_others_their_turn_and_has_its_next() {
        for plain in [true, false] {
            // Frames of data, without any.
            let batch = Batch::new(join(repeat(0), sink()), plain, Frames::of_server());
            let mut reader = batch.clone();
            let read = Cell::new(0);
            let mut connection = pin!(async {
                let mut part = [0; 8192];
                while read.get() < 3 * TURN {
                    read.set(read.get() + reader.read(&mut part).await?);
                }
                io::Result::Ok(())
            });
            let mut turns = Vec::new();
            let all = poll_fn(|cx| {
                let polled = batch.poll(connection.as_mut(), cx);
                turns.push(read.get());
                polled
            });
            timeout(Duration::from_secs(10), all).await.expect("it is woken").expect("reads");
            assert_eq!(turns, [TURN, 2 * TURN, 3 * TURN]);
        }
    }

    #[tokio::test]
    async fn a_turn_of_dear_frames_is_short() {
        const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let (near, mut far) = duplex(1 << 20);
        far.write_all(&SETTINGS.repeat(1000)).await.expect("written");
        drop(far);
        let batch = Batch::new(near, true, Frames::of_server());
        let mut reader = batch.clone();
        let mut connection = pin!(async {
            while reader.read(&mut [0; 90]).await? > 0 {}
            io::Result::Ok(())
        });
        let mut turns = 0;
        poll_fn(|cx| {
            turns += 1;
            batch.poll(connection.as_mut(), cx)
        })
        .await
        .expect("reads");
        assert!(turns > 10, "{turns} for a thousand that may touch every stream");
    }

    #[tokio::test]
    async fn the_writes_of_a_turn_are_one() {
        let (near, mut far) = duplex(1 << 20);
        let counts = Arc::default();
        let batch = Batch::new(Counted(near, Arc::clone(&counts)), true, Frames::of_server());
        let mut writer = batch.clone();
        let mut connection = pin!(async move {
            for _ in 0..20 {
                writer.write_all(&[7; 1033]).await?;
                writer.flush().await?;
            }
            io::Result::Ok(writer)
        });
        let writer = poll_fn(|cx| batch.poll(connection.as_mut(), cx)).await.expect("writes");
        assert_eq!(counts.writes.load(Relaxed), 1);
        drop((batch, writer));
        let mut arrived = Vec::new();
        far.read_to_end(&mut arrived).await.expect("reads");
        assert_eq!(arrived, [7; 20 * 1033]);
    }

    #[tokio::test]
    async fn a_slow_reader_stops_the_writer_and_loses_nothing() {
        let (near, mut far) = duplex(1000);
        let batch = Batch::new(near, true, Frames::of_server());
        let mut writer = batch.clone();
        let sent = numbered(300_000);
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
        let batch = Batch::new(near, true, Frames::of_server());
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
