//! Corrections of single events: the records by which a person takes an event back, gives it other content, or decides
//! about one that was set aside.
//!
//! Owns: the shape of these records, and the content of an event apart from its batch.
//! Leaves to others: whether an event may be corrected (`machine::corrections`), what that changes (`engine::shard`).
//!
//! Invariants: a record names its event by source and id, who asked for it and why; content that an event may not have
//! is in no record.

use std::collections::BTreeMap;
use std::fmt;

use domain::{Decimal, Timestamp};
use serde::{Deserialize, Serialize};

use crate::buffer::AlignedBytes;
use crate::builder::{BatchBuilder, BuilderStatus, IdMode};
use crate::event::{Event, EventIdOwned, EventStatus, opaque_fits};
use crate::usage::UsageBatch;

/// Bytes of the reason of a correction; it has at least one.
pub const REASON_BYTES_MAX: usize = 1_024;

/// Takes an event back: voids one whatever became of it, or discards one that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventTakenBack {
    /// Source of the event.
    pub source: String,
    /// Its id, as [`EventIdOwned`] is written.
    pub id: String,
    /// Where it is in the usage log: offset of its batch, and its index there.
    pub offset: u64,
    /// See `offset`.
    pub index: u16,
    /// Who asked for it: a token's name.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// Judges an event by content: other content that takes the place of the first, or that of an event that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventRestated {
    /// Source of the event.
    pub source: String,
    /// Its id, as [`EventIdOwned`] is written.
    pub id: String,
    /// Where it is in the usage log: offset of its batch, and its index there.
    pub offset: u64,
    /// See `offset`.
    pub index: u16,
    /// What counts from now on.
    pub content: EventContent,
    /// The meters that existed at this offset of the control log take it.
    pub meters_at: u64,
    /// Who asked for it: a token's name.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// What an event says, apart from its source and id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventContent {
    /// What kind of usage.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Who used.
    pub subject: String,
    /// When it was used.
    pub time: Timestamp,
    /// What was used, by name.
    pub values: BTreeMap<String, Decimal>,
    /// What meters group and filter by, by name.
    pub dimensions: BTreeMap<String, String>,
}

/// Which rule content broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentStatus {
    /// The type is empty or longer than 256 bytes.
    TypeMustFit,
    /// A rule that every event keeps.
    Event(EventStatus),
}

impl fmt::Display for ContentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContentStatus::TypeMustFit => f.write_str("a type has 1 to 256 bytes"),
            ContentStatus::Event(status) => fmt::Display::fmt(status, f),
        }
    }
}

impl std::error::Error for ContentStatus {}

impl EventContent {
    /// The content of an event of a batch.
    ///
    /// # Panics
    /// If the batch has no such event, or refuses it: those are in no log as events.
    pub fn of(batch: &UsageBatch<'_>, index: usize) -> Self {
        let value = |mantissa, scale| {
            Decimal::new(mantissa, scale).expect("values that are no decimals were refused at the edge")
        };
        let values = batch.value_columns().iter().filter_map(|column| {
            let mantissa = column.value(index)?;
            Some((column.name().to_string(), value(mantissa, column.scale())))
        });
        let dimensions = batch.dimension_columns().iter().filter_map(|column| {
            let entry = column.index(index)?;
            Some((column.name().to_string(), column.text(entry).to_string()))
        });
        Self {
            event_type: batch.event_type().to_string(),
            subject: batch.subject(batch.subject_index(index)).to_string(),
            time: Timestamp::from_nanoseconds(batch.time(index)),
            values: values.collect(),
            dimensions: dimensions.collect(),
        }
    }

    /// Checks what every event must keep.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn check(&self) -> Result<(), ContentStatus> {
        if !opaque_fits(self.event_type.as_bytes()) {
            return Err(ContentStatus::TypeMustFit);
        }
        self.event(EventIdOwned::Text("any".to_string())).check().map_err(ContentStatus::Event)
    }

    /// The content as a batch of one event, so that meters read it as they read any other.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn to_frame(&self, source: &str, id: &EventIdOwned) -> Result<AlignedBytes, ContentStatus> {
        if !opaque_fits(self.event_type.as_bytes()) {
            return Err(ContentStatus::TypeMustFit);
        }
        let ids = match id {
            EventIdOwned::Text(_) | EventIdOwned::Minted => IdMode::Given,
            EventIdOwned::Sequenced { epoch, sequence } => {
                IdMode::Sequenced { epoch: *epoch, first: *sequence }
            }
        };
        let mut builder = BatchBuilder::new(source, &self.event_type, ids);
        match builder.push(&self.event(id.clone())) {
            Ok(()) => Ok(builder.finish(0, 0)),
            Err(BuilderStatus::Event(status)) => Err(ContentStatus::Event(status)),
            Err(BuilderStatus::BatchMustHaveRoom) => unreachable!("the largest event fits an empty batch"),
        }
    }

    fn event(&self, id: EventIdOwned) -> Event {
        let mut event = Event::new(id, &self.subject, self.time);
        event.values = self.values.iter().map(|(name, value)| (name.clone(), *value)).collect();
        event.dimensions = self.dimensions.iter().map(|(name, text)| (name.clone(), text.clone())).collect();
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ControlRecord;
    use crate::frame::decode_frame;

    fn content() -> EventContent {
        EventContent {
            event_type: "call".to_string(),
            subject: "key-1".to_string(),
            time: Timestamp::parse("2026-01-01T00:00:00.5Z").unwrap(),
            values: [("tokens".to_string(), Decimal::parse("12.50").unwrap())].into(),
            dimensions: [("model".to_string(), "groß".to_string())].into(),
        }
    }

    #[test]
    fn content_is_the_same_behind_a_frame_and_behind_a_record() {
        for id in [EventIdOwned::Text("1".to_string()), EventIdOwned::Sequenced { epoch: 7, sequence: 9 }] {
            let frame = content().to_frame("shop", &id).unwrap();
            let (header, body) = decode_frame(&frame).unwrap();
            let batch = UsageBatch::check(&header, body).unwrap();
            assert_eq!((batch.id(0).to_string(), EventContent::of(&batch, 0)), (id.to_string(), content()));
        }
        let record = ControlRecord::EventAmend(EventRestated {
            source: "shop".to_string(),
            id: "1".to_string(),
            offset: 4_096,
            index: 3,
            content: content(),
            meters_at: 512,
            actor: "anna".to_string(),
            reason: "a typo".to_string(),
        });
        let bytes = record.encode();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            "{\"actor\":\"anna\",\"content\":{\"dimensions\":{\"model\":\"groß\"},\"subject\":\"key-1\",\
             \"time\":\"2026-01-01T00:00:00.5Z\",\"type\":\"call\",\"values\":{\"tokens\":\"12.5\"}},\"id\":\"1\",\
             \"index\":3,\"meters_at\":512,\"offset\":4096,\"reason\":\"a typo\",\"record\":\"event_amend\",\
             \"source\":\"shop\"}"
        );
        assert_eq!(ControlRecord::decode(&bytes).unwrap(), record);
    }

    #[test]
    fn content_that_no_event_may_have_is_refused_by_the_rule_that_it_breaks() {
        let no_type = EventContent { event_type: String::new(), ..content() };
        let no_subject = EventContent { subject: String::new(), ..content() };
        let no_text = EventContent { dimensions: [("a".to_string(), String::new())].into(), ..content() };
        for (content, status) in [
            (no_type, ContentStatus::TypeMustFit),
            (no_subject, ContentStatus::Event(EventStatus::SubjectMustFit)),
            (no_text, ContentStatus::Event(EventStatus::DimensionMustFit)),
        ] {
            assert_eq!(content.check(), Err(status));
            let id = EventIdOwned::Text("1".to_string());
            assert_eq!(content.to_frame("shop", &id).unwrap_err(), status);
        }
    }
}
