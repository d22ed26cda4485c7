//! The deterministic whole: control state, metering plan, barriers, cuts, position − issued, seals and journals.
//!
//! Owns: what the records of the control log mean, and everything derived from logs and sealed batches.
//! Leaves to others: deciding about events (`engine`), what a quantity costs (`billing`), disks, threads, sockets and
//! the clock (`server`). The server, `replay`, the simulation and the tests drive the same code.
//!
//! Invariants:
//! - State is a function of the control log up to an offset, the cells of its barriers, and sealed batches.
//! - Sealed is sealed: a batch that was sealed is loaded, never derived again, and every later one chains to it.

mod affected;
mod archiving;
mod batch;
mod bill;
mod cells;
mod charge_text;
pub mod completeness;
mod control;
mod control_writer;
mod corrections;
mod cut;
mod due;
mod explanation;
mod forgetting;
mod groups;
mod invoicing;
mod issued;
mod journals;
mod kept_files;
mod levels;
pub mod lineage;
mod machine;
mod measure;
mod metering_plan;
mod owners;
mod recovery;
mod replay;
mod retired_runs;
mod snapshots;
mod spilled;
mod stored;
mod units;
mod usage_log;
pub mod usage_query;
mod what_if;
mod windows;

pub use self::archiving::{ArchiveError, move_to_archive, segment_to_archive};
pub use self::batch::{Batch, BatchError, BatchHead, chain_digest, read_line};
pub use self::control::{ApplyError, ControlState};
pub use self::control_writer::{
    AckStatus, ControlError, ControlWriter, DoneCut, DoneJournals, FinishedWork, KIND_CONTROL, NewBarrier,
    PassedBarrier, PutOutcome, RESOURCE_BYTES_MAX, Surroundings,
};
pub use self::corrections::{
    Amendment, CorrectionKind, CorrectionRequest, CorrectionStatus, KnownCorrections, KnownEvent,
    RecordedCorrection, RecordedCorrections, name_of,
};
pub use self::cut::{RateError, SetAside};
pub use self::explanation::{ExplainedPrice, ExplainedWindow};
pub use self::forgetting::offset_of_newest;
pub use self::invoicing::InvoiceStanding;
pub use self::journals::JournalBatch;
pub use self::kept_files::{FoundRuns, FoundSnapshots, KeptSnapshots, check_runs};
pub use self::machine::{Machine, ProposedPuts, PutError, RatedBatch, propose_put};
pub use self::recovery::{
    ControlRecords, FirstRecords, LogPlace, Logs, Moment, Recovered, RecoveryError, Replayed, ShardMemory,
    fault_of_run, genesis_of, read_moment, recover, replay,
};
pub use self::replay::{History, ReplayError, ReplayMode, ReplaySummary, Replayer, Stored};
pub use self::retired_runs::{RetiredRuns, take_damaged_run_away};
pub use self::snapshots::LeftAside;
pub use self::stored::{
    ContentReader, KIND_STORED_PART, PartJoiner, StoredContent, StoredEntry, StoredError,
};
pub use self::usage_log::{UsageHistory, UsageItem, UsageRecordError, pass_barrier_through, usage_item};
pub use self::what_if::{AccountEffect, Effect, WhatIf, usage_period};

pub use wire::control::RatingFailure;

/// Rating semantics of this program. Raised when the same logs would give other amounts.
pub const RATING_EPOCH: &str = "7";

#[cfg(test)]
mod tests;
