//! The merged cells: what all shards together say that a slice holds, as of the last cut's barrier.
//!
//! Owns: merging partial cells, and which changed since the last cut. Leaves to others: the partial cells (`engine`).
//!
//! Invariants: a report replaces what the same shard said of the cell before; merging is independent of order.

use std::collections::{BTreeMap, BTreeSet};

use domain::{Subject, Timestamp};
use engine::shard::cell::{CellReport, Fold, Group};

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
    /// The fold over all shards.
    pub(crate) fold: Fold,
}

/// All cells.
#[derive(Default)]
pub(crate) struct Cells {
    shards: usize,
    subjects: BTreeMap<Subject, BTreeMap<CellKey, Vec<Fold>>>,
    changed: BTreeMap<Subject, BTreeSet<(u32, Timestamp)>>,
}

impl Cells {
    /// An empty store for partial cells of so many shards.
    pub(crate) fn new(shards: usize) -> Self {
        Self { shards, ..Self::default() }
    }

    /// Takes the cells that a shard changed since its last report.
    pub(crate) fn handle_reports(&mut self, shard: usize, reports: Vec<CellReport>) {
        assert!(shard < self.shards, "a report comes from one of the shards");
        for report in reports {
            let CellReport { subject, program, group, slice_from, fold } = report;
            self.changed.entry(subject.clone()).or_default().insert((program, slice_from));
            let cells = self.subjects.entry(subject).or_default();
            let key = CellKey { program, slice_from, group };
            let partials = cells.entry(key).or_insert_with(|| vec![Fold::default(); self.shards]);
            partials[shard] = fold;
        }
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
        let low = CellKey { program, slice_from: from, group: Group::from([]) };
        self.subjects
            .get(subject)
            .into_iter()
            .flat_map(move |cells| cells.range(low.clone()..))
            .take_while(move |(key, _)| key.program == program && key.slice_from < until)
            .filter_map(|(key, partials)| {
                let mut fold = Fold::default();
                partials.iter().for_each(|partial| fold.merge(partial));
                (!fold.is_empty()).then_some(MergedCell {
                    slice_from: key.slice_from,
                    group: &key.group,
                    fold,
                })
            })
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
