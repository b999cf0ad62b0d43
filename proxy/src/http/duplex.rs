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
        ready!(poll_room(&mut self.send, cx)).map_err(broken)?;
        let taken = buf.get(..WRITE_MAX).unwrap_or(buf);
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

#[cfg(test)]
mod tests {
    use hyper::{Request, Response};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    /// Both sides of a stream that was switched.
    async fn switched() -> (Duplex, Duplex) {
        let (near, far) = duplex(64 * 1024);
        let server = tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.expect("HTTP/2");
            let (request, mut respond) = connection.accept().await.expect("a stream").expect("a request");
            let stream = respond.send_response(Response::new(()), false).expect("a head");
            tokio::spawn(async move { while connection.accept().await.is_some() {} });
            Duplex::new(stream, request.into_body())
        });
        let (mut sender, connection) = h2::client::handshake(near).await.expect("HTTP/2");
        tokio::spawn(connection);
        let request = Request::post("http://web/").body(()).expect("a request");
        let (response, stream) = sender.send_request(request, false).expect("sent");
        let client = Duplex::new(stream, response.await.expect("a head").into_body());
        (client, server.await.expect("no panic"))
    }

    #[tokio::test]
    async fn more_than_a_window_passes_and_each_side_ends_by_itself() {
        let (mut client, mut server) = switched().await;
        let sent = vec![7; 300_000];
        let writing = sent.clone();
        let client = tokio::spawn(async move {
            client.write_all(&writing).await.expect("written");
            client.shutdown().await.expect("ended");
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.expect("a clean end");
            answer
        });
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.expect("a clean end");
        assert!(received == sent);
        server.write_all(b"yes").await.expect("written");
        server.shutdown().await.expect("ended");
        assert_eq!(client.await.expect("no panic"), b"yes");
    }

    #[tokio::test]
    async fn a_side_that_goes_before_its_end_breaks_the_other() {
        let (client, mut server) = switched().await;
        drop(client);
        let error = server.read(&mut [0; 8]).await.expect_err("no end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let error = server.flush().await.expect_err("it is told without a read, too");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
