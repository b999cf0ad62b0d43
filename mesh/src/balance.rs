//! The choice among endpoints: power of two choices. Two at random, the less loaded one wins; it needs
//! no shared order, reacts at once, and never herds every client onto the one least loaded endpoint.

/// The index of the endpoint to use out of `n`, or `None` when there is none. `random` should be uniform over
/// all 64 bits; `load` is asked for two different indexes at most.
pub fn power_of_two(n: usize, load: impl Fn(usize) -> u32, random: u64) -> Option<usize> {
    if n < 2 {
        return n.checked_sub(1);
    }
    let (low, high) = (random & 0xffff_ffff, random >> 32);
    let first = remainder(low, n);
    let second = (first + 1 + remainder(high, n - 1)) % n;
    Some(if load(second) < load(first) { second } else { first })
}

fn remainder(random: u64, n: usize) -> usize {
    let n = u64::try_from(n).unwrap_or(u64::MAX);
    usize::try_from(random % n).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::RefCell;

    #[test]
    fn nothing_is_chosen_of_nothing() {
        assert_eq!(power_of_two(0, |_| 0, 7), None);
        assert_eq!(power_of_two(1, |_| 9, 7), Some(0));
    }

    #[test]
    fn the_less_loaded_of_two_wins() {
        for random in 0..100 {
            assert_eq!(power_of_two(2, |i| [5, 1][i], random << 31), Some(1));
        }
    }

    proptest! {
        #[test]
        fn two_different_indexes_are_compared(n in 2usize..50, random: u64) {
            let seen = RefCell::new(Vec::new());
            let chosen = power_of_two(n, |i| { seen.borrow_mut().push(i); 0 }, random);
            let seen = seen.into_inner();
            prop_assert_eq!(seen.len(), 2);
            prop_assert_ne!(seen[0], seen[1]);
            prop_assert!(seen.iter().all(|i| *i < n) && chosen.is_some_and(|c| seen.contains(&c)));
        }
    }
}
