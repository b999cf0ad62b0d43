//! A connection that is carried as bytes, from its beginning to its account.

use tracing::debug;

use crate::{
    metrics::{Metrics, TcpLabels},
    net::{
        peek::Peeked,
        relay::{Carried, relay},
        stream::Stream,
    },
};

/// Carries a caller's bytes to a callee and back, and counts them.
pub async fn carry<S: Stream>(
    metrics: &Metrics,
    labels: &TcpLabels,
    caller: Peeked<S>,
    callee: &mut impl Stream,
) {
    metrics.tcp_opened(labels);
    let mut carried = Carried::default();
    let ended = relay(caller, callee, |more| carried += more).await;
    metrics.tcp_closed(labels, carried.sent, carried.received);
    if let Err(error) = ended {
        // A reset is a peer's way to end; both sides have seen it, so it is no news for the log's usual level.
        debug!(%error, "a connection broke");
    }
}
