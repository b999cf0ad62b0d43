//! A connection that is carried as bytes, from its beginning to its account.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use tracing::debug;

use crate::{
    access::TcpLine,
    metrics::{Connections, Direction, TcpLabels, Way},
    net::{
        relay::{Carried, relay},
        stream::Stream,
    },
    proxy::Proxy,
};

/// A connection as its account sees it.
pub struct Trip {
    /// Which way it goes.
    pub direction: Direction,
    /// Where it goes, and by what rule.
    pub way: Way,
    /// The address that was dialled.
    pub destination: SocketAddr,
}

/// How a connection ended.
pub struct Ended {
    /// What it carried.
    pub carried: Carried,
    /// A side broke off: the end was no clean one.
    pub broke: bool,
}

/// Carries a caller's bytes to a callee and back, and counts them while they pass. All that is large is lent or boxed:
/// each future that hands something on holds room for it as long as the connection lasts.
pub async fn carry(
    proxy: &Proxy,
    trip: Box<Trip>,
    caller: &mut impl Stream,
    callee: &mut impl Stream,
) -> Ended {
    let began = Instant::now();
    let far = match trip.direction {
        Direction::Outbound => callee.socket(),
        Direction::Inbound => caller.socket(),
    };
    let peer = proxy.log.as_ref().and_then(|_| far.peer_addr().ok());
    let mut open = Open::begin(proxy, &trip);
    let end = caller.certificates_end().or(callee.certificates_end());
    let ended = tokio::select! {
        ended = relay(caller, callee, |more| open.count(more)) => ended,
        never = outlive(proxy, end) => match never {},
    };
    if let Err(error) = &ended {
        // A reset is a peer's way to end; both sides have seen it, so it is no news for the log's usual level.
        debug!(%error, "a connection broke");
    }
    let broke = ended.is_err();
    let error = ended.err().map(|error| ("connection_terminated", error.to_string()));
    trip.log(proxy, peer, error, open.carried, began.elapsed());
    Ended { carried: open.carried, broke }
}

/// Counts a tunnel that goes on after the certificates have ended that it was made with. It may: who its ends are was
/// proven, and does not change.
async fn outlive(proxy: &Proxy, certificates_end: Option<SystemTime>) -> Infallible {
    if let Some(end) = certificates_end {
        tokio::time::sleep(end.duration_since(SystemTime::now()).unwrap_or_default()).await;
        proxy.metrics.tunnels_beyond_certificate.inc();
    }
    std::future::pending().await
}

impl Trip {
    /// The account of a connection that did not come about.
    pub fn failed(&self, proxy: &Proxy, reason: &'static str, words: String) {
        self.log(proxy, None, Some((reason, words)), Carried::default(), Duration::ZERO);
    }

    fn log(
        &self,
        proxy: &Proxy,
        peer: Option<SocketAddr>,
        error: Option<(&'static str, String)>,
        carried: Carried,
        took: Duration,
    ) {
        let Some(log) = &proxy.log else { return };
        let (direction, way, destination) = (self.direction, &self.way, self.destination);
        TcpLine { direction, way, destination, peer, error, carried, took }.write(log);
    }
}

/// An open connection's count: in its series, and its own.
struct Open {
    series: Arc<Connections>,
    carried: Carried,
}

impl Open {
    fn begin(proxy: &Proxy, trip: &Trip) -> Self {
        let labels = TcpLabels { direction: trip.direction, way: trip.way.clone(), overflow: false };
        let series = proxy.metrics.connections(&labels);
        series.opened.fetch_add(1, Relaxed);
        Self { series, carried: Carried::default() }
    }

    fn count(&mut self, more: Carried) {
        self.carried += more;
        self.series.sent.fetch_add(more.sent, Relaxed);
        self.series.received.fetch_add(more.received, Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.series.closed.fetch_add(1, Relaxed);
    }
}
