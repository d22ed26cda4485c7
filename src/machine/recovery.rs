//! Opens the logs of a data directory: reads all of them and rebuilds the machine and its shards.
//!
//! Owns: the order in which logs are read, the join of seals and stored content. Leaves to others: where logs lie
//! (`server`), torn tails (`engine::log`), what replay does at each record (`replay`), finishing what a crash left open
//! (`control_writer`).
//!
//! Order: control log, charge log, journal log (all whole), then the usage log interleaved with the control log by
//! [`Replayer`]; only when all of them were found to belong together is anything written. What proves that they do not:
//!
//! | found | what it is | done |
//! |---|---|---|
//! | no control record, but usage, batches, journals, snapshots or runs | the control log is gone: nothing new begins here | refused |
//! | a barrier that names an offset behind the end of the control log, or one before that of an earlier barrier | the control log lost its end, or is another's | refused |
//! | a cut, a correction, a record `ids_forgotten` or a snapshot of this history that names a place behind the end of the usage log | the usage log lost its end, or is another's | refused |
//!
//! What a crash between two steps of a cut leaves:
//!
//! | crash after | what is found | what is done |
//! |---|---|---|
//! | barrier durable | a barrier that no cut names | nothing: it is an ordinary barrier |
//! | cut recorded, or some of what it could not rate | a last cut without seal | rated and sealed at start, before a changed policy is in force |
//! | batch stored | stored content that no seal names | ignored; derived, stored and sealed again |
//! | seal recorded | a sealed batch | loaded, served |
//! | journal run recorded, or journals stored | a run without seal | derived, stored and sealed at start |
//!
//! Invariants: sealed content must be there and hash to its seal, else starting is refused; nothing is derived again. A
//! refused start leaves all logs as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;

use domain::{EventPosition, Timestamp};
use engine::identity::IdentityKey;
use engine::io::Storage;
use engine::log::{FoundLog, LogError, LogKind, LogOptions, LogReader, LogWriter, Record, Recovery};
use engine::shard::spill::SpillPool;
use engine::shard::{RunError, RunLog, RunStore};
use engine::snapshot::{SnapshotError, runs_named, snapshots as snapshots_in, take_snapshot_away};
use wire::control::{ControlRecord, Genesis};
use wire::usage_record::KIND_BARRIER;

use crate::batch::{Batch, BatchError, chain_digest};
use crate::control_writer::KIND_CONTROL;
use crate::corrections::corrected_position;
use crate::replay::{History, ReplayError, ReplayMode, ReplaySummary, Replayer, Stored};
use crate::snapshots::{self, LeftAside};
use crate::stored::{PartJoiner, StoredContent, StoredEntry, StoredError};
use crate::usage_log::{UsageHistory, UsageItem, UsageRecordError, usage_item};

/// Where a log lies, and what it is.
#[derive(Clone)]
pub struct LogPlace {
    /// Its directory.
    pub storage: Arc<dyn Storage>,
    /// What it is.
    pub options: LogOptions,
}

/// The logs of a data directory.
#[derive(Clone)]
pub struct Logs {
    /// The control log.
    pub control: LogPlace,
    /// The usage log.
    pub usage: LogPlace,
    /// Stored charge batches.
    pub charges: LogPlace,
    /// Stored journals.
    pub journals: LogPlace,
    /// Snapshots of the shards.
    pub snapshots: Arc<dyn Storage>,
    /// Runs of remembered ids.
    pub runs: Arc<dyn Storage>,
    /// Single events that memory has no room for.
    pub spilled: Arc<dyn Storage>,
}

/// How much shards keep in memory.
#[derive(Clone, Copy, Debug)]
pub struct ShardMemory {
    /// Ids that each remembers there before it writes a run.
    pub table_entries_max: usize,
    /// Bytes of single events that all of them keep there before some are spilled.
    pub sequence_bytes: u64,
}

impl Logs {
    fn history(&self, key: IdentityKey, shards: usize) -> UsageHistory {
        UsageHistory::new(self.usage.storage.clone(), self.usage.options, key, shards)
    }
}

/// Why logs cannot be opened or do not belong together.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// One of the logs cannot be used.
    #[error("the {} cannot be opened", name_of(*log))]
    InLog {
        /// Which.
        log: LogKind,
        /// Why.
        #[source]
        source: Box<RecoveryError>,
    },
    /// The bytes of a log are damaged, or the disk failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A control record cannot be read.
    #[error("the control record at offset {offset} is unreadable")]
    ControlRecordMustBeReadable {
        /// Offset of the record.
        offset: u64,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// The control log has no genesis.
    #[error("the control log does not start with a genesis record")]
    GenesisMustBeFirst,
    /// There is no control record, but something that came after one.
    #[error(
        "the control log does not start with a genesis record: it is empty, but there are {what}; is its disk mounted?"
    )]
    ControlMustNotBeEmpty {
        /// What there is.
        what: &'static str,
    },
    /// Something names a place of the usage log that it does not reach.
    #[error("the usage log ends at offset {end}, but {named_by} names offset {place} of it: its end is lost")]
    UsageMustReach {
        /// What names it.
        named_by: String,
        /// The place.
        place: u64,
        /// Where the log ends.
        end: u64,
    },
    /// The folder of snapshots cannot be used.
    #[error("snapshots cannot be listed or taken away")]
    Snapshots(#[source] std::io::Error),
    /// The genesis has no key.
    #[error("the identity key is not 32 hex digits")]
    IdentityKeyMustBeReadable,
    /// The first records of a new directory could not be made.
    #[error("the first records cannot be made")]
    FirstRecords(#[source] Box<dyn Error + Send + Sync>),
    /// A usage record cannot be read.
    #[error(transparent)]
    UsageRecord(#[from] UsageRecordError),
    /// Stored content cannot be read.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// The content of a seal is not there.
    #[error("{what} is sealed, but its stored content is missing or differs")]
    SealedContentMustExist {
        /// The batch or run.
        what: String,
    },
    /// A stored batch hashes to its seal and is no batch.
    #[error("stored charge batch {number} is unreadable")]
    BatchMustBeReadable {
        /// Number of the batch.
        number: u64,
        /// Why.
        #[source]
        source: BatchError,
    },
    /// The folder of runs cannot be used.
    #[error("the runs of remembered ids cannot be listed or taken away")]
    Runs(#[source] std::io::Error),
    /// The folder of spilled events cannot be used.
    #[error("what an earlier process spilled cannot be listed or taken away")]
    Spilled(#[source] std::io::Error),
    /// The logs contradict each other.
    #[error(transparent)]
    Replay(Box<ReplayError>),
}

impl From<ReplayError> for RecoveryError {
    fn from(error: ReplayError) -> Self {
        Self::Replay(Box::new(error))
    }
}

fn name_of(log: LogKind) -> &'static str {
    match log {
        LogKind::Usage => "usage log",
        LogKind::Control => "control log",
        LogKind::Charges => "charge log",
        LogKind::Journals => "journal log",
    }
}

fn in_log(log: LogKind) -> impl FnOnce(RecoveryError) -> RecoveryError {
    move |source| RecoveryError::InLog { log, source: Box::new(source) }
}

/// Records of the control log with their offsets.
pub type ControlRecords = Vec<(u64, ControlRecord)>;

/// Reads a record of the control log.
fn control_record(record: Record<'_>) -> Result<(u64, ControlRecord), RecoveryError> {
    let offset = record.offset;
    let read = ControlRecord::decode(record.payload);
    let read = read.map_err(|source| RecoveryError::ControlRecordMustBeReadable { offset, source })?;
    Ok((offset, read))
}

/// The genesis of a control log.
///
/// # Errors
/// If there is none or its key is unreadable.
pub fn genesis_of(records: &ControlRecords) -> Result<(&Genesis, IdentityKey), RecoveryError> {
    let Some((_, ControlRecord::Genesis(genesis))) = records.first() else {
        return Err(RecoveryError::GenesisMustBeFirst);
    };
    let key = IdentityKey::from_hex(&genesis.identity_key).ok_or(RecoveryError::IdentityKeyMustBeReadable)?;
    Ok((genesis, key))
}

/// Stored content by chain digest, and where each lies.
#[derive(Default)]
struct Contents {
    batches: BTreeMap<String, (StoredContent, Batch)>,
    journals: BTreeMap<String, StoredContent>,
}

impl Contents {
    /// Joins content to the seals that name it.
    fn of(
        control: &ControlRecords,
        charges: Vec<StoredContent>,
        journals: Vec<StoredContent>,
    ) -> Result<Self, RecoveryError> {
        let mut contents = Self::default();
        let mut charges = by_number(charges);
        let mut journals = by_number(journals);
        let mut previous_journal = String::new();
        let mut journal_number = 0;
        for (_, record) in control {
            match record {
                ControlRecord::Seal(seal) => {
                    let found = sealed_content(&mut charges, seal.batch, &seal.previous, &seal.digest);
                    let missing = || RecoveryError::SealedContentMustExist {
                        what: format!("charge batch {}", seal.batch),
                    };
                    let content = found.ok_or_else(missing)?;
                    let batch = Batch::decode(&content.bytes).map_err(|source| {
                        RecoveryError::BatchMustBeReadable { number: seal.batch, source }
                    })?;
                    contents.batches.insert(seal.digest.clone(), (content, batch));
                }
                ControlRecord::JournalSeal(seal) => {
                    journal_number += 1;
                    let found =
                        sealed_content(&mut journals, journal_number, &previous_journal, &seal.digest);
                    let missing = || RecoveryError::SealedContentMustExist {
                        what: format!("journal run {} of {}", seal.first_run, seal.entity),
                    };
                    contents.journals.insert(seal.digest.clone(), found.ok_or_else(missing)?);
                    previous_journal.clone_from(&seal.digest);
                }
                _ => {}
            }
        }
        Ok(contents)
    }

    fn stored(&self) -> Stored {
        Stored {
            batches: self
                .batches
                .iter()
                .map(|(digest, (_, batch))| (digest.clone(), batch.clone()))
                .collect(),
            journals: self.journals.iter().map(|(digest, c)| (digest.clone(), c.bytes.clone())).collect(),
        }
    }

    /// Entries in the order of their seals.
    fn entries(&self, control: &ControlRecords) -> (Vec<StoredEntry>, Vec<StoredEntry>) {
        let entry = |digest: &String, content: &StoredContent| StoredEntry {
            number: content.number,
            digest: digest.clone(),
            offset: content.offset,
            end_offset: content.last_offset + 1,
        };
        let (mut batches, mut journals) = (Vec::new(), Vec::new());
        for (_, record) in control {
            match record {
                ControlRecord::Seal(seal) => {
                    batches.extend(
                        self.batches.get(&seal.digest).map(|(content, _)| entry(&seal.digest, content)),
                    );
                }
                ControlRecord::JournalSeal(seal) => {
                    journals
                        .extend(self.journals.get(&seal.digest).map(|content| entry(&seal.digest, content)));
                }
                _ => {}
            }
        }
        (batches, journals)
    }
}

fn by_number(contents: Vec<StoredContent>) -> BTreeMap<u64, Vec<StoredContent>> {
    let mut numbers: BTreeMap<u64, Vec<StoredContent>> = BTreeMap::new();
    for content in contents {
        numbers.entry(content.number).or_default().push(content);
    }
    numbers
}

/// Of what is stored under a number, what hashes to the seal; the rest a crash left.
fn sealed_content(
    stored: &mut BTreeMap<u64, Vec<StoredContent>>,
    number: u64,
    previous: &str,
    digest: &str,
) -> Option<StoredContent> {
    let candidates = stored.remove(&number).unwrap_or_default();
    candidates.into_iter().find(|content| chain_digest(previous, &content.bytes) == digest)
}

/// A data directory ready to be served.
pub struct Recovered {
    /// The machine and the shards at the end of the logs.
    pub replayer: Replayer,
    /// Writer of the control log.
    pub control: LogWriter,
    /// Writer of the charge log.
    pub charges: LogWriter,
    /// Writer of the journal log.
    pub journals: LogWriter,
    /// Writer of the usage log.
    pub usage: LogWriter,
    /// Sealed charge batches.
    pub batch_entries: Vec<StoredEntry>,
    /// Sealed journal runs.
    pub journal_entries: Vec<StoredEntry>,
    /// The key of event identities.
    pub key: IdentityKey,
    /// Latest stamp of any log.
    pub last_recorded_at: Option<Timestamp>,
    /// Bytes of torn, unacknowledged commits that were cut off.
    pub torn_bytes: u64,
    /// Usage offset of the snapshot that the shards started from.
    pub snapshot: Option<u64>,
    /// Snapshots that did not fit.
    pub left_aside: Vec<LeftAside>,
    /// Runs of remembered ids.
    pub runs: Arc<RunStore>,
    /// Single events that may leave memory.
    pub pool: Arc<SpillPool>,
}

/// What a new directory starts with: the present in nanoseconds, and its first records.
pub type FirstRecords = Result<(i64, Vec<ControlRecord>), Box<dyn Error + Send + Sync>>;

/// Opens all logs for writing and replays them. `genesis` makes the first records of a new directory.
///
/// # Errors
/// [`RecoveryError`]: a log is damaged, or the logs contradict each other.
pub fn recover(
    logs: &Logs,
    shards: usize,
    memory: ShardMemory,
    genesis: impl FnOnce() -> FirstRecords,
) -> Result<Recovered, RecoveryError> {
    let mut records = ControlRecords::new();
    let control = find_log(&logs.control, 0, &mut |record| {
        records.push(control_record(record)?);
        Ok(())
    })?;
    let (charges, charge_contents) = find_contents(&logs.charges)?;
    let (journals, journal_contents) = find_contents(&logs.journals)?;
    let control = if records.is_empty() {
        check_is_new(logs, &charges, &journals)?;
        let (mut writer, recovery) = open_found(LogKind::Control, control)?;
        let (now, new) = genesis().map_err(RecoveryError::FirstRecords)?;
        for record in new {
            let offset = writer.stage(KIND_CONTROL, now, &[&record.encode()])?;
            records.push((offset, record));
        }
        writer.commit(now)?;
        ControlLog::New(writer, recovery)
    } else {
        ControlLog::Found(control)
    };
    let key = genesis_of(&records)?.1;
    let contents = Contents::of(&records, charge_contents, journal_contents)?;
    let (batch_entries, journal_entries) = contents.entries(&records);
    let control_end = control.end_offset();
    let runs = Arc::new(runs_of(logs, key).map_err(RecoveryError::Runs)?);
    // A snapshot that names a run which is gone must not find another one in its place later.
    runs.avoid(&runs_named(&*logs.snapshots).map_err(RecoveryError::Runs)?);
    let pool = SpillPool::open(logs.spilled.clone(), memory.sequence_bytes);
    let pool = Arc::new(pool.map_err(RecoveryError::Spilled)?);
    let table_entries_max = memory.table_entries_max;
    let start = Start { logs, shards, table_entries_max, key, records, control_end, contents, runs, pool };
    let (Started { replayer, usage, snapshot }, left_aside) = start.start()?;

    // From here all logs belong together.
    let (control, first) = control.open()?;
    let (charges, second) = open_found(LogKind::Charges, charges)?;
    let (journals, third) = open_found(LogKind::Journals, journals)?;
    let (usage, fourth) = open_found(LogKind::Usage, usage)?;
    for LeftAside { usage_offset, error } in &left_aside {
        // What no later start has a use for would take the place of a whole one.
        if error.is_of_file() || *usage_offset >= usage.next_offset() {
            take_snapshot_away(&*logs.snapshots, *usage_offset).map_err(RecoveryError::Snapshots)?;
        }
    }
    let found = [first, second, third, fourth];
    Ok(Recovered {
        replayer,
        control,
        charges,
        journals,
        usage,
        batch_entries,
        journal_entries,
        key,
        last_recorded_at: found
            .iter()
            .filter_map(|r| r.last_recorded_at)
            .max()
            .map(Timestamp::from_nanoseconds),
        torn_bytes: found.iter().map(|recovery| recovery.torn_bytes).sum(),
        snapshot,
        left_aside,
        runs: start.runs,
        pool: start.pool,
    })
}

/// The control log of a start.
enum ControlLog {
    /// Nothing is changed yet.
    Found(FoundLog),
    /// It has its first records.
    New(LogWriter, Recovery),
}

impl ControlLog {
    fn end_offset(&self) -> u64 {
        match self {
            ControlLog::Found(found) => found.end_offset(),
            ControlLog::New(writer, _) => writer.next_offset(),
        }
    }

    fn open(self) -> Result<(LogWriter, Recovery), RecoveryError> {
        match self {
            ControlLog::Found(found) => open_found(LogKind::Control, found),
            ControlLog::New(writer, recovery) => Ok((writer, recovery)),
        }
    }
}

/// Refuses to begin anew where anything is left of what there was.
fn check_is_new(logs: &Logs, charges: &FoundLog, journals: &FoundLog) -> Result<(), RecoveryError> {
    let has_usage = || -> Result<bool, RecoveryError> {
        let mut reader = LogReader::open(&*logs.usage.storage, logs.usage.options, 0, None)?;
        Ok(reader.next()?.is_some())
    };
    let has_snapshots = || snapshots_in(&*logs.snapshots).map_err(RecoveryError::Snapshots);
    let has_runs = || logs.runs.list().map_err(RecoveryError::Runs);
    let what = if has_usage().map_err(in_log(LogKind::Usage))? {
        "records in the usage log"
    } else if charges.end_offset() > 0 {
        "charge batches"
    } else if journals.end_offset() > 0 {
        "journals"
    } else if !has_snapshots()?.is_empty() {
        "snapshots"
    } else if !has_runs()?.is_empty() {
        "runs of remembered ids"
    } else {
        return Ok(());
    };
    Err(RecoveryError::ControlMustNotBeEmpty { what })
}

/// Refuses a usage log that ends before a place that something names: all of it was durable by then.
fn check_usage_end(
    logs: &Logs,
    control: &ControlRecords,
    control_end: u64,
    end: u64,
) -> Result<(), RecoveryError> {
    for (offset, record) in control {
        let (is_there, place) = match record {
            ControlRecord::Cut(cut) => (cut.barrier < end, cut.barrier),
            ControlRecord::IdsForgotten(forgotten) => (forgotten.before <= end, forgotten.before),
            _ => match corrected_position(record).map(EventPosition::offset) {
                Some(place) => (place < end, place),
                None => continue,
            },
        };
        if !is_there {
            let named_by = format!("the control record at offset {offset}");
            return Err(RecoveryError::UsageMustReach { named_by, place, end });
        }
    }
    match snapshots::one_behind(logs, control, control_end, end) {
        Some(place) => Err(RecoveryError::UsageMustReach { named_by: "a snapshot".to_string(), place, end }),
        None => Ok(()),
    }
}

/// The runs of remembered ids of a log.
pub(crate) fn runs_of(logs: &Logs, key: IdentityKey) -> std::io::Result<RunStore> {
    let LogOptions { incarnation, partition, .. } = logs.usage.options;
    let key_check = key.digest_of_type("runs of remembered ids");
    RunStore::open(logs.runs.clone(), RunLog { incarnation, partition: u32::from(partition), key_check })
}

/// All that a start knows when it comes to the usage log.
struct Start<'l> {
    logs: &'l Logs,
    shards: usize,
    table_entries_max: usize,
    key: IdentityKey,
    records: ControlRecords,
    control_end: u64,
    contents: Contents,
    runs: Arc<RunStore>,
    pool: Arc<SpillPool>,
}

/// The usage log, replayed.
struct Started {
    replayer: Replayer,
    usage: FoundLog,
    /// Usage offset of the snapshot that the shards started from.
    snapshot: Option<u64>,
}

impl Start<'_> {
    /// Starts from the newest snapshot that fits, or from the logs alone. A run that turns out to be damaged while the log
    /// is read takes the snapshots that name it with it.
    fn start(&self) -> Result<(Started, Vec<LeftAside>), RecoveryError> {
        let Self { logs, records, control_end, shards, runs, pool, .. } = self;
        let folders = (&**runs, pool);
        let mut left_aside = Vec::new();
        while let Some(found) =
            snapshots::find(logs, records, *control_end, *shards, folders, &mut left_aside)
        {
            let usage_offset = found.head.usage_offset;
            let kept = runs_named(&*logs.snapshots).map_err(RecoveryError::Runs)?;
            let mut replayer = self.new_replayer();
            let error = match replayer.start_behind(found)? {
                Err(error) => error,
                Ok(()) => match self.replay(replayer, Some(usage_offset), &kept) {
                    Ok(started) => return Ok((started, left_aside)),
                    Err(error) => SnapshotError::RunMustBeReadable(fault_of_run(&error).ok_or(error)?),
                },
            };
            left_aside.push(LeftAside { usage_offset, error });
        }
        Ok((self.replay(self.new_replayer(), None, &BTreeSet::new())?, left_aside))
    }

    fn new_replayer(&self) -> Replayer {
        let stored = self.contents.stored();
        Replayer::new(ReplayMode::Load, self.shards, self.records.clone(), self.control_end, stored)
    }

    /// Reads the usage log behind a snapshot; runs that nobody names are taken away before.
    fn replay(
        &self,
        mut replayer: Replayer,
        snapshot: Option<u64>,
        kept: &BTreeSet<u64>,
    ) -> Result<Started, RecoveryError> {
        self.runs.keep_only(kept).map_err(RecoveryError::Runs)?;
        for shard in &mut replayer.shards {
            shard.set_table_entries_max(self.table_entries_max);
            shard.set_spill_pool(self.pool.clone());
        }
        self.work_off(&mut replayer, kept)?;
        let mut history = self.logs.history(self.key, self.shards);
        let from = snapshot.map_or(0, |barrier| barrier + 1);
        let usage = find_log(&self.logs.usage, from, &mut |record| {
            feed(&mut replayer, record, self.key, self.shards, &mut history)?;
            self.work_off(&mut replayer, kept)
        })?;
        check_usage_end(self.logs, &self.records, self.control_end, usage.end_offset())?;
        replayer.finish()?;
        Ok(Started { replayer, usage, snapshot })
    }

    /// Does what the shards want done beside them.
    fn work_off(&self, replayer: &mut Replayer, kept: &BTreeSet<u64>) -> Result<(), RecoveryError> {
        if self.pool.is_due() {
            self.pool.spill().map_err(ReplayError::from)?;
        }
        work_off_runs(replayer, &self.runs, kept)
    }
}

/// Does what the shards want done for their runs; takes away what no shard has any more and no snapshot names.
fn work_off_runs(
    replayer: &mut Replayer,
    runs: &RunStore,
    kept: &BTreeSet<u64>,
) -> Result<(), RecoveryError> {
    for shard in &mut replayer.shards {
        while let Some(job) = shard.poll_run_job() {
            let retired = shard.handle_run_done(runs.work_off(job).map_err(ReplayError::from)?);
            for number in retired.numbers().filter(|number| !kept.contains(number)) {
                runs.remove(number).map_err(RecoveryError::Runs)?;
            }
        }
    }
    Ok(())
}

/// What is wrong with the file of a run, if that is what an error says.
pub fn fault_of_run(error: &(dyn Error + 'static)) -> Option<RunError> {
    let found = error.downcast_ref::<RunError>().and_then(RunError::of_file);
    found.or_else(|| fault_of_run(error.source()?))
}

type Visit<'v> = &'v mut dyn FnMut(Record<'_>) -> Result<(), RecoveryError>;

/// Reads the records of a log at `from` and behind.
fn find_log(place: &LogPlace, from: u64, visit: Visit<'_>) -> Result<FoundLog, RecoveryError> {
    let found = FoundLog::read::<RecoveryError>(place.storage.clone(), place.options, from, visit);
    found.map_err(in_log(place.options.kind))
}

/// Opens a log that was found for writing.
fn open_found(log: LogKind, found: FoundLog) -> Result<(LogWriter, Recovery), RecoveryError> {
    found.open().map_err(RecoveryError::from).map_err(in_log(log))
}

/// Feeds a usage record; gives how many events it has.
fn feed(
    replayer: &mut Replayer,
    record: Record<'_>,
    key: IdentityKey,
    shards: usize,
    history: &mut dyn History,
) -> Result<u64, RecoveryError> {
    match usage_item(record.kind, record.offset, record.received_at, record.payload, key, shards)? {
        UsageItem::Batch(batch) => {
            replayer.handle_batch(&batch)?;
            Ok(batch.event_count() as u64)
        }
        UsageItem::Barrier(control_offset) => {
            replayer.handle_barrier(record.offset, control_offset, history)?;
            Ok(0)
        }
    }
}

fn find_contents(place: &LogPlace) -> Result<(FoundLog, Vec<StoredContent>), RecoveryError> {
    let mut joiner = PartJoiner::default();
    let mut contents = Vec::new();
    let found = find_log(place, 0, &mut |record| {
        contents.extend(joiner.push(record.offset, record.payload)?);
        Ok(())
    })?;
    Ok((found, contents))
}

/// What replaying a directory found.
pub struct Replayed {
    /// The machine and the shards at the end.
    pub replayer: Replayer,
    /// Digests.
    pub summary: ReplaySummary,
    /// Events in the usage log, refused ones included.
    pub events: u64,
    /// The key of event identities.
    pub key: IdentityKey,
    /// Bytes of torn, unacknowledged commits at the ends of the logs.
    pub torn_bytes: u64,
}

/// Reads logs without changing them. In [`ReplayMode::Derive`] every sealed batch and journal is derived again and
/// compared with its seal.
///
/// # Errors
/// The first damage or difference.
pub fn replay(logs: &Logs, shards: usize, mode: ReplayMode) -> Result<Replayed, RecoveryError> {
    replay_at_barriers(logs, shards, mode, &mut |_, _| {})
}

/// The same, and shows the replayer behind each barrier, with the barrier's offset.
///
/// # Errors
/// The first damage or difference.
pub(crate) fn replay_at_barriers(
    logs: &Logs,
    shards: usize,
    mode: ReplayMode,
    at_barrier: &mut dyn FnMut(&Replayer, u64),
) -> Result<Replayed, RecoveryError> {
    let Opened { mut replayer, records, key, control_end, mut torn_bytes } =
        open_to_read(logs, shards, mode)?;
    let mut history = logs.history(key, shards);
    let mut events = 0u64;
    let tail = read_log(&logs.usage, &mut |record| {
        let barrier = (record.kind == KIND_BARRIER).then_some(record.offset);
        events += feed(&mut replayer, record, key, shards, &mut history)?;
        barrier.into_iter().for_each(|offset| at_barrier(&replayer, offset));
        Ok(())
    })?;
    check_usage_end(logs, &records, control_end, tail.end_offset)?;
    torn_bytes += tail.torn_bytes;
    let summary = replayer.finish()?;
    Ok(Replayed { replayer, summary, events, key, torn_bytes })
}

/// A directory as it is at one moment, to go on from in memory.
pub struct Moment {
    /// The machine and the shards.
    pub replayer: Replayer,
    /// Events in the usage log, refused ones included.
    pub events: u64,
    /// Offset behind the usage that was read.
    pub usage_end: u64,
    /// The usage that was read, for folding again.
    pub history: UsageHistory,
}

/// Reads logs as they are, without changing them; a server may be writing to them. Sealed batches are loaded.
///
/// The control log is read first. What a server adds meanwhile is left out: usage behind a barrier that names a later
/// control record would be judged by a catalog that was not read.
///
/// # Errors
/// The first damage.
pub fn read_moment(logs: &Logs, shards: usize) -> Result<Moment, RecoveryError> {
    let Opened { mut replayer, key, control_end, .. } = open_to_read(logs, shards, ReplayMode::Load)?;
    let mut history = logs.history(key, shards);
    let mut read = || -> Result<(u64, u64), RecoveryError> {
        let mut events = 0u64;
        let mut reader = LogReader::open(&*logs.usage.storage, logs.usage.options, 0, None)?;
        while let Some(record) = reader.next()? {
            match usage_item(record.kind, record.offset, record.received_at, record.payload, key, shards)? {
                UsageItem::Barrier(offset) if offset > control_end => return Ok((events, record.offset)),
                UsageItem::Batch(batch) => {
                    events += batch.event_count() as u64;
                    replayer.handle_batch(&batch)?;
                }
                UsageItem::Barrier(offset) => {
                    replayer.handle_barrier(record.offset, offset, &mut history)?;
                }
            }
        }
        Ok((events, reader.tail().end_offset))
    };
    let (events, usage_end) = read().map_err(in_log(LogKind::Usage))?;
    replayer.finish()?;
    Ok(Moment { replayer, events, usage_end, history })
}

/// Logs of which all but the usage was read.
struct Opened {
    replayer: Replayer,
    records: ControlRecords,
    key: IdentityKey,
    /// Offset behind the control log: no barrier of what was read names a later one.
    control_end: u64,
    torn_bytes: u64,
}

fn open_to_read(logs: &Logs, shards: usize, mode: ReplayMode) -> Result<Opened, RecoveryError> {
    let (records, tail) = read_control(&logs.control)?;
    let key = genesis_of(&records)?.1;
    let (charges, charge_tail) = read_contents(&logs.charges)?;
    let (journals, journal_tail) = read_contents(&logs.journals)?;
    let stored = Contents::of(&records, charges, journals)?.stored();
    let replayer = Replayer::new(mode, shards, records.clone(), tail.end_offset, stored);
    let torn_bytes = tail.torn_bytes + charge_tail.torn_bytes + journal_tail.torn_bytes;
    Ok(Opened { replayer, records, key, control_end: tail.end_offset, torn_bytes })
}

/// Reads the control log.
pub(crate) fn read_control(place: &LogPlace) -> Result<(ControlRecords, LogEnd), RecoveryError> {
    let mut records = ControlRecords::new();
    let end = read_log(place, &mut |record| {
        records.push(control_record(record)?);
        Ok(())
    })?;
    Ok((records, end))
}

fn read_contents(place: &LogPlace) -> Result<(Vec<StoredContent>, LogEnd), RecoveryError> {
    let mut joiner = PartJoiner::default();
    let mut contents = Vec::new();
    let end = read_log(place, &mut |record| {
        contents.extend(joiner.push(record.offset, record.payload)?);
        Ok(())
    })?;
    Ok((contents, end))
}

/// Where a log ends.
pub(crate) struct LogEnd {
    pub(crate) end_offset: u64,
    torn_bytes: u64,
}

/// Reads a whole log.
fn read_log(place: &LogPlace, visit: Visit<'_>) -> Result<LogEnd, RecoveryError> {
    let mut read = || {
        let mut reader = LogReader::open(&*place.storage, place.options, 0, None)?;
        while let Some(record) = reader.next()? {
            visit(record)?;
        }
        let tail = reader.tail();
        Ok(LogEnd { end_offset: tail.end_offset, torn_bytes: tail.torn_bytes })
    };
    read().map_err(in_log(place.options.kind))
}
