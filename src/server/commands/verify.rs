//! `tallymark verify`: derives everything again from the logs and compares it with all that is stored.
//!
//! Owns: which comparisons are made, in which order. Leaves to others: deriving (`machine::replay`), bytes of logs and
//! indexes (`engine::log`), snapshots and runs (`machine::KeptSnapshots`).
//!
//! | what | is compared with |
//! |---|---|
//! | every byte of all four logs | its checksum, its place, the end that the log was closed with |
//! | charge batches and journals | what the logs derive, and the digests of their seals |
//! | cells, by what is charged for them | the same with another number of shards |
//! | counters of each source | the events that its batches in the log have; the same with another number of shards |
//! | journals as they are stored | debits = credits, each |
//! | indexes of segments | the index that the segment's blocks give, byte for byte |
//! | snapshots | what a replay with as many shards has at their barrier: see `machine::KeptSnapshots` |
//! | runs of remembered ids | their checksums, their order, their filters |
//!
//! What is truth comes first: a difference of a file that is derived is said when the logs are in order.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use billing::ledger::Journal;
use clap::Args;
use engine::identity::IdentityKey;
use engine::log::{LogIndex, LogKind, archived_segments, check_archived, check_index};
use engine::shard::SourceCounters;
use machine::{
    FoundRuns, FoundSnapshots, KeptSnapshots, Logs, PartJoiner, Replayed, UsageItem, check_runs, usage_item,
};

use crate::config::DirectoryArgs;
use crate::directory::DataDirectory;
use crate::disk::DataDirectoryLock;
use crate::recovery::{read_all, replay_to_compare};

/// `tallymark verify`. No server may be running on the directory.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// What to read.
    #[command(flatten)]
    pub directory: DirectoryArgs,
}

/// Runs the command.
///
/// # Errors
/// The first damage or difference, or a server that has the directory: what it adds meanwhile would be a difference.
pub fn run(args: &VerifyArgs) -> Result<()> {
    let directory = args.directory.open();
    without_a_server(&directory, || verify(&directory))
}

/// Runs what compares logs that nobody writes to.
///
/// # Errors
/// What it says, or a server that has the directory, before or since.
pub fn without_a_server(directory: &DataDirectory, compare: impl FnOnce() -> Result<()>) -> Result<()> {
    let is_free = || DataDirectoryLock::check_free(directory.path()).context("stop the server first");
    is_free()?;
    compare().map_err(|difference| match is_free() {
        Ok(()) => difference,
        Err(in_use) => in_use,
    })
}

fn verify(directory: &DataDirectory) -> Result<()> {
    let logs = directory.existing_logs()?;
    let mut snapshots = KeptSnapshots::of(&logs)?;
    let one = replay_to_compare(&mut snapshots, 1)?;
    println!("seals     {} batches and all journals derive as sealed", one.summary.batches);
    let counters = counters_of(&one);
    let mut others = snapshots.shards();
    others.insert(3);
    for shards in &others {
        let other =
            replay_to_compare(&mut snapshots, *shards).with_context(|| format!("with {shards} shards"))?;
        ensure!(one.summary == other.summary, "{shards} shards derive other batches or journals than 1");
        ensure!(counters == counters_of(&other), "{shards} shards count other verdicts than 1");
    }
    let others: Vec<String> = others.iter().map(usize::to_string).collect();
    println!("shards    1 and {} agree", others.join(", "));
    let received = events_by_source(directory, one.key)?;
    check_counters(&counters, &received)?;
    println!("counters  {} sources, {} events", counters.len(), one.events);
    println!("journals  {} balance", check_journals(directory)?);
    let (indexes, segments) = check_indexes(directory, one.key)?;
    println!("indexes   {indexes} of {segments} ended segments have one, all as their blocks say");
    println!("archive   {} segments lie there, all as they went", check_archive(directory)?);
    println!("runs      {}", check_runs_of(&logs)?);
    println!("snapshots {}", check_snapshots(snapshots)?);
    println!("verified");
    Ok(())
}

/// Says what was found of snapshots, or the first that is of no use.
fn check_snapshots(snapshots: KeptSnapshots<'_>) -> Result<String> {
    let FoundSnapshots { sound, unfinished, of_another_format, wrong } = snapshots.finish();
    if let Some((name, error)) = wrong.into_iter().next() {
        bail!(
            "{:#}: take it away, a start does without it",
            anyhow::Error::new(error).context(format!("snapshot {name}"))
        );
    }
    Ok(format!(
        "{sound} say what the logs say, {unfinished} were never finished, {of_another_format} are of another format"
    ))
}

/// Says what was found of runs, or the first that is of no use.
fn check_runs_of(logs: &Logs) -> Result<String> {
    let FoundRuns { sound, unfinished, wrong } = check_runs(logs)?;
    match wrong.into_iter().next() {
        Some(error) => bail!(
            "{:#}: take it away, a start does without it and without the snapshots that name it",
            anyhow::Error::new(error)
        ),
        None => Ok(format!("{sound} are whole, {unfinished} were never finished")),
    }
}

fn counters_of(replayed: &Replayed) -> BTreeMap<Arc<str>, SourceCounters> {
    let mut counters: BTreeMap<Arc<str>, SourceCounters> = BTreeMap::new();
    for shard in &replayed.replayer.shards {
        for (source, part) in shard.counters() {
            counters.entry(source.clone()).or_default().merge(part);
        }
    }
    counters
}

/// Events that the log has of each source, refused ones included.
fn events_by_source(directory: &DataDirectory, key: IdentityKey) -> Result<BTreeMap<String, u64>> {
    let mut events: BTreeMap<String, u64> = BTreeMap::new();
    let (log, options) = (directory.existing_log(LogKind::Usage)?, directory.options(LogKind::Usage));
    read_all(&*log, options, &mut |record| {
        let (kind, offset, received_at) = (record.kind, record.offset, record.received_at);
        if let UsageItem::Batch(batch) = usage_item(kind, offset, received_at, record.payload, key, 1)? {
            *events.entry(batch.view().source().to_string()).or_default() += batch.event_count() as u64;
        }
        Ok(())
    })?;
    Ok(events)
}

fn check_counters(
    counters: &BTreeMap<Arc<str>, SourceCounters>,
    received: &BTreeMap<String, u64>,
) -> Result<()> {
    let counted: BTreeMap<&str, u64> =
        counters.iter().map(|(source, counters)| (&**source, counters.received())).collect();
    for (source, in_log) in received {
        let counted = counted.get(source.as_str()).copied().unwrap_or_default();
        ensure!(
            counted == *in_log,
            "source {source} has {in_log} events in the log, but {counted} were accepted, repeated, set aside or rejected"
        );
    }
    let unknown = counted.keys().find(|source| !received.contains_key(**source));
    if let Some(source) = unknown {
        bail!("source {source} is counted, but has no event in the log");
    }
    Ok(())
}

/// Checks the stored journals; gives their number.
fn check_journals(directory: &DataDirectory) -> Result<u64> {
    let (log, options) = (directory.existing_log(LogKind::Journals)?, directory.options(LogKind::Journals));
    let (mut joiner, mut journals) = (PartJoiner::default(), 0);
    read_all(&*log, options, &mut |record| {
        let Some(content) = joiner.push(record.offset, record.payload)? else { return Ok(()) };
        for line in content.bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let unreadable = || format!("a journal stored at offset {} is unreadable", content.offset);
            let journal: Journal = serde_json::from_slice(line).with_context(unreadable)?;
            let balances = journal.totals().is_some_and(|(debits, credits)| debits == credits);
            ensure!(balances, "journal {} does not balance", journal.external_id);
            journals += 1;
        }
        Ok(())
    })?;
    Ok(journals)
}

/// Checks what lies in the archive; gives the number of segments.
fn check_archive(directory: &DataDirectory) -> Result<usize> {
    let (log, options) = (directory.existing_usage()?, directory.options(LogKind::Usage));
    let segments = archived_segments(&log, &options)?;
    for segment in &segments {
        check_archived(&log, &options, segment)?;
    }
    Ok(segments.len())
}

/// Checks the indexes; gives their number and that of ended segments.
fn check_indexes(directory: &DataDirectory, key: IdentityKey) -> Result<(usize, usize)> {
    let (log, options) = (directory.existing_log(LogKind::Usage)?, directory.options(LogKind::Usage));
    let segments = LogIndex::open(&*log, options, key)?.ended_segments();
    let mut indexes = 0;
    for segment in &segments {
        match check_index(&*log, &options, key, segment.clone())? {
            Some(true) => indexes += 1,
            Some(false) => {
                let base = segment.start;
                bail!(
                    "index {base:020}.idx is not what its segment says: take it away, a server makes it again"
                );
            }
            None => {}
        }
    }
    Ok((indexes, segments.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Beside a server that wrote meanwhile, `verify` said that 3 shards derive other batches than 1.
    #[test]
    fn a_directory_that_a_server_has_is_not_compared() {
        let data = tempfile::tempdir().unwrap();
        let directory = DataDirectory::new(data.path(), 64 << 20);
        let compare = |lock: &mut dyn FnMut() -> Result<()>| without_a_server(&directory, lock);
        assert!(compare(&mut || Ok(())).is_ok(), "nobody ever served it");
        let mut taken = None;
        let error = compare(&mut || {
            taken = Some(DataDirectoryLock::take(data.path())?);
            bail!("a difference")
        });
        let said = format!("{:#}", error.unwrap_err());
        assert!(said.starts_with("stop the server first: data directory"), "{said}");
        assert!(compare(&mut || unreachable!("a server has it")).is_err());
        drop(taken);
        let error = compare(&mut || bail!("a difference"));
        assert_eq!(error.unwrap_err().to_string(), "a difference");
    }

    #[test]
    fn counters_that_miss_an_event_of_a_source_are_named() {
        let counters =
            |metered, duplicate| SourceCounters { metered, duplicate, ..SourceCounters::default() };
        let counted: BTreeMap<Arc<str>, SourceCounters> =
            [("a".into(), counters(2, 1)), ("b".into(), counters(4, 0))].into();
        let check = |received: &[(&str, u64)]| {
            let received = received.iter().map(|(source, events)| (source.to_string(), *events)).collect();
            check_counters(&counted, &received).map_err(|error| error.to_string())
        };
        assert_eq!(check(&[("a", 3), ("b", 4)]), Ok(()));
        let error = "source b has 5 events in the log, but 4 were accepted, repeated, set aside or rejected";
        assert_eq!(check(&[("a", 3), ("b", 5)]), Err(error.to_string()));
        assert_eq!(check(&[("a", 3)]), Err("source b is counted, but has no event in the log".to_string()));
    }
}
