//! A shard: the state machine that decides about every event of its slots and folds the accepted ones into cells.
//!
//! Owns: dedup index, pending events, cells and counters of its slots.
//! Leaves to others: the log, threads and durability (`server`), merging cells and what they cost (`machine`).
//!
//! States and calling order:
//! - `handle_batch` for every usage batch in log order, `handle_barrier` for every barrier in between.
//! - If a barrier answers with subjects to fold again, `refold_batch` for every batch before that barrier, in log
//!   order, then `finish_refold`; nothing else in between.
//! - Around a barrier that brings corrections: see `corrections`.
//! - `take_reports` at a barrier that a cut names.
//! - `poll_run_job` behind every batch, until it gives nothing; what it gives is done beside the shard, and comes back by
//!   `handle_run_done`. No batch while `must_wait_for_runs`. What a shard keeps of single events goes beside it, too: see `spill`.
//!
//! Invariants:
//! - A verdict depends only on the event, the history of its id, and the control state of the last barrier; never on
//!   the number of shards, a clock, or the iteration order of a map.
//! - The first event with an identity counts, as long as the identity is remembered; an event is atomic over its meters.
//! - A cell equals the fold of the accepted events of its slice; slices of one subject do not overlap.

mod batch;
pub mod cell;
mod cells;
mod corrections;
mod counters;
mod dedup;
mod difference;
mod fold;
mod forgetting;
mod groups;
pub mod kept;
mod listed;
mod numbered;
mod pending;
pub mod recount;
pub mod sequence;
mod sequenced;
mod snapshot;
pub mod spill;
mod subjects;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::plan::MeteringPlan;
use domain::{EventPosition, Span, Subject, Timestamp};
use wire::verdict::{QuarantineReason, Verdict};

pub use self::batch::verdict_of_again;
use self::cell::CellReport;
pub use self::cells::SavedCell;
use self::cells::{CellKey, CellStore, Staged};
use self::corrections::Corrections;
pub use self::corrections::{ArrivedAs, Change, Correction, EventStanding, FoundEvent};
pub use self::counters::SourceCounters;
pub use self::dedup::Retired;
pub(crate) use self::dedup::runs::RunName;
pub use self::dedup::runs::{RunDone, RunError, RunFault, RunJob, RunLog, RunStore, RunWork};
#[doc(hidden)]
pub use self::dedup::runs::{synthesized, visit};
use self::dedup::{Dedup, Standing};
use self::fold::{Contribution, ResolvedPrograms};
use self::groups::Groups;
use self::kept::CellValue;
use self::pending::{PendingCounts, PendingEvent};
use self::sequence::Item;
use self::sequenced::Sequenced;
use self::snapshot::Saving;
pub use self::snapshot::ShardLoader;
use self::spill::SpillPool;
use self::subjects::{SubjectState, Subjects};
use crate::prepared::PreparedBatch;

/// An event that did not count, and why: quarantined, or in conflict with an earlier event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetAside {
    /// Where the event stands.
    pub position: EventPosition,
    /// Wire code of the verdict.
    pub verdict: u8,
    /// Its identity.
    pub identity: u128,
}

/// One shard of the engine.
pub struct Shard {
    index: usize,
    plan: Arc<MeteringPlan>,
    control_offset: u64,
    dedup: Dedup,
    sequenced: Sequenced,
    /// Offset of the last batch.
    offset: u64,
    subjects: Subjects,
    groups: Groups,
    cells: CellStore,
    pending: PendingCounts,
    counters: BTreeMap<Arc<str>, SourceCounters>,
    set_aside: Vec<SetAside>,
    corrections: Corrections,
    /// Events before what is remembered whose ids stay known: see `forgetting`.
    held: BTreeMap<u128, EventPosition>,
    refolding: BTreeSet<u32>,
    /// Events of subjects that are folded again that were pending before.
    refolding_pending: BTreeSet<EventPosition>,
    contributions: Vec<Contribution>,
    staged: Vec<Staged>,
    saving: Option<Saving>,
}

/// Which event, when, and where in the log.
#[derive(Clone, Copy)]
struct Stamp {
    identity: u128,
    time: Timestamp,
    position: EventPosition,
}

impl Shard {
    /// An empty shard: number `index`, under an empty plan.
    pub fn new(index: usize) -> Self {
        Self {
            index,
            plan: Arc::default(),
            control_offset: 0,
            dedup: Dedup::default(),
            sequenced: Sequenced::default(),
            offset: 0,
            subjects: Subjects::default(),
            groups: Groups::default(),
            cells: CellStore::default(),
            pending: PendingCounts::default(),
            counters: BTreeMap::new(),
            set_aside: Vec::new(),
            corrections: Corrections::default(),
            held: BTreeMap::new(),
            refolding: BTreeSet::new(),
            refolding_pending: BTreeSet::new(),
            contributions: Vec::new(),
            staged: Vec::new(),
            saving: None,
        }
    }

    /// Folds an event of a subject into its cells, or keeps it as pending while nobody owns the subject at its time.
    fn fold_or_keep(
        &mut self,
        subject: u32,
        source: &Arc<str>,
        stamp: Stamp,
        contributions: &[Contribution],
        is_limited: bool,
    ) -> Verdict {
        if let Some(slice) = self.subjects[subject].slice_of(stamp.time) {
            for contribution in contributions {
                self.fold_into_cell(subject, slice, stamp, contribution);
            }
            return Verdict::Accepted;
        }
        self.keep_pending(subject, source, stamp, contributions, is_limited)
    }

    fn keep_pending(
        &mut self,
        subject: u32,
        source: &Arc<str>,
        stamp: Stamp,
        contributions: &[Contribution],
        is_limited: bool,
    ) -> Verdict {
        let Stamp { identity, time, position } = stamp;
        let limit = if is_limited { self.plan.policy.pending_per_slot_max } else { u32::MAX };
        if !self.pending.try_keep(source, (identity, position), limit) {
            return Verdict::Quarantined(QuarantineReason::PendingFull);
        }
        if self.saving.as_ref().is_some_and(|saving| !saving.listed.is_new(position)) {
            self.keep_pending_for_snapshot(subject);
        }
        let contributions = contributions.to_vec();
        let event = PendingEvent { source: source.clone(), identity, time, position, contributions };
        self.subjects[subject].pending.push(event);
        Verdict::Pending
    }

    /// The pending events of a subject are about to change.
    fn keep_pending_for_snapshot(&mut self, subject: u32) {
        if let Some(saving) = &mut self.saving {
            saving.listed.keep_pending(subject, &self.subjects[subject].pending);
        }
    }

    fn fold_into_cell(&mut self, subject: u32, slice: Span, stamp: Stamp, contribution: &Contribution) {
        let Contribution { class, value, .. } = *contribution;
        let key = CellKey::new(subject, contribution, slice.from);
        let item = Item { time: stamp.time, position: stamp.position, value };
        if let Some(new) = self.cells.add(key, class, stamp.identity, item) {
            self.subjects[subject].cells.push(new);
        }
    }

    fn source(&mut self, source: &str) -> Arc<str> {
        match self.counters.get_key_value(source) {
            Some((source, _)) => source.clone(),
            None => {
                let source: Arc<str> = source.into();
                self.counters.insert(source.clone(), SourceCounters::default());
                source
            }
        }
    }

    #[cold]
    fn new_subject(&mut self, subject: &str) -> u32 {
        let subject = Subject::new(subject).expect("subjects that do not fit were refused at the edge");
        let plan = self.plan.subjects.get(&subject).cloned();
        self.subjects.add(subject, plan).expect("the subject is new")
    }

    /// Takes the control state of a barrier. Returns whether subjects must be folded again, because a new bound cuts
    /// a filled slice or an owner changed under it: then the caller feeds every earlier batch to `refold_batch`.
    #[must_use]
    pub fn handle_barrier(&mut self, control_offset: u64, plan: &Arc<MeteringPlan>) -> bool {
        assert!(self.refolding.is_empty(), "a refold is finished before the next barrier");
        assert!(control_offset >= self.control_offset, "barriers name the control log in order");
        self.control_offset = control_offset;
        let unfolded = self.corrections.take_unfolded();
        if Arc::ptr_eq(&self.plan, plan) {
            unfolded.into_iter().for_each(|number| self.start_refold(number));
            return !self.refolding.is_empty();
        }
        assert!(plan.programs.starts_with(&self.plan.programs), "programs are only ever appended");
        if plan.programs.len() > self.plan.programs.len() {
            self.corrections.on_new_meters(control_offset);
        }
        let before = std::mem::replace(&mut self.plan, plan.clone());
        self.forget(plan.forgotten.before);
        match &plan.changes {
            Some(changes) if changes.since == before.control_offset => {
                for subject in &changes.subjects {
                    if let Some(number) = self.subjects.find(self.subjects.wanted(subject.as_str())) {
                        self.take_subject_plan(number);
                    }
                }
            }
            _ => (0..self.subjects.len() as u32).for_each(|number| self.take_subject_plan(number)),
        }
        debug_assert!(
            self.subjects.iter().all(|state| state.plan() == plan.subjects.get(&state.subject)),
            "a plan says which subjects it changes"
        );
        for number in unfolded {
            if !self.refolding.contains(&number) {
                self.start_refold(number);
            }
        }
        !self.refolding.is_empty()
    }

    /// Subjects that a barrier with a plan would have folded again; nothing changes.
    pub fn folded_again_by(&self, plan: &MeteringPlan) -> Vec<Subject> {
        let find = |subject: &Subject| self.subjects.find(self.subjects.wanted(subject.as_str()));
        let changed: Vec<u32> = match &plan.changes {
            Some(changes) if changes.since == self.plan.control_offset => {
                changes.subjects.iter().filter_map(find).collect()
            }
            _ => (0..self.subjects.len() as u32).collect(),
        };
        let is_cut = |state: &&SubjectState| {
            let plan = plan.subjects.get(&state.subject).map(|plan| &**plan);
            state.cells.iter().any(|cell| self.cells.is_cut_by(*cell, plan))
        };
        let states = changed.into_iter().map(|number| &self.subjects[number]);
        states.filter(is_cut).map(|state| state.subject.clone()).collect()
    }

    fn take_subject_plan(&mut self, number: u32) {
        let state = &mut self.subjects[number];
        let plan = self.plan.subjects.get(&state.subject);
        if plan == state.plan() {
            return;
        }
        state.set_plan(plan.cloned());
        let plan = plan.map(|plan| &**plan);
        let is_cut = state.cells.iter().any(|cell| self.cells.is_cut_by(*cell, plan));
        if is_cut {
            self.start_refold(number);
        } else {
            self.fold_pending(number);
        }
    }

    /// Empties the subject's cells and pending events; the log gives them back, cut by the new plan.
    fn start_refold(&mut self, number: u32) {
        self.refolding.insert(number);
        self.keep_pending_for_snapshot(number);
        let state = &mut self.subjects[number];
        for event in std::mem::take(&mut state.pending) {
            self.pending.release(&event);
            self.refolding_pending.insert(event.position);
        }
        for cell in &state.cells {
            self.cells.clear(*cell);
        }
    }

    /// Folds the pending events that the plan has an owner for.
    fn fold_pending(&mut self, number: u32) {
        self.keep_pending_for_snapshot(number);
        let pending = std::mem::take(&mut self.subjects[number].pending);
        for event in pending {
            self.pending.release(&event);
            let stamp = Stamp { identity: event.identity, time: event.time, position: event.position };
            let verdict = self.fold_or_keep(number, &event.source, stamp, &event.contributions, false);
            self.count_again(&event.source, stamp, true, verdict);
        }
    }

    /// Counts an accepted event that was pending or metered as what it is now.
    fn count_again(&mut self, source: &Arc<str>, stamp: Stamp, was_pending: bool, verdict: Verdict) {
        let standing = if verdict == Verdict::Accepted { Standing::Metered } else { Standing::Pending };
        if self.corrections.has(stamp.position) {
            self.keep_corrected_for_snapshot(stamp.position);
        }
        if let Some(corrected) = self.corrections.standing_mut(stamp.position) {
            *corrected = standing;
        } else if let Some(before) = self.sequenced.set_standing(stamp.position, standing)
            && let Some(saving) = &mut self.saving
        {
            saving.moved.entry(stamp.position).or_insert(before);
        }
        let counters = self.counters.get_mut(source).expect("an accepted event has a counted source");
        let before = if was_pending { &mut counters.pending } else { &mut counters.metered };
        *before -= 1;
        counters.count(verdict);
    }

    /// Number of the shard.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Subjects that the last barrier named to be folded again.
    pub fn refolding(&self) -> impl Iterator<Item = &Subject> {
        self.refolding.iter().map(|number| &self.subjects[*number].subject)
    }

    /// Folds again the events of a batch whose subjects the last barrier named. `control_offset` is that of the
    /// barrier before the batch: meters that came later do not take its events.
    ///
    /// # Errors
    /// [`RunError`]: remembered ids cannot be read; the shard is of no use any more.
    pub fn refold_batch(&mut self, prepared: &PreparedBatch, control_offset: u64) -> Result<(), RunError> {
        let batch = prepared.view();
        let entries: Vec<Option<u32>> = (0..batch.subject_count())
            .map(|entry| self.subjects.find(self.subjects.wanted(batch.subject(entry))))
            .map(|number| number.filter(|number| self.refolding.contains(number)))
            .collect();
        if entries.iter().all(Option::is_none) {
            return Ok(());
        }
        let source = self.source(batch.source());
        let plan = self.plan.clone();
        let mut programs = ResolvedPrograms::of(&plan, control_offset, &batch);
        for &index in prepared.events_of_shard(self.index) {
            let Some(subject) = entries[batch.subject_index(usize::from(index))] else { continue };
            let (identity, position) = (prepared.identity(index), prepared.position(index));
            if self.corrections.has(position) || !self.counts(identity, position)? {
                continue;
            }
            let mut contributions = std::mem::take(&mut self.contributions);
            programs
                .contributions_of(&batch, usize::from(index), &plan, &mut self.groups, &mut contributions)
                .expect("an accepted event was taken by all its meters");
            let time = Timestamp::from_nanoseconds(batch.time(usize::from(index)));
            let stamp = Stamp { identity, time, position };
            let verdict = self.fold_or_keep(subject, &source, stamp, &contributions, false);
            self.contributions = contributions;
            let was_pending = self.refolding_pending.remove(&position);
            self.count_again(&source, stamp, was_pending, verdict);
        }
        Ok(())
    }

    /// Ends a refold: every batch before the barrier was given to `refold_batch`.
    pub fn finish_refold(&mut self) {
        self.refold_corrected();
        assert!(self.refolding_pending.is_empty(), "what was pending was folded again");
        self.refolding.clear();
    }

    /// Hands over the cells that changed since the last call.
    pub fn take_reports(&mut self) -> Vec<CellReport> {
        assert!(self.refolding.is_empty(), "a refold is finished before cells are reported");
        let changed = self.cells.take_changed();
        let report_of = |(key, value): (CellKey, CellValue)| CellReport {
            subject: self.subjects[key.subject].subject.clone(),
            program: key.program,
            group: self.groups.group(key.group).clone(),
            slice_from: key.slice_from,
            value,
        };
        changed.into_iter().map(report_of).collect()
    }

    /// Whether an event counted as it arrived: the first with its identity, and accepted by all its meters.
    ///
    /// # Errors
    /// [`RunError`]: remembered ids cannot be read.
    pub fn counts(&self, identity: u128, position: EventPosition) -> Result<bool, RunError> {
        let standing = match self.sequenced.standing_at(position) {
            Some(standing) => Some(standing),
            None => self.dedup.find_at(identity, position)?.map(|seen| seen.standing),
        };
        Ok(matches!(standing, Some(Standing::Metered | Standing::Pending)))
    }

    /// Sets how many ids the shard remembers in memory before it wants them written to a run.
    pub fn set_table_entries_max(&mut self, entries: usize) {
        self.dedup.set_table_entries_max(entries);
    }

    /// Sequences go to a pool from now on when memory has no room for them.
    pub fn set_spill_pool(&mut self, pool: Arc<SpillPool>) {
        self.cells.set_pool(pool);
    }

    /// What is to be done for the remembered ids, beside the shard and in the order of the answers.
    pub fn poll_run_job(&mut self) -> Option<RunJob> {
        let (job, full) = self.dedup.poll_run_job(self.index as u32)?;
        if let (Some(full), Some(saving)) = (full, &mut self.saving) {
            saving.keep_table(full);
        }
        Some(job)
    }

    /// Takes the outcome of a job; gives what it is in place of.
    pub fn handle_run_done(&mut self, done: RunDone) -> Retired {
        self.dedup.handle_run_done(done)
    }

    /// Whether no batch can be taken before the outcome of a job. Only behind `poll_run_job`.
    pub fn must_wait_for_runs(&self) -> bool {
        self.dedup.is_full()
    }

    /// Counters per source, in order of the sources.
    pub fn counters(&self) -> &BTreeMap<Arc<str>, SourceCounters> {
        &self.counters
    }

    /// Events that did not count, in log order: quarantined ones and conflicts.
    pub fn set_aside(&self) -> &[SetAside] {
        &self.set_aside
    }

    /// Runs on disk that the dedup index looks into.
    pub fn runs(&self) -> usize {
        self.dedup.run_names().filter(|(_, is_past)| !is_past).count()
    }

    /// Events that are remembered by their ids.
    pub fn remembered(&self) -> u64 {
        self.dedup.len() + self.sequenced.remembered() as u64
    }
}

#[cfg(test)]
mod tests;
