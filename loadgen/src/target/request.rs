//! Events as HTTP requests: CloudEvents 1.0, structured, binary, batched, or one a line.
//!
//! Owns: the bytes of a request, written once into memory that is used again.
//! Leaves to others: sending (`http`), what an event says (`generator`).
//!
//! Invariants: texts of people are escaped before the run; a request that is sent again is the same bytes.

use std::fmt::Write as _;
use std::sync::Arc;

use domain::Timestamp;
use domain::time::DAY;

use super::endpoint::Endpoint;
use crate::generator::{Generated, Generator, Plan, Texts};
use crate::scenario::Target;

/// Room for the digits of a body's length, which is known last.
const LENGTH_DIGITS: usize = 12;

/// A request that is being written.
pub(crate) struct Request {
    target: Target,
    plan: Arc<Plan>,
    /// Everything up to the digits of the length.
    head: String,
    /// For each dimension and text: `,"name":"text"`.
    fragments: Vec<Vec<String>>,
    texts: Texts,
    day: Day,
    pub(crate) events: u32,
    text: String,
    body_at: usize,
}

impl Request {
    pub(crate) fn new(target: Target, plan: Arc<Plan>, endpoint: &Endpoint) -> Self {
        let content_type = match target {
            Target::Quic => unreachable!("frames are not requests"),
            Target::HttpSingle => "application/cloudevents+json",
            Target::HttpBinary => "application/json",
            Target::HttpBatch => "application/cloudevents-batch+json",
            Target::Ndjson => "application/x-ndjson",
        };
        let mut head = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\nuser-agent: loadgen\r\ncontent-type: {content_type}\r\n",
            endpoint.path, endpoint.authority
        );
        for (name, value) in &endpoint.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if target == Target::HttpBinary {
            let _ = write!(
                head,
                "ce-specversion: 1.0\r\nce-source: {}\r\nce-type: {}\r\n",
                plan.run, plan.event_type
            );
        }
        head.push_str("content-length: ");
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let fragments = plan.dimensions.iter().map(|(name, values)| {
            values.iter().map(|value| format!(",{}:{}", quoted(name), quoted(value))).collect()
        });
        Self {
            target,
            fragments: fragments.collect(),
            plan,
            head,
            texts: Texts::default(),
            day: Day::default(),
            events: 0,
            text: String::new(),
            body_at: 0,
        }
    }

    /// Begins a request without events.
    pub(crate) fn begin(&mut self) {
        self.events = 0;
        self.text.clear();
        self.text.push_str(&self.head);
        self.text.extend([' '; LENGTH_DIGITS]);
        self.text.push_str("\r\n");
        if self.target != Target::HttpBinary {
            self.open_body();
        }
    }

    fn open_body(&mut self) {
        self.text.push_str("\r\n");
        self.body_at = self.text.len();
        if self.target == Target::HttpBatch {
            self.text.push('[');
        }
    }

    /// Adds an event.
    pub(crate) fn push(&mut self, generator: &Generator, generated: &Generated) {
        generator.write(generated, &mut self.texts);
        if self.target == Target::HttpBinary {
            assert!(self.events == 0, "a binary request has one event");
            // Ids, subjects and times are visible ASCII without what headers would escape.
            let _ = write!(
                self.text,
                "ce-id: {}\r\nce-subject: {}\r\nce-time: ",
                self.texts.id, self.texts.subject
            );
            self.day.write(generated.time, &mut self.text);
            self.text.push_str("\r\n");
            self.open_body();
            self.push_data(generated);
        } else {
            if self.target == Target::HttpBatch && self.events > 0 {
                self.text.push(',');
            }
            self.push_structured(generated);
            if self.target == Target::Ndjson {
                self.text.push('\n');
            }
        }
        self.events += 1;
    }

    fn push_structured(&mut self, generated: &Generated) {
        let text = &mut self.text;
        for part in [
            "{\"specversion\":\"1.0\",\"id\":\"",
            &self.texts.id,
            "\",\"source\":\"",
            &self.plan.run,
            "\",\"type\":\"",
            &self.plan.event_type,
            "\",\"subject\":\"",
            &self.texts.subject,
            "\",\"time\":\"",
        ] {
            text.push_str(part);
        }
        self.day.write(generated.time, text);
        text.push_str("\",\"data\":");
        self.push_data(generated);
        self.text.push('}');
    }

    fn push_data(&mut self, generated: &Generated) {
        let (units, hundredths) = (generated.hundredths / 100, generated.hundredths % 100);
        let _ = write!(self.text, "{{\"units\":{units}.{hundredths:02}");
        for (fragments, pick) in self.fragments.iter().zip(&self.texts.picks) {
            self.text.push_str(&fragments[*pick]);
        }
        self.text.push('}');
    }

    /// The whole request.
    pub(crate) fn finish(&mut self) -> &[u8] {
        if self.target == Target::HttpBatch {
            self.text.push(']');
        }
        let length = self.text.len() - self.body_at;
        // Spaces before a header's value have no meaning.
        let digits = format!("{length:>LENGTH_DIGITS$}");
        self.text.replace_range(self.head.len()..self.head.len() + LENGTH_DIGITS, &digits);
        self.text.as_bytes()
    }

    /// The bytes that [`Request::finish`] gave last.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// RFC 3339 with nanoseconds; the date of the last day is remembered.
#[derive(Default)]
struct Day {
    day: i64,
    date: String,
}

impl Day {
    fn write(&mut self, time: i64, out: &mut String) {
        let day = time.div_euclid(DAY);
        if day != self.day || self.date.is_empty() {
            self.day = day;
            self.date = Timestamp::from_nanoseconds(day * DAY).to_string();
            self.date.truncate("YYYY-MM-DD".len());
        }
        let within = time.rem_euclid(DAY) as u64;
        let (seconds, nanoseconds) = (within / 1_000_000_000, within % 1_000_000_000);
        let mut ascii = *b"T00:00:00.000000000Z";
        put_digits(&mut ascii[1..3], seconds / 3_600);
        put_digits(&mut ascii[4..6], seconds / 60 % 60);
        put_digits(&mut ascii[7..9], seconds % 60);
        put_digits(&mut ascii[10..19], nanoseconds);
        out.push_str(&self.date);
        out.push_str(std::str::from_utf8(&ascii).expect("digits are ASCII"));
    }
}

fn put_digits(places: &mut [u8], mut number: u64) {
    for place in places.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests;
