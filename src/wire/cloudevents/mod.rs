//! CloudEvents 1.0 as usage events: structured, batched and binary, exactly as two generations of SDKs send them.
//!
//! Owns: reading an event's context attributes and its JSON data into names, exact values and texts.
//! Leaves to others: HTTP (`server::edge`), columns and the limits of an event (`builder`).
//!
//! What data becomes: a number is a value, exactly as it is written; a text is a dimension, an empty one is none; `true`
//! and `false` are the dimensions of these names; `null` is left out; an object's members have its name and a dot before
//! theirs. A list has no meaning as usage, and refuses its event by name. Extension attributes are not looked at.
//!
//! Invariants: an event that breaks a rule is refused by itself, and the others of its batch go on; only what is not
//! JSON refuses a whole body.

mod data;
mod headers;

use std::borrow::Cow;
use std::fmt;

use domain::{Decimal, DecimalStatus, Timestamp};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

pub use self::headers::read_binary;

/// Which rule a CloudEvent broke, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloudEventStatus {
    /// An event is a JSON object.
    EventMustBeObject,
    /// An attribute is there twice.
    AttributesMustBeUnique,
    /// `specversion` is not `1.0`.
    SpecversionMustBeKnown,
    /// `id` is missing or no text.
    IdMustBeText,
    /// `source` is missing or no text.
    SourceMustBeText,
    /// `type` is missing or no text.
    TypeMustBeText,
    /// `subject` is missing or no text: usage belongs to somebody.
    SubjectMustBeText,
    /// `time` is not an RFC 3339 instant of the years 2000 to 2099.
    TimeMustBeInstant,
    /// The data is not JSON.
    DataMustBeJson,
    /// The data is JSON, but not an object.
    DataMustBeObject,
    /// A member of the data is a list.
    PropertyMustBeScalar,
    /// Objects lie deeper in each other than [`DATA_DEPTH_MAX`].
    PropertyMustNotBeDeep,
    /// A number breaks a rule of decimals.
    PropertyMustBeDecimal(DecimalStatus),
}

impl CloudEventStatus {
    /// The name of the rule, as APIs and metrics show it.
    pub const fn name(self) -> &'static str {
        match self {
            CloudEventStatus::EventMustBeObject => "event_must_be_object",
            CloudEventStatus::AttributesMustBeUnique => "attributes_must_be_unique",
            CloudEventStatus::SpecversionMustBeKnown => "specversion_must_be_known",
            CloudEventStatus::IdMustBeText => "id_must_be_text",
            CloudEventStatus::SourceMustBeText => "source_must_be_text",
            CloudEventStatus::TypeMustBeText => "type_must_be_text",
            CloudEventStatus::SubjectMustBeText => "subject_must_be_text",
            CloudEventStatus::TimeMustBeInstant => "time_must_be_instant",
            CloudEventStatus::DataMustBeJson => "data_must_be_json",
            CloudEventStatus::DataMustBeObject => "data_must_be_object",
            CloudEventStatus::PropertyMustBeScalar => "property_must_be_scalar",
            CloudEventStatus::PropertyMustNotBeDeep => "property_must_not_be_deep",
            CloudEventStatus::PropertyMustBeDecimal(_) => "property_must_be_decimal",
        }
    }
}

impl fmt::Display for CloudEventStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloudEventStatus::EventMustBeObject => "an event is a JSON object",
            CloudEventStatus::AttributesMustBeUnique => "an attribute of an event stands there once",
            CloudEventStatus::SpecversionMustBeKnown => "`specversion` is \"1.0\"",
            CloudEventStatus::IdMustBeText => "`id` is a text",
            CloudEventStatus::SourceMustBeText => "`source` is a text",
            CloudEventStatus::TypeMustBeText => "`type` is a text",
            CloudEventStatus::SubjectMustBeText => "`subject` is a text: it says who used",
            CloudEventStatus::TimeMustBeInstant => {
                "`time` is an RFC 3339 instant of the years 2000 to 2099, or left out"
            }
            CloudEventStatus::DataMustBeJson => "the data of an event is JSON",
            CloudEventStatus::DataMustBeObject => "the data of an event is a JSON object",
            CloudEventStatus::PropertyMustBeScalar => {
                "a property is a number, a text, true, false, null or an object, not a list"
            }
            CloudEventStatus::PropertyMustNotBeDeep => "objects of the data lie at most 8 deep in each other",
            CloudEventStatus::PropertyMustBeDecimal(status) => return fmt::Display::fmt(status, f),
        })
    }
}

impl std::error::Error for CloudEventStatus {}

/// An event that broke a rule, and its name as far as it says one: empty texts otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenEvent<'e> {
    /// The rule.
    pub status: CloudEventStatus,
    /// Its source.
    pub source: Cow<'e, str>,
    /// Its id.
    pub id: Cow<'e, str>,
}

/// Depth to which objects of the data may lie in each other.
pub const DATA_DEPTH_MAX: usize = 8;

/// One event as its sender wrote it. Its memory may be used again for the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CloudEvent<'a> {
    /// Unique within the source.
    pub id: Cow<'a, str>,
    /// Who reports.
    pub source: Cow<'a, str>,
    /// What kind of usage.
    pub event_type: Cow<'a, str>,
    /// Who used.
    pub subject: Cow<'a, str>,
    /// When it was used; the sender may leave it to the receiver.
    pub time: Option<Timestamp>,
    /// Numbers of the data.
    pub values: Vec<(Cow<'a, str>, Decimal)>,
    /// Texts of the data.
    pub dimensions: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl CloudEvent<'_> {
    fn clear(&mut self) {
        self.id = Cow::default();
        self.source = Cow::default();
        self.values.clear();
        self.dimensions.clear();
        self.time = None;
    }

    fn broken(&self, status: CloudEventStatus) -> BrokenEvent<'_> {
        let (source, id) = (Cow::Borrowed(&*self.source), Cow::Borrowed(&*self.id));
        BrokenEvent { status, source, id }
    }
}

/// Gets every event of a body, in order: the event, or the rule that it broke.
pub type OnEvent<'s, 'a> = dyn FnMut(Result<&CloudEvent<'a>, BrokenEvent<'_>>) + 's;

/// Reads a structured body: one event, or a list of events.
///
/// # Errors
/// If the body is not JSON; of a list, events before the mistake were given to `on_event`.
pub fn read_structured<'a>(body: &'a str, on_event: &mut OnEvent<'_, 'a>) -> serde_json::Result<()> {
    let mut event = CloudEvent::default();
    let mut deserializer = serde_json::Deserializer::from_str(body);
    if body.trim_ascii_start().starts_with('[') {
        deserializer.deserialize_seq(Events { event: &mut event, on_event })?;
        return deserializer.end();
    }
    let status = EventSeed(&mut event).deserialize(&mut deserializer)?;
    deserializer.end()?;
    on_event(status.map(|()| &event).map_err(|status| event.broken(status)));
    Ok(())
}

struct Events<'s, 'o, 'a> {
    event: &'s mut CloudEvent<'a>,
    on_event: &'s mut OnEvent<'o, 'a>,
}

impl<'a> Visitor<'a> for Events<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of events")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut events: A) -> Result<(), A::Error> {
        while let Some(status) = events.next_element_seed(EventSeed(self.event))? {
            let event = &*self.event;
            (self.on_event)(status.map(|()| event).map_err(|status| event.broken(status)));
        }
        Ok(())
    }
}

/// Reads one event into memory that was used before.
struct EventSeed<'s, 'a>(&'s mut CloudEvent<'a>);

type EventOutcome = Result<(), CloudEventStatus>;

impl<'a> DeserializeSeed<'a> for EventSeed<'_, 'a> {
    type Value = EventOutcome;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<EventOutcome, D::Error> {
        self.0.clear();
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for EventSeed<'_, 'a> {
    type Value = EventOutcome;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<EventOutcome, A::Error> {
        let mut attributes = Attributes::default();
        while let Some(Key(key)) = map.next_key::<Key<'a>>()? {
            let value: &'a RawValue = map.next_value()?;
            attributes.take(&key, value.get());
        }
        Ok(attributes.read_into(self.0))
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut list: A) -> Result<EventOutcome, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Err(CloudEventStatus::EventMustBeObject))
    }

    fn visit_bool<E>(self, _: bool) -> Result<EventOutcome, E> {
        Ok(Err(CloudEventStatus::EventMustBeObject))
    }

    fn visit_i64<E>(self, _: i64) -> Result<EventOutcome, E> {
        Ok(Err(CloudEventStatus::EventMustBeObject))
    }

    fn visit_u64<E>(self, _: u64) -> Result<EventOutcome, E> {
        Ok(Err(CloudEventStatus::EventMustBeObject))
    }

    fn visit_f64<E>(self, _: f64) -> Result<EventOutcome, E> {
        Ok(Err(CloudEventStatus::EventMustBeObject))
    }

    fn visit_str<E>(self, _: &str) -> Result<EventOutcome, E> {
        Ok(Err(CloudEventStatus::EventMustBeObject))
    }

    fn visit_unit<E>(self) -> Result<EventOutcome, E> {
        Ok(Err(CloudEventStatus::EventMustBeObject))
    }
}

/// A key of an object: borrowed unless it has escapes.
pub(crate) struct Key<'a>(pub(crate) Cow<'a, str>);

impl<'a> serde::Deserialize<'a> for Key<'a> {
    fn deserialize<D: Deserializer<'a>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'a> Visitor<'a> for KeyVisitor {
            type Value = Key<'a>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'a str) -> Result<Key<'a>, E> {
                Ok(Key(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Key<'a>, E> {
                Ok(Key(Cow::Owned(name.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// The attributes of an event as raw JSON, before any is believed.
#[derive(Default)]
struct Attributes<'a> {
    specversion: Option<&'a str>,
    id: Option<&'a str>,
    source: Option<&'a str>,
    event_type: Option<&'a str>,
    subject: Option<&'a str>,
    time: Option<&'a str>,
    data_content_type: Option<&'a str>,
    data: Option<&'a str>,
    data_base64: Option<&'a str>,
    has_repeated: bool,
}

impl<'a> Attributes<'a> {
    fn take(&mut self, name: &str, raw: &'a str) {
        let attribute = match name {
            "specversion" => &mut self.specversion,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.event_type,
            "subject" => &mut self.subject,
            "time" => &mut self.time,
            "datacontenttype" => &mut self.data_content_type,
            "data" => &mut self.data,
            "data_base64" => &mut self.data_base64,
            _ => return,
        };
        self.has_repeated |= attribute.replace(raw).is_some();
    }

    fn read_into(&self, event: &mut CloudEvent<'a>) -> EventOutcome {
        if self.has_repeated {
            return Err(CloudEventStatus::AttributesMustBeUnique);
        }
        // First, so that the event has its name whichever rule it breaks.
        let (id, source) = (self.id.and_then(data::text), self.source.and_then(data::text));
        let (has_id, has_source) = (id.is_some(), source.is_some());
        (event.id, event.source) = (id.unwrap_or_default(), source.unwrap_or_default());
        if self.specversion.and_then(data::text).as_deref() != Some("1.0") {
            return Err(CloudEventStatus::SpecversionMustBeKnown);
        }
        if !has_id {
            return Err(CloudEventStatus::IdMustBeText);
        }
        if !has_source {
            return Err(CloudEventStatus::SourceMustBeText);
        }
        let text = |raw: Option<&'a str>, status| raw.and_then(data::text).ok_or(status);
        event.event_type = text(self.event_type, CloudEventStatus::TypeMustBeText)?;
        event.subject = text(self.subject, CloudEventStatus::SubjectMustBeText)?;
        if let Some(time) = self.time.filter(|raw| *raw != "null") {
            let time = text(Some(time), CloudEventStatus::TimeMustBeInstant)?;
            event.time = Some(Timestamp::parse(&time).map_err(|_| CloudEventStatus::TimeMustBeInstant)?);
        }
        let is_present = |raw: &Option<&str>| raw.is_some_and(|raw| raw != "null");
        let content_type = self.data_content_type.and_then(data::text);
        if is_present(&self.data_base64) || !content_type.as_deref().is_none_or(is_json) {
            return Err(CloudEventStatus::DataMustBeJson);
        }
        match self.data {
            Some(data) if is_present(&self.data) => data::read(data, event),
            _ => Ok(()),
        }
    }
}

/// Whether a content type names JSON: `application/json`, `text/json`, or a suffix `+json`; parameters are not looked at.
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(essence.as_str(), "" | "application/json" | "text/json") || essence.ends_with("+json")
}

#[cfg(test)]
mod tests;
