//! What a cell keeps beyond sums: an extremum, the latest event, or a sequence.
//!
//! Owns: how each class of cell takes an event, merges with the cells of other shards, and lets an event go.
//! Leaves to others: sums, counts and digests (`super::cell`), sequences (`super::sequence`).
//!
//! Invariants: a function of the set of events; merging is independent of order. Only sums can be taken back: whoever takes
//! an event out of a cell that keeps more folds its subject again from the log.

use domain::plan::CellClass;

use super::cell::Fold;
use super::sequence::{Item, Order, Sequence};
use super::spill::SpillError;
use crate::snapshot::codec::{FieldReader, Fields};

/// What is kept beyond sums.
#[derive(Clone, Debug)]
pub enum Kept {
    /// The least value.
    Least(i128),
    /// The greatest value.
    Greatest(i128),
    /// The latest event; of one instant the later arrival.
    Latest(Item),
    /// Items of single events.
    Sequence(Sequence),
}

impl Kept {
    /// What a cell of a class keeps of its first event; `None` of a class that keeps no more than sums.
    pub fn of_first(class: CellClass, item: Item) -> Option<Self> {
        let sequence = |order| {
            let mut sequence = Sequence::new(order);
            sequence.add(item);
            Some(Kept::Sequence(sequence))
        };
        match class {
            CellClass::Additive => None,
            CellClass::Least => Some(Kept::Least(item.value)),
            CellClass::Greatest => Some(Kept::Greatest(item.value)),
            CellClass::Latest => Some(Kept::Latest(item)),
            CellClass::Keys => sequence(Order::Keys),
            CellClass::Events => sequence(Order::Events),
        }
    }

    fn class(&self) -> CellClass {
        match self {
            Kept::Least(_) => CellClass::Least,
            Kept::Greatest(_) => CellClass::Greatest,
            Kept::Latest(_) => CellClass::Latest,
            Kept::Sequence(sequence) => class_of_order(sequence.order()),
        }
    }

    /// Takes one more event; whether that made a run of items.
    pub fn add(&mut self, item: Item) -> bool {
        match self {
            Kept::Least(least) => *least = item.value.min(*least),
            Kept::Greatest(greatest) => *greatest = item.value.max(*greatest),
            Kept::Latest(latest) => {
                if (item.time, item.position) > (latest.time, latest.position) {
                    *latest = item;
                }
            }
            Kept::Sequence(sequence) => return sequence.add(item),
        }
        false
    }

    /// Takes what a cell of other events keeps.
    ///
    /// # Panics
    /// If the other cell is of another class; cells of one meter keep the same.
    pub fn merge(&mut self, other: &Kept) {
        match (self, other) {
            (Kept::Least(mine), Kept::Least(theirs)) => *mine = (*mine).min(*theirs),
            (Kept::Greatest(mine), Kept::Greatest(theirs)) => *mine = (*mine).max(*theirs),
            (latest @ Kept::Latest(_), Kept::Latest(item)) => _ = latest.add(*item),
            (Kept::Sequence(mine), Kept::Sequence(theirs)) => mine.merge(theirs),
            (mine, theirs) => panic!("{mine:?} and {theirs:?} are of different meters"),
        }
    }
}

fn class_of_order(order: Order) -> CellClass {
    match order {
        Order::Keys => CellClass::Keys,
        Order::Events => CellClass::Events,
    }
}

/// The classes in the order of their codes in snapshots.
const CLASSES: [CellClass; 6] = [
    CellClass::Additive,
    CellClass::Least,
    CellClass::Greatest,
    CellClass::Latest,
    CellClass::Keys,
    CellClass::Events,
];

/// The code of a class in snapshots.
pub(crate) fn code_of(class: CellClass) -> u8 {
    CLASSES.iter().position(|one| *one == class).expect("every class has a code") as u8
}

/// The class of a code.
pub(crate) fn class_of(code: u8) -> Option<CellClass> {
    CLASSES.get(usize::from(code)).copied()
}

/// All that a cell holds.
#[derive(Clone, Debug, Default)]
pub struct CellValue {
    /// Sums, count and digest.
    pub fold: Fold,
    /// What its class keeps beyond them; nothing of an empty cell.
    pub kept: Option<Box<Kept>>,
}

impl CellValue {
    /// Takes one event; whether that made a run of items.
    #[inline]
    pub fn add(&mut self, class: CellClass, identity: u128, item: Item) -> bool {
        self.fold.add(identity, item.value);
        class != CellClass::Additive && self.keep(class, item)
    }

    #[inline(never)]
    fn keep(&mut self, class: CellClass, item: Item) -> bool {
        if let Some(kept) = &mut self.kept {
            return kept.add(item);
        }
        self.kept = Kept::of_first(class, item).map(Box::new);
        false
    }

    /// What it keeps of single events.
    pub fn sequence(&self) -> Option<&Sequence> {
        match self.kept.as_deref() {
            Some(Kept::Sequence(sequence)) => Some(sequence),
            _ => None,
        }
    }

    /// Takes what a cell of other events holds.
    pub fn merge(&mut self, other: &CellValue) {
        self.fold.merge(&other.fold);
        match (&mut self.kept, &other.kept) {
            (Some(mine), Some(theirs)) => mine.merge(theirs),
            (mine @ None, theirs) => *mine = theirs.clone(),
            (Some(_), None) => {}
        }
    }

    /// Whether another value holds the same. What was spilled is read.
    ///
    /// # Errors
    /// [`SpillError`].
    pub(crate) fn is_same(&self, other: &CellValue) -> Result<bool, SpillError> {
        let is_same_kept = match (self.kept.as_deref(), other.kept.as_deref()) {
            (None, None) => true,
            (Some(Kept::Least(mine)), Some(Kept::Least(theirs)))
            | (Some(Kept::Greatest(mine)), Some(Kept::Greatest(theirs))) => mine == theirs,
            (Some(Kept::Latest(mine)), Some(Kept::Latest(theirs))) => mine == theirs,
            (Some(Kept::Sequence(mine)), Some(Kept::Sequence(theirs))) => {
                let _read = (mine.read()?, theirs.read()?);
                mine.order() == theirs.order() && mine.items() == theirs.items()
            }
            _ => false,
        };
        Ok(is_same_kept && self.fold == other.fold)
    }

    /// Whether no event was added.
    pub fn is_empty(&self) -> bool {
        self.fold.is_empty()
    }

    /// Writes a value without a sequence into a snapshot.
    pub(crate) fn save(&self, fields: &mut Fields) {
        self.fold.save(fields);
        fields.u8(code_of(self.kept.as_deref().map_or(CellClass::Additive, Kept::class)));
        match self.kept.as_deref() {
            None => {}
            Some(Kept::Least(value) | Kept::Greatest(value)) => _ = fields.i128(*value),
            Some(Kept::Latest(item)) => item.save(fields),
            Some(Kept::Sequence(_)) => unreachable!("a sequence is written part by part"),
        }
    }

    /// Writes a part of a value with a sequence into a snapshot; one of the parts has the sums.
    pub(crate) fn save_part(fold: &Fold, order: Order, items: &[Item], fields: &mut Fields) {
        fold.save(fields);
        fields.u8(code_of(class_of_order(order))).u64(items.len() as u64);
        items.iter().for_each(|item| item.save(fields));
    }

    /// Reads what was written.
    pub(crate) fn load(fields: &mut FieldReader<'_>) -> Option<Self> {
        let fold = Fold::load(fields)?;
        let sequence = |order, fields: &mut FieldReader<'_>| {
            let mut sequence = Sequence::new(order);
            for _ in 0..fields.u64()? {
                sequence.add(Item::load(fields)?);
            }
            Some(Kept::Sequence(sequence))
        };
        let kept = match class_of(fields.u8()?)? {
            CellClass::Additive => None,
            CellClass::Least => Some(Kept::Least(fields.i128()?)),
            CellClass::Greatest => Some(Kept::Greatest(fields.i128()?)),
            CellClass::Latest => Some(Kept::Latest(Item::load(fields)?)),
            CellClass::Keys => Some(sequence(Order::Keys, fields)?),
            CellClass::Events => Some(sequence(Order::Events, fields)?),
        };
        Some(Self { fold, kept: kept.map(Box::new) })
    }

    /// The value as it is handed over: later events do not change it, and its runs are shared.
    pub(crate) fn hand_over(&mut self) -> CellValue {
        if let Some(Kept::Sequence(sequence)) = self.kept.as_deref_mut() {
            sequence.seal();
        }
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use domain::{EventPosition, Timestamp};
    use proptest::prelude::*;

    use super::super::cells::{CellKey, CellStore};
    use super::*;
    use crate::snapshot::Section;

    fn shown(value: &CellValue) -> String {
        match value.kept.as_deref() {
            None => "nothing".to_string(),
            Some(Kept::Least(value) | Kept::Greatest(value)) => value.to_string(),
            Some(Kept::Latest(item)) => item.value.to_string(),
            Some(Kept::Sequence(sequence)) => format!("{:?}", sequence.items()),
        }
    }

    proptest! {
        /// However events are ordered and split, a class keeps what a naive look at the whole list finds.
        #[test]
        fn any_order_and_any_split_keeps_the_same(
            events in prop::collection::vec((0i64..4, -5i128..5, 0usize..3), 1..30),
            rotation in 0usize..30,
        ) {
            let items: Vec<(Item, usize)> = events.iter().enumerate().map(|(number, (time, value, part))| {
                let position = EventPosition::new(0, number as u16);
                (Item { time: Timestamp::MIN.plus(*time), position, value: *value }, *part)
            }).collect();
            let least = items.iter().map(|(item, _)| item.value).min().unwrap();
            let greatest = items.iter().map(|(item, _)| item.value).max().unwrap();
            let latest = items.iter().map(|(item, _)| item).max_by_key(|item| (item.time, item.position)).unwrap();
            for (class, naive) in [
                (CellClass::Additive, "nothing".to_string()),
                (CellClass::Least, least.to_string()),
                (CellClass::Greatest, greatest.to_string()),
                (CellClass::Latest, latest.value.to_string()),
            ] {
                let mut parts = vec![CellValue::default(); 3];
                for step in 0..items.len() {
                    let (item, part) = items[(step + rotation) % items.len()];
                    parts[part].add(class, step as u128, item);
                }
                let mut whole = CellValue::default();
                for part in &mut parts {
                    whole.merge(&part.hand_over());
                }
                prop_assert_eq!(shown(&whole), naive, "{:?}", class);
                prop_assert_eq!(whole.fold.count, items.len() as u64);
            }
        }

        /// What a store of cells writes, in however many parts, it reads again.
        #[test]
        fn a_saved_cell_is_loaded_from_all_its_parts(
            values in prop::collection::vec((0i64..4, 0i128..9), 1..12),
            class in prop::sample::select(CLASSES.to_vec()),
        ) {
            let mut store = CellStore::default();
            let mut whole = CellValue::default();
            let key = |subject| CellKey { subject, program: 0, group: 0, slice_from: Timestamp::MIN };
            for (number, (time, value)) in values.iter().enumerate() {
                let position = EventPosition::new(7, number as u16);
                let item = Item { time: Timestamp::MIN.plus(*time), position, value: *value };
                store.add(key(0), class, number as u128, item);
                store.add(key(number as u32 % 3 + 1), class, number as u128, item);
                whole.add(class, number as u128, item);
            }
            store.begin_snapshot();
            let mut loaded = CellStore::default();
            while let Some(part) = store.poll_snapshot() {
                let load = &mut |section: Section| {
                    let mut fields = FieldReader::new(&section.body);
                    while !fields.is_empty() {
                        loaded.load(&mut fields).expect("what was written is readable");
                    }
                    Ok(())
                };
                part.for_each_section(load).unwrap();
            }
            loaded.mark_all_changed();
            let cells: Vec<CellValue> = loaded
                .take_changed()
                .into_iter()
                .filter(|(key, _)| key.subject == 0)
                .map(|(_, value)| value)
                .collect();
            prop_assert_eq!(cells.len(), 1);
            prop_assert_eq!(shown(&cells[0]), shown(&whole));
            prop_assert_eq!(cells[0].fold, whole.fold);
        }
    }
}
