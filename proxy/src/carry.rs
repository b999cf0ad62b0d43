//! A connection that is carried as bytes, from its beginning to its account.

use tracing::debug;

use crate::{
    metrics::{Metrics, TcpLabels},
    net::{peek::Peeked, relay::relay_peeked, stream::Stream},
};

/// Carries a caller's bytes to a callee and back, and counts them.
pub async fn carry<S: Stream>(
    metrics: &Metrics,
    labels: &TcpLabels,
    caller: Peeked<S>,
    callee: &mut impl Stream,
) {
    metrics.tcp_opened(labels);
    let carried = relay_peeked(caller, callee).await;
    let (sent, received) = carried.as_ref().map_or((0, 0), |carried| (carried.sent, carried.received));
    metrics.tcp_closed(labels, sent, received);
    if let Err(error) = carried {
        // A reset is a peer's way to end; both sides have seen it, so it is no news for the log's usual level.
        debug!(%error, "a connection broke");
    }
}
