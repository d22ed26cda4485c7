//! Runs: remembered ids on disk, immutable, each with a filter in memory.
//!
//! Owns: files, filters, merging. Leaves to others: what is remembered of an event, and which runs a shard has
//! (`super::Dedup`); threads and disks (`server`).
//!
//! A run has the entries of a stretch of the log, sorted by identity. A new id costs one line of a filter; an id that is
//! known costs one read of about sixty entries. Runs are derived: what is missing is made again from the log.

mod filter;
mod format;
mod policy;
mod run;
mod store;
pub mod synthesized;
pub mod visit;
mod work;
mod writer;

pub use self::format::RunLog;
pub(crate) use self::format::{RUN_ENTRIES_MAX, RunEntry, RunName, identity_of, key_of};
pub(crate) use self::policy::{RUNS_MAX, past_to_merge, runs_to_merge};
pub(crate) use self::run::{Kept, Run, RunReader};
pub use self::run::{RunError, RunFault};
pub use self::store::RunStore;
pub(crate) use self::work::{Inputs, forgotten_entries};
pub use self::work::{RunDone, RunJob, RunWork};

#[cfg(test)]
mod tests;
