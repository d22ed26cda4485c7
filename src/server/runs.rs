//! What is done to files of remembered ids and of single events beside the shards: full tables are written, runs merged, old ones
//! taken away, single events spilled.
//!
//! Owns: the thread and its queue, that a full table comes before a merge. Leaves to others: how a job is done and what it
//! is for (`engine::shard`), when a file goes (`machine::RetiredRuns`, `engine::shard::spill`).
//!
//! Invariants: no shard waits for a merge while it has room for another run; nothing is taken away that a shard or a
//! snapshot names, or may come to name while one is made.

use std::sync::Arc;

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use engine::io::Storage;
use engine::shard::spill::SpillPool;
use engine::shard::{Retired, RunDone, RunJob, RunStore, RunWork};
use machine::RetiredRuns;

use crate::snapshots::SnapshotState;

/// Entries that are done before the queue is looked at again.
const STEP_ENTRIES: usize = 1 << 16;

/// What the thread is asked to do.
pub enum RunTask {
    /// What a shard wants done.
    Job {
        /// The job.
        job: RunJob,
        /// Gets the outcome.
        done: Sender<RunDone>,
    },
    /// What a shard has no more.
    Retired(Retired),
    /// There are too many single events in memory.
    Spill,
    /// A snapshot was saved or given up.
    SnapshotEnded,
    /// Nothing; a shard that waits sees whether there is anybody.
    AreYouThere,
}

/// The thread beside the shards.
pub struct Runs {
    /// The folder.
    pub store: Arc<RunStore>,
    /// Single events that may leave memory.
    pub pool: Arc<SpillPool>,
    /// Where snapshots are.
    pub snapshots: Arc<dyn Storage>,
    /// What is known of them.
    pub snapshot_state: Arc<SnapshotState>,
}

struct Work {
    work: RunWork,
    is_urgent: bool,
    done: Sender<RunDone>,
}

impl Runs {
    /// Runs until nobody can ask for anything any more; what is under way then is left to the next start.
    ///
    /// # Errors
    /// A file that cannot be read or written.
    pub fn run(self, tasks: &Receiver<RunTask>) -> Result<()> {
        let given_up = self.serve(tasks);
        if let Err(error) = &given_up {
            take_damaged_away(&self.store, error);
        }
        given_up
    }

    fn serve(&self, tasks: &Receiver<RunTask>) -> Result<()> {
        let mut works: Vec<Work> = Vec::new();
        let mut retired = RetiredRuns::default();
        loop {
            let task = match works.is_empty() {
                true => tasks.recv().map_err(|_| TryRecvError::Disconnected),
                false => tasks.try_recv(),
            };
            match task {
                Ok(RunTask::Job { job, done }) => {
                    let is_urgent = job.is_urgent();
                    works.push(Work { work: self.store.begin(job)?, is_urgent, done });
                }
                // What it holds is dropped here, and not by the shard.
                Ok(RunTask::Retired(old)) => retired.add(old),
                Ok(RunTask::Spill) => self.pool.spill()?,
                Ok(RunTask::SnapshotEnded | RunTask::AreYouThere) => {}
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) => {
                    self.step(&mut works)?;
                    continue;
                }
            }
            self.take_away(&mut retired)?;
        }
    }

    /// Does a step of the first urgent work, or of the first.
    fn step(&self, works: &mut Vec<Work>) -> Result<()> {
        let index = works.iter().position(|work| work.is_urgent).unwrap_or(0);
        if works[index].work.step(STEP_ENTRIES)? {
            return Ok(());
        }
        let Work { work, done, .. } = works.remove(index);
        // A shard that has stopped wants nothing any more.
        let _ = done.send(work.finish(&self.store)?);
        Ok(())
    }

    fn take_away(&self, retired: &mut RetiredRuns) -> Result<()> {
        if self.snapshot_state.making.is_now() {
            return Ok(());
        }
        let taken = retired.take_away(&self.store, &*self.snapshots);
        taken.context("an old run of remembered ids cannot be taken away")
    }
}

/// Takes away the run whose file is at fault, if that is what an error says: the next start does without it.
pub fn take_damaged_away(store: &RunStore, error: &anyhow::Error) {
    let Some((run, removed)) = machine::take_damaged_run_away(store, error.as_ref()) else { return };
    tracing::error!("{run}; it is taken away, and the next start makes it again from the logs");
    if let Err(error) = removed {
        tracing::error!("it cannot be taken away: {error}");
    }
}
