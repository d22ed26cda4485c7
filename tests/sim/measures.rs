//! What events come to by each aggregation, and which of them a filter lets through: from single events, with plain loops.
//!
//! Owns: aggregations and filters as the records of meters say them. Leaves to others: whose events they are and what they
//! cost (`prices`), which of them count (`recount`).
//!
//! Values are whole halves of a unit. Of one instant the later arrival comes later.

use std::collections::{BTreeMap, BTreeSet};

use domain::time::SECOND;
use domain::{Exact, Span, Timestamp};
use serde_json::Value;

use crate::actions::{DIMENSION, KEY, OPERATION};
use crate::producers::Sent;

/// How a meter makes one quantity of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    Sum,
    Count,
    Average,
    Min,
    Max,
    Latest,
    /// Different keys; whether they also go.
    Unique {
        may_fall: bool,
    },
    Level(Level),
    /// Of so many percent.
    Percentile(usize),
    /// Of granules of so many nanoseconds.
    Peak(i64),
    Each,
}

/// What makes a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Changes,
    Values,
    Keys,
}

/// What one event says to a meter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) time: Timestamp,
    /// Offset of its batch, and index there.
    pub(crate) place: (u64, u16),
    pub(crate) halves: i64,
    pub(crate) key: Option<&'static str>,
    pub(crate) is_removal: bool,
}

/// Halves as a number.
pub(crate) fn of_halves(halves: i128) -> Exact {
    Exact::new(halves * 5, 1)
}

impl Measure {
    /// The measure of a meter's record.
    pub(crate) fn of(body: &Value) -> Self {
        match body["aggregation"].as_str().expect("an aggregation") {
            "sum" => Measure::Sum,
            "count" => Measure::Count,
            "average" => Measure::Average,
            "min" => Measure::Min,
            "max" => Measure::Max,
            "latest" => Measure::Latest,
            "unique" => Measure::Unique { may_fall: body["operation"].is_string() },
            "weighted_sum" if body["key"].is_string() => Measure::Level(Level::Keys),
            "weighted_sum" if body["gauge"] == "levels" => Measure::Level(Level::Values),
            "weighted_sum" => Measure::Level(Level::Changes),
            "percentile" => {
                let percent = body["percent"].as_str().and_then(|percent| percent.parse().ok());
                Measure::Percentile(percent.expect("a whole percentage"))
            }
            "peak" => Measure::Peak(body["granule_seconds"].as_i64().expect("seconds") * SECOND),
            "each" => Measure::Each,
            other => panic!("no world has a meter of {other}"),
        }
    }

    pub(crate) fn has_value(self) -> bool {
        !self.has_key() && self != Measure::Count
    }

    pub(crate) fn has_key(self) -> bool {
        matches!(self, Measure::Unique { .. } | Measure::Level(Level::Keys))
    }

    pub(crate) fn may_lose_keys(self) -> bool {
        matches!(self, Measure::Unique { may_fall: true } | Measure::Level(Level::Keys))
    }

    pub(crate) fn is_level(self) -> bool {
        matches!(self, Measure::Level(_))
    }

    /// Whether more events may never make it less, values being positive: then it goes on through a change of plan.
    pub(crate) fn goes_on(self) -> bool {
        use Measure::{Count, Each, Level, Max, Peak, Sum, Unique};
        matches!(self, Sum | Count | Each | Max | Level(_) | Peak(_) | Unique { may_fall: false })
    }

    /// What events in order of time and place come to, none of them before `from`; nothing if nothing can be said of no
    /// events. Levels are not asked here.
    pub(crate) fn of_events(self, events: &[Used], from: Timestamp) -> Option<Exact> {
        let mut halves: Vec<i64> = events.iter().map(|event| event.halves).collect();
        let sum: i128 = halves.iter().map(|halves| i128::from(*halves)).sum();
        let one = |halves: Option<i64>| halves.map(|halves| of_halves(halves.into()));
        match self {
            Measure::Sum | Measure::Each => Some(of_halves(sum)),
            Measure::Count => Some(Exact::from_integer(events.len() as i128)),
            Measure::Average if events.is_empty() => None,
            Measure::Average => {
                let (all, count) = (sum * 10i128.pow(18), 2 * events.len() as i128);
                let (whole, rest) = (all / count, all % count);
                let away = if rest.abs() * 2 >= count { rest.signum() } else { 0 };
                Some(Exact::new(whole + away, 18))
            }
            Measure::Min => one(halves.iter().copied().min()),
            Measure::Max => one(halves.iter().copied().max()),
            Measure::Latest => one(halves.last().copied()),
            Measure::Unique { .. } => Some(Exact::from_integer(keys_of(events).len() as i128)),
            Measure::Percentile(percent) => {
                halves.sort_unstable();
                let rank = (halves.len() * percent).div_ceil(100);
                one(rank.checked_sub(1).map(|index| halves[index]))
            }
            Measure::Peak(_) if events.is_empty() => None,
            Measure::Peak(granule) => {
                let granule_of =
                    |event: &Used| (event.time.nanoseconds() - from.nanoseconds()).div_euclid(granule);
                let granules: BTreeSet<i64> = events.iter().map(granule_of).collect();
                let peak_of = |granule: &i64| {
                    let inside = events.iter().filter(|event| granule_of(event) == *granule);
                    i128::from(inside.map(|event| event.halves).max().unwrap_or(0).max(0))
                };
                Some(of_halves(granules.iter().map(peak_of).sum()))
            }
            Measure::Level(_) => panic!("a level goes on from what was before"),
        }
    }
}

impl Level {
    /// Halves behind the last of some events in order of time and place.
    fn behind(self, events: &[Used]) -> i128 {
        match self {
            Level::Changes => events.iter().map(|event| i128::from(event.halves)).sum(),
            Level::Values => events.last().map_or(0, |event| event.halves.into()),
            Level::Keys => 2 * keys_of(events).len() as i128,
        }
    }

    /// Halves times nanoseconds in a span, of all that ever happened in order of time and place.
    pub(crate) fn integral(self, events: &[Used], span: Span) -> i128 {
        let mut bounds: BTreeSet<Timestamp> = [span.from, span.until].into();
        bounds.extend(events.iter().map(|event| event.time).filter(|time| span.contains(*time)));
        let bounds: Vec<Timestamp> = bounds.into_iter().collect();
        let piece = |pair: &[Timestamp]| {
            let before = events.iter().take_while(|event| event.time <= pair[0]).count();
            self.behind(&events[..before]) * i128::from(pair[1].nanoseconds() - pair[0].nanoseconds())
        };
        bounds.windows(2).map(piece).sum()
    }
}

/// Keys whose last change was not that they went.
fn keys_of(events: &[Used]) -> BTreeSet<&'static str> {
    let mut last = BTreeMap::new();
    for event in events {
        last.insert(event.key.expect("a meter of keys takes no event without one"), event.is_removal);
    }
    last.into_iter().filter(|(_, is_removal)| !is_removal).map(|(key, _)| key).collect()
}

/// Whether a filter of a meter's record lets an event through: every test of every name must pass.
pub(crate) fn passes(filter: &Value, sent: &Sent) -> bool {
    let named = filter.as_object().into_iter().flatten();
    named.into_iter().all(|(name, tests)| {
        let text = match name.as_str() {
            DIMENSION => sent.labels.group,
            KEY => sent.labels.key,
            OPERATION => sent.labels.operation,
            _ => None,
        };
        match tests {
            Value::Object(tests) => tests.iter().all(|(test, wanted)| {
                let number = sent.value.filter(|_| name == "tokens");
                is_passed(test, wanted, text, number)
            }),
            texts => is_one_of(texts, text),
        }
    })
}

fn is_one_of(texts: &Value, text: Option<&str>) -> bool {
    let list = texts.as_array().map_or(std::slice::from_ref(texts), Vec::as_slice);
    text.is_some_and(|text| list.iter().any(|one| one == text))
}

fn is_passed(test: &str, wanted: &Value, text: Option<&str>, number: Option<(i128, u8)>) -> bool {
    // In halves of a unit; digits of a wanted number are whole.
    let compared = |(mantissa, scale): (i128, u8)| {
        let wanted: i128 = wanted.as_str().expect("a text").parse().expect("a whole number");
        mantissa.cmp(&wanted.saturating_mul(10i128.pow(scale.into())))
    };
    match test {
        "eq" | "in" => is_one_of(wanted, text),
        "ne" | "not_in" => !is_one_of(wanted, text),
        "exists" => (text.is_some() || number.is_some()) == (wanted == true),
        "prefix" => text.is_some_and(|text| text.starts_with(wanted.as_str().expect("a text"))),
        "lt" => number.is_some_and(|number| compared(number).is_lt()),
        "gte" => number.is_some_and(|number| compared(number).is_ge()),
        other => panic!("no world has a filter with {other}"),
    }
}
