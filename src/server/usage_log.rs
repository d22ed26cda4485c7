//! The usage-log writer: one thread, adaptive group commit, durable before anything is visible.
//!
//! Owns: the order of batches and barriers, acks, hand-off to the shards. Leaves to others: bytes on disk
//! (`engine::log`), decisions (`shards`).
//!
//! Group commit adapts by itself: while one commit is being synced, batches gather in the queue; the next commit takes
//! all of them. An idle server commits a single batch at once.
//!
//! Invariants: an ack leaves after the sync that covers its batch; after a failed write or sync there are no more acks,
//! and the process ends with the cause.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;
use crossbeam_channel::Sender;
use domain::plan::MeteringPlan;
use domain::{EventPosition, Subject, Timestamp};
use engine::identity::EventName;
use engine::log::LogWriter;
use engine::prepared::PreparedBatch;
use engine::shard::FoundEvent;
use engine::shard::cell::CellReport;
use engine::snapshot::SnapshotPart;
use machine::NewBarrier;
use tokio::sync::{mpsc, oneshot};
use wire::usage_record::{BatchRecordHead, KIND_BARRIER, KIND_USAGE_BATCH, encode_barrier};

use crate::clock::{CLOCK_STEP_MAX, Clock, ClockStepped};
use crate::handoff::{DurableEnd, VerdictSlots};
use crate::observe::Metrics;
use crate::segments::Segments;
use crate::shards::{BarrierTask, ShardSnapshot, ShardTask};
use crate::shares::{Share, Shares};
use crate::sources::Sources;
use crate::threads::PeerStopped;

/// Batches that wait for the log writer; each is at most 1 MiB.
pub const USAGE_QUEUE_MAX: usize = 128;
/// Bytes that one commit gathers before it is written.
pub const COMMIT_BYTES_MAX: usize = 4 << 20;
/// Bytes of batches before the log writer and in it: a commit that is written, one that gathers, and as much on its way.
pub const QUEUED_BYTES_MAX: usize = 4 * COMMIT_BYTES_MAX;

/// A batch on its way into the log.
pub struct IncomingBatch {
    /// The batch, checked and hashed.
    pub prepared: PreparedBatch,
    /// Who sent it.
    pub producer: u64,
    /// Called when the batch is durable, with its offset.
    pub on_durable: Box<dyn FnOnce(u64) + Send>,
    /// Called with a verdict code per event once all shards applied it, where the client asked.
    pub on_verdicts: Option<Box<dyn FnOnce(Vec<u8>) + Send>>,
    /// When the last byte of the batch arrived, for the latency histogram.
    pub arrived: Instant,
}

/// The way of batches into the log: sources take turns.
#[derive(Clone)]
pub struct UsageQueue {
    tasks: mpsc::Sender<UsageTask>,
    shares: Shares,
    /// The sources whose batches go there.
    pub sources: Sources,
    metrics: Arc<Metrics>,
}

impl UsageQueue {
    /// A way to the writer behind a queue.
    pub fn new(tasks: mpsc::Sender<UsageTask>, sources: Sources, metrics: Arc<Metrics>) -> Self {
        Self { tasks, shares: Shares::new(QUEUED_BYTES_MAX, QUEUED_BYTES_MAX), sources, metrics }
    }

    /// Hands a batch of a source that was let in on when it is its turn.
    ///
    /// # Errors
    /// If the log is not written any more.
    pub async fn send(&self, source: &Arc<str>, batch: IncomingBatch) -> Result<(), PeerStopped> {
        let share = self.shares.take(source, batch.prepared.frame().len()).await;
        self.metrics.batches_queued.fetch_add(1, Ordering::Relaxed);
        let sent = self.tasks.send(UsageTask::Batch(Box::new(batch), share)).await;
        sent.map_err(|_| PeerStopped("the usage log"))
    }
}

/// What the log writer is asked to do.
pub enum UsageTask {
    /// Append a batch; its share of the queue ends when the shards have it.
    Batch(Box<IncomingBatch>, Share),
    /// Append a barrier.
    Barrier {
        /// The barrier.
        barrier: NewBarrier,
        /// Where the parts of a snapshot go if one begins here.
        parts: Option<Sender<SnapshotPart>>,
        /// Gets the barrier's offset once it is durable.
        durable: Sender<u64>,
        /// Gets one message per shard once it passed the barrier.
        reached: Sender<(usize, Vec<CellReport>)>,
    },
    /// Asks every shard what became of the events that came before.
    Snapshot(Option<EventPosition>, Sender<ShardSnapshot>),
    /// Asks the shard of an event that came before for it.
    Find(EventName, Sender<Option<FoundEvent>>),
    /// Asks every shard where its ids are in the log.
    Ids(Sender<Vec<(u64, u64)>>),
    /// Asks every shard which subjects a barrier with a plan would have folded again.
    FoldedAgain(Arc<MeteringPlan>, Sender<Vec<Subject>>),
    /// Asks for the offset behind everything that came before, once that is durable and with the shards.
    Position(oneshot::Sender<u64>),
    /// Sync what is queued, close the log cleanly, and stop.
    Stop,
}

/// State of the writer that others read.
#[derive(Default)]
pub struct UsageLogState {
    /// Offset behind the last durable record.
    pub end_offset: DurableEnd,
    /// Bytes written since start.
    pub bytes: AtomicU64,
    /// Commits since start.
    pub commits: AtomicU64,
}

/// The writer.
pub struct UsageLog {
    /// The log.
    pub writer: LogWriter,
    /// Stamps blocks.
    pub clock: Arc<Clock>,
    /// Makes room for it.
    pub segments: Segments,
    /// Queues of the shards.
    pub shards: Vec<Sender<ShardTask>>,
    /// Shared state.
    pub state: Arc<UsageLogState>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

enum Staged {
    Ids(Sender<Vec<(u64, u64)>>),
    FoldedAgain(Arc<MeteringPlan>, Sender<Vec<Subject>>),
    Snapshot(Option<EventPosition>, Sender<ShardSnapshot>),
    Find(EventName, Sender<Option<FoundEvent>>),
    Position(oneshot::Sender<u64>, u64),
    Batch(Box<IncomingBatch>, u64, Share),
    Barrier {
        offset: u64,
        barrier: NewBarrier,
        parts: Option<Sender<SnapshotPart>>,
        durable: Sender<u64>,
        reached: Sender<(usize, Vec<CellReport>)>,
    },
}

impl UsageLog {
    /// Runs until it is stopped or storage fails.
    ///
    /// # Errors
    /// The failed write, sync or clock; nothing is acknowledged after it.
    pub fn run(mut self, mut tasks: mpsc::Receiver<UsageTask>) -> anyhow::Result<()> {
        let mut staged = Vec::new();
        while let Some(task) = tasks.blocking_recv() {
            let mut is_stopping = self.stage(task, &mut staged)?;
            while !is_stopping && self.writer.staged_bytes() < COMMIT_BYTES_MAX {
                let Ok(task) = tasks.try_recv() else { break };
                is_stopping = self.stage(task, &mut staged)?;
            }
            self.commit(&mut staged)?;
            if is_stopping {
                break;
            }
        }
        self.segments.stop(&mut self.writer);
        self.writer.close_cleanly().context("the usage log cannot be closed")?;
        Ok(())
    }

    fn stage(&mut self, task: UsageTask, staged: &mut Vec<Staged>) -> anyhow::Result<bool> {
        match task {
            UsageTask::Batch(batch, share) => {
                let head = BatchRecordHead {
                    producer: batch.producer,
                    refusals: batch.prepared.refusals().to_vec(),
                }
                .encode();
                let received_at = batch.prepared.received_at.nanoseconds();
                let parts: [&[u8]; 2] = [&head, batch.prepared.frame()];
                let offset = self.writer.stage(KIND_USAGE_BATCH, received_at, &parts)?;
                staged.push(Staged::Batch(batch, offset, share));
            }
            UsageTask::Barrier { barrier, parts, durable, reached } => {
                let now = self.clock.now().nanoseconds();
                let offset =
                    self.writer.stage(KIND_BARRIER, now, &[&encode_barrier(barrier.control_offset)])?;
                staged.push(Staged::Barrier { offset, barrier, parts, durable, reached });
            }
            UsageTask::Snapshot(from, reply) => staged.push(Staged::Snapshot(from, reply)),
            UsageTask::Ids(reply) => staged.push(Staged::Ids(reply)),
            UsageTask::FoldedAgain(plan, reply) => staged.push(Staged::FoldedAgain(plan, reply)),
            UsageTask::Find(event, reply) => staged.push(Staged::Find(event, reply)),
            UsageTask::Position(reply) => {
                let behind = self.writer.next_offset() + self.writer.staged_bytes() as u64;
                staged.push(Staged::Position(reply, behind));
            }
            UsageTask::Stop => return Ok(true),
        }
        Ok(false)
    }

    fn commit(&mut self, staged: &mut Vec<Staged>) -> anyhow::Result<()> {
        if staged.is_empty() {
            return Ok(());
        }
        let now: Timestamp = self.stamp(staged)?;
        let committed = self.writer.commit(now.nanoseconds()).context("the usage log cannot be written")?;
        self.state.end_offset.publish(committed.end_offset);
        self.state.bytes.fetch_add(committed.bytes, Ordering::Relaxed);
        self.state.commits.fetch_add(1, Ordering::Relaxed);
        for item in staged.drain(..) {
            self.hand_on(item)?;
        }
        self.segments.serve(&mut self.writer, committed.ended_segment.is_some());
        Ok(())
    }

    /// The present. What arrived far behind it says that the clock stepped back meanwhile.
    fn stamp(&self, staged: &[Staged]) -> Result<Timestamp, ClockStepped> {
        let now = self.clock.checked_now()?;
        let arrived = staged.iter().filter_map(|item| match item {
            Staged::Batch(batch, ..) => Some(batch.prepared.received_at),
            _ => None,
        });
        match arrived.max() {
            Some(expected) if expected > now.plus(CLOCK_STEP_MAX) => {
                Err(ClockStepped { expected, found: now })
            }
            _ => Ok(now),
        }
    }

    /// Acknowledges a durable item and gives it to every shard.
    fn hand_on(&self, item: Staged) -> anyhow::Result<()> {
        match item {
            Staged::Snapshot(from, reply) => {
                for shard in &self.shards {
                    hand_to(shard, ShardTask::Snapshot(from, reply.clone()))?;
                }
            }
            Staged::Ids(reply) => {
                for shard in &self.shards {
                    hand_to(shard, ShardTask::Ids(reply.clone()))?;
                }
            }
            Staged::FoldedAgain(plan, reply) => {
                for shard in &self.shards {
                    hand_to(shard, ShardTask::FoldedAgain(plan.clone(), reply.clone()))?;
                }
            }
            Staged::Position(reply, behind) => {
                // A query that was abandoned does not wait for its answer.
                let _ = reply.send(behind);
            }
            Staged::Find(event, reply) => {
                let shard = &self.shards[event.shard(self.shards.len())];
                hand_to(shard, ShardTask::Find(event, reply))?;
            }
            Staged::Batch(batch, offset, _share) => {
                let IncomingBatch { mut prepared, on_durable, on_verdicts, arrived, .. } = *batch;
                prepared.offset = offset;
                on_durable(offset);
                self.metrics.record_ack(arrived.elapsed());
                let slots = on_verdicts
                    .map(|send| Arc::new(VerdictSlots::new(prepared.event_count(), self.shards.len(), send)));
                let prepared = Arc::new(prepared);
                for shard in &self.shards {
                    hand_to(shard, ShardTask::Batch(prepared.clone(), slots.clone()))?;
                }
            }
            Staged::Barrier { offset, barrier, parts, durable, reached } => {
                let _ = durable.send(offset);
                let task = Arc::new(BarrierTask { offset, barrier, parts, reached });
                for shard in &self.shards {
                    hand_to(shard, ShardTask::Barrier(task.clone()))?;
                }
            }
        }
        Ok(())
    }
}

fn hand_to(shard: &Sender<ShardTask>, task: ShardTask) -> Result<(), PeerStopped> {
    shard.send(task).map_err(|_| PeerStopped("a shard"))
}
