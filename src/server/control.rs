//! The control thread: takes commands, drives the control side, gives answers.
//!
//! Owns: commands and their answers, the timer, what may be served. Leaves to others: the order of records, barriers,
//! cuts and seals (`machine::ControlWriter`), what they mean (`machine`), usage (`usage_log`, `shards`).
//!
//! Invariants:
//! - Nothing is answered or served before its record is durable.
//! - A failed write or sync of any log ends the thread and with it the process.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use domain::time::DAY;
use domain::{EntityId, Timestamp};
use engine::shard::EventStanding;
use machine::{
    AckStatus, ControlError, ControlWriter, CorrectionRequest, CorrectionStatus, DoneCut, DoneJournals,
    Machine, NewBarrier, PassedBarrier, PutError, Surroundings, name_of,
};
pub use machine::{PutOutcome, RESOURCE_BYTES_MAX, StoredEntry};
use tokio::sync::{mpsc, oneshot};
use wire::control::{ClockKind, ControlRecord, IdsForgotten};

use crate::archive::{ArchiveState, is_of_archive};
use crate::clock::Clock;
use crate::event_finder::EventFinder;
use crate::forgetting::Forgetting;
use crate::observe::Metrics;
use crate::snapshots::{SNAPSHOT_PARTS_MAX, SnapshotJob, Snapshots};
use crate::threads::PeerStopped;
use crate::usage_log::{UsageLogState, UsageTask};

/// Commands that wait for the control thread.
pub const CONTROL_QUEUE_MAX: usize = 256;

/// Why a command was not done, in words for its caller.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// A resource was refused.
    #[error(transparent)]
    Put(#[from] PutError),
    /// The named thing does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The command contradicts the state.
    #[error("{0}")]
    Conflict(String),
    /// A correction is not made.
    #[error(transparent)]
    Correction(#[from] CorrectionStatus),
    /// Usage may have to be read again, and some of it lies in an archive that is out of reach.
    #[error("{0}")]
    ArchiveMustBeReachable(String),
    /// Usage has to be read again, and is damaged or missing.
    #[error("{0}")]
    UsageMustBeReadable(String),
    /// The digest belongs to another history.
    #[error("charge batch {batch} has digest {digest}; the given one belongs to another history")]
    HistoryForked {
        /// Number of the batch.
        batch: u64,
        /// Its digest here.
        digest: String,
    },
}

/// What a cut made.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CutOutcome {
    /// Number of the cut.
    pub cut: u64,
    /// The instant of the cut.
    pub at: Timestamp,
    /// Number of the sealed batch, if anything was charged.
    pub batch: Option<u64>,
    /// Digest of the last sealed batch.
    pub chain: String,
    /// Charge lines in the batch.
    pub lines: u64,
    /// Charges that could not be computed.
    pub failures: Vec<String>,
    /// Usage that fits no row of its price and waits for one.
    pub set_aside: Vec<String>,
}

/// What a journal run made.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct JournalOutcome {
    /// The legal entity.
    pub entity: EntityId,
    /// External ids of the journals.
    pub journals: Vec<String>,
}

/// What a correction made of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorrectionOutcome {
    /// Offset of the record; `None` if the correction was made before.
    pub control_offset: Option<u64>,
    /// Where the event stands now.
    pub standing: EventStanding,
}

type Reply<T> = oneshot::Sender<Result<T, CommandError>>;

/// What the control thread is asked to do.
pub enum Command {
    /// Takes resources, in order, all or none.
    Put {
        /// Kind and id from the path, and the body.
        resources: Vec<(String, String, serde_json::Value)>,
        /// Who asks.
        actor: String,
        /// Gets what happened to each.
        reply: Reply<Vec<PutOutcome>>,
    },
    /// Cuts now.
    Cut {
        /// Who asks.
        reason: String,
        /// Gets the outcome.
        reply: Reply<CutOutcome>,
    },
    /// Makes journals of one entity, or of all.
    Journals {
        /// The entity; `None` for all.
        entity: Option<EntityId>,
        /// Who asks.
        reason: String,
        /// Gets the outcome.
        reply: Reply<Vec<JournalOutcome>>,
    },
    /// Billing has a batch.
    AckBatch {
        /// Number of the batch.
        batch: u64,
        /// Its digest, if the consumer gave it.
        digest: Option<String>,
        /// The consumer.
        consumer: String,
        /// Gets the outcome.
        reply: Reply<()>,
    },
    /// Corrects an event.
    Correct {
        /// What is asked for.
        request: Box<CorrectionRequest>,
        /// Gets the outcome.
        reply: Reply<CorrectionOutcome>,
    },
    /// Moves the scenario clock, and does what falls due until then.
    AdvanceClock {
        /// The new present.
        now: Timestamp,
        /// Gets the new present.
        reply: Reply<Timestamp>,
    },
    /// Reads the machine.
    Read(Box<dyn FnOnce(&Machine) + Send>),
    /// Ends the thread after what is queued.
    Stop,
}

/// Sealed content that may be served: an entry appears after its seal is durable.
#[derive(Default)]
pub struct Served {
    /// Charge batches, in order of their numbers.
    pub batches: std::sync::RwLock<Vec<StoredEntry>>,
    /// Journal runs, in order.
    pub journals: std::sync::RwLock<Vec<StoredEntry>>,
}

/// The control thread.
pub struct Control {
    /// The control side.
    pub writer: ControlWriter,
    /// Where its barriers go.
    pub surroundings: ControlSurroundings,
    /// Where single events are found.
    pub events: EventFinder,
    /// What is known of the archive.
    pub archive: Arc<ArchiveState>,
    /// When ids are forgotten.
    pub forgetting: Forgetting,
    /// Time between issuing cuts.
    pub cut_interval: i64,
    /// What a person accepted or changed with this start; in force behind the work that a crash left open.
    pub start_records: Vec<ControlRecord>,
    /// What may be served.
    pub served: Arc<Served>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// The usage log, the shards and the clock, as the control side sees them.
pub struct ControlSurroundings {
    /// Queue of the usage-log writer.
    pub usage: mpsc::Sender<UsageTask>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// Number of shards.
    pub shards: usize,
    /// Where snapshots are asked for.
    pub snapshots: Snapshots,
    /// State of the usage log.
    pub usage_state: Arc<UsageLogState>,
}

impl Surroundings for ControlSurroundings {
    fn now(&mut self) -> Timestamp {
        self.clock.now()
    }

    fn pass_barrier(&mut self, barrier: NewBarrier) -> Result<PassedBarrier, Box<dyn Error + Send + Sync>> {
        let sent = barrier.clone();
        let (durable, offsets) = bounded(1);
        let (reached, shards) = bounded(self.shards);
        let (parts_to, parts) = bounded(SNAPSHOT_PARTS_MAX);
        let parts_to = barrier.snapshot.is_some().then_some(parts_to);
        if parts_to.is_some() {
            // Before any shard lists its runs, so that none of them is taken away.
            self.snapshots.state.making.begin();
        }
        let task = UsageTask::Barrier { barrier, parts: parts_to, durable, reached };
        self.usage.blocking_send(task).map_err(|_| PeerStopped("the usage log"))?;
        let offset = offsets.recv().map_err(|_| PeerStopped("the usage log"))?;
        let mut reports = Vec::with_capacity(self.shards);
        for _ in 0..self.shards {
            reports.push(shards.recv().map_err(|_| PeerStopped("a shard"))?);
        }
        if let Some(head) = sent.snapshot_head(self.snapshots.log, self.shards, offset) {
            self.snapshots
                .jobs
                .send(SnapshotJob { head, parts })
                .map_err(|_| PeerStopped("the snapshots"))?;
        }
        Ok(PassedBarrier { offset, reports })
    }
}

/// What its caller is told of usage that cannot be read.
fn unreadable(error: &anyhow::Error) -> CommandError {
    let said = format!("{error:#}");
    match is_of_archive(error) {
        true => CommandError::ArchiveMustBeReachable(said),
        false => CommandError::UsageMustBeReadable(said),
    }
}

/// The cause that ends the thread. That a peer has stopped is said as it is, so that the peer speaks first.
fn cause(error: ControlError) -> anyhow::Error {
    match error {
        ControlError::Barrier(source) => match source.downcast::<PeerStopped>() {
            Ok(stopped) => (*stopped).into(),
            Err(source) => ControlError::Barrier(source).into(),
        },
        error => error.into(),
    }
}

impl Control {
    /// Runs until it is stopped or storage fails. `commands` is drained before the thread ends.
    ///
    /// # Errors
    /// The failed write, sync or clock.
    pub fn run(mut self, commands: &Receiver<Command>) -> Result<()> {
        let start_records = std::mem::take(&mut self.start_records);
        let finished = self.writer.start(&mut self.surroundings, &start_records).map_err(cause)?;
        if let Some(done) = finished.cut {
            self.outcome_of(done);
        }
        if let Some(done) = finished.journals {
            self.serve_journals(done);
        }
        loop {
            match commands.recv_timeout(Duration::from_millis(500)) {
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(command) => self.handle(command)?,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.surroundings.clock.kind() == ClockKind::Real {
                self.run_due(self.surroundings.clock.now())?;
            }
            self.forget_if_too_many()?;
            self.snapshot_if_due(false)?;
        }
        self.snapshot_if_due(true)?;
        self.writer.close_cleanly().map_err(cause)
    }

    fn snapshot_if_due(&mut self, is_stop: bool) -> Result<()> {
        let usage_end = self.surroundings.usage_state.end_offset.offset();
        if self.surroundings.snapshots.is_due(usage_end, is_stop) {
            self.writer.begin_snapshot(&mut self.surroundings).map_err(cause)?;
        }
        Ok(())
    }

    fn handle(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Put { resources, actor, reply } => {
                if let Err(said) = self.archive.check_reach(&self.events.directory)? {
                    let _ = reply.send(Err(CommandError::ArchiveMustBeReachable(said)));
                    return Ok(());
                }
                let outcome = self.put(resources, &actor)?;
                let _ = reply.send(outcome);
            }
            Command::Cut { reason, reply } => {
                let outcome = self.cut(self.surroundings.clock.now(), &reason)?;
                let _ = reply.send(Ok(outcome));
            }
            Command::Journals { entity, reason, reply } => {
                let outcome = self.journals_of(entity, &reason)?;
                let _ = reply.send(outcome);
            }
            Command::AckBatch { batch, digest, consumer, reply } => {
                let outcome = self.ack_batch(batch, digest.as_deref(), &consumer)?;
                let _ = reply.send(outcome);
            }
            Command::Correct { request, reply } => {
                let outcome = self.correct(*request)?;
                let _ = reply.send(outcome);
            }
            Command::AdvanceClock { now, reply } => {
                let outcome = self.advance_clock(now)?;
                let _ = reply.send(outcome);
            }
            Command::Read(read) => read(self.writer.machine()),
            Command::Stop => {}
        }
        Ok(())
    }

    /// Takes resources, once all usage was read that they make shards fold again.
    fn put(
        &mut self,
        resources: Vec<(String, String, serde_json::Value)>,
        actor: &str,
    ) -> Result<Result<Vec<PutOutcome>, CommandError>> {
        let proposed = match self.writer.propose_puts(resources, actor) {
            Ok(proposed) => proposed,
            Err(error) => return Ok(Err(error.into())),
        };
        if let Some(plan) = &proposed.refolding {
            let around = &self.surroundings;
            let subjects = self.events.folded_again_by(&around.usage, plan, around.shards)?;
            let usage_end = around.usage_state.end_offset.offset();
            if let Err(error) = self.events.check_readable(&subjects, usage_end) {
                tracing::error!("the catalog does not change: {error:#}");
                return Ok(Err(unreadable(&error)));
            }
        }
        Ok(Ok(self.writer.take_puts(&mut self.surroundings, proposed).map_err(cause)?))
    }

    /// Corrects an event that every shard was asked for, behind all usage that was acknowledged before.
    fn correct(&mut self, request: CorrectionRequest) -> Result<Result<CorrectionOutcome, CommandError>> {
        if let Err(said) = self.archive.check_reach(&self.events.directory)? {
            return Ok(Err(CommandError::ArchiveMustBeReachable(said)));
        }
        let name = name_of(self.events.key, &request.source, &request.id);
        let around = &mut self.surroundings;
        let known = match self.events.find(&around.usage, name)? {
            Some(found) => {
                let usage_end = around.usage_state.end_offset.offset();
                let machine = self.writer.machine();
                let read = self.events.read(found).and_then(|known| {
                    // What the shards read once the correction is recorded must be readable before.
                    self.events.check_readable(&machine.folded_again_by(&request, &known), usage_end)?;
                    Ok(known)
                });
                match read {
                    Ok(known) => Some(known),
                    Err(error) => {
                        tracing::error!("an event is not corrected: {error:#}");
                        return Ok(Err(unreadable(&error)));
                    }
                }
            }
            None => None,
        };
        let recorded = self.writer.correct(around, request, known.as_ref()).map_err(cause)?;
        let control_offset = match recorded {
            Ok(control_offset) => control_offset,
            Err(status) => return Ok(Err(status.into())),
        };
        let found = self.events.find(&around.usage, name)?.context("a corrected event is known")?;
        Ok(Ok(CorrectionOutcome { control_offset, standing: found.standing }))
    }

    /// One issuing cut.
    fn cut(&mut self, at: Timestamp, reason: &str) -> Result<CutOutcome> {
        let started = Instant::now();
        let done = self.writer.cut(&mut self.surroundings, at, reason).map_err(cause)?;
        let outcome = self.outcome_of(done);
        self.metrics.record_cut(started.elapsed());
        Ok(outcome)
    }

    /// Serves what a cut sealed, and says what it could not charge.
    fn outcome_of(&mut self, done: DoneCut) -> CutOutcome {
        let machine = self.writer.machine();
        let outcome = CutOutcome {
            cut: done.cut.number,
            at: done.cut.at,
            batch: done.sealed.as_ref().map(|(batch, _)| batch.head.number),
            chain: machine.control().chain_head().to_string(),
            lines: done.sealed.as_ref().map_or(0, |(batch, _)| batch.head.lines),
            failures: machine.failures().map(ToString::to_string).collect(),
            set_aside: machine.set_aside().iter().map(ToString::to_string).collect(),
        };
        for waiting in &outcome.set_aside {
            tracing::warn!("usage is not charged: {waiting}");
        }
        for failure in &outcome.failures {
            tracing::error!("a charge cannot be computed and its account is not charged: {failure}");
        }
        if let Some((batch, entry)) = done.sealed {
            self.metrics.charge_lines.fetch_add(batch.head.lines, Ordering::Relaxed);
            self.metrics.batches.store(batch.head.number, Ordering::Relaxed);
            self.served.batches.write().expect("nothing panics while it holds the list").push(entry);
        }
        outcome
    }

    /// Makes the journals of an entity, or of all entities.
    fn journals_of(
        &mut self,
        entity: Option<EntityId>,
        reason: &str,
    ) -> Result<Result<Vec<JournalOutcome>, CommandError>> {
        let catalog = self.writer.machine().control().catalog();
        let entities: Vec<EntityId> = match entity {
            Some(entity) if catalog.entity(&entity).is_none() => {
                return Ok(Err(CommandError::NotFound(format!("there is no legal entity {entity}"))));
            }
            Some(entity) => vec![entity],
            None => catalog.entities().map(|entity| entity.id.clone()).collect(),
        };
        let now = self.surroundings.clock.now();
        let mut outcomes = Vec::new();
        for entity in entities {
            let journals = self.journal_run(&entity, now, reason)?;
            outcomes.push(JournalOutcome { entity, journals });
        }
        Ok(Ok(outcomes))
    }

    fn journal_run(&mut self, entity: &EntityId, at: Timestamp, reason: &str) -> Result<Vec<String>> {
        let done = self.writer.journal_run(&mut self.surroundings, entity, at, reason).map_err(cause)?;
        Ok(done.map_or_else(Vec::new, |done| self.serve_journals(done)))
    }

    fn serve_journals(&mut self, done: DoneJournals) -> Vec<String> {
        let journals = done.journals.journals;
        self.served.journals.write().expect("nothing panics while it holds the list").push(done.entry);
        self.metrics.journals.fetch_add(journals.len() as u64, Ordering::Relaxed);
        journals.into_iter().map(|journal| journal.external_id).collect()
    }

    fn ack_batch(
        &mut self,
        batch: u64,
        digest: Option<&str>,
        consumer: &str,
    ) -> Result<Result<(), CommandError>> {
        let acked = self.writer.ack_batch(&mut self.surroundings, batch, digest, consumer).map_err(cause)?;
        Ok(acked.map_err(|status| match status {
            AckStatus::BatchMustExist => CommandError::NotFound(format!("there is no charge batch {batch}")),
            AckStatus::DigestMustMatch(digest) => CommandError::HistoryForked { batch, digest },
        }))
    }

    fn advance_clock(&mut self, now: Timestamp) -> Result<Result<Timestamp, CommandError>> {
        let clock = &self.surroundings.clock;
        if clock.kind() != ClockKind::Scenario {
            return Ok(Err(CommandError::Conflict("this directory runs on the real clock".to_string())));
        }
        if now < clock.now() {
            return Ok(Err(CommandError::Conflict(format!(
                "the scenario clock is already at {}",
                clock.now()
            ))));
        }
        self.writer.set_scenario_clock(&mut self.surroundings, now).map_err(cause)?;
        self.surroundings.clock.set_scenario(now);
        self.run_due(now)?;
        Ok(Ok(now))
    }

    /// Cuts if a regular instant or a window end passed since the last cut; makes journals at entity midnights.
    fn run_due(&mut self, now: Timestamp) -> Result<()> {
        if self.writer.is_cut_due(now, self.cut_interval) {
            self.cut(now, "timer")?;
        }
        for entity in self.writer.journals_due(now) {
            self.journal_run(&entity, now, "midnight")?;
        }
        self.forget_if_due(now)
    }

    /// Forgets ids that were remembered for as long as they are to be.
    fn forget_if_due(&mut self, now: Timestamp) -> Result<()> {
        let usage_end = self.surroundings.usage_state.end_offset.offset();
        let control = self.writer.machine().control();
        match self.forgetting.is_due(control, now, &self.events.directory, usage_end)? {
            Some(forgotten) => self.forget(forgotten),
            None => Ok(()),
        }
    }

    /// Forgets the oldest ids, if there are more than there may be.
    fn forget_if_too_many(&mut self) -> Result<()> {
        if !self.forgetting.are_too_many() {
            return Ok(());
        }
        let (reply, answers) = bounded(self.surroundings.shards);
        self.surroundings
            .usage
            .blocking_send(UsageTask::Ids(reply))
            .map_err(|_| PeerStopped("the usage log"))?;
        let mut stretches = Vec::new();
        for _ in 0..self.surroundings.shards {
            stretches.extend(answers.recv().map_err(|_| PeerStopped("a shard"))?);
        }
        let usage_end = self.surroundings.usage_state.end_offset.offset();
        let control = self.writer.machine().control();
        let directory = &self.events.directory;
        match self.forgetting.too_many(control, stretches, directory, usage_end)? {
            Some(forgotten) => self.forget(forgotten),
            None => Ok(()),
        }
    }

    fn forget(&mut self, forgotten: IdsForgotten) -> Result<()> {
        self.writer.forget(&mut self.surroundings, forgotten).map_err(cause)?;
        let now = self.surroundings.clock.now();
        let control = self.writer.machine().control();
        let forgotten = control.forgotten().context("ids were just forgotten")?;
        self.forgetting.on_forgotten(forgotten, control.forgotten_ids().proven_from, now);
        Ok(())
    }
}

/// Unbilled amounts: batches that billing did not acknowledge, by currency in minor units.
pub fn unbilled(machine: &Machine) -> BTreeMap<domain::Currency, i128> {
    let mut totals = BTreeMap::new();
    for (_, amounts) in machine.unacked().values() {
        for (currency, minor) in amounts {
            *totals.entry(*currency).or_default() += minor;
        }
    }
    totals
}

/// Longest plausible time between two issuing cuts; a larger setting is refused.
pub const CUT_INTERVAL_MAX: i64 = 31 * DAY;
