//! Snapshots of all shards: which one a start uses, and when a new one is due.
//!
//! Owns: the digest that binds a snapshot to its control log, the choice at start. Leaves to others: the file
//! (`engine::snapshot`), sections (`engine::shard`), threads (`server`).
//!
//! What a start finds, newest snapshot first:
//!
//! | found | done |
//! |---|---|
//! | no snapshot | all of the usage log is read |
//! | a whole one of these logs and so many shards, whose barrier is in the usage log | the shards start from it; the log behind its barrier is read |
//! | one without its end mark, cut off, or with a wrong checksum | left aside: the one before it is tried, then none |
//! | one of another number of shards, incarnation, partition or format | left aside, likewise |
//! | one of this history whose barrier lies behind the end of the usage log | the start is refused: the usage log lost its end (`recovery`) |
//! | one whose barrier the usage log has with another control offset, or not as a barrier | left aside, likewise |
//! | one whose control offset lies behind the end of the control log, or whose history differs | left aside, likewise |
//! | one that names a run which is missing, torn, of another log, another one of its number, or has a damaged header, index or filter | left aside, likewise |
//! | one that names a run with damaged entries | the same, once the entries are read: the shards start anew from the one before it, then from none |
//! | runs that no snapshot names, or that were never finished | taken away |
//!
//! Of what was left aside, files that are torn or damaged, or lie behind the end of the usage log, are taken away once the logs are
//! open: the last two that are kept are whole.
//!
//! Invariants: logs alone are truth; a start from a snapshot and one without give the same machine and shards.

use std::sync::Arc;

use engine::log::LogReader;
use engine::shard::spill::SpillPool;
use engine::shard::{RunStore, ShardLoader};
use engine::snapshot::{SnapshotError, SnapshotHead, read_snapshot, snapshot_head, snapshots};
use wire::canonical::sha256;
use wire::control::ControlRecord;
use wire::usage_record::{KIND_BARRIER, decode_barrier};

use crate::recovery::{ControlRecords, LogPlace, Logs};

/// Digest of a control log that is empty.
pub(crate) const NO_HISTORY: [u8; 32] = [0; 32];

/// Digest of a control log after one more record.
pub(crate) fn history_after(before: [u8; 32], offset: u64, record: &ControlRecord) -> [u8; 32] {
    let mut bytes = before.to_vec();
    bytes.extend_from_slice(&offset.to_le_bytes());
    bytes.extend_from_slice(&record.encode());
    sha256(&bytes)
}

/// A snapshot that a start left aside, and why.
#[derive(Debug)]
pub struct LeftAside {
    /// Usage offset of its barrier.
    pub usage_offset: u64,
    /// Why.
    pub error: SnapshotError,
}

/// A snapshot that fits the logs.
pub(crate) struct FoundSnapshot {
    pub(crate) head: SnapshotHead,
    pub(crate) shards: Vec<ShardLoader>,
}

/// The newest snapshot that fits the logs; those that do not are left aside, and not looked at again.
pub(crate) fn find(
    logs: &Logs,
    control: &ControlRecords,
    control_end: u64,
    shards: usize,
    folders: (&RunStore, &Arc<SpillPool>),
    left_aside: &mut Vec<LeftAside>,
) -> Option<FoundSnapshot> {
    // Without their names there are no snapshots, and the logs are enough.
    for usage_offset in snapshots(&*logs.snapshots).unwrap_or_default().into_iter().rev() {
        if left_aside.iter().any(|aside| aside.usage_offset == usage_offset) {
            continue;
        }
        let folders = (folders.0, Some(folders.1));
        match read(logs, control, control_end, shards, folders, usage_offset) {
            Ok(found) => return Some(found),
            Err(error) => left_aside.push(LeftAside { usage_offset, error }),
        }
    }
    None
}

/// Reads a snapshot of so many shards; without a pool all single events stay in memory.
pub(crate) fn read(
    logs: &Logs,
    control: &ControlRecords,
    control_end: u64,
    shards: usize,
    (runs, pool): (&RunStore, Option<&Arc<SpillPool>>),
    usage_offset: u64,
) -> Result<FoundSnapshot, SnapshotError> {
    let mut loaders: Vec<ShardLoader> = (0..shards).map(ShardLoader::new).collect();
    for loader in &mut loaders {
        pool.into_iter().for_each(|pool| loader.set_spill_pool(pool.clone()));
    }
    let is_ours = |head: &SnapshotHead| {
        head.shards as usize == shards
            && is_of(head, logs, control, control_end)
            && barrier_at(&logs.usage, usage_offset) == Some(head.control_offset)
    };
    let head = read_snapshot(&*logs.snapshots, usage_offset, is_ours, &mut |shard, kind, body| {
        let loader = loaders.get_mut(usize::from(shard));
        loader.ok_or(SnapshotError::SectionMustBeReadable { kind, shard })?.take(kind, body)?;
        if let Some(pool) = pool.filter(|pool| pool.is_due()) {
            pool.spill().map_err(SnapshotError::ItemsMustBeSpilled)?;
        }
        Ok(())
    })?;
    for loader in &mut loaders {
        loader.open_runs(runs)?;
    }
    Ok(FoundSnapshot { head, shards: loaders })
}

/// A snapshot of this history whose barrier the usage log does not reach: gives the place of the barrier, which was durable
/// before the snapshot began.
pub(crate) fn one_behind(
    logs: &Logs,
    control: &ControlRecords,
    control_end: u64,
    usage_end: u64,
) -> Option<u64> {
    let is_of_these = |head: &SnapshotHead| is_of(head, logs, control, control_end);
    // Without their names, or where one says nothing, nothing is proven.
    let behind = snapshots(&*logs.snapshots).unwrap_or_default().into_iter().filter(|at| *at >= usage_end);
    let mut heads = behind.filter_map(|at| snapshot_head(&*logs.snapshots, at).ok());
    heads.find(is_of_these).map(|head| head.usage_offset)
}

/// Whether a snapshot says that it is of these logs.
pub(crate) fn is_of(head: &SnapshotHead, logs: &Logs, control: &ControlRecords, control_end: u64) -> bool {
    let options = logs.usage.options;
    (head.incarnation, head.partition) == (options.incarnation, u32::from(options.partition))
        && head.control_offset <= control_end
        && head.history == history_until(control, head.control_offset)
}

fn history_until(control: &ControlRecords, until: u64) -> [u8; 32] {
    control
        .iter()
        .take_while(|(offset, _)| *offset < until)
        .fold(NO_HISTORY, |history, (offset, record)| history_after(history, *offset, record))
}

/// The control offset that a barrier at a place of the usage log names; none if no barrier is there.
fn barrier_at(usage: &LogPlace, offset: u64) -> Option<u64> {
    let mut reader = LogReader::open(&*usage.storage, usage.options, offset, Some(offset + 1)).ok()?;
    let record = reader.next().ok()??;
    (record.offset == offset && record.kind == KIND_BARRIER).then(|| decode_barrier(record.payload))?
}
