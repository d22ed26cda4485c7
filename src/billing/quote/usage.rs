//! Usage files: CSV with a header, or one JSON object a line.
//!
//! Owns: reading events from them. Leaves to others: what they measure (`metering`).
//!
//! Invariants: a number is read as it is written, never through a binary fraction; a mistake is said with its line.
//!
//! *CSV.* `time` and `type` are columns, `id`, `source` and `subject` may be; every other column is a value or a
//! dimension, whichever a meter takes it for. An empty field is one that the event does not have.
//!
//! *NDJSON.* `{"time": …, "type": …, "values": {…}, "dimensions": {…}}`, and `id`, `source`, `subject`. A value is a text
//! or an integer. Or a CloudEvent as a server takes it, with `specversion` or `data`: numbers of the data are values, texts and
//! truths dimensions, members of objects have dots in their names, and other attributes are not looked at.

use std::collections::BTreeMap;

use domain::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::status::QuoteStatus;

/// An event as a usage file says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageEvent {
    /// Its line in the file, from 1.
    pub line: usize,
    /// Its id, if it has one.
    pub id: Option<String>,
    /// Who says so.
    pub source: Option<String>,
    /// What happened.
    pub event_type: String,
    /// When.
    pub time: Timestamp,
    /// Values by name, as they are written.
    pub values: BTreeMap<String, String>,
    /// Texts by dimension.
    pub dimensions: BTreeMap<String, String>,
}

/// Reads a usage file; `type_default` is the type of events that name none.
///
/// # Errors
/// [`QuoteStatus::UsageMustBeReadable`].
pub fn read(text: &str, type_default: Option<&str>) -> Result<Vec<UsageEvent>, QuoteStatus> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('{') {
        read_lines(text, type_default)
    } else {
        read_csv(text, type_default)
    }
}

/// What an event says of itself, in either notation.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    id: Option<String>,
    source: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    #[serde(rename = "subject")]
    _subject: Option<String>,
    time: Option<String>,
    #[serde(default)]
    values: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    dimensions: BTreeMap<String, String>,
}

fn read_lines(text: &str, type_default: Option<&str>) -> Result<Vec<UsageEvent>, QuoteStatus> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let read = |(index, line): (usize, &str)| {
        let refuse = |what: String| QuoteStatus::UsageMustBeReadable(index + 1, what);
        let is_event = serde_json::from_str::<OfCloudEvent>(line).is_ok_and(|of| of.is_there());
        if is_event {
            return cloud_event(index + 1, line, type_default);
        }
        let mut written: Written = serde_json::from_str(line).map_err(|error| refuse(error.to_string()))?;
        let mut values = BTreeMap::new();
        for (name, value) in std::mem::take(&mut written.values) {
            let text = match value {
                serde_json::Value::String(text) => text,
                serde_json::Value::Number(number) if !number.is_f64() => number.to_string(),
                _ => {
                    let what =
                        format!("the value {name} is a decimal in quotes, such as \"0.01\", or an integer");
                    return Err(refuse(what));
                }
            };
            values.insert(name, text);
        }
        event(index + 1, written, values, type_default)
    };
    lines.map(read).collect()
}

/// What only a CloudEvent has.
#[derive(Deserialize)]
struct OfCloudEvent {
    specversion: Option<IgnoredAny>,
    data: Option<IgnoredAny>,
}

impl OfCloudEvent {
    fn is_there(&self) -> bool {
        self.specversion.is_some() || self.data.is_some()
    }
}

/// A CloudEvent; its extension attributes are not looked at.
#[derive(Deserialize)]
struct CloudEvent<'a> {
    id: Option<String>,
    source: Option<String>,
    #[serde(rename = "type")]
    event_type: Option<String>,
    time: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

fn cloud_event(line: usize, text: &str, type_default: Option<&str>) -> Result<UsageEvent, QuoteStatus> {
    let refuse = |what: String| QuoteStatus::UsageMustBeReadable(line, what);
    let read: CloudEvent<'_> = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
    let mut properties = Properties::default();
    if let Some(data) = read.data.filter(|data| data.get() != "null") {
        properties.object("", data.get(), 0).map_err(refuse)?;
    }
    let CloudEvent { id, source, event_type, time, .. } = read;
    let written =
        Written { id, source, event_type, time, dimensions: properties.dimensions, ..Written::default() };
    event(line, written, properties.values, type_default)
}

/// What the data of a CloudEvent says.
#[derive(Default)]
struct Properties {
    values: BTreeMap<String, String>,
    dimensions: BTreeMap<String, String>,
}

/// Objects in objects, at most.
const DATA_DEPTH_MAX: usize = 8;

impl Properties {
    fn object(&mut self, prefix: &str, text: &str, depth: usize) -> Result<(), String> {
        if depth > DATA_DEPTH_MAX {
            return Err(format!("objects of the data lie at most {DATA_DEPTH_MAX} deep"));
        }
        let members: BTreeMap<String, &RawValue> =
            serde_json::from_str(text).map_err(|_| "the `data` is an object of properties".to_string())?;
        for (name, value) in members {
            let name = format!("{prefix}{name}");
            let text = value.get();
            match text.as_bytes().first() {
                Some(b'"') => {
                    let text: String = serde_json::from_str(text).map_err(|error| error.to_string())?;
                    if !text.is_empty() {
                        self.dimensions.insert(name, text);
                    }
                }
                Some(b'{') => self.object(&format!("{name}."), text, depth + 1)?,
                Some(b'[') => {
                    return Err(format!("the property {name} is a list, which has no meaning as usage"));
                }
                Some(b't' | b'f') => drop(self.dimensions.insert(name, text.to_string())),
                Some(b'n') => {}
                _ => drop(self.values.insert(name, plain(text))),
            }
        }
        Ok(())
    }
}

/// A number of JSON without an exponent: `1.5e3` as `1500`. One that is far from any quantity is left as it is.
fn plain(number: &str) -> String {
    let Some((digits, exponent)) = number.split_once(['e', 'E']) else { return number.to_string() };
    let Ok(exponent @ -99..=99) = exponent.trim_start_matches('+').parse::<i32>() else {
        return number.to_string();
    };
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let zeros = "0".repeat(exponent.unsigned_abs() as usize);
    let (whole, fraction) = if exponent >= 0 {
        let shifted = format!("{fraction}{zeros}");
        let (moved, rest) = shifted.split_at(zeros.len());
        (format!("{whole}{moved}"), rest.to_string())
    } else {
        let shifted = format!("{zeros}{whole}");
        let (rest, moved) = shifted.split_at(whole.len());
        (rest.to_string(), format!("{moved}{fraction}"))
    };
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

fn read_csv(text: &str, type_default: Option<&str>) -> Result<Vec<UsageEvent>, QuoteStatus> {
    let refuse = |line: usize, what: &str| QuoteStatus::UsageMustBeReadable(line, what.to_string());
    let mut records = records_of(text)?.into_iter();
    let Some((_, header)) = records.next() else {
        return Err(refuse(
            1,
            "the file is empty; a CSV file starts with its columns, such as time,type,tokens",
        ));
    };
    let header: Vec<String> = header.iter().map(|name| name.trim().to_string()).collect();
    if !header.iter().any(|name| name == "time") {
        return Err(refuse(
            1,
            "there is no column `time`; columns are separated by commas, such as time,type,tokens",
        ));
    }
    let mut events = Vec::new();
    for (line, record) in records {
        if record.len() != header.len() {
            let what = format!("{} fields under {} columns", record.len(), header.len());
            return Err(refuse(line, &what));
        }
        let (mut written, mut properties) = (Written::default(), BTreeMap::new());
        for (name, field) in header.iter().zip(record).filter(|(_, field)| !field.is_empty()) {
            match name.as_str() {
                "id" => written.id = Some(field),
                "source" => written.source = Some(field),
                "type" => written.event_type = Some(field),
                "subject" => {}
                "time" => written.time = Some(field),
                _ => {
                    properties.insert(name.clone(), field);
                }
            }
        }
        written.dimensions = properties.clone();
        events.push(event(line, written, properties, type_default)?);
    }
    Ok(events)
}

fn event(
    line: usize,
    written: Written,
    values: BTreeMap<String, String>,
    type_default: Option<&str>,
) -> Result<UsageEvent, QuoteStatus> {
    let refuse = |what: String| QuoteStatus::UsageMustBeReadable(line, what);
    let time = written.time.ok_or_else(|| refuse("an event has a `time`".to_string()))?;
    let time = Timestamp::parse(&time).map_err(|status| refuse(format!("time {time:?}: {status}")))?;
    let event_type = written.event_type.or_else(|| type_default.map(str::to_string)).ok_or_else(|| {
        refuse("an event has a `type`; if all are of one, leave it out and say --type".to_string())
    })?;
    let (id, source, dimensions) = (written.id, written.source, written.dimensions);
    Ok(UsageEvent { line, id, source, event_type, time, values, dimensions })
}

/// The records of a CSV file (RFC 4180), each with the line that it starts on; empty lines are none.
fn records_of(text: &str) -> Result<Vec<(usize, Vec<String>)>, QuoteStatus> {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut started_at, mut is_quoted, mut was_quoted) = (1, 1, false, false);
    let mut characters = text.chars().chain(['\n']).peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if is_quoted && characters.next_if_eq(&'"').is_some() => field.push('"'),
            '"' if is_quoted || field.is_empty() => {
                is_quoted = !is_quoted;
                was_quoted = true;
            }
            '\n' if is_quoted && characters.peek().is_none() => {
                let what = "a quote that is opened here is never closed".to_string();
                return Err(QuoteStatus::UsageMustBeReadable(started_at, what));
            }
            ',' if !is_quoted => record.push(std::mem::take(&mut field)),
            '\r' if !is_quoted && characters.peek() == Some(&'\n') => {}
            '\n' if !is_quoted => {
                let is_empty = record.is_empty() && field.is_empty() && !was_quoted;
                record.push(std::mem::take(&mut field));
                let done = std::mem::take(&mut record);
                if !is_empty {
                    records.push((started_at, done));
                }
                line += 1;
                (started_at, was_quoted) = (line, false);
            }
            character => {
                line += usize::from(character == '\n');
                field.push(character);
            }
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_say_the_same_events() {
        let csv = "\u{feff}time,type,subject,id,tokens,model\r\n\
                   2026-01-01T00:00:00Z,call,key,e1,1.50,\"a, \"\"b\"\"\"\r\n\
                   \r\n\
                   2026-01-01T01:00:00+01:00,call,,,,\n";
        let lines = r#"
            {"time": "2026-01-01T00:00:00Z", "type": "call", "subject": "key", "id": "e1", "values": {"tokens": "1.50"}, "dimensions": {"model": "a, \"b\""}}

            {"time": "2026-01-01T00:00:00Z", "type": "call"}
        "#;
        let (csv, lines) = (read(csv, None).unwrap(), read(lines, None).unwrap());
        assert_eq!(csv.iter().map(|event| event.line).collect::<Vec<_>>(), [2, 4]);
        for (csv, lines) in csv.iter().zip(&lines) {
            assert_eq!((csv.time, &csv.id), (lines.time, &lines.id));
            assert_eq!(csv.values.get("tokens"), lines.values.get("tokens"));
            assert_eq!(csv.dimensions.get("model"), lines.dimensions.get("model"));
        }
        assert_eq!(csv[0].dimensions["model"], "a, \"b\"");
        assert_eq!(csv.len(), lines.len());
        let typed = read("time\n2026-01-01T00:00:00Z\n", Some("call")).unwrap();
        assert_eq!(typed[0].event_type, "call");
        let integer = read(r#"{"time": "2026-01-01T00:00:00Z", "type": "c", "values": {"n": 12}}"#, None);
        assert_eq!(integer.unwrap()[0].values["n"], "12");
        assert_eq!(read("time,type,note\n2026-01-01T00:00:00Z,c,\"two\nlines\"\n", None).unwrap().len(), 1);
    }

    #[test]
    fn a_line_may_be_a_cloud_event_as_a_server_takes_it() {
        let lines = r#"{"specversion": "1.0", "id": "e1", "source": "s", "type": "call", "subject": "k", "time": "2026-01-01T00:00:00Z", "traceparent": "x", "datacontenttype": "application/json", "data": {"tokens": 1.50, "model": "a", "ok": true, "http": {"status": 2.5e2}, "none": null, "empty": ""}}
            {"type": "call", "time": "2026-01-01T00:00:00Z", "data": {"tokens": 12345678901234567890.123456789}}"#;
        let events = read(lines, None).unwrap();
        let pairs =
            |of: &BTreeMap<String, String>| of.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>();
        assert_eq!(pairs(&events[0].values), ["http.status=250", "tokens=1.50"]);
        assert_eq!(pairs(&events[0].dimensions), ["model=a", "ok=true"]);
        assert_eq!((events[0].id.as_deref(), events[0].source.as_deref()), (Some("e1"), Some("s")));
        assert_eq!(events[1].values["tokens"], "12345678901234567890.123456789");
        for (number, expected) in [
            ("1.5e3", "1500"),
            ("-12.34e1", "-123.4"),
            ("5E-3", "0.005"),
            ("120e-1", "12"),
            ("1e400", "1e400"),
            ("0e5", "0"),
        ] {
            assert_eq!(plain(number), expected);
        }
    }

    #[test]
    fn a_mistake_is_said_with_its_line_and_what_belongs_there() {
        for (text, line, what) in [
            ("", 1, "starts with its columns"),
            ("when;type\n", 1, "separated by commas"),
            ("time,type\n2026-01-01T00:00:00Z\n", 2, "1 fields under 2 columns"),
            ("time,type\n2026-01-01,call\n", 2, "RFC 3339"),
            ("time,type\n,call\n", 2, "an event has a `time`"),
            ("time\n2026-01-01T00:00:00Z\n", 2, "say --type"),
            ("time,type\n\n2026-01-01T00:00:00Z,\"call\n", 3, "never closed"),
            ("{\"time\": 1}", 1, "string"),
            (
                "{\"time\": \"2026-01-01T00:00:00Z\", \"type\": \"c\", \"tokens\": 1}",
                1,
                "unknown field `tokens`",
            ),
            ("{}\n", 1, "an event has a `time`"),
            ("{\"data\": {}}\n", 1, "an event has a `time`"),
            ("{\"data\": {\"n\": [1]}}\n", 1, "is a list"),
            ("{\"data\": 5}\n", 1, "an object of properties"),
            (
                "{\"time\": \"2026-01-01T00:00:00Z\", \"type\": \"c\", \"values\": {\"n\": 0.1}}",
                1,
                "a decimal in quotes",
            ),
        ] {
            let QuoteStatus::UsageMustBeReadable(at, said) = read(text, None).unwrap_err() else {
                panic!("{text}");
            };
            assert_eq!(at, line, "{said}");
            assert!(said.contains(what), "{said}\n{text}");
        }
    }
}
