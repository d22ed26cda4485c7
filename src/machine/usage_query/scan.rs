//! Reads the usage log for a query, and asks which of its events count.
//!
//! Owns: the order of records, questions in chunks, corrected events passed over and counted as they are now, the position
//! and the control state that an answer is of.
//! Leaves to others: the fold (`super`), who is asked and how (`server`), bytes (`engine::log`).
//!
//! Invariants:
//! - Only records before the position are counted, whatever is written meanwhile: an answer for a position is the same
//!   ever after.
//! - One batch and two chunks of candidates are in memory at a time.

use std::sync::Arc;

use domain::plan::MeteringPlan;
use domain::{Span, Timestamp};
use engine::identity::IdentityKey;
use engine::io::Storage;
use engine::log::{LogError, LogIndex, LogOptions, LogReader, Part, Record, Wanted};
use engine::shard::{RunError, Shard};
use wire::control::ControlRecord;
use wire::frame::{FRAME_HEADER_BYTES, FrameHeader};
use wire::usage::UsageBatch;
use wire::usage_record::{BatchRecordHead, KIND_BARRIER, KIND_USAGE_BATCH, decode_barrier};

use super::question::QueryStatus;
use super::{Arrival, AsOf, Candidate, Counting, LoggedBatch};
use crate::control::ControlState;
use crate::corrections::KnownCorrections;
use crate::metering_plan::compile_whole;
use crate::recovery::LogPlace;
use crate::usage_log::UsageRecordError;

/// Candidates that are asked about together.
pub const CHUNK_CANDIDATES_MAX: usize = 4_096;

/// Takes candidates that count.
pub type OnCounted<'a> = &'a mut dyn FnMut(&Candidate) -> Result<(), QueryStatus>;

/// Says which events count.
pub trait Judge {
    /// Takes candidates; gives those that count, of this call or of the one before, to `counted`.
    ///
    /// # Errors
    /// [`ScanError`].
    fn judge(&mut self, candidates: Vec<Candidate>, counted: OnCounted<'_>) -> Result<(), ScanError>;

    /// Gives what counts of the last call.
    ///
    /// # Errors
    /// [`ScanError`].
    fn finish(&mut self, counted: OnCounted<'_>) -> Result<(), ScanError>;
}

/// The shards themselves.
impl Judge for &[Shard] {
    fn judge(&mut self, candidates: Vec<Candidate>, counted: OnCounted<'_>) -> Result<(), ScanError> {
        for candidate in &candidates {
            if self[candidate.shard(self.len())].counts(candidate.identity, candidate.position)? {
                counted(candidate)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, _: OnCounted<'_>) -> Result<(), ScanError> {
        Ok(())
    }
}

/// Why usage was not counted to the end.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The query has no answer.
    #[error(transparent)]
    Query(#[from] QueryStatus),
    /// A log cannot be read.
    #[error("a log cannot be read")]
    Log(#[from] LogError),
    /// A record of the usage log is not what belongs there.
    #[error(transparent)]
    Usage(#[from] UsageRecordError),
    /// A record of the control log is not what belongs there.
    #[error("the control record at offset {offset} does not follow")]
    Control {
        /// Offset of the record.
        offset: u64,
        /// What is wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Remembered ids cannot be read.
    #[error("it cannot be said which events count")]
    Runs(#[from] RunError),
    /// Nobody waits for the answer any more.
    #[error("nobody waits for the answer")]
    Abandoned,
    /// Whoever says which events count has stopped.
    #[error("a shard has stopped")]
    JudgeStopped,
}

/// Up to where usage is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Records before this offset of the usage log.
    pub before: u64,
    /// Of these, the ones that were stamped by this instant.
    pub recorded_by: Option<Timestamp>,
}

impl Known {
    fn has(&self, record: &Record<'_>) -> bool {
        self.recorded_by.is_none_or(|by| record.recorded_at <= by.nanoseconds())
    }
}

/// The usage log that is read.
#[derive(Clone, Copy)]
pub struct ScannedLog<'a> {
    /// Its directory.
    pub storage: &'a dyn Storage,
    /// What it is.
    pub options: LogOptions,
    /// The key of event identities.
    pub key: IdentityKey,
}

impl<'a> ScannedLog<'a> {
    fn reader(&self) -> Result<LogReader<'a>, LogError> {
        LogReader::open(self.storage, self.options, 0, Some(0))
    }

    fn index(&self) -> Result<LogIndex<'a>, LogError> {
        LogIndex::open(self.storage, self.options, self.key)
    }
}

/// Counts the usage of a log that is known into a fold, without events that were corrected and with what counts instead;
/// gives what the answer is of. `is_awaited` is asked at every record.
///
/// # Errors
/// [`ScanError`].
pub fn scan(
    log: ScannedLog<'_>,
    known: Known,
    corrected: &KnownCorrections,
    fold: &mut dyn Counting,
    judge: &mut dyn Judge,
    is_awaited: &dyn Fn() -> bool,
) -> Result<AsOf, ScanError> {
    let mut reader = log.reader()?;
    let mut as_of = AsOf { usage_offset: known.before, control_offset: 0 };
    let mut candidates = Vec::new();
    let parts = parts_of(log, known, fold)?;
    let reads_to_the_end = matches!(parts.last(), Some(Part::Read(range)) if range.end == known.before);
    'parts: for part in parts {
        match part {
            Part::Barrier(control_offset) => as_of.control_offset = control_offset,
            Part::Read(range) => reader.seek(range),
        }
        while let Some(record) = reader.next()? {
            if !is_awaited() {
                return Err(ScanError::Abandoned);
            }
            if !known.has(&record) {
                as_of.usage_offset = record.offset;
                break 'parts;
            }
            match record.kind {
                KIND_BARRIER => as_of.control_offset = control_offset_of(&record)?,
                KIND_USAGE_BATCH => {
                    let first = candidates.len();
                    select(fold, record, as_of.control_offset, log.key, &mut candidates)?;
                    pass_over(corrected, first, &mut candidates);
                }
                kind => return Err(UsageRecordError::KindMustBeKnown { offset: record.offset, kind }.into()),
            }
            while candidates.len() >= CHUNK_CANDIDATES_MAX {
                let rest = candidates.split_off(CHUNK_CANDIDATES_MAX);
                judge.judge(std::mem::replace(&mut candidates, rest), &mut |event| fold.add(event))?;
            }
        }
    }
    judge.judge(candidates, &mut |event| fold.add(event))?;
    judge.finish(&mut |event| fold.add(event))?;
    add_restated(corrected, log.key, fold)?;
    if !reads_to_the_end {
        as_of.control_offset = known_control_offset(log, known, is_awaited)?;
    }
    Ok(as_of)
}

/// What must be read: all that is known, or where the subjects can be that are looked at, and the times.
///
/// An index says the first and the last time of the events of a stretch, as they were sent. What counts instead of an event
/// that was corrected is not read from the usage log at all, and of any other its own time decides.
///
/// Barriers behind the last part that is read are not among the parts. Only a position tells where they end, so that a
/// scan up to a stamp reads everything.
fn parts_of(log: ScannedLog<'_>, known: Known, fold: &dyn Counting) -> Result<Vec<Part>, LogError> {
    let (subjects, times) = (fold.subjects(), fold.times());
    if known.recorded_by.is_some() || (subjects.is_none() && times.is_none()) {
        return Ok(vec![Part::Read(0..known.before)]);
    }
    let digest_of = |subject: &&str| log.key.digest_of_subject(subject);
    let digests: Option<Vec<u64>> = subjects.map(|subjects| subjects.iter().map(digest_of).collect());
    let Span { from, until } = times.unwrap_or(Span::new(Timestamp::MIN, Timestamp::END));
    let wanted = Wanted::Times(from.nanoseconds(), until.nanoseconds(), digests.as_deref());
    Ok(log.index()?.parts(wanted, known.before))
}

/// Bytes of the log that a scan reads at most.
///
/// # Errors
/// [`LogError`].
pub fn bytes_to_scan(log: ScannedLog<'_>, known: Known, fold: &dyn Counting) -> Result<u64, LogError> {
    let parts = parts_of(log, known, fold)?;
    let bytes = parts.iter().map(|part| match part {
        Part::Read(range) => range.end - range.start,
        Part::Barrier(_) => 0,
    });
    Ok(bytes.sum())
}

fn select(
    fold: &mut dyn Counting,
    record: Record<'_>,
    control_offset: u64,
    key: IdentityKey,
    candidates: &mut Vec<Candidate>,
) -> Result<(), ScanError> {
    let offset = record.offset;
    let sound = |source| UsageRecordError::FrameMustBeSound { offset, source };
    let head = BatchRecordHead::decode(record.payload);
    let (head, frame) = head.ok_or(UsageRecordError::RecordMustBeReadable { offset })?;
    // The batch was checked before it was logged, and its block's checksum was checked just now.
    let header = FrameHeader::decode_slice(frame).map_err(sound)?;
    let view = UsageBatch::reopen(&header, &frame[FRAME_HEADER_BYTES..]).map_err(sound)?;
    let batch = LoggedBatch {
        view: &view,
        refusals: &head.refusals,
        offset,
        first_index: 0,
        control_offset,
        arrival: Some(Arrival {
            received_at: Timestamp::from_nanoseconds(record.received_at),
            recorded_at: Timestamp::from_nanoseconds(record.recorded_at),
        }),
    };
    Ok(fold.select(batch, key, candidates)?)
}

/// Takes corrected events out of the candidates from `first` on.
pub(crate) fn pass_over(corrected: &KnownCorrections, first: usize, candidates: &mut Vec<Candidate>) {
    let mut index = 0;
    candidates.retain(|candidate| {
        index += 1;
        index <= first || !corrected.has(candidate.position)
    });
}

/// Counts what counts instead of events that were corrected.
///
/// # Errors
/// [`QueryStatus::RowsMustFit`].
pub(crate) fn add_restated(
    corrected: &KnownCorrections,
    key: IdentityKey,
    fold: &mut dyn Counting,
) -> Result<(), QueryStatus> {
    let mut candidates = Vec::new();
    let positions = corrected.restated_of(fold.subjects().as_deref());
    for event in positions.into_iter().flat_map(|position| corrected.restated_at(position)) {
        let batch = LoggedBatch {
            view: &event.view(),
            refusals: &[],
            offset: event.position.offset(),
            first_index: event.position.index(),
            control_offset: event.meters_at,
            arrival: None,
        };
        fold.select(batch, key, &mut candidates)?;
        candidates.drain(..).try_for_each(|candidate| fold.add(&candidate))?;
    }
    Ok(())
}

fn control_offset_of(record: &Record<'_>) -> Result<u64, UsageRecordError> {
    let unreadable = UsageRecordError::RecordMustBeReadable { offset: record.offset };
    decode_barrier(record.payload).ok_or(unreadable)
}

/// The control offset of the last barrier that is known. Segments are read from the newest back, until one has it.
///
/// # Errors
/// [`ScanError`].
pub fn known_control_offset(
    log: ScannedLog<'_>,
    known: Known,
    is_awaited: &dyn Fn() -> bool,
) -> Result<u64, ScanError> {
    let ended = log.index()?.ended_segments();
    let newest = ended.last().map_or(0, |segment| segment.end)..known.before;
    let mut reader = log.reader()?;
    let segments = ended.into_iter().chain([newest]).filter(|segment| segment.start < known.before);
    for segment in segments.collect::<Vec<_>>().into_iter().rev() {
        let mut control_offset = None;
        reader.seek(segment.start..segment.end.min(known.before));
        while let Some(record) = reader.next()?
            && known.has(&record)
        {
            if !is_awaited() {
                return Err(ScanError::Abandoned);
            }
            if record.kind == KIND_BARRIER {
                control_offset = Some(control_offset_of(&record)?);
            }
        }
        if let Some(control_offset) = control_offset {
            return Ok(control_offset);
        }
    }
    Ok(0)
}

/// What a control log said before an offset.
///
/// # Errors
/// [`ScanError`].
pub fn control_state_before(control: &LogPlace, offset: u64) -> Result<ControlState, ScanError> {
    let mut state = ControlState::default();
    let mut reader = LogReader::open(&*control.storage, control.options, 0, Some(offset))?;
    while let Some(record) = reader.next()? {
        let offset = record.offset;
        let read = ControlRecord::decode(record.payload);
        let read = read.map_err(|source| ScanError::Control { offset, source: source.into() })?;
        let applied = state.apply(offset, &read);
        applied.map_err(|source| ScanError::Control { offset, source: source.into() })?;
    }
    Ok(state)
}

/// The metering plan of what a control log said.
pub fn plan_of(state: &ControlState) -> Arc<MeteringPlan> {
    compile_whole(state)
}
