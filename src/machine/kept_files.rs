//! Snapshots and runs that lie in a directory, against what its logs say.
//!
//! Owns: which of them is compared with what. Leaves to others: files (`engine::snapshot`, `engine::shard`), what a start does
//! with them (`snapshots`).
//!
//! | found | said |
//! |---|---|
//! | a snapshot that is whole and of these logs, and makes shards that are those of a replay at its barrier | sound |
//! | a run of this log that is whole | sound |
//! | a snapshot that ends before its end mark, a run under the name that it has until it is durable | unfinished: a crash leaves them, and the next start takes them away |
//! | a snapshot of another format | another program's: a start leaves it aside |
//! | anything else | wrong, by name |
//!
//! A snapshot has sections of its own shards: only a replay with as many says what they should hold. The replay is fed to the
//! barrier of the snapshot, and what the sections and their runs make of a shard is compared with the shard that is there.
//!
//! Invariants: nothing is written; logs alone are truth, so nothing here is an error of the directory's.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use domain::limits::SHARDS_MAX;
use engine::shard::{RunError, RunStore};
use engine::snapshot::{SnapshotError, snapshot_head, snapshot_name, snapshots as snapshots_in};

use crate::recovery::{
    ControlRecords, Logs, RecoveryError, Replayed, genesis_of, read_control, replay_at_barriers, runs_of,
};
use crate::replay::{ReplayMode, Replayer};
use crate::snapshots;

/// The snapshots of a directory, to be compared with its logs.
///
/// Calling order: [`KeptSnapshots::of`], [`KeptSnapshots::replay`] for each of [`KeptSnapshots::shards`],
/// [`KeptSnapshots::finish`].
pub struct KeptSnapshots<'l> {
    logs: &'l Logs,
    runs: RunStore,
    control: ControlRecords,
    control_end: u64,
    /// Those that no replay came to yet, by the offset of their barrier; and how many shards they are of.
    waiting: BTreeMap<u64, usize>,
    found: FoundSnapshots,
}

/// What was found of snapshots.
#[derive(Default)]
pub struct FoundSnapshots {
    /// How many say what the logs say.
    pub sound: usize,
    /// How many were never finished.
    pub unfinished: usize,
    /// How many are of another format.
    pub of_another_format: usize,
    /// Files that are of no use, and why.
    pub wrong: Vec<(String, SnapshotError)>,
}

/// What was found of runs.
#[derive(Default)]
pub struct FoundRuns {
    /// How many are whole.
    pub sound: usize,
    /// How many were never finished.
    pub unfinished: usize,
    /// Those that are of no use.
    pub wrong: Vec<RunError>,
}

impl<'l> KeptSnapshots<'l> {
    /// All that lie in a directory.
    ///
    /// # Errors
    /// The control log cannot be read, or a folder cannot be listed.
    pub fn of(logs: &'l Logs) -> Result<Self, RecoveryError> {
        let (control, end) = read_control(&logs.control)?;
        let control_end = end.end_offset;
        let runs = runs_of(logs, genesis_of(&control)?.1);
        let runs = runs.map_err(RecoveryError::Runs)?;
        let (waiting, found) = (BTreeMap::new(), FoundSnapshots::default());
        let mut kept = Self { logs, runs, control, control_end, waiting, found };
        for usage_offset in there(snapshots_in(&*logs.snapshots)).map_err(RecoveryError::Snapshots)? {
            match snapshot_head(&*logs.snapshots, usage_offset) {
                Ok(head)
                    if snapshots::is_of(&head, logs, &kept.control, control_end)
                        && (1..=SHARDS_MAX).contains(&(head.shards as usize)) =>
                {
                    kept.waiting.insert(usage_offset, head.shards as usize);
                }
                Ok(_) => kept.found.note(usage_offset, Err(SnapshotError::MustBeOfTheseLogs)),
                Err(error) => kept.found.note(usage_offset, Err(error)),
            }
        }
        Ok(kept)
    }

    /// Numbers of shards that snapshots are of which were not compared yet.
    pub fn shards(&self) -> BTreeSet<usize> {
        self.waiting.values().copied().collect()
    }

    /// Replays the logs as [`crate::replay`] does, and compares the snapshots of so many shards on the way.
    ///
    /// # Errors
    /// The first damage of the logs, or difference between them.
    pub fn replay(&mut self, shards: usize, mode: ReplayMode) -> Result<Replayed, RecoveryError> {
        replay_at_barriers(self.logs, shards, mode, &mut |replayer, usage_offset| {
            if self.waiting.get(&usage_offset) == Some(&shards) {
                self.waiting.remove(&usage_offset);
                let compared = self.compare(replayer, usage_offset);
                self.found.note(usage_offset, compared);
            }
        })
    }

    fn compare(&self, replayer: &Replayer, usage_offset: u64) -> Result<(), SnapshotError> {
        let (runs, shards) = (&self.runs, &replayer.shards);
        let found = snapshots::read(
            self.logs,
            &self.control,
            self.control_end,
            shards.len(),
            (runs, None),
            usage_offset,
        )?;
        let mut pairs = shards.iter().zip(found.shards);
        pairs.try_for_each(|(shard, loader)| shard.check_saved(loader, runs))
    }

    /// What was found. A snapshot that no replay came to has no barrier in the usage log.
    pub fn finish(mut self) -> FoundSnapshots {
        for usage_offset in self.waiting.into_keys() {
            self.found.note(usage_offset, Err(SnapshotError::MustBeOfTheseLogs));
        }
        self.found
    }
}

impl FoundSnapshots {
    fn note(&mut self, usage_offset: u64, compared: Result<(), SnapshotError>) {
        match compared {
            Ok(()) => self.sound += 1,
            Err(SnapshotError::MustBeFinished { .. }) => self.unfinished += 1,
            Err(SnapshotError::MustBeOfThisFormat { .. }) => self.of_another_format += 1,
            Err(error) => self.wrong.push((snapshot_name(usage_offset), error)),
        }
    }
}

/// Reads all runs of a directory.
///
/// # Errors
/// The control log cannot be read, or the folder cannot be listed.
pub fn check_runs(logs: &Logs) -> Result<FoundRuns, RecoveryError> {
    let (control, _) = read_control(&logs.control)?;
    let runs = runs_of(logs, genesis_of(&control)?.1).map_err(RecoveryError::Runs)?;
    let (finished, unfinished) = there(runs.list()).map_err(RecoveryError::Runs)?;
    let mut found = FoundRuns { unfinished, ..FoundRuns::default() };
    for number in finished {
        match runs.check(number) {
            Ok(_) => found.sound += 1,
            Err(error) => found.wrong.push(error),
        }
    }
    Ok(found)
}

/// Nothing lies in a folder that is not there.
fn there<T: Default>(listed: io::Result<T>) -> io::Result<T> {
    match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        listed => listed,
    }
}
