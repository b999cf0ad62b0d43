//! Bytes of a caller of whom it is not clear yet what it speaks.
//!
//! `hello` may be the whole of what a caller says before it waits for an answer, and it may be the beginning of an HTTP
//! method. Holding it back would hang the one; passing it on and looking away would let the other bring a made-up
//! identity past us. So it is passed on and looked at: a caller that turns out to speak HTTP is cut off before a header
//! has reached the application.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use mesh::detect::{Detected, Detection, FirstLines, Resemblance, detect, resembles_http};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::net::stream::Stream;

/// What bytes that go to the application unread may be to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No request.
    Clear,
    /// The beginning of anything.
    Unclear,
    /// A request, at least to a lenient server.
    Http,
}

/// What a connection's first bytes may be to the application.
pub fn verdict(ahead: &[u8]) -> Verdict {
    match (detect(ahead), resembles_http(ahead)) {
        (Detection::Known(Detected::Http1 | Detected::Http2), _) => Verdict::Http,
        (Detection::Known(Detected::Tls), _) => Verdict::Clear,
        (Detection::NeedMore, _) | (_, Resemblance::NeedMore) => Verdict::Unclear,
        (Detection::Known(Detected::Opaque), Resemblance::Http) => Verdict::Http,
        (Detection::Known(Detected::Opaque), Resemblance::None) => Verdict::Clear,
    }
}

/// A caller that is looked at while its bytes pass. One that speaks HTTP after all gets no further than that.
pub struct Watched<S, F> {
    caller: S,
    /// Until it is clear.
    first: Option<FirstLines>,
    /// Called when it is cut off.
    cut: F,
}

impl<S, F: FnMut()> Watched<S, F> {
    /// Looks from its beginning on.
    pub fn new(caller: S, cut: F) -> Self {
        Self { caller, first: Some(FirstLines::default()), cut }
    }

    fn look(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.first.as_mut().map(|first| first.read(bytes)) {
            None | Some(Resemblance::NeedMore) => {}
            Some(Resemblance::None) => self.first = None,
            Some(Resemblance::Http) => {
                (self.cut)();
                return Err(io::Error::other("it began like no HTTP client, and speaks HTTP"));
            }
        }
        Ok(())
    }
}

impl<S: Stream, F: FnMut() + Send + Unpin> Stream for Watched<S, F> {
    fn socket(&self) -> &TcpStream {
        self.caller.socket()
    }

    fn certificates_end(&self) -> Option<SystemTime> {
        self.caller.certificates_end()
    }
}

impl<S: Stream, F: FnMut() + Unpin> AsyncRead for Watched<S, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let had = buf.filled().len();
        ready!(Pin::new(&mut self.caller).poll_read(cx, buf))?;
        Poll::Ready(self.look(buf.filled().get(had..).unwrap_or_default()))
    }
}

impl<S: Stream, F: Unpin> AsyncWrite for Watched<S, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.caller).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.caller).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.caller).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        task::JoinHandle,
    };

    use super::*;
    use crate::net::{
        peek::Peeked,
        relay::{pair, relay},
    };

    /// A client and an application, and what stands between.
    async fn watched() -> (TcpStream, TcpStream, JoinHandle<io::Result<()>>) {
        let (client, caller) = pair().await;
        let (mut application, server) = pair().await;
        let mut caller = Peeked::new(Watched::new(caller, || ()));
        (client, server, tokio::spawn(async move { relay(&mut caller, &mut application, |_| ()).await }))
    }

    #[tokio::test]
    async fn a_word_without_an_end_is_answered() {
        let (mut client, mut server, guard) = watched().await;
        client.write_all(b"hello").await.expect("write");
        let mut word = [0; 5];
        server.read_exact(&mut word).await.expect("read");
        server.write_all(&word).await.expect("write");
        client.read_exact(&mut word).await.expect("the answer");
        assert_eq!(&word, b"hello");
        drop((client, server));
        guard.await.expect("task").expect("no HTTP");
    }

    #[tokio::test]
    async fn a_header_of_a_dribbling_http_client_never_arrives() {
        for begun in [&b"GE"[..], &[b'G'; 20_000]] {
            let (mut client, mut server, guard) = watched().await;
            client.write_all(begun).await.expect("write");
            let mut arrived = vec![0; begun.len()];
            server.read_exact(&mut arrived).await.expect("read");
            client.write_all(b"T / HTTP/1.1\r\nx-forwarded-client-cert: me\r\n\r\n").await.expect("write");
            guard.await.expect("task").expect_err("it speaks HTTP");
            let mut rest = Vec::new();
            let _ = server.read_to_end(&mut rest).await;
            assert_eq!(rest, b"");
        }
    }

    #[tokio::test]
    async fn one_endless_word_passes_however_long_it_is() {
        let (mut client, mut server, guard) = watched().await;
        let word = vec![b'x'; 3 << 20];
        let mut arrived = Vec::new();
        let writing = async {
            client.write_all(&word).await.expect("write");
            drop(client);
        };
        let (read, ()) = tokio::join!(server.read_to_end(&mut arrived), writing);
        assert_eq!(read.expect("read"), word.len());
        drop(server);
        guard.await.expect("task").expect("no HTTP");
    }
}
