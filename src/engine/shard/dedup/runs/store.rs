//! The folder of runs of one log.
//!
//! Owns: numbers of runs, and taking away what nobody names. Leaves to others: who names a run (shards and snapshots).
//!
//! Invariants: a number that anybody names is used once; a run is opened by its number and its header's checksum, so what
//! came in its place from elsewhere is not taken for it.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::format::{Bounds, RunLog, RunName, number_of_name, run_name};
use super::run::{Kept, Run, RunError};
use super::work::{RunDone, RunJob, RunWork};
use super::writer::RunWriter;
use crate::io::Storage;

/// Entries that [`RunStore::work_off`] does between two looks at nothing.
const STEP_ENTRIES: usize = 1 << 16;

/// The folder of runs of one log.
pub struct RunStore {
    storage: Arc<dyn Storage>,
    log: RunLog,
    next: AtomicU64,
}

impl RunStore {
    /// The runs of a log; none, if there is no such folder.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open(storage: Arc<dyn Storage>, log: RunLog) -> io::Result<Self> {
        let names = match storage.list() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        let numbers = names.into_iter().filter_map(|name| number_of_name(&name));
        let next = numbers.map(|(number, _)| number + 1).max().unwrap_or(1);
        Ok(Self { storage, log, next: AtomicU64::new(next) })
    }

    /// Gives none of these numbers to a run, though no file may have it any more. Before any job begins.
    pub fn avoid(&self, numbers: &BTreeSet<u64>) {
        let next = numbers.last().map_or(0, |last| last.saturating_add(1));
        self.next.fetch_max(next, Ordering::Relaxed);
    }

    /// Starts a job.
    ///
    /// # Errors
    /// [`RunError`]: a run cannot be read or written.
    pub fn begin(&self, job: RunJob) -> Result<RunWork, RunError> {
        RunWork::begin(self, job)
    }

    /// Does all of a job.
    ///
    /// # Errors
    /// [`RunError`]: a run cannot be read or written, or is damaged.
    pub fn work_off(&self, job: RunJob) -> Result<RunDone, RunError> {
        let mut work = self.begin(job)?;
        while work.step(STEP_ENTRIES)? {}
        work.finish(self)
    }

    pub(crate) fn open_run(&self, shard: u32, wanted: RunName, kept: Kept) -> Result<Run, RunError> {
        Run::open(&*self.storage, self.log, shard, wanted, kept)
    }

    pub(crate) fn create_run(
        &self,
        shard: u32,
        bounds: Bounds,
        keys: Option<u64>,
    ) -> Result<RunWriter, RunError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        RunWriter::create(&*self.storage, self.log, (shard, number), bounds, keys)
            .map_err(RunError::at(number))
    }

    /// Ends a run; one without entries is none.
    pub(crate) fn finish_run(&self, run: RunWriter) -> Result<Option<Run>, RunError> {
        let number = run.number();
        let finished = match run.len() {
            0 => run.abandon(&*self.storage).map(|()| None),
            _ => run.finish(&*self.storage).map(Some),
        };
        finished.map_err(RunError::at(number))
    }

    /// Numbers of all finished runs, ascending, and how many were never finished.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn list(&self) -> io::Result<(Vec<u64>, usize)> {
        let found: Vec<_> = self.storage.list()?.iter().filter_map(|name| number_of_name(name)).collect();
        let mut finished: Vec<u64> =
            found.iter().filter(|(_, is_finished)| *is_finished).map(|(number, _)| *number).collect();
        finished.sort_unstable();
        let unfinished = found.len() - finished.len();
        Ok((finished, unfinished))
    }

    /// Reads all of a run; gives its entries.
    ///
    /// # Errors
    /// [`RunError`]: it is none of this log, or not whole.
    pub fn check(&self, number: u64) -> Result<u64, RunError> {
        Run::check(&*self.storage, self.log, number)
    }

    /// Takes away a run; one that is gone already is what was wanted.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn remove(&self, number: u64) -> io::Result<()> {
        match self.storage.remove(&run_name(number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    /// Takes away all runs but these, and what was never finished; gives how many. Only before any job begins.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn keep_only(&self, numbers: &BTreeSet<u64>) -> io::Result<usize> {
        let mut removed = 0;
        for name in self.storage.list()? {
            match number_of_name(&name) {
                Some((number, true)) if numbers.contains(&number) => continue,
                Some(_) => {
                    self.storage.remove(&name)?;
                    removed += 1;
                }
                // Nothing of ours.
                None => {}
            }
        }
        if removed > 0 {
            self.storage.sync_directory()?;
        }
        Ok(removed)
    }
}
