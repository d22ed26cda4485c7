//! The merged cells: what all shards together say that a slice holds, as of the last cut's barrier.
//!
//! Owns: merging partial cells, which changed since the last cut, and reading what of them was spilled. Leaves to others: the
//! partial cells (`engine`).
//!
//! Invariants: a report replaces what the same shard said of the cell before; merging is independent of order.

use std::collections::{BTreeMap, BTreeSet};

use domain::plan::MeteringPlan;
use domain::{Subject, Table, Timestamp};
use engine::shard::cell::{CellReport, Group};
use engine::shard::kept::CellValue;
use engine::shard::sequence::ItemsRead;
use engine::shard::spill::SpillError;

/// Which cell of a subject: ordered so that one meter's cells of a window are one range.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct CellKey {
    program: u32,
    slice_from: Timestamp,
    group: Group,
}

/// A cell of a subject, merged over the shards.
#[derive(Clone, Debug)]
pub(crate) struct MergedCell<'a> {
    /// First instant of the slice.
    pub(crate) slice_from: Timestamp,
    /// The group.
    pub(crate) group: &'a Group,
    /// What all shards say that it holds.
    pub(crate) value: CellValue,
}

/// From when on a subject has a level.
struct LevelBounds {
    first: Timestamp,
    changed: Option<Timestamp>,
}

/// All cells.
#[derive(Default)]
pub(crate) struct Cells {
    shards: usize,
    subjects: Table<Subject, BTreeMap<CellKey, Vec<CellValue>>>,
    changed: BTreeMap<Subject, BTreeSet<(u32, Timestamp)>>,
    /// First instant of the earliest slice of the subjects that have a level, and of the earliest that changed.
    levels: BTreeMap<Subject, LevelBounds>,
    /// Subjects of which single events are kept.
    with_items: BTreeSet<Subject>,
}

impl Cells {
    /// An empty store for partial cells of so many shards.
    pub(crate) fn new(shards: usize) -> Self {
        Self { shards, ..Self::default() }
    }

    /// Takes the cells that a shard changed since its last report.
    pub(crate) fn handle_reports(&mut self, plan: &MeteringPlan, shard: usize, reports: Vec<CellReport>) {
        assert!(shard < self.shards, "a report comes from one of the shards");
        for report in reports {
            let CellReport { subject, program, group, slice_from, value } = report;
            if value.sequence().is_some() && !self.with_items.contains(&subject) {
                self.with_items.insert(subject.clone());
            }
            self.changed.entry(subject.clone()).or_default().insert((program, slice_from));
            if plan.programs[program as usize].aggregation.is_carried() {
                let bounds = self
                    .levels
                    .entry(subject.clone())
                    .or_insert(LevelBounds { first: slice_from, changed: None });
                bounds.first = bounds.first.min(slice_from);
                bounds.changed = Some(bounds.changed.map_or(slice_from, |changed| changed.min(slice_from)));
            }
            let cells = self.subjects.get_or_default(subject);
            let key = CellKey { program, slice_from, group };
            let partials = cells.entry(key).or_insert_with(|| vec![CellValue::default(); self.shards]);
            partials[shard] = value;
        }
    }

    /// Subjects that have a level, and from when on their windows may be worth something else than at the cut before,
    /// whose instant was not before `since`. Marks them unchanged.
    pub(crate) fn take_levels(&mut self, since: Timestamp) -> Vec<(Subject, Timestamp)> {
        let levels = self.levels.iter_mut();
        levels
            .map(|(subject, bounds)| {
                let open = since.max(bounds.first);
                let changed = bounds.changed.take();
                (subject.clone(), changed.map_or(open, |changed| changed.min(open)))
            })
            .collect()
    }

    /// The cells that changed since the last call: subject, program, first instant of the slice.
    pub(crate) fn take_changed(&mut self) -> BTreeMap<Subject, BTreeSet<(u32, Timestamp)>> {
        std::mem::take(&mut self.changed)
    }

    /// A subject's non-empty cells of one meter whose slices start in `[from, until)`, in order.
    pub(crate) fn of_subject(
        &self,
        subject: &Subject,
        program: u32,
        from: Timestamp,
        until: Timestamp,
    ) -> impl Iterator<Item = MergedCell<'_>> {
        let low = || CellKey { program, slice_from: from, group: Group::from([]) };
        let cells = self.subjects.get(subject).map(|cells| cells.range(low()..));
        cells
            .into_iter()
            .flatten()
            .take_while(move |(key, _)| key.program == program && key.slice_from < until)
            .filter_map(|(key, partials)| {
                let mut value = CellValue::default();
                partials.iter().for_each(|partial| value.merge(partial));
                (!value.is_empty()).then_some(MergedCell {
                    slice_from: key.slice_from,
                    group: &key.group,
                    value,
                })
            })
    }

    /// Whether single events are kept of any subject.
    pub(crate) fn has_items(&self) -> bool {
        !self.with_items.is_empty()
    }

    /// Reads what was spilled of a subject's cells whose slices start at `from` or later, and of all that are `carried` on; it is
    /// in memory as long as `read` is.
    ///
    /// # Errors
    /// [`SpillError`].
    pub(crate) fn read_items(
        &self,
        subject: &Subject,
        from: Timestamp,
        is_carried: impl Fn(u32) -> bool,
        read: &mut Vec<ItemsRead>,
    ) -> Result<(), SpillError> {
        if !self.with_items.contains(subject) {
            return Ok(());
        }
        let cells = self.subjects.get(subject).into_iter().flatten();
        for (_, partials) in cells.filter(|(key, _)| key.slice_from >= from || is_carried(key.program)) {
            for sequence in partials.iter().filter_map(CellValue::sequence) {
                read.extend(sequence.read()?);
            }
        }
        Ok(())
    }

    /// First instant of the latest slice of a subject that has a cell, empty ones included.
    pub(crate) fn last_slice_of(&self, subject: &Subject) -> Option<Timestamp> {
        self.subjects.get(subject)?.keys().map(|key| key.slice_from).max()
    }

    /// Cells held, empty ones included.
    pub(crate) fn len(&self) -> usize {
        self.subjects.values().map(BTreeMap::len).sum()
    }
}
