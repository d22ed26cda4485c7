//! Corrections of single events: one that is taken back, counts with other content, or is judged again.
//!
//! Owns: what counts instead of a corrected event, beside the dedup index, which keeps what arrived.
//! Leaves to others: whether a person may correct an event (`machine`), reading batches again (the caller).
//!
//! Calling order, at a barrier that brings corrections: `start_corrections`, `retract_batch` for every batch that it
//! asks for, `handle_barrier` with its refold, `finish_corrections`. What an event did is taken away under the plan that
//! it was done under; what counts instead is judged under the new one.
//!
//! | correction | what counts from the barrier on | counted as |
//! |---|---|---|
//! | taken back | nothing | voided |
//! | restated | the content that the correction brings, by the meters that it names | its new verdict |
//!
//! Neither age nor how many events wait for an owner is judged again: a person did. Of several corrections of one event
//! at one barrier the last one counts.
//!
//! Invariants: an event stands once, in a cell, among the pending ones, set aside, or nowhere; its id stays known, and
//! whatever comes with it later is a duplicate of, or in conflict with, what arrived first; whose duplicate it is says
//! whether its sender hears that it is set aside.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::plan::CellClass;
use domain::{EventPosition, Timestamp};
use wire::verdict::{QuarantineReason, Verdict};

use super::cells::CellKey;
use super::dedup::runs::RunError;
use super::dedup::{Lookup, Seen, Standing};
use super::difference::Renumbered;
use super::fold::{Contribution, ResolvedPrograms};
use super::kept::{class_of, code_of};
use super::{SetAside, Shard, Stamp};
use crate::identity::EventName;
use crate::prepared::PreparedBatch;
use crate::snapshot::codec::{FieldReader, Fields};

/// A correction of one event.
#[derive(Clone)]
pub struct Correction {
    /// Source of the event.
    pub source: Arc<str>,
    /// The event.
    pub event: EventName,
    /// Where it is in the usage log.
    pub position: EventPosition,
    /// What becomes of it.
    pub change: Change,
}

/// What becomes of a corrected event.
#[derive(Clone)]
pub enum Change {
    /// It counts no more.
    TakeBack,
    /// Other content counts in its place, or its own is judged again.
    Restate {
        /// A batch of one event with the content.
        content: PreparedBatch,
        /// The meters that existed at this control offset take it.
        meters_at: u64,
    },
}

/// Where an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventStanding {
    /// In a cell.
    Metered,
    /// Accepted, but no meter takes it.
    Unmetered,
    /// Waiting for an owner.
    Pending,
    /// Set aside.
    Quarantined(QuarantineReason),
    /// Taken back.
    Voided,
}

impl EventStanding {
    /// The word in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            EventStanding::Metered => "metered",
            EventStanding::Unmetered => "unmetered",
            EventStanding::Pending => "pending",
            EventStanding::Quarantined(_) => "quarantined",
            EventStanding::Voided => "voided",
        }
    }
}

/// An event that a shard knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundEvent {
    /// Where the first event with the id is in the usage log.
    pub position: EventPosition,
    /// What became of it.
    pub standing: EventStanding,
    /// What became of it when it arrived, before any correction.
    pub arrived_as: ArrivedAs,
    /// The meters that existed at this control offset were known when it arrived.
    pub meters_at: u64,
    /// Of an event that was set aside: an earlier event with its id, forgotten when this one came, that counts.
    pub counted_before: Option<EventPosition>,
}

/// What became of an event when it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrivedAs {
    /// Accepted, and taken by a meter.
    Accepted,
    /// Accepted, but no meter took it.
    Unmetered,
    /// Set aside.
    Quarantined,
}

/// What counts instead of the events that were corrected.
#[derive(Default)]
pub(crate) struct Corrections {
    /// By where the event arrived: an id that was forgotten may have come again, as another event.
    corrected: BTreeMap<EventPosition, Corrected>,
    /// The corrections of the barrier that is being passed, in the order of the last one of each event.
    open: Vec<Open>,
    meters: MetersByOffset,
    /// Subjects that lost an event that cannot be subtracted.
    unfolded: BTreeSet<u32>,
}

/// What counts instead of one event.
pub(super) struct Corrected {
    source: Arc<str>,
    identity: u128,
    stands: Stands,
}

enum Stands {
    Voided,
    Unmetered,
    Quarantined(QuarantineReason),
    /// Metered or pending.
    Counted(Counted),
}

impl Stands {
    fn is_same(&self, other: &Stands, renumbered: &Renumbered) -> bool {
        match (self, other) {
            (Stands::Voided, Stands::Voided) | (Stands::Unmetered, Stands::Unmetered) => true,
            (Stands::Quarantined(mine), Stands::Quarantined(theirs)) => mine == theirs,
            (Stands::Counted(mine), Stands::Counted(theirs)) => {
                (mine.time, mine.standing) == (theirs.time, theirs.standing)
                    && renumbered.is_subject(mine.subject, theirs.subject)
                    && renumbered.are_contributions(&mine.contributions, &theirs.contributions)
            }
            _ => false,
        }
    }
}

struct Counted {
    subject: u32,
    time: Timestamp,
    contributions: Vec<Contribution>,
    standing: Standing,
}

struct Open {
    source: Arc<str>,
    identity: u128,
    position: EventPosition,
    needs_batch: bool,
    change: Change,
}

/// Which meters usage met when it arrived: offsets of the first batches behind barriers that brought meters, and the
/// control offsets of those barriers.
#[derive(Default)]
struct MetersByOffset {
    batches: Vec<(u64, u64)>,
    new: Option<u64>,
}

impl MetersByOffset {
    fn control_offset_at(&self, batch: u64) -> u64 {
        let after = self.batches.partition_point(|(first, _)| *first <= batch);
        after.checked_sub(1).map_or(0, |index| self.batches[index].1)
    }
}

impl Corrections {
    /// Notes that a barrier brought meters.
    pub(crate) fn on_new_meters(&mut self, control_offset: u64) {
        self.meters.new = Some(control_offset);
    }

    /// Notes the batch that is next to be handled.
    #[inline]
    pub(crate) fn on_batch(&mut self, offset: u64) {
        if let Some(control_offset) = self.meters.new.take() {
            self.meters.batches.push((offset, control_offset));
        }
    }

    /// Subjects that are to be folded again because of what was taken away.
    pub(super) fn take_unfolded(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.unfolded)
    }

    /// Whether something else counts instead of the event that arrived.
    #[inline]
    pub(crate) fn has(&self, position: EventPosition) -> bool {
        !self.corrected.is_empty() && self.corrected.contains_key(&position)
    }

    /// Where a corrected event stands that is metered or pending.
    pub(crate) fn standing_mut(&mut self, position: EventPosition) -> Option<&mut Standing> {
        match &mut self.corrected.get_mut(&position)?.stands {
            Stands::Counted(counted) => Some(&mut counted.standing),
            _ => None,
        }
    }
}

/// What a snapshot saves of corrections.
impl Corrections {
    /// Corrected events from a position on.
    pub(super) fn corrected_from(
        &self,
        from: EventPosition,
    ) -> impl Iterator<Item = (EventPosition, &Corrected)> {
        self.corrected.range(from..).map(|(position, corrected)| (*position, corrected))
    }

    /// The first event for which another has something else that counts.
    pub(super) fn first_difference(
        &self,
        other: &Corrections,
        renumbered: &Renumbered,
    ) -> Option<EventPosition> {
        let is_same = |position: &EventPosition| {
            let (mine, theirs) = (self.corrected.get(position)?, other.corrected.get(position)?);
            let is_same = (&mine.source, mine.identity) == (&theirs.source, theirs.identity)
                && mine.stands.is_same(&theirs.stands, renumbered);
            is_same.then_some(())
        };
        let positions: BTreeSet<_> = self.corrected.keys().chain(other.corrected.keys()).collect();
        positions.into_iter().find(|position| is_same(position).is_none()).copied()
    }

    /// Whether usage met the same meters when it arrived.
    pub(super) fn has_meters_of(&self, other: &Corrections) -> bool {
        (&self.meters.batches, self.meters.new) == (&other.meters.batches, other.meters.new)
    }

    pub(super) fn save_meters(&self, fields: &mut Fields) {
        assert!(
            self.open.is_empty() && self.unfolded.is_empty(),
            "corrections are finished before a snapshot"
        );
        // Meters whose first batch is still to come stand behind every offset.
        let new = self.meters.new.map(|control_offset| (u64::MAX, control_offset));
        for (batch, control_offset) in self.meters.batches.iter().copied().chain(new) {
            fields.u64(batch).u64(control_offset);
        }
    }

    pub(super) fn load(&mut self, fields: &mut FieldReader<'_>) -> Option<()> {
        let (position, corrected) = Corrected::load(fields)?;
        self.corrected.insert(position, corrected).is_none().then_some(())
    }

    pub(super) fn load_meters(&mut self, fields: &mut FieldReader<'_>) -> Option<()> {
        match (fields.u64()?, fields.u64()?) {
            (u64::MAX, control_offset) => self.meters.new = Some(control_offset),
            meters => self.meters.batches.push(meters),
        }
        Some(())
    }

    /// Whether every subject, program and group that is named exists.
    pub(super) fn is_sound(&self, subjects: usize, programs: usize, groups: usize) -> bool {
        let is_sound = |counted: &Counted| {
            let exists =
                |taken: &Contribution| (taken.program as usize) < programs && (taken.group as usize) < groups;
            (counted.subject as usize) < subjects && counted.contributions.iter().all(exists)
        };
        self.corrected.values().all(|corrected| match &corrected.stands {
            Stands::Counted(counted) => is_sound(counted),
            _ => true,
        })
    }
}

impl Corrected {
    pub(super) fn save(&self, position: EventPosition, fields: &mut Fields) {
        fields.u128(self.identity).text(&self.source).u64(position.to_bits());
        match &self.stands {
            Stands::Voided => fields.u8(0),
            Stands::Unmetered => fields.u8(1),
            Stands::Quarantined(reason) => fields.u8(2).u8(reason.code()),
            Stands::Counted(Counted { subject, time, contributions, standing }) => {
                fields.u8(if *standing == Standing::Metered { 3 } else { 4 });
                fields.u32(*subject).i64(time.nanoseconds()).u32(contributions.len() as u32);
                for Contribution { program, group, class, value } in contributions {
                    fields.u32(*program).u32(*group).u8(code_of(*class)).i128(*value);
                }
                fields
            }
        };
    }

    fn load(fields: &mut FieldReader<'_>) -> Option<(EventPosition, Self)> {
        let (identity, source) = (fields.u128()?, fields.text()?.into());
        let position = EventPosition::from_bits(fields.u64()?);
        let stands = match fields.u8()? {
            0 => Stands::Voided,
            1 => Stands::Unmetered,
            2 => Stands::Quarantined(QuarantineReason::from_code(fields.u8()?)?),
            code => {
                let standing = if code == 3 { Standing::Metered } else { Standing::Pending };
                let (subject, time) = (fields.u32()?, Timestamp::from_nanoseconds(fields.i64()?));
                let mut contributions = Vec::new();
                for _ in 0..fields.u32()? {
                    let (program, group) = (fields.u32()?, fields.u32()?);
                    let (class, value) = (class_of(fields.u8()?)?, fields.i128()?);
                    contributions.push(Contribution { program, group, class, value });
                }
                Stands::Counted(Counted { subject, time, contributions, standing })
            }
        };
        Some((position, Corrected { source, identity, stands }))
    }
}

impl Shard {
    /// Where an event of the shard's stands; `None` if it never arrived.
    ///
    /// # Errors
    /// [`RunError`]: remembered ids cannot be read.
    pub fn find_event(&mut self, event: EventName) -> Result<Option<FoundEvent>, RunError> {
        let identity = event.identity;
        let Some((position, standing)) = self.arrived(event)? else { return Ok(None) };
        let arrived_as = match standing {
            Standing::Metered | Standing::Pending => ArrivedAs::Accepted,
            Standing::Unmetered => ArrivedAs::Unmetered,
            Standing::Quarantined => ArrivedAs::Quarantined,
        };
        let standing = match self.corrections.corrected.get(&position).map(|corrected| &corrected.stands) {
            Some(Stands::Voided) => EventStanding::Voided,
            Some(Stands::Unmetered) => EventStanding::Unmetered,
            Some(Stands::Quarantined(reason)) => EventStanding::Quarantined(*reason),
            Some(Stands::Counted(counted)) => of_standing(counted.standing),
            None => self
                .quarantined_at(position)
                .map_or_else(|| of_standing(standing), |(_, reason)| EventStanding::Quarantined(reason)),
        };
        let standing = match standing {
            // What arrived is remembered as it arrived; the lists say what waits now.
            EventStanding::Metered | EventStanding::Pending if self.pending.has(position) => {
                EventStanding::Pending
            }
            EventStanding::Pending => EventStanding::Metered,
            standing => standing,
        };
        let meters_at = self.corrections.meters.control_offset_at(position.offset());
        let is_set_aside = matches!(standing, EventStanding::Quarantined(_)) && event.minted.is_none();
        let counted_before = if is_set_aside { self.counted_before(identity, position)? } else { None };
        Ok(Some(FoundEvent { position, standing, arrived_as, meters_at, counted_before }))
    }

    /// The last event before a position that has the identity, was forgotten, and counts.
    fn counted_before(
        &self,
        identity: u128,
        position: EventPosition,
    ) -> Result<Option<EventPosition>, RunError> {
        let earlier =
            self.dedup.forgotten(identity)?.into_iter().rev().filter(|seen| seen.position < position);
        let counts = |seen: &Seen| match self.corrections.corrected.get(&seen.position) {
            Some(corrected) => matches!(corrected.stands, Stands::Unmetered | Stands::Counted(_)),
            None => seen.standing != Standing::Quarantined,
        };
        Ok(earlier.map(|seen| (counts(&seen), seen.position)).find(|(counts, _)| *counts).map(|(_, at)| at))
    }

    /// Corrected events in a stretch of the log: where each is, and its identity.
    pub(super) fn corrected_in(
        &self,
        positions: std::ops::Range<EventPosition>,
    ) -> impl Iterator<Item = (EventPosition, u128)> {
        self.corrections
            .corrected
            .range(positions)
            .map(|(position, corrected)| (*position, corrected.identity))
    }

    /// Whether the first event with an id arrived at a position.
    ///
    /// # Errors
    /// [`RunError`]: remembered ids cannot be read.
    pub fn knows(&self, event: EventName, position: EventPosition) -> Result<bool, RunError> {
        if let Some((run, number)) = event.minted {
            let arrived = self.sequenced.find(run, number, self.offset);
            return Ok(arrived.is_some_and(|arrived| arrived.position == position));
        }
        Ok(self.dedup.find_at(event.identity, position)?.is_some())
    }

    /// Where the event that an id names arrived, and what became of it then: the first since the id is remembered, or the
    /// last one that was forgotten.
    fn arrived(&mut self, event: EventName) -> Result<Option<(EventPosition, Standing)>, RunError> {
        if let Some((run, number)) = event.minted {
            let arrived = self.sequenced.find(run, number, self.offset);
            return Ok(arrived.map(|arrived| (arrived.position, arrived.standing)));
        }
        let seen = match self.look_up(event.identity, true)? {
            Lookup::Known(seen) => Some(seen),
            Lookup::Unknown(_) => self.dedup.forgotten(event.identity)?.pop(),
        };
        Ok(seen.map(|seen| (seen.position, seen.standing)))
    }

    /// Takes the corrections of the shard's events at the barrier that comes next. Gives the offsets of the batches that
    /// have to be read again, for `retract_batch`.
    ///
    /// # Errors
    /// [`RunError`]: remembered ids cannot be read; the shard is of no use any more.
    pub fn start_corrections(&mut self, corrections: &[Correction]) -> Result<BTreeSet<u64>, RunError> {
        assert!(self.corrections.open.is_empty(), "corrections are finished before the next ones start");
        for correction in corrections {
            self.open_correction(correction)?;
        }
        let mut open = std::mem::take(&mut self.corrections.open);
        let mut wanted = BTreeSet::new();
        for open in &mut open {
            self.keep_corrected_for_snapshot(open.position);
            if let Some(corrected) = self.corrections.corrected.remove(&open.position) {
                self.retract_corrected(open.position, corrected);
            } else if let Some((index, reason)) = self.quarantined_at(open.position) {
                self.remove_set_aside(index);
                self.counters_of(&open.source).uncount(Verdict::Quarantined(reason));
            } else {
                open.needs_batch = true;
                wanted.insert(open.position.offset());
            }
            // Until the corrections count, nothing does: a refold passes over the event.
            let nothing =
                Corrected { source: open.source.clone(), identity: open.identity, stands: Stands::Voided };
            self.corrections.corrected.insert(open.position, nothing);
            self.hold_if_forgotten(open.identity, open.position);
        }
        self.corrections.open = open;
        Ok(wanted)
    }

    fn open_correction(&mut self, correction: &Correction) -> Result<(), RunError> {
        let Correction { source, event, position, change } = correction;
        assert!(self.knows(*event, *position)?, "the caller knows where the event is");
        self.corrections.open.retain(|open| open.position != *position);
        self.corrections.open.push(Open {
            source: source.clone(),
            identity: event.identity,
            position: *position,
            needs_batch: false,
            change: change.clone(),
        });
        Ok(())
    }

    /// Takes away what the corrected events of a batch did.
    pub fn retract_batch(&mut self, prepared: &PreparedBatch) {
        let batch = prepared.view();
        let plan = self.plan.clone();
        let mut open = std::mem::take(&mut self.corrections.open);
        let of_batch =
            open.iter_mut().filter(|open| open.needs_batch && open.position.offset() == prepared.offset);
        for open in of_batch {
            open.needs_batch = false;
            let index = usize::from(open.position.index());
            let meters_at = self.corrections.meters.control_offset_at(prepared.offset);
            let mut programs = ResolvedPrograms::of(&plan, meters_at, &batch);
            let mut contributions = Vec::new();
            programs
                .contributions_of(&batch, index, &plan, &mut self.groups, &mut contributions)
                .expect("an event that is not set aside was taken by all its meters");
            if contributions.is_empty() {
                self.counters_of(&open.source).uncount(Verdict::Unmetered);
                continue;
            }
            let subject = self.subject_number(batch.subject(batch.subject_index(index)));
            let time = Timestamp::from_nanoseconds(batch.time(index));
            let stamp = Stamp { identity: open.identity, time, position: open.position };
            self.take_away(&open.source, subject, stamp, &contributions);
        }
        self.corrections.open = open;
    }

    fn retract_corrected(&mut self, position: EventPosition, corrected: Corrected) {
        let Corrected { source, identity, stands } = corrected;
        match stands {
            Stands::Voided => unreachable!("what was taken back is not corrected again"),
            Stands::Unmetered => self.counters_of(&source).uncount(Verdict::Unmetered),
            Stands::Quarantined(reason) => {
                let (index, _) = self.quarantined_at(position).expect("a quarantined event is listed");
                self.remove_set_aside(index);
                self.counters_of(&source).uncount(Verdict::Quarantined(reason));
            }
            Stands::Counted(Counted { subject, time, contributions, .. }) => {
                self.take_away(&source, subject, Stamp { identity, time, position }, &contributions);
            }
        }
    }

    /// Takes an event of a subject out of its cells, or from among the pending ones.
    fn take_away(&mut self, source: &Arc<str>, subject: u32, stamp: Stamp, contributions: &[Contribution]) {
        let Stamp { identity, time, position } = stamp;
        let Some(slice) = self.subjects[subject].slice_of(time) else {
            self.keep_pending_for_snapshot(subject);
            let state = &mut self.subjects[subject];
            let index = state.pending.iter().position(|event| event.position == position);
            let event = state.pending.remove(index.expect("an event without owner is pending"));
            self.pending.release(&event);
            self.counters_of(source).uncount(Verdict::Pending);
            return;
        };
        for contribution in contributions {
            if contribution.class != CellClass::Additive {
                // What is more than a sum is folded again without the event, at the barrier that comes.
                self.corrections.unfolded.insert(subject);
                continue;
            }
            let key = CellKey::new(subject, contribution, slice.from);
            self.cells.subtract(key, identity, contribution.value);
        }
        self.counters_of(source).uncount(Verdict::Accepted);
    }

    /// Lets the corrections count, under the plan of the barrier; everything is folded that the barrier asked for.
    pub fn finish_corrections(&mut self) {
        assert!(self.refolding.is_empty(), "a refold is finished before corrections count");
        for open in std::mem::take(&mut self.corrections.open) {
            assert!(!open.needs_batch, "every batch that was asked for was given");
            let stands = match &open.change {
                Change::TakeBack => {
                    self.counters_of(&open.source).voided += 1;
                    Stands::Voided
                }
                Change::Restate { content, meters_at } => self.restate(&open, content, *meters_at),
            };
            let Open { source, identity, position, .. } = open;
            self.corrections.corrected.insert(position, Corrected { source, identity, stands });
        }
    }

    /// Judges the content that counts from now on.
    fn restate(&mut self, open: &Open, content: &PreparedBatch, meters_at: u64) -> Stands {
        let batch = content.view();
        let plan = self.plan.clone();
        let mut programs = ResolvedPrograms::of(&plan, meters_at, &batch);
        let mut contributions = Vec::new();
        let taken = programs.contributions_of(&batch, 0, &plan, &mut self.groups, &mut contributions);
        let (subject, time) =
            (batch.subject(batch.subject_index(0)), Timestamp::from_nanoseconds(batch.time(0)));
        let verdict = match taken {
            Err(reason) => Verdict::Quarantined(reason),
            Ok(()) if contributions.is_empty() => Verdict::Unmetered,
            Ok(()) => {
                let subject = self.subject_number(subject);
                let stamp = Stamp { identity: open.identity, time, position: open.position };
                self.fold_or_keep(subject, &open.source, stamp, &contributions, false)
            }
        };
        self.counters_of(&open.source).count(verdict);
        let counted = |standing, shard: &mut Self| {
            Stands::Counted(Counted { subject: shard.subject_number(subject), time, contributions, standing })
        };
        match verdict {
            Verdict::Accepted => counted(Standing::Metered, self),
            Verdict::Pending => counted(Standing::Pending, self),
            Verdict::Unmetered => Stands::Unmetered,
            Verdict::Quarantined(reason) => {
                let at = self.set_aside.partition_point(|listed| listed.position < open.position);
                let (position, identity) = (open.position, open.identity);
                if let Some(saving) = &mut self.saving {
                    saving.listed.keep_set_aside(position, None);
                }
                self.set_aside.insert(at, SetAside { position, verdict: verdict.code(), identity });
                Stands::Quarantined(reason)
            }
            _ => unreachable!("content is judged by its meters and its owner alone"),
        }
    }

    /// Folds the corrected events of the subjects that are being folded again.
    pub(super) fn refold_corrected(&mut self) {
        let mut corrected = std::mem::take(&mut self.corrections.corrected);
        for (position, event) in &mut corrected {
            let Stands::Counted(Counted { subject, .. }) = &event.stands else { continue };
            if !self.refolding.contains(subject) {
                continue;
            }
            self.refolding_pending.remove(position);
            if let Some(saving) = &mut self.saving {
                saving.listed.keep_corrected(*position, Some(event));
            }
            let Corrected { source, identity, stands: Stands::Counted(counted) } = event else { continue };
            let Counted { subject, time, contributions, standing } = counted;
            let stamp = Stamp { identity: *identity, time: *time, position: *position };
            let verdict = self.fold_or_keep(*subject, source, stamp, contributions, false);
            self.counters_of(source).uncount(match standing {
                Standing::Metered => Verdict::Accepted,
                _ => Verdict::Pending,
            });
            self.counters_of(source).count(verdict);
            *standing = if verdict == Verdict::Accepted { Standing::Metered } else { Standing::Pending };
        }
        self.corrections.corrected = corrected;
    }

    /// Something else is about to count instead of an event.
    pub(super) fn keep_corrected_for_snapshot(&mut self, position: EventPosition) {
        if let Some(saving) = &mut self.saving {
            saving.listed.keep_corrected(position, self.corrections.corrected.get(&position));
        }
    }

    fn remove_set_aside(&mut self, index: usize) {
        if let Some(saving) = &mut self.saving {
            let listed = &self.set_aside[index];
            saving.listed.keep_set_aside(listed.position, Some(listed));
        }
        self.set_aside.remove(index);
    }

    /// Place in the list of what was set aside, and reason, of a quarantined event.
    pub(super) fn quarantined_at(&self, position: EventPosition) -> Option<(usize, QuarantineReason)> {
        let index = self.set_aside.binary_search_by_key(&position, |listed| listed.position).ok()?;
        match Verdict::from_code(self.set_aside[index].verdict) {
            Some(Verdict::Quarantined(reason)) => Some((index, reason)),
            _ => None,
        }
    }

    fn subject_number(&mut self, subject: &str) -> u32 {
        let known = self.subjects.find(self.subjects.wanted(subject));
        known.unwrap_or_else(|| self.new_subject(subject))
    }

    fn counters_of(&mut self, source: &Arc<str>) -> &mut super::SourceCounters {
        self.counters.get_mut(source).expect("a known event has a counted source")
    }
}

fn of_standing(standing: Standing) -> EventStanding {
    match standing {
        Standing::Metered => EventStanding::Metered,
        Standing::Pending => EventStanding::Pending,
        Standing::Unmetered => EventStanding::Unmetered,
        Standing::Quarantined => unreachable!("a quarantined event is listed as set aside"),
    }
}
