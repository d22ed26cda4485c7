//! A server without threads: the control side, the usage log and the shards, stepped in an order that a seed chooses.
//!
//! Owns: what the server's threads do around `machine` and `engine`: group commit, hand-off, queues, a clock that a slow
//! sync moves. Leaves to others: everything that decides.

use std::collections::{BTreeMap, VecDeque};
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;

use domain::time::SECOND;
use domain::{Subject, Timestamp};
use engine::identity::{EventName, IdentityKey};
use engine::io::Storage;
use engine::log::{
    IndexError, LogError, LogIndex, LogKind, LogOptions, LogWriter, PlaceFinder, WithArchive, build_index,
};
use engine::prepared::PreparedBatch;
use engine::shard::cell::Group;
use engine::shard::kept::CellValue;
use engine::shard::spill::{SpillError, SpillPool};
use engine::shard::{FoundEvent, RunError, RunStore, RunWork, SetAside, Shard, SourceCounters};
use engine::snapshot::{SnapshotHead, SnapshotPart, SnapshotWork};
use engine::testing::disk::SimulatedDisk;
use machine::usage_query::{
    AsOf, Candidate, Judge, Known, OnCounted, ScanError, ScannedLog, UsageAnswer, UsageFold, UsageQuery,
    UsageTerms, control_state_before, known_control_offset, plan_of, scan,
};
use machine::{
    ControlError, ControlWriter, CorrectionRequest, CorrectionStatus, FinishedWork, KnownCorrections,
    KnownEvent, LeftAside, LogPlace, Logs, NewBarrier, PassedBarrier, RecoveryError, RetiredRuns,
    ShardMemory, Surroundings, UsageHistory, move_to_archive, name_of, pass_barrier_through, recover,
    segment_to_archive,
};
use wire::AlignedBytes;
use wire::control::{ControlRecord, ForgottenBecause, IdsForgotten};
use wire::usage_record::{BatchRecordHead, KIND_BARRIER, KIND_USAGE_BATCH, encode_barrier};
use wire::verdict::Verdict;

use crate::actions::Question;
use crate::random::Random;

const MILLISECOND: i64 = SECOND / 1_000;
/// Parts of a snapshot that wait for the disk.
const PARTS_MAX: usize = 4;

/// The logs of a disk.
pub(crate) fn logs_of(disk: &SimulatedDisk, segment_bytes: u64) -> Logs {
    let place = |kind, folder| LogPlace {
        storage: Arc::new(disk.folder(folder)),
        options: LogOptions { kind, partition: 0, incarnation: 0, segment_bytes },
    };
    let mut usage = place(LogKind::Usage, "usage-0");
    let archive: Arc<dyn Storage> = Arc::new(disk.folder("archive"));
    usage.storage = Arc::new(WithArchive::new(usage.storage, Some(archive), usage.options));
    Logs {
        control: place(LogKind::Control, "control"),
        usage,
        charges: place(LogKind::Charges, "charges"),
        journals: place(LogKind::Journals, "journals"),
        snapshots: Arc::new(disk.folder("snapshots")),
        runs: Arc::new(disk.folder("runs")),
        spilled: Arc::new(disk.folder("spilled")),
    }
}

/// Bytes of single events that stay in memory: those of one.
const SEQUENCE_BYTES: u64 = 32;

/// A clock that moves when it is told to, and while a disk syncs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) now: Timestamp,
    /// Syncs whose time was counted.
    syncs: u64,
}

impl Clock {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { now, syncs: 0 }
    }

    fn present(&mut self, disk: &SimulatedDisk) -> Timestamp {
        for sync in self.syncs..disk.syncs_ever() {
            // Most syncs take a millisecond, some half a minute.
            let took = if sync % 37 == 17 { 31 * SECOND } else { MILLISECOND };
            self.now = self.now.plus(took);
        }
        self.syncs = disk.syncs_ever();
        self.now
    }
}

/// What a server said to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// A batch is durable at an offset.
    Ack { batch: usize, offset: u64, is_lost: bool },
    /// What became of an event of the batch at an offset.
    Verdict { offset: u64, index: u16, verdict: Verdict },
}

/// A batch that arrived.
struct Incoming {
    batch: usize,
    prepared: PreparedBatch,
    loses_ack: bool,
}

enum Task {
    Batch(Rc<PreparedBatch>),
    Barrier(Rc<BarrierTask>),
}

struct BarrierTask {
    offset: u64,
    barrier: NewBarrier,
}

/// A cell as its shard last reported it.
pub(crate) type CellKey = (Subject, u32, Group, Timestamp);

/// The usage log, the shards and the clock.
pub(crate) struct UsageSide {
    writer: LogWriter,
    incoming: VecDeque<Incoming>,
    shards: Vec<(Shard, VecDeque<Task>)>,
    history: UsageHistory,
    key: IdentityKey,
    disk: SimulatedDisk,
    pub(crate) clock: Clock,
    pub(crate) order: Random,
    pub(crate) said: Vec<Said>,
    /// Cells as reported since the server started, by shard.
    pub(crate) cells: BTreeMap<(usize, CellKey), CellValue>,
    /// Offset of the barrier of the last cut.
    pub(crate) last_barrier: u64,
    /// What shards handed over at the barrier that is under way.
    reports: Vec<(usize, Vec<engine::shard::cell::CellReport>)>,
    pub(crate) runs: Arc<RunStore>,
    /// What is done for the runs of shards, and whether there is more to do.
    pool: Arc<SpillPool>,
    works: Vec<(usize, RunWork, bool)>,
    retired: RetiredRuns,
    logs: Logs,
    snapshot: Option<Snapshot>,
    pub(crate) reached: Reached,
}

/// How much a server did of what only some do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reached {
    pub(crate) snapshots: u64,
    /// Usage offset of the last one.
    pub(crate) last_snapshot: Option<u64>,
    pub(crate) runs: u64,
    pub(crate) spills: u64,
}

/// A snapshot that is being made.
#[derive(Default)]
struct Snapshot {
    /// What it is of, once its barrier passed.
    head: Option<SnapshotHead>,
    work: Option<SnapshotWork>,
    /// Shards that have more, and the part of each that had no room.
    saving: BTreeMap<usize, Option<SnapshotPart>>,
    /// Parts on their way to the disk.
    parts: VecDeque<SnapshotPart>,
    /// The disk did not take it.
    is_given_up: bool,
}

/// A running server.
pub(crate) struct Server {
    pub(crate) control: ControlWriter,
    pub(crate) usage: UsageSide,
    /// What the start found open.
    pub(crate) finished: FinishedWork,
    /// Usage offset of the snapshot that it started from.
    pub(crate) snapshot: Option<u64>,
    /// Snapshots that did not fit.
    pub(crate) left_aside: Vec<LeftAside>,
}

/// Why a server does not run.
#[derive(Debug)]
pub(crate) enum Stopped {
    Recovery(RecoveryError),
    Control(ControlError),
    Usage(LogError),
}

pub(crate) fn in_shard(error: Box<dyn Error + Send + Sync>) -> Stopped {
    Stopped::Control(ControlError::Barrier(error))
}

impl Stopped {
    /// The error itself.
    pub(crate) fn error(&self) -> &(dyn Error + 'static) {
        match self {
            Stopped::Recovery(error) => error,
            Stopped::Control(error) => error,
            Stopped::Usage(error) => error,
        }
    }

    /// Whether a run of remembered ids or of spilled events is what cannot be read or written.
    pub(crate) fn is_of_derived(&self) -> bool {
        let mut source = Some(self.error());
        while let Some(error) = source {
            if error.is::<RunError>() || error.is::<SpillError>() {
                return true;
            }
            source = error.source();
        }
        false
    }
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut source: Option<&dyn Error> = Some(self.error());
        let mut separator = "";
        while let Some(error) = source {
            write!(f, "{separator}{error}")?;
            (source, separator) = (error.source(), ": ");
        }
        Ok(())
    }
}

impl Server {
    /// Starts on a disk, as the real one does: recovers, finishes open work, appends what a person changed.
    pub(crate) fn start(
        disk: &SimulatedDisk,
        segment_bytes: u64,
        (shards, table_entries): (usize, usize),
        clock: Clock,
        order: Random,
        first_records: &[ControlRecord],
        start_records: &dyn Fn(&machine::ControlState) -> Vec<ControlRecord>,
    ) -> Result<Self, Stopped> {
        let logs = logs_of(disk, segment_bytes);
        let now = clock.now.nanoseconds();
        let memory = ShardMemory { table_entries_max: table_entries, sequence_bytes: SEQUENCE_BYTES };
        let recovered = recover(&logs, shards, memory, || Ok((now, first_records.to_vec())));
        let recovered = recovered.map_err(Stopped::Recovery)?;
        let key = recovered.key;
        let records = start_records(recovered.replayer.machine.control());
        let usage = UsageSide {
            writer: recovered.usage,
            incoming: VecDeque::new(),
            shards: recovered.replayer.shards.into_iter().map(|shard| (shard, VecDeque::new())).collect(),
            history: UsageHistory::new(logs.usage.storage.clone(), logs.usage.options, key, shards),
            key,
            disk: disk.clone(),
            clock,
            order,
            said: Vec::new(),
            cells: BTreeMap::new(),
            last_barrier: 0,
            reports: Vec::new(),
            runs: recovered.runs,
            pool: recovered.pool,
            works: Vec::new(),
            retired: RetiredRuns::default(),
            logs,
            snapshot: None,
            reached: Reached::default(),
        };
        let control = ControlWriter::new(
            recovered.replayer.machine,
            recovered.control,
            recovered.charges,
            recovered.journals,
        );
        let (snapshot, left_aside) = (recovered.snapshot, recovered.left_aside);
        let mut server = Self { control, usage, finished: FinishedWork::default(), snapshot, left_aside };
        server.finished = server.control.start(&mut server.usage, &records).map_err(Stopped::Control)?;
        Ok(server)
    }

    /// Begins a snapshot, unless one is being made.
    pub(crate) fn begin_snapshot(&mut self) -> Result<(), Stopped> {
        if self.usage.snapshot.is_some() {
            return Ok(());
        }
        self.control.begin_snapshot(&mut self.usage).map_err(Stopped::Control)
    }

    /// Stops as the real one does: a last snapshot if there is to be one, what arrived is committed and applied, then all logs
    /// are closed. Gives what is left.
    pub(crate) fn stop(mut self, is_saved: bool) -> (Clock, Vec<Said>, Reached, Result<(), Stopped>) {
        let begun = if is_saved { self.begin_snapshot() } else { Ok(()) };
        let Self { control, mut usage, .. } = self;
        let close = || -> Result<(), Stopped> {
            begun?;
            control.close_cleanly().map_err(Stopped::Control)?;
            while usage.has_incoming() {
                usage.commit(None).map_err(Stopped::Usage)?;
            }
            usage.settle().and_then(|()| usage.save_all()).map_err(in_shard)
        };
        let closed = close();
        let UsageSide { writer, clock, said, reached, .. } = usage;
        let closed = closed.and_then(|()| writer.close_cleanly().map_err(Stopped::Usage));
        (clock, said, reached, closed)
    }
}

impl Server {
    /// Corrects an event as the real one does: finds it, reads it again, and records the correction. Gives the offset of the
    /// record, if it made one.
    pub(crate) fn correct(
        &mut self,
        request: CorrectionRequest,
    ) -> Result<Result<Option<u64>, CorrectionStatus>, Stopped> {
        let name = name_of(self.usage.key, &request.source, &request.id);
        let found = self.usage.find(name).map_err(in_shard)?;
        let known = found.map(|found| KnownEvent::read(&mut self.usage.history, found)).transpose();
        let known = known.map_err(in_shard)?;
        self.control.correct(&mut self.usage, request, known.as_ref()).map_err(Stopped::Control)
    }
}

impl Server {
    /// Answers a question as the real one does: from the log, of all that is committed or of what was known before a position.
    pub(crate) fn answer(
        &mut self,
        question: &Question,
        before: Option<u64>,
    ) -> Result<Result<(UsageAnswer, AsOf), ScanError>, Stopped> {
        self.usage.settle().map_err(in_shard)?;
        Ok(self.scan(question, before))
    }

    fn scan(&self, question: &Question, before: Option<u64>) -> Result<(UsageAnswer, AsOf), ScanError> {
        let UsageSide { logs, key, shards, .. } = &self.usage;
        let log = ScannedLog { storage: &*logs.usage.storage, options: logs.usage.options, key: *key };
        let known = Known { before: before.unwrap_or(self.usage.end()), recorded_by: None };
        let query = UsageQuery::new(question.asked())?;
        let is_awaited = || true;
        let (terms, corrections) = match before {
            None => {
                let machine = self.control.machine();
                (UsageTerms::of(machine.control().catalog(), &query)?, machine.known_corrections())
            }
            Some(_) => {
                let state =
                    control_state_before(&logs.control, known_control_offset(log, known, &is_awaited)?)?;
                let terms = UsageTerms::of(state.catalog(), &query)?;
                (terms, KnownCorrections::of(&state, plan_of(&state)))
            }
        };
        let mut fold = UsageFold::new(query, terms);
        let as_of = scan(log, known, &corrections, &mut fold, &mut AllShards(shards), &is_awaited)?;
        Ok((fold.finish()?, as_of))
    }
}

/// Shards that say which events count.
struct AllShards<'a>(&'a [(Shard, VecDeque<Task>)]);

impl Judge for AllShards<'_> {
    fn judge(&mut self, candidates: Vec<Candidate>, counted: OnCounted<'_>) -> Result<(), ScanError> {
        for candidate in &candidates {
            let (shard, _) = &self.0[candidate.shard(self.0.len())];
            if shard.counts(candidate.identity, candidate.position)? {
                counted(candidate)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, _: OnCounted<'_>) -> Result<(), ScanError> {
        Ok(())
    }
}

impl Server {
    /// Forgets ids before a share of the usage log, in 256ths; whether there are any more to forget.
    pub(crate) fn forget(&mut self, share: u8) -> Result<bool, Stopped> {
        let (place, usage_end) = (&self.usage.logs.usage, self.usage.writer.next_offset());
        let finder = PlaceFinder::new(&*place.storage, place.options, usage_end);
        let found = finder.and_then(|finder| finder.by_offset(usage_end / 256 * u64::from(share)));
        let before = self.control.machine().control().forgotten_ids().before;
        let Some(place) = found.map_err(Stopped::Usage)?.filter(|place| place.offset > before) else {
            return Ok(false);
        };
        let control = self.control.machine().control();
        // What cannot be read is bounded by when it arrived; every other record is, too.
        let happened_until = match share.is_multiple_of(2) {
            true => control.latest_forgettable(&self.usage.logs.usage, place.offset).unwrap_or_default(),
            false => None,
        };
        let forgotten = IdsForgotten {
            happened_until,
            before: place.offset,
            arrived_until: Timestamp::from_nanoseconds(place.recorded_until),
            because: ForgottenBecause::IdsMax,
            ids: self.usage.shards.iter().map(|(shard, _)| shard.ids()).sum(),
        };
        self.control.forget(&mut self.usage, forgotten).map_err(Stopped::Control)?;
        Ok(true)
    }
}

impl Server {
    /// Indexes ended segments, and moves those to the archive that were recorded so many hours ago; how many went. What fails
    /// stays where it is, and nobody dies of it.
    pub(crate) fn archive(&mut self, hours: i64) -> u64 {
        let until = self.usage.present().plus(-hours * 3_600 * SECOND).nanoseconds();
        let UsageSide { disk, logs, key, .. } = &self.usage;
        let (storage, options) = (&*logs.usage.storage, logs.usage.options);
        let index_all = || -> Result<(), IndexError> {
            for segment in LogIndex::open(storage, options, *key)?.unindexed() {
                build_index(storage, &options, *key, segment.start, segment.end)?;
            }
            Ok(())
        };
        if index_all().is_err() {
            return 0;
        }
        let (log, archive) = (disk.folder("usage-0"), disk.folder("archive"));
        let mut moved = 0;
        while let Ok(Some(segment)) = segment_to_archive(&log, &options, &*logs.snapshots, until) {
            if move_to_archive(&log, &archive, &options, segment, &|| true).is_err() {
                break;
            }
            moved += 1;
        }
        moved
    }
}

impl UsageSide {
    /// The present.
    pub(crate) fn present(&mut self) -> Timestamp {
        self.clock.present(&self.disk)
    }

    /// End of the usage log.
    pub(crate) fn end(&self) -> u64 {
        self.writer.next_offset()
    }

    /// A batch arrives.
    pub(crate) fn arrive(&mut self, batch: usize, frame: &Arc<AlignedBytes>, loses_ack: bool) {
        let received_at = self.present();
        let prepared = PreparedBatch::prepare(frame.clone(), None, received_at, self.key, self.shards.len())
            .expect("producers send sound frames");
        self.incoming.push_back(Incoming { batch, prepared, loses_ack });
    }

    pub(crate) fn has_incoming(&self) -> bool {
        !self.incoming.is_empty()
    }

    /// One commit: some of what arrived, and a barrier behind it; gives the barrier's offset.
    pub(crate) fn commit(&mut self, barrier: Option<&NewBarrier>) -> Result<Option<u64>, LogError> {
        let count = match self.incoming.len() as u64 {
            0 => 0,
            some if barrier.is_some() => self.order.below(some + 1),
            some => 1 + self.order.below(some),
        };
        let mut staged = Vec::new();
        for _ in 0..count {
            let incoming = self.incoming.pop_front().expect("no more than arrived");
            let refusals = incoming.prepared.refusals().to_vec();
            let head = BatchRecordHead { producer: 7, refusals }.encode();
            let received_at = incoming.prepared.received_at.nanoseconds();
            let parts: [&[u8]; 2] = [&head, incoming.prepared.frame()];
            let offset = self.writer.stage(KIND_USAGE_BATCH, received_at, &parts)?;
            staged.push((incoming, offset));
        }
        let now = self.present().nanoseconds();
        let mut barrier_offset = None;
        if let Some(barrier) = barrier {
            let record = encode_barrier(barrier.control_offset);
            barrier_offset = Some(self.writer.stage(KIND_BARRIER, now, &[&record])?);
        }
        self.writer.commit(now)?;
        for (Incoming { batch, mut prepared, loses_ack }, offset) in staged {
            prepared.offset = offset;
            self.said.push(Said::Ack { batch, offset, is_lost: loses_ack });
            let prepared = Rc::new(prepared);
            for (_, queue) in &mut self.shards {
                queue.push_back(Task::Batch(prepared.clone()));
            }
        }
        if let (Some(barrier), Some(offset)) = (barrier, barrier_offset) {
            let task = Rc::new(BarrierTask { offset, barrier: barrier.clone() });
            for (_, queue) in &mut self.shards {
                queue.push_back(Task::Barrier(task.clone()));
            }
        }
        Ok(barrier_offset)
    }

    /// One shard does one task; whether there was one to do.
    fn step(&mut self) -> Result<bool, Box<dyn Error + Send + Sync>> {
        let busy: Vec<usize> =
            (0..self.shards.len()).filter(|index| !self.shards[*index].1.is_empty()).collect();
        if busy.is_empty() {
            return Ok(false);
        }
        let index = self.order.pick(&busy);
        self.step_of(index)?;
        if self.order.chance(20) {
            self.save_some()?;
        }
        Ok(true)
    }

    /// A shard does the next of its tasks; it has one.
    fn step_of(&mut self, index: usize) -> Result<(), Box<dyn Error + Send + Sync>> {
        while self.order.chance(50) || self.shards[index].0.must_wait_for_runs() || self.pool.must_wait() {
            self.work_on_runs()?;
        }
        let (shard, queue) = &mut self.shards[index];
        match queue.pop_front().expect("the shard has work") {
            Task::Batch(batch) => {
                let said = &mut self.said;
                shard.handle_batch(&batch, &mut |index, verdict| {
                    said.push(Said::Verdict { offset: batch.offset, index, verdict });
                })?;
            }
            Task::Barrier(barrier) => {
                let BarrierTask { offset, barrier } = &*barrier;
                let reports = pass_barrier_through(shard, *offset, barrier, &mut self.history)?;
                self.reports.push((index, reports));
                if barrier.snapshot.is_some() {
                    shard.begin_snapshot();
                    let snapshot = self.snapshot.as_mut().expect("a snapshot was asked for");
                    snapshot.saving.insert(index, None);
                }
            }
        }
        Ok(())
    }

    /// What the shard of an event knows of it, behind all that was committed.
    pub(crate) fn find(
        &mut self,
        event: EventName,
    ) -> Result<Option<FoundEvent>, Box<dyn Error + Send + Sync>> {
        let index = event.shard(self.shards.len());
        while !self.shards[index].1.is_empty() {
            self.step_of(index)?;
        }
        Ok(self.shards[index].0.find_event(event)?)
    }

    /// Everything that shards set aside.
    pub(crate) fn set_aside(&self) -> Vec<SetAside> {
        let mut all: Vec<SetAside> =
            self.shards.iter().flat_map(|(shard, _)| shard.set_aside().iter().copied()).collect();
        all.sort_unstable();
        all
    }

    /// Begins what shards want done for their runs, goes on with some of it, and hands over what is done. Nothing names a
    /// run that its shard has no more.
    fn work_on_runs(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.pool.is_due() {
            self.pool.spill()?;
            self.reached.spills += 1;
        }
        for (index, (shard, _)) in self.shards.iter_mut().enumerate() {
            while let Some(job) = shard.poll_run_job() {
                self.works.push((index, self.runs.begin(job)?, true));
            }
        }
        for (index, mut work, has_more) in std::mem::take(&mut self.works) {
            if has_more {
                let has_more = work.step(1 + self.order.below(30) as usize)?;
                self.works.push((index, work, has_more));
                continue;
            }
            self.reached.runs += 1;
            self.retired.add(self.shards[index].0.handle_run_done(work.finish(&self.runs)?));
            self.take_retired_away()?;
        }
        Ok(())
    }

    fn take_retired_away(&mut self) -> std::io::Result<()> {
        match self.snapshot {
            Some(_) => Ok(()),
            None => self.retired.take_away(&self.runs, &*self.logs.snapshots),
        }
    }

    /// Shards hand over parts of the snapshot that is being made, and some of them are written.
    fn save_some(&mut self) -> std::io::Result<()> {
        let Some(snapshot) = &mut self.snapshot else { return Ok(()) };
        for (index, (shard, _)) in self.shards.iter_mut().enumerate() {
            if snapshot.saving.contains_key(&index) && self.order.chance(40) {
                snapshot.take_part_of(index, shard);
            }
        }
        let parts = if self.order.chance(50) { self.order.below(3) } else { 0 };
        for _ in 0..parts {
            if snapshot.write_part(&*self.logs.snapshots) {
                if let Some(head) = snapshot.head.filter(|_| !snapshot.is_given_up) {
                    self.reached.snapshots += 1;
                    self.reached.last_snapshot = Some(head.usage_offset);
                }
                self.snapshot = None;
                return self.take_retired_away();
            }
        }
        Ok(())
    }

    /// The snapshot that is being made is written, or given up.
    pub(crate) fn save_all(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        while self.snapshot.is_some() {
            self.save_some()?;
        }
        Ok(())
    }

    /// Commits and steps in any order, as far as a number of steps goes.
    pub(crate) fn work(&mut self, steps: u32) -> Result<(), Stopped> {
        for _ in 0..steps {
            if self.has_incoming() && self.order.chance(25) {
                self.commit(None).map_err(Stopped::Usage)?;
            } else {
                self.step().map_err(in_shard)?;
                self.save_some().map_err(|error| in_shard(error.into()))?;
            }
        }
        Ok(())
    }

    /// Shards do all that they were given.
    pub(crate) fn settle(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        while self.step()? {}
        Ok(())
    }

    /// Counters of all shards together.
    pub(crate) fn counters(&self) -> BTreeMap<Arc<str>, SourceCounters> {
        let mut whole: BTreeMap<Arc<str>, SourceCounters> = BTreeMap::new();
        for (shard, _) in &self.shards {
            for (source, counters) in shard.counters() {
                whole.entry(source.clone()).or_default().merge(counters);
            }
        }
        whole
    }
}

impl Snapshot {
    /// The next part of a shard, or the one that had no room before.
    fn take_part_of(&mut self, index: usize, shard: &mut Shard) {
        if self.is_given_up {
            shard.give_up_snapshot();
            self.saving.remove(&index);
            return;
        }
        let waiting = self.saving.get_mut(&index).expect("the shard has more");
        let part = waiting.take().unwrap_or_else(|| (index as u16, shard.poll_snapshot()));
        if self.parts.len() == PARTS_MAX {
            *waiting = Some(part);
            return;
        }
        if part.1.is_none() {
            self.saving.remove(&index);
        }
        self.parts.push_back(part);
    }

    /// Writes a part, if there is one; whether the snapshot has ended.
    fn write_part(&mut self, storage: &dyn Storage) -> bool {
        if self.is_given_up {
            return self.saving.is_empty();
        }
        let Some(head) = self.head else { return false };
        let Some(part) = self.parts.pop_front() else { return false };
        let work = self.work.take().map_or_else(|| SnapshotWork::begin(storage, &head), Ok);
        let Ok(mut work) = work else {
            self.is_given_up = true;
            return false;
        };
        match work.take(part) {
            Ok(true) => self.work = Some(work),
            Ok(false) => {
                self.is_given_up = work.finish(storage).is_err();
                return true;
            }
            Err(_) => {
                // What cannot be taken away is left aside by every start.
                let _ = work.give_up(storage);
                self.is_given_up = true;
            }
        }
        false
    }
}

impl Surroundings for UsageSide {
    fn now(&mut self) -> Timestamp {
        self.present()
    }

    fn pass_barrier(&mut self, barrier: NewBarrier) -> Result<PassedBarrier, Box<dyn Error + Send + Sync>> {
        if barrier.snapshot.is_some() {
            self.snapshot = Some(Snapshot::default());
        }
        // Batches go on arriving and being committed before, with and behind the barrier.
        if self.has_incoming() && self.order.chance(30) {
            self.commit(None)?;
        }
        let offset = self.commit(Some(&barrier))?.expect("a barrier was staged");
        self.reports.clear();
        while self.reports.len() < self.shards.len() {
            if self.has_incoming() && self.order.chance(10) {
                self.commit(None)?;
            }
            self.step()?;
        }
        let reports = std::mem::take(&mut self.reports);
        if let Some(head) = barrier.snapshot_head(self.logs.usage.options, self.shards.len(), offset) {
            self.snapshot.as_mut().expect("a snapshot was asked for").head = Some(head);
        }
        if barrier.is_cut {
            self.last_barrier = offset;
            for (shard, cells) in &reports {
                for cell in cells {
                    let key = (cell.subject.clone(), cell.program, cell.group.clone(), cell.slice_from);
                    self.cells.insert((*shard, key), cell.value.clone());
                }
            }
        }
        Ok(PassedBarrier { offset, reports })
    }
}
