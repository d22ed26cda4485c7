//! The dedup index of a shard: which events were seen, with which content, and what became of them.
//!
//! Owns: identity, payload digest, time and position of every event that reached the log, in bounded memory: a table, a
//! full table on its way to the disk, and runs.
//! Leaves to others: verdicts that do not come from an event's history (`super::Shard`); doing what
//! [`Dedup::poll_run_job`] asks for (its callers).
//!
//! ```text
//! newest ◀──────────────────────────────────────────────────────────────────────────── oldest
//! table ──full──▶ full table ──written──▶ run, run, run ──merged──▶ runs ──forgotten──▶ past runs
//! memory          memory                  disk; index and filter in memory            disk alone
//! ```
//!
//! Every one of them has a stretch of the log, and the stretches stand in the order of the log.
//!
//! Invariants: exact. An identity is 128 bits, keyed; two events with one identity are one event. First seen counts. What
//! is remembered of an event never changes; only a position in the log decides what is forgotten, never where it lies.

pub(in crate::shard) mod index;
mod memtable;
pub(crate) mod runs;

use std::cell::RefCell;
use std::sync::Arc;

use domain::EventPosition;

pub(crate) use self::memtable::Memtable;
use self::memtable::Vacant;
use self::runs::{
    Inputs, Kept, RUN_ENTRIES_MAX, RUNS_MAX, Run, RunDone, RunEntry, RunError, RunJob, RunName, RunReader,
    RunStore, forgotten_entries, identity_of, key_of, past_to_merge, runs_to_merge,
};

/// What became of the first event with an identity. Here as it arrived: the list of waiting events says what waits now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Standing {
    /// Counted in a cell.
    Metered,
    /// Accepted, waiting for an owner.
    Pending,
    /// Accepted, but no meter matched.
    Unmetered,
    /// Set aside.
    Quarantined,
}

impl Standing {
    /// The standing of the two bits that it is stored as.
    pub(crate) fn of_bits(bits: u64) -> Option<Self> {
        [Standing::Metered, Standing::Pending, Standing::Unmetered, Standing::Quarantined]
            .into_iter()
            .nth(usize::try_from(bits).ok()?)
    }
}

/// What is remembered of the first event with an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Digest of the content that counts.
    pub(crate) payload_digest: u64,
    /// Where the event stands.
    pub(crate) position: EventPosition,
    /// Its time, in nanoseconds; refused at the edge if it is not between 2000 and 2100.
    pub(crate) time: i64,
    /// What became of it.
    pub(crate) standing: Standing,
}

/// What a search gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The identity is remembered.
    Known(Seen),
    /// It is not.
    Unknown(Vacant),
}

/// Stretches of a table that are told apart.
const TABLE_STRETCHES: usize = 64;

/// What is of no use any more, and takes time to drop.
pub struct Retired {
    _table: Option<Arc<Memtable>>,
    runs: Vec<Run>,
}

impl Retired {
    /// Numbers of runs that the shard has no more.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.runs.iter().map(Run::number)
    }
}

/// The dedup index.
pub(crate) struct Dedup {
    table: Memtable,
    table_entries_max: usize,
    /// A full table that is being written.
    full: Option<Arc<Memtable>>,
    /// Oldest first.
    runs: Vec<Run>,
    /// Runs whose entries are forgotten, oldest first.
    past: Vec<Run>,
    remembered_from: EventPosition,
    /// Entries of tables and runs that are surely forgotten.
    forgotten_entries: u64,
    is_merging: bool,
    is_merging_past: bool,
    buffer: Vec<u8>,
}

impl Default for Dedup {
    fn default() -> Self {
        Self {
            table: Memtable::default(),
            table_entries_max: usize::MAX,
            full: None,
            runs: Vec::new(),
            past: Vec::new(),
            remembered_from: EventPosition::from_bits(0),
            forgotten_entries: 0,
            is_merging: false,
            is_merging_past: false,
            buffer: Vec::new(),
        }
    }
}

impl Dedup {
    /// Sets how many entries a table has before it becomes a run.
    pub(crate) fn set_table_entries_max(&mut self, entries: usize) {
        self.table_entries_max = entries;
    }

    /// Loads what searches of tables for identities will read, all at once instead of one after the other.
    #[inline]
    pub(crate) fn touch(&self, identities: impl Iterator<Item = u128> + Clone) {
        self.table.touch(identities.clone());
        if let Some(full) = &self.full {
            full.touch(identities);
        }
    }

    /// Whether anything that is remembered is on disk.
    pub(crate) fn has_runs(&self) -> bool {
        !self.runs.is_empty()
    }

    /// Which of up to 64 identities a run may have, one bit for each; what runs may have of them is on its way from the disk.
    #[inline]
    pub(crate) fn ask_runs(&self, identities: impl Iterator<Item = u128> + Clone) -> u64 {
        let mut touched = 0;
        for run in &self.runs {
            touched |= identities.clone().fold(0, |all, identity| all | run.touch(key_of(identity)));
        }
        std::hint::black_box(touched);
        let mut in_runs = 0;
        for run in &self.runs {
            for (bit, identity) in identities.clone().enumerate() {
                if run.may_hold(key_of(identity)) {
                    in_runs |= 1 << bit;
                    run.read_soon(key_of(identity));
                }
            }
        }
        in_runs
    }

    /// What is remembered of an identity, or where it would go. Without `in_runs`, no run has it.
    ///
    /// # Errors
    /// [`RunError`]: a run cannot be read.
    #[inline]
    pub(crate) fn look_up(&mut self, identity: u128, in_runs: bool) -> Result<Lookup, RunError> {
        let from = self.remembered_from;
        let vacant = match self.table.look_up(identity, |position| position >= from) {
            Ok(seen) => return Ok(Lookup::Known(seen)),
            Err(vacant) => vacant,
        };
        if let Some(full) = &self.full
            && let Some(seen) = full.find(identity, |position| position >= from)
        {
            return Ok(Lookup::Known(seen));
        }
        let found = if in_runs { self.find_in_runs(identity)? } else { None };
        Ok(found.map_or(Lookup::Unknown(vacant), Lookup::Known))
    }

    fn find_in_runs(&mut self, identity: u128) -> Result<Option<Seen>, RunError> {
        let (from, key) = (self.remembered_from, key_of(identity));
        for run in &self.runs {
            if run.may_hold(key)
                && let Some(seen) = run.find(key, &mut self.buffer, |position| position >= from)?
            {
                return Ok(Some(seen));
            }
        }
        Ok(None)
    }

    /// What is remembered of the event at a position, if it was the first with its identity there; forgotten or not.
    ///
    /// # Errors
    /// [`RunError`]: a run cannot be read.
    pub(crate) fn find_at(&self, identity: u128, position: EventPosition) -> Result<Option<Seen>, RunError> {
        let is_it = |found| found == position;
        let in_memory = self.table.find(identity, is_it);
        let in_full = || self.full.as_ref().and_then(|full| full.find(identity, is_it));
        if let Some(seen) = in_memory.or_else(in_full) {
            return Ok(Some(seen));
        }
        let holds = |run: &&Run| (run.positions().0..=run.positions().1).contains(&position);
        match self.past.iter().chain(&self.runs).find(holds) {
            Some(run) => run.find(key_of(identity), &mut Vec::new(), is_it),
            None => Ok(None),
        }
    }

    /// What is forgotten of an identity and not taken away yet, in the order of the log.
    ///
    /// # Errors
    /// [`RunError`]: a run cannot be read.
    pub(crate) fn forgotten(&self, identity: u128) -> Result<Vec<Seen>, RunError> {
        let from = self.remembered_from;
        let found = RefCell::new(Vec::new());
        let is_last = |position: EventPosition| {
            if position < from {
                found.borrow_mut().push(position);
            }
            false // so that the search goes on
        };
        self.table.find(identity, is_last);
        if let Some(full) = &self.full {
            full.find(identity, is_last);
        }
        let key = key_of(identity);
        for run in self.past.iter().chain(self.runs.iter().filter(|run| run.may_hold(key))) {
            run.find(key, &mut Vec::new(), is_last)?;
        }
        let mut positions = found.into_inner();
        positions.sort_unstable();
        let find_at = |position| Ok(self.find_at(identity, position)?.expect("it was found there"));
        positions.into_iter().map(find_at).collect()
    }

    /// Remembers a new event.
    #[inline]
    pub(crate) fn insert(&mut self, vacant: Vacant, seen: Seen) {
        self.table.insert(vacant, seen);
    }

    /// Takes over an event of a snapshot; `None` if it is there already.
    pub(crate) fn load(&mut self, identity: u128, seen: Seen) -> Option<()> {
        let vacant = self.table.look_up(identity, |position| position == seen.position).err()?;
        self.table.insert(vacant, seen);
        Some(())
    }

    /// Entries of which none is surely forgotten.
    pub(crate) fn len(&self) -> u64 {
        let full = self.full.as_ref().map_or(0, |full| full.len());
        self.runs.iter().map(Run::len).sum::<u64>() + (self.table.len() + full) as u64
            - self.forgotten_entries
    }

    /// Stretches of the log, in no order: a position with which one begins, and the entries that it has. Together they are
    /// all entries that are remembered, and some that are forgotten.
    pub(crate) fn stretches(&self) -> Vec<(EventPosition, u64)> {
        let mut stretches = Vec::new();
        for run in &self.runs {
            stretches.extend(run.header().stretches());
        }
        for table in self.full.iter().map(|full| &**full).chain([&self.table]) {
            let step = table.len().div_ceil(TABLE_STRETCHES).max(1);
            for first in (0..table.len()).step_by(step) {
                let entries = step.min(table.len() - first) as u64;
                stretches.push((table.at(first).1.position, entries));
            }
        }
        stretches
    }

    /// The entries in memory: a full table, and the present one with its number of entries.
    pub(crate) fn tables(&self) -> (Option<Arc<Memtable>>, usize) {
        (self.full.clone(), self.table.len())
    }

    /// The present table.
    pub(crate) fn table(&self) -> &Memtable {
        &self.table
    }

    /// The table of an index that has nothing else.
    ///
    /// # Panics
    /// If it has runs, or a full table.
    pub(crate) fn only_table(&self) -> &Memtable {
        let has_others = self.full.is_some() || self.run_names().next().is_some();
        assert!(!has_others, "all that is remembered is in one table");
        &self.table
    }

    /// Gives every entry of the tables and runs of a shard, forgotten or not.
    ///
    /// # Errors
    /// [`RunError`]: a run cannot be read.
    pub(crate) fn for_each_entry(
        &self,
        shard: u32,
        store: &RunStore,
        take: &mut dyn FnMut(u128, Seen),
    ) -> Result<(), RunError> {
        for (name, _) in self.run_names() {
            let mut reader = RunReader::new(store.open_run(shard, name, Kept::Index)?);
            while let Some(RunEntry { key, seen }) = reader.next()? {
                take(identity_of(key), seen);
            }
        }
        for table in self.full.iter().map(|full| &**full).chain([&self.table]) {
            (0..table.len()).map(|number| table.at(number)).for_each(|(identity, seen)| take(identity, seen));
        }
        Ok(())
    }

    /// All runs, oldest first, and whether they are of the past.
    pub(crate) fn run_names(&self) -> impl Iterator<Item = (RunName, bool)> {
        let past = self.past.iter().map(|run| (run.name(), true));
        past.chain(self.runs.iter().map(|run| (run.name(), false)))
    }

    /// Takes over a run of a snapshot, behind those that it has; `None` if it does not stand behind them.
    pub(crate) fn add_run(&mut self, run: Run) -> Option<()> {
        let last = self.past.iter().chain(&self.runs).last();
        let is_behind = last.is_none_or(|last| last.positions().1 < run.positions().0);
        let runs = if run.has_filter() { &mut self.runs } else { &mut self.past };
        runs.push(run);
        (is_behind && (self.past.is_empty() || self.runs.is_empty() || self.past_is_older())).then_some(())
    }

    fn past_is_older(&self) -> bool {
        let (past, runs) = (self.past.last(), self.runs.first());
        past.zip(runs).is_none_or(|(past, run)| past.positions().1 < run.positions().0)
    }

    /// Whether the table must be given away before it takes more.
    pub(crate) fn is_full(&self) -> bool {
        self.table.len() >= self.table_entries_max
    }

    /// What is to be done next, and the table that it made a full one of.
    pub(crate) fn poll_run_job(&mut self, shard: u32) -> Option<(RunJob, Option<Arc<Memtable>>)> {
        let job = |inputs| RunJob { shard, inputs, remembered_from: self.remembered_from };
        let has_room = self.runs.len() < RUNS_MAX || !self.is_merging;
        if self.is_full() && self.full.is_none() && has_room {
            let full = Arc::new(std::mem::take(&mut self.table));
            self.full = Some(full.clone());
            return Some((job(Inputs::Table(full.clone())), Some(full)));
        }
        if !self.is_merging
            && let Some(names) = self.runs_to_merge()
        {
            self.is_merging = true;
            return Some((job(Inputs::Runs(names)), None));
        }
        if !self.is_merging_past
            && let Some(range) = past_to_merge(&sizes_of(&self.past), RUN_ENTRIES_MAX)
        {
            self.is_merging_past = true;
            return Some((job(Inputs::Past(names_of(&self.past[range]))), None));
        }
        None
    }

    fn runs_to_merge(&self) -> Option<Vec<RunName>> {
        let is_mostly_forgotten =
            |run: &&Run| 2 * forgotten_entries(run.header(), self.remembered_from) > run.len();
        let forgotten = self.runs.first().filter(is_mostly_forgotten).map(|run| vec![run.name()]);
        let table = self.table_entries_max as u64;
        let range = || runs_to_merge(&sizes_of(&self.runs), table, RUN_ENTRIES_MAX);
        forgotten.or_else(|| Some(names_of(&self.runs[range()?])))
    }

    /// Takes the outcome of a job; gives what it is in place of.
    pub(crate) fn handle_run_done(&mut self, done: RunDone) -> Retired {
        let RunDone { inputs, run, past } = done;
        let retired = match inputs {
            Inputs::Table(_) => {
                self.runs.extend(run);
                Retired { _table: self.full.take(), runs: Vec::new() }
            }
            Inputs::Runs(names) => {
                self.is_merging = false;
                self.past.extend(past);
                Retired { _table: None, runs: replace(&mut self.runs, &names, run) }
            }
            Inputs::Past(names) => {
                self.is_merging_past = false;
                Retired { _table: None, runs: replace(&mut self.past, &names, past) }
            }
        };
        self.count_forgotten();
        retired
    }

    /// Forgets what stands before a position of the log.
    pub(crate) fn forget(&mut self, remembered_from: EventPosition) {
        assert!(self.remembered_from <= remembered_from, "what is forgotten stays so");
        self.remembered_from = remembered_from;
        self.count_forgotten();
    }

    /// Where what is remembered begins.
    pub(crate) fn remembered_from(&self) -> EventPosition {
        self.remembered_from
    }

    fn count_forgotten(&mut self) {
        let from = self.remembered_from;
        let in_runs: u64 = self.runs.iter().map(|run| forgotten_entries(run.header(), from)).sum();
        let full = self.full.as_ref().map_or(0, |full| full.count_before(from));
        self.forgotten_entries = in_runs + (full + self.table.count_before(from)) as u64;
    }
}

fn sizes_of(runs: &[Run]) -> Vec<u64> {
    runs.iter().map(Run::len).collect()
}

fn names_of(runs: &[Run]) -> Vec<RunName> {
    runs.iter().map(Run::name).collect()
}

/// Puts a run in place of its neighbouring inputs; gives these.
fn replace(runs: &mut Vec<Run>, inputs: &[RunName], run: Option<Run>) -> Vec<Run> {
    let from = runs.iter().position(|run| run.number() == inputs[0].number);
    let from = from.expect("inputs stay until they are merged");
    let old: Vec<Run> = runs.splice(from..from + inputs.len(), run).collect();
    assert!(old.iter().map(Run::name).eq(inputs.iter().copied()), "inputs are neighbours");
    old
}

#[cfg(test)]
mod tests;
