use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::net::relay::pair;

async fn connected() -> (Tunnels<TcpStream>, Tunnels<TcpStream>) {
    let (client, server) = pair().await;
    (Tunnels::new(client), Tunnels::new(server))
}

/// Says `question` through one tunnel, and `answer` back, each with an end.
async fn exchange(client: &mut Tunnels<TcpStream>, server: &mut Tunnels<TcpStream>, bytes: usize) {
    let (question, answer) = (vec![b'q'; bytes], vec![b'a'; bytes]);
    client.open();
    let caller = async {
        client.write_all(&question).await.expect("write");
        client.shutdown().await.expect("half-close");
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.expect("read");
        heard
    };
    let callee = async {
        assert!(server.accept().await.expect("a tunnel"));
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.expect("read");
        server.write_all(&answer).await.expect("write");
        server.shutdown().await.expect("half-close");
        heard
    };
    let (at_caller, at_callee) = tokio::join!(caller, callee);
    assert!(at_caller == answer && at_callee == question, "{bytes} bytes each way");
}

#[tokio::test]
async fn tunnels_follow_one_another_over_one_connection() {
    let (mut client, mut server) = connected().await;
    for bytes in [0, 1, 100, 32_766, 32_767, 1_000_000] {
        exchange(&mut client, &mut server, bytes).await;
        assert!(client.is_free() && server.is_free(), "after {bytes} bytes");
        assert!(client.is_alive());
    }
    drop(client);
    assert!(!server.accept().await.expect("a clean end"));
}

#[tokio::test]
async fn a_server_that_speaks_first_learns_of_its_tunnel() {
    let (mut client, mut server) = connected().await;
    client.open();
    let greeting = async {
        assert!(server.accept().await.expect("a tunnel"));
        server.write_all(b"welcome").await.expect("write");
    };
    tokio::join!(client.readable(), greeting);
    let mut heard = [0; 7];
    client.read_exact(&mut heard).await.expect("read");
    assert_eq!(&heard, b"welcome");
    assert!(!client.is_free(), "nobody has ended");
}

#[tokio::test]
async fn a_connection_without_more_tunnels_is_not_taken() {
    let (mut client, mut server) = connected().await;
    exchange(&mut client, &mut server, 10).await;
    server.take_no_more().await.expect("write");
    client.stream.readable().await.expect("the word");
    assert!(!client.is_alive());
}

#[tokio::test]
async fn the_last_word_is_said_once() {
    let (mut client, mut server) = connected().await;
    client.open();
    server.take_no_more().await.expect("write");
    server.take_no_more().await.expect("write");
    let error = client.read(&mut [0; 8]).await.expect_err("twice");
    assert!(error.to_string().contains("a last word too many"), "{error}");
}

#[tokio::test]
async fn a_tunnel_that_crosses_the_last_word_is_carried() {
    let (mut client, mut server) = connected().await;
    server.take_no_more().await.expect("write");
    exchange(&mut client, &mut server, 10).await;
    assert!(!client.is_free() && !server.is_free(), "it was the last");
}

#[tokio::test]
async fn a_dead_connection_is_not_taken() {
    let (mut client, server) = connected().await;
    drop(server);
    client.stream.readable().await.expect("its end");
    assert!(!client.is_alive());
}

#[tokio::test]
async fn an_end_without_its_word_is_a_break() {
    let (mut client, server) = connected().await;
    client.open();
    drop(server);
    let error = client.read(&mut [0; 8]).await.expect_err("no clean end");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

/// What a server makes of a peer that says this.
async fn said(bytes: &[u8]) -> io::Error {
    let (mut client, server) = pair().await;
    client.write_all(bytes).await.expect("write");
    drop(client);
    let mut server = Tunnels::new(server);
    loop {
        match server.accept().await {
            Err(error) => return error,
            Ok(false) => panic!("{bytes:?} passed"),
            Ok(true) => {}
        }
        if let Err(error) = server.read_to_end(&mut Vec::new()).await {
            return error;
        }
    }
}

#[tokio::test]
async fn what_is_no_frame_at_its_place_is_refused() {
    for bytes in [
        &[0, 1, b'x'][..],               // bytes outside of a tunnel
        &[0, 0],                         // an end of nothing
        &[0xFF, 0xFF, 0xFF, 0xFF],       // a tunnel within a tunnel
        &[0xFF, 0xFF, 0xFF, 0xFE],       // what only servers say
        &[0xFF, 0xFF, 0x7F, 0xFF],       // more than a frame holds
        &[0xFF, 0xFF, 0xFF],             // half a head
        &[0xFF, 0xFF, 0, 5, b'x'],       // half a frame
        &[0xFF, 0xFF, 0, 0, 0, 1, b'x'], // bytes after the end
    ] {
        let kind = said(bytes).await.kind();
        assert!(
            matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof),
            "{bytes:?}: {kind}"
        );
    }
}
