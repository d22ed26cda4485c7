//! Percentile: the value that so many percent of the values do not exceed.
//!
//! Nearest rank: of n sorted values the one with number `ceil(p / 100 × n)`, so it is always one of the values and no
//! rounding or interpolation enters. The 95th of a month's five-minute averages is how bandwidth is sold.

use domain::{Exact, Rounding};

use crate::rating::status::RatingStatus;

/// The percentile of values in rising order, above 0 and up to 100; `None` of no values.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
///
/// # Panics
/// If `percent` is not above 0 and at most 100.
pub fn percentile<T: Copy>(sorted: &[T], percent: Exact) -> Result<Option<T>, RatingStatus> {
    assert!(
        percent.is_positive() && percent <= Exact::from_integer(100),
        "a percentile is above 0 and at most 100"
    );
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
        let values = [15, 20, 35, 40, 50];
        for (percent, expected) in
            [("5", 15), ("20", 15), ("20.1", 20), ("40", 20), ("50", 35), ("95", 50), ("100", 50)]
        {
            let percent = Exact::parse(percent).unwrap();
            assert_eq!(percentile(&values, percent), Ok(Some(expected)), "{percent}");
        }
        assert_eq!(percentile::<i128>(&[], Exact::ONE), Ok(None));
        assert_eq!(percentile(&[1; 100], Exact::from_integer(95)), Ok(Some(1)));
    }
}
