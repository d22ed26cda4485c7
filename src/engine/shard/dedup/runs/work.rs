//! What is done to runs beside the shard: a full table becomes a run, and runs are merged.
//!
//! Owns: a job, step by step. Leaves to others: threads, and when a step is done (the caller); what a shard asks for and
//! what it makes of the outcome (`super::super::Dedup`).
//!
//! Calling order: the shard's `poll_run_job`, [`RunStore::begin`], [`RunWork::step`] until it says that all is done,
//! [`RunWork::finish`], the shard's `handle_run_done`. What it takes out is dropped where that may take time.
//!
//! Entries that were forgotten go to a run of the past, which has no filter: only who knows where an event stands asks it.
//!
//! Invariants: inputs stay as they are until the shard has the outcome; every entry of them is in exactly one output.

use std::sync::Arc;

use domain::EventPosition;

use super::super::Seen;
use super::super::memtable::Memtable;
use super::format::{Bounds, RunEntry, RunHeader, RunName, SLICES, key_of};
use super::run::{Kept, Run, RunError, RunReader};
use super::store::RunStore;
use super::writer::RunWriter;

/// What a shard wants done.
pub struct RunJob {
    pub(crate) shard: u32,
    pub(crate) inputs: Inputs,
    /// Entries before this are forgotten.
    pub(crate) remembered_from: EventPosition,
}

/// What a job takes.
#[derive(Clone)]
pub(crate) enum Inputs {
    /// A full table.
    Table(Arc<Memtable>),
    /// Neighbouring runs, oldest first.
    Runs(Vec<RunName>),
    /// Neighbouring runs of the past, oldest first.
    Past(Vec<RunName>),
}

impl RunJob {
    /// Whether a shard may soon wait for it.
    pub fn is_urgent(&self) -> bool {
        matches!(self.inputs, Inputs::Table(_))
    }
}

/// What came of a job.
pub struct RunDone {
    pub(crate) inputs: Inputs,
    /// What is still remembered.
    pub(crate) run: Option<Run>,
    /// What is forgotten.
    pub(crate) past: Option<Run>,
}

/// A job under way.
pub struct RunWork {
    inputs: Inputs,
    source: Source,
    remembered_from: EventPosition,
    run: Option<RunWriter>,
    past: Option<RunWriter>,
}

enum Source {
    Table(Sorted),
    Runs { readers: Vec<RunReader>, heads: Vec<Option<RunEntry>> },
}

/// A table in the order of keys.
struct Sorted {
    table: Arc<Memtable>,
    /// Upper half of the key, and number.
    order: std::vec::IntoIter<(u64, u32)>,
    /// The next entries, the last one first.
    gathered: Vec<RunEntry>,
}

/// Entries of a table that are read together. Each is a line of memory that no cache has, and one loop of nothing but reads has
/// many of them under way at once.
const GATHERED: usize = 128;

impl RunWork {
    pub(crate) fn begin(store: &RunStore, job: RunJob) -> Result<Self, RunError> {
        let RunJob { shard, inputs, remembered_from } = job;
        match &inputs {
            Inputs::Table(table) => Self::begin_table(store, shard, inputs.clone(), table.clone()),
            Inputs::Runs(names) | Inputs::Past(names) => {
                let open = |name: &RunName| store.open_run(shard, *name, Kept::Index).map(RunReader::new);
                let mut readers = names.iter().map(open).collect::<Result<Vec<_>, _>>()?;
                let heads = readers.iter_mut().map(RunReader::next).collect::<Result<Vec<_>, _>>()?;
                let headers: Vec<&RunHeader> = readers.iter().map(|reader| reader.run().header()).collect();
                // All of what is past stays there.
                let remembered_from = match inputs {
                    Inputs::Past(_) => EventPosition::from_bits(u64::MAX),
                    _ => remembered_from,
                };
                let (run, past) = outputs(store, shard, &headers, remembered_from)?;
                Ok(Self { inputs, source: Source::Runs { readers, heads }, remembered_from, run, past })
            }
        }
    }

    fn begin_table(
        store: &RunStore,
        shard: u32,
        inputs: Inputs,
        table: Arc<Memtable>,
    ) -> Result<Self, RunError> {
        let mut order: Vec<(u64, u32)> = Vec::with_capacity(table.len());
        let (mut times, mut positions) = ((i64::MAX, i64::MIN), (u64::MAX, 0));
        for number in 0..table.len() {
            let (identity, Seen { position, time, .. }) = table.at(number);
            order.push(((key_of(identity) >> 64) as u64, number as u32));
            times = (times.0.min(time), times.1.max(time));
            positions = (positions.0.min(position.to_bits()), positions.1.max(position.to_bits()));
        }
        order.sort_unstable_by(|one, other| {
            let whole = |number: u32| key_of(table.at(number as usize).0);
            one.0.cmp(&other.0).then_with(|| (whole(one.1), one.1).cmp(&(whole(other.1), other.1)))
        });
        let positions = (EventPosition::from_bits(positions.0), EventPosition::from_bits(positions.1));
        let entries = table.len() as u64;
        let bounds = Bounds::new(entries, positions, times);
        let run = store.create_run(shard, bounds, Some(entries))?;
        let gathered = Vec::with_capacity(GATHERED);
        let source = Source::Table(Sorted { table, order: order.into_iter(), gathered });
        let remembered_from = EventPosition::from_bits(0);
        Ok(Self { inputs, source, remembered_from, run: Some(run), past: None })
    }

    /// Does so many entries; whether there are more.
    ///
    /// # Errors
    /// [`RunError`]: a run cannot be read or written, or is damaged.
    pub fn step(&mut self, entries: usize) -> Result<bool, RunError> {
        for _ in 0..entries {
            let Some(entry) = self.source.next()? else { return Ok(false) };
            let is_remembered = entry.seen.position >= self.remembered_from;
            let output = if is_remembered { &mut self.run } else { &mut self.past };
            let output = output.as_mut().expect("there is an output wherever an entry may lie");
            output.push(&entry).map_err(RunError::at(output.number()))?;
        }
        Ok(true)
    }

    /// Makes the outcome durable.
    ///
    /// # Errors
    /// [`RunError`]: a run cannot be written.
    pub fn finish(self, store: &RunStore) -> Result<RunDone, RunError> {
        let finish = |output: Option<RunWriter>| output.map(|run| store.finish_run(run)).transpose();
        let (run, past) = (finish(self.run)?.flatten(), finish(self.past)?.flatten());
        Ok(RunDone { inputs: self.inputs, run, past })
    }
}

/// Where entries of runs go: those that are remembered, and those of the past.
fn outputs(
    store: &RunStore,
    shard: u32,
    inputs: &[&RunHeader],
    remembered_from: EventPosition,
) -> Result<(Option<RunWriter>, Option<RunWriter>), RunError> {
    let (first, last) = bounds_of(inputs.iter().map(|header| header.bounds.positions));
    let times = bounds_of(inputs.iter().map(|header| header.bounds.times));
    let entries: u64 = inputs.iter().map(|header| header.entries).sum();
    let forgotten: u64 = inputs.iter().map(|header| forgotten_entries(header, remembered_from)).sum();
    let (mut run, mut past) = (None, None);
    if last >= remembered_from {
        let positions = (first.max(remembered_from), last);
        let bounds = Bounds::new(entries - forgotten, positions, times);
        run = Some(store.create_run(shard, bounds, Some(entries - forgotten))?);
    }
    if first < remembered_from {
        let before = EventPosition::from_bits(remembered_from.to_bits() - 1);
        let bounds = Bounds::new(entries, (first, last.min(before)), times);
        past = Some(store.create_run(shard, bounds, None)?);
    }
    Ok((run, past))
}

fn bounds_of<T: Ord + Copy>(all: impl Iterator<Item = (T, T)>) -> (T, T) {
    let joined = all.reduce(|one, other| (one.0.min(other.0), one.1.max(other.1)));
    joined.expect("a merge has inputs")
}

/// Entries of a run that are surely forgotten: those of whole slices.
pub(crate) fn forgotten_entries(header: &RunHeader, remembered_from: EventPosition) -> u64 {
    let slice = header.bounds.slice_of(remembered_from);
    let until = if remembered_from > header.bounds.positions.1 { SLICES } else { slice };
    header.slices[..until].iter().map(|slice| slice.entries).sum()
}

impl Sorted {
    #[inline]
    fn next(&mut self) -> Option<RunEntry> {
        if self.gathered.is_empty() {
            let table = &self.table;
            self.gathered.extend(self.order.by_ref().take(GATHERED).map(|(_, number)| {
                let (identity, seen) = table.at(number as usize);
                RunEntry { key: key_of(identity), seen }
            }));
            self.gathered.reverse();
        }
        self.gathered.pop()
    }
}

impl Source {
    #[inline]
    fn next(&mut self) -> Result<Option<RunEntry>, RunError> {
        match self {
            Source::Table(sorted) => Ok(sorted.next()),
            Source::Runs { readers, heads } => {
                let mut least: Option<(usize, RunEntry)> = None;
                for (index, head) in heads.iter().enumerate() {
                    if let Some(head) = head
                        && least.is_none_or(|(_, least)| {
                            (head.key, head.seen.position) < (least.key, least.seen.position)
                        })
                    {
                        least = Some((index, *head));
                    }
                }
                let Some((index, entry)) = least else { return Ok(None) };
                heads[index] = readers[index].next()?;
                Ok(Some(entry))
            }
        }
    }
}
