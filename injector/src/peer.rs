//! Who is connected: by address at first, then, once it has proved who it is, by the pod.
//!
//! So nobody takes the places of others: neither by many connections of one pod, nor of one address that proves
//! nothing, while pods that share an address (behind a node's) do not crowd each other out for long.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::count::{Counts, Held};

/// Connections of one address that may be unproved at a time, and of one pod. A proxy opens one, and one more when it
/// gives the old one up.
const PROVING_EACH: usize = 8;
/// All that may be unproved, on a port where callers prove who they are.
const PROVING_ALL: usize = 2_048;
/// The proved ones of a large cluster.
const PROVED_ALL: usize = 8_192;
/// Connections of one address on a port where nobody proves anything: of the API server, the kubelet or Prometheus.
const OPEN_EACH: usize = 256;
/// Half of the files that a process may commonly have open.
const OPEN_ALL: usize = 8_192;

/// The open connections of one port.
#[derive(Debug, Clone)]
pub struct Peers {
    by_address: Arc<Counts<IpAddr>>,
    by_pod: Arc<Counts<String>>,
}

/// Where a request came from; with each request, among its extensions. The connection counts for as long as it lives.
#[derive(Debug, Clone)]
pub struct Peer {
    address: SocketAddr,
    place: Arc<Mutex<Place>>,
    by_pod: Arc<Counts<String>>,
}

/// By what a connection counts.
#[derive(Debug)]
enum Place {
    Address { _held: Held<IpAddr> },
    Pod(Held<String>),
}

impl Peers {
    /// Nobody yet, on a port where callers prove which pod they are.
    pub fn proving() -> Self {
        Self::new(PROVING_EACH, PROVING_ALL)
    }

    /// Nobody yet, on a port where nobody has to.
    pub fn open() -> Self {
        Self::new(OPEN_EACH, OPEN_ALL)
    }

    fn new(each: usize, all: usize) -> Self {
        let by_address = Arc::new(Counts::new(each, all));
        Self { by_address, by_pod: Arc::new(Counts::new(PROVING_EACH, PROVED_ALL)) }
    }

    /// One more connection, unless its address has too many.
    pub fn arrive(&self, address: SocketAddr) -> Option<Peer> {
        let held = self.by_address.take(address.ip().to_canonical())?;
        let place = Arc::new(Mutex::new(Place::Address { _held: held }));
        Some(Peer { address, place, by_pod: Arc::clone(&self.by_pod) })
    }
}

impl Peer {
    /// The address.
    pub fn ip(&self) -> IpAddr {
        self.address.ip().to_canonical()
    }

    /// Counts the connection as that of the pod `uid`, which it has proved to be, from now on. False if the pod has too
    /// many.
    pub fn prove(&self, uid: &str) -> bool {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*place, Place::Pod(held) if held.owner() == uid) {
            return true;
        }
        let taken = self.by_pod.take(uid.to_owned()).map(Place::Pod);
        let enough = taken.is_some();
        if let Some(pod) = taken {
            *place = pod;
        }
        enough
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

    fn from(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_few_connections_that_prove_nothing() {
        let peers = Peers::proving();
        let mut held: Vec<Peer> =
            (0..PROVING_EACH).map(|_| peers.arrive(from("10.1.0.3:1")).unwrap()).collect();
        assert!(peers.arrive(from("10.1.0.3:2")).is_none());
        assert!(peers.arrive(from("[::ffff:10.1.0.3]:3")).is_none());
        assert!(peers.arrive(from("10.1.0.4:1")).is_some());
        held.pop();
        assert!(peers.arrive(from("10.1.0.3:4")).is_some());
    }

    #[test]
    fn a_pod_has_few_connections_wherever_they_come_from() {
        let peers = Peers::proving();
        let mut held: Vec<Peer> =
            (0..=PROVING_EACH).map(|last| peers.arrive(from(&format!("10.1.0.{last}:1"))).unwrap()).collect();
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
                let peer = peers.arrive(from("10.1.0.3:1")).unwrap();
                assert!(peer.prove(&format!("uid-{pod}")));
                peer
            })
            .collect();
        assert_eq!(pods.len(), 100);
    }
}
