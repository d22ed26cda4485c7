//! The binary mode: attributes in headers, the data as the body.
//!
//! Header values come percent-encoded from newer SDKs and in Latin-1 from older ones. A value is UTF-8 if it can be, else
//! Latin-1; then every valid `%XX` is decoded, if what comes out is UTF-8, and an invalid one stays as it is.

use std::borrow::Cow;

use domain::Timestamp;

use super::{BrokenEvent, CloudEvent, CloudEventStatus, EventOutcome, data, is_json};

/// Reads a binary event from its headers (names in lower case) and its body; `content_type` is that of the body, and a
/// missing one means JSON.
///
/// # Errors
/// The first broken rule, with the name of the event.
pub fn read_binary<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    content_type: Option<&str>,
    body: &'a [u8],
) -> Result<CloudEvent<'a>, BrokenEvent<'a>> {
    let mut event = CloudEvent::default();
    match read_into(&mut event, headers, content_type, body) {
        Ok(()) => Ok(event),
        Err(status) => Err(BrokenEvent { status, source: event.source, id: event.id }),
    }
}

fn read_into<'a>(
    event: &mut CloudEvent<'a>,
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    content_type: Option<&str>,
    body: &'a [u8],
) -> EventOutcome {
    let (mut specversion, mut has_repeated) = (None, false);
    let (mut id, mut source, mut event_type, mut subject, mut time) = (None, None, None, None, None);
    for (name, value) in headers {
        let attribute = match name {
            "ce-specversion" => &mut specversion,
            "ce-id" => &mut id,
            "ce-source" => &mut source,
            "ce-type" => &mut event_type,
            "ce-subject" => &mut subject,
            "ce-time" => &mut time,
            _ => continue,
        };
        has_repeated |= attribute.replace(header_text(value)).is_some();
    }
    if has_repeated {
        return Err(CloudEventStatus::AttributesMustBeUnique);
    }
    // First, so that the event has its name whichever rule it breaks.
    let (has_id, has_source) = (id.is_some(), source.is_some());
    (event.id, event.source) = (id.unwrap_or_default(), source.unwrap_or_default());
    if specversion.as_deref() != Some("1.0") {
        return Err(CloudEventStatus::SpecversionMustBeKnown);
    }
    if !has_id {
        return Err(CloudEventStatus::IdMustBeText);
    }
    if !has_source {
        return Err(CloudEventStatus::SourceMustBeText);
    }
    event.event_type = event_type.ok_or(CloudEventStatus::TypeMustBeText)?;
    event.subject = subject.ok_or(CloudEventStatus::SubjectMustBeText)?;
    if let Some(time) = time {
        event.time = Some(Timestamp::parse(&time).map_err(|_| CloudEventStatus::TimeMustBeInstant)?);
    }
    read_body(content_type, body, event)
}

fn read_body<'a>(content_type: Option<&str>, body: &'a [u8], event: &mut CloudEvent<'a>) -> EventOutcome {
    if !content_type.is_none_or(is_json) {
        return Err(CloudEventStatus::DataMustBeJson);
    }
    let body = str::from_utf8(body).map_err(|_| CloudEventStatus::DataMustBeJson)?.trim_ascii();
    if body.is_empty() || body == "null" {
        return Ok(());
    }
    if !body.starts_with('{') {
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(body).is_ok();
        return Err(match is_json {
            true => CloudEventStatus::DataMustBeObject,
            false => CloudEventStatus::DataMustBeJson,
        });
    }
    data::read(body, event)
}

fn header_text(value: &[u8]) -> Cow<'_, str> {
    let text = match str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(value.iter().map(|byte| char::from(*byte)).collect()),
    };
    if !text.contains('%') {
        return text;
    }
    match String::from_utf8(percent_decoded(text.as_bytes())) {
        Ok(decoded) => Cow::Owned(decoded),
        Err(_) => text,
    }
}

fn percent_decoded(bytes: &[u8]) -> Vec<u8> {
    let digit =
        |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16)).map(|digit| digit as u8);
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        match (digit(after.first()), digit(after.get(1))) {
            (Some(high), Some(low)) if *first == b'%' => {
                decoded.push(high << 4 | low);
                rest = &after[2..];
            }
            _ => {
                decoded.push(*first);
                rest = after;
            }
        }
    }
    decoded
}
