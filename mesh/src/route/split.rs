//! Sharing traffic among backends by weight.

use super::{BackendIx, Failure, Filters, RouteRef};

/// A backend and its share.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedBackend {
    /// The share is this over the sum of the rule's weights.
    pub weight: u32,
    /// Where the share goes, or why it cannot.
    pub target: Result<BackendIx, Failure>,
    /// What happens to requests and responses of this share alone.
    pub filters: Filters,
}

/// Backends of which at least one has a weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    backends: Vec<WeightedBackend>,
    total: u64,
}

impl Split {
    /// The split, or `None` if all weights are zero. Backends of weight zero are kept out of it.
    pub fn new(backends: Vec<WeightedBackend>) -> Option<Self> {
        let backends: Vec<_> = backends.into_iter().filter(|b| b.weight > 0).collect();
        let total: u64 = backends.iter().map(|b| u64::from(b.weight)).sum();
        (total > 0).then_some(Self { backends, total })
    }

    /// The backend of this draw. Every weight gets its exact share of the values of `random`.
    pub fn pick(&self, random: u64) -> &WeightedBackend {
        let mut left = random % self.total;
        for backend in &self.backends {
            let weight = u64::from(backend.weight);
            if left < weight {
                return backend;
            }
            left -= weight;
        }
        unreachable!("the remainder is below the sum of the weights")
    }

    /// All backends that can be picked.
    pub fn backends(&self) -> &[WeightedBackend] {
        &self.backends
    }
}

/// What a TCPRoute makes of a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpTable {
    route: RouteRef,
    split: Result<Split, Failure>,
}

impl TcpTable {
    /// A table of the route's one rule.
    pub fn new(route: RouteRef, split: Result<Split, Failure>) -> Self {
        Self { route, split }
    }

    /// The backend of a new connection; on an error the connection is to be reset.
    pub fn pick(&self, random: u64) -> Result<BackendIx, Failure> {
        self.split.as_ref().map_err(|failure| *failure)?.pick(random).target
    }

    /// The route that governs the port.
    pub fn route(&self) -> &RouteRef {
        &self.route
    }

    /// The split, for those who show it.
    pub fn split(&self) -> Result<&Split, Failure> {
        self.split.as_ref().map_err(|failure| *failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn backend(ix: BackendIx, weight: u32) -> WeightedBackend {
        WeightedBackend { weight, target: Ok(ix), filters: Filters::default() }
    }

    fn split(weights: &[u32]) -> Option<Split> {
        Split::new(weights.iter().enumerate().map(|(ix, weight)| backend(ix, *weight)).collect())
    }

    #[test]
    fn all_zero_is_no_split() {
        assert_eq!(split(&[]), None);
        assert_eq!(split(&[0, 0]), None);
    }

    #[test]
    fn shares_are_exact() {
        let split = split(&[90, 0, 10]).unwrap();
        let drawn = |ix| (0..1000).filter(|random| split.pick(*random).target == Ok(ix)).count();
        assert_eq!((drawn(0), drawn(1), drawn(2)), (900, 0, 100));
    }

    proptest! {
        #[test]
        fn weight_zero_is_never_picked(weights in prop::collection::vec(0u32..=1_000_000, 0..16), random: u64) {
            if let Some(split) = split(&weights) {
                prop_assert!(split.pick(random).target.is_ok_and(|ix| weights[ix] > 0));
            } else {
                prop_assert!(weights.iter().all(|w| *w == 0));
            }
        }
    }
}
