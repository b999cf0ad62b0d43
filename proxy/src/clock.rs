//! The time, read once for whatever happens in one turn of the event loop: in its turn a connection begins and ends dozens of
//! requests, each of which notes when it began, was sent, was answered and ended.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
};

use tokio::time::Instant;

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn::None) };
}

#[derive(Clone, Copy)]
enum Turn {
    /// There is none.
    None,
    /// Nobody has asked yet.
    Begun,
    /// When somebody asked first.
    At(Instant),
}

/// The time. In a turn it is when that was asked first: less than a turn ago, which is well under a millisecond for all but
/// the busiest connections.
pub fn now() -> Instant {
    TURN.with(|turn| match turn.get() {
        Turn::None => Instant::now(),
        Turn::At(time) => time,
        Turn::Begun => {
            let time = Instant::now();
            turn.set(Turn::At(time));
            time
        }
    })
}

/// Runs a connection, each time that it is polled in one turn.
pub async fn in_turns<F: Future>(mut connection: Pin<Box<F>>) -> F::Output {
    poll_fn(|cx| {
        let _ended = Ended(TURN.replace(Turn::Begun));
        connection.as_mut().poll(cx)
    })
    .await
}

/// What was before a turn, which is again when that has ended, in whatever way.
struct Ended(Turn);

impl Drop for Ended {
    fn drop(&mut self) {
        TURN.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use tokio::time::advance;

    use super::*;

    const STEP: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_time_stands_still_within_a_turn_and_nowhere_else() {
        let before = now();
        let (first, second, third) = in_turns(Box::pin(async {
            let first = now();
            // A turn of whoever moves the clock ends here, and this one's.
            advance(STEP).await;
            let second = now();
            let mut moving = Box::pin(advance(STEP));
            let _ = moving.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            (first, second, now())
        }))
        .await;
        assert_eq!((first - before, second - first, third - second), (Duration::ZERO, STEP, Duration::ZERO));
        assert_eq!(now() - before, 2 * STEP);
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_ends_with_a_panic_too() {
        let mut breaks = Box::pin(in_turns(Box::pin(async {
            now();
            panic!("on purpose");
        })));
        let polled = catch_unwind(AssertUnwindSafe(|| {
            let _: Poll<()> = breaks.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }));
        assert!(polled.is_err());
        let before = now();
        advance(STEP).await;
        assert_eq!(now() - before, STEP);
    }
}
