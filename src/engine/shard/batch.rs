//! A batch on its way through a shard: judged event by event, in groups that load together what they will read.
//!
//! Owns: the verdict of an event that arrives. Leaves to others: what a batch brings to a cell (`super::fold`), cells
//! (`super::cells`), what is remembered (`super::dedup`).
//!
//! The memory of a shard is larger than any cache, and a new event reads four places of it: its identity, its subject,
//! its cell, and the index of each. So a group of events is judged in passes: touch, judge, fold. Folding waits until a
//! group is judged, because no verdict depends on a cell. Runs on disk are asked for the whole batch before its first group.
//!
//! Invariants: an event is judged after all events before it, those of its group included; when `handle_batch` is done,
//! every accepted event is in its cells. Of a repeat, counters and lists say that it is one; its sender is told so only if
//! the first event is not set aside.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use domain::{EventPosition, Timestamp};
use wire::usage::UsageBatch;
use wire::verdict::{QuarantineReason, Verdict};

use super::cells::{CellKey, Staged};
use super::counters::SourceCounters;
use super::dedup::runs::RunError;
use super::dedup::{Lookup, Seen, Standing};
use super::fold::ResolvedPrograms;
use super::numbered::TOGETHER;
use super::sequence::Item;
use super::sequenced::is_compared;
use super::subjects::Wanted;
use super::{SetAside, Shard, Stamp};
use crate::prepared::{Content, PreparedBatch, SequencedIds};

/// Events of a group: what they read fits the first cache, and keeps the memory busy.
const GROUP: usize = 64;

const _: () = assert!(GROUP <= 64 && GROUP <= TOGETHER, "there is a bit for each, and room to touch them");

/// The batch and what the shard found out about it.
struct Reading<'a> {
    prepared: &'a PreparedBatch,
    batch: &'a UsageBatch<'a>,
    source: &'a Arc<str>,
    programs: ResolvedPrograms,
    /// Number of each entry of the dictionary of subjects, as far as it is known.
    subjects: Vec<Entry>,
    wanted: Vec<(usize, Wanted<'a>)>,
    /// If a client minted the ids.
    sequenced: Option<ReadingSequenced<'a>>,
}

/// Sequenced ids of a batch, and what is known of them before the first event is judged: no number comes twice in it.
struct ReadingSequenced<'a> {
    ids: &'a SequencedIds,
    /// Ranges of indexes of events whose numbers are new; those that were passed are out.
    unseen: VecDeque<Range<u32>>,
    /// What became of the new ones.
    standings: Vec<(u16, Standing)>,
}

/// What is decided about an event.
#[derive(Clone, Copy)]
struct Decision {
    /// For counters and lists.
    verdict: Verdict,
    /// For its sender. That of a repeat of an event that is set aside is why that one is.
    told: Verdict,
}

impl From<Verdict> for Decision {
    #[inline]
    fn from(verdict: Verdict) -> Self {
        Self { verdict, told: verdict }
    }
}

/// An entry of the dictionary of subjects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    NotLookedUp,
    /// The shard has never had an event of it.
    New,
    Known(u32),
}

impl Shard {
    /// Decides about the shard's events of a batch; `verdicts` is told the verdict of each, as its sender gets it. Shard 0
    /// also counts the events that were refused at the edge.
    ///
    /// # Errors
    /// [`RunError`]: remembered ids cannot be read; the shard is of no use any more.
    pub fn handle_batch(
        &mut self,
        prepared: &PreparedBatch,
        verdicts: &mut dyn FnMut(u16, Verdict),
    ) -> Result<(), RunError> {
        assert!(self.refolding.is_empty(), "a refold is finished before the next batch");
        assert!(!self.must_wait_for_runs(), "a full table is written before there is more");
        self.offset = prepared.offset;
        match &mut self.saving {
            Some(saving) => saving.listed.on_batch(self.offset),
            None => self.sequenced.forget_contents(self.offset),
        }
        self.corrections.on_batch(prepared.offset);
        let batch = prepared.view();
        let source = self.source(batch.source());
        let mut counters = SourceCounters::default();
        if self.index == 0 {
            for refusal in prepared.refusals() {
                let verdict = Verdict::Rejected(refusal.code);
                counters.count(verdict);
                verdicts(refusal.index, verdict);
            }
        }
        let mut unseen = Vec::new();
        if let Some(ids) = prepared.sequenced() {
            let refused = prepared.refusals().iter().map(|refusal| refusal.index);
            self.sequenced.unseen(ids, refused, &mut unseen);
        }
        let own = prepared.events_of_shard(self.index);
        let mut reading = Reading {
            prepared,
            batch: &batch,
            source: &source,
            programs: ResolvedPrograms::of(&self.plan, self.control_offset, &batch),
            subjects: vec![Entry::NotLookedUp; batch.subject_count()],
            wanted: Vec::with_capacity(GROUP),
            sequenced: prepared.sequenced().map(|ids| ReadingSequenced {
                ids,
                unseen: unseen.iter().cloned().collect(),
                standings: Vec::with_capacity(own.len()),
            }),
        };
        // Runs are asked for the whole batch first, so that the disk is at work for all of it.
        let mut in_runs = Vec::new();
        if reading.sequenced.is_none() && self.dedup.has_runs() {
            let ask =
                |group: &[u16]| self.dedup.ask_runs(group.iter().map(|index| prepared.identity(*index)));
            in_runs.extend(own.chunks(GROUP).map(ask));
        }
        for (group, indexes) in own.chunks(GROUP).enumerate() {
            if reading.sequenced.is_none() {
                self.dedup.touch(indexes.iter().map(|index| prepared.identity(*index)));
            }
            let in_runs = in_runs.get(group).copied().unwrap_or_default();
            self.look_up_subjects(indexes, &mut reading);
            for (bit, &index) in indexes.iter().enumerate() {
                let Decision { verdict, told } = self.decide(index, in_runs >> bit & 1 != 0, &mut reading)?;
                counters.count(verdict);
                verdicts(index, told);
                if matches!(verdict, Verdict::Quarantined(_) | Verdict::Conflict) {
                    self.set_aside.push(SetAside {
                        position: prepared.position(index),
                        verdict: verdict.code(),
                        identity: prepared.identity(index),
                    });
                }
            }
            self.fold_staged();
        }
        if let Some(ReadingSequenced { ids, standings, .. }) = reading.sequenced {
            self.sequenced.remember(ids, prepared.offset, &unseen, &standings);
        }
        self.counters.entry(source).or_default().merge(&counters);
        Ok(())
    }

    /// Finds the subjects of a group that no event of the batch had before.
    fn look_up_subjects(&self, indexes: &[u16], reading: &mut Reading<'_>) {
        let Reading { batch, subjects, wanted, .. } = reading;
        wanted.clear();
        for index in indexes {
            let entry = batch.subject_index(usize::from(*index));
            if subjects[entry] == Entry::NotLookedUp {
                subjects[entry] = Entry::New;
                wanted.push((entry, self.subjects.wanted(batch.subject(entry))));
            }
        }
        self.subjects.touch(wanted.iter().map(|(_, wanted)| *wanted));
        for (entry, wanted) in wanted {
            if let Some(number) = self.subjects.find(*wanted) {
                subjects[*entry] = Entry::Known(number);
            }
        }
    }

    #[inline]
    fn decide(&mut self, index: u16, in_runs: bool, reading: &mut Reading<'_>) -> Result<Decision, RunError> {
        if reading.sequenced.is_some() {
            return Ok(self.decide_sequenced(index, reading));
        }
        let prepared = reading.prepared;
        let (identity, payload_digest) = (prepared.identity(index), prepared.payload_digest(index));
        let time = reading.batch.time(usize::from(index));
        let vacant = match self.look_up(identity, in_runs)? {
            Lookup::Unknown(vacant) => vacant,
            Lookup::Known(seen) => {
                let before = Content { payload_digest: seen.payload_digest, time: seen.time };
                let verdict = verdict_of_repeat(before, Content { payload_digest, time });
                return Ok(self.decide_repeat(verdict, seen.position, seen.standing));
            }
        };
        let verdict = self.decide_new(index, reading);
        let position = prepared.position(index);
        self.dedup.insert(vacant, Seen { payload_digest, position, time, standing: standing_of(verdict) });
        Ok(verdict.into())
    }

    #[inline]
    fn decide_sequenced(&mut self, index: u16, reading: &mut Reading<'_>) -> Decision {
        let sequenced = reading.sequenced.as_mut().expect("the batch has sequenced ids");
        // A shard may have no event in some of the ranges.
        while sequenced.unseen.pop_front_if(|passed| passed.end <= u32::from(index)).is_some() {}
        if sequenced.unseen.front().is_none_or(|next| u32::from(index) < next.start) {
            let ids = sequenced.ids;
            let number = ids.first + u64::from(index);
            let arrived = self.sequenced.find(ids.run, number, reading.prepared.offset);
            let arrived = arrived.expect("a number that is not new arrived before");
            // Too far behind to be compared: the id tells that it is the same.
            let now = ids.contents[usize::from(index)];
            let verdict = arrived.content.map_or(Verdict::Duplicate, |before| verdict_of_repeat(before, now));
            return self.decide_repeat(verdict, arrived.position, arrived.standing);
        }
        let verdict = self.decide_new(index, reading);
        let sequenced = reading.sequenced.as_mut().expect("the batch has sequenced ids");
        sequenced.standings.push((index, standing_of(verdict)));
        verdict.into()
    }

    /// A repeat of an event that is set aside counts as little as that one does: its sender learns why.
    #[inline]
    fn decide_repeat(&self, verdict: Verdict, first: EventPosition, arrived_as: Standing) -> Decision {
        let may_be_set_aside = arrived_as == Standing::Quarantined || self.corrections.has(first);
        if !may_be_set_aside || verdict == Verdict::Conflict {
            return verdict.into();
        }
        let told = self.quarantined_at(first).map_or(verdict, |(_, reason)| Verdict::Quarantined(reason));
        Decision { verdict, told }
    }

    #[inline]
    fn decide_new(&mut self, index: u16, reading: &mut Reading<'_>) -> Verdict {
        let prepared = reading.prepared;
        let event = usize::from(index);
        let time = Timestamp::from_nanoseconds(reading.batch.time(event));
        let policy = &self.plan.policy;
        let is_proven = reading.sequenced.is_some() || time >= self.plan.forgotten.proven_from;
        if time < prepared.received_at.plus(-policy.horizon) || !is_proven {
            return Verdict::Quarantined(QuarantineReason::TooOld);
        }
        if time > prepared.received_at.plus(policy.future_max) {
            return Verdict::Quarantined(QuarantineReason::Future);
        }
        let mut contributions = std::mem::take(&mut self.contributions);
        let taken = reading.programs.contributions_of(
            reading.batch,
            event,
            &self.plan,
            &mut self.groups,
            &mut contributions,
        );
        let verdict = match taken {
            Err(reason) => Verdict::Quarantined(reason),
            Ok(()) if contributions.is_empty() => Verdict::Unmetered,
            Ok(()) => {
                let subject = self.subject_of(event, reading);
                let position = prepared.position(index);
                let identity = prepared.identity(index);
                match self.subjects[subject].slice_of(time) {
                    Some(slice) => {
                        for contribution in &contributions {
                            let key = CellKey::new(subject, contribution, slice.from);
                            let item = Item { time, position, value: contribution.value };
                            self.staged.push(Staged::new(key, contribution.class, identity, item));
                        }
                        Verdict::Accepted
                    }
                    None => {
                        let stamp = Stamp { identity, time, position };
                        self.keep_pending(subject, reading.source, stamp, &contributions, true)
                    }
                }
            }
        };
        self.contributions = contributions;
        verdict
    }

    /// Number of the subject of an event.
    #[inline]
    fn subject_of(&mut self, event: usize, reading: &mut Reading<'_>) -> u32 {
        let entry = reading.batch.subject_index(event);
        match reading.subjects[entry] {
            Entry::Known(number) => number,
            _ => {
                let number = self.new_subject(reading.batch.subject(entry));
                reading.subjects[entry] = Entry::Known(number);
                number
            }
        }
    }

    /// Folds the accepted events of a group.
    fn fold_staged(&mut self) {
        let subjects = &mut self.subjects;
        self.cells.add_all(&self.staged, |subject, cell| subjects[subject].cells.push(cell));
        self.staged.clear();
    }
}

/// What counters have for an event of a batch whose id came first as an event of another one, or of the same.
pub fn verdict_of_again(
    (first, first_index): (&PreparedBatch, u16),
    (again, again_index): (&PreparedBatch, u16),
) -> Verdict {
    let content = |batch: &PreparedBatch, index: u16| Content {
        payload_digest: batch.payload_digest(index),
        time: batch.view().time(usize::from(index)),
    };
    let is_numbered = first.sequenced().is_some();
    if is_numbered && !is_compared(first.position(first_index), again.offset) {
        return Verdict::Duplicate;
    }
    verdict_of_repeat(content(first, first_index), content(again, again_index))
}

/// The verdict of an event whose id came before.
#[inline]
fn verdict_of_repeat(before: Content, now: Content) -> Verdict {
    match (before.payload_digest == now.payload_digest, before.time == now.time) {
        (false, _) => Verdict::Conflict,
        (true, false) => Verdict::DuplicateRestamped,
        (true, true) => Verdict::Duplicate,
    }
}

/// What becomes of a new event with a verdict.
#[inline]
fn standing_of(verdict: Verdict) -> Standing {
    match verdict {
        Verdict::Unmetered => Standing::Unmetered,
        Verdict::Accepted => Standing::Metered,
        Verdict::Pending => Standing::Pending,
        _ => Standing::Quarantined,
    }
}
