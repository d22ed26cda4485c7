//! Makes usage batches: events in, whole frames out.
//!
//! Owns: collecting events into columns, one scale per value column, the limits of a frame while it grows.
//! Leaves to others: when a batch is full enough or old enough to be sent (the client), the layout (`usage::archive`).
//!
//! Calling order: `push*` until it answers [`BuilderStatus::BatchMustHaveRoom`] or the caller wants to send, then
//! `finish`, then again.
//!
//! Invariants:
//! - A push that fails leaves the builder as it was.
//! - A frame never exceeds its limits: room is kept for the largest encoding that the columns can have.
//! - A value is never rounded: a column takes the finest scale that its values need.

mod columns;
mod texts;

use std::fmt;

use domain::Decimal;
use domain::limits::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, DICTIONARY_ENTRIES_MAX, EVENT_DIMENSIONS_MAX, EVENT_VALUES_MAX,
    OPAQUE_BYTES_MAX,
};
use rkyv::util::AlignedVec;

use crate::buffer::AlignedBytes;
use crate::event::{self, Event, EventIdOwned, EventStatus, opaque_fits};
use crate::frame::{FRAME_HEADER_BYTES, FrameHeader, Schema};
use crate::usage::archive::{ArchivedUsageBatchV1, ID_KIND_GIVEN, ID_KIND_SEQUENCED, UsageBatchV1};
use columns::{Dimensions, Values};
use texts::TextTable;

/// Where the ids of a batch come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdMode {
    /// Every event brings its own.
    Given,
    /// The builder mints them, rising by one.
    Sequenced {
        /// The run of the client; ids of different runs never meet.
        epoch: u64,
        /// Sequence of the first event.
        first: u64,
    },
}

/// Why an event was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuilderStatus {
    /// The event breaks a rule by itself; no batch can take it.
    Event(EventStatus),
    /// This batch cannot take the event: finish it, and the next one will.
    BatchMustHaveRoom,
}

impl fmt::Display for BuilderStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuilderStatus::Event(status) => fmt::Display::fmt(status, f),
            BuilderStatus::BatchMustHaveRoom => f.write_str("the batch has room for the event"),
        }
    }
}

impl std::error::Error for BuilderStatus {}

impl From<EventStatus> for BuilderStatus {
    fn from(status: EventStatus) -> Self {
        BuilderStatus::Event(status)
    }
}

/// Collects events of one source and type into frames.
pub struct BatchBuilder {
    ids: IdMode,
    checks_events: bool,
    batch: UsageBatchV1,
    subjects: TextTable,
    values: Values,
    dimensions: Dimensions,
    fixed_bytes: usize,
}

/// Alignment may cost each list of the archive this much.
pub(crate) const PADDING_BYTES_MAX: usize = crate::buffer::ALIGNMENT;
/// Lists at the root of the archive: texts, ids, subjects, times, columns.
const ROOT_LISTS: usize = 10;
/// Last sequence that a builder mints, far enough below the end of 64 bits for any batch.
const SEQUENCE_MAX: u64 = u64::MAX - 2 * BATCH_EVENTS_MAX as u64;

impl BatchBuilder {
    /// A builder without events.
    ///
    /// # Panics
    /// If source or type is empty or longer than 256 bytes: both are configuration, not input.
    pub fn new(source: &str, event_type: &str, ids: IdMode) -> Self {
        assert!(opaque_fits(source.as_bytes()), "a source has 1 to 256 bytes");
        assert!(opaque_fits(event_type.as_bytes()), "an event type has 1 to 256 bytes");
        let fixed_bytes = FRAME_HEADER_BYTES
            + size_of::<ArchivedUsageBatchV1>()
            + source.len()
            + event_type.len()
            + ROOT_LISTS * PADDING_BYTES_MAX;
        let mut batch = UsageBatchV1 {
            source: source.to_owned(),
            event_type: event_type.to_owned(),
            ..UsageBatchV1::default()
        };
        let mut subjects = TextTable::default();
        subjects.start(&mut batch.subjects);
        Self {
            ids,
            checks_events: true,
            batch,
            subjects,
            values: Values::default(),
            dimensions: Dimensions::default(),
            fixed_bytes,
        }
    }

    /// The builder without the rules of single events, so that receivers can be tested with what they must refuse.
    pub fn without_event_checks(mut self) -> Self {
        self.checks_events = false;
        self
    }

    /// Events in the batch.
    pub fn len(&self) -> usize {
        self.batch.time.len()
    }

    /// Whether the batch has no events yet.
    pub fn is_empty(&self) -> bool {
        self.batch.time.is_empty()
    }

    /// Bytes that the frame would have at most, if it were finished now.
    pub fn frame_bytes_bound(&self) -> usize {
        self.bytes_bound(self.len(), 0)
    }

    /// The sequence that the next event gets, if the builder mints ids.
    pub fn next_sequence(&self) -> Option<u64> {
        match self.ids {
            IdMode::Given => None,
            IdMode::Sequenced { first, .. } => Some(first.saturating_add(self.len() as u64)),
        }
    }

    /// Adds an event.
    ///
    /// In a batch that mints ids, the event leaves its id to the builder or carries the one that it is to get; see
    /// [`BatchBuilder::next_sequence`].
    ///
    /// # Errors
    /// [`BuilderStatus::BatchMustHaveRoom`], or the first rule that the event breaks by itself.
    pub fn push(&mut self, event: &Event) -> Result<(), BuilderStatus> {
        self.push_within(event, BATCH_BYTES_MAX)
    }

    /// As [`BatchBuilder::push`], if [`BatchBuilder::frame_bytes_bound`] is at most so many bytes with the event.
    ///
    /// # Errors
    /// [`BuilderStatus::BatchMustHaveRoom`], or the first rule that the event breaks by itself.
    pub fn push_within(&mut self, event: &Event, frame_bytes_max: usize) -> Result<(), BuilderStatus> {
        let id = self.id_of(event)?;
        event.check()?;
        let mut values = [("", 0, 0); EVENT_VALUES_MAX];
        let mut dimensions = [("", ""); EVENT_DIMENSIONS_MAX];
        for (part, (name, value)) in values.iter_mut().zip(&event.values) {
            *part = (name, value.mantissa(), value.scale());
        }
        for (part, (name, text)) in dimensions.iter_mut().zip(&event.dimensions) {
            *part = (name, text);
        }
        let values = values.get(..event.values.len()).expect("the event was checked");
        let dimensions = dimensions.get(..event.dimensions.len()).expect("the event was checked");
        let frame_bytes_max = frame_bytes_max.min(BATCH_BYTES_MAX);
        self.push_checked(id, &event.subject, event.time.nanoseconds(), values, dimensions, frame_bytes_max)
    }

    /// The bytes that the id takes in the batch: none if the batch mints it.
    fn id_of<'e>(&self, event: &'e Event) -> Result<&'e [u8], EventStatus> {
        match (&event.id, self.ids) {
            (EventIdOwned::Text(id), IdMode::Given) => event::check_id(id.as_bytes()).map(|()| id.as_bytes()),
            (EventIdOwned::Sequenced { epoch, sequence }, IdMode::Sequenced { epoch: own, .. })
                if *epoch == own && Some(*sequence) == self.next_sequence() =>
            {
                Ok(&[])
            }
            (EventIdOwned::Minted, IdMode::Sequenced { .. }) => Ok(&[]),
            _ => Err(EventStatus::IdMustMatchBatch),
        }
    }

    /// Adds an event from borrowed parts; `id` is empty in a batch that mints ids, `time` is nanoseconds since 1970,
    /// a value is its name, mantissa and scale.
    ///
    /// # Errors
    /// [`BuilderStatus::BatchMustHaveRoom`], or the first rule that the event breaks by itself.
    #[inline]
    pub fn push_parts(
        &mut self,
        id: &[u8],
        subject: &str,
        time: i64,
        values: &[(&str, i128, u8)],
        dimensions: &[(&str, &str)],
    ) -> Result<(), BuilderStatus> {
        match self.ids {
            IdMode::Given if self.checks_events => event::check_id(id)?,
            IdMode::Sequenced { .. } if !id.is_empty() => return Err(EventStatus::IdMustMatchBatch.into()),
            _ => {}
        }
        if self.checks_events {
            event::check_subject(subject)?;
            event::check_time(time)?;
        }
        event::check_value_names(values, |(name, ..)| name)?;
        for (_, mantissa, scale) in values {
            let mantissa = if self.checks_events { *mantissa } else { 0 };
            Decimal::new(mantissa, *scale).map_err(EventStatus::ValueMustBeDecimal)?;
        }
        event::check_dimension_names(dimensions, |(name, _)| name)?;
        if self.checks_events {
            event::check_dimension_texts(dimensions, |(_, text)| text)?;
        }
        self.push_checked(id, subject, time, values, dimensions, BATCH_BYTES_MAX)
    }

    fn push_checked(
        &mut self,
        id: &[u8],
        subject: &str,
        time: i64,
        values: &[(&str, i128, u8)],
        dimensions: &[(&str, &str)],
        frame_bytes_max: usize,
    ) -> Result<(), BuilderStatus> {
        let count = self.len();
        if self.next_sequence().is_some_and(|next| next > SEQUENCE_MAX) {
            return Err(EventStatus::IdMustFit.into());
        }
        let subject_entry = self.subjects.find(&self.batch.subjects, subject);
        let mut bytes = id.len();
        if subject_entry.is_none() {
            if texts::count(&self.batch.subjects) == DICTIONARY_ENTRIES_MAX {
                return Err(BuilderStatus::BatchMustHaveRoom);
            }
            bytes += texts::entry_bytes(subject);
        }
        let value_places =
            self.values.plan(values, count, &mut bytes).ok_or(BuilderStatus::BatchMustHaveRoom)?;
        let dimension_places =
            self.dimensions.plan(dimensions, count, &mut bytes).ok_or(BuilderStatus::BatchMustHaveRoom)?;
        if count == BATCH_EVENTS_MAX || self.bytes_bound(count + 1, bytes) > frame_bytes_max {
            return Err(BuilderStatus::BatchMustHaveRoom);
        }

        // From here the push must succeed.
        if self.ids == IdMode::Given {
            if count == 0 {
                self.batch.id_offsets.push(0);
            }
            self.batch.id_bytes.extend_from_slice(id);
            self.batch.id_offsets.push(self.batch.id_bytes.len() as u32); // at most BATCH_BYTES_MAX
        }
        let entry = subject_entry.unwrap_or_else(|| self.subjects.add(&mut self.batch.subjects, subject));
        self.batch.subject_index.push(entry);
        self.batch.time.push(time);
        self.values.add(values, &value_places, count);
        self.dimensions.add(dimensions, &dimension_places, count);
        Ok(())
    }

    /// Bytes of a frame of `count` events, `more` of them not yet in the columns.
    #[inline]
    fn bytes_bound(&self, count: usize, more: usize) -> usize {
        let id_offset_bytes = if self.ids == IdMode::Given { 4 * (count + 1) } else { 0 };
        let event_bytes =
            size_of::<u32>() + size_of::<i64>() + self.values.event_bytes() + self.dimensions.event_bytes();
        self.fixed_bytes
            + id_offset_bytes
            + self.batch.id_bytes.len()
            + texts::bytes(&self.batch.subjects)
            + count * event_bytes
            + self.values.fixed_bytes(count)
            + self.dimensions.fixed_bytes(count)
            + more
    }

    /// The whole frame, envelope and archive; the builder starts its next batch and keeps its memory.
    ///
    /// # Panics
    /// If there are no events: a batch has at least one.
    pub fn finish(&mut self, sequence: u64, flags: u32) -> AlignedBytes {
        assert!(!self.is_empty(), "a batch has at least one event");
        let count = self.len();
        let bytes_bound = self.frame_bytes_bound();
        self.assemble();
        let mut frame = AlignedVec::with_capacity(bytes_bound);
        frame.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        let mut frame = rkyv::api::high::to_bytes_in::<_, rancor::Panic>(&self.batch, frame)
            .expect("writing to memory cannot fail");
        assert!(frame.len() <= bytes_bound, "room is kept for the largest encoding");
        let (head, body) =
            frame.split_first_chunk_mut::<FRAME_HEADER_BYTES>().expect("the envelope was written first");
        *head = FrameHeader::for_body(Schema::UsageBatchV1, count as u32, sequence, flags, body).encode();
        self.reset(count);
        AlignedBytes::from_aligned_vec(frame)
    }

    /// Gives back the memory that past batches left.
    ///
    /// # Panics
    /// If there are events.
    pub fn release(&mut self) {
        assert!(self.is_empty(), "memory is given back between batches");
        let fresh = Self::new(&self.batch.source, &self.batch.event_type, self.ids);
        *self = Self { checks_events: self.checks_events, ..fresh };
    }

    /// Moves the columns into the archive's order; [`BatchBuilder::reset`] moves them back.
    fn assemble(&mut self) {
        let count = self.len();
        self.values.move_into(&mut self.batch.values, count);
        self.dimensions.move_into(&mut self.batch.dimensions, count);
        (self.batch.id_kind, self.batch.id_epoch, self.batch.id_first_sequence) = match self.ids {
            IdMode::Given => (ID_KIND_GIVEN, 0, 0),
            IdMode::Sequenced { epoch, first } => (ID_KIND_SEQUENCED, epoch, first),
        };
    }

    fn reset(&mut self, count: usize) {
        if let IdMode::Sequenced { first, .. } = &mut self.ids {
            *first += count as u64; // pushes keep a distance from the largest sequence
        }
        self.batch.id_bytes.clear();
        self.batch.id_offsets.clear();
        self.batch.subject_index.clear();
        self.batch.time.clear();
        self.subjects.start(&mut self.batch.subjects);
        self.values.take_back(&mut self.batch.values);
        self.dimensions.take_back(&mut self.batch.dimensions);
    }
}

// The largest event fits an empty batch, so that `BatchMustHaveRoom` always means "the next one will".
const _: () = assert!(
    FRAME_HEADER_BYTES
        + size_of::<ArchivedUsageBatchV1>()
        + 8 * OPAQUE_BYTES_MAX
        + ROOT_LISTS * PADDING_BYTES_MAX
        + (EVENT_VALUES_MAX + EVENT_DIMENSIONS_MAX) * (4 * OPAQUE_BYTES_MAX)
        < BATCH_BYTES_MAX
);
