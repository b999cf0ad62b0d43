//! Many values in a few numbers. Pure.

use bench::statistics::percentile;
use serde::{Deserialize, Serialize};

/// Percentiles (nearest rank) of some values, in their unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// How many values there are.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// Half of them are not larger.
    pub p50: f64,
    /// 99 of 100 are not larger.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of no values, nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (p50, p99) = (percentile(&values, 50)?, percentile(&values, 99)?);
        Some(Self { count: values.len(), min, p50, p99, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: std::ops::RangeInclusive<u32>, expected: [f64; 4]) {
        let spread = Spread::of(values.rev().map(f64::from)).unwrap();
        assert_eq!([spread.min, spread.p50, spread.p99, spread.max], expected);
    }

    #[test]
    fn percentiles_are_values_that_were_there() {
        check(1..=100, [1.0, 50.0, 99.0, 100.0]);
        check(1..=5, [1.0, 3.0, 5.0, 5.0]);
        check(7..=7, [7.0; 4]);
        assert_eq!(Spread::of([]), None);
    }
}
