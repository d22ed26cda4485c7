//! One usage event as a value of its own: what a producer has in hand before it becomes a row of columns.
//!
//! Owns: the owned form and the rules that an event keeps by itself. Leaves to others: columns (`builder`), and what
//! one batch holds in common, the source and the type.
//!
//! Invariants: an event that [`Event::check`] passes is refused by no receiver.

use std::fmt;
use std::str::FromStr;

use domain::limits::{
    EVENT_DIMENSIONS_MAX, EVENT_TIME_END, EVENT_TIME_MIN, EVENT_VALUES_MAX, OPAQUE_BYTES_MAX,
    PROPERTY_BYTES_MAX,
};
use domain::{Decimal, DecimalStatus, Timestamp};

/// Which rule an event broke, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventStatus {
    /// The id is empty or longer than 256 bytes.
    IdMustFit,
    /// The id is not UTF-8.
    IdMustBeUtf8,
    /// The id is not of the kind that the batch holds, or not the next of its sequence.
    IdMustMatchBatch,
    /// The subject is empty or longer than 256 bytes.
    SubjectMustFit,
    /// The time is outside the years 2000 to 2099.
    TimeMustBeInRange,
    /// More than 16 values.
    ValuesMustFit,
    /// The name of a value is empty or longer than 256 bytes.
    ValueNameMustFit,
    /// Two values have one name.
    ValueNamesMustBeUnique,
    /// A value breaks a rule of decimals.
    ValueMustBeDecimal(DecimalStatus),
    /// More than 16 dimensions.
    DimensionsMustFit,
    /// The name of a dimension is empty or longer than 256 bytes.
    DimensionNameMustFit,
    /// Two dimensions have one name.
    DimensionNamesMustBeUnique,
    /// The text of a dimension is empty or longer than 256 bytes.
    DimensionMustFit,
}

impl EventStatus {
    /// The name of the rule, as APIs and metrics show it.
    pub const fn name(self) -> &'static str {
        match self {
            EventStatus::IdMustFit => "id_must_fit",
            EventStatus::IdMustBeUtf8 => "id_must_be_utf8",
            EventStatus::IdMustMatchBatch => "id_must_match_batch",
            EventStatus::SubjectMustFit => "subject_must_fit",
            EventStatus::TimeMustBeInRange => "time_must_be_in_range",
            EventStatus::ValuesMustFit => "values_must_fit",
            EventStatus::ValueNameMustFit => "value_name_must_fit",
            EventStatus::ValueNamesMustBeUnique => "value_names_must_be_unique",
            EventStatus::ValueMustBeDecimal(_) => "value_must_be_decimal",
            EventStatus::DimensionsMustFit => "dimensions_must_fit",
            EventStatus::DimensionNameMustFit => "dimension_name_must_fit",
            EventStatus::DimensionNamesMustBeUnique => "dimension_names_must_be_unique",
            EventStatus::DimensionMustFit => "dimension_must_fit",
        }
    }
}

impl fmt::Display for EventStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EventStatus::IdMustFit => "an id has 1 to 256 bytes",
            EventStatus::IdMustBeUtf8 => "an id is UTF-8",
            EventStatus::IdMustMatchBatch => {
                "an id is of the kind that its batch holds, and the next of its sequence"
            }
            EventStatus::SubjectMustFit => "a subject has 1 to 256 bytes",
            EventStatus::TimeMustBeInRange => "the time of an event lies in the years 2000 to 2099",
            EventStatus::ValuesMustFit => "an event has at most 16 values",
            EventStatus::ValueNameMustFit => "the name of a value has 1 to 256 bytes",
            EventStatus::ValueNamesMustBeUnique => "the values of an event have different names",
            EventStatus::ValueMustBeDecimal(status) => return fmt::Display::fmt(status, f),
            EventStatus::DimensionsMustFit => "an event has at most 16 dimensions",
            EventStatus::DimensionNameMustFit => "the name of a dimension has 1 to 256 bytes",
            EventStatus::DimensionNamesMustBeUnique => "the dimensions of an event have different names",
            EventStatus::DimensionMustFit => "the text of a dimension has 1 to 256 bytes",
        })
    }
}

impl std::error::Error for EventStatus {}

/// The id of an event, unique within its source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum EventIdOwned {
    /// Given by the producer: 1 to 256 bytes.
    Text(String),
    /// Minted by a client: an epoch and a number that rises by one.
    Sequenced {
        /// The run of the client that minted the id.
        epoch: u64,
        /// The number within the run.
        sequence: u64,
    },
    /// To be minted by the builder that takes the event.
    Minted,
}

/// Every id has one text, and every text is of one id at most: a sequenced id is `seq:`, its epoch as 16 hex digits, `/`
/// and its sequence; a given id is itself, with `id:` before it where it starts with `seq:` or `id:`. What is to be minted is
/// no id yet.
impl fmt::Display for EventIdOwned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EventIdOwned::Text(id) => write_given_id(id, f),
            EventIdOwned::Sequenced { epoch, sequence } => write_sequenced_id(*epoch, *sequence, f),
            EventIdOwned::Minted => f.write_str("to be minted"),
        }
    }
}

impl FromStr for EventIdOwned {
    type Err = EventStatus;

    /// Reads the text of an id.
    fn from_str(text: &str) -> Result<Self, EventStatus> {
        if let Some(sequenced) = text.strip_prefix(SEQUENCED_PREFIX) {
            return parse_sequenced_id(sequenced)
                .filter(|id| id.to_string() == text)
                .ok_or(EventStatus::IdMustFit);
        }
        let id = text.strip_prefix(GIVEN_PREFIX).unwrap_or(text);
        check_id(id.as_bytes())?;
        Ok(EventIdOwned::Text(id.to_string()))
    }
}

const SEQUENCED_PREFIX: &str = "seq:";
const GIVEN_PREFIX: &str = "id:";

fn parse_sequenced_id(text: &str) -> Option<EventIdOwned> {
    let (epoch, sequence) = text.split_once('/')?;
    Some(EventIdOwned::Sequenced {
        epoch: u64::from_str_radix(epoch, 16).ok()?,
        sequence: sequence.parse().ok()?,
    })
}

pub(crate) fn write_given_id(id: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if id.starts_with(SEQUENCED_PREFIX) || id.starts_with(GIVEN_PREFIX) {
        f.write_str(GIVEN_PREFIX)?;
    }
    f.write_str(id)
}

pub(crate) fn write_sequenced_id(epoch: u64, sequence: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{SEQUENCED_PREFIX}{epoch:016x}/{sequence}")
}

/// One usage event; source and type belong to its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Unique within the source.
    pub id: EventIdOwned,
    /// Who used: an API key, a tenant, a seat.
    pub subject: String,
    /// When it was used.
    pub time: Timestamp,
    /// What was used, by name.
    pub values: Vec<(String, Decimal)>,
    /// What meters may group and filter by, by name.
    pub dimensions: Vec<(String, String)>,
}

impl Event {
    /// An event without values and dimensions.
    pub fn new(id: EventIdOwned, subject: impl Into<String>, time: Timestamp) -> Self {
        Self { id, subject: subject.into(), time, values: Vec::new(), dimensions: Vec::new() }
    }

    /// An event without values and dimensions, whose id the builder mints.
    pub fn minted(subject: impl Into<String>, time: Timestamp) -> Self {
        Self::new(EventIdOwned::Minted, subject, time)
    }

    /// The event with one more value.
    pub fn value(mut self, name: impl Into<String>, value: Decimal) -> Self {
        self.values.push((name.into(), value));
        self
    }

    /// The event with one more value, from decimal text such as `12.5`.
    ///
    /// # Errors
    /// [`EventStatus::ValueMustBeDecimal`]: text is never rounded, and `NaN` or `1e3` is not a decimal.
    pub fn value_text(self, name: impl Into<String>, text: &str) -> Result<Self, EventStatus> {
        let value = Decimal::parse(text).map_err(EventStatus::ValueMustBeDecimal)?;
        Ok(self.value(name, value))
    }

    /// The event with one more dimension.
    pub fn dimension(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.dimensions.push((name.into(), text.into()));
        self
    }

    /// Checks what an event must keep by itself.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`EventStatus`] declares them.
    pub fn check(&self) -> Result<(), EventStatus> {
        if let EventIdOwned::Text(id) = &self.id {
            check_id(id.as_bytes())?;
        }
        check_subject(&self.subject)?;
        check_time(self.time.nanoseconds())?;
        check_value_names(&self.values, |(name, _)| name)?;
        check_dimension_names(&self.dimensions, |(name, _)| name)?;
        check_dimension_texts(&self.dimensions, |(_, text)| text)
    }
}

#[inline]
pub(crate) fn check_id(id: &[u8]) -> Result<(), EventStatus> {
    if !opaque_fits(id) {
        return Err(EventStatus::IdMustFit);
    }
    if !id.is_ascii() && str::from_utf8(id).is_err() {
        return Err(EventStatus::IdMustBeUtf8);
    }
    Ok(())
}

#[inline]
pub(crate) fn check_subject(subject: &str) -> Result<(), EventStatus> {
    if opaque_fits(subject.as_bytes()) { Ok(()) } else { Err(EventStatus::SubjectMustFit) }
}

#[inline]
pub(crate) fn check_time(nanoseconds: i64) -> Result<(), EventStatus> {
    if (EVENT_TIME_MIN..EVENT_TIME_END).contains(&nanoseconds) {
        Ok(())
    } else {
        Err(EventStatus::TimeMustBeInRange)
    }
}

#[inline]
pub(crate) fn check_value_names<T>(values: &[T], name_of: impl Fn(&T) -> &str) -> Result<(), EventStatus> {
    if values.len() > EVENT_VALUES_MAX {
        return Err(EventStatus::ValuesMustFit);
    }
    if !values.iter().all(|value| property_fits(name_of(value))) {
        return Err(EventStatus::ValueNameMustFit);
    }
    if !names_are_unique(values, name_of) {
        return Err(EventStatus::ValueNamesMustBeUnique);
    }
    Ok(())
}

#[inline]
pub(crate) fn check_dimension_names<T>(
    dimensions: &[T],
    name_of: impl Fn(&T) -> &str,
) -> Result<(), EventStatus> {
    if dimensions.len() > EVENT_DIMENSIONS_MAX {
        return Err(EventStatus::DimensionsMustFit);
    }
    if !dimensions.iter().all(|dimension| property_fits(name_of(dimension))) {
        return Err(EventStatus::DimensionNameMustFit);
    }
    if !names_are_unique(dimensions, name_of) {
        return Err(EventStatus::DimensionNamesMustBeUnique);
    }
    Ok(())
}

#[inline]
pub(crate) fn check_dimension_texts<T>(
    dimensions: &[T],
    text_of: impl Fn(&T) -> &str,
) -> Result<(), EventStatus> {
    let fit = dimensions.iter().all(|dimension| property_fits(text_of(dimension)));
    if fit { Ok(()) } else { Err(EventStatus::DimensionMustFit) }
}

/// At most 16 names: comparing each with those before it is cheaper than any set.
#[inline]
pub(crate) fn names_are_unique<T>(entries: &[T], name_of: impl Fn(&T) -> &str) -> bool {
    entries
        .iter()
        .enumerate()
        .all(|(index, entry)| entries[..index].iter().all(|earlier| name_of(earlier) != name_of(entry)))
}

/// Whether an id, source, type or subject has 1 to 256 bytes.
#[inline]
pub fn opaque_fits(bytes: &[u8]) -> bool {
    (1..=OPAQUE_BYTES_MAX).contains(&bytes.len())
}

#[inline]
pub(crate) fn property_fits(text: &str) -> bool {
    (1..=PROPERTY_BYTES_MAX).contains(&text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_has_one_text_and_is_read_back_from_it() {
        let given = |id: &str| EventIdOwned::Text(id.to_string());
        let sequenced = EventIdOwned::Sequenced { epoch: 0x1f, sequence: 1_000 };
        for (id, text) in [
            (sequenced, "seq:000000000000001f/1000"),
            (given("seq:000000000000001f/1000"), "id:seq:000000000000001f/1000"),
            (given("id:7"), "id:id:7"),
            (given("7"), "7"),
            (given("a/b c№"), "a/b c№"),
        ] {
            assert_eq!(id.to_string(), text);
            assert_eq!(text.parse(), Ok(id));
        }
        assert_eq!("id:7".parse(), Ok(given("7")), "the prefix is allowed where it is not needed");
        for text in
            ["", "id:", "seq:", "seq:1f/1000", "seq:000000000000001f/01", "seq:000000000000001F/1", "seq:1"]
        {
            assert_eq!(text.parse::<EventIdOwned>(), Err(EventStatus::IdMustFit), "{text}");
        }
    }
}
