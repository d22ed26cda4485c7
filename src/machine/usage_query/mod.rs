//! Usage queries: what a meter counts in windows and groups, recounted from the log.
//!
//! A query is a fold of the log, like a cell: the meter's own program with other groups, more filters and other slices,
//! over the events that count. So an answer equals the cells that rating sees wherever both look at the same events, and
//! every question can be asked of usage that came long before it.
//!
//! Calling order: [`UsageQuery::new`]; [`UsageTerms::of`] a catalog; then a [`UsageFold`] takes every batch before a
//! position of the usage log, in log order: [`Counting::select`] names the events that count if they are the first with
//! their id and accepted, the shards are asked whether they are, [`Counting::add`] counts them; then what counts instead of
//! events that were corrected. [`scan()`] does so.
//!
//! Owns: what may be asked, whose usage it is, windows and groups, limits. Leaves to others: asking shards (`server`),
//! filters, values and folds (`engine`).
//!
//! Invariants:
//! - Spans are half-open, times keep their nanoseconds, and a window is one of civil time in the zone of the query.
//! - An answer is a function of the usage log before a position, the catalog and the corrections that its last barrier
//!   names; the order of events does not matter.
//! - Memory is bounded by limits of rows, texts and windows; a query that passes one is refused by its name.

mod answer;
mod labels;
mod question;
mod scan;
mod terms;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::plan::Aggregation;
use domain::time::WindowGrid;
use domain::{EventPosition, Span, Timestamp};
use engine::identity::{IdentityKey, SourceKey, shard_of_slot, slot_of};
use engine::shard::kept::CellValue;
use engine::shard::recount::{OpenBatch, Place, Recount, Share};
use wire::usage::{EventId, Refusal, UsageBatch};

pub use self::answer::{AsOf, UsageAnswer, UsageRow};
use self::labels::Labels;
pub use self::question::{
    GroupKey, QUERY_FILTER_TEXTS_MAX, QUERY_ROWS_MAX, QUERY_SUBJECTS_MAX, QUERY_TEXT_BYTES_MAX,
    QUERY_WINDOWS_MAX, QueryStatus, Question, UsageQuery, UsageScope,
};
pub use self::scan::{
    CHUNK_CANDIDATES_MAX, Judge, Known, OnCounted, ScanError, ScannedLog, bytes_to_scan,
    control_state_before, known_control_offset, plan_of, scan,
};
#[cfg(test)]
pub(crate) use self::scan::{add_restated, pass_over};
pub use self::terms::UsageTerms;
use self::terms::{Looked, Owned};
use crate::measure::MeasureRule;

/// An event that counts if it is the first with its id and accepted.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Identity of the event.
    pub identity: u128,
    /// Where it stands.
    pub position: EventPosition,
    pub(crate) place: Place,
    pub(crate) share: Share,
    /// Which of several meters takes the share.
    pub(crate) meter: usize,
    /// Which of several sources sent it, where that is asked for; of one event's candidates, only the first says so.
    pub(crate) source: Option<usize>,
}

/// What counts events of a log.
pub trait Counting {
    /// The subjects whose batches alone are looked at; `None` if it is all of them.
    fn subjects(&self) -> Option<Vec<&str>>;

    /// The span in which events happened that alone are looked at; `None` if it is all of time.
    fn times(&self) -> Option<Span> {
        None
    }

    /// Adds the events of a batch that count, if the shards say so, to `out`.
    ///
    /// # Errors
    /// [`QueryStatus::RowsMustFit`].
    fn select(
        &mut self,
        batch: LoggedBatch<'_>,
        key: IdentityKey,
        out: &mut Vec<Candidate>,
    ) -> Result<(), QueryStatus>;

    /// Counts an event.
    ///
    /// # Errors
    /// [`QueryStatus::RowsMustFit`].
    fn add(&mut self, candidate: &Candidate) -> Result<(), QueryStatus>;
}

impl Candidate {
    /// Which of so many shards knows the event.
    pub fn shard(&self, shards: usize) -> usize {
        shard_of_slot(slot_of(self.identity), shards)
    }
}

/// A batch as it stands in the log.
#[derive(Clone, Copy)]
pub struct LoggedBatch<'a> {
    /// The columns.
    pub view: &'a UsageBatch<'a>,
    /// Events that were refused when the batch arrived, in order of their index.
    pub refusals: &'a [Refusal],
    /// Offset of its record.
    pub offset: u64,
    /// Index in its record of the first event.
    pub first_index: u16,
    /// Control offset of the barrier before it.
    pub control_offset: u64,
    /// When it arrived; nothing if this is what counts instead of an event that arrived otherwise.
    pub arrival: Option<Arrival>,
}

/// When a batch arrived.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// When it was received.
    pub received_at: Timestamp,
    /// When its block was stamped.
    pub recorded_at: Timestamp,
}

impl LoggedBatch<'_> {
    /// Indexes of the events that were not refused when the batch arrived.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = usize> + use<'_> {
        let mut refused = self.refusals.iter().map(|refusal| usize::from(refusal.index)).peekable();
        (0..self.view.len()).filter(move |index| refused.next_if_eq(index).is_none())
    }

    /// Position of an event.
    pub(crate) fn position(&self, index: usize) -> EventPosition {
        let index = u16::try_from(index).expect("a batch has fewer than 2^16 events");
        EventPosition::new(self.offset, self.first_index + index)
    }
}

/// Identity of an event of a source.
pub(crate) fn identity_of(view: &UsageBatch<'_>, index: usize, source: &SourceKey) -> u128 {
    match view.id(index) {
        EventId::Bytes(id) => source.identity_of_bytes(id),
        EventId::Sequenced { epoch, sequence } => source.identity_of_sequence(epoch, sequence),
    }
}

/// A query that takes usage.
pub struct UsageFold {
    query: UsageQuery,
    owned: Owned,
    aggregation: Aggregation,
    scale: u8,
    recount: Recount,
    labels: Labels,
}

impl UsageFold {
    /// A fold of nothing yet.
    pub fn new(query: UsageQuery, terms: UsageTerms) -> Self {
        let UsageTerms { program, owned } = terms;
        Self {
            labels: Labels::new(&query.question.group_by),
            query,
            owned,
            aggregation: program.aggregation,
            scale: program.scale,
            recount: Recount::new(program),
        }
    }

    fn select_events(
        &mut self,
        open: &mut OpenBatch,
        batch: LoggedBatch<'_>,
        key: IdentityKey,
        subjects: &[Looked<'_>],
        out: &mut Vec<Candidate>,
    ) {
        let view = batch.view;
        let source = key.of_source(view.source());
        let mut labels = vec![u32::MAX; subjects.len()];
        for index in batch.accepted() {
            let entry = view.subject_index(index);
            let time = Timestamp::from_nanoseconds(view.time(index));
            if !subjects[entry].is_at(time) {
                continue;
            }
            let Some(window) = self.query.grid.window_of(time) else { continue };
            let Some(share) = self.recount.share_of(open, view, index) else { continue };
            if labels[entry] == u32::MAX {
                labels[entry] = self.labels.number_of(view.subject(entry), view.source());
            }
            out.push(Candidate {
                identity: identity_of(view, index, &source),
                position: batch.position(index),
                place: Place { label: labels[entry], slice_from: window.from, time },
                share,
                meter: 0,
                source: None,
            });
        }
    }

    /// The answer, once every batch was taken.
    ///
    /// # Errors
    /// [`QueryStatus`].
    pub fn finish(self) -> Result<UsageAnswer, QueryStatus> {
        let Self { query, aggregation, scale, recount, labels, .. } = self;
        let UsageQuery { question, grid } = query;
        let rule = MeasureRule { aggregation, scale };
        let (mut event_count, mut event_digest) = (0, 0u128);
        let mut rows: Rows = BTreeMap::new();
        for cell in recount.finish() {
            event_count += cell.value.fold.count;
            event_digest = event_digest.wrapping_add(cell.value.fold.digest);
            let texts = labels.texts_of(&question.group_by, cell.label, &cell.group);
            rows.entry((cell.slice_from, texts)).or_default().merge(&cell.value);
        }
        let is_whole = question.group_by.is_empty() && question.window.is_none();
        if question.shows_empty || is_whole {
            add_empty_rows(&question, &grid, &mut rows)?;
        }
        let row_of = |((from, group), cells): (RowKey, CellValue)| {
            let window = grid.window_of(from).expect("a row's window lies in the span");
            let value = rule.measure(&cells, window).map_err(|_| QueryStatus::ValueMustFit)?;
            Ok(UsageRow { window, group, value, event_count: cells.fold.count })
        };
        let rows = rows.into_iter().map(row_of).collect::<Result<Vec<_>, QueryStatus>>()?;
        Ok(UsageAnswer { question, aggregation, rows, event_count, event_digest })
    }
}

impl Counting for UsageFold {
    fn subjects(&self) -> Option<Vec<&str>> {
        self.owned.subjects()
    }

    fn times(&self) -> Option<Span> {
        Some(self.query.grid.span())
    }

    fn select(
        &mut self,
        batch: LoggedBatch<'_>,
        key: IdentityKey,
        out: &mut Vec<Candidate>,
    ) -> Result<(), QueryStatus> {
        let view = batch.view;
        let Some(mut open) = self.recount.open(view, batch.control_offset) else { return Ok(()) };
        let owned = std::mem::replace(&mut self.owned, Owned::All);
        let subjects: Vec<Looked<'_>> =
            (0..view.subject_count()).map(|entry| owned.of(view.subject(entry))).collect();
        if subjects.iter().any(|looked| !matches!(looked, Looked::Never)) {
            self.select_events(&mut open, batch, key, &subjects, out);
        }
        self.owned = owned;
        let seen = self.recount.group_count().max(self.labels.len());
        if seen > QUERY_ROWS_MAX { Err(QueryStatus::RowsMustFit) } else { Ok(()) }
    }

    fn add(&mut self, candidate: &Candidate) -> Result<(), QueryStatus> {
        self.recount.add(candidate.identity, candidate.position, candidate.place, candidate.share);
        let fits =
            self.recount.cell_count() <= QUERY_ROWS_MAX && self.recount.text_bytes() <= QUERY_TEXT_BYTES_MAX;
        if fits { Ok(()) } else { Err(QueryStatus::RowsMustFit) }
    }
}

/// Texts of a group, in the order of the query's keys.
type Texts = Vec<Option<Arc<str>>>;
/// First instant of a row's window, and its group.
type RowKey = (Timestamp, Texts);
type Rows = BTreeMap<RowKey, CellValue>;

/// Gives every group that has usage a row in every window; without groups, every window has one.
fn add_empty_rows(question: &Question, grid: &WindowGrid, rows: &mut Rows) -> Result<(), QueryStatus> {
    let mut groups: BTreeSet<Texts> = rows.keys().map(|(_, group)| group.clone()).collect();
    if question.group_by.is_empty() {
        groups.insert(Vec::new());
    }
    if groups.len().saturating_mul(grid.windows().len()) > QUERY_ROWS_MAX {
        return Err(QueryStatus::RowsMustFit);
    }
    for window in grid.windows() {
        for group in &groups {
            rows.entry((window.from, group.clone())).or_default();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
