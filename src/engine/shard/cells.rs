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

/// Cells that a snapshot saves together.
const PAGE_CELLS: usize = if cfg!(test) { 3 } else { 512 };

/// How far a snapshot of the cells got.
struct SavingCells {
    /// Cells that there were when it began.
    count: usize,
    /// Pages that were saved.
    is_saved: Vec<bool>,
    next: usize,
    /// Pages that were saved because they were about to change.
    ready: VecDeque<Part>,
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
        self.keep_page(number);
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
        self.keep_page(number);
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
        self.keep_page(number);
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

    /// Says that no cell was reported yet.
    pub(crate) fn mark_all_changed(&mut self) {
        (0..self.cells.len() as u32).for_each(|number| self.mark_changed(number));
    }

    /// Begins a snapshot of this moment.
    pub(crate) fn begin_snapshot(&mut self) {
        let count = self.cells.len();
        let is_saved = vec![false; count.div_ceil(PAGE_CELLS)];
        self.saving = Some(SavingCells { count, is_saved, next: 0, ready: VecDeque::new() });
    }

    /// Gives up an unfinished snapshot.
    pub(crate) fn give_up_snapshot(&mut self) {
        self.saving = None;
    }

    /// The next page of the snapshot; nothing once all were given.
    pub(crate) fn poll_snapshot(&mut self) -> Option<Part> {
        let saving = self.saving.as_mut()?;
        if let Some(page) = saving.ready.pop_front() {
            return Some(page);
        }
        let next = (saving.next..saving.is_saved.len()).find(|page| !saving.is_saved[*page]);
        let Some(page) = next else {
            self.saving = None;
            return None;
        };
        saving.next = page + 1;
        saving.is_saved[page] = true;
        saving.ready.extend(page_of(&self.cells, page, saving.count));
        saving.ready.pop_front()
    }

    /// Saves what the page of a cell holds before it changes for the first time since a snapshot began.
    #[inline]
    fn keep_page(&mut self, number: u32) {
        if let Some(saving) = &mut self.saving {
            let page = number as usize / PAGE_CELLS;
            if saving.is_saved.get(page) == Some(&false) {
                saving.is_saved[page] = true;
                saving.ready.extend(page_of(&self.cells, page, saving.count));
            }
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
        // Pages come in the order in which they changed: a cell may get another number.
        let number = self.new_cell(key);
        let cell = &mut self.cells[number];
        (cell.time_max, cell.value) = (time_max, value);
        note(self.pool.as_deref(), &cell.value);
        Some(())
    }
}

/// Items of one part of a cell in a snapshot, and bytes after which a section of cells ends.
const PART_ITEMS_MAX: usize = if cfg!(test) { 2 } else { 16_384 };
const PAGE_BYTES: usize = if cfg!(test) { 64 } else { 1 << 20 };

/// Tells the pool of runs that it does not know.
fn note(pool: Option<&SpillPool>, value: &CellValue) {
    if let (Some(pool), Some(sequence)) = (pool, value.sequence()) {
        sequence.unnoted().for_each(|run| pool.note(run));
    }
}

/// What a page of cells is written in.
fn page_of(cells: &Numbered<CellState>, page: usize, count: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    let numbers = page * PAGE_CELLS..((page + 1) * PAGE_CELLS).min(count);
    let mut fields = Fields::default();
    for number in numbers {
        let CellState { key, time_max, value, .. } = &cells[number as u32];
        if value.sequence().is_some() {
            parts.push(Part::Cell(SavedCell { key: *key, time_max: *time_max, value: value.clone() }));
            continue;
        }
        save_key(*key, *time_max, &mut fields);
        value.save(&mut fields);
        if fields.len() >= PAGE_BYTES {
            parts.push(Part::Section(Section { kind: SectionKind::Cells, body: fields.take() }));
        }
    }
    if fields.len() > 0 {
        parts.push(Part::Section(Section { kind: SectionKind::Cells, body: fields.take() }));
    }
    parts
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
