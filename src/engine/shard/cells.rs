//! The cells of a shard: one for each subject, program, group and slice that has an event.
//!
//! Owns: finding and making cells, and which changed since they were last reported.
//! Leaves to others: which slice an event belongs to (`super::Shard`), what a fold is (`super::cell`).
//!
//! Invariants: a cell keeps its number for as long as the shard lives; it is reported when it changed, and not again.

use domain::Timestamp;
use domain::plan::SubjectPlan;
use hashbrown::HashTable;

use super::cell::Fold;

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

struct CellState {
    key: CellKey,
    /// Latest time of an event in the cell: a new bound behind it cuts nothing.
    time_max: Timestamp,
    fold: Fold,
    is_changed: bool,
}

/// All cells of a shard.
#[derive(Default)]
pub(crate) struct CellStore {
    cells: Vec<CellState>,
    numbers: HashTable<u32>,
    changed: Vec<u32>,
}

impl CellStore {
    /// Adds an event to a cell; gives the cell's number if it is new.
    #[inline]
    pub(crate) fn add(&mut self, key: CellKey, time: Timestamp, identity: u128, value: i128) -> Option<u32> {
        let cells = &self.cells;
        let known = self.numbers.find(key.hash(), |number| cells[*number as usize].key == key).copied();
        let number = known.unwrap_or_else(|| self.new_cell(key));
        let cell = &mut self.cells[number as usize];
        cell.time_max = cell.time_max.max(time);
        cell.fold.add(identity, value);
        self.mark_changed(number);
        if known.is_none() { Some(number) } else { None }
    }

    fn new_cell(&mut self, key: CellKey) -> u32 {
        let number = u32::try_from(self.cells.len()).expect("fewer than 2^32 cells fit in memory");
        self.cells.push(CellState {
            key,
            time_max: key.slice_from,
            fold: Fold::default(),
            is_changed: false,
        });
        let cells = &self.cells;
        self.numbers.insert_unique(key.hash(), number, |number| cells[*number as usize].key.hash());
        number
    }

    /// Empties a cell; the log gives its events back, cut by another plan.
    pub(crate) fn clear(&mut self, number: u32) {
        let cell = &mut self.cells[number as usize];
        cell.fold = Fold::default();
        cell.time_max = cell.key.slice_from;
        self.mark_changed(number);
    }

    /// Whether a cell that has events no longer lies in one slice of its subject's plan.
    pub(crate) fn is_cut_by(&self, number: u32, plan: Option<&SubjectPlan>) -> bool {
        let cell = &self.cells[number as usize];
        if cell.fold.is_empty() {
            return false;
        }
        let from = cell.key.slice_from;
        let slice = plan.and_then(|plan| plan.span_at(from)).map(|owned| owned.slice_of(from));
        !slice.is_some_and(|slice| slice.from == from && slice.until > cell.time_max)
    }

    #[inline]
    fn mark_changed(&mut self, number: u32) {
        let cell = &mut self.cells[number as usize];
        if !cell.is_changed {
            cell.is_changed = true;
            self.changed.push(number);
        }
    }

    /// The cells that changed since the last call.
    pub(crate) fn take_changed(&mut self) -> Vec<(CellKey, Fold)> {
        let changed = std::mem::take(&mut self.changed);
        let take = |number| {
            let cell: &mut CellState = &mut self.cells[number as usize];
            cell.is_changed = false;
            (cell.key, cell.fold)
        };
        changed.into_iter().map(take).collect()
    }
}
