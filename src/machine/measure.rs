//! Measures: what merged cells come to as a quantity, whatever their class.
//!
//! Owns: which fold makes the quantity of an aggregation, cumulative quantities as differences per slice, levels.
//! Leaves to others: merging cells (`cells`), the folds (`billing::rating::folds`), what a quantity costs (`billing`).
//!
//! Invariants:
//! - A measure is a function of a set of events and a span; no order of arrival and no number of shards is in it.
//! - Quantities of the slices of a window add up to the measure of the window: slice `k` has the measure of slices `1..k`
//!   minus that of `1..k-1`. So a late event is a difference like any other.
//! - Nothing is rounded but an average, half away from zero at the meter's scale.

use billing::rating::RatingStatus;
use billing::rating::folds::{GranuleFunction, Granules, Levels, percentile, present_after};
use domain::plan::{Aggregation, CellClass, Gauge};
use domain::{Exact, ExactStatus, Rounding, Span, Timestamp};
use engine::shard::kept::{CellValue, Kept};
use engine::shard::sequence::{Item, KeyChange};

/// How a meter's cells become a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MeasureRule {
    /// The aggregation.
    pub(crate) aggregation: Aggregation,
    /// Fraction digits of its values.
    pub(crate) scale: u8,
}

impl MeasureRule {
    /// What the events of a span come to; `None` where nothing can be said of no events. A level that was there before the
    /// span is not in it: [`levels_of`] knows that one.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub(crate) fn measure(self, value: &CellValue, span: Span) -> Result<Option<Exact>, RatingStatus> {
        if value.is_empty() {
            let is_zero_of_nothing = matches!(
                self.aggregation,
                Aggregation::Sum | Aggregation::Count | Aggregation::Unique | Aggregation::Each
            );
            return Ok(is_zero_of_nothing.then_some(Exact::ZERO));
        }
        let of_value = |value: i128| Exact::new(value, u32::from(self.scale));
        let items = || items_of(value);
        Ok(Some(match self.aggregation {
            Aggregation::Sum | Aggregation::Count | Aggregation::Each => self.sum(value)?,
            Aggregation::Average => {
                let mean = self.sum(value)?.divide(Exact::from_integer(value.fold.count.into()))?;
                mean.round(Rounding::HalfAway, i32::from(self.scale))?
            }
            Aggregation::Min | Aggregation::Max | Aggregation::Latest => match value.kept.as_deref() {
                Some(Kept::Least(value) | Kept::Greatest(value)) => of_value(*value),
                Some(Kept::Latest(item)) => of_value(item.value),
                kept => panic!("an extremal cell keeps its extremum, and not {kept:?}"),
            },
            Aggregation::Unique => {
                let present =
                    items().iter().filter(|item| !KeyChange::of_value(item.value).is_removal).count();
                Exact::from_integer(present as i128)
            }
            Aggregation::WeightedSum(gauge) => {
                let steps = self.steps(gauge, &items())?;
                Levels::of_steps(Exact::ZERO, &steps, span).mean()?
            }
            Aggregation::Percentile { percent_millionths } => {
                let mut values: Vec<i128> = items().iter().map(|item| item.value).collect();
                values.sort_unstable();
                let percent = Exact::new(percent_millionths.into(), 6);
                of_value(percentile(&values, percent)?.expect("a percentile of values is one of them"))
            }
            Aggregation::Peak { granule } => {
                let levels: Vec<(Timestamp, Exact)> =
                    items().iter().map(|item| (item.time, of_value(item.value))).collect();
                let granules =
                    Granules { function: GranuleFunction::Peak, nanoseconds: granule, hold: Some(0) };
                let folded = granules.fold(&levels, span)?;
                folded.into_iter().try_fold(Exact::ZERO, Exact::add)?
            }
        }))
    }

    /// The sum of the values.
    ///
    /// # Errors
    /// [`ExactStatus::AmountMustFit`].
    pub(crate) fn sum(self, value: &CellValue) -> Result<Exact, ExactStatus> {
        let sum = value.fold.sum.value().ok_or(ExactStatus::AmountMustFit)?;
        Ok(Exact::new(sum, u32::from(self.scale)))
    }

    /// The values one by one, in order of time; of one instant in order of arrival.
    pub(crate) fn values(self, value: &CellValue) -> Vec<Exact> {
        items_of(value).iter().map(|item| Exact::new(item.value, u32::from(self.scale))).collect()
    }

    /// How many events or keys the cells of a measure keep one by one: of the merged whole, whatever the shards.
    pub(crate) fn kept_count<'a>(self, values: impl Iterator<Item = &'a CellValue>) -> u64 {
        match self.aggregation.class() {
            CellClass::Events => values.map(|value| value.fold.count).sum(),
            CellClass::Keys => {
                let mut all = CellValue::default();
                values.for_each(|value| all.merge(value));
                items_of(&all).len() as u64
            }
            CellClass::Additive | CellClass::Least | CellClass::Greatest | CellClass::Latest => 0,
        }
    }

    /// What slices in order of time, all of one window, come to, each with the quantity that it adds.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub(crate) fn quantities<'a>(
        self,
        window_from: Timestamp,
        slices: impl Iterator<Item = (Span, &'a CellValue)>,
    ) -> Result<Vec<Exact>, RatingStatus> {
        let mut quantities = Vec::new();
        let (mut all, mut before) = (CellValue::default(), Exact::ZERO);
        for (slice, value) in slices {
            if matches!(self.aggregation, Aggregation::Sum | Aggregation::Count | Aggregation::Each) {
                quantities.push(self.sum(value)?);
                continue;
            }
            all.merge(value);
            let after = self.measure(&all, Span::new(window_from, slice.until))?.unwrap_or(Exact::ZERO);
            quantities.push(after.subtract(before)?);
            before = after;
        }
        Ok(quantities)
    }

    /// The level after each event, in order of time.
    fn steps(self, gauge: Gauge, items: &[Item]) -> Result<Vec<(Timestamp, Exact)>, RatingStatus> {
        let values = items.iter().map(|item| (item.time, Exact::new(item.value, u32::from(self.scale))));
        Ok(match gauge {
            Gauge::Levels => values.collect(),
            Gauge::Changes => Levels::after_changes(Exact::ZERO, values)?,
            Gauge::Keys => {
                let changes = items.iter().map(|item| KeyChange::of_value(item.value));
                let counts = present_after(changes.map(|change| (change.key(), change.is_removal)));
                let step = |(item, count): (&Item, u64)| (item.time, Exact::from_integer(count.into()));
                items.iter().zip(counts).map(step).collect()
            }
        })
    }

    /// The level that the events of one subject and group make, from before the first of them on.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    ///
    /// # Panics
    /// If the meter is not of a level.
    pub(crate) fn levels(self, value: &CellValue) -> Result<LevelHistory, RatingStatus> {
        let Aggregation::WeightedSum(gauge) = self.aggregation else {
            panic!("{:?} has no level", self.aggregation);
        };
        Ok(LevelHistory { steps: self.steps(gauge, &items_of(value))? })
    }
}

/// What a level was over time: zero before the first event.
pub(crate) struct LevelHistory {
    steps: Vec<(Timestamp, Exact)>,
}

impl LevelHistory {
    /// What a span adds to the weighted sum of its window: `(1/T) × ∫ level dt` over the span, `T` the length of the window.
    ///
    /// # Errors
    /// [`RatingStatus::AmountMustFit`].
    pub(crate) fn weighted(&self, span: Span, window: Span) -> Result<Exact, RatingStatus> {
        if span.until <= span.from {
            return Ok(Exact::ZERO);
        }
        let after = self.steps.partition_point(|(at, _)| *at < span.from);
        let initial = after.checked_sub(1).map_or(Exact::ZERO, |last| self.steps[last].1);
        let length = window.until.nanoseconds() - window.from.nanoseconds();
        let integral = Levels::of_steps(initial, &self.steps[after..], span).integral()?;
        Ok(integral.divide(Exact::from_integer(length.into()))?)
    }
}

fn items_of(value: &CellValue) -> Vec<Item> {
    match value.kept.as_deref() {
        None => Vec::new(),
        Some(Kept::Sequence(sequence)) => sequence.items(),
        Some(kept) => panic!("a cell of a sequence keeps its items, and not {kept:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::EventPosition;
    use domain::time::{HOUR, SECOND};

    fn at(minute: i64) -> Timestamp {
        Timestamp::MIN.plus(minute * 60 * SECOND)
    }

    fn cell_of(aggregation: Aggregation, levels: &[(i64, i128)], minutes: std::ops::Range<i64>) -> CellValue {
        let mut cell = CellValue::default();
        for (minute, value) in levels.iter().filter(|(minute, _)| minutes.contains(minute)) {
            let position = EventPosition::from_bits(*minute as u64);
            cell.add(
                aggregation.class(),
                *minute as u128,
                Item { time: at(*minute), position, value: *value },
            );
        }
        cell
    }

    /// A review of a design found that a granule in which a slice ends was counted in both slices.
    #[test]
    fn a_granule_across_a_cut_of_slices_counts_once() {
        let aggregation = Aggregation::Peak { granule: HOUR };
        let peak = MeasureRule { aggregation, scale: 0 };
        for (levels, bounds, expected) in [
            // The second slice adds what the peak rises by.
            (&[(10, 5), (40, 7)][..], &[0, 30, 60][..], &[5, 2][..]),
            (&[(10, 7), (40, 5)], &[0, 30, 60], &[7, 0]),
            // A granule that is cut, and one that is not.
            (&[(10, 5), (40, 7), (70, 3)], &[0, 30, 120], &[5, 5]),
        ] {
            let slices: Vec<(Span, CellValue)> = bounds
                .windows(2)
                .map(|pair| {
                    let cell = cell_of(aggregation, levels, pair[0]..pair[1]);
                    (Span::new(at(pair[0]), at(pair[1])), cell)
                })
                .collect();
            let found = peak.quantities(at(0), slices.iter().map(|(slice, value)| (*slice, value))).unwrap();
            let expected: Vec<Exact> = expected.iter().map(|units| Exact::from_integer(*units)).collect();
            assert_eq!(found, expected, "{levels:?} in {bounds:?}");
        }
    }
}
