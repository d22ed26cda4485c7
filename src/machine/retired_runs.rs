//! Runs of remembered ids that are of no use any more.
//!
//! Owns: when the file of a run goes. Leaves to others: runs (`engine::shard`), threads (`server`).
//!
//! A run that its shard has no more stays while a snapshot names it: a start may come back to it.
//!
//! Invariants: nothing is taken away that a shard or a snapshot names, or may come to name.

use std::collections::BTreeSet;
use std::error::Error;
use std::io;

use engine::io::Storage;
use engine::shard::{Retired, RunError, RunStore};
use engine::snapshot::runs_named;

use crate::recovery::fault_of_run;

/// Runs that their shards have no more.
#[derive(Default)]
pub struct RetiredRuns {
    numbers: BTreeSet<u64>,
}

impl RetiredRuns {
    /// Adds what a shard has no more; what that holds in memory is dropped here.
    pub fn add(&mut self, retired: Retired) {
        self.numbers.extend(retired.numbers());
    }

    /// Takes away those that no snapshot names. Not while a snapshot is made, which may come to name any of them.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn take_away(&mut self, store: &RunStore, snapshots: &dyn Storage) -> io::Result<()> {
        if self.numbers.is_empty() {
            return Ok(());
        }
        let named = runs_named(snapshots)?;
        for number in std::mem::take(&mut self.numbers) {
            if named.contains(&number) {
                self.numbers.insert(number);
            } else {
                store.remove(number)?;
            }
        }
        Ok(())
    }
}

/// Takes away the run whose file is at fault, if that is what an error says: the next start does without it. Gives the run, and
/// whether it could be taken away.
pub fn take_damaged_run_away(
    store: &RunStore,
    error: &(dyn Error + 'static),
) -> Option<(RunError, io::Result<()>)> {
    let run = fault_of_run(error)?;
    let removed = store.remove(run.number);
    Some((run, removed))
}
