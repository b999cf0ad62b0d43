//! Who has a place at a port that everybody reaches. Each caller has its share and no more, and where the kubelet may call
//! from has a share of its own: no number of strangers keeps the kubelet's probes out.
//!
//! Trips: a caller holds its share, or strangers hold all that is theirs. Who comes then is reset at once, and counted;
//! nobody waits, for whoever waits holds up those behind. Recovers by itself.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Connections at once from one address that the kubelet may call from: more than a pod has probes.
const KNOWN_EACH: usize = 64;
/// Connections at once from any other address: whoever reads metrics has one.
const STRANGER_EACH: usize = 8;
/// Connections at once from all other addresses together.
const STRANGERS_MAX: usize = 256;

/// The places at one port.
pub struct Places {
    known: Vec<IpAddr>,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    by_caller: HashMap<IpAddr, usize>,
    by_strangers: usize,
}

/// A place, until it is dropped.
pub struct Place {
    places: Arc<Places>,
    caller: IpAddr,
    stranger: bool,
}

impl Places {
    /// All of them free. `known` are the addresses that the kubelet may call from, and our own; loopback is one anyhow.
    pub fn new(known: impl IntoIterator<Item = IpAddr>) -> Arc<Self> {
        let known = known.into_iter().chain([IpAddr::V4(Ipv4Addr::LOCALHOST)]).collect();
        Arc::new(Self { known, held: Mutex::default() })
    }

    /// A place for one more connection of a caller, if it has one left.
    pub fn take(self: &Arc<Self>, caller: IpAddr) -> Option<Place> {
        let caller = one_loopback(caller);
        let stranger = !self.known.contains(&caller);
        let share = if stranger { STRANGER_EACH } else { KNOWN_EACH };
        let mut held = self.held();
        let own = held.by_caller.get(&caller).copied().unwrap_or_default();
        if own >= share || (stranger && held.by_strangers >= STRANGERS_MAX) {
            return None;
        }
        held.by_caller.insert(caller, own + 1);
        held.by_strangers += usize::from(stranger);
        Some(Place { places: Arc::clone(self), caller, stranger })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.held();
        held.by_strangers -= usize::from(self.stranger);
        if let Entry::Occupied(mut own) = held.by_caller.entry(self.caller) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

/// This pod has millions of loopback addresses, and is one caller.
fn one_loopback(ip: IpAddr) -> IpAddr {
    if ip.is_loopback() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { ip }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn places() -> Arc<Places> {
        Places::new([NODE])
    }

    fn stranger(number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 1, 0, number))
    }

    /// All the places that a caller gets.
    fn all(places: &Arc<Places>, caller: IpAddr) -> Vec<Place> {
        (0..2 * STRANGERS_MAX).map_while(|_| places.take(caller)).collect()
    }

    #[test]
    fn a_caller_has_its_share_and_no_more() {
        let places = places();
        let (one, other, node) = (all(&places, stranger(1)), all(&places, stranger(2)), all(&places, NODE));
        assert_eq!([one.len(), other.len(), node.len()], [STRANGER_EACH, STRANGER_EACH, KNOWN_EACH]);
    }

    #[test]
    fn no_number_of_strangers_takes_the_nodes_places() {
        let places = places();
        let held: Vec<Place> = (0..=u8::MAX).flat_map(|number| all(&places, stranger(number))).collect();
        assert_eq!(held.len(), STRANGERS_MAX);
        assert_eq!(all(&places, NODE).len(), KNOWN_EACH);
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_has_ended() {
        let places = places();
        for caller in [stranger(1), NODE] {
            let mut held = all(&places, caller);
            held.pop();
            assert_eq!(all(&places, caller).len(), 1);
        }
        let left = places.held();
        assert!(left.by_caller.is_empty() && left.by_strangers == 0);
    }

    #[test]
    fn a_pod_has_one_share_for_all_its_loopback_addresses() {
        let places = places();
        let held =
            ["127.0.0.1", "127.9.9.9", "::1"].map(|ip| all(&places, ip.parse().expect("address")).len());
        assert_eq!(held, [KNOWN_EACH; 3], "each is dropped before the next");
        let _held = all(&places, IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert!(places.take("127.9.9.9".parse().expect("address")).is_none());
    }
}
