//! One meter counted again: events that a caller chooses, folded into cells that a caller chooses.
//!
//! Owns: what the meter takes of an event, in the groups that are asked for, and the cells that it adds up to; which meters
//! take an event at all.
//! Leaves to others: which events count (`super::Shard::counts`), which cell an event belongs to (`machine`).
//!
//! Invariants: filters, values and folds are those of the shards, so a recount of what a shard counted gives its cells.

use std::sync::Arc;

use domain::plan::{MeterProgram, MeteringPlan};
use domain::{EventPosition, Timestamp};
use wire::usage::UsageBatch;

use super::cell::Group;
use super::cells::{CellKey, CellStore};
use super::fold::{Contribution, ResolvedPrograms};
use super::groups::Groups;
use super::kept::CellValue;
use super::sequence::Item;

/// A meter that is counted again.
pub struct Recount {
    plan: MeteringPlan,
    groups: Groups,
    cells: CellStore,
    cell_count: usize,
    text_bytes: usize,
    contributions: Vec<Contribution>,
}

/// The meter against one batch.
pub struct OpenBatch(ResolvedPrograms);

/// What the meter takes of one event; kept until it is known whether the event counts.
#[derive(Clone, Copy, Debug)]
pub struct Share(Contribution);

/// Which cell an event belongs to, besides its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// A number of the caller's.
    pub label: u32,
    /// First instant of the slice.
    pub slice_from: Timestamp,
    /// Time of the event.
    pub time: Timestamp,
}

/// A cell and what its events add up to.
#[derive(Clone, Debug)]
pub struct RecountedCell {
    /// The caller's number.
    pub label: u32,
    /// First instant of the slice.
    pub slice_from: Timestamp,
    /// The group.
    pub group: Group,
    /// What its events come to.
    pub value: CellValue,
}

/// Whether all meters that existed at a control offset take the event of a batch that its filters let through, and there
/// is one.
pub fn is_metered(plan: &MeteringPlan, control_offset: u64, batch: &UsageBatch<'_>, index: usize) -> bool {
    groups_of(plan, control_offset, batch, index).is_some_and(|groups| !groups.is_empty())
}

/// Which programs of a plan take an event of a batch, by their index, and in which group: of those that existed at a
/// control offset. `None` if one of them cannot take the event, so that none does.
pub fn groups_of(
    plan: &MeteringPlan,
    control_offset: u64,
    batch: &UsageBatch<'_>,
    index: usize,
) -> Option<Vec<(u32, Group)>> {
    let (mut groups, mut contributions) = (Groups::default(), Vec::new());
    let mut programs = ResolvedPrograms::of(plan, control_offset, batch);
    programs.contributions_of(batch, index, plan, &mut groups, &mut contributions).ok()?;
    let group_of = |taken: &Contribution| (taken.program, groups.group(taken.group).clone());
    Some(contributions.iter().map(group_of).collect())
}

impl Recount {
    /// A recount of a meter; `program` has the filters and the groups that are asked for.
    pub fn new(program: MeterProgram) -> Self {
        Self {
            plan: MeteringPlan { programs: vec![program], ..MeteringPlan::default() },
            groups: Groups::default(),
            cells: CellStore::default(),
            cell_count: 0,
            text_bytes: 0,
            contributions: Vec::new(),
        }
    }

    /// Opens a batch; `None` if the meter takes nothing of its type, or did not exist at the barrier before it.
    pub fn open(&self, batch: &UsageBatch<'_>, control_offset: u64) -> Option<OpenBatch> {
        let program = &self.plan.programs[0];
        let is_taken =
            *program.event_type == *batch.event_type() && program.since_control_offset <= control_offset;
        is_taken.then(|| OpenBatch(ResolvedPrograms::of(&self.plan, control_offset, batch)))
    }

    /// What the meter takes of an event; `None` if its filters leave it out or it cannot take it, so that no shard
    /// accepted it.
    pub fn share_of(&mut self, open: &mut OpenBatch, batch: &UsageBatch<'_>, index: usize) -> Option<Share> {
        let taken =
            open.0.contributions_of(batch, index, &self.plan, &mut self.groups, &mut self.contributions);
        taken.ok()?;
        self.contributions.first().map(|contribution| Share(*contribution))
    }

    /// The dimensions that the meter groups by.
    pub fn group_names(&self) -> &[Arc<str>] {
        &self.plan.programs[0].group_by
    }

    /// The group that a share counts in.
    pub fn group_of(&self, share: Share) -> &Group {
        self.groups.group(share.0.group)
    }

    /// Counts an event.
    pub fn add(&mut self, identity: u128, position: EventPosition, place: Place, share: Share) {
        let Share(Contribution { program, group, class, value }) = share;
        let key = CellKey { subject: place.label, program, group, slice_from: place.slice_from };
        if self.cells.add(key, class, identity, Item { time: place.time, position, value }).is_some() {
            self.cell_count += 1;
            let texts = self.groups.group(group).iter().flatten();
            self.text_bytes += texts.map(|text| text.len()).sum::<usize>();
        }
    }

    /// Cells so far.
    pub fn cell_count(&self) -> usize {
        self.cell_count
    }

    /// Bytes of the texts of all cells so far.
    pub fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    /// Groups seen so far, of events that count and others.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// The cells, in no order.
    pub fn finish(mut self) -> Vec<RecountedCell> {
        let cells = self.cells.take_changed().into_iter();
        let cell_of = |(key, value): (CellKey, CellValue)| RecountedCell {
            label: key.subject,
            slice_from: key.slice_from,
            group: self.groups.group(key.group).clone(),
            value,
        };
        cells.map(cell_of).collect()
    }
}
