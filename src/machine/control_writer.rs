//! The control side: the only writer of the control log, the charge log and the journal log.
//!
//! Owns: the order of control records, barriers, cuts, stored content, seals and journal runs, and when they are due.
//! Leaves to others: what records mean (`machine`), the way of a barrier through the usage log and the shards, and the
//! clock ([`Surroundings`]), threads and answers (`server::control`).
//!
//! A cut, step by step: barrier durable in the usage log and passed by every shard; cells merged; `cut` record durable;
//! rated; batch durable in the charge log; records of what could not be rated and the `seal` durable, in one commit if they
//! fit; only then is the batch given to the caller. A crash between any two steps is repaired at the next start: see
//! `recovery`.
//!
//! Calling order: `start` once, then anything else.
//!
//! Invariants:
//! - What a call gives is durable; nothing is applied before its record is durable.
//! - After a failed write or sync every later call fails.

use std::error::Error;
use std::sync::Arc;

use billing::ledger::LedgerStatus;
use domain::plan::MeteringPlan;
use domain::{EntityId, Timestamp};
use engine::log::{LogError, LogOptions, LogWriter};
use engine::shard::Correction;
use engine::shard::cell::CellReport;
use engine::shard::spill::SpillError;
use engine::snapshot::SnapshotHead;
use wire::control::{BatchAck, ControlRecord, Cut, FAILURES_MAX, IdsForgotten, ScenarioClock};

use crate::batch::Batch;
use crate::control::ApplyError;
use crate::corrections::{CorrectionRequest, CorrectionStatus, KnownEvent};
use crate::journals::JournalBatch;
use crate::machine::{Machine, ProposedPuts, PutError, RatedBatch};
use crate::stored::{StoredEntry, store};

/// Kind of the records of the control log.
pub const KIND_CONTROL: u16 = 1;
/// Bytes of records that one commit of the control log gathers.
const COMMIT_BYTES_MAX: usize = 4 << 20;
/// Bytes of a resource as a record.
pub const RESOURCE_BYTES_MAX: usize = 1 << 20;
// Ids have at most 64 bytes, and a broken rule less than 512 in words; every other record but a put is far smaller.
const _: () = assert!(FAILURES_MAX * (4 * 64 + 512) <= engine::log::RECORD_BYTES_MAX);
const _: () =
    assert!(RESOURCE_BYTES_MAX <= engine::log::RECORD_BYTES_MAX && RESOURCE_BYTES_MAX <= COMMIT_BYTES_MAX);

/// A barrier to be sent through the usage log and all shards.
#[derive(Clone)]
pub struct NewBarrier {
    /// Control-log offset that it names.
    pub control_offset: u64,
    /// The plan of that control state.
    pub plan: Arc<MeteringPlan>,
    /// Corrections of events that count from here on, by shard and in the order of their records.
    pub corrections: Arc<[Vec<Correction>]>,
    /// Whether shards hand over the cells that changed.
    pub is_cut: bool,
    /// Digest of the control log up to there, if the shards begin a snapshot behind the barrier.
    pub snapshot: Option<[u8; 32]>,
}

impl NewBarrier {
    /// The head of the snapshot that shards begin behind the barrier, if they do: so many shards, of a log, where the barrier
    /// is at an offset.
    pub fn snapshot_head(&self, log: LogOptions, shards: usize, usage_offset: u64) -> Option<SnapshotHead> {
        Some(SnapshotHead {
            incarnation: log.incarnation,
            partition: u32::from(log.partition),
            shards: shards as u32, // at most SHARDS_MAX
            usage_offset,
            control_offset: self.control_offset,
            history: self.snapshot?,
        })
    }
}

/// A barrier that is durable and that every shard passed.
pub struct PassedBarrier {
    /// Its offset in the usage log.
    pub offset: u64,
    /// What each shard handed over, in any order.
    pub reports: Vec<(usize, Vec<CellReport>)>,
}

/// What surrounds the control side.
pub trait Surroundings {
    /// The present.
    fn now(&mut self) -> Timestamp;
    /// Makes a barrier durable in the usage log and takes it through every shard.
    ///
    /// # Errors
    /// Whatever keeps the barrier from getting there; nothing goes on then.
    fn pass_barrier(&mut self, barrier: NewBarrier) -> Result<PassedBarrier, Box<dyn Error + Send + Sync>>;
}

/// Why the control side cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A log cannot be written.
    #[error("the {log} log cannot be written")]
    Log {
        /// Which.
        log: &'static str,
        /// The failed write or sync.
        #[source]
        source: LogError,
    },
    /// A barrier did not get through.
    #[error("a barrier did not get through")]
    Barrier(#[source] Box<dyn Error + Send + Sync>),
    /// A record that was proposed does not follow.
    #[error("a proposed record was refused: {record}")]
    RecordMustApply {
        /// The record.
        record: String,
        /// The broken rule.
        #[source]
        source: Box<ApplyError>,
    },
    /// What was kept of single events cannot be read.
    #[error("a cut cannot be rated")]
    Items(#[source] SpillError),
    /// Journals of sealed charges cannot be derived.
    #[error("journals cannot be derived")]
    Journals(#[source] LedgerStatus),
}

/// What happened to a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// Kind as in URL paths.
    pub kind: String,
    /// Id of the resource.
    pub id: String,
    /// The version made; `None` if the catalog had it already.
    pub version: Option<u32>,
}

/// A cut that is done.
#[derive(Clone, Debug)]
pub struct DoneCut {
    /// The cut.
    pub cut: Cut,
    /// The sealed batch and where it is stored; `None` if nothing differs from what was issued.
    pub sealed: Option<(Arc<Batch>, StoredEntry)>,
}

/// A journal run that is done.
#[derive(Clone, Debug)]
pub struct DoneJournals {
    /// The journals.
    pub journals: JournalBatch,
    /// Where they are stored.
    pub entry: StoredEntry,
}

/// What a start found open and finished.
#[derive(Default)]
pub struct FinishedWork {
    /// A cut without its seal.
    pub cut: Option<DoneCut>,
    /// A journal run without its seal.
    pub journals: Option<DoneJournals>,
}

/// Why an ack is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AckStatus {
    /// There is no such batch.
    BatchMustExist,
    /// The digest belongs to another history; the batch has this one.
    DigestMustMatch(String),
}

/// The writer.
pub struct ControlWriter {
    machine: Machine,
    log: LogWriter,
    charges: LogWriter,
    journals: LogWriter,
}

impl ControlWriter {
    /// The writer of a machine at the end of its logs.
    pub fn new(machine: Machine, log: LogWriter, charges: LogWriter, journals: LogWriter) -> Self {
        Self { machine, log, charges, journals }
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Finishes what a crash left open, then appends what a person accepted or changed with this start, then sends a
    /// barrier. Open work first: it is rated and posted under what was in force when it was recorded, as in a replay.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn start(
        &mut self,
        around: &mut dyn Surroundings,
        records: &[ControlRecord],
    ) -> Result<FinishedWork, ControlError> {
        let mut finished = FinishedWork::default();
        if self.machine.has_open_cut() {
            finished.cut = Some(self.rate_and_seal(around)?);
        }
        if let Some(run) = self.machine.open_journal_run() {
            let at = run.at;
            finished.journals = Some(self.derive_and_seal_journals(around, at)?);
        }
        self.append(around, records)?;
        self.barrier(around, false)?;
        Ok(finished)
    }

    /// Appends records, makes them durable, and applies them: in one commit, or in several if they are more than a block
    /// takes. What a crash leaves of several is a prefix.
    fn append(
        &mut self,
        around: &mut dyn Surroundings,
        records: &[ControlRecord],
    ) -> Result<(), ControlError> {
        let now = around.now().nanoseconds();
        let mut staged = Vec::new();
        for record in records {
            let bytes = record.encode();
            if self.log.staged_bytes() + bytes.len() > COMMIT_BYTES_MAX {
                self.commit(now, &mut staged)?;
            }
            let offset = self.log.stage(KIND_CONTROL, now, &[&bytes]).map_err(in_log("control"))?;
            staged.push((offset, record));
        }
        self.commit(now, &mut staged)
    }

    fn commit(&mut self, now: i64, staged: &mut Vec<(u64, &ControlRecord)>) -> Result<(), ControlError> {
        if staged.is_empty() {
            return Ok(());
        }
        self.log.commit(now).map_err(in_log("control"))?;
        for (offset, record) in staged.drain(..) {
            self.machine.apply(offset, record).map_err(|source| {
                let record = format!("{record:?}");
                ControlError::RecordMustApply { record, source: Box::new(source) }
            })?;
        }
        Ok(())
    }

    /// Sends a barrier through the usage log and the shards; merges their cells if a cut is to happen there.
    fn barrier(&mut self, around: &mut dyn Surroundings, is_cut: bool) -> Result<u64, ControlError> {
        self.send_barrier(around, is_cut, None)
    }

    /// Sends a barrier behind which all shards begin a snapshot.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn begin_snapshot(&mut self, around: &mut dyn Surroundings) -> Result<(), ControlError> {
        let history = self.machine.control().history();
        self.send_barrier(around, false, Some(history)).map(|_| ())
    }

    fn send_barrier(
        &mut self,
        around: &mut dyn Surroundings,
        is_cut: bool,
        snapshot: Option<[u8; 32]>,
    ) -> Result<u64, ControlError> {
        let control_offset = self.log.next_offset();
        let barrier = NewBarrier { snapshot, ..self.machine.new_barrier(control_offset, is_cut) };
        let passed = around.pass_barrier(barrier).map_err(ControlError::Barrier)?;
        if is_cut {
            for (shard, cells) in passed.reports {
                self.machine.handle_reports(shard, cells);
            }
        }
        Ok(passed.offset)
    }

    /// What resources (kind and id as in URL paths, and the body) make, in order: all or none. Nothing is recorded.
    ///
    /// # Errors
    /// [`PutError`], of the first one that is not taken.
    pub fn propose_puts(
        &mut self,
        resources: Vec<(String, String, serde_json::Value)>,
        actor: &str,
    ) -> Result<ProposedPuts, PutError> {
        self.machine.propose_puts(resources, actor)
    }

    /// Records what was proposed last; it is in force when the call returns.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn take_puts(
        &mut self,
        around: &mut dyn Surroundings,
        proposed: ProposedPuts,
    ) -> Result<Vec<PutOutcome>, ControlError> {
        if !proposed.records.is_empty() {
            self.append(around, &proposed.records)?;
            self.barrier(around, false)?;
        }
        Ok(proposed.outcomes)
    }

    /// Takes resources, in order: all or none. The inner error says why none was taken.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn put(
        &mut self,
        around: &mut dyn Surroundings,
        resources: Vec<(String, String, serde_json::Value)>,
        actor: &str,
    ) -> Result<Result<Vec<PutOutcome>, PutError>, ControlError> {
        match self.propose_puts(resources, actor) {
            Ok(proposed) => self.take_puts(around, proposed).map(Ok),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Corrects an event, which `known` is if there is one; gives the offset of its record, or `None` if the correction was
    /// made before. It counts when the call returns. The inner error says why it is not made.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn correct(
        &mut self,
        around: &mut dyn Surroundings,
        request: CorrectionRequest,
        known: Option<&KnownEvent>,
    ) -> Result<Result<Option<u64>, CorrectionStatus>, ControlError> {
        let control_end = self.log.next_offset();
        let record = match self.machine.propose_correction(request, known, control_end, around.now()) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(Ok(None)),
            Err(status) => return Ok(Err(status)),
        };
        self.append(around, std::slice::from_ref(&record))?;
        let offset = self.machine.control().corrections().last_offset();
        self.barrier(around, false)?;
        Ok(Ok(offset))
    }

    /// Forgets ids from a new barrier on.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn forget(
        &mut self,
        around: &mut dyn Surroundings,
        forgotten: IdsForgotten,
    ) -> Result<(), ControlError> {
        self.append(around, &[ControlRecord::IdsForgotten(forgotten)])?;
        self.barrier(around, false).map(|_| ())
    }

    /// One issuing cut.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn cut(
        &mut self,
        around: &mut dyn Surroundings,
        at: Timestamp,
        reason: &str,
    ) -> Result<DoneCut, ControlError> {
        let barrier = self.barrier(around, true)?;
        let record = self.machine.propose_cut(barrier, at, reason);
        self.append(around, std::slice::from_ref(&record))?;
        self.rate_and_seal(around)
    }

    fn rate_and_seal(&mut self, around: &mut dyn Surroundings) -> Result<DoneCut, ControlError> {
        let cut = self.machine.open_cut().expect("a cut is open when it is rated").clone();
        let mut done = DoneCut { cut, sealed: None };
        let rated = self.machine.rate_open_cut().map_err(ControlError::Items)?;
        let mut records = self.machine.propose_unrated();
        if let Some(RatedBatch { batch, bytes, seal }) = rated {
            let entry = store(&mut self.charges, seal.batch, &seal.digest, &bytes, done.cut.at)
                .map_err(in_log("charge"))?;
            records.push(ControlRecord::Seal(seal));
            done.sealed = Some((batch, entry));
        }
        self.append(around, &records)?;
        self.machine.close_cut();
        Ok(done)
    }

    /// Makes the journals of an entity; `None` if nothing was charged since its last ones.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn journal_run(
        &mut self,
        around: &mut dyn Surroundings,
        entity: &EntityId,
        at: Timestamp,
        reason: &str,
    ) -> Result<Option<DoneJournals>, ControlError> {
        let Some(record) = self.machine.propose_journal_run(entity, at, reason) else { return Ok(None) };
        self.append(around, &[record])?;
        self.derive_and_seal_journals(around, at).map(Some)
    }

    fn derive_and_seal_journals(
        &mut self,
        around: &mut dyn Surroundings,
        at: Timestamp,
    ) -> Result<DoneJournals, ControlError> {
        let (journals, seal) = self.machine.derive_open_journals().map_err(ControlError::Journals)?;
        let number = self.machine.control().journal_seals() + 1;
        let entry = store(&mut self.journals, number, &seal.digest, &journals.encode(), at)
            .map_err(in_log("journal"))?;
        self.append(around, &[ControlRecord::JournalSeal(seal)])?;
        Ok(DoneJournals { journals, entry })
    }

    /// Records that billing has a batch; an ack of what was acknowledged before makes no record.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn ack_batch(
        &mut self,
        around: &mut dyn Surroundings,
        batch: u64,
        digest: Option<&str>,
        consumer: &str,
    ) -> Result<Result<(), AckStatus>, ControlError> {
        let seals = self.machine.control().seals();
        let seal = batch.checked_sub(1).and_then(|index| seals.get(usize::try_from(index).ok()?));
        let Some(seal) = seal else { return Ok(Err(AckStatus::BatchMustExist)) };
        let sealed = seal.digest.clone();
        if digest.is_some_and(|digest| digest != sealed) {
            return Ok(Err(AckStatus::DigestMustMatch(sealed)));
        }
        if batch > self.machine.control().acked_batch() {
            let ack = BatchAck { batch, digest: sealed, consumer: consumer.to_string() };
            self.append(around, &[ControlRecord::BatchAck(ack)])?;
        }
        Ok(Ok(()))
    }

    /// Moves the scenario clock.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn set_scenario_clock(
        &mut self,
        around: &mut dyn Surroundings,
        now: Timestamp,
    ) -> Result<(), ControlError> {
        self.append(around, &[ControlRecord::ScenarioClock(ScenarioClock { now })])
    }

    /// Whether a regular instant, or a due instant of an account, passed since the last cut.
    pub fn is_cut_due(&self, now: Timestamp, cut_interval: i64) -> bool {
        let control = self.machine.control();
        if control.catalog().accounts().next().is_none() {
            return false;
        }
        let last_at = control.last_cut().map_or(Timestamp::MIN, |cut| cut.at);
        let slot_of = |at: Timestamp| at.nanoseconds().div_euclid(cut_interval);
        slot_of(now) > slot_of(last_at) || self.machine.next_due().is_some_and(|due| due <= now)
    }

    /// Entities of which a midnight passed since their last journals.
    pub fn journals_due(&self, now: Timestamp) -> Vec<EntityId> {
        let control = self.machine.control();
        if control.catalog().accounts().next().is_none() {
            return Vec::new();
        }
        let is_due = |entity: &EntityId, midnight: Timestamp| {
            control.last_journal_at(entity).is_none_or(|last| last < midnight)
        };
        let entities = control.catalog().entities();
        let due = entities.filter(|entity| is_due(&entity.id, entity.time_zone.start_of_day(now)));
        due.map(|entity| entity.id.clone()).collect()
    }

    /// Ends all three logs so that the next start knows that nothing may be torn.
    ///
    /// # Errors
    /// The failed write or sync.
    pub fn close_cleanly(self) -> Result<(), ControlError> {
        for (name, log) in [("control", self.log), ("charge", self.charges), ("journal", self.journals)] {
            log.close_cleanly().map_err(in_log(name))?;
        }
        Ok(())
    }
}

fn in_log(log: &'static str) -> impl FnOnce(LogError) -> ControlError {
    move |source| ControlError::Log { log, source }
}
