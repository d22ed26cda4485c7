//! Shards with a log in memory, driven as the server drives them.
//!
//! Owns: batches from text, barriers with their refolds, cells merged over shards. Leaves to others: what is right.
//!
//! Invariants, checked at every step: an event gets one verdict; the counters of a source add up to what was sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::plan::{
    Aggregation, MeterProgram, MeteringPlan, NegativeUsage, OwnedSpan, Policy, Schedule, SubjectPlan,
};
use domain::time::DAY;
use domain::{Decimal, EventPosition, MeterId, Span, Subject, Timestamp};
use wire::correction::EventContent;
use wire::event::EventIdOwned;
use wire::verdict::Verdict;
use wire::{BatchBuilder, IdMode};

use crate::identity::{EventName, IdentityKey, slot_of};
use crate::prepared::PreparedBatch;
use crate::shard::cell::Fold;
use crate::shard::spill::SpillPool;
use crate::shard::{
    Change, Correction, EventStanding, FoundEvent, RunLog, RunStore, RunWork, Shard, ShardLoader,
    SourceCounters, verdict_of_again,
};
use crate::snapshot::{Section, SectionKind};
use crate::testing::disk::SimulatedDisk;

/// Events may be this much older than their arrival.
pub(super) const HORIZON: i64 = 100;
/// Events may be this much ahead of their arrival.
pub(super) const FUTURE_MAX: i64 = 10;
const KEY: u128 = 0x5eed;
/// Ids that a shard remembers in memory, and entries of each job for runs that are done behind a batch.
const TABLE_ENTRIES: usize = 6;
const STEP_ENTRIES: usize = 4;
/// Bytes of sequences in memory: those of six events.
const SPILL_BYTES: u64 = 6 * 32;
/// Fraction digits that the meters keep.
const SCALE: u8 = 2;

/// The instant that times count from.
pub(super) fn at(nanoseconds: i64) -> Timestamp {
    Timestamp::MIN.plus(9_000 * DAY + nanoseconds)
}

/// A plan of these meters, without owners.
pub(super) fn plan<const N: usize>(programs: [MeterProgram; N]) -> MeteringPlan {
    let policy = Policy { horizon: HORIZON, future_max: FUTURE_MAX, pending_per_slot_max: 2 };
    MeteringPlan { programs: programs.to_vec(), policy, ..MeteringPlan::default() }
}

/// The plan, with a subject owned in spans that are cut at bounds.
pub(super) fn owned(mut plan: MeteringPlan, subject: &str, spans: &[(i64, i64, &[i64])]) -> MeteringPlan {
    let spans = spans.iter().map(|(from, until, bounds)| OwnedSpan {
        span: Span::new(at(*from), at(*until)),
        schedule: Arc::new(Schedule::new(bounds.iter().map(|bound| at(*bound)).collect())),
    });
    let spans = Arc::new(SubjectPlan { spans: spans.collect() });
    plan.subjects.insert_mut(Subject::new(subject).unwrap(), spans);
    plan
}

/// A meter that counts events of type `use`.
pub(super) fn count(meter: &str) -> MeterProgram {
    MeterProgram {
        meter: MeterId::new(meter).unwrap(),
        event_type: "use".into(),
        aggregation: Aggregation::Count,
        value: None,
        key: None,
        operation: None,
        group_by: Vec::new(),
        filter: Vec::new(),
        scale: 0,
        negative_usage: NegativeUsage::Reject,
        since_control_offset: 0,
    }
}

/// A meter that sums the value of its name.
pub(super) fn sum(meter: &str) -> MeterProgram {
    MeterProgram { aggregation: Aggregation::Sum, value: Some(meter.into()), scale: SCALE, ..count(meter) }
}

fn name_of(source: &str, id: &str) -> EventName {
    let source = IdentityKey::new(KEY).of_source(source);
    match id.parse().unwrap() {
        EventIdOwned::Text(id) => source.name_of_bytes(id.as_bytes()),
        EventIdOwned::Sequenced { epoch, sequence } => source.name_of_sequence(epoch, sequence),
        EventIdOwned::Minted => unreachable!("an id was parsed"),
    }
}

fn slot_of_id(source: &str, id: &str) -> usize {
    slot_of(IdentityKey::new(KEY).of_source(source).identity_of_bytes(id.as_bytes()))
}

/// Whether two ids of a source have one slot.
pub(super) fn is_slot_of(source: &str, id: &str, other: &str) -> bool {
    slot_of_id(source, id) == slot_of_id(source, other)
}

/// Different ids with one slot.
pub(super) fn ids_of_one_slot<const N: usize>(source: &str) -> [String; N] {
    let mut ids = (0..).map(|number| format!("i{number}")).filter(|id| is_slot_of(source, id, "i0"));
    std::array::from_fn(|_| ids.next().expect("numbers do not end"))
}

/// A snapshot of a world in the making: everything but its shards, and their sections so far.
pub(super) struct Saved {
    rest: World,
    sections: Vec<Vec<Section>>,
}

impl Saved {
    /// Changes the sections of a kind.
    pub(super) fn change(&mut self, kind: SectionKind, change: fn(&mut Vec<u8>)) {
        let sections = self.sections.iter_mut().flatten().filter(|section| section.kind == kind);
        sections.for_each(|section| change(&mut section.body));
    }

    /// Kind and bytes of the sections so far.
    pub(super) fn sections(&self) -> Vec<(SectionKind, usize)> {
        self.sections.iter().flatten().map(|section| (section.kind, section.body.len())).collect()
    }
}

/// Shards, their log, and what they reported.
pub(super) struct World {
    shards: Vec<Shard>,
    log: Vec<(u64, PreparedBatch)>,
    control_offset: u64,
    plan: Arc<MeteringPlan>,
    sent: BTreeMap<String, u64>,
    reported: BTreeMap<String, Vec<Fold>>,
    runs: Arc<RunStore>,
    pool: Arc<SpillPool>,
    /// Jobs under way, of which shard, and whether there is more to do.
    works: Vec<(usize, RunWork, bool)>,
    /// What counts, as long as it does; also of events that never do.
    contents: BTreeMap<EventPosition, EventContent>,
    /// Of corrected events: the meters that existed there take them.
    meters_at: BTreeMap<EventPosition, u64>,
    /// Corrections for the next barrier.
    corrections: Vec<Correction>,
}

impl World {
    pub(super) fn new(shards: usize) -> Self {
        let log = RunLog { incarnation: 0, partition: 0, key_check: 7 };
        let mut shards: Vec<Shard> = (0..shards).map(Shard::new).collect();
        let pool = Arc::new(SpillPool::open(Arc::new(SimulatedDisk::default()), SPILL_BYTES).unwrap());
        for shard in &mut shards {
            shard.set_table_entries_max(TABLE_ENTRIES);
            shard.set_spill_pool(pool.clone());
        }
        Self {
            pool,
            shards,
            runs: Arc::new(RunStore::open(Arc::new(SimulatedDisk::default()), log).unwrap()),
            works: Vec::new(),
            log: Vec::new(),
            control_offset: 0,
            plan: Arc::default(),
            sent: BTreeMap::new(),
            reported: BTreeMap::new(),
            contents: BTreeMap::new(),
            meters_at: BTreeMap::new(),
            corrections: Vec::new(),
        }
    }

    /// The same without runs, as one that reads the logs: all that it remembers is in one table.
    pub(super) fn without_runs(shards: usize) -> Self {
        let mut world = Self::new(shards);
        world.shards = (0..shards).map(Shard::new).collect();
        world
    }

    /// Compares its shards with those of a world that was loaded.
    pub(super) fn check_loaded(&self, loaded: &World) -> Result<(), String> {
        let mut pairs = self.shards.iter().zip(&loaded.shards);
        let compared = pairs.try_for_each(|(mine, theirs)| mine.check_loaded(theirs, &loaded.runs));
        compared.map_err(|error| error.to_string())
    }

    /// Logs and applies a batch; gives the verdicts.
    pub(super) fn send(
        &mut self,
        received_at: i64,
        source: &str,
        event_type: &str,
        events: &[&str],
    ) -> Vec<String> {
        self.send_with(IdMode::Given, received_at, source, event_type, events)
    }

    /// Logs and applies a batch with ids of a kind; minted ones are not in the texts.
    pub(super) fn send_with(
        &mut self,
        ids: IdMode,
        received_at: i64,
        source: &str,
        event_type: &str,
        events: &[&str],
    ) -> Vec<String> {
        let mut builder = BatchBuilder::new(source, event_type, ids).without_event_checks();
        for event in events {
            push(&mut builder, event);
        }
        let frame = Arc::new(builder.finish(1, 0));
        let (key, shards) = (IdentityKey::new(KEY), self.shards.len());
        let mut batch = PreparedBatch::prepare(frame, None, at(received_at), key, shards).unwrap();
        batch.offset = Self::batch_offset(self.log.len() as u64);
        let view = batch.view();
        for index in
            (0..view.len()).filter(|index| !batch.refusals().iter().any(|r| usize::from(r.index) == *index))
        {
            self.contents.insert(batch.position(index as u16), EventContent::of(&view, index));
        }
        while self.shards.iter().any(Shard::must_wait_for_runs) {
            self.work(usize::MAX);
        }
        let mut verdicts: Vec<Option<Verdict>> = vec![None; events.len()];
        for shard in &mut self.shards {
            let handled = shard.handle_batch(&batch, &mut |index, verdict| {
                let before = verdicts[usize::from(index)].replace(verdict);
                assert_eq!(before, None, "an event gets one verdict");
            });
            handled.unwrap();
        }
        self.work(STEP_ENTRIES);
        self.check_repeats(source, &batch, &verdicts);
        self.log.push((self.control_offset, batch));
        *self.sent.entry(source.to_string()).or_default() += events.len() as u64;
        assert_eq!(self.counters(source).received(), self.sent[source], "nothing vanishes");
        verdicts.into_iter().map(|verdict| verdict.expect("every event gets a verdict").to_string()).collect()
    }

    /// The verdict of an event that came again follows from the batches of both.
    fn check_repeats(&mut self, source: &str, batch: &PreparedBatch, verdicts: &[Option<Verdict>]) {
        for (index, verdict) in (0..).zip(verdicts.iter().flatten()) {
            if !matches!(verdict, Verdict::Duplicate | Verdict::DuplicateRestamped | Verdict::Conflict) {
                continue;
            }
            let event = name_of(source, &batch.view().id(usize::from(index)).to_string());
            let shard = event.shard(self.shards.len());
            let first = self.shards[shard].find_event(event).unwrap().unwrap().position;
            let number = (first.offset() / Self::batch_offset(0) - 1) as usize;
            let of_first = self.log.get(number).map_or(batch, |(_, of_first)| of_first);
            assert_eq!(verdict_of_again((of_first, first.index()), (batch, index)), *verdict);
        }
    }

    /// Begins what shards want done for their runs, does so many entries of each job, and hands over what is done.
    fn work(&mut self, entries: usize) {
        if self.pool.is_due() {
            self.pool.spill().unwrap();
        }
        for (index, shard) in self.shards.iter_mut().enumerate() {
            while let Some(job) = shard.poll_run_job() {
                self.works.push((index, self.runs.begin(job).unwrap(), true));
            }
        }
        for (index, mut work, has_more) in std::mem::take(&mut self.works) {
            if has_more {
                let has_more = work.step(entries).unwrap();
                self.works.push((index, work, has_more));
            } else {
                drop(self.shards[index].handle_run_done(work.finish(&self.runs).unwrap()));
            }
        }
    }

    /// Where a batch is, by its number.
    pub(super) fn batch_offset(number: u64) -> u64 {
        64 * (number + 1)
    }

    /// Hands a plan to all shards and folds again what they ask for; says whether any did.
    pub(super) fn barrier(&mut self, plan: MeteringPlan) -> bool {
        self.control_offset += 10; // as if records lay in between
        self.plan = Arc::new(MeteringPlan { control_offset: self.control_offset, ..plan });
        let mut has_refolded = false;
        let corrections = std::mem::take(&mut self.corrections);
        let shards = self.shards.len();
        for shard in &mut self.shards {
            let is_own = |correction: &&Correction| correction.event.shard(shards) == shard.index();
            let own: Vec<Correction> = corrections.iter().filter(is_own).cloned().collect();
            let wanted = shard.start_corrections(&own).unwrap();
            let wanted = self.log.iter().filter(|(_, batch)| wanted.contains(&batch.offset));
            wanted.for_each(|(_, batch)| shard.retract_batch(batch));
            let foreseen: BTreeSet<Subject> = shard.folded_again_by(&self.plan).into_iter().collect();
            let is_refolding = shard.handle_barrier(self.control_offset, &self.plan);
            if own.is_empty() {
                assert_eq!(shard.refolding().cloned().collect::<BTreeSet<_>>(), foreseen);
            }
            if is_refolding {
                has_refolded = true;
                self.log.iter().for_each(|(offset, batch)| shard.refold_batch(batch, *offset).unwrap());
                shard.finish_refold();
            }
            shard.finish_corrections();
        }
        has_refolded
    }

    /// Corrects an event of a source at the next barrier: `void id`, `release id` or `amend id subject time …`.
    pub(super) fn correct(&mut self, source: &str, correction: &str) {
        let (verb, rest) = correction.split_once(' ').expect("a correction is a verb and an id");
        let id = rest.split(' ').next().unwrap_or_default();
        let event = name_of(source, id);
        let found = self.find(source, id).expect("a shard knows an event that is corrected");
        let position = found.position;
        if verb == "amend" {
            let mut builder = BatchBuilder::new(source, &self.contents[&position].event_type, IdMode::Given);
            push(&mut builder, rest);
            let frame = Arc::new(builder.finish(1, 0));
            let batch = prepared_alone(frame);
            self.contents.insert(position, EventContent::of(&batch.view(), 0));
        }
        let meters_at = self.meters_at.entry(position).or_insert(found.meters_at);
        if verb == "release" {
            *meters_at = self.control_offset + 9; // where the record would be
        }
        let change = match verb {
            "void" => Change::TakeBack,
            "amend" | "release" => {
                let frame = self.contents[&position].to_frame(source, &id.parse().unwrap()).unwrap();
                let frame = Arc::new(frame);
                Change::Restate { content: prepared_alone(frame), meters_at: *meters_at }
            }
            _ => panic!("{verb} is not a correction"),
        };
        self.corrections.push(Correction { source: source.into(), event, position, change });
    }

    /// The event that an id names.
    pub(super) fn find(&mut self, source: &str, id: &str) -> Option<FoundEvent> {
        let event = name_of(source, id);
        let shard = event.shard(self.shards.len());
        self.shards[shard].find_event(event).unwrap()
    }

    /// Where an event stands.
    pub(super) fn standing(&mut self, source: &str, id: &str) -> Option<String> {
        let found = self.find(source, id)?;
        Some(match found.standing {
            EventStanding::Quarantined(reason) => format!("quarantined: {reason}"),
            standing => standing.as_str().to_string(),
        })
    }

    /// The control offset of the last barrier.
    pub(super) fn control_offset(&self) -> u64 {
        self.control_offset
    }

    /// Takes what the shards report; gives how many cells changed.
    pub(super) fn take_reports(&mut self) -> usize {
        let mut changed = 0;
        for (index, shard) in self.shards.iter_mut().enumerate() {
            for report in shard.take_reports() {
                changed += 1;
                let meter = &self.plan.programs[report.program as usize].meter;
                let texts: Vec<&str> =
                    report.group.iter().map(|text| text.as_deref().unwrap_or("-")).collect();
                let group = if texts.is_empty() { String::new() } else { format!(" [{}]", texts.join(",")) };
                let from = report.slice_from.nanoseconds() - at(0).nanoseconds();
                let name = format!("{} {meter}{group} from {from}", report.subject);
                let folds =
                    self.reported.entry(name).or_insert_with(|| vec![Fold::default(); self.log.len() + 64]);
                folds[index] = report.value.fold;
            }
        }
        changed
    }

    /// The cells that hold something, merged over the shards.
    pub(super) fn cells(&mut self) -> Vec<String> {
        self.take_reports();
        let mut cells = Vec::new();
        for (name, folds) in &self.reported {
            let mut whole = Fold::default();
            folds.iter().for_each(|fold| whole.merge(fold));
            if whole.is_empty() {
                assert_eq!(whole, Fold::default(), "an empty cell holds nothing");
                continue;
            }
            let is_count = self.plan.programs.iter().any(|program| {
                program.aggregation == Aggregation::Count && name.contains(&format!(" {} ", program.meter))
            });
            let total = whole.sum.value().expect("small sums fit");
            let total = Decimal::new(total, if is_count { 0 } else { SCALE }).unwrap();
            cells.push(format!("{name}: {} events, {total}", whole.count));
        }
        cells
    }

    /// Begins a snapshot of this moment.
    pub(super) fn begin_snapshot(&mut self) -> Saved {
        self.shards.iter_mut().for_each(Shard::begin_snapshot);
        let rest = World {
            shards: Vec::new(),
            log: self.log.clone(),
            control_offset: self.control_offset,
            plan: self.plan.clone(),
            sent: self.sent.clone(),
            reported: BTreeMap::new(), // every cell is reported again
            runs: self.runs.clone(),
            pool: self.pool.clone(),
            works: Vec::new(),
            contents: self.contents.clone(),
            meters_at: self.meters_at.clone(),
            corrections: self.corrections.clone(),
        };
        Saved { rest, sections: vec![Vec::new(); self.shards.len()] }
    }

    /// Gives up a snapshot that began.
    pub(super) fn give_up_snapshot(&mut self) {
        self.shards.iter_mut().for_each(Shard::give_up_snapshot);
    }

    /// Takes the next section of every shard; says whether there may be more.
    pub(super) fn poll_snapshot(&mut self, saved: &mut Saved) -> bool {
        let mut has_more = false;
        for (shard, sections) in self.shards.iter_mut().zip(&mut saved.sections) {
            if let Some(part) = shard.poll_snapshot() {
                let push = &mut |section| {
                    sections.push(section);
                    Ok(())
                };
                part.for_each_section(push).unwrap();
                has_more = true;
            }
        }
        has_more
    }

    /// Counters of a source, over all shards.
    pub(super) fn counters(&self, source: &str) -> SourceCounters {
        let mut whole = SourceCounters::default();
        for counters in self.shards.iter().filter_map(|shard| shard.counters().get(source)) {
            whole.merge(counters);
        }
        whole
    }

    /// Events of a source that were sent.
    pub(super) fn sent(&self, source: &str) -> u64 {
        self.sent[source]
    }

    /// Events listed as set aside, over all shards.
    pub(super) fn set_aside(&self) -> usize {
        self.shards.iter().map(|shard| shard.set_aside().len()).sum()
    }

    /// Ids that are remembered, of which the log says where they are.
    pub(super) fn ids_since(&self, offset: u64) -> (u64, u64) {
        let stretches = self.shards.iter().flat_map(Shard::ids_by_offset);
        let since = stretches.filter(|(from, _)| *from >= offset).map(|(_, ids)| ids).sum();
        (since, self.shards.iter().map(Shard::ids).sum())
    }

    /// Runs that have only what is forgotten.
    pub(super) fn past_runs(&self) -> usize {
        let names = self.shards.iter().flat_map(|shard| shard.dedup.run_names());
        names.filter(|(_, is_past)| *is_past).count()
    }

    /// Ids in the dedup indexes.
    pub(super) fn remembered(&self) -> u64 {
        self.shards.iter().map(Shard::remembered).sum()
    }
}

impl Saved {
    /// The world as it was when the snapshot began.
    pub(super) fn load(self) -> World {
        let mut world = self.rest;
        for (index, sections) in self.sections.into_iter().enumerate() {
            let mut loader = ShardLoader::new(index);
            loader.set_spill_pool(world.pool.clone());
            sections.iter().for_each(|section| loader.take(section.kind, &section.body).unwrap());
            loader.open_runs(&world.runs).unwrap();
            let mut shard = loader.finish(world.control_offset, &world.plan).unwrap();
            shard.set_table_entries_max(TABLE_ENTRIES);
            world.shards.push(shard);
        }
        world
    }
}

fn prepared_alone(frame: Arc<wire::AlignedBytes>) -> PreparedBatch {
    PreparedBatch::prepare(frame, None, at(0), IdentityKey::new(KEY), 1).unwrap()
}

/// Adds an event that is written `id subject time value=… dimension:…`, without `id` where it is minted.
fn push(builder: &mut BatchBuilder, event: &str) {
    let mut words = event.split(' ');
    let mut word = || words.next().expect("an event has id, subject and time");
    let id = if builder.next_sequence().is_some() { "" } else { word() };
    let (subject, time) = (word(), word());
    let (mut values, mut dimensions) = (Vec::new(), Vec::new());
    for property in words {
        match property.split_once('=') {
            Some((name, text)) => {
                let fraction = text.split_once('.').map_or("", |(_, fraction)| fraction);
                let mantissa: i128 = text.replace('.', "").parse().expect("a value is a decimal");
                values.push((name, mantissa, fraction.len() as u8));
            }
            None => dimensions.push(property.split_once(':').expect("a property is a value or a dimension")),
        }
    }
    let time = at(time.parse().expect("a time is a number")).nanoseconds();
    builder
        .push_parts(id.as_bytes(), subject, time, &values, &dimensions)
        .expect("a batch of a test is small");
}
