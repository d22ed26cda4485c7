//! A batch of usage events: columns inside one archive, checked once, then read in place.
//!
//! Owns: the checked view and its accessors. Leaves to others: the layout (`archive`), the rules (`check`), which
//! events are refused (`refusals`), writing (`crate::builder`).
//!
//! Invariants:
//! - A [`UsageBatch`] from [`UsageBatch::check`] is consistent: for an index below [`UsageBatch::len`], no accessor
//!   fails, copies or allocates.
//! - What is wrong with one event is a [`Refusal`], and the others go on; what is wrong with a column refuses the batch.

pub(crate) mod archive;
mod check;
mod refusals;

use std::fmt;

use rkyv::Archived;

pub use refusals::Refusal;

use crate::event::{write_given_id, write_sequenced_id};

/// A checked batch that borrows the bytes of its frame.
#[derive(Clone, Debug)]
pub struct UsageBatch<'a> {
    source: &'a str,
    event_type: &'a str,
    ids: IdColumn<'a>,
    subjects: Dictionary<'a>,
    subject_index: &'a [Archived<u32>],
    time: &'a [Archived<i64>],
    values: Vec<ValueColumn<'a>>,
    dimensions: Vec<DimensionColumn<'a>>,
}

/// The ids of a batch.
#[derive(Clone, Copy, Debug)]
pub enum IdColumn<'a> {
    /// Ids that producers chose.
    Bytes(GivenIds<'a>),
    /// Ids that a client minted: event `i` has sequence `first + i`.
    Sequenced {
        /// The run of the client that minted the ids.
        epoch: u64,
        /// Sequence of the first event.
        first: u64,
    },
}

/// Ids that producers chose, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct GivenIds<'a> {
    bytes: &'a [u8],
    offsets: &'a [Archived<u32>],
}

/// The id of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventId<'a> {
    /// Chosen by the producer.
    Bytes(&'a [u8]),
    /// Minted by a client.
    Sequenced {
        /// The run of the client that minted the id.
        epoch: u64,
        /// The number within the run.
        sequence: u64,
    },
}

/// A value column: one optional decimal for every event, all with one scale.
#[derive(Clone, Copy, Debug)]
pub struct ValueColumn<'a> {
    name: &'a str,
    scale: u8,
    mantissa: &'a [Archived<i128>],
    nulls: Nulls<'a>,
}

/// A dimension column: one optional text for every event, out of a dictionary.
#[derive(Clone, Copy, Debug)]
pub struct DimensionColumn<'a> {
    name: &'a str,
    dictionary: Dictionary<'a>,
    index: &'a [Archived<u32>],
    nulls: Nulls<'a>,
}

/// Distinct texts, one after the other.
#[derive(Clone, Copy, Debug)]
struct Dictionary<'a> {
    texts: &'a str,
    offsets: &'a [Archived<u32>],
}

/// Which events have no entry in a column.
#[derive(Clone, Copy, Debug)]
struct Nulls<'a>(&'a [Archived<u64>]);

impl<'a> UsageBatch<'a> {
    /// Events in the batch, refused ones included.
    #[inline]
    pub fn len(&self) -> usize {
        self.time.len()
    }

    /// Whether the batch has no events; a checked one never is.
    pub fn is_empty(&self) -> bool {
        self.time.is_empty()
    }

    /// The source of every event.
    pub fn source(&self) -> &'a str {
        self.source
    }

    /// The type of every event.
    pub fn event_type(&self) -> &'a str {
        self.event_type
    }

    /// The ids.
    #[inline]
    pub fn ids(&self) -> IdColumn<'a> {
        self.ids
    }

    /// The id of an event.
    ///
    /// # Panics
    /// If the index is not below [`UsageBatch::len`].
    #[inline]
    pub fn id(&self, index: usize) -> EventId<'a> {
        match self.ids {
            IdColumn::Bytes(given) => EventId::Bytes(given.id(index)),
            IdColumn::Sequenced { epoch, first } => {
                assert!(index < self.len(), "the batch has the event");
                EventId::Sequenced { epoch, sequence: first + index as u64 }
            }
        }
    }

    /// Entries of the dictionary of subjects.
    pub fn subject_count(&self) -> usize {
        self.subjects.len()
    }

    /// An entry of the dictionary of subjects.
    ///
    /// # Panics
    /// If the entry is not below [`UsageBatch::subject_count`].
    #[inline]
    pub fn subject(&self, entry: usize) -> &'a str {
        self.subjects.text(entry)
    }

    /// Which entry of the dictionary of subjects an event has.
    ///
    /// # Panics
    /// If the index is not below [`UsageBatch::len`].
    #[inline]
    pub fn subject_index(&self, index: usize) -> usize {
        self.subject_index[index].to_native() as usize
    }

    /// The time of an event, in nanoseconds since 1970.
    ///
    /// # Panics
    /// If the index is not below [`UsageBatch::len`].
    #[inline]
    pub fn time(&self, index: usize) -> i64 {
        self.time[index].to_native()
    }

    /// The value columns, at most 16, with different names.
    #[inline]
    pub fn value_columns(&self) -> &[ValueColumn<'a>] {
        &self.values
    }

    /// The dimension columns, at most 16, with different names.
    #[inline]
    pub fn dimension_columns(&self) -> &[DimensionColumn<'a>] {
        &self.dimensions
    }
}

impl<'a> GivenIds<'a> {
    /// The id of an event.
    ///
    /// # Panics
    /// If the batch has no such event.
    #[inline]
    pub fn id(&self, index: usize) -> &'a [u8] {
        &self.bytes[self.offsets[index].to_native() as usize..self.offsets[index + 1].to_native() as usize]
    }
}

/// As [`EventIdOwned`](crate::EventIdOwned) is written.
impl fmt::Display for EventId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventId::Bytes(id) => write_given_id(&String::from_utf8_lossy(id), f),
            EventId::Sequenced { epoch, sequence } => write_sequenced_id(*epoch, *sequence, f),
        }
    }
}

impl<'a> ValueColumn<'a> {
    /// Name of the values.
    #[inline]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Fraction digits of every mantissa, 0 to 28.
    #[inline]
    pub fn scale(&self) -> u8 {
        self.scale
    }

    /// The mantissa of an event's value, or `None` if the event has no such value.
    ///
    /// # Panics
    /// If the batch has no such event.
    #[inline]
    pub fn value(&self, index: usize) -> Option<i128> {
        let mantissa = self.mantissa[index].to_native();
        (!self.nulls.has(index)).then_some(mantissa)
    }
}

impl<'a> DimensionColumn<'a> {
    /// Name of the dimension.
    #[inline]
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Entries of the dictionary of texts.
    #[inline]
    pub fn dictionary_len(&self) -> usize {
        self.dictionary.len()
    }

    /// An entry of the dictionary of texts.
    ///
    /// # Panics
    /// If the entry is not below [`DimensionColumn::dictionary_len`].
    #[inline]
    pub fn text(&self, entry: usize) -> &'a str {
        self.dictionary.text(entry)
    }

    /// Which entry an event has, or `None` if the event has no such dimension.
    ///
    /// # Panics
    /// If the batch has no such event.
    #[inline]
    pub fn index(&self, index: usize) -> Option<usize> {
        let entry = self.index[index].to_native() as usize;
        (!self.nulls.has(index)).then_some(entry)
    }
}

impl<'a> Dictionary<'a> {
    #[inline]
    fn len(&self) -> usize {
        self.offsets.len().saturating_sub(1)
    }

    #[inline]
    fn text(&self, entry: usize) -> &'a str {
        &self.texts[self.offsets[entry].to_native() as usize..self.offsets[entry + 1].to_native() as usize]
    }
}

impl Nulls<'_> {
    #[inline]
    fn has(&self, index: usize) -> bool {
        !self.0.is_empty() && self.0[index / 64].to_native() >> (index % 64) & 1 == 1
    }
}
