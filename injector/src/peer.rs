//! Who is connected: by address at first, then, once it has proved who it is, by the pod.
//!
//! So nobody takes the places of others: neither by many connections of one pod, nor of one address that proves
//! nothing, while pods that share an address (behind a node's) do not crowd each other out for long.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::connections::{Bounds, Connections, Counted, Excess};
use crate::count::{Counts, Held};

/// Connections of one address that may be unproved at a time, and of one pod. A proxy opens two, one for its certificate
/// and one for all else, and one more when it gives an old one up.
const PROVING_EACH: usize = 8;
/// Where callers prove who they are: all that may be unproved, and each for a few seconds only.
const PROVING: Bounds = Bounds { each: PROVING_EACH, all: 2_048, excess: Excess::Refused };
/// The proved ones of a large cluster: two for each pod, and while one replica is away, the other has all of them.
const PROVED_ALL: usize = 16_384;
/// An API server needs one connection, and dials several at once when it has none; where all of them stand behind one
/// address, a few more.
const CALLING: Bounds = Bounds { each: 32, all: 512, excess: Excess::Replaces };
/// The kubelet, Prometheus and whoever looks by hand need one or two.
const LOOKING: Bounds = Bounds { each: 8, all: 256, excess: Excess::Replaces };

/// The open connections of one port.
#[derive(Debug, Clone)]
pub struct Peers {
    by_address: Arc<Connections>,
    by_pod: Arc<Counts<String>>,
}

/// Where a request came from; with each request, among its extensions. The connection counts for as long as it lives.
#[derive(Debug, Clone)]
pub struct Peer {
    address: SocketAddr,
    known: Arc<Mutex<Known>>,
    displaced: Arc<Notify>,
    by_pod: Arc<Counts<String>>,
}

/// What is known of a connection.
#[derive(Debug)]
struct Known {
    place: Place,
    /// When something was asked last.
    asked: Option<Instant>,
}

/// By what a connection counts.
#[derive(Debug)]
enum Place {
    Address(Counted),
    Pod(Held<String>),
}

impl Peers {
    /// Nobody yet, on a port where callers prove which pod they are.
    pub fn proving() -> Self {
        Self::new(PROVING)
    }

    /// Nobody yet, on the port that API servers call.
    pub fn calling() -> Self {
        Self::new(CALLING)
    }

    /// Nobody yet, on a port for those who look after us.
    pub fn looking() -> Self {
        Self::new(LOOKING)
    }

    fn new(bounds: Bounds) -> Self {
        let by_address = Arc::new(Connections::new(bounds));
        Self { by_address, by_pod: Arc::new(Counts::new(PROVING_EACH, PROVED_ALL)) }
    }

    /// One more connection, unless there is no place for it. It may take that of another, who is told.
    pub fn arrive(&self, address: SocketAddr, now: Instant) -> Option<Peer> {
        let counted = self.by_address.open(address.ip().to_canonical(), now)?;
        let displaced = counted.displaced();
        let known = Arc::new(Mutex::new(Known { place: Place::Address(counted), asked: None }));
        Some(Peer { address, known, displaced, by_pod: Arc::clone(&self.by_pod) })
    }
}

impl Peer {
    /// The address. An IPv4 address in IPv6's clothes is that IPv4 address.
    pub fn ip(&self) -> IpAddr {
        self.address.ip().to_canonical()
    }

    /// Notes that something is asked on the connection.
    pub fn ask(&self, now: Instant) {
        let mut known = self.known();
        known.asked = Some(now);
        if let Place::Address(counted) = &known.place {
            counted.ask(now);
        }
    }

    /// When something was asked on it last.
    pub fn asked(&self) -> Option<Instant> {
        self.known().asked
    }

    /// Waits until the connection's place is another's.
    pub async fn displaced(&self) {
        self.displaced.notified().await;
    }

    /// Whether it has proved to be a pod.
    pub fn is_proved(&self) -> bool {
        matches!(self.known().place, Place::Pod(_))
    }

    /// Counts the connection as that of the pod `uid`, which it has proved to be, from now on. False if the pod has too
    /// many.
    pub fn prove(&self, uid: &str) -> bool {
        let mut known = self.known();
        if matches!(&known.place, Place::Pod(held) if held.owner() == uid) {
            return true;
        }
        let taken = self.by_pod.take(uid.to_owned()).map(Place::Pod);
        let enough = taken.is_some();
        if let Some(pod) = taken {
            known.place = pod;
        }
        enough
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn arrive(peers: &Peers, from: &str) -> Option<Peer> {
        peers.arrive(from.parse().unwrap(), Instant::now())
    }

    fn gone(peer: &Peer) -> bool {
        peer.displaced().now_or_never().is_some()
    }

    #[test]
    fn an_address_has_few_connections_that_prove_nothing() {
        let peers = Peers::proving();
        let mut held: Vec<Peer> = (0..PROVING_EACH).map(|_| arrive(&peers, "10.1.0.3:1").unwrap()).collect();
        assert!(arrive(&peers, "10.1.0.3:2").is_none());
        assert!(arrive(&peers, "[::ffff:10.1.0.3]:3").is_none());
        assert!(arrive(&peers, "10.1.0.4:1").is_some());
        held.pop();
        assert!(arrive(&peers, "10.1.0.3:4").is_some());
    }

    #[test]
    fn a_pod_has_few_connections_wherever_they_come_from() {
        let peers = Peers::proving();
        let mut held: Vec<Peer> =
            (0..=PROVING_EACH).map(|last| arrive(&peers, &format!("10.1.0.{last}:1")).unwrap()).collect();
        let late = held.pop().unwrap();
        assert!(held.iter().all(|peer| peer.prove("uid-0") && peer.prove("uid-0")));
        assert!(!late.prove("uid-0") && late.prove("uid-1"));
        held.pop();
        assert!(late.prove("uid-0"));
    }

    #[test]
    fn who_has_proved_its_pod_leaves_its_addresss_place_to_others() {
        let peers = Peers::proving();
        let pods: Vec<Peer> = (0..100)
            .map(|pod| {
                let peer = arrive(&peers, "10.1.0.3:1").unwrap();
                assert!(peer.prove(&format!("uid-{pod}")) && peer.is_proved());
                peer
            })
            .collect();
        assert_eq!(pods.len(), 100);
    }

    #[test]
    fn nobody_locks_the_api_server_out() {
        let peers = Peers::calling();
        let full = (0..=255).flat_map(|pod| [pod; CALLING.each]);
        let held: Vec<Peer> = full.map(|pod| arrive(&peers, &format!("10.1.0.{pod}:1")).unwrap()).collect();
        assert_eq!(held.iter().filter(|peer| !gone(peer)).count(), CALLING.all);
        let server = arrive(&peers, "10.0.0.1:1").unwrap();
        assert_eq!(held.iter().filter(|peer| gone(peer)).count(), 1);
        assert!(!gone(&server));
    }
}
