//! Bytes between two connections, with the meaning of their ends kept.
//!
//! A half-close passes through in both directions. Anything else that ends a side (a reset, TLS without its
//! close_notify) becomes a reset on the other: a truncated stream is never taken for a whole one.

use std::io;

use tokio::io::{AsyncWriteExt as _, copy_bidirectional_with_sizes};

use super::{peek::Peeked, socket::reset_on_close, stream::Stream};

/// One full TLS record's worth for each direction.
const BUFFER: usize = 16 * 1024;

/// How many bytes a relay carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// From the caller to the callee.
    pub sent: u64,
    /// From the callee to the caller.
    pub received: u64,
}

/// Carries bytes both ways until both sides have ended.
///
/// # Errors
/// What broke the relay; both sides are then set to end in a reset.
pub async fn relay(caller: &mut impl Stream, callee: &mut impl Stream) -> io::Result<Carried> {
    match copy_bidirectional_with_sizes(caller, callee, BUFFER, BUFFER).await {
        Ok((sent, received)) => Ok(Carried { sent, received }),
        Err(error) => {
            reset_on_close(caller.socket());
            reset_on_close(callee.socket());
            Err(error)
        }
    }
}

/// Like [`relay`] for a caller of which some bytes were read ahead.
///
/// # Errors
/// As [`relay`].
pub async fn relay_peeked<S: Stream>(caller: Peeked<S>, callee: &mut impl Stream) -> io::Result<Carried> {
    let (ahead, mut caller) = caller.into_parts();
    if !ahead.is_empty()
        && let Err(error) = write_out(callee, &ahead).await
    {
        reset_on_close(caller.socket());
        return Err(error);
    }
    let early = ahead.len() as u64;
    drop(ahead);
    relay(&mut caller, callee).await.map(|carried| Carried { sent: carried.sent + early, ..carried })
}

async fn write_out(callee: &mut impl Stream, ahead: &[u8]) -> io::Result<()> {
    callee.write_all(ahead).await?;
    callee.flush().await
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
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn a_half_close_passes_and_the_answer_still_comes() {
        let (mut client, mut caller) = pair().await;
        let (mut callee, mut server) = pair().await;
        let relay = tokio::spawn(async move { relay(&mut caller, &mut callee).await });
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
        let (client, mut caller) = pair().await;
        let (mut callee, mut server) = pair().await;
        let relay = tokio::spawn(async move { relay(&mut caller, &mut callee).await });
        reset_on_close(&client);
        drop(client);
        assert!(relay.await.expect("task").is_err());
        let error = server.read(&mut [0; 8]).await.expect_err("a reset, not a clean end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
