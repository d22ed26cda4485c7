//! The cells of a shard: one for each subject, program, group and slice that has an event.
//!
//! Owns: finding and making cells, and which changed since they were last reported.
//! Leaves to others: which slice an event belongs to (`super::Shard`), what a cell holds (`super::kept`).
//!
//! Invariants: a cell keeps its number for as long as the shard lives; it is reported when it changed, and not again.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use domain::Timestamp;
use domain::plan::{CellClass, SubjectPlan};

use super::fold::Contribution;
use super::kept::CellValue;
use super::numbered::{Numbered, TOGETHER};
use super::sequence::Item;
use super::snapshot::SECTION_BYTES;
use super::spill::SpillPool;
use crate::snapshot::codec::{FieldReader, Fields};
use crate::snapshot::{Part, Section, SectionKind};

/// Which cell; subject, program and group as the shard numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CellKey {
    /// The subject.
    pub(crate) subject: u32,
    /// Index of the meter's program in the plan.
    pub(crate) program: u32,
    /// The group.
    pub(crate) group: u32,
    /// First instant of the slice.
    pub(crate) slice_from: Timestamp,
}

impl CellKey {
    /// The cell of what an event of a subject adds in a slice.
    #[inline]
    pub(crate) fn new(subject: u32, contribution: &Contribution, slice_from: Timestamp) -> Self {
        let Contribution { program, group, .. } = *contribution;
        Self { subject, program, group, slice_from }
    }

    #[inline]
    fn hash(self) -> u64 {
        // Keys are small numbers that a customer cannot choose freely; a multiplicative mix spreads them.
        let mixed = (u64::from(self.subject) << 32 | u64::from(self.group))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
            ^ (self.slice_from.nanoseconds() as u64 ^ u64::from(self.program) << 56);
        let mixed = mixed.wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ mixed >> 32
    }
}

#[repr(align(128))]
struct CellState {
    key: CellKey,
    /// Latest time of an event in the cell: a new bound behind it cuts nothing.
    time_max: Timestamp,
    value: CellValue,
    is_changed: bool,
}

const _: () = assert!(size_of::<CellState>() == 128, "a cell is two lines of the cache that come together");

/// An event on its way into a cell.
#[derive(Clone, Copy)]
pub(crate) struct Staged {
    /// Which cell.
    key: CellKey,
    hash: u64,
    class: CellClass,
    identity: u128,
    item: Item,
}

impl Staged {
    /// An event with an identity that goes into a cell, which keeps of it what its class says.
    #[inline]
    pub(crate) fn new(key: CellKey, class: CellClass, identity: u128, item: Item) -> Self {
        Self { key, hash: key.hash(), class, identity, item }
    }
}

/// All cells of a shard.
#[derive(Default)]
pub(crate) struct CellStore {
    cells: Numbered<CellState>,
    changed: Vec<u32>,
    saving: Option<SavingCells>,
    /// Where sequences go that memory has no room for.
    pool: Option<Arc<SpillPool>>,
}

/// Items of a sequence that is saved among other cells; each longer one is a part by itself.
const FEW_ITEMS: usize = if cfg!(test) { 2 } else { 64 };

/// How far a snapshot of the cells got.
struct SavingCells {
    /// Cells that there were when it began.
    count: usize,
    /// The first one that is left.
    next: usize,
    /// A bit of each of those that are left, if it was saved before it changed.
    is_saved: Vec<u64>,
    /// Of those, what is no section yet.
    fields: Fields,
    ready: VecDeque<Part>,
}

impl SavingCells {
    /// Whether a cell is left and was not saved yet.
    #[inline]
    fn is_left(&self, number: usize) -> bool {
        (self.next..self.count).contains(&number) && self.is_saved[number / 64] & (1 << (number % 64)) == 0
    }

    /// Saves what a cell holds.
    fn save(&mut self, cell: &CellState) {
        let CellState { key, time_max, value, .. } = cell;
        match value.sequence().map(|sequence| (sequence.order(), sequence.few(FEW_ITEMS))) {
            Some((_, None)) => {
                let saved = SavedCell { key: *key, time_max: *time_max, value: value.clone() };
                return self.ready.push_back(Part::Cell(saved));
            }
            Some((order, Some(items))) => {
                save_key(*key, *time_max, &mut self.fields);
                CellValue::save_part(&value.fold, order, &items, &mut self.fields);
            }
            None => {
                save_key(*key, *time_max, &mut self.fields);
                value.save(&mut self.fields);
            }
        }
        if self.fields.len() >= SECTION_BYTES {
            self.end_section();
        }
    }

    fn end_section(&mut self) {
        if self.fields.len() > 0 {
            let body = self.fields.take();
            self.ready.push_back(Part::Section(Section { kind: SectionKind::Cells, body }));
        }
    }
}

impl CellStore {
    /// Adds events to their cells; `on_new` is told the subject and the number of each new cell.
    pub(crate) fn add_all(&mut self, events: &[Staged], mut on_new: impl FnMut(u32, u32)) {
        for events in events.chunks(TOGETHER) {
            let hashes = events.iter().map(|event| event.hash);
            self.cells.touch(hashes, |cell| u64::from(cell.key.group) | cell.value.fold.count);
            for event in events {
                if let Some(new) = self.add_staged(event) {
                    on_new(event.key.subject, new);
                }
            }
        }
    }

    /// Adds an event to a cell; gives the cell's number if it is new.
    #[inline]
    pub(crate) fn add(&mut self, key: CellKey, class: CellClass, identity: u128, item: Item) -> Option<u32> {
        self.add_staged(&Staged::new(key, class, identity, item))
    }

    #[inline]
    fn add_staged(&mut self, event: &Staged) -> Option<u32> {
        let Staged { key, hash, class, identity, item } = *event;
        let (number, is_new) = match self.cells.find(hash, |cell| cell.key == key) {
            Ok(number) => (number, false),
            Err(_) => (self.new_cell(key), true),
        };
        self.keep_for_snapshot(number);
        let cell = &mut self.cells[number];
        cell.time_max = cell.time_max.max(item.time);
        if cell.value.add(class, identity, item) {
            note(self.pool.as_deref(), &cell.value);
        }
        if !cell.is_changed {
            cell.is_changed = true;
            self.changed.push(number);
        }
        is_new.then_some(number)
    }

    /// Sequences go to a pool from now on when memory has no room for them.
    pub(crate) fn set_pool(&mut self, pool: Arc<SpillPool>) {
        self.cells.iter().for_each(|cell| note(Some(&pool), &cell.value));
        self.pool = Some(pool);
    }

    /// Takes an event out of the cell that it was added to.
    pub(crate) fn subtract(&mut self, key: CellKey, identity: u128, value: i128) {
        let Ok(number) = self.cells.find(key.hash(), |cell| cell.key == key) else {
            unreachable!("an event is taken out of a cell that it is in");
        };
        self.keep_for_snapshot(number);
        self.cells[number].value.fold.subtract(identity, value);
        self.mark_changed(number);
    }

    #[cold]
    fn new_cell(&mut self, key: CellKey) -> u32 {
        let vacant = self.cells.find(key.hash(), |cell| cell.key == key).expect_err("the cell is new");
        let value = CellValue::default();
        self.cells.add(vacant, CellState { key, time_max: key.slice_from, value, is_changed: false })
    }

    /// Empties a cell; the log gives its events back, cut by another plan.
    pub(crate) fn clear(&mut self, number: u32) {
        self.keep_for_snapshot(number);
        let cell = &mut self.cells[number];
        cell.value = CellValue::default();
        cell.time_max = cell.key.slice_from;
        self.mark_changed(number);
    }

    /// Whether a cell that has events no longer lies in one slice of its subject's plan.
    pub(crate) fn is_cut_by(&self, number: u32, plan: Option<&SubjectPlan>) -> bool {
        let cell = &self.cells[number];
        if cell.value.is_empty() {
            return false;
        }
        let from = cell.key.slice_from;
        let slice = plan.and_then(|plan| plan.span_at(from)).map(|owned| owned.slice_of(from));
        !slice.is_some_and(|slice| slice.from == from && slice.until > cell.time_max)
    }

    #[inline]
    fn mark_changed(&mut self, number: u32) {
        let cell = &mut self.cells[number];
        if !cell.is_changed {
            cell.is_changed = true;
            self.changed.push(number);
        }
    }

    /// The cells that changed since the last call.
    pub(crate) fn take_changed(&mut self) -> Vec<(CellKey, CellValue)> {
        let changed = std::mem::take(&mut self.changed);
        let take = |number| {
            let cell: &mut CellState = &mut self.cells[number];
            cell.is_changed = false;
            let value = cell.value.hand_over();
            note(self.pool.as_deref(), &value);
            (cell.key, value)
        };
        changed.into_iter().map(take).collect()
    }

    /// Which cell each number is.
    pub(crate) fn keys(&self) -> impl Iterator<Item = CellKey> {
        self.cells.iter().map(|cell| cell.key)
    }

    /// The cells that hold something: which, the latest time of an event, and what.
    pub(crate) fn filled(&self) -> impl Iterator<Item = (CellKey, Timestamp, &CellValue)> {
        let cells = self.cells.iter().filter(|cell| !cell.value.is_empty());
        cells.map(|cell| (cell.key, cell.time_max, &cell.value))
    }

    /// The latest time of an event in a cell, and what it holds.
    pub(crate) fn find(&self, key: CellKey) -> Option<(Timestamp, &CellValue)> {
        let number = self.cells.find(key.hash(), |cell| cell.key == key).ok()?;
        let cell = &self.cells[number];
        Some((cell.time_max, &cell.value))
    }

    /// Says that no cell was reported yet.
    pub(crate) fn mark_all_changed(&mut self) {
        (0..self.cells.len() as u32).for_each(|number| self.mark_changed(number));
    }

    /// Begins a snapshot of this moment.
    pub(crate) fn begin_snapshot(&mut self) {
        let count = self.cells.len();
        let is_saved = vec![0; count.div_ceil(64)];
        let (fields, ready) = (Fields::default(), VecDeque::new());
        self.saving = Some(SavingCells { count, next: 0, is_saved, fields, ready });
    }

    /// Gives up an unfinished snapshot.
    pub(crate) fn give_up_snapshot(&mut self) {
        self.saving = None;
    }

    /// The next part of the snapshot; nothing once all were given.
    pub(crate) fn poll_snapshot(&mut self) -> Option<Part> {
        let saving = self.saving.as_mut()?;
        while saving.ready.is_empty() && saving.next < saving.count {
            let next = saving.next;
            let are_saved = next.is_multiple_of(64) && saving.is_saved[next / 64] == u64::MAX;
            if saving.is_left(next) {
                saving.save(&self.cells[next as u32]);
            }
            saving.next += if are_saved { 64 } else { 1 };
        }
        if saving.ready.is_empty() {
            saving.end_section();
        }
        let part = saving.ready.pop_front();
        if part.is_none() {
            self.saving = None;
        }
        part
    }

    /// Saves what a cell holds before it changes for the first time since a snapshot began. Saving more cells with
    /// it would be too much for a batch that has events of many.
    #[inline]
    fn keep_for_snapshot(&mut self, number: u32) {
        if let Some(saving) = &mut self.saving
            && saving.is_left(number as usize)
        {
            saving.is_saved[number as usize / 64] |= 1 << (number % 64);
            saving.save(&self.cells[number]);
        }
    }

    /// Adds a cell that was saved, or a further part of one; the part with the sums comes once, and first.
    pub(crate) fn load(&mut self, fields: &mut FieldReader<'_>) -> Option<()> {
        let (subject, program, group) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let slice_from = Timestamp::from_nanoseconds(fields.i64()?);
        let time_max = Timestamp::from_nanoseconds(fields.i64()?);
        let value = CellValue::load(fields)?;
        let key = CellKey { subject, program, group, slice_from };
        if let Ok(known) = self.cells.find(key.hash(), |cell| cell.key == key) {
            if !value.is_empty() || value.kept.is_none() {
                return None;
            }
            self.cells[known].value.merge(&value);
            note(self.pool.as_deref(), &self.cells[known].value);
            return Some(());
        }
        // What changed was saved before the others: a cell may get another number.
        let number = self.new_cell(key);
        let cell = &mut self.cells[number];
        (cell.time_max, cell.value) = (time_max, value);
        note(self.pool.as_deref(), &cell.value);
        Some(())
    }
}

/// Items of one part of a cell in a snapshot.
const PART_ITEMS_MAX: usize = if cfg!(test) { 2 } else { 16_384 };

/// Tells the pool of runs that it does not know.
fn note(pool: Option<&SpillPool>, value: &CellValue) {
    if let (Some(pool), Some(sequence)) = (pool, value.sequence()) {
        sequence.unnoted().for_each(|run| pool.note(run));
    }
}

fn save_key(
    CellKey { subject, program, group, slice_from }: CellKey,
    time_max: Timestamp,
    fields: &mut Fields,
) {
    fields.u32(subject).u32(program).u32(group).i64(slice_from.nanoseconds());
    fields.i64(time_max.nanoseconds());
}

/// A cell with a sequence as it was when a snapshot began: what was sealed is shared, and what was spilled is read when it is
/// written.
#[derive(Clone, Debug)]
pub struct SavedCell {
    key: CellKey,
    time_max: Timestamp,
    value: CellValue,
}

impl SavedCell {
    /// Gives the sections that it is written in.
    ///
    /// # Errors
    /// If spilled items cannot be read, or what `take` says.
    pub(crate) fn for_each_section(&self, take: &mut dyn FnMut(Section) -> io::Result<()>) -> io::Result<()> {
        let sequence = self.value.sequence().expect("a cell without a sequence is in a section with others");
        let mut fold = self.value.fold;
        sequence.for_each_part(PART_ITEMS_MAX, &mut |items| {
            let mut fields = Fields::default();
            save_key(self.key, self.time_max, &mut fields);
            CellValue::save_part(&std::mem::take(&mut fold), sequence.order(), items, &mut fields);
            take(Section { kind: SectionKind::Cells, body: fields.take() })
        })
    }
}

#[cfg(test)]
mod tests {
    use domain::EventPosition;

    use super::*;

    /// Cells were saved in pages of 512: a batch that met many pages copied nearly all cells.
    #[test]
    fn an_event_during_a_snapshot_saves_its_own_cell_and_no_other() {
        let mut store = CellStore::default();
        let add = |store: &mut CellStore, subject: u32, position: u16| {
            let key = CellKey { subject, program: 0, group: 0, slice_from: Timestamp::MIN };
            let position = EventPosition::new(1, position);
            let item = Item { time: Timestamp::MIN, position, value: 1 };
            store.add(key, CellClass::Additive, u128::from(subject), item);
        };
        (0..1_000).for_each(|subject| add(&mut store, subject, 0));
        store.begin_snapshot();
        let kept = |store: &CellStore| {
            let saving = store.saving.as_ref().expect("a snapshot is being made");
            let in_part = |part: &Part| match part {
                Part::Section(section) => section.body.len(),
                Part::Cell(_) => unreachable!("no cell has a sequence"),
            };
            saving.fields.len() + saving.ready.iter().map(in_part).sum::<usize>()
        };
        add(&mut store, 0, 1);
        let bytes = kept(&store);
        (0..1_000).step_by(100).for_each(|subject| add(&mut store, subject, 2));
        assert_eq!(kept(&store), 10 * bytes);
        let mut sections = 0;
        while let Some(part) = store.poll_snapshot() {
            let Part::Section(section) = part else { unreachable!("no cell has a sequence") };
            assert!(section.body.len() < SECTION_BYTES + bytes);
            sections += section.body.len();
        }
        assert_eq!(sections, 1_000 * bytes, "each cell is saved once");
    }
}
