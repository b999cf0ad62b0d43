//! Each side against rustls' own connection, and against the other.

use std::{
    cell::Cell,
    future::{Future as _, poll_fn},
    pin::pin,
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;
use crate::net::relay::pair;

fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(["web".to_owned()]).expect("certificate");
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("root");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut client = ClientConfig::builder_with_provider(crate::identity::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut server = ServerConfig::builder_with_provider(crate::identity::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("configuration");
    (client.alpn_protocols, server.alpn_protocols) = (vec![b"x".to_vec()], vec![b"x".to_vec()]);
    (client.enable_secret_extraction, server.enable_secret_extraction) = (true, true);
    (Arc::new(client), Arc::new(server))
}

fn name() -> ServerName<'static> {
    ServerName::try_from("web").expect("name")
}

async fn ours() -> (Tls<TcpStream>, Tls<TcpStream>) {
    let ((near, far), (client, server)) = (pair().await, configs());
    let (near, far) = tokio::join!(connect(client, name(), near), accept(server, Vec::new(), far));
    let ((near, agreed), (far, _)) = (near.expect("client"), far.expect("server"));
    assert_eq!((agreed.certificates.len(), agreed.alpn.as_deref()), (1, Some(&b"x"[..])));
    (near, far)
}

async fn our_client() -> (Tls<TcpStream>, server::TlsStream<TcpStream>) {
    let ((near, far), (client, server)) = (pair().await, configs());
    let acceptor = TlsAcceptor::from(server);
    let (near, far) = tokio::join!(connect(client, name(), near), acceptor.accept(far));
    (near.expect("client").0, far.expect("server"))
}

async fn our_server() -> (client::TlsStream<TcpStream>, Tls<TcpStream>) {
    let ((near, far), (client, server)) = (pair().await, configs());
    let connector = TlsConnector::from(client);
    let (near, far) = tokio::join!(connector.connect(name(), near), accept(server, Vec::new(), far));
    (near.expect("client"), far.expect("server").0)
}

fn letters(count: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(count).collect()
}

/// Sends bytes through, in one write or many, and the end after them.
async fn check_carries(
    mut from: impl AsyncWrite + Unpin + Send + 'static,
    mut to: impl AsyncRead + Unpin,
    count: usize,
    at_once: usize,
) {
    let sent = letters(count);
    let writing = tokio::spawn(async move {
        for part in letters(count).chunks(at_once) {
            from.write_all(part).await.expect("write");
            from.flush().await.expect("flush");
        }
        from.shutdown().await.expect("shutdown");
        from
    });
    let mut came = Vec::new();
    to.read_to_end(&mut came).await.expect("read until the end");
    assert!(came == sent, "{} bytes came of {count}", came.len());
    drop(writing.await.expect("writes"));
}

#[tokio::test]
async fn bytes_and_the_clean_end_pass_between_us_and_rustls_both_ways() {
    for (count, at_once) in [(0, 1), (1, 1), (1000, 7), (PLAIN_MAX, PLAIN_MAX), (3_000_000, 200_000)] {
        let (near, far) = our_client().await;
        check_carries(near, far, count, at_once).await;
        let (near, far) = our_client().await;
        check_carries(far, near, count, at_once).await;
        let (near, far) = our_server().await;
        check_carries(near, far, count, at_once).await;
        let (near, far) = our_server().await;
        check_carries(far, near, count, at_once).await;
        let (near, far) = ours().await;
        check_carries(near, far, count, at_once).await;
    }
}

#[tokio::test]
async fn slices_are_one_record_in_their_order() {
    let (mut near, mut far) = our_client().await;
    let slices = [&b"he"[..], b"", b"dd", b"le"].map(IoSlice::new);
    assert_eq!(near.write_vectored(&slices).await.expect("write"), 6);
    let mut came = [0; 16];
    assert_eq!(far.read(&mut came).await.expect("read"), 6);
    assert_eq!(&came[..6], b"heddle");
}

#[tokio::test]
async fn a_connection_that_ends_without_a_word_is_broken() {
    let (mut near, far) = our_client().await;
    drop(far.into_inner().0);
    let error = near.read(&mut [0; 8]).await.expect_err("no clean end");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    near.read(&mut [0; 8]).await.expect_err("and it stays broken");
}

#[tokio::test]
async fn what_came_is_read_before_the_end() {
    let (mut near, mut far) = our_client().await;
    far.write_all(b"last words").await.expect("write");
    far.shutdown().await.expect("shutdown");
    // The client still speaks.
    near.write_all(b"an answer").await.expect("write");
    near.shutdown().await.expect("shutdown");
    let (mut said, mut answered) = (String::new(), String::new());
    near.read_to_string(&mut said).await.expect("read");
    far.read_to_string(&mut answered).await.expect("read");
    assert_eq!((said.as_str(), answered.as_str()), ("last words", "an answer"));
    assert!(!poll_fn(|cx| near.poll_readable(cx)).await.expect("the clean end"));
}

#[tokio::test]
async fn keys_are_renewed_by_either_side_and_nothing_is_lost() {
    let (mut near, mut far) = our_client().await;
    near.records.set_sealed_max(2);
    for round in 0..20 {
        // rustls asks for ours with its own, every other time.
        if round % 2 == 0 {
            far.get_mut().1.refresh_traffic_keys().expect("refresh");
        }
        far.write_all(b"there").await.expect("write");
        far.flush().await.expect("flush");
        near.write_all(b"back").await.expect("write");
        let (mut there, mut back) = ([0; 5], [0; 4]);
        near.read_exact(&mut there).await.expect("read");
        far.read_exact(&mut back).await.expect("read");
        assert_eq!((&there, &back), (b"there", b"back"));
    }
}

/// `renewals` of the key, each followed by so many records of data. A record of them is one byte, and they are written at once.
fn renewals(far: &mut Tls<TcpStream>, renewals: usize, data: usize) {
    let mut sent = Vec::new();
    for _ in 0..renewals {
        far.records.update(&mut sent).expect("update");
        for _ in 0..data {
            far.records.seal(OutboundChunks::Single(b"x"), &mut sent).expect("seal");
        }
    }
    far.outgoing[0] = sent;
}

#[tokio::test]
async fn a_peer_that_renews_keys_for_little_data_is_cut_off() {
    for (data, allowed) in [(16, true), (1, false), (0, false)] {
        let (mut near, mut far) = ours().await;
        renewals(&mut far, 40, data);
        far.shutdown().await.expect("written");
        let mut came = Vec::new();
        let read = near.read_to_end(&mut came).await.map_err(|error| error.to_string());
        match read {
            Ok(_) => assert!(allowed && came.len() == 40 * data),
            Err(error) => assert!(!allowed && error.contains("TooManyEmptyFragments"), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_turn_ends_however_little_is_in_its_records() {
    const RECORDS: usize = 4000;
    let (mut near, mut far) = ours().await;
    for _ in 0..RECORDS {
        far.records.seal(OutboundChunks::Single(b"x"), &mut far.outgoing[0]).expect("seal");
    }
    far.shutdown().await.expect("written");
    let (came, mut in_turn) = (Cell::new(0), Vec::new());
    let mut all = pin!(async {
        while let Ok(count @ 1..) = near.read(&mut [0; 100]).await {
            came.set(came.get() + count);
        }
    });
    poll_fn(|cx| {
        let polled = all.as_mut().poll(cx);
        in_turn.push(came.take());
        polled
    })
    .await;
    assert_eq!(in_turn.iter().sum::<usize>(), RECORDS);
    let most = in_turn.iter().max().copied().unwrap_or_default();
    assert!(most <= 128 * usize::from(RECORDS_OPERATION), "{in_turn:?}");
}

#[tokio::test]
async fn an_idle_connection_holds_nothing() {
    let (mut near, mut far) = ours().await;
    assert_eq!((near.held(), far.held()), (0, 0));
    for count in [10, 100_000] {
        let writing = tokio::spawn(async move {
            near.write_all(&letters(count)).await.expect("write");
            near.flush().await.expect("flush");
            near
        });
        far.read_exact(&mut vec![0; count]).await.expect("read");
        near = writing.await.expect("writes");
        assert_eq!((near.held(), far.held()), (0, 0), "after {count} bytes");
    }
}

#[tokio::test]
async fn the_end_follows_all_records_that_wait_to_be_written() {
    let (mut near, mut far) = ours().await;
    let Tls { records, outgoing, .. } = &mut near;
    for (record, letter) in outgoing.iter_mut().zip(b"abcd") {
        records.seal(OutboundChunks::Single(&[*letter]), record).expect("seal");
    }
    near.shutdown().await.expect("close_notify");
    let mut came = String::new();
    far.read_to_string(&mut came).await.expect("a clean end");
    assert_eq!(came, "abcd");
}

#[tokio::test]
async fn a_reader_that_waits_for_the_rest_of_a_record_holds_no_more_than_that() {
    let (mut near, mut far) = ours().await;
    near.records.seal(OutboundChunks::Single(&letters(1000)), &mut near.outgoing[0]).expect("seal");
    near.io.write_all(&near.outgoing[0][..100]).await.expect("write");
    far.io.readable().await.expect("readable");
    let waits = poll_fn(|cx| Poll::Ready(far.poll_readable(cx).is_pending())).await;
    assert!(waits, "a part of a record is no data");
    assert_eq!(far.held(), 100);
    near.written = 100;
    near.flush().await.expect("flush");
    let mut came = vec![0; 1000];
    far.read_exact(&mut came).await.expect("read");
    assert_eq!((came, far.held()), (letters(1000), 0));
}

/// What `near` is told once `far` has got these bytes instead of a record.
async fn refused(bytes: &[u8]) -> (io::Error, io::Error) {
    let (mut near, mut far) = our_client().await;
    far.get_mut().0.write_all(bytes).await.expect("write");
    let ours = near.read(&mut [0; 8]).await.expect_err("refused");
    let theirs = far.read(&mut [0; 8]).await.expect_err("told");
    (ours, theirs)
}

#[tokio::test]
async fn what_is_no_record_of_this_connection_ends_it_and_the_peer_is_told() {
    let forged = [&[23, 3, 3, 0, 30][..], &[7; 30]].concat();
    let (ours, theirs) = refused(&forged).await;
    assert!(ours.to_string().contains("decrypt"), "{ours}");
    assert!(theirs.to_string().contains("BadRecordMac"), "{theirs}");
    let (ours, theirs) = refused(&[23, 3, 3, 0x41, 1]).await;
    assert!(ours.to_string().contains("excess"), "{ours}");
    assert!(theirs.to_string().contains("RecordOverflow"), "{theirs}");
    let (ours, theirs) = refused(&[21, 3, 3, 0, 2, 1, 0]).await;
    assert!(ours.to_string().contains("corrupt message"), "{ours}");
    assert!(theirs.to_string().contains("UnexpectedMessage"), "{theirs}");
}

#[tokio::test]
async fn a_record_that_is_too_long_is_refused_within_a_handshake_too() {
    let ((mut near, far), (_, server)) = (pair().await, configs());
    near.write_all(&[22, 3, 3, 0xff, 0xff]).await.expect("write");
    accept(server, Vec::new(), far).await.expect_err("refused");
    let mut said = Vec::new();
    let _ = near.read_to_end(&mut said).await;
    assert_eq!(said.first(), Some(&21), "an alert: {said:?}");
}

#[tokio::test]
async fn each_side_is_told_why_the_other_refuses_it() {
    let ((near, far), (_, server)) = (pair().await, configs());
    // Another authority's root.
    let (stranger, _) = configs();
    let (near, far) = tokio::join!(connect(stranger, name(), near), accept(server, Vec::new(), far));
    let (near, far) = (near.expect_err("refuses").to_string(), far.expect_err("is told").to_string());
    assert!(near.contains("invalid peer certificate"), "{near}");
    assert!(far.contains("received fatal alert"), "{far}");
}

#[tokio::test]
async fn a_reader_that_reads_nothing_stops_the_writer() {
    let (mut near, mut far) = ours().await;
    let writing = tokio::spawn(async move {
        near.write_all(&letters(64 << 20)).await.expect("write");
        near.flush().await.expect("flush");
        near
    });
    far.read_exact(&mut [0; 1]).await.expect("read");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!writing.is_finished(), "64 MiB do not fit anywhere");
    far.read_exact(&mut vec![0; (64 << 20) - 1]).await.expect("read");
    drop(writing.await.expect("writes"));
}

#[tokio::test]
async fn a_peer_that_sends_records_without_data_is_cut_off() {
    let (mut near, mut far) = ours().await;
    let mut empty = Vec::new();
    far.records.seal(OutboundChunks::Single(b"x"), &mut empty).expect("seal");
    // Tickets and a renewal of the key came before: they count, too.
    for _ in 0..29 {
        far.records.seal(OutboundChunks::Single(&[]), &mut empty).expect("seal");
    }
    far.records.seal(OutboundChunks::Single(b"x"), &mut empty).expect("seal");
    far.io.write_all(&empty).await.expect("write");
    for _ in 0..2 {
        assert_eq!(near.read_u8().await.expect("data around them"), b'x');
    }
    empty.clear();
    for _ in 0..33 {
        far.records.seal(OutboundChunks::Single(&[]), &mut empty).expect("seal");
    }
    far.io.write_all(&empty).await.expect("write");
    let error = near.read_u8().await.expect_err("refused");
    assert!(error.to_string().contains("TooManyEmptyFragments"), "{error}");
    let again = near.read_u8().await.expect_err("still");
    assert_eq!(again.to_string(), error.to_string(), "the reason stays");
    let error = near.write_all(b"x").await.expect_err("nothing more is said");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

/// What a client sends with the end of its handshake, in one segment.
struct Delayed(TcpStream, Vec<u8>);

impl Stream for Delayed {
    fn socket(&self) -> &TcpStream {
        &self.0
    }
}

impl AsyncRead for Delayed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Delayed {
    /// Holds back what comes after the ClientHello.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.first() == Some(&22) {
            return Pin::new(&mut self.0).poll_write(cx, buf);
        }
        self.1.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn what_comes_with_the_end_of_a_handshake_is_read_after_it() {
    let ((near, far), (client, server)) = (pair().await, configs());
    let serving = tokio::spawn(accept(server, Vec::new(), far));
    let mut near = connect(client, name(), Delayed(near, Vec::new())).await.expect("client").0;
    // A key update that asks for one in return, data, the end: all behind our Finished.
    let mut said = Vec::new();
    let asks = OutboundChunks::Single(&[24, 0, 0, 1, 1]);
    near.records.append(rustls::ContentType::Handshake, asks, &mut said).expect("seal");
    near.records.change_sealing_key().expect("key");
    near.records.seal(OutboundChunks::Single(b"at once"), &mut said).expect("seal");
    near.records.alert(AlertDescription::CloseNotify, &mut said).expect("seal");
    let flight = [std::mem::take(&mut near.io.1), said].concat();
    near.io.0.write_all(&flight).await.expect("write");
    let (mut far, _) = serving.await.expect("serves").expect("server");
    let mut came = String::new();
    far.read_to_string(&mut came).await.expect("read");
    assert_eq!(came, "at once");
    far.write_all(b"an answer").await.expect("write");
    let mut answer = [0; 9];
    near.read_exact(&mut answer).await.expect("read, under the next key");
    assert_eq!(&answer, b"an answer");
}

#[tokio::test]
async fn a_look_sees_what_has_come_and_waits_for_nothing() {
    let (mut near, mut far) = ours().await;
    assert!(far.look().await.expect("a silent peer is there"));
    near.write_all(b"hello").await.expect("write");
    assert!(far.look().await.expect("one that speaks, too"));
    assert_eq!(far.incoming.plain(), b"hello", "it has come, and is still to be read");
    let mut came = [0; 5];
    far.read_exact(&mut came).await.expect("read");
    near.shutdown().await.expect("shutdown");
    assert!(!far.look().await.expect("the clean end"));
}

/// A client does not wait between the end of its handshake and what it has to say.
#[tokio::test]
async fn a_look_sees_what_came_with_the_end_of_a_handshake() {
    for (says, there) in [(&b"PRI * HTTP/2.0"[..], true), (b"", false)] {
        let ((near, far), (client, server)) = (pair().await, configs());
        let client = async {
            let mut near = TlsConnector::from(client).connect(name(), near).await.expect("client");
            near.write_all(says).await.expect("write");
            near.shutdown().await.expect("shutdown");
            near
        };
        let (_near, far) = tokio::join!(client, accept(server, Vec::new(), far));
        let mut far = far.expect("server").0;
        assert_eq!(far.look().await.expect("no error"), there);
        let mut came = Vec::new();
        far.read_to_end(&mut came).await.expect("read until the end");
        assert_eq!(came, says);
    }
}
