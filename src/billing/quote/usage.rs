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
//! or an integer.

use std::collections::BTreeMap;

use domain::Timestamp;
use serde::Deserialize;

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
