//! The choice among endpoints.
//!
//! It looks at a bounded number of them, so that it costs the same for ten endpoints as for a thousand. Of up to
//! [`LOOKS`] it sees each, in a random order: one that is in rotation is always found. Of more it sees so many drawn
//! at random: if it meets none that is in rotation, nearly all are set aside, and then even they are used, because
//! what is left of the backend would not survive the whole of its traffic. (With half of them set aside that
//! happens to one request in 65,000, with three quarters to one in a hundred, with nine tenths to one in five.)

use super::{Dice, Standing, View};

/// The most endpoints looked at for one choice.
const LOOKS: usize = 16;
/// Costs that differ by less than this factor are noise: then the less loaded one wins, or the one drawn first. Otherwise
/// a few microseconds would decide, and a client of one request at a time would leave a good endpoint alone for ever.
const ALIKE: f64 = 2.0;

/// What an endpoint is chosen by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// For a request: the cheaper of two, by peak latency and running requests.
    Request,
    /// For a connection: the one that carries the fewest.
    Connection,
}

/// The index of the endpoint to use out of `n`, or `None` when there is none. `random` should be uniform over all 64
/// bits; `look` tells what is known of an endpoint, or `None` if it must not be used.
pub fn choose(n: usize, by: By, random: u64, look: impl Fn(usize) -> Option<View>) -> Option<usize> {
    let mut dice = Dice(random);
    let mut order = Order::of(n);
    let mut found = Found::default();
    for _ in 0..n.min(LOOKS) {
        let index = order.next(&mut dice);
        let Some(view) = look(index) else { continue };
        match view.standing {
            Standing::Due => return Some(index),
            Standing::Aside => drop(found.aside.get_or_insert(index)),
            Standing::In(weight) if weight < 1.0 && dice.part() >= weight => {
                found.cold.get_or_insert(index);
            }
            Standing::In(_) => found.take(by, index, view),
        }
        if by == By::Request && found.candidates == 2 {
            break;
        }
    }
    found.best.map(|(index, _)| index).or(found.cold).or(found.aside)
}

/// What the looks have found.
#[derive(Default)]
struct Found {
    best: Option<(usize, View)>,
    candidates: u32,
    /// One in rotation whose turn it was not.
    cold: Option<usize>,
    aside: Option<usize>,
}

impl Found {
    fn take(&mut self, by: By, index: usize, view: View) {
        match &self.best {
            // The same one, drawn twice.
            Some((best, _)) if *best == index => return,
            Some((_, best)) if !is_better(by, &view, best) => {}
            Some(_) | None => self.best = Some((index, view)),
        }
        self.candidates += 1;
    }
}

fn is_better(by: By, new: &View, old: &View) -> bool {
    let fewer = new.running < old.running;
    match (by, new.latency, old.latency) {
        (By::Request, Some(new_latency), Some(old_latency)) => {
            let new_cost = new_latency * (f64::from(new.running) + 1.0);
            let old_cost = old_latency * (f64::from(old.running) + 1.0);
            new_cost * ALIKE <= old_cost || (new_cost < old_cost * ALIKE && fewer)
        }
        // One that was never measured is neither starved nor flooded: it gets as much at a time as the others.
        (By::Request, _, _) | (By::Connection, _, _) => fewer,
    }
}

/// The order in which endpoints are looked at, on the stack: all of a few, each once; of many, some.
struct Order {
    n: usize,
    few: [u8; LOOKS],
    seen: usize,
}

impl Order {
    fn of(n: usize) -> Self {
        Self { n, few: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], seen: 0 }
    }

    /// To be called `n` times at most.
    fn next(&mut self, dice: &mut Dice) -> usize {
        if self.n > LOOKS {
            return dice.below(self.n);
        }
        // A step of Fisher and Yates' shuffle.
        let drawn = self.seen + dice.below(self.n - self.seen);
        self.few.swap(self.seen, drawn);
        let index = self.few.get(self.seen).copied().unwrap_or(0);
        self.seen += 1;
        usize::from(index)
    }
}

#[cfg(test)]
mod tests;
