//! How long a connection stays open: as long as something is asked on it. Who has been answered once could hold a place
//! for ever otherwise.

use std::future::pending;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use crate::peer::Peer;

/// Who opens a connection has something to ask at once, and where it counts, a token to prove who he is.
const BEGIN: Duration = Duration::from_secs(10);
/// What runs when a connection is to end may be finished: API servers wait 5 s for an answer.
const FAREWELL: Duration = Duration::from_secs(10);

/// What keeps a port's connections open.
#[derive(Debug, Clone, Copy)]
pub enum Stay {
    /// Their callers have proved to be pods.
    Proved,
    /// Something was asked no longer ago than this. What is answered takes much less.
    Asked(Duration),
}

/// Why a connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Nothing keeps it open.
    Idle,
    /// It has had an answer after which there is nothing more to ask.
    Answered,
    /// Its place is another's.
    Displaced,
}

/// Waits until the connection of `peer`, just opened, has to end. `answered` is told of an answer that is the last.
pub async fn until_end(stay: Stay, peer: &Peer, answered: &Notify) -> End {
    let opened = Instant::now();
    loop {
        let due = due(stay, opened, peer);
        if due.is_some_and(|due| due <= Instant::now()) {
            return End::Idle;
        }
        tokio::select! {
            () = peer.displaced() => return End::Displaced,
            () = answered.notified() => return End::Answered,
            // Meanwhile something may have been asked.
            () = until(due) => {}
        }
    }
}

/// Waits, after a connection was told to end, until what still runs on it is not worth the wait: some seconds later,
/// unless it is a pod's, whose watches go on; at once if another needs the place.
pub async fn until_given_up(peer: &Peer, end: End) {
    if end == End::Displaced {
        return;
    }
    tokio::select! {
        () = peer.displaced() => {}
        () = sleep(FAREWELL) => if peer.is_proved() { pending::<()>().await },
    }
}

/// When a connection that was opened at `opened` has to end; `None` while it may stay.
fn due(stay: Stay, opened: Instant, peer: &Peer) -> Option<Instant> {
    match stay {
        Stay::Proved => (!peer.is_proved()).then(|| opened + BEGIN),
        Stay::Asked(idle) => Some(peer.asked().map_or(opened + BEGIN, |asked| asked + idle)),
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::Peers;

    const MINUTE: Duration = Duration::from_secs(60);

    fn peer() -> Peer {
        Peers::proving().arrive("10.1.0.3:1".parse().unwrap(), Instant::now()).unwrap()
    }

    /// Checks when and why the connection ends, while `caller` does something on it.
    async fn check(stay: Stay, peer: &Peer, caller: impl Future<Output = ()>, seconds: u64, why: End) {
        let (opened, answered) = (Instant::now(), Notify::new());
        let (end, ()) = tokio::join!(until_end(stay, peer, &answered), caller);
        assert_eq!((opened.elapsed().as_secs(), end), (seconds, why));
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_has_little_time() {
        check(Stay::Asked(MINUTE), &peer(), async {}, 10, End::Idle).await;
        check(Stay::Proved, &peer(), async {}, 10, End::Idle).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_asked_may_ask_again_for_a_while() {
        let peer = peer();
        let asks = async {
            for _ in 0..3 {
                peer.ask(Instant::now());
                sleep(Duration::from_secs(50)).await;
            }
        };
        check(Stay::Asked(MINUTE), &peer, asks, 160, End::Idle).await;
    }

    #[tokio::test(start_paused = true)]
    async fn to_ask_is_not_enough_where_callers_prove_who_they_are() {
        let peer = peer();
        check(Stay::Proved, &peer, async { peer.ask(Instant::now()) }, 10, End::Idle).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_proved_to_be_a_pod_stays() {
        let (peer, answered) = (peer(), Notify::new());
        assert!(peer.prove("uid-0"));
        let end = tokio::time::timeout(MINUTE * 1_440, until_end(Stay::Proved, &peer, &answered)).await;
        assert!(end.is_err());
        answered.notify_one();
        assert_eq!(until_end(Stay::Proved, &peer, &answered).await, End::Answered);
    }

    #[tokio::test(start_paused = true)]
    async fn what_still_runs_is_waited_for_as_long_as_it_may_matter() {
        let begun = Instant::now();
        until_given_up(&peer(), End::Displaced).await;
        assert_eq!(begun.elapsed().as_secs(), 0);
        until_given_up(&peer(), End::Idle).await;
        assert_eq!(begun.elapsed().as_secs(), FAREWELL.as_secs());
        let pods = peer();
        assert!(pods.prove("uid-0"));
        assert!(tokio::time::timeout(MINUTE * 60, until_given_up(&pods, End::Answered)).await.is_err());
    }
}
