//! Sequences: what single events of a cell said, for measures that no constant size can hold.
//!
//! Owns: items in sorted runs, their merging, one item for each key where keys are counted.
//! Leaves to others: which cell an event belongs to (`super::cells`), where the items of a run are (`super::spill`), what is
//! made of them (`machine::measure`).
//!
//! Invariants:
//! - The items are those of a set of events, in one order, whatever the order of arrival and the number of shards: by
//!   time, of one instant by arrival, which is the position in the log.
//! - A run never changes once it was handed over: a report shares runs and copies no item.
//! - Runs in memory shrink by at least half from one to the next, so there are at most 32 of them behind the last that was
//!   spilled, and an item is copied as often. A run that was spilled is merged with no other.
//! - Memory: 32 bytes an item that was not spilled.

use std::io;
use std::sync::Arc;

use domain::{EventPosition, Timestamp};

use super::spill::{ITEM_BYTES, ItemRun, SpillError};
use crate::snapshot::codec::{FieldReader, Fields};

/// What one event said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// When it happened.
    pub time: Timestamp,
    /// Where it stands in the log.
    pub position: EventPosition,
    /// Its value at the meter's scale; of keys their change, as [`KeyChange::to_value`] writes it.
    pub value: i128,
}

impl Item {
    /// Writes the item into a snapshot.
    pub(crate) fn save(&self, fields: &mut Fields) {
        fields.i64(self.time.nanoseconds());
        save_position(fields, self.position);
        fields.i128(self.value);
    }

    /// Reads what was written.
    pub(crate) fn load(fields: &mut FieldReader<'_>) -> Option<Self> {
        let time = Timestamp::from_nanoseconds(fields.i64()?);
        Some(Self { time, position: load_position(fields)?, value: fields.i128()? })
    }
}

/// Writes a position into a snapshot.
pub(crate) fn save_position(fields: &mut Fields, position: EventPosition) {
    fields.u64(position.offset()).u32(position.index().into());
}

/// Reads what was written.
pub(crate) fn load_position(fields: &mut FieldReader<'_>) -> Option<EventPosition> {
    let (offset, index) = (fields.u64()?, u16::try_from(fields.u32()?).ok()?);
    (offset < 1 << 48).then(|| EventPosition::new(offset, index))
}

const _: () = assert!(size_of::<Item>() == ITEM_BYTES, "the documentation says what an item costs");

/// A key that came or went: 127 bits of a digest of its text, and which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyChange {
    digest: u128,
    /// Whether it went.
    pub is_removal: bool,
}

impl KeyChange {
    /// A change of the key with a digest, of which the last bit is dropped.
    pub fn new(digest: u128, is_removal: bool) -> Self {
        Self { digest: digest >> 1, is_removal }
    }

    /// The key, as a number that is the same in each of its changes.
    pub fn key(self) -> u128 {
        self.digest
    }

    /// The change as the value of an item.
    pub fn to_value(self) -> i128 {
        (self.digest << 1 | u128::from(self.is_removal)) as i128
    }

    /// The change that an item is.
    pub fn of_value(value: i128) -> Self {
        let bits = value as u128;
        Self { digest: bits >> 1, is_removal: bits & 1 == 1 }
    }
}

/// In which order items stand, and which are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All, by time.
    Events,
    /// By key; of each the last change.
    Keys,
}

impl Order {
    #[inline]
    fn rank(self, item: &Item) -> (u128, Timestamp, EventPosition) {
        let key = match self {
            Order::Events => 0,
            Order::Keys => KeyChange::of_value(item.value).digest,
        };
        (key, item.time, item.position)
    }

    /// Whether an item is not needed once `next` follows it.
    fn is_replaced(self, item: &Item, next: &Item) -> bool {
        self == Order::Keys
            && KeyChange::of_value(item.value).digest == KeyChange::of_value(next.value).digest
    }

    /// Two sorted lists as one.
    fn merge(self, left: &[Item], right: &[Item]) -> Vec<Item> {
        let mut merged = Vec::with_capacity(left.len() + right.len());
        let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
        loop {
            let next = match (left.peek(), right.peek()) {
                (Some(one), Some(other)) if self.rank(other) < self.rank(one) => right.next(),
                (Some(_), _) => left.next(),
                (None, _) => right.next(),
            };
            let Some(next) = next else { return merged };
            self.push(&mut merged, *next);
        }
    }

    fn push(self, sorted: &mut Vec<Item>, next: Item) {
        match sorted.last_mut() {
            Some(last) if self.is_replaced(last, &next) => *last = next,
            _ => sorted.push(next),
        }
    }
}

/// Keeps items in memory that were read.
#[derive(Debug)]
pub struct ItemsRead(#[expect(dead_code, reason = "it is kept, and that is all")] Arc<Vec<Item>>);

/// Items that wait to become a run: as many are sorted at once.
const RECENT_MAX: usize = 1_024;

/// The items of a cell.
#[derive(Clone, Debug)]
pub struct Sequence {
    order: Order,
    runs: Vec<Arc<ItemRun>>,
    recent: Vec<Item>,
}

impl Sequence {
    /// No items.
    pub fn new(order: Order) -> Self {
        Self { order, runs: Vec::new(), recent: Vec::new() }
    }

    /// In which order they stand.
    pub(crate) fn order(&self) -> Order {
        self.order
    }

    /// Adds one; whether that made a run.
    pub fn add(&mut self, item: Item) -> bool {
        self.recent.push(item);
        let is_sealed = self.recent.len() == RECENT_MAX;
        if is_sealed {
            self.seal();
        }
        is_sealed
    }

    /// Makes a run of what waits, so that everything is shared by the next clone.
    pub(crate) fn seal(&mut self) {
        if self.recent.is_empty() {
            return;
        }
        let mut recent = std::mem::take(&mut self.recent);
        recent.sort_unstable_by_key(|item| self.order.rank(item));
        let mut run = Vec::with_capacity(recent.len());
        recent.into_iter().for_each(|item| self.order.push(&mut run, item));
        let is_merged = |last: &&Arc<ItemRun>, len: usize| last.len() < len * 2 && !last.is_spilled();
        while let Some(items) =
            self.runs.last().filter(|last| is_merged(last, run.len())).and_then(|last| last.in_memory())
        {
            run = self.order.merge(&items, &run);
            self.runs.pop();
        }
        self.runs.push(Arc::new(ItemRun::new(run)));
    }

    /// Runs that no pool knows, newest first.
    pub(crate) fn unnoted(&self) -> impl Iterator<Item = &Arc<ItemRun>> {
        self.runs.iter().rev().take_while(|run| !run.is_noted())
    }

    /// Whether none of its runs was spilled.
    #[cfg(test)]
    pub(super) fn is_in_memory(&self) -> bool {
        !self.runs.iter().any(|run| run.is_spilled())
    }

    /// All items, in no order, if they are at most so many and in memory.
    pub(crate) fn few(&self, items_max: usize) -> Option<Vec<Item>> {
        let count = self.runs.iter().map(|run| run.len()).sum::<usize>() + self.recent.len();
        if count > items_max {
            return None;
        }
        let mut items = self.recent.clone();
        for run in &self.runs {
            items.extend_from_slice(&run.in_memory()?);
        }
        Some(items)
    }

    /// Reads what was spilled; it is in memory as long as what this gives is kept.
    ///
    /// # Errors
    /// [`SpillError`].
    pub fn read(&self) -> Result<Vec<ItemsRead>, SpillError> {
        self.runs.iter().filter(|run| run.is_spilled()).map(|run| Ok(ItemsRead(run.read()?))).collect()
    }

    /// Gives all items, so many at a time and in no order; at most one run is read at once.
    ///
    /// # Errors
    /// [`SpillError`], or what `take` says.
    pub(crate) fn for_each_part(
        &self,
        items_max: usize,
        take: &mut dyn FnMut(&[Item]) -> io::Result<()>,
    ) -> io::Result<()> {
        for run in &self.runs {
            run.read()?.chunks(items_max).try_for_each(&mut *take)?;
        }
        self.recent.chunks(items_max).try_for_each(take)
    }

    /// Adds the items of other events; copies none that was sealed.
    pub fn merge(&mut self, other: &Sequence) {
        assert_eq!(self.order, other.order, "cells of one meter keep the same");
        self.runs.extend(other.runs.iter().cloned());
        self.recent.extend(&other.recent);
    }

    /// All items, in order.
    ///
    /// # Panics
    /// If spilled ones were not read before.
    pub fn items(&self) -> Vec<Item> {
        let mut recent = self.recent.clone();
        recent.sort_unstable_by_key(|item| self.order.rank(item));
        // Two by two, so that each item is copied as often as the number of runs can be halved.
        let mut lists: Vec<Vec<Item>> = Vec::new();
        let in_memory =
            |run: &Arc<ItemRun>| run.in_memory().expect("spilled items are read before they are folded");
        let sealed = self.runs.iter().map(in_memory);
        for list in sealed.chain([Arc::new(recent)]) {
            let mut list = self.order.merge(&list, &[]);
            while let Some(last) = lists.pop_if(|last| last.len() < list.len() * 2) {
                list = self.order.merge(&last, &list);
            }
            lists.push(list);
        }
        lists.into_iter().rev().reduce(|all, list| self.order.merge(&list, &all)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn item(time: i64, position: u16, value: i128) -> Item {
        Item { time: Timestamp::MIN.plus(time), position: EventPosition::new(0, position), value }
    }

    #[test]
    fn a_change_of_a_key_is_a_value_and_back() {
        for digest in [0, 2, u128::MAX - 1] {
            for is_removal in [false, true] {
                let change = KeyChange::new(digest, is_removal);
                assert_eq!(KeyChange::of_value(change.to_value()), change);
            }
        }
        assert_ne!(KeyChange::new(2, false).to_value(), KeyChange::new(4, false).to_value());
    }

    #[test]
    fn a_clone_shares_what_was_sealed_and_does_not_change_with_it() {
        let mut sequence = Sequence::new(Order::Events);
        (0..5_000).for_each(|n| _ = sequence.add(item(i64::from(n), n, 1)));
        sequence.seal();
        let handed_over = sequence.clone();
        assert!(handed_over.runs.iter().zip(&sequence.runs).all(|(one, other)| Arc::ptr_eq(one, other)));
        assert!(sequence.runs.is_sorted_by(|one, next| one.len() >= 2 * next.len()));
        sequence.add(item(-1, 9_999, 1));
        sequence.seal();
        assert_eq!(handed_over.items().len(), 5_000);
        assert_eq!(sequence.items()[0], item(-1, 9_999, 1));
    }

    proptest! {
        /// Whatever the order of arrival and the split over shards and seals, the items are the sorted set of the events,
        /// or of each key the last change.
        #[test]
        fn items_are_those_of_the_set(
            events in prop::collection::vec((0i64..6, 0u128..5, any::<bool>(), 0usize..4, any::<bool>()), 0..60),
            by_key in any::<bool>(),
        ) {
            let order = if by_key { Order::Keys } else { Order::Events };
            let mut parts = vec![Sequence::new(order); 4];
            let mut naive: Vec<Item> = Vec::new();
            for (number, (time, key, is_removal, part, is_sealed)) in events.into_iter().enumerate() {
                let item = item(time, number as u16, KeyChange::new(key << 1, is_removal).to_value());
                parts[part].add(item);
                naive.push(item);
                if is_sealed {
                    parts[part].seal();
                }
            }
            naive.sort_by_key(|item| (item.time, item.position));
            if by_key {
                let last: BTreeMap<u128, Item> =
                    naive.iter().map(|item| (KeyChange::of_value(item.value).digest, *item)).collect();
                naive = last.into_values().collect();
            }
            let mut whole = Sequence::new(order);
            parts.iter().for_each(|part| whole.merge(part));
            prop_assert_eq!(whole.items(), naive);
        }
    }
}
