//! Opens a data directory: reads all logs, rebuilds the machine and its shards, repairs what a crash may leave.
//!
//! Order: control log, charge log, journal log (all whole), then the usage log interleaved with the control log by
//! `machine::Replayer`. What a crash between two steps of a cut leaves:
//!
//! | crash after | what is found | what is done |
//! |---|---|---|
//! | barrier durable | a barrier that no cut names | nothing: it is an ordinary barrier |
//! | cut recorded | a last cut without seal | rated and sealed at start, before a changed policy is in force |
//! | batch stored | stored content that no seal names | ignored; derived, stored and sealed again |
//! | seal recorded | a sealed batch | loaded, served |
//! | journal run recorded, or journals stored | a run without seal | derived, stored and sealed at start |
//!
//! Invariants: sealed content must be there and hash to its seal, else starting is refused; nothing is derived again.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use domain::Timestamp;
use engine::identity::IdentityKey;
use engine::log::{LogKind, LogReader, LogWriter, Record};
use machine::{Batch, ReplayMode, ReplaySummary, Replayer, Stored, chain_digest};
use wire::control::{ControlRecord, Genesis};

use crate::control::StoredEntry;
use crate::directory::{DataDirectory, PartJoiner, StoredContent, UsageHistory, UsageItem, usage_item};
use crate::disk::Directory;

/// Records of the control log with their offsets.
pub type ControlRecords = Vec<(u64, ControlRecord)>;

/// Reads a record of the control log.
fn control_record(record: Record<'_>) -> Result<(u64, ControlRecord)> {
    let read = ControlRecord::decode(record.payload);
    let read =
        read.with_context(|| format!("the control record at offset {} is unreadable", record.offset))?;
    Ok((record.offset, read))
}

/// The genesis of a control log.
///
/// # Errors
/// If there is none or its key is unreadable.
pub fn genesis_of(records: &ControlRecords) -> Result<(&Genesis, IdentityKey)> {
    let Some((_, ControlRecord::Genesis(genesis))) = records.first() else {
        bail!("the control log does not start with a genesis record");
    };
    let key =
        IdentityKey::from_hex(&genesis.identity_key).context("the identity key is not 32 hex digits")?;
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
    ) -> Result<Self> {
        let mut contents = Self::default();
        let mut charges = by_number(charges);
        let mut journals = by_number(journals);
        let mut previous_journal = String::new();
        let mut journal_number = 0;
        for (_, record) in control {
            match record {
                ControlRecord::Seal(seal) => {
                    let candidates = charges.remove(&seal.batch).unwrap_or_default();
                    let found = candidates
                        .into_iter()
                        .find(|c| chain_digest(&seal.previous, &c.bytes) == seal.digest);
                    let Some(content) = found else {
                        bail!(
                            "charge batch {} is sealed, but its stored content is missing or differs",
                            seal.batch
                        );
                    };
                    let batch = Batch::decode(&content.bytes)
                        .with_context(|| format!("stored charge batch {} is unreadable", seal.batch))?;
                    contents.batches.insert(seal.digest.clone(), (content, batch));
                }
                ControlRecord::JournalSeal(seal) => {
                    journal_number += 1;
                    let candidates = journals.remove(&journal_number).unwrap_or_default();
                    let found = candidates
                        .into_iter()
                        .find(|c| chain_digest(&previous_journal, &c.bytes) == seal.digest);
                    let Some(content) = found else {
                        bail!(
                            "journal run {} of {} is sealed, but its stored content is missing or differs",
                            seal.first_run,
                            seal.entity
                        );
                    };
                    contents.journals.insert(seal.digest.clone(), content);
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
}

/// Opens all logs for writing and replays them. `genesis` makes the first record of a new directory.
///
/// # Errors
/// If a log is damaged, or the logs contradict each other.
pub fn recover(
    directory: &DataDirectory,
    shards: usize,
    genesis: impl FnOnce() -> Result<(i64, Vec<ControlRecord>)>,
) -> Result<Recovered> {
    let mut records = ControlRecords::new();
    let (mut control, first) = LogWriter::recover::<anyhow::Error>(
        directory.log(LogKind::Control)?,
        directory.options(LogKind::Control),
        &mut |record| {
            records.push(control_record(record)?);
            Ok(())
        },
    )
    .context("the control log cannot be opened")?;
    if records.is_empty() {
        let (now, new) = genesis()?;
        for record in new {
            let offset = control.stage(crate::directory::KIND_CONTROL, now, &[&record.encode()])?;
            records.push((offset, record));
        }
        control.commit(now).context("the control log cannot be written")?;
    }
    let (_, key) = genesis_of(&records)?;
    let (charges, charge_contents, second) = recover_contents(directory, LogKind::Charges)?;
    let (journals, journal_contents, third) = recover_contents(directory, LogKind::Journals)?;
    let contents = Contents::of(&records, charge_contents, journal_contents)?;
    let (batch_entries, journal_entries) = contents.entries(&records);
    let mut replayer =
        Replayer::new(ReplayMode::Load, shards, records, control.next_offset(), contents.stored());
    let mut history = directory.history(key, shards)?;
    let (usage, fourth) = LogWriter::recover::<anyhow::Error>(
        directory.log(LogKind::Usage)?,
        directory.options(LogKind::Usage),
        &mut |record| feed(&mut replayer, record, key, shards, &mut history),
    )
    .context("the usage log cannot be opened")?;
    replayer.finish().context("the control log does not follow from the usage log")?;
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
    })
}

fn feed(
    replayer: &mut Replayer,
    record: Record<'_>,
    key: IdentityKey,
    shards: usize,
    history: &mut UsageHistory,
) -> Result<()> {
    match usage_item(record.kind, record.offset, record.received_at, record.payload, key, shards)? {
        UsageItem::Batch(batch) => replayer.handle_batch(&batch),
        UsageItem::Barrier(control_offset) => {
            replayer.handle_barrier(record.offset, control_offset, history)?
        }
    }
    Ok(())
}

fn recover_contents(
    directory: &DataDirectory,
    kind: LogKind,
) -> Result<(LogWriter, Vec<StoredContent>, engine::log::Recovery)> {
    let mut joiner = PartJoiner::default();
    let mut contents = Vec::new();
    let (writer, recovery) =
        LogWriter::recover::<anyhow::Error>(directory.log(kind)?, directory.options(kind), &mut |record| {
            contents.extend(joiner.push(record.offset, record.payload)?);
            Ok(())
        })
        .with_context(|| format!("the log of {kind:?} cannot be opened"))?;
    Ok((writer, contents, recovery))
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
}

/// Reads a directory without changing it. In [`ReplayMode::Derive`] every sealed batch and journal is derived again and
/// compared with its seal.
///
/// # Errors
/// The first damage or difference.
pub fn replay(directory: &DataDirectory, shards: usize, mode: ReplayMode) -> Result<Replayed> {
    let Opened { mut replayer, key, usage, .. } = open_to_read(directory, shards, mode)?;
    let mut history = directory.history(key, shards)?;
    let mut events = 0u64;
    read_all(&usage, directory.options(LogKind::Usage), &mut |record| {
        match usage_item(record.kind, record.offset, record.received_at, record.payload, key, shards)? {
            UsageItem::Batch(batch) => {
                events += batch.event_count() as u64;
                replayer.handle_batch(&batch);
            }
            UsageItem::Barrier(offset) => replayer.handle_barrier(record.offset, offset, &mut history)?,
        }
        Ok(())
    })
    .context("the usage log")?;
    let summary = replayer.finish().context("the end of the control log")?;
    Ok(Replayed { replayer, summary, events, key })
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

/// Reads a directory as it is, without changing it; a server may be writing to it. Sealed batches are loaded.
///
/// The control log is read first. What a server adds meanwhile is left out: usage behind a barrier that names a later
/// control record would be judged by a catalog that was not read.
///
/// # Errors
/// The first damage.
pub fn read_moment(directory: &DataDirectory, shards: usize) -> Result<Moment> {
    let Opened { mut replayer, key, usage, control_end } = open_to_read(directory, shards, ReplayMode::Load)?;
    let mut history = directory.history(key, shards)?;
    let mut read = || -> Result<(u64, u64)> {
        let mut events = 0u64;
        let mut reader = LogReader::open(&*usage, directory.options(LogKind::Usage), 0, None)?;
        while let Some(record) = reader.next()? {
            match usage_item(record.kind, record.offset, record.received_at, record.payload, key, shards)? {
                UsageItem::Batch(batch) => {
                    events += batch.event_count() as u64;
                    replayer.handle_batch(&batch);
                }
                UsageItem::Barrier(offset) if offset > control_end => return Ok((events, record.offset)),
                UsageItem::Barrier(offset) => {
                    replayer.handle_barrier(record.offset, offset, &mut history)?;
                }
            }
        }
        Ok((events, reader.tail().end_offset))
    };
    let (events, usage_end) = read().context("the usage log")?;
    replayer.finish().context("the end of the control log")?;
    Ok(Moment { replayer, events, usage_end, history })
}

/// A directory of which all but the usage was read.
struct Opened {
    replayer: Replayer,
    key: IdentityKey,
    usage: Arc<Directory>,
    /// Offset behind the control log: no barrier of what was read names a later one.
    control_end: u64,
}

fn open_to_read(directory: &DataDirectory, shards: usize, mode: ReplayMode) -> Result<Opened> {
    let mut records = ControlRecords::new();
    let log = directory.existing_log(LogKind::Control)?;
    let usage = directory.existing_log(LogKind::Usage)?;
    let control_end = read_to_end(&log, directory.options(LogKind::Control), &mut |record| {
        records.push(control_record(record)?);
        Ok(())
    })
    .context("the control log")?;
    let (_, key) = genesis_of(&records)?;
    let mut contents = Vec::new();
    for kind in [LogKind::Charges, LogKind::Journals] {
        let mut joiner = PartJoiner::default();
        let mut found = Vec::new();
        read_all(&*directory.existing_log(kind)?, directory.options(kind), &mut |record| {
            found.extend(joiner.push(record.offset, record.payload)?);
            Ok(())
        })
        .with_context(|| format!("the log of {kind:?}"))?;
        contents.push(found);
    }
    let (journals, charges) = (contents.pop().unwrap_or_default(), contents.pop().unwrap_or_default());
    let stored = Contents::of(&records, charges, journals)?.stored();
    let replayer = Replayer::new(mode, shards, records, control_end, stored);
    Ok(Opened { replayer, key, usage, control_end })
}

/// Reads a whole log.
///
/// # Errors
/// The first damage, or what `visit` gives.
pub fn read_all(
    log: &Directory,
    options: engine::log::LogOptions,
    visit: &mut dyn FnMut(Record<'_>) -> Result<()>,
) -> Result<()> {
    read_to_end(log, options, visit).map(|_| ())
}

/// Reads a whole log; gives the offset behind its end.
///
/// # Errors
/// The first damage, or what `visit` gives.
fn read_to_end(
    log: &Directory,
    options: engine::log::LogOptions,
    visit: &mut dyn FnMut(Record<'_>) -> Result<()>,
) -> Result<u64> {
    let mut reader = LogReader::open(log, options, 0, None)?;
    while let Some(record) = reader.next()? {
        visit(record)?;
    }
    let torn = reader.tail().torn_bytes;
    if torn > 0 {
        tracing::warn!("the log ends with a torn commit of {torn} bytes that was never acknowledged");
    }
    Ok(reader.tail().end_offset)
}
