//! The control thread: the only writer of the control log, the charge log and the journal log.
//!
//! Owns: the order of control records, barriers, cuts, seals, journal runs, and when they are due.
//! Leaves to others: what they mean (`machine`), usage (`usage_log`, `shards`).
//!
//! A cut, step by step: barrier durable in the usage log and passed by every shard; cells merged; `cut` record durable;
//! rated; batch durable in the charge log; `seal` record durable; only then is the batch served. A crash between any two
//! steps is repaired at the next start: see `recovery`.
//!
//! Invariants:
//! - Nothing is answered, served or applied before its record is durable.
//! - A failed write or sync of any log ends the thread and with it the process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use billing::catalog::{Catalog, CatalogStatus, Resource};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use domain::time::DAY;
use domain::{EntityId, Timestamp};
use engine::log::LogWriter;
use machine::{Batch, Machine, PutError};
use tokio::sync::{mpsc, oneshot};
use wire::control::{BatchAck, ClockKind, ControlRecord, ScenarioClock};

use crate::clock::Clock;
use crate::directory::{KIND_CONTROL, KIND_STORED_PART, encode_parts};
use crate::observe::Metrics;
use crate::threads::PeerStopped;
use crate::usage_log::UsageTask;

/// Bytes of records that one commit of the control log gathers.
const COMMIT_BYTES_MAX: usize = 4 << 20;
/// Bytes of a resource as a record.
pub const RESOURCE_BYTES_MAX: usize = 1 << 20;
// Every record but a put is far smaller.
const _: () =
    assert!(RESOURCE_BYTES_MAX <= engine::log::RECORD_BYTES_MAX && RESOURCE_BYTES_MAX <= COMMIT_BYTES_MAX);

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
    /// The digest belongs to another history.
    #[error("charge batch {batch} has digest {digest}; the given one belongs to another history")]
    HistoryForked {
        /// Number of the batch.
        batch: u64,
        /// Its digest here.
        digest: String,
    },
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

/// Where a sealed batch or run of journals is stored.
#[derive(Clone, Debug)]
pub struct StoredEntry {
    /// Number of the batch, or the order of the run.
    pub number: u64,
    /// Chain digest.
    pub digest: String,
    /// Offset of its first part in its log.
    pub offset: u64,
    /// Offset behind its last part.
    pub end_offset: u64,
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
    /// The machine.
    pub machine: Machine,
    /// The control log.
    pub log: LogWriter,
    /// Stored charge batches.
    pub charges: LogWriter,
    /// Stored journals.
    pub journals: LogWriter,
    /// Queue of the usage-log writer.
    pub usage: mpsc::Sender<UsageTask>,
    /// The clock.
    pub clock: Arc<Clock>,
    /// Number of shards.
    pub shards: usize,
    /// Time between issuing cuts.
    pub cut_interval: i64,
    /// What a person accepted or changed with this start; in force behind the work that a crash left open.
    pub start_records: Vec<ControlRecord>,
    /// What may be served.
    pub served: Arc<Served>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Control {
    /// Runs until it is stopped or storage fails. `commands` is drained before the thread ends.
    ///
    /// # Errors
    /// The failed write, sync or clock.
    pub fn run(mut self, commands: &Receiver<Command>) -> Result<()> {
        // Open work first: it is rated and posted under what was in force when it was recorded, as in a replay.
        self.finish_open_work()?;
        let start_records = std::mem::take(&mut self.start_records);
        self.append(&start_records)?;
        self.barrier(false)?;
        loop {
            match commands.recv_timeout(Duration::from_millis(500)) {
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(command) => self.handle(command)?,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.clock.kind() == ClockKind::Real {
                self.run_due(self.clock.now())?;
            }
        }
        for log in [self.log, self.charges, self.journals] {
            log.close_cleanly().context("a log cannot be closed")?;
        }
        Ok(())
    }

    fn handle(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Put { resources, actor, reply } => {
                let outcome = self.put(resources, &actor)?;
                let _ = reply.send(outcome);
            }
            Command::Cut { reason, reply } => {
                let outcome = self.cut(self.clock.now(), &reason)?;
                let _ = reply.send(Ok(outcome));
            }
            Command::Journals { entity, reason, reply } => {
                let outcome = self.journals_of(entity, &reason)?;
                let _ = reply.send(outcome);
            }
            Command::AckBatch { batch, digest, consumer, reply } => {
                let outcome = self.ack_batch(batch, digest, consumer)?;
                let _ = reply.send(outcome);
            }
            Command::AdvanceClock { now, reply } => {
                let outcome = self.advance_clock(now)?;
                let _ = reply.send(outcome);
            }
            Command::Read(read) => read(&self.machine),
            Command::Stop => {}
        }
        Ok(())
    }

    /// Appends records, makes them durable, and applies them: in one commit, or in several if they are more than a block
    /// takes. What a crash leaves of several is a prefix.
    fn append(&mut self, records: &[ControlRecord]) -> Result<()> {
        let now = self.clock.now().nanoseconds();
        let mut staged = Vec::new();
        for record in records {
            let bytes = record.encode();
            if self.log.staged_bytes() + bytes.len() > COMMIT_BYTES_MAX {
                self.commit(now, &mut staged)?;
            }
            staged.push((self.log.stage(KIND_CONTROL, now, &[&bytes])?, record));
        }
        self.commit(now, &mut staged)
    }

    fn commit(&mut self, now: i64, staged: &mut Vec<(u64, &ControlRecord)>) -> Result<()> {
        if staged.is_empty() {
            return Ok(());
        }
        self.log.commit(now).context("the control log cannot be written")?;
        for (offset, record) in staged.drain(..) {
            self.machine
                .apply(offset, record)
                .with_context(|| format!("a proposed record was refused: {record:?}"))?;
        }
        Ok(())
    }

    /// Sends a barrier through the usage log and the shards; merges their cells if a cut is to happen there.
    fn barrier(&mut self, is_cut: bool) -> Result<u64> {
        let control_offset = self.log.next_offset();
        let plan = self.machine.metering_plan(control_offset);
        let (durable, offsets) = bounded(1);
        let (reached, reports) = bounded(self.shards);
        let task = UsageTask::Barrier { control_offset, plan, is_cut, durable, reached };
        self.usage.blocking_send(task).map_err(|_| PeerStopped("the usage log"))?;
        let offset = offsets.recv().map_err(|_| PeerStopped("the usage log"))?;
        for _ in 0..self.shards {
            let (shard, cells) = reports.recv().map_err(|_| PeerStopped("a shard"))?;
            if is_cut {
                self.machine.handle_reports(shard, cells);
            }
        }
        Ok(offset)
    }

    fn put(
        &mut self,
        resources: Vec<(String, String, serde_json::Value)>,
        actor: &str,
    ) -> Result<Result<Vec<PutOutcome>, CommandError>> {
        // Checked against a scratch catalog first: all or none.
        let mut scratch: Catalog = self.machine.control().catalog().clone();
        let mut records = Vec::new();
        let mut outcomes = Vec::new();
        let mut offset = self.log.next_offset();
        for (kind, id, body) in resources {
            let record = match machine::propose_put(&scratch, &kind, &id, body, actor) {
                Ok(record) => record,
                Err(error) => return Ok(Err(error.into())),
            };
            let mut version = None;
            if let Some(ControlRecord::Put(put)) = &record {
                offset += 1;
                if let Err(status) = apply_to(&mut scratch, put, offset) {
                    return Ok(Err(PutError::from(status).into()));
                }
                version = Some(put.version);
            }
            if record.as_ref().is_some_and(|record| record.encode().len() > RESOURCE_BYTES_MAX) {
                let what = format!("{kind} {id} takes more than {RESOURCE_BYTES_MAX} bytes; make it smaller");
                return Ok(Err(CommandError::Conflict(what)));
            }
            records.extend(record);
            outcomes.push(PutOutcome { kind, id, version });
        }
        if !records.is_empty() {
            self.append(&records)?;
            self.barrier(false)?;
        }
        Ok(Ok(outcomes))
    }

    /// One issuing cut.
    fn cut(&mut self, at: Timestamp, reason: &str) -> Result<CutOutcome> {
        let started = Instant::now();
        let barrier = self.barrier(true)?;
        let record = self.machine.propose_cut(barrier, at, reason);
        self.append(std::slice::from_ref(&record))?;
        let outcome = self.rate_and_seal()?;
        self.metrics.record_cut(started.elapsed());
        Ok(outcome)
    }

    fn rate_and_seal(&mut self) -> Result<CutOutcome> {
        let (cut, at) = self
            .machine
            .open_cut()
            .map(|cut| (cut.number, cut.at))
            .context("a cut is open when it is rated")?;
        let mut outcome = CutOutcome {
            cut,
            at,
            batch: None,
            chain: String::new(),
            lines: 0,
            failures: Vec::new(),
            set_aside: Vec::new(),
        };
        if let Some((batch, seal)) = self.machine.rate_open_cut() {
            let entry = store(&mut self.charges, batch.head.number, &seal.digest, &batch.encode(), at)?;
            (outcome.batch, outcome.lines) = (Some(seal.batch), seal.lines);
            self.append(&[ControlRecord::Seal(seal)])?;
            self.count_charges(&batch);
            self.served.batches.write().expect("nothing panics while it holds the list").push(entry);
        }
        self.machine.close_cut();
        outcome.chain = self.machine.control().chain_head().to_string();
        outcome.failures = self.machine.failures().iter().map(ToString::to_string).collect();
        outcome.set_aside = self.machine.set_aside().iter().map(ToString::to_string).collect();
        for waiting in &outcome.set_aside {
            tracing::warn!("usage is not charged: {waiting}");
        }
        for failure in &outcome.failures {
            tracing::error!("a charge cannot be computed and its account is not charged: {failure}");
        }
        Ok(outcome)
    }

    fn count_charges(&self, batch: &Batch) {
        self.metrics.charge_lines.fetch_add(batch.head.lines, Ordering::Relaxed);
        self.metrics.batches.store(batch.head.number, Ordering::Relaxed);
    }

    /// Makes the journals of an entity, or of all entities.
    fn journals_of(
        &mut self,
        entity: Option<EntityId>,
        reason: &str,
    ) -> Result<Result<Vec<JournalOutcome>, CommandError>> {
        let catalog = self.machine.control().catalog();
        let entities: Vec<EntityId> = match entity {
            Some(entity) if catalog.entity(&entity).is_none() => {
                return Ok(Err(CommandError::NotFound(format!("there is no legal entity {entity}"))));
            }
            Some(entity) => vec![entity],
            None => catalog.entities().map(|entity| entity.id.clone()).collect(),
        };
        let now = self.clock.now();
        let mut outcomes = Vec::new();
        for entity in entities {
            let journals = self.journal_run(&entity, now, reason)?;
            outcomes.push(JournalOutcome { entity, journals });
        }
        Ok(Ok(outcomes))
    }

    fn journal_run(&mut self, entity: &EntityId, at: Timestamp, reason: &str) -> Result<Vec<String>> {
        let Some(record) = self.machine.propose_journal_run(entity, at, reason) else {
            return Ok(Vec::new());
        };
        self.append(&[record])?;
        self.derive_and_seal_journals(at)
    }

    fn derive_and_seal_journals(&mut self, at: Timestamp) -> Result<Vec<String>> {
        let (journals, seal) = self.machine.derive_open_journals().context("journals cannot be derived")?;
        let number =
            self.served.journals.read().expect("nothing panics while it holds the list").len() as u64 + 1;
        let entry = store(&mut self.journals, number, &seal.digest, &journals.encode(), at)?;
        self.append(&[ControlRecord::JournalSeal(seal)])?;
        self.served.journals.write().expect("nothing panics while it holds the list").push(entry);
        self.metrics.journals.fetch_add(journals.journals.len() as u64, Ordering::Relaxed);
        Ok(journals.journals.into_iter().map(|journal| journal.external_id).collect())
    }

    fn ack_batch(
        &mut self,
        batch: u64,
        digest: Option<String>,
        consumer: String,
    ) -> Result<Result<(), CommandError>> {
        let seals = self.machine.control().seals();
        let seal = batch.checked_sub(1).and_then(|index| seals.get(usize::try_from(index).ok()?));
        let Some(seal) = seal else {
            return Ok(Err(CommandError::NotFound(format!("there is no charge batch {batch}"))));
        };
        let sealed = seal.digest.clone();
        if digest.is_some_and(|digest| digest != sealed) {
            return Ok(Err(CommandError::HistoryForked { batch, digest: sealed }));
        }
        if batch > self.machine.control().acked_batch() {
            self.append(&[ControlRecord::BatchAck(BatchAck { batch, digest: sealed, consumer })])?;
        }
        Ok(Ok(()))
    }

    fn advance_clock(&mut self, now: Timestamp) -> Result<Result<Timestamp, CommandError>> {
        if self.clock.kind() != ClockKind::Scenario {
            return Ok(Err(CommandError::Conflict("this directory runs on the real clock".to_string())));
        }
        if now < self.clock.now() {
            return Ok(Err(CommandError::Conflict(format!(
                "the scenario clock is already at {}",
                self.clock.now()
            ))));
        }
        self.append(&[ControlRecord::ScenarioClock(ScenarioClock { now })])?;
        self.clock.set_scenario(now);
        self.run_due(now)?;
        Ok(Ok(now))
    }

    /// Cuts if a regular instant or a window end passed since the last cut; makes journals at entity midnights.
    fn run_due(&mut self, now: Timestamp) -> Result<()> {
        let control = self.machine.control();
        if control.catalog().accounts().next().is_none() {
            return Ok(());
        }
        let last_at = control.last_cut().map_or(Timestamp::MIN, |cut| cut.at);
        let slot_of = |at: Timestamp| at.nanoseconds().div_euclid(self.cut_interval);
        let is_due = slot_of(now) > slot_of(last_at) || self.machine.next_due().is_some_and(|due| due <= now);
        if is_due {
            self.cut(now, "timer")?;
        }
        let catalog = self.machine.control().catalog();
        let midnights: Vec<(EntityId, Timestamp)> = catalog
            .entities()
            .map(|entity| (entity.id.clone(), entity.time_zone.start_of_day(now)))
            .collect();
        for (entity, midnight) in midnights {
            if self.machine.control().last_journal_at(&entity).is_none_or(|last| last < midnight) {
                self.journal_run(&entity, now, "midnight")?;
            }
        }
        Ok(())
    }

    /// Rates, stores and seals what a crash left open.
    fn finish_open_work(&mut self) -> Result<()> {
        if self.machine.has_open_cut() {
            self.rate_and_seal()?;
        }
        if let Some(run) = self.machine.open_journal_run() {
            let at = run.at;
            self.derive_and_seal_journals(at)?;
        }
        Ok(())
    }
}

/// Stores content durably; it may be sealed afterwards.
fn store(log: &mut LogWriter, number: u64, digest: &str, bytes: &[u8], at: Timestamp) -> Result<StoredEntry> {
    let mut first = None;
    for part in encode_parts(number, bytes) {
        let offset = log.stage(KIND_STORED_PART, at.nanoseconds(), &[&part])?;
        first.get_or_insert(offset);
        if log.staged_bytes() >= crate::usage_log::COMMIT_BYTES_MAX {
            log.commit(at.nanoseconds()).context("sealed content cannot be written")?;
        }
    }
    log.commit(at.nanoseconds()).context("sealed content cannot be written")?;
    let offset = first.context("content has at least one part")?;
    Ok(StoredEntry { number, digest: digest.to_string(), offset, end_offset: log.next_offset() })
}

fn apply_to(catalog: &mut Catalog, put: &wire::control::Put, offset: u64) -> Result<(), CatalogStatus> {
    let kind = billing::catalog::ResourceKind::parse(&put.kind).expect("a proposed record has a known kind");
    let resource = Resource::from_json(kind, &put.id, put.body.clone())?;
    catalog.apply(resource, offset).map(|_| ())
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
