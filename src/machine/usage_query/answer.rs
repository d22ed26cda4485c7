//! The answer to a usage query, and how it is written.
//!
//! Owns: JSON and CSV of an answer. Leaves to others: what is in it (`super`).

use std::sync::Arc;

use domain::plan::Aggregation;
use domain::{Exact, Span};
use serde_json::{Map, Value, json};

use super::question::Question;

/// What a meter counts in one window and group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRow {
    /// The window, cut off where the span of the query ends.
    pub window: Span,
    /// The group, in the order of the query's keys; `None` where events have no such dimension.
    pub group: Vec<Option<Arc<str>>>,
    /// What the events come to; nothing where an extremum or a mean is asked of no events.
    pub value: Option<Exact>,
    /// How many they are.
    pub event_count: u64,
}

/// The answer to a query.
#[derive(Clone, Debug)]
pub struct UsageAnswer {
    /// What was asked.
    pub question: Question,
    /// How values become a measure.
    pub aggregation: Aggregation,
    /// Rows in order of window, then group; a missing text before all others.
    pub rows: Vec<UsageRow>,
    /// Events in all rows.
    pub event_count: u64,
    /// Digest of the set of those events.
    pub event_digest: u128,
}

/// Up to where the log was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// Records of the usage log before this offset were counted.
    pub usage_offset: u64,
    /// The catalog was read up to this offset of the control log.
    pub control_offset: u64,
}

impl UsageAnswer {
    /// The answer as JSON; numbers are decimal texts.
    pub fn to_json(&self, as_of: AsOf) -> Value {
        let question = &self.question;
        let names: Vec<String> = question.group_by.iter().map(|key| key.name()).collect();
        let rows = self.rows.iter().map(|row| {
            let group = names.iter().zip(&row.group);
            let group: Map<String, Value> =
                group.map(|(name, text)| (name.clone(), text.as_deref().into())).collect();
            json!({
                "from": row.window.from, "to": row.window.until, "group": group,
                "value": row.value.map(|value| value.to_string()), "event_count": row.event_count,
            })
        });
        json!({
            "meter": question.meter, "aggregation": name_of(self.aggregation),
            "from": question.span.from, "to": question.span.until,
            "window": question.window.map(|unit| unit.as_str()), "time_zone": question.zone.name(),
            "as_of": { "usage_offset": as_of.usage_offset, "control_offset": as_of.control_offset },
            "event_count": self.event_count, "event_digest": format!("{:032x}", self.event_digest),
            "rows": rows.collect::<Vec<_>>(),
        })
    }

    /// The rows as CSV: a column for either end of the window and for each group key, then the value and how many events
    /// it is of. A missing text is an empty field, an empty one is `""`.
    pub fn to_csv(&self) -> String {
        let mut csv = String::from("from,to");
        for key in &self.question.group_by {
            csv.push(',');
            push_field(&mut csv, &key.name());
        }
        csv.push_str(",value,event_count\n");
        for row in &self.rows {
            csv.push_str(&format!("{},{}", row.window.from, row.window.until));
            for text in &row.group {
                csv.push(',');
                if let Some(text) = text {
                    push_field(&mut csv, text);
                }
            }
            let value = row.value.map(|value| value.to_string()).unwrap_or_default();
            csv.push_str(&format!(",{value},{}\n", row.event_count));
        }
        csv
    }
}

fn name_of(aggregation: Aggregation) -> &'static str {
    match aggregation {
        Aggregation::Sum => "sum",
        Aggregation::Count => "count",
        Aggregation::Average => "average",
        Aggregation::Min => "min",
        Aggregation::Max => "max",
        Aggregation::Latest => "latest",
        Aggregation::Unique => "unique",
        Aggregation::WeightedSum(_) => "weighted_sum",
        Aggregation::Percentile { .. } => "percentile",
        Aggregation::Peak { .. } => "peak",
        Aggregation::Each => "each",
    }
}

/// A text as RFC 4180 has it, quoted where it must be, and where it is empty.
fn push_field(csv: &mut String, text: &str) {
    if !text.is_empty() && !text.contains([',', '"', '\r', '\n']) {
        csv.push_str(text);
        return;
    }
    csv.push('"');
    csv.push_str(&text.replace('"', "\"\""));
    csv.push('"');
}
