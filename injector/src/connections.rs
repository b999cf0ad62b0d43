//! The open connections of a port, counted by the address that they come from. Where a newcomer needs a place, the
//! address that holds most gives one up: so nobody is kept out by others, however many they are and whatever they hold.
//!
//! The time is an argument; whoever has to go is told, and goes by itself.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// The open connections of one port.
#[derive(Debug)]
pub struct Connections {
    open: Mutex<Open>,
    bounds: Bounds,
}

/// How many there may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of one address.
    pub each: usize,
    /// Altogether.
    pub all: usize,
    /// What becomes of one that is too many.
    pub excess: Excess,
}

/// What becomes of a connection for which there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// It is closed, unless another address holds more than its own would: those that are open are all in the middle of
    /// something, and would never get done if each newcomer took the place of one.
    Refused,
    /// It takes the place of one that is idle, if need be of its own address: a caller opens another when he needs it.
    Replaces,
}

/// One open connection; it counts for as long as this lives, or until its place is another's.
#[derive(Debug)]
pub struct Counted {
    connections: Arc<Connections>,
    address: IpAddr,
    number: u64,
    displaced: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Open {
    by_address: HashMap<IpAddr, Vec<Line>>,
    all: usize,
    last: u64,
}

/// What is known of one connection.
#[derive(Debug)]
struct Line {
    number: u64,
    /// When something was asked on it last, or it was opened.
    asked: Instant,
    displaced: Arc<Notify>,
}

/// Where there is a place.
enum Room {
    Free,
    /// In place of a connection of that address.
    Of(IpAddr),
    Nowhere,
}

impl Connections {
    /// None yet.
    pub fn new(bounds: Bounds) -> Self {
        Self { open: Mutex::default(), bounds }
    }

    /// One more of `address`, if there is or can be a place for it.
    pub fn open(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<Counted> {
        let mut open = self.lock();
        match open.room(address, self.bounds) {
            Room::Free => {}
            Room::Of(loser) => open.displace(loser),
            Room::Nowhere => return None,
        }
        let (number, displaced) = open.add(address, now);
        Some(Counted { connections: Arc::clone(self), address, number, displaced })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn room(&self, address: IpAddr, bounds: Bounds) -> Room {
        let own = self.by_address.get(&address).map_or(0, Vec::len);
        let (without, spared) = match bounds.excess {
            Excess::Refused => (Room::Nowhere, own + 1),
            Excess::Replaces => (Room::Of(address), own),
        };
        if own >= bounds.each {
            return without;
        }
        if self.all < bounds.all {
            return Room::Free;
        }
        self.fullest().filter(|(_, count)| *count > spared).map_or(without, |(loser, _)| Room::Of(loser))
    }

    /// The address that holds most; of several, the one with the connection that is idle longest.
    fn fullest(&self) -> Option<(IpAddr, usize)> {
        let held = self.by_address.iter();
        let fullest = held.max_by_key(|(_, lines)| (lines.len(), Reverse(idle_since(lines))));
        fullest.map(|(address, lines)| (*address, lines.len()))
    }

    /// Ends the connection of `address` that is idle longest.
    fn displace(&mut self, address: IpAddr) {
        let lines = self.by_address.get(&address).into_iter().flatten();
        let longest = lines.min_by_key(|line| (line.asked, line.number)).map(|line| line.number);
        if let Some(line) = longest.and_then(|number| self.remove(address, number)) {
            line.displaced.notify_one();
        }
    }

    fn add(&mut self, address: IpAddr, now: Instant) -> (u64, Arc<Notify>) {
        let displaced = Arc::new(Notify::new());
        self.last += 1;
        self.all += 1;
        let line = Line { number: self.last, asked: now, displaced: Arc::clone(&displaced) };
        self.by_address.entry(address).or_default().push(line);
        (self.last, displaced)
    }

    fn remove(&mut self, address: IpAddr, number: u64) -> Option<Line> {
        let lines = self.by_address.get_mut(&address)?;
        let line = lines.swap_remove(lines.iter().position(|line| line.number == number)?);
        if lines.is_empty() {
            self.by_address.remove(&address);
        }
        self.all -= 1;
        Some(line)
    }
}

fn idle_since(lines: &[Line]) -> Option<Instant> {
    lines.iter().map(|line| line.asked).min()
}

impl Counted {
    /// Notes that something is asked on it: it is no longer idle.
    pub fn ask(&self, now: Instant) {
        let mut open = self.connections.lock();
        let mut lines = open.by_address.get_mut(&self.address).into_iter().flatten();
        if let Some(line) = lines.find(|line| line.number == self.number) {
            line.asked = now;
        }
    }

    /// Told when its place is another's.
    pub fn displaced(&self) -> Arc<Notify> {
        Arc::clone(&self.displaced)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.connections.lock().remove(self.address, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::time::Duration;

    struct Bed {
        connections: Arc<Connections>,
        start: Instant,
    }

    impl Bed {
        fn new(each: usize, all: usize, excess: Excess) -> Self {
            let connections = Arc::new(Connections::new(Bounds { each, all, excess }));
            Self { connections, start: Instant::now() }
        }

        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        fn open(&self, last: u8, second: u64) -> Option<Counted> {
            self.connections.open(IpAddr::from([10, 1, 0, last]), self.at(second))
        }

        fn some(&self, last: u8, second: u64) -> Counted {
            self.open(last, second).unwrap()
        }
    }

    #[track_caller]
    fn check_displaced(held: &[Counted], displaced: &[usize]) {
        let gone = |counted: &Counted| counted.displaced.notified().now_or_never().is_some();
        let found: Vec<usize> = (0..held.len()).filter(|place| gone(&held[*place])).collect();
        assert_eq!(found, displaced);
    }

    #[test]
    fn an_address_with_too_many_gives_up_the_one_that_is_idle_longest() {
        let bed = Bed::new(2, 100, Excess::Replaces);
        let held = [bed.some(3, 0), bed.some(3, 1), bed.some(4, 0)];
        held[0].ask(bed.at(2));
        let late = bed.some(3, 3);
        check_displaced(&held, &[1]);
        check_displaced(&[late], &[]);
    }

    #[test]
    fn where_all_is_full_the_address_that_holds_most_makes_room() {
        let bed = Bed::new(10, 5, Excess::Replaces);
        let held = [bed.some(3, 0), bed.some(4, 1), bed.some(4, 2), bed.some(4, 3), bed.some(3, 4)];
        held[1].ask(bed.at(5));
        let late = [bed.some(5, 6), bed.some(5, 7)];
        // Of three the one that is idle longest; then two hold two each, and one of them has been idle since 0.
        check_displaced(&held, &[0, 2]);
        check_displaced(&late, &[]);
    }

    #[test]
    fn nobody_takes_a_second_place_from_who_has_one() {
        let bed = Bed::new(10, 2, Excess::Replaces);
        let held = [bed.some(3, 0), bed.some(4, 1)];
        let late = bed.some(4, 2);
        check_displaced(&held, &[1]);
        check_displaced(&[late], &[]);
    }

    #[test]
    fn newcomers_are_refused_where_everybody_is_in_the_middle_of_something() {
        let bed = Bed::new(2, 4, Excess::Refused);
        let held = [bed.some(3, 0), bed.some(3, 1), bed.some(4, 2), bed.some(5, 3)];
        assert!(bed.open(3, 4).is_none() && bed.open(4, 4).is_none());
        check_displaced(&held, &[]);
    }

    #[test]
    fn who_holds_few_gets_in_even_there() {
        let bed = Bed::new(2, 4, Excess::Refused);
        let held = [bed.some(3, 0), bed.some(3, 1), bed.some(4, 2), bed.some(5, 3)];
        let late = bed.some(6, 4);
        check_displaced(&held, &[0]);
        // Now each has one.
        assert!(bed.open(7, 5).is_none());
        check_displaced(&[late], &[]);
    }

    #[test]
    fn one_that_ends_makes_room_once_even_if_it_was_displaced() {
        let bed = Bed::new(1, 2, Excess::Replaces);
        let first = bed.some(3, 0);
        let second = bed.some(3, 1);
        drop(first);
        assert_eq!(bed.connections.lock().all, 1);
        drop(second);
        let open = bed.connections.lock();
        assert!(open.all == 0 && open.by_address.is_empty());
    }
}
