//! Cells: what the events of one subject, meter, group and slice add up to.
//!
//! Owns: the additive fold (sum, count, set digest) wide enough never to overflow before the merged value does.
//! Leaves to others: what is kept beyond sums (`super::kept`), which slice an event belongs to (`domain::plan`), what a quantity costs (`billing`).
//!
//! Invariants: a cell is the fold of the accepted events of its slice, whatever their order; the fold is a group, so
//! the partial cells of all shards add up to the whole.

use std::sync::Arc;

use domain::{Subject, Timestamp};

use super::kept::CellValue;
use crate::snapshot::codec::{FieldReader, Fields};

/// A sum of 128-bit integers, 192 bits wide: 2^64 of the largest values fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WideSum {
    low: u128,
    high: i64,
}

impl WideSum {
    /// Adds one value.
    #[inline]
    pub fn add(&mut self, value: i128) {
        let (low, carry) = self.low.overflowing_add(value as u128);
        let sign = if value < 0 { -1 } else { 0 };
        self.low = low;
        self.high += sign + i64::from(carry);
    }

    /// Takes one value away.
    pub fn subtract(&mut self, value: i128) {
        let (low, borrow) = self.low.overflowing_sub(value as u128);
        let sign = if value < 0 { -1 } else { 0 };
        self.low = low;
        self.high -= sign + i64::from(borrow);
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: WideSum) {
        let (low, carry) = self.low.overflowing_add(other.low);
        self.low = low;
        self.high += other.high + i64::from(carry);
    }

    /// The sum as 128 bits, or `None` if it does not fit.
    pub fn value(self) -> Option<i128> {
        let value = self.low as i128;
        let sign = if value < 0 { -1 } else { 0 };
        (self.high == sign).then_some(value)
    }
}

/// The additive fold of a slice's events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fold {
    /// Sum of the values at the meter's scale.
    pub sum: WideSum,
    /// Count of the events.
    pub count: u64,
    /// Sum of the events' identities modulo 2^128: equal sets have equal digests.
    pub digest: u128,
}

impl Fold {
    /// Adds one event.
    #[inline]
    pub fn add(&mut self, identity: u128, value: i128) {
        self.sum.add(value);
        self.count += 1;
        self.digest = self.digest.wrapping_add(identity);
    }

    /// Takes one of the events away.
    pub fn subtract(&mut self, identity: u128, value: i128) {
        self.sum.subtract(value);
        self.count -= 1;
        self.digest = self.digest.wrapping_sub(identity);
    }

    /// Adds another fold of other events.
    pub fn merge(&mut self, other: &Fold) {
        self.sum.merge(other.sum);
        self.count += other.count;
        self.digest = self.digest.wrapping_add(other.digest);
    }

    /// Its fields in a snapshot.
    pub(crate) fn save(&self, fields: &mut Fields) {
        fields.u128(self.sum.low).i64(self.sum.high).u64(self.count).u128(self.digest);
    }

    /// The fold that was saved.
    pub(crate) fn load(fields: &mut FieldReader<'_>) -> Option<Self> {
        let sum = WideSum { low: fields.u128()?, high: fields.i64()? };
        Some(Self { sum, count: fields.u64()?, digest: fields.u128()? })
    }

    /// Whether no event was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The texts of a meter's group-by dimensions, in catalog order; `None` where an event has no such dimension.
pub type Group = Arc<[Option<Arc<str>>]>;

/// One shard's part of a cell, as handed over at a cut. Absolute: it replaces what the shard said before.
#[derive(Clone, Debug)]
pub struct CellReport {
    /// The subject.
    pub subject: Subject,
    /// Index of the meter's program in the plan; programs are only ever appended.
    pub program: u32,
    /// The group.
    pub group: Group,
    /// First instant of the slice.
    pub slice_from: Timestamp,
    /// What this shard's events come to.
    pub value: CellValue,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sums_may_leave_128_bits_and_come_back() {
        let mut sum = WideSum::default();
        sum.add(i128::MAX);
        sum.add(i128::MAX);
        assert_eq!(sum.value(), None);
        sum.add(-i128::MAX);
        assert_eq!(sum.value(), Some(i128::MAX));
        sum.add(i128::MIN);
        sum.add(i128::MIN);
        assert_eq!(sum.value(), None);
    }

    proptest! {
        #[test]
        fn any_order_and_any_split_gives_the_same_sum_and_what_was_added_can_be_taken_away(values in prop::collection::vec(any::<i128>(), 0..20), at in 0usize..20) {
            let at = at.min(values.len());
            let (mut left, mut right, mut whole) = (WideSum::default(), WideSum::default(), WideSum::default());
            values[..at].iter().for_each(|v| left.add(*v));
            values[at..].iter().rev().for_each(|v| right.add(*v));
            values.iter().for_each(|v| whole.add(*v));
            values[..at].iter().for_each(|v| whole.subtract(*v));
            prop_assert_eq!(right, whole);
            values[..at].iter().for_each(|v| whole.add(*v));
            left.merge(right);
            prop_assert_eq!(left, whole);
        }
    }
}
