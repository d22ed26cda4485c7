//! Percentile: the value that so many percent of the values do not exceed.
//!
//! Nearest rank: of n sorted values the one with number `ceil(p / 100 × n)`, so it is always one of the values and no
//! rounding or interpolation enters. The 95th of a month's five-minute averages is how bandwidth is sold.

use domain::{Exact, Rounding};

use crate::rating::status::RatingStatus;

/// The percentile of some values, above 0 and up to 100; `None` of no values.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
///
/// # Panics
/// If `percent` is not above 0 and at most 100.
pub fn percentile(values: &[Exact], percent: Exact) -> Result<Option<Exact>, RatingStatus> {
    assert!(
        percent.is_positive() && percent <= Exact::from_integer(100),
        "a percentile is above 0 and at most 100"
    );
    // Comparing may not fit, so values are inserted one by one, each at its place.
    let mut sorted: Vec<Exact> = Vec::with_capacity(values.len());
    for value in values {
        let (mut low, mut high) = (0, sorted.len());
        while low < high {
            let middle = low.midpoint(high);
            if value.compare(sorted[middle])?.is_lt() {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        sorted.insert(low, *value);
    }
    let count = Exact::from_integer(sorted.len() as i128);
    let rank = count.multiply(percent)?.divide_by_power_of_ten(2).round(Rounding::Ceiling, 0)?.round_to(0)?;
    let index = usize::try_from(rank).unwrap_or(0).checked_sub(1);
    Ok(index.and_then(|index| sorted.get(index)).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values_by_nearest_rank() {
        let values: Vec<Exact> = [35, 20, 15, 50, 40].map(Exact::from_integer).to_vec();
        for (percent, expected) in
            [("5", 15), ("20", 15), ("20.1", 20), ("40", 20), ("50", 35), ("95", 50), ("100", 50)]
        {
            let percent = Exact::parse(percent).unwrap();
            assert_eq!(percentile(&values, percent), Ok(Some(Exact::from_integer(expected))), "{percent}");
        }
        assert_eq!(percentile(&[], Exact::ONE), Ok(None));
        let same = vec![Exact::ONE; 100];
        assert_eq!(percentile(&same, Exact::from_integer(95)), Ok(Some(Exact::ONE)));
    }
}
