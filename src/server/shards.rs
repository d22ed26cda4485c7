//! Shard threads: each owns one shard and takes batches and barriers from its queue in log order.
//!
//! Owns: the queues, reports at cuts, refolds. Leaves to others: every decision (`engine::shard`), verdicts joined over shards
//! (`handoff`).
//!
//! Invariants: a queue is bounded; a full one makes the log writer wait. What a shard sees is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use domain::plan::MeteringPlan;
use domain::{EventPosition, Subject};
use engine::identity::EventName;
use engine::prepared::PreparedBatch;
use engine::shard::cell::CellReport;
use engine::shard::spill::SpillPool;
use engine::shard::{FoundEvent, RunDone, RunStore, SetAside, Shard, SourceCounters};
use engine::snapshot::SnapshotPart;
use machine::{History, NewBarrier, pass_barrier_through};
use wire::verdict::Verdict;

use crate::handoff::VerdictSlots;
use crate::observe::{Durations, Metrics};
use crate::runs::{RunTask, take_damaged_away};
use crate::threads::{OnFailure, PeerStopped, spawn};

/// Time that a shard without tasks waits for the disk to take the next part of a snapshot.
const SNAPSHOT_PAUSE: Duration = Duration::from_millis(1);
/// Time after which a shard that waits for an outcome asks whether anybody works on it.
const RUN_PATIENCE: Duration = Duration::from_millis(500);
/// Time after which a shard that waits for memory looks whether there is some.
const SPILL_PATIENCE: Duration = Duration::from_millis(10);
/// Batches that wait for one shard.
pub const SHARD_QUEUE_MAX: usize = 32;

/// What a barrier asks of a shard.
pub struct BarrierTask {
    /// Offset of the barrier in the usage partition.
    pub offset: u64,
    /// The barrier.
    pub barrier: NewBarrier,
    /// Where changed cells go if a cut is to happen here; also says that the barrier was reached.
    pub reached: Sender<(usize, Vec<CellReport>)>,
    /// Where the parts of a snapshot go if one begins here.
    pub parts: Option<Sender<SnapshotPart>>,
}

/// What became of all events of one shard so far.
#[derive(Clone, Debug, Default)]
pub struct ShardSnapshot {
    /// Counters per source.
    pub counters: BTreeMap<Arc<str>, SourceCounters>,
    /// Events that did not count, in log order, from where they were asked for.
    pub set_aside: Vec<SetAside>,
    /// Where the next of them is that is not among these.
    pub set_aside_next: Option<EventPosition>,
    /// Events that the dedup index remembers.
    pub remembered: u64,
    /// Of these, the ids that no client numbered.
    pub ids: u64,
    /// Runs on disk that the dedup index looks into.
    pub runs: usize,
}

/// A message to a shard.
pub enum ShardTask {
    /// A durable batch.
    Batch(Arc<PreparedBatch>, Option<Arc<VerdictSlots>>),
    /// A durable barrier.
    Barrier(Arc<BarrierTask>),
    /// Asks for counters, and from a position on for events that did not count.
    Snapshot(Option<EventPosition>, Sender<ShardSnapshot>),
    /// Asks for an event of the shard's.
    Find(EventName, Sender<Option<FoundEvent>>),
    /// Asks for stretches of the log: offsets at which they begin, and how many ids they have.
    Ids(Sender<Vec<(u64, u64)>>),
    /// Asks which subjects a barrier with a plan would have folded again.
    FoldedAgain(Arc<MeteringPlan>, Sender<Vec<Subject>>),
    /// Asks which events count.
    Counts(Box<CountsTask>),
}

/// How many ids each shard remembers.
#[derive(Default)]
pub struct IdCounts(Box<[AtomicU64]>);

impl IdCounts {
    /// The counts of so many shards.
    pub fn new(shards: usize) -> Self {
        Self((0..shards).map(|_| AtomicU64::new(0)).collect())
    }

    /// A shard remembers so many.
    pub fn set(&self, shard: usize, ids: u64) {
        self.0[shard].store(ids, Ordering::Relaxed);
    }

    /// Ids of all shards.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|ids| ids.load(Ordering::Relaxed)).sum()
    }
}

/// Events of one shard, and who asks whether they count.
pub struct CountsTask {
    /// Identity and position of each.
    pub events: Vec<(u128, EventPosition)>,
    /// Gets the shard's index, and for each event whether it counts.
    pub reply: Sender<(usize, Vec<bool>)>,
}

/// The running shards.
pub struct Shards {
    queues: Arc<Vec<Sender<ShardTask>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Shards {
    /// Starts one thread per shard. `history` opens the usage log for a refold, `runs` is who does what shards want done
    /// for their runs and the `pool`, `ids` is told how many ids there are, `metrics` how long snapshots hold a shard, and
    /// `on_failure` gets what ends one.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        shards: Vec<Shard>,
        history: Arc<dyn Fn() -> anyhow::Result<Box<dyn History>> + Send + Sync>,
        (store, pool, runs): (&Arc<RunStore>, &Arc<SpillPool>, &Sender<RunTask>),
        ids: &Arc<IdCounts>,
        metrics: &Arc<Metrics>,
        on_failure: OnFailure,
    ) -> std::io::Result<Self> {
        let mut queues = Vec::new();
        let mut threads = Vec::new();
        for (index, shard) in shards.into_iter().enumerate() {
            let (queue, tasks) = bounded(SHARD_QUEUE_MAX);
            let (history, store, ids) = (history.clone(), store.clone(), ids.clone());
            let metrics = metrics.clone();
            let (done, outcomes) = bounded(RUN_JOBS_MAX);
            let runs = ShardRuns { tasks: runs.clone(), done, outcomes, pool: pool.clone() };
            let thread = spawn(&format!("shard-{index}"), on_failure.clone(), move || {
                let steps = &metrics.snapshot_steps;
                let ended = run_shard(index, shard, &tasks, &runs, &*history, (&ids, steps));
                if let Err(error) = &ended {
                    take_damaged_away(&store, error);
                }
                ended
            })?;
            queues.push(queue);
            threads.push(thread);
        }
        Ok(Self { queues: Arc::new(queues), threads })
    }

    /// The queues, one per shard.
    pub fn queues(&self) -> Vec<Sender<ShardTask>> {
        self.queues.to_vec()
    }

    /// The queues, for those who ask and whom stopping does not wait for.
    pub fn weak_queues(&self) -> Weak<Vec<Sender<ShardTask>>> {
        Arc::downgrade(&self.queues)
    }

    /// Waits until every shard has done what is queued.
    pub fn join(self) {
        drop(self.queues);
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

fn run_shard(
    index: usize,
    mut shard: Shard,
    tasks: &Receiver<ShardTask>,
    runs: &ShardRuns,
    history: &dyn Fn() -> anyhow::Result<Box<dyn History>>,
    (ids, steps): (&IdCounts, &Durations),
) -> anyhow::Result<()> {
    let mut saving = None;
    ids.set(index, shard.ids());
    while let Some(task) = next_task(index, &mut shard, tasks, &mut saving, steps) {
        runs.serve(&mut shard)?;
        match task {
            ShardTask::Batch(batch, slots) => {
                shard.handle_batch(&batch, &mut |event, verdict: Verdict| {
                    if let Some(slots) = &slots {
                        slots.put(event, verdict.code());
                    }
                })?;
                ids.set(index, shard.ids());
                if let Some(slots) = slots {
                    slots.finish_shard();
                }
            }
            ShardTask::Ids(reply) => _ = reply.send(shard.ids_by_offset()),
            ShardTask::FoldedAgain(plan, reply) => _ = reply.send(shard.folded_again_by(&plan)),
            ShardTask::Find(event, reply) => drop(reply.send(shard.find_event(event)?)),
            ShardTask::Barrier(barrier) => {
                let task = barrier;
                let mut history = OpenedWhenRead(history);
                let reports = pass_barrier_through(&mut shard, task.offset, &task.barrier, &mut history)
                    .map_err(|error| anyhow::anyhow!(error).context("earlier usage cannot be read again"))?;
                ids.set(index, shard.ids());
                // Nobody waits for an answer any more when the control thread has stopped.
                let _ = task.reached.send((index, reports));
                if let Some(parts) = &task.parts {
                    timed(steps, || shard.begin_snapshot());
                    saving = Some(Saving { parts: parts.clone(), next: None });
                }
            }
            ShardTask::Snapshot(from, reply) => {
                let (set_aside, set_aside_next) = set_aside_from(shard.set_aside(), from);
                let _ = reply.send(ShardSnapshot {
                    counters: shard.counters().clone(),
                    set_aside,
                    set_aside_next,
                    remembered: shard.remembered(),
                    ids: shard.ids(),
                    runs: shard.runs(),
                });
            }
            ShardTask::Counts(task) => {
                let counts = task.events.iter();
                let counts = counts.map(|(identity, position)| shard.counts(*identity, *position));
                // A query that was abandoned does not wait for its answer.
                let _ = task.reply.send((index, counts.collect::<Result<_, _>>()?));
            }
        }
    }
    Ok(())
}

/// Jobs of one shard that are under way together, at most: a full table, a merge, and one of the past.
const RUN_JOBS_MAX: usize = 3;

/// Who does what a shard wants done for its runs and for the pool, and the outcomes.
struct ShardRuns {
    tasks: Sender<RunTask>,
    done: Sender<RunDone>,
    outcomes: Receiver<RunDone>,
    pool: Arc<SpillPool>,
}

impl ShardRuns {
    /// Takes outcomes and gives jobs away; waits while the shard can take no batch without an outcome or more memory.
    fn serve(&self, shard: &mut Shard) -> Result<(), PeerStopped> {
        let hand_on = |task| self.tasks.send(task).map_err(|_| PeerStopped("the runs thread"));
        loop {
            while let Ok(done) = self.outcomes.try_recv() {
                hand_on(RunTask::Retired(shard.handle_run_done(done)))?;
            }
            while let Some(job) = shard.poll_run_job() {
                hand_on(RunTask::Job { job, done: self.done.clone() })?;
            }
            if self.pool.is_due() {
                hand_on(RunTask::Spill)?;
            }
            let patience = match (shard.must_wait_for_runs(), self.pool.must_wait()) {
                (_, true) => SPILL_PATIENCE,
                (true, false) => RUN_PATIENCE,
                (false, false) => return Ok(()),
            };
            match self.outcomes.recv_timeout(patience) {
                Ok(done) => hand_on(RunTask::Retired(shard.handle_run_done(done)))?,
                // This end of the queue keeps the other one open: whether anybody is there says the thread's own queue.
                Err(_) => hand_on(RunTask::AreYouThere)?,
            }
        }
    }
}

/// A snapshot on its way to the disk: where its parts go, and the one that had no room there.
struct Saving {
    parts: Sender<SnapshotPart>,
    next: Option<SnapshotPart>,
}

/// Does a step of a snapshot, and counts how long it took.
fn timed<T>(steps: &Durations, step: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let out = step();
    steps.record(started.elapsed());
    out
}

/// The next task; none once nobody can ask for anything any more and a snapshot that began is saved. While one is being
/// saved, at most one part of it goes before each task; a slow disk makes the snapshot wait and not the tasks.
fn next_task(
    index: usize,
    shard: &mut Shard,
    tasks: &Receiver<ShardTask>,
    saving: &mut Option<Saving>,
    steps: &Durations,
) -> Option<ShardTask> {
    while let Some(snapshot) = saving {
        let poll = || (index as u16, timed(steps, || shard.poll_snapshot()));
        let part = snapshot.next.take().unwrap_or_else(poll);
        let is_last = part.1.is_none();
        let is_full = match snapshot.parts.try_send(part) {
            Ok(()) => false,
            Err(TrySendError::Full(part)) => {
                snapshot.next = Some(part);
                true
            }
            Err(TrySendError::Disconnected(_)) => {
                shard.give_up_snapshot();
                *saving = None;
                break;
            }
        };
        if is_last && !is_full {
            *saving = None;
        }
        let pause = if is_full { SNAPSHOT_PAUSE } else { Duration::ZERO };
        match tasks.recv_timeout(pause) {
            Ok(task) => return Some(task),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(pause),
        }
    }
    tasks.recv().ok()
}

/// Earlier usage of which the log is opened only if something is folded again.
struct OpenedWhenRead<'h>(&'h dyn Fn() -> anyhow::Result<Box<dyn History>>);

impl History for OpenedWhenRead<'_> {
    fn for_each_batch(
        &mut self,
        until: u64,
        subjects: &BTreeSet<Subject>,
        fold: &mut dyn FnMut(&PreparedBatch, u64),
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        (self.0)()?.for_each_batch(until, subjects, fold)
    }

    fn read_batches(
        &mut self,
        offsets: &BTreeSet<u64>,
        read: &mut dyn FnMut(&PreparedBatch),
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        (self.0)()?.read_batches(offsets, read)
    }
}

/// Events that a shard gives in one answer of those that did not count: it gives nothing else meanwhile.
const SET_ASIDE_TOGETHER: usize = if cfg!(test) { 3 } else { 1 << 14 };

/// The first entries from a position on, and where the next one is.
fn set_aside_from(all: &[SetAside], from: Option<EventPosition>) -> (Vec<SetAside>, Option<EventPosition>) {
    let Some(from) = from else { return (Vec::new(), None) };
    let rest = &all[all.partition_point(|listed| listed.position < from)..];
    let (given, left) = rest.split_at(rest.len().min(SET_ASIDE_TOGETHER));
    (given.to_vec(), left.first().map(|listed| listed.position))
}

/// Joins the answers of all shards to a [`ShardTask::Snapshot`]; `None` if a shard has stopped.
pub fn join_snapshots(answers: &Receiver<ShardSnapshot>, shards: usize) -> Option<ShardSnapshot> {
    let mut whole = ShardSnapshot::default();
    for _ in 0..shards {
        let part = answers.recv().ok()?;
        for (source, counters) in part.counters {
            whole.counters.entry(source).or_default().merge(&counters);
        }
        whole.set_aside.extend(part.set_aside);
        let nexts = whole.set_aside_next.into_iter().chain(part.set_aside_next);
        whole.set_aside_next = nexts.min();
        whole.remembered += part.remembered;
        whole.ids += part.ids;
        whole.runs += part.runs;
    }
    whole.set_aside.sort_unstable();
    // Behind it, what one shard gave may lie behind what another left out.
    if let Some(next) = whole.set_aside_next {
        whole.set_aside.retain(|listed| listed.position < next);
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::Timestamp;
    use engine::identity::IdentityKey;
    use engine::shard::RunLog;
    use engine::testing::disk::SimulatedDisk;
    use wire::{BatchBuilder, Event, EventIdOwned, IdMode};

    /// Every scrape of the metrics copied the whole list in each shard, while it took no batch.
    #[test]
    fn what_was_set_aside_is_given_in_parts_that_are_complete_over_all_shards() {
        let listed = |offset| SetAside {
            position: EventPosition::new(offset, 0),
            verdict: 1,
            identity: offset.into(),
        };
        let shards: [Vec<SetAside>; 3] = [
            (0..20).map(listed).collect(),
            [3, 5, 30, 31, 32, 33].map(|offset| listed(offset + 100)).to_vec(),
            vec![listed(7_000)],
        ];
        let (mut from, mut all, mut parts) = (Some(EventPosition::from_bits(0)), Vec::new(), 0);
        while from.is_some() {
            let (reply, answers) = bounded(shards.len());
            for shard in &shards {
                let (set_aside, set_aside_next) = set_aside_from(shard, from);
                assert!(set_aside.len() <= SET_ASIDE_TOGETHER);
                reply.send(ShardSnapshot { set_aside, set_aside_next, ..Default::default() }).unwrap();
            }
            let joined = join_snapshots(&answers, shards.len()).unwrap();
            all.extend(joined.set_aside);
            (from, parts) = (joined.set_aside_next, parts + 1);
        }
        assert_eq!((all, parts), (shards.concat(), 8));
        assert_eq!(set_aside_from(&shards[0], None), (Vec::new(), None));
    }

    /// A shard that panicked went unnoticed until the next batch or cut, and that one told only that a shard had stopped.
    #[test]
    fn a_shard_that_panics_says_so_at_once() {
        let (failed, causes) = bounded(1);
        let on_failure: OnFailure = Arc::new(move |error| failed.send(format!("{error:#}")).unwrap());
        let history = Arc::new(|| anyhow::bail!("nothing is folded again"));
        let log = RunLog { incarnation: 0, partition: 0, key_check: 0 };
        let store = Arc::new(RunStore::open(Arc::new(SimulatedDisk::default()), log).unwrap());
        let (runs, _run_tasks) = bounded(1);
        let ids = Arc::new(IdCounts::new(1));
        let pool = Arc::new(SpillPool::open(Arc::new(SimulatedDisk::default()), 0).unwrap());
        let (places, metrics) = ((&store, &pool, &runs), Arc::default());
        let shards = Shards::start(vec![Shard::new(0)], history, places, &ids, &metrics, on_failure).unwrap();
        let mut builder = BatchBuilder::new("shop", "request", IdMode::Given);
        builder.push(&Event::new(EventIdOwned::Text("1".to_string()), "key", Timestamp::MIN)).unwrap();
        let frame = Arc::new(builder.finish(1, 0));
        let key = IdentityKey::from_hex(&"0".repeat(32)).unwrap();
        let batch = PreparedBatch::prepare(frame, None, Timestamp::MIN, key, 1).unwrap();
        let slots = VerdictSlots::new(1, 1, Box::new(|_| panic!("a rule is broken")));
        let task = ShardTask::Batch(Arc::new(batch), Some(Arc::new(slots)));
        shards.queues[0].send(task).unwrap();
        let cause = causes.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(cause, "the shard-0 thread panicked: a rule is broken");
        shards.join();
    }
}
