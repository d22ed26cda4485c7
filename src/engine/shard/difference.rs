//! What a shard from a snapshot says otherwise than one that read the logs.
//!
//! Owns: what two shards must have in common to decide alike from here on, and in which words the first difference is said.
//! Leaves to others: reading both (`machine::kept_files`), what a cell, a correction or a stretch of numbers is (their modules).
//!
//! Numbers of subjects, groups and cells are a shard's own: what they stand for is compared. Cells that hold nothing decide
//! nothing, and are passed over.
//!
//! Invariants: exact. Each entry of one shard is found in the other with all that is remembered of it, no two are the same one,
//! and there are as many.

use std::collections::{BTreeMap, BTreeSet};

use domain::EventPosition;

use super::cells::CellKey;
use super::dedup::runs::RunStore;
use super::dedup::{Memtable, Seen};
use super::fold::Contribution;
use super::pending::PendingEvent;
use super::{SetAside, Shard, ShardLoader};
use crate::identity::slot_of;
use crate::snapshot::{SectionKind, SnapshotError};

/// What the numbers of one shard are in another.
pub(super) struct Renumbered {
    subjects: Vec<Option<u32>>,
    groups: Vec<Option<u32>>,
}

impl Renumbered {
    fn subject(&self, number: u32) -> Option<u32> {
        self.subjects[number as usize]
    }

    fn group(&self, number: u32) -> Option<u32> {
        self.groups[number as usize]
    }

    /// Whether a subject is the same.
    pub(super) fn is_subject(&self, mine: u32, theirs: u32) -> bool {
        self.subject(theirs) == Some(mine)
    }

    /// Whether an event adds the same.
    pub(super) fn are_contributions(&self, mine: &[Contribution], theirs: &[Contribution]) -> bool {
        let renumbered =
            |taken: &Contribution| Some(Contribution { group: self.group(taken.group)?, ..*taken });
        mine.len() == theirs.len()
            && mine.iter().zip(theirs).all(|(mine, theirs)| renumbered(theirs) == Some(*mine))
    }
}

impl Shard {
    /// Compares with the shard that a snapshot of the last barrier and the runs that it names make.
    ///
    /// # Errors
    /// [`SnapshotError::MustSayWhatTheLogsSay`] with the first difference; or the snapshot or a run cannot be read.
    ///
    /// # Panics
    /// If this shard has runs.
    pub fn check_saved(&self, saved: ShardLoader, runs: &RunStore) -> Result<(), SnapshotError> {
        self.check_loaded(&saved.finish(self.control_offset, &self.plan)?, runs)
    }

    pub(super) fn check_loaded(&self, saved: &Shard, runs: &RunStore) -> Result<(), SnapshotError> {
        assert_eq!(self.index, saved.index, "shards of one number are compared");
        self.check_counters(saved)?;
        self.check_set_aside(saved)?;
        let renumbered = self.renumbered(saved);
        let corrected = self.corrections.first_difference(&saved.corrections, &renumbered);
        self.same(SectionKind::Corrections, corrected.map(event_at))?;
        let meters = (!self.corrections.has_meters_of(&saved.corrections)).then(|| "meters".to_string());
        self.same(SectionKind::Meters, meters)?;
        self.check_pending(saved, &renumbered)?;
        self.check_cells(saved, &renumbered)?;
        let sequenced = self.sequenced.first_difference(&saved.sequenced, self.offset);
        self.same(SectionKind::Sequenced, sequenced.map(event_at))?;
        self.check_remembered(saved, runs)
    }

    fn same(&self, kind: SectionKind, difference: Option<String>) -> Result<(), SnapshotError> {
        let shard = self.index as u16;
        let differs = |what| Err(SnapshotError::MustSayWhatTheLogsSay { kind, shard, what });
        difference.map_or(Ok(()), differs)
    }

    fn renumbered(&self, saved: &Shard) -> Renumbered {
        let subjects = saved.subjects.iter();
        let groups = 0..saved.groups.len() as u32;
        Renumbered {
            subjects: subjects
                .map(|state| self.subjects.find(self.subjects.wanted(state.subject.as_str())))
                .collect(),
            groups: groups.map(|number| self.groups.find(saved.groups.group(number))).collect(),
        }
    }

    fn check_counters(&self, saved: &Shard) -> Result<(), SnapshotError> {
        let sources: BTreeSet<_> = self.counters.keys().chain(saved.counters.keys()).collect();
        let mut sources = sources.into_iter();
        let differs = sources.find(|source| self.counters.get(*source) != saved.counters.get(*source));
        self.same(SectionKind::Counters, differs.map(|source| format!("source {source}")))
    }

    fn check_set_aside(&self, saved: &Shard) -> Result<(), SnapshotError> {
        let (mine, theirs) = (&self.set_aside, &saved.set_aside);
        let common = mine.iter().zip(theirs).take_while(|(mine, theirs)| mine == theirs).count();
        let next = |list: &[SetAside]| list.get(common).map(|listed| listed.position);
        let differs = [next(mine), next(theirs)].into_iter().flatten().min();
        self.same(SectionKind::SetAside, differs.map(event_at))?;
        let held: BTreeSet<_> = self.held.iter().chain(&saved.held).collect();
        let is_held = |shard: &Shard, (identity, position)| shard.held.get(identity) == Some(position);
        let differs = held.into_iter().find(|held| !is_held(self, *held) || !is_held(saved, *held));
        self.same(SectionKind::SetAside, differs.map(|(_, position)| event_at(*position)))
    }

    fn check_pending(&self, saved: &Shard, renumbered: &Renumbered) -> Result<(), SnapshotError> {
        let (mine, theirs) = (self.pending_by_position(), saved.pending_by_position());
        let is_same = |position: &EventPosition| {
            let ((subject, mine), (their_subject, theirs)) = (mine.get(position)?, theirs.get(position)?);
            let is_same = renumbered.is_subject(*subject, *their_subject)
                && (&mine.source, mine.identity, mine.time) == (&theirs.source, theirs.identity, theirs.time)
                && renumbered.are_contributions(&mine.contributions, &theirs.contributions);
            is_same.then_some(())
        };
        let positions: BTreeSet<_> = mine.keys().chain(theirs.keys()).collect();
        let differs = positions.into_iter().find(|position| is_same(position).is_none());
        self.same(SectionKind::Pending, differs.map(|position| event_at(*position)))
    }

    fn pending_by_position(&self) -> BTreeMap<EventPosition, (u32, &PendingEvent)> {
        let mut pending = BTreeMap::new();
        for (number, state) in (0..).zip(self.subjects.iter()) {
            pending.extend(state.pending.iter().map(|event| (event.position, (number, event))));
        }
        pending
    }

    fn check_cells(&self, saved: &Shard, renumbered: &Renumbered) -> Result<(), SnapshotError> {
        let mut found = 0;
        for (key, time_max, value) in saved.cells.filled() {
            let mine = || {
                let (subject, group) = (renumbered.subject(key.subject)?, renumbered.group(key.group)?);
                self.cells.find(CellKey { subject, group, ..key })
            };
            let is_same = match mine() {
                Some((my_time_max, mine)) if my_time_max == time_max => {
                    mine.is_same(value).map_err(SnapshotError::ItemsMustBeSpilled)?
                }
                _ => false,
            };
            self.same(SectionKind::Cells, (!is_same).then(|| saved.cell_named(key)))?;
            found += 1;
        }
        if found == self.cells.filled().count() {
            return Ok(());
        }
        let theirs = saved.renumbered(self);
        let is_missing = |key: &CellKey| {
            let (subject, group) = (theirs.subject(key.subject), theirs.group(key.group));
            let key = subject.zip(group).map(|(subject, group)| CellKey { subject, group, ..*key });
            key.and_then(|key| saved.cells.find(key)).is_none_or(|(_, value)| value.is_empty())
        };
        let missing = self.cells.filled().map(|(key, ..)| key).find(is_missing);
        self.same(SectionKind::Cells, missing.map(|key| self.cell_named(key)))
    }

    fn cell_named(&self, key: CellKey) -> String {
        let subject = &self.subjects[key.subject].subject;
        let meter = &self.plan.programs[key.program as usize].meter;
        format!("usage of subject {subject} by meter {meter} from {} on", key.slice_from)
    }

    fn check_remembered(&self, saved: &Shard, runs: &RunStore) -> Result<(), SnapshotError> {
        let (table, mut found) = (self.dedup.only_table(), Found::default());
        let mut first = None;
        let compare = &mut |identity, seen: Seen| {
            if first.is_none() && !found.is_new_of(table, identity, seen) {
                first = Some((identity, seen.position));
            }
        };
        saved
            .dedup
            .for_each_entry(self.index as u32, runs, compare)
            .map_err(SnapshotError::RunMustBeReadable)?;
        let missing = || (0..table.len()).find(|number| !found.has(*number)).map(|number| table.at(number));
        let differs = first.or_else(|| missing().map(|(identity, seen)| (identity, seen.position)));
        let named = |(identity, position)| format!("slot {}, {}", slot_of(identity), event_at(position));
        self.same(SectionKind::Dedup, differs.map(named))
    }
}

/// Which entries of a table were found.
#[derive(Default)]
struct Found(Vec<u64>);

impl Found {
    /// Whether the table has an entry, and it was not found before.
    fn is_new_of(&mut self, table: &Memtable, identity: u128, seen: Seen) -> bool {
        let Some(number) = table.find_number(identity, |position| position == seen.position) else {
            return false;
        };
        let (word, bit) = (number / 64, 1 << (number % 64));
        self.0.resize(table.len().div_ceil(64), 0);
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new && table.at(number).1 == seen
    }

    fn has(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word & 1 << (number % 64) != 0)
    }
}

fn event_at(position: EventPosition) -> String {
    format!("the event at {}", place(position))
}

fn place(position: EventPosition) -> String {
    format!("usage offset {}, index {}", position.offset(), position.index())
}
