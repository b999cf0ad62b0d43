//! How much one connection does before it is others' turn.

use std::{
    future::Future as _,
    pin::pin,
    task::{Context, Poll},
};

use tokio::task::yield_now;

/// How much a connection carries in one turn: a quarter of a mebibyte, well under a millisecond's work unless it is in very
/// small pieces.
pub const TURN: usize = 256 * 1024;

/// Ends a turn whose connection could go on: it has its next when all others had theirs. (Woken by its own hand it would be run
/// again before anybody looked at sockets and timers, dozens of times.)
pub fn end<T>(cx: &mut Context<'_>) -> Poll<T> {
    // Its first poll is what asks for the next turn.
    let _ = pin!(yield_now()).poll(cx);
    Poll::Pending
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::net::relay::pair;

    /// Fewer than tokio gives those that are ready, before it looks at sockets.
    const TURNS: u32 = 50;

    #[tokio::test]
    async fn whoever_ends_its_turn_has_another_and_a_socket_is_looked_at_before() {
        let (mut near, mut far) = pair().await;
        let answers = tokio::spawn(async move {
            let mut byte = [0];
            far.read_exact(&mut byte).await.expect("read");
            far.write_all(&byte).await.expect("write");
        });
        near.write_all(b"?").await.expect("write");
        let busy = tokio::spawn(async {
            let mut turns = 0;
            poll_fn(|cx| {
                turns += 1;
                if turns > TURNS { Poll::Ready(()) } else { end(cx) }
            })
            .await;
        });
        near.read_exact(&mut [0]).await.expect("an answer");
        assert!(!busy.is_finished(), "{TURNS} turns came before it");
        answers.await.expect("no panic");
        busy.await.expect("it has all of its turns");
    }
}
