//! Bytes of a caller of whom it is not clear yet what it speaks.
//!
//! `hello` may be the whole of what a caller says before it waits for an answer, and it may be the beginning of an HTTP
//! method. Holding it back would hang the one; passing it on and looking away would let the other bring a made-up
//! identity past us. So it is passed on and looked at: a caller that turns out to speak HTTP is cut off before a header
//! has reached the application.

use std::io;

use mesh::detect::{Detected, Detection, Resemblance, detect, resembles_http};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::net::{peek::Peeked, stream::Stream};

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

/// How much of the application's answers is passed on at once while the caller is looked at.
const ANSWER: usize = 4096;

/// Carries bytes both ways until it is clear that the caller does not speak HTTP, or one side has ended.
///
/// # Errors
/// When the caller speaks HTTP after all, or a side breaks.
pub async fn until_clear<S: Stream>(caller: &mut Peeked<S>, application: &mut TcpStream) -> io::Result<()> {
    let mut passed = 0;
    let mut answer = vec![0; ANSWER];
    loop {
        match verdict(caller.ahead()) {
            Verdict::Http => {
                return Err(io::Error::other("the caller began like no HTTP client, and speaks HTTP"));
            }
            Verdict::Clear => break,
            Verdict::Unclear => (),
        }
        application.write_all(caller.ahead().get(passed..).unwrap_or_default()).await?;
        passed = caller.ahead().len();
        tokio::select! {
            more = caller.read_more() => if !more? { break },
            read = application.read(&mut answer) => {
                let answer = answer.get(..read?).unwrap_or_default();
                if answer.is_empty() {
                    break;
                }
                caller.write_all(answer).await?;
                caller.flush().await?;
            }
        }
    }
    caller.skip(passed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::relay::pair;

    #[tokio::test]
    async fn a_word_without_an_end_is_answered() {
        let (mut client, caller) = pair().await;
        let (mut application, mut server) = pair().await;
        client.write_all(b"hello").await.expect("write");
        let mut caller = Peeked::new(caller);
        assert!(caller.read_more().await.expect("read"));
        let guard = tokio::spawn(async move { until_clear(&mut caller, &mut application).await });
        let mut word = [0; 5];
        server.read_exact(&mut word).await.expect("read");
        server.write_all(&word).await.expect("write");
        client.read_exact(&mut word).await.expect("the answer");
        assert_eq!(&word, b"hello");
        drop(server);
        guard.await.expect("task").expect("no HTTP");
    }

    #[tokio::test]
    async fn a_header_of_a_dribbling_http_client_never_arrives() {
        let (mut client, caller) = pair().await;
        let (mut application, mut server) = pair().await;
        client.write_all(b"GE").await.expect("write");
        let mut caller = Peeked::new(caller);
        assert!(caller.read_more().await.expect("read"));
        let guard = tokio::spawn(async move { until_clear(&mut caller, &mut application).await });
        let mut begun = [0; 2];
        server.read_exact(&mut begun).await.expect("read");
        client.write_all(b"T / HTTP/1.1\r\nx-forwarded-client-cert: me\r\n\r\n").await.expect("write");
        guard.await.expect("task").expect_err("it speaks HTTP");
        let mut rest = Vec::new();
        let _ = server.read_to_end(&mut rest).await;
        assert_eq!(rest, b"");
    }
}
