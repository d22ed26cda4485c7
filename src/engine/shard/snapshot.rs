//! A shard's state as sections of a snapshot: saved between batches without stopping them, and loaded again.
//!
//! Owns: the order of saving, the fields of each section. Leaves to others: the file (`crate::snapshot`), keeping what a
//! cell held when the snapshot began (`super::cells`).
//!
//! Calling order: `begin_snapshot` at a barrier; then `poll_snapshot` between any two calls of the shard until it gives
//! nothing. Every section is of the moment of `begin_snapshot`, whatever happens meanwhile: what only grows is saved up
//! to where it was, what is small is saved at once, and lists that barriers change (`super::listed`) and cells are saved
//! before they change.
//!
//! Invariants: the shard that [`ShardLoader`] gives decides as the one that was saved; only which cells were reported is
//! not kept, so all of them are reported again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use domain::limits::{EVENT_TIME_END, EVENT_TIME_MIN};
use domain::plan::MeteringPlan;
use domain::{EventPosition, Subject, Timestamp};
use wire::verdict::QuarantineReason;

use super::cell::Group;
use super::counters::SourceCounters;
use super::dedup::runs::{Kept, RunStore};
use super::dedup::{Dedup, Memtable, Seen, Standing};
use super::fold::Contribution;
use super::kept::{class_of, code_of};
use super::listed::Listed;
use super::pending::PendingEvent;
use super::sequence::{load_position, save_position};
use super::spill::SpillPool;
use super::{RunName, SetAside, Shard};
use crate::snapshot::codec::{FieldReader, Fields};
use crate::snapshot::{Part, Section, SectionKind, SnapshotError, runs_in};

/// Bytes that a section has before the next one starts: what a batch waits for at most.
pub(super) const SECTION_BYTES: usize = if cfg!(test) { 512 } else { 128 << 10 };

/// How far a snapshot got.
pub(super) struct Saving {
    /// The list of runs; every shard gives it first, even if it is empty.
    runs: Option<Section>,
    pub(super) listed: Listed,
    subjects: std::ops::Range<usize>,
    groups: std::ops::Range<usize>,
    stretches: std::ops::Range<usize>,
    /// Offset of the last batch before the snapshot.
    offset: u64,
    /// How events with sequenced ids stood when the snapshot began that stand otherwise by now.
    pub(super) moved: BTreeMap<EventPosition, Standing>,
    /// Remembered ids of tables that are full, and which of them are left.
    full: VecDeque<(Arc<Memtable>, std::ops::Range<usize>)>,
    /// Remembered ids of the present table that are left.
    table: std::ops::Range<usize>,
    /// What was saved at once.
    ready: VecDeque<Section>,
}

impl Saving {
    /// The present table is full, and another takes its place.
    pub(super) fn keep_table(&mut self, full: Arc<Memtable>) {
        self.full.push_back((full, std::mem::take(&mut self.table)));
    }

    fn next_seen(&mut self, table: &Memtable) -> Option<(u128, Seen)> {
        while let Some((full, left)) = self.full.front_mut() {
            if let Some(number) = left.next() {
                return Some(full.at(number));
            }
            self.full.pop_front();
        }
        self.table.next().map(|number| table.at(number))
    }
}

impl Shard {
    /// Begins a snapshot of this moment. An unfinished one is given up.
    pub fn begin_snapshot(&mut self) {
        assert!(self.refolding.is_empty(), "a refold is finished before a snapshot begins");
        let mut ready = VecDeque::new();
        let mut fields = Fields::default();
        self.corrections.save_meters(&mut fields);
        end(&mut fields, SectionKind::Meters, &mut ready);
        self.save_counters(&mut fields);
        end(&mut fields, SectionKind::Counters, &mut ready);
        for (name, is_past) in self.dedup.run_names() {
            fields.u64(name.number).u32(name.header_crc).u8(u8::from(is_past));
        }
        let runs = Some(Section { kind: SectionKind::Runs, body: fields.take() });
        self.cells.begin_snapshot();
        let (full, table) = self.dedup.tables();
        self.saving = Some(Saving {
            runs,
            listed: Listed::all(self.subjects.len(), !self.pending.is_empty()),
            subjects: 0..self.subjects.len(),
            groups: 0..self.groups.len(),
            stretches: 0..self.sequenced.len(),
            offset: self.offset,
            moved: BTreeMap::new(),
            full: full.into_iter().map(|full| (full.clone(), 0..full.len())).collect(),
            table: 0..table,
            ready,
        });
    }

    /// Gives up a snapshot that nobody saves any more, and what was kept for it.
    pub fn give_up_snapshot(&mut self) {
        self.saving = None;
        self.cells.give_up_snapshot();
    }

    /// The next part of the snapshot; nothing once all were given.
    pub fn poll_snapshot(&mut self) -> Option<Part> {
        if let Some(section) = self.poll_section() {
            return Some(Part::Section(section));
        }
        if let Some(part) = self.cells.poll_snapshot() {
            return Some(part);
        }
        let next = self.saving.as_mut()?.ready.pop_front();
        if next.is_none() {
            self.saving = None;
        }
        next.map(Part::Section)
    }

    /// The next section of what only grows.
    fn poll_section(&mut self) -> Option<Section> {
        let saving = self.saving.as_mut()?;
        if let Some(runs) = saving.runs.take() {
            return Some(runs);
        }
        if let Some(section) = saving.listed.poll(&self.subjects, &self.corrections, &self.set_aside) {
            return Some(section);
        }
        let mut fields = Fields::default();
        while fields.len() < SECTION_BYTES
            && let Some(subject) = saving.subjects.next()
        {
            fields.text(self.subjects[subject as u32].subject.as_str());
        }
        if fields.len() > 0 {
            return Some(Section { kind: SectionKind::Subjects, body: fields.take() });
        }
        while fields.len() < SECTION_BYTES
            && let Some(group) = saving.groups.next()
        {
            save_group(self.groups.group(group as u32), &mut fields);
        }
        if fields.len() > 0 {
            return Some(Section { kind: SectionKind::Groups, body: fields.take() });
        }
        while fields.len() < SECTION_BYTES
            && let Some((identity, seen)) = saving.next_seen(self.dedup.table())
        {
            seen.save(identity, &mut fields);
        }
        if fields.len() > 0 {
            return Some(Section { kind: SectionKind::Dedup, body: fields.take() });
        }
        while fields.len() < SECTION_BYTES
            && let Some(number) = saving.stretches.next()
        {
            self.sequenced.save(number, saving.offset, &saving.moved, &mut fields);
        }
        (fields.len() > 0).then(|| Section { kind: SectionKind::Sequenced, body: fields.take() })
    }

    fn save_counters(&self, fields: &mut Fields) {
        for (source, counters) in &self.counters {
            fields.text(source);
            counters.numbers().into_iter().for_each(|number| {
                fields.u64(number);
            });
        }
    }
}

/// Ends a section, if it has anything.
fn end(fields: &mut Fields, kind: SectionKind, ready: &mut VecDeque<Section>) {
    if fields.len() > 0 {
        ready.push_back(Section { kind, body: fields.take() });
    }
}

fn save_group(group: &Group, fields: &mut Fields) {
    fields.u32(group.len() as u32); // at most METER_GROUP_BY_MAX
    for text in group.iter() {
        fields.u8(u8::from(text.is_some()));
        if let Some(text) = text {
            fields.text(text);
        }
    }
}

/// A shard in the making, from the sections of a snapshot.
pub struct ShardLoader {
    shard: Shard,
    /// Runs, and whether they are of the past.
    runs: Vec<(RunName, bool)>,
    pending: Vec<(u32, PendingEvent)>,
}

impl ShardLoader {
    /// Nothing of shard `index` yet.
    pub fn new(index: usize) -> Self {
        Self { shard: Shard::new(index), runs: Vec::new(), pending: Vec::new() }
    }

    /// Sequences go to a pool when memory has no room for them.
    pub fn set_spill_pool(&mut self, pool: Arc<SpillPool>) {
        self.shard.set_spill_pool(pool);
    }

    /// Takes a section; those of one kind in the order in which they were given.
    ///
    /// # Errors
    /// [`SnapshotError::SectionMustBeReadable`].
    pub fn take(&mut self, kind: SectionKind, body: &[u8]) -> Result<(), SnapshotError> {
        let shard = self.shard.index as u16;
        if kind == SectionKind::Runs {
            self.runs = runs_in(body).ok_or(SnapshotError::SectionMustBeReadable { kind, shard })?;
            return Ok(());
        }
        let mut fields = FieldReader::new(body);
        while !fields.is_empty() {
            let taken = match kind {
                SectionKind::Subjects => self.take_subject(&mut fields),
                SectionKind::Groups => self.take_group(&mut fields),
                SectionKind::Cells => self.shard.cells.load(&mut fields),
                SectionKind::Pending => self.take_pending(&mut fields),
                SectionKind::Counters => self.take_counters(&mut fields),
                SectionKind::SetAside => self.take_set_aside(&mut fields),
                SectionKind::Dedup => self.take_seen(&mut fields),
                SectionKind::Sequenced => self.shard.sequenced.load(&mut fields),
                SectionKind::Runs => unreachable!("a list of runs was taken whole"),
                SectionKind::Corrections => self.shard.corrections.load(&mut fields),
                SectionKind::Meters => self.shard.corrections.load_meters(&mut fields),
            };
            taken.ok_or(SnapshotError::SectionMustBeReadable { kind, shard })?;
        }
        Ok(())
    }

    fn take_subject(&mut self, fields: &mut FieldReader<'_>) -> Option<()> {
        let subject = Subject::new(fields.text()?).ok()?;
        self.shard.subjects.add(subject, None).map(|_| ())
    }

    fn take_group(&mut self, fields: &mut FieldReader<'_>) -> Option<()> {
        let count = fields.u32()?;
        let mut texts: Vec<Option<Arc<str>>> = Vec::new();
        for _ in 0..count {
            texts.push(match fields.u8()? {
                0 => None,
                _ => Some(fields.text()?.into()),
            });
        }
        let number = self.shard.groups.len();
        (self.shard.groups.number_of(texts.into()) as usize == number).then_some(())
    }

    fn take_pending(&mut self, fields: &mut FieldReader<'_>) -> Option<()> {
        let subject = fields.u32()?;
        let source: Arc<str> = fields.text()?.into();
        let (identity, position) = (fields.u128()?, load_position(fields)?);
        let time = Timestamp::from_nanoseconds(fields.i64()?);
        let count = fields.u32()?;
        let mut contributions = Vec::new();
        for _ in 0..count {
            let (program, group) = (fields.u32()?, fields.u32()?);
            let (class, value) = (class_of(fields.u8()?)?, fields.i128()?);
            contributions.push(Contribution { program, group, class, value });
        }
        self.pending.push((subject, PendingEvent { source, identity, time, position, contributions }));
        Some(())
    }

    fn take_counters(&mut self, fields: &mut FieldReader<'_>) -> Option<()> {
        let source: Arc<str> = fields.text()?.into();
        let mut numbers = [0; SourceCounters::NUMBERS];
        for number in &mut numbers {
            *number = fields.u64()?;
        }
        self.shard.counters.insert(source, SourceCounters::of_numbers(numbers)).is_none().then_some(())
    }

    fn take_set_aside(&mut self, fields: &mut FieldReader<'_>) -> Option<()> {
        let (position, verdict) = (EventPosition::from_bits(fields.u64()?), fields.u8()?);
        let identity = fields.u128()?;
        self.shard.set_aside.push(SetAside { position, verdict, identity });
        Some(())
    }

    fn take_seen(&mut self, fields: &mut FieldReader<'_>) -> Option<()> {
        Seen::load(fields, &mut self.shard.dedup)
    }

    /// Opens the runs that the sections name; behind the last section.
    ///
    /// # Errors
    /// [`SnapshotError::RunMustBeReadable`], [`SnapshotError::SectionMustBeReadable`].
    pub fn open_runs(&mut self, store: &RunStore) -> Result<(), SnapshotError> {
        let shard = self.shard.index as u16;
        for (name, is_past) in std::mem::take(&mut self.runs) {
            let kept = if is_past { Kept::Nothing } else { Kept::All };
            let run =
                store.open_run(u32::from(shard), name, kept).map_err(SnapshotError::RunMustBeReadable)?;
            let broken = SnapshotError::SectionMustBeReadable { kind: SectionKind::Runs, shard };
            self.shard.dedup.add_run(run).ok_or(broken)?;
        }
        Ok(())
    }

    /// The shard as it was at its barrier, under the plan of the control state that the barrier names.
    ///
    /// # Errors
    /// [`SnapshotError::SectionMustBeReadable`]: sections name what is not there.
    pub fn finish(self, control_offset: u64, plan: &Arc<MeteringPlan>) -> Result<Shard, SnapshotError> {
        let Self { mut shard, runs, pending } = self;
        assert!(runs.is_empty(), "runs are opened before the shard is finished");
        let index = shard.index as u16;
        let broken = |kind| SnapshotError::SectionMustBeReadable { kind, shard: index };
        shard.control_offset = control_offset;
        shard.plan = plan.clone();
        // What was about to change was saved out of turn.
        shard.set_aside.sort_unstable_by_key(|listed| listed.position);
        shard.forget(plan.forgotten.before);
        for state in shard.subjects.iter_mut() {
            state.set_plan(plan.subjects.get(&state.subject).cloned());
        }
        let (programs, groups) = (plan.programs.len(), shard.groups.len());
        for (number, key) in shard.cells.keys().enumerate() {
            let is_sound = (key.program as usize) < programs && (key.group as usize) < groups;
            let subject = shard.subjects.get_mut(key.subject).filter(|_| is_sound);
            let subject = subject.ok_or_else(|| broken(SectionKind::Cells))?;
            subject.cells.push(number as u32);
        }
        shard.cells.mark_all_changed();
        if !shard.corrections.is_sound(shard.subjects.len(), programs, groups) {
            return Err(broken(SectionKind::Corrections));
        }
        for (number, event) in pending {
            let is_sound = event
                .contributions
                .iter()
                .all(|taken| (taken.program as usize) < programs && (taken.group as usize) < groups);
            let subject = shard.subjects.get_mut(number).filter(|_| is_sound);
            let subject = subject.ok_or_else(|| broken(SectionKind::Pending))?;
            if shard.pending.has(event.position) {
                return Err(broken(SectionKind::Pending));
            }
            shard.pending.try_keep(&event.source, (event.identity, event.position), u32::MAX);
            subject.pending.push(event);
        }
        Ok(shard)
    }
}

impl PendingEvent {
    pub(super) fn save(&self, subject: u32, fields: &mut Fields) {
        fields.u32(subject).text(&self.source).u128(self.identity);
        save_position(fields, self.position);
        fields.i64(self.time.nanoseconds()).u32(self.contributions.len() as u32);
        for Contribution { program, group, class, value } in &self.contributions {
            fields.u32(*program).u32(*group).u8(code_of(*class)).i128(*value);
        }
    }
}

impl SetAside {
    pub(super) fn save(&self, fields: &mut Fields) {
        fields.u64(self.position.to_bits()).u8(self.verdict).u128(self.identity);
    }
}

impl SourceCounters {
    /// Numbers that a source has.
    const NUMBERS: usize = 8 + QuarantineReason::ALL.len();

    fn numbers(&self) -> [u64; Self::NUMBERS] {
        let mut numbers = [0; Self::NUMBERS];
        let Self {
            metered,
            unmetered,
            pending,
            duplicate,
            duplicate_restamped,
            conflict,
            quarantined,
            rejected,
            voided,
        } = *self;
        numbers[..8].copy_from_slice(&[
            metered,
            unmetered,
            pending,
            duplicate,
            duplicate_restamped,
            conflict,
            rejected,
            voided,
        ]);
        numbers[8..].copy_from_slice(&quarantined);
        numbers
    }

    fn of_numbers(numbers: [u64; Self::NUMBERS]) -> Self {
        let mut counters = Self::default();
        let [
            metered,
            unmetered,
            pending,
            duplicate,
            duplicate_restamped,
            conflict,
            rejected,
            voided,
            quarantined @ ..,
        ] = numbers;
        (counters.metered, counters.unmetered, counters.pending) = (metered, unmetered, pending);
        (counters.duplicate, counters.duplicate_restamped) = (duplicate, duplicate_restamped);
        (counters.conflict, counters.rejected, counters.quarantined) = (conflict, rejected, quarantined);
        counters.voided = voided;
        counters
    }
}

/// Kept out of `dedup`, so that the index knows nothing of files.
impl Seen {
    fn save(&self, identity: u128, fields: &mut Fields) {
        fields.u128(identity).u64(self.payload_digest).u64(self.position.to_bits()).i64(self.time);
        fields.u8(self.standing as u8);
    }

    fn load(fields: &mut FieldReader<'_>, dedup: &mut Dedup) -> Option<()> {
        let (identity, payload_digest) = (fields.u128()?, fields.u64()?);
        let (position, time) = (EventPosition::from_bits(fields.u64()?), fields.i64()?);
        let standing = Standing::of_bits(u64::from(fields.u8()?))?;
        if !(EVENT_TIME_MIN..EVENT_TIME_END).contains(&time) {
            return None;
        }
        dedup.load(identity, Seen { payload_digest, position, time, standing })
    }
}
