//! The server's plain TCP: an echo of messages, and a sink that counts.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::short::MESSAGE;

/// Room for messages, bytes. Larger than one: a read that does not fill it tells the runtime that there is no more,
/// which saves a second one.
const ECHO_ROOM: usize = 4 << 10;
/// What the sink reads at a time, bytes: few calls, so that it is never what limits.
const SINK_ROOM: usize = 256 << 10;

/// Sends back each message of 100 bytes until the client ends. A connection that breaks is the client's affair.
pub async fn echo(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = echo_all(stream).await;
}

/// Reads to the end, answers how many bytes that were, and ends.
pub async fn count(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = count_all(stream).await;
}

async fn echo_all(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = [0; ECHO_ROOM];
    let mut filled = 0;
    loop {
        match stream.read(&mut buffer[filled..]).await? {
            0 => return Ok(()),
            read => filled += read,
        }
        let whole = filled - filled % MESSAGE;
        stream.write_all(&buffer[..whole]).await?;
        buffer.copy_within(whole..filled, 0);
        filled -= whole;
    }
}

async fn count_all(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; SINK_ROOM];
    let mut count = 0;
    loop {
        match stream.read(&mut buffer).await? {
            0 => break,
            read => count += read as u64,
        }
    }
    stream.write_u64(count).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whole_messages_come_back_however_they_are_cut() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let serving = tokio::spawn(echo(server));
        let sent: Vec<u8> = (0..=255).cycle().take(100 * MESSAGE).collect();
        for part in sent.chunks(73) {
            client.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut heard = vec![0; sent.len()];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, sent);
        drop(client);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn half_a_message_waits_for_its_other_half() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        tokio::spawn(echo(server));
        client.write_all(&[b'a'; MESSAGE / 2]).await.unwrap();
        tokio::task::yield_now().await;
        client.write_all(&[b'b'; MESSAGE / 2]).await.unwrap();
        let mut heard = [0; MESSAGE];
        client.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard[..MESSAGE / 2], [b'a'; MESSAGE / 2]);
        assert_eq!(heard[MESSAGE / 2..], [b'b'; MESSAGE / 2]);
    }

    #[tokio::test]
    async fn the_sink_answers_how_much_it_read() {
        let (mut client, server) = tokio::io::duplex(1 << 10);
        tokio::spawn(count(server));
        client.write_all(&vec![0; 100_000]).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(client.read_u64().await.unwrap(), 100_000);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
}
