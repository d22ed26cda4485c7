//! Runs of one window as differences, as the cases define them.
//!
//! Owns: the split of an allowance over earlier and current units, differences of positions by run and by original period.
//! Leaves to others: positions; that a cut charges each slice of a window by itself makes these differences of its own
//! (`machine::issued`).
//!
//! A run is worth `P_i − P_(i−1)`, so runs telescope to the last position. A period is worth the same difference along the
//! periods of one snapshot, and what is emitted for it is that less what was booked for it.
//!
//! Invariants: amounts are minor units, rounded before; nothing here rounds.

use billing::rating::RatingStatus;
use domain::Exact;

/// Units before a run and in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RunUnits {
    /// Units of earlier runs.
    pub(crate) before: Exact,
    /// Units of this run.
    pub(crate) current: Exact,
}

/// Takes a discount in units off a run: what earlier runs have used of it is gone, the rest is free here. Earlier units
/// below zero have used nothing, and are made up for first.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub(crate) fn discount_units(discount: Exact, units: RunUnits) -> Result<RunUnits, RatingStatus> {
    let taken_before = discount.min(units.before)?;
    let left = discount.subtract(taken_before)?;
    Ok(RunUnits {
        before: units.before.subtract(taken_before)?,
        current: units.current.subtract(left)?.max(Exact::ZERO)?,
    })
}

/// What each of a row of cumulative positions is worth by itself: `P_i − P_(i−1)`, and the first as it is.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub(crate) fn differences(positions: &[i128]) -> Result<Vec<i128>, RatingStatus> {
    let mut before = 0i128;
    let difference = |position: &i128| {
        let difference = position.checked_sub(before).ok_or(RatingStatus::AmountMustFit);
        before = *position;
        difference
    };
    positions.iter().map(difference).collect()
}

/// What is emitted for each period of a snapshot of cumulative positions, given what was booked for it before: the period's
/// worth less that. A period that was not booked yet has nothing, one that the snapshot does not reach keeps what it has.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub(crate) fn period_corrections(positions: &[i128], booked: &[i128]) -> Result<Vec<i128>, RatingStatus> {
    let booked = booked.iter().copied().chain(std::iter::repeat(0));
    let lines = differences(positions)?.into_iter().zip(booked);
    lines.map(|(line, booked)| line.checked_sub(booked).ok_or(RatingStatus::AmountMustFit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_discount_in_units_is_used_by_earlier_runs_first() {
        for (discount, before, current, billed_before, billed) in [
            (10, 5, 15, 0, 10),
            (10, 20, 15, 10, 15),
            (10, 0, 4, 0, 0),
            (0, 3, 4, 3, 4),
            (10, 10, 1, 0, 1),
            (10, -5, 20, 0, 5),
        ] {
            let of = |before, current| RunUnits {
                before: Exact::from_integer(before),
                current: Exact::from_integer(current),
            };
            let found = discount_units(Exact::from_integer(discount), of(before, current));
            assert_eq!(found, Ok(of(billed_before, billed)), "{discount} off {before} + {current}");
        }
    }

    #[test]
    fn late_usage_stays_with_its_period() {
        // Snapshots of positions: 10 a unit, at most 50.
        let mut booked = Vec::new();
        for (positions, emitted) in [
            (vec![30], vec![30]),
            (vec![30, 50], vec![0, 20]),
            (vec![40, 50, 50], vec![10, -10, 0]),
            (vec![40, 50, 50], vec![0, 0, 0]),
        ] {
            assert_eq!(
                period_corrections(&positions, &booked),
                Ok(emitted),
                "{positions:?} after {booked:?}"
            );
            booked = differences(&positions).unwrap();
        }
    }

    #[test]
    fn differences_that_do_not_fit_are_a_status() {
        let status = RatingStatus::AmountMustFit;
        assert_eq!(differences(&[i128::MIN, 1]), Err(status));
        assert_eq!(period_corrections(&[i128::MIN], &[1]), Err(status));
    }

    proptest! {
        /// Whatever is corrected in whatever order, booked lines of a snapshot sum to its last position.
        #[test]
        fn corrections_by_period_telescope(
            snapshots in prop::collection::vec(prop::collection::vec(-1_000i128..1_000, 4), 1..6),
        ) {
            let mut booked = vec![0; 4];
            for positions in &snapshots {
                let emitted = period_corrections(positions, &booked).unwrap();
                for (booked, line) in booked.iter_mut().zip(emitted) {
                    *booked += line;
                }
                prop_assert_eq!(booked.iter().sum::<i128>(), positions[3]);
                prop_assert_eq!(&booked, &differences(positions).unwrap());
            }
        }

        #[test]
        fn a_discount_in_units_is_the_same_over_any_runs(
            discount in 0i128..60, first in -20i128..20, runs in prop::collection::vec(0i128..30, 0..8),
        ) {
            let (mut before, mut billed) = (Exact::from_integer(first.min(0)), Exact::ZERO);
            for run in std::iter::once(&first.max(0)).chain(&runs) {
                let current = Exact::from_integer(*run);
                let units = discount_units(Exact::from_integer(discount), RunUnits { before, current }).unwrap();
                prop_assert_eq!(units.before, billed);
                billed = billed.add(units.current).unwrap();
                before = before.add(current).unwrap();
            }
            let whole = (first + runs.iter().sum::<i128>() - discount).max(0);
            prop_assert_eq!(billed, Exact::from_integer(whole));
        }
    }
}
