//! Runs of entries that nobody fed to a shard, for those who measure one that remembers more than they can feed.
//!
//! Owns: writing entries that come in order, the runs that a shard of a size has. Leaves to others: which entries there are
//! (the caller), the file (`super::writer`), the shard over it (`crate::shard::ShardLoader`).
//!
//! Invariants: the runs are those that tables and merges would have left, and the product opens them as its own.

use domain::EventPosition;

use super::super::{Seen, Standing};
use super::filter::Filter;
use super::format::{BUCKET_BYTES, Bounds, HEADER_BYTES, RUN_ENTRIES_MAX, RunEntry, key_of};
use super::policy::runs_to_merge;
use super::run::RunError;
use super::store::RunStore;
use super::writer::RunWriter;
use crate::snapshot::codec::Fields;

/// An event that was metered.
pub struct Synthesized {
    /// Its identity.
    pub identity: u128,
    /// Digest of its content.
    pub payload_digest: u64,
    /// Where it stands.
    pub position: EventPosition,
    /// Its time, in nanoseconds.
    pub time: i64,
}

/// By what the entries of a run are sorted, before their positions.
pub fn order_of(identity: u128) -> u128 {
    key_of(identity)
}

/// Entries of the runs that are left of so many full tables, oldest first.
pub fn runs_of_tables(tables: u64, table_entries: u64) -> Vec<u64> {
    let mut runs = Vec::new();
    for _ in 0..tables {
        runs.push(table_entries);
        while let Some(range) = runs_to_merge(&runs, table_entries, RUN_ENTRIES_MAX) {
            let merged = runs[range.clone()].iter().sum();
            runs.splice(range, [merged]);
        }
    }
    runs
}

/// Bytes of a run of so many entries with these bounds.
pub fn bytes_of_run(entries: u64, positions: (EventPosition, EventPosition), times: (i64, i64)) -> u64 {
    let bounds = Bounds::new(entries, positions, times);
    let (entry, index) = (bounds.layout().entry_bytes() as u64, bounds.buckets() * BUCKET_BYTES as u64);
    HEADER_BYTES as u64 + entries * entry + index + Filter::bytes_for_keys(entries)
}

/// A run of the first shard in the making.
pub struct SynthesizedRun<'a> {
    store: &'a RunStore,
    writer: RunWriter,
}

impl<'a> SynthesizedRun<'a> {
    /// Begins a run of so many entries that lie between these positions and times.
    ///
    /// # Errors
    /// [`RunError`]: it cannot be written.
    pub fn begin(
        store: &'a RunStore,
        entries: u64,
        positions: (EventPosition, EventPosition),
        times: (i64, i64),
    ) -> Result<Self, RunError> {
        let writer = store.create_run(0, Bounds::new(entries, positions, times), Some(entries))?;
        Ok(Self { store, writer })
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// [`RunError`]: it cannot be written.
    pub fn push(&mut self, entry: &Synthesized) -> Result<(), RunError> {
        let Synthesized { identity, payload_digest, position, time } = *entry;
        let seen = Seen { payload_digest, position, time, standing: Standing::Metered };
        let pushed = self.writer.push(&RunEntry { key: key_of(identity), seen });
        pushed.map_err(RunError::at(self.writer.number()))
    }

    /// Makes the run durable; gives its line of the list of runs in a snapshot.
    ///
    /// # Errors
    /// [`RunError`]: it cannot be written.
    pub fn finish(self) -> Result<Vec<u8>, RunError> {
        let run = self.store.finish_run(self.writer)?.expect("it has entries");
        let mut line = Fields::default();
        line.u64(run.name().number).u32(run.name().header_crc).u8(0);
        Ok(line.take())
    }
}
