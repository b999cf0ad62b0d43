use std::future::pending;

use h2::client::{Connection as Client, SendRequest};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinHandle,
};

use super::*;
use crate::{drain, net::frames::Frames};

/// A client's end of a connection that is served, and its server.
async fn served(
    limits: Limits,
) -> (SendRequest<Bytes>, Client<DuplexStream>, JoinHandle<Result<(), h2::Error>>) {
    let (near, far) = duplex(64 * 1024);
    let (drain, draining) = drain::channel();
    let serving = tokio::spawn(async move {
        let _drain = drain;
        serve(Batch::new(far, true, Frames::of_client()), limits, None, draining, |_| pending::<Answer>())
            .await
    });
    let (sender, connection) = h2::client::handshake(near).await.expect("HTTP/2");
    (sender, connection, serving)
}

/// Without time that passes: a timer is no finer than a millisecond.
async fn both_have_worked() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_stream_is_closed_after_long_and_not_before() {
    let (_sender, connection, serving) = served(Limits::PEER).await;
    let began = Instant::now();
    // It may meet the closed connection with a frame of its own.
    let _ = connection.await;
    let _ = serving.await.expect("no panic");
    assert!((IDLE..IDLE * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_runs_keeps_its_connection() {
    let (mut sender, connection, serving) = served(Limits::PEER).await;
    let connection = tokio::spawn(connection);
    let request = Request::get("http://web/").body(()).expect("a request");
    let (response, _) = sender.send_request(request, true).expect("sent");
    assert!(timeout(IDLE * 4, response).await.is_err(), "nobody answers");
    assert!(!serving.is_finished() && !connection.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_gives_no_sign_of_life_is_given_up() {
    // Its end is there, and nobody reads it.
    let (_sender, mut connection, serving) = served(Limits::PEER).await;
    let greeted = poll_fn(|cx| Poll::Ready(Pin::new(&mut connection).poll(cx).is_pending())).await;
    assert!(greeted);
    let ended = timeout(Duration::from_secs(30), serving).await.expect("it does not wait for ever");
    ended.expect("no panic").expect("no error");
}

#[tokio::test(start_paused = true)]
async fn the_own_application_may_pause_for_as_long_as_it_likes() {
    let (_sender, mut connection, serving) = served(Limits::APPLICATION).await;
    let greeted = poll_fn(|cx| Poll::Ready(Pin::new(&mut connection).poll(cx).is_pending())).await;
    assert!(greeted);
    timeout(Duration::from_secs(600), serving).await.expect_err("its connection is there");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_only_resets_its_streams_is_cut_off() {
    let (mut sender, connection, serving) = served(Limits::PEER).await;
    let connection = tokio::spawn(connection);
    let mut reset = 0;
    while !serving.is_finished() {
        let request = Request::get("http://web/").body(()).expect("a request");
        let Ok(stream) = sender.send_request(request, true) else { break };
        both_have_worked().await;
        drop(stream);
        both_have_worked().await;
        reset += 1;
        assert!(reset < 2 * RESETS.burst, "it goes on");
    }
    assert!(reset >= RESETS.burst, "an honest caller may reset {reset}");
    serving.await.expect("no panic").expect("cut off");
    let _ = connection.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_callers_own_application_may_reset_as_much_as_it_likes() {
    let (mut sender, connection, serving) = served(Limits::APPLICATION).await;
    tokio::spawn(connection);
    for _ in 0..2 * RESETS.burst {
        let request = Request::get("http://web/").body(()).expect("a request");
        let stream = sender.send_request(request, true).expect("sent");
        both_have_worked().await;
        drop(stream);
        both_have_worked().await;
    }
    assert!(!serving.is_finished());
}

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short one").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// It never acknowledges the PING by which a GOAWAY is said to have arrived.
#[tokio::test(start_paused = true)]
async fn a_caller_that_will_not_hear_that_it_is_over_is_refused_and_left() {
    let (mut client, far) = duplex(64 * 1024);
    let (_drain, draining) = drain::channel();
    let until = Some(Duration::from_secs(5));
    let handle = |_| async { Ok(Response::new(Body::empty())) };
    let serving = tokio::spawn(serve(
        Batch::new(far, true, Frames::of_client()),
        Limits::PEER,
        until,
        draining,
        handle,
    ));
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    client.write_all(&frame(4, 0, 0, &[])).await.expect("settings");
    // GET, http, / and an authority.
    let head = [&[0x82, 0x86, 0x84, 0x41, 3][..], b"web"].concat();
    let mut stream = 1;
    while !serving.is_finished() {
        if client.write_all(&frame(1, 5, stream, &head)).await.is_err() {
            break;
        }
        sleep(Duration::from_secs(3)).await;
        stream += 2;
        assert!(stream < 60, "it is served for ever");
    }
    serving.await.expect("no panic").expect("no error");
    let mut heard = Vec::new();
    let _ = client.read_to_end(&mut heard).await;
    let refused = |stream| frame(3, 0, stream, &u32::from(Reason::REFUSED_STREAM).to_be_bytes());
    let told = |frame: Vec<u8>| heard.windows(frame.len()).any(|heard| heard == frame);
    assert!((1..stream).any(|stream| told(refused(stream))), "nobody told the last streams");
}

#[tokio::test]
async fn its_first_word_goes_out_with_the_answer_to_a_client_that_has_begun() {
    let (mut client, far) = duplex(64 * 1024);
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    client.write_all(&frame(4, 0, 0, &[])).await.expect("settings");
    let (_drain, draining) = drain::channel();
    let mut serving =
        pin!(serve(Batch::new(far, true, Frames::of_client()), Limits::PEER, None, draining, |_| {
            pending::<Answer>()
        }));
    poll_fn(|cx| Poll::Ready(serving.as_mut().poll(cx).is_pending())).await;
    let mut heard = [0; 1024];
    let length = client.read(&mut heard).await.expect("read");
    assert_eq!(heard[3..5], [4, 0], "SETTINGS");
    assert!(
        heard[..length].windows(9).any(|heard| heard == frame(4, 1, 0, &[])),
        "and their acknowledgement"
    );
}

/// The heads of the frames in these bytes: their types and streams.
fn heads(mut bytes: &[u8]) -> Vec<(u8, u32)> {
    let mut heads = Vec::new();
    while let Some((&[a, b, c, kind, _, d, e, f, g], rest)) = bytes.split_first_chunk::<9>() {
        heads.push((kind, u32::from_be_bytes([d, e, f, g])));
        bytes = &rest[u32::from_be_bytes([0, a, b, c]) as usize..];
    }
    heads
}

/// An overloaded server says so before it has read: hundreds of uploads are then on their way to nobody.
#[tokio::test]
async fn what_comes_for_streams_that_were_answered_early_is_no_fault() {
    const EARLY: u32 = 200;
    const HEADERS: u8 = 1;
    const GOAWAY: u8 = 7;
    let (client, far) = duplex(64 * 1024);
    let (_drain, draining) = drain::channel();
    let handle = |_| async { Ok(Response::new(Body::empty())) };
    tokio::spawn(serve(Batch::new(far, true, Frames::of_client()), Limits::PEER, None, draining, handle));
    let (mut reads, mut writes) = tokio::io::split(client);
    let heard = tokio::spawn(async move {
        let mut heard = Vec::new();
        let _ = reads.read_to_end(&mut heard).await;
        heard
    });
    writes.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("written");
    writes.write_all(&frame(4, 0, 0, &[])).await.expect("settings");
    // POST, http, / and an authority.
    let head = [&[0x83, 0x86, 0x84, 0x41, 3][..], b"web"].concat();
    for stream in 0..EARLY {
        writes.write_all(&frame(HEADERS, 4, 2 * stream + 1, &head)).await.expect("a head");
        both_have_worked().await;
    }
    for _ in 0..20 {
        for stream in 0..EARLY {
            writes.write_all(&frame(0, 0, 2 * stream + 1, &[0; 300])).await.expect("data");
        }
    }
    writes.write_all(&frame(HEADERS, 5, 2 * EARLY + 1, &head)).await.expect("one more");
    both_have_worked().await;
    writes.shutdown().await.expect("the end");
    let heads = heads(&heard.await.expect("no panic"));
    assert!(heads.contains(&(HEADERS, 2 * EARLY + 1)), "it is answered");
    assert!(!heads.contains(&(GOAWAY, 0)));
}

#[tokio::test]
async fn a_connect_has_no_body_of_its_own() {
    let (mut sender, connection, _serving) = served(Limits::PEER).await;
    tokio::spawn(connection);
    let request = Request::connect("web:80").header(CONTENT_LENGTH, 5).body(()).expect("a request");
    let (response, _stream) = sender.send_request(request, false).expect("sent");
    let refused = response.await.expect_err("no answer");
    assert_eq!(refused.reason(), Some(Reason::PROTOCOL_ERROR));
}

#[tokio::test]
async fn a_panic_is_its_own_requests_alone() {
    let (near, far) = duplex(64 * 1024);
    let (_drain, draining) = drain::channel();
    let handle = |request: Box<Request<Body>>| async move {
        assert_ne!(request.uri().path(), "/panics");
        Ok(Response::new(Body::empty()))
    };
    tokio::spawn(serve(Batch::new(far, true, Frames::of_client()), Limits::PEER, None, draining, handle));
    let (mut sender, connection) = h2::client::handshake(near).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut ask = |path: &str| {
        let request = Request::get(format!("http://web{path}")).body(()).expect("a request");
        sender.send_request(request, true).expect("sent").0
    };
    let (panics, other) = (ask("/panics"), ask("/"));
    assert_eq!(panics.await.expect_err("no answer").reason(), Some(Reason::INTERNAL_ERROR));
    assert_eq!(other.await.expect("an answer").status(), 200);
}
