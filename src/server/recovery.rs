//! Opens data directories: where they lie, what is said of torn commits.
//!
//! Owns: the way from a path to `machine::recovery`. Leaves to others: what is read, in which order, and what a crash
//! may leave (`machine::recovery`).

use anyhow::Result;
use engine::io::Storage;
use engine::log::{LogOptions, LogReader, Record};
use machine::{KeptSnapshots, ReplayMode};
pub use machine::{Moment, Replayed};

use crate::directory::DataDirectory;

/// Reads a directory without changing it. In [`ReplayMode::Derive`] every sealed batch and journal is derived again and
/// compared with its seal.
///
/// # Errors
/// The first damage or difference.
pub fn replay(directory: &DataDirectory, shards: usize, mode: ReplayMode) -> Result<Replayed> {
    let replayed = machine::replay(&directory.existing_logs()?, shards, mode)?;
    warn_of_torn(replayed.torn_bytes);
    Ok(replayed)
}

/// Replays the logs of snapshots with so many shards, and compares those of as many.
///
/// # Errors
/// The first damage or difference of the logs.
pub fn replay_to_compare(snapshots: &mut KeptSnapshots<'_>, shards: usize) -> Result<Replayed> {
    let replayed = snapshots.replay(shards, ReplayMode::Derive)?;
    warn_of_torn(replayed.torn_bytes);
    Ok(replayed)
}

/// Reads a directory as it is, without changing it; a server may be writing to it. Sealed batches are loaded.
///
/// # Errors
/// The first damage.
pub fn read_moment(directory: &DataDirectory, shards: usize) -> Result<Moment> {
    Ok(machine::read_moment(&directory.existing_logs()?, shards)?)
}

/// Reads one whole log of a kind.
///
/// # Errors
/// The first damage, or what `visit` gives.
pub fn read_all(
    log: &dyn Storage,
    options: LogOptions,
    visit: &mut dyn FnMut(Record<'_>) -> Result<()>,
) -> Result<()> {
    let mut reader = LogReader::open(log, options, 0, None)?;
    while let Some(record) = reader.next()? {
        visit(record)?;
    }
    warn_of_torn(reader.tail().torn_bytes);
    Ok(())
}

fn warn_of_torn(bytes: u64) {
    if bytes > 0 {
        tracing::warn!("a log ends with torn commits of {bytes} bytes that were never acknowledged");
    }
}
