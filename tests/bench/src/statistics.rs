//! Few numbers about several rounds.

use serde::Serialize;

/// The middle of some values, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one; of an even number, the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub minimum: f64,
    /// The largest.
    pub maximum: f64,
}

impl Spread {
    /// Of no values there is none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
        Some(Self { median: f64::midpoint(*low, *high), minimum: *sorted.first()?, maximum: *sorted.last()? })
    }
}

/// The smallest of the `sorted` values that `percent` of all do not exceed (the nearest rank), if there are any.
pub fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

/// How many times the other one; unknown when the other is nothing.
pub fn ratio(one: f64, other: f64) -> Option<f64> {
    let ratio = one / other;
    (other > 0.0 && ratio.is_finite()).then_some(ratio)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        let spread = Spread::of(&[9.0, 1.0, 5.0]).expect("three values");
        assert_eq!(spread, Spread { median: 5.0, minimum: 1.0, maximum: 9.0 });
    }

    #[test]
    fn an_even_number_of_values_has_two_in_the_middle() {
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 9.0]).map(|spread| spread.median), Some(3.0));
        assert_eq!(Spread::of(&[7.0]).map(|spread| spread.median), Some(7.0));
    }

    #[test]
    fn nothing_has_no_median_and_no_ratio() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(ratio(1.0, 0.0), None);
        assert_eq!(ratio(1.0, 4.0), Some(0.25));
    }
}
