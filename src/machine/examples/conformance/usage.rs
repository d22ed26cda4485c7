//! Usage in windows and groups: events go through a shard and a usage query, as those of a log do.
//!
//! Owns: which event of a case is which event of the product. Leaves to others: what counts (`engine::shard`), windows,
//! groups, filters and measures (`machine::usage_query`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use billing::catalog::{Catalog, Resource, ResourceKind};
use domain::plan::{MeteringPlan, Policy};
use domain::time::{DAY, HOUR, WindowUnit};
use domain::{Decimal, Exact, MeterId, Rounding, Span, Timestamp, Zone};
use engine::identity::IdentityKey;
use engine::prepared::PreparedBatch;
use engine::shard::Shard;
use machine::usage_query::{
    Counting, GroupKey, Judge, LoggedBatch, Question, UsageAnswer, UsageFold, UsageQuery, UsageScope,
    UsageTerms,
};
use serde_json::{Map, Value, json};
use wire::{BatchBuilder, Event, EventIdOwned, IdMode, Verdict};

use crate::case::{Case, Stop, fields_of, list_of, number};
use crate::json::any_text;
use crate::metering::at_path;
use crate::time::{instant_of, maybe_instant, span_of};
use crate::values::Values;

pub(crate) fn aggregate(case: &Case<'_>) -> Result<Values, Stop> {
    // Bounds that a peer cuts to its resolution (`period_floor`) stay where they are.
    let span = maybe_span(case)?;
    let events = case.rows("events")?;
    let in_range = events.iter().map(|event| Ok(span.contains(instant_of(event, "time")?)));
    let count = in_range.collect::<Result<Vec<bool>, Stop>>()?.into_iter().filter(|is_in| *is_in).count();
    let answer = Asked::of(case, span)?.answer(&events)?;
    Ok(Values::new().with("value", whole(case, &answer)).with("count", count as u64))
}

/// What each aggregation says of no events.
pub(crate) fn aggregate_empty(case: &Case<'_>) -> Result<Values, Stop> {
    let (span, events) = (maybe_span(case)?, case.rows("events")?);
    let mut rows = Map::new();
    for aggregation in ALL {
        let answer = Asked::by(case, aggregation, span)?.answer(&events)?;
        rows.insert(aggregation.to_string(), whole_of(aggregation, &answer));
    }
    Ok(Values::new().with("rows", Value::Object(rows)))
}

/// The measure after each event.
pub(crate) fn running(case: &Case<'_>) -> Result<Values, Stop> {
    let asked = Asked::of(case, Span::new(Timestamp::MIN, Timestamp::END))?;
    let unit_price = case.number_or_one("unit_price")?;
    let start = Timestamp::parse("2026-01-01T00:00:00Z").expect("an instant");
    let event_of = |(index, value): (usize, &Value)| json!({ "time": start.plus(index as i64 * HOUR), "value": value, "key": value });
    let events: Vec<Value> = case.list("values")?.iter().enumerate().map(event_of).collect();
    let events = events.iter().map(|event| Ok(Case::part(fields_of(event)?)));
    let events: Vec<Case<'_>> = events.collect::<Result<_, Stop>>()?;
    let (mut units_after, mut cents_after) = (Vec::new(), Vec::new());
    for count in 1..=events.len() {
        let units = asked.answer(&events[..count])?.rows[0].value.unwrap_or(Exact::ZERO);
        let cents = units.multiply(unit_price)?.multiply(Exact::from_integer(100))?;
        cents_after.push(cents.round(Rounding::HalfAway, 0)?);
        units_after.push(units);
    }
    Ok(Values::new().with("units_after", units_after).with("amount_cents_after", cents_after))
}

/// Events of which some are sent again: the fields of `dedup_key` are the id.
pub(crate) fn dedup(case: &Case<'_>) -> Result<Values, Stop> {
    let generated = generated(case)?;
    let mut events = match &generated {
        Some(generated) => generated.iter().map(|event| Ok(Case::part(fields_of(event)?))).collect(),
        None => case.rows("events"),
    }?;
    let asked = Asked { id_of: Some(id_fields(case)?), ..Asked::of(case, maybe_span(case)?)? };
    let ids = events.iter().map(|event| asked.id(event)).collect::<Result<Vec<String>, Stop>>()?;
    if case.text("conflict") == Some("last_write_wins") {
        // Here a producer amends: what it sent before is no event any more.
        let last: BTreeMap<&String, usize> = ids.iter().zip(0..).collect();
        let mut index = 0..;
        events.retain(|_| index.next().is_some_and(|index| last[&ids[index]] == index));
    }
    let (answer, refused) = asked.answer_and_refused(&events)?;
    let different: BTreeSet<&String> = ids.iter().collect();
    Ok(Values::new()
        .with("value", whole(case, &answer))
        .with("unique_events", different.len())
        .with("failures", refused))
}

/// The events that a generator states, each at another time.
fn generated(case: &Case<'_>) -> Result<Option<Vec<Value>>, Stop> {
    let Some(generator) = case.find("generator") else { return Ok(None) };
    let fields = fields_of(generator)?;
    let count: i64 = Case::part(fields).integer("count")?.unwrap_or(0);
    let start = Timestamp::parse("2026-01-01T00:00:00Z").expect("an instant");
    let event_of = |index: i64| {
        let mut event = fields.clone();
        event.insert("time".to_string(), json!(start.plus(index * HOUR)));
        event.entry("value").or_insert(json!("1"));
        Value::Object(event)
    };
    Ok(Some((0..count).map(event_of).collect()))
}

fn id_fields<'a>(case: &Case<'a>) -> Result<Vec<&'a str>, Stop> {
    let Some(key) = case.find("dedup_key") else { return Ok(vec!["source", "id"]) };
    let names = key.as_array().map_or(std::slice::from_ref(key), Vec::as_slice);
    Ok(names.iter().filter_map(any_text).collect())
}

/// What was stored by then.
pub(crate) fn aggregate_asof(case: &Case<'_>) -> Result<Values, Stop> {
    let filter = case.value("stored_at_filter")?;
    let mut events = Vec::new();
    for event in case.rows("events")? {
        if fits_time(filter, instant_of(&event, "stored_at")?)? {
            events.push(event);
        }
    }
    let answer = Asked::of(case, span_of(case, "from", "to")?)?.answer(&events)?;
    Ok(Values::new().with("value", whole(case, &answer)))
}

fn fits_time(filter: &Value, stored_at: Timestamp) -> Result<bool, Stop> {
    let mut fits = true;
    for (name, bound) in fields_of(filter)? {
        let each = || -> Result<Vec<bool>, Stop> {
            list_of(bound)?.iter().map(|filter| fits_time(filter, stored_at)).collect()
        };
        let at = || crate::time::instant(any_text(bound).unwrap_or_default());
        fits &= match name.as_str() {
            "lt" => stored_at < at()?,
            "lte" => stored_at <= at()?,
            "gt" => stored_at > at()?,
            "gte" => stored_at >= at()?,
            "and" => each().map(|fits| fits.iter().all(|fits| *fits))?,
            "or" => each().map(|fits| fits.iter().any(|fits| *fits))?,
            name => return Err(Stop::Unsupported(format!("the comparison {name}"))),
        };
    }
    Ok(fits)
}

pub(crate) fn windowed(case: &Case<'_>) -> Result<Values, Stop> {
    let unit = WindowUnit::parse(&case.word("window")?.to_lowercase())
        .map_err(|status| Stop::Unsupported(status.to_string()))?;
    let zone = case.text("tz").map_or(Ok(Zone::utc()), Zone::new);
    let zone = zone.map_err(|_| Stop::Refused)?;
    let mut span = span_of(case, "from", "to")?;
    if case.text("snap") == Some("outward") {
        let last = zone.window_of(unit, span.until.plus(-1));
        span = Span::new(zone.window_of(unit, span.from).from, last.until);
    }
    let asked = Asked { window: Some(unit), zone, ..Asked::of(case, span)? };
    let events = case.rows("events")?;
    let answer = asked.answer(&events)?;
    let windows = answer.rows.iter().map(|row| {
        let hours =
            Exact::from_integer((row.window.until.nanoseconds() - row.window.from.nanoseconds()).into())
                .divide(Exact::from_integer(HOUR.into()));
        let hours = hours.map(|hours| hours.to_string()).map_err(Stop::from)?;
        Ok(json!({
            "start": row.window.from, "end": row.window.until, "value": row.value.map(|value| value.to_string()), "hours": hours,
        }))
    });
    let total = Asked { window: None, ..asked }.answer(&events)?;
    let contiguous = answer.rows.windows(2).all(|rows| rows[0].window.until == rows[1].window.from);
    Ok(Values::new()
        .with("rows", windows.collect::<Result<Vec<Value>, Stop>>()?)
        .with("total", whole(case, &total))
        .with("contiguous", contiguous))
}

pub(crate) fn grouped(case: &Case<'_>) -> Result<Values, Stop> {
    grouped_by(case, case.word("aggregation")?)
}

/// Different keys, per group.
pub(crate) fn grouped_unique(case: &Case<'_>) -> Result<Values, Stop> {
    grouped_by(case, "UNIQUE_COUNT")
}

fn grouped_by(case: &Case<'_>, aggregation: &str) -> Result<Values, Stop> {
    let names = case.list("group_by")?.iter().filter_map(any_text);
    let group_by = names.map(|name| GroupKey::Dimension(name.into())).collect();
    let asked = Asked { group_by, ..Asked::by(case, aggregation, maybe_span(case)?)? };
    let answer = asked.answer(&case.rows("events")?)?;
    let groups = answer.rows.iter().map(|row| {
        let key: Vec<Option<&str>> = row.group.iter().map(|text| text.as_deref()).collect();
        json!({ "key": key, "value": row.value.map(|value| value.to_string()) })
    });
    Ok(Values::new().with("groups", groups.collect::<Vec<Value>>()))
}

pub(crate) fn filtered(case: &Case<'_>) -> Result<Values, Stop> {
    let answer = Asked::of(case, maybe_span(case)?)?.answer(&case.rows("events")?)?;
    Ok(Values::new().with("value", whole(case, &answer)))
}

/// An event belongs to one period only.
pub(crate) fn boundary(case: &Case<'_>) -> Result<Values, Stop> {
    let events = case.rows("events")?;
    let mut sums = Vec::new();
    for period in case.list("periods")? {
        let [from, until] = list_of(period)? else {
            return Err(Stop::Broken("a period has two bounds".to_string()));
        };
        let bound = |value: &Value| crate::time::instant(any_text(value).unwrap_or_default());
        let answer = Asked::of(case, Span::new(bound(from)?, bound(until)?))?.answer(&events)?;
        sums.push(answer.rows[0].value);
    }
    Ok(Values::new().with("ideal", sums))
}

/// The span of a case, which may be open at either end.
fn maybe_span(case: &Case<'_>) -> Result<Span, Stop> {
    let from = maybe_instant(case, "from")?.unwrap_or(Timestamp::MIN);
    Ok(Span::new(from, maybe_instant(case, "to")?.unwrap_or(Timestamp::END)))
}

/// The value of the whole.
fn whole(case: &Case<'_>, answer: &UsageAnswer) -> Value {
    whole_of(case.text("aggregation").unwrap_or_default(), answer)
}

/// A count of nothing is zero; a sum of nothing is none.
fn whole_of(aggregation: &str, answer: &UsageAnswer) -> Value {
    let is_none = answer.event_count == 0 && !["COUNT", "UNIQUE_COUNT"].contains(&aggregation);
    if is_none { Value::Null } else { json!(answer.rows[0].value.map(|value| value.to_string())) }
}

/// All aggregations of a case, by name.
const ALL: [&str; 7] = ["SUM", "COUNT", "AVG", "MIN", "MAX", "LATEST", "UNIQUE_COUNT"];

/// What events of a case say.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Nothing: they are counted.
    Nothing,
    /// A number.
    Number,
    /// A key.
    Key,
}

/// A usage query, and what leaves events out before it.
struct Asked<'a> {
    catalog: Catalog,
    value_property: Option<&'a str>,
    said: Said,
    /// The fields that tell events apart; without them each is another one.
    id_of: Option<Vec<&'a str>>,
    span: Span,
    window: Option<WindowUnit>,
    zone: Zone,
    group_by: Vec<GroupKey>,
    filter: BTreeMap<String, BTreeSet<String>>,
    /// An event that fits all keys of one of these is left out.
    ignored: Vec<BTreeMap<String, BTreeSet<String>>>,
}

impl<'a> Asked<'a> {
    fn of(case: &Case<'a>, span: Span) -> Result<Self, Stop> {
        Self::by(case, case.word("aggregation")?, span)
    }

    fn by(case: &Case<'a>, aggregation: &str, span: Span) -> Result<Self, Stop> {
        let (aggregation, said) = match aggregation {
            "SUM" => ("sum", Said::Number),
            "COUNT" => ("count", Said::Nothing),
            "AVG" => ("average", Said::Number),
            "MIN" => ("min", Said::Number),
            "MAX" => ("max", Said::Number),
            "LATEST" => ("latest", Said::Number),
            "UNIQUE_COUNT" => ("unique", Said::Key),
            aggregation => return Err(Stop::Unsupported(format!("the aggregation {aggregation}"))),
        };
        let mut meter = json!({ "event_type": "usage", "aggregation": aggregation });
        match said {
            Said::Nothing => {}
            Said::Number => {
                meter["value"] = json!("value");
                meter["negative_usage"] = json!("signed");
            }
            Said::Key => {
                meter["key"] = json!(KEY);
                meter["operation"] = json!(OPERATION);
            }
        }
        let mut catalog = Catalog::default();
        let meter = Resource::from_json(ResourceKind::Meters, "usage", meter);
        let applied = meter.and_then(|meter| catalog.apply(meter, 0));
        applied.map_err(|status| Stop::Broken(status.to_string()))?;
        let mut filter = BTreeMap::new();
        for name in ["filter", "match"] {
            filter.extend(case.find(name).map_or(Ok(BTreeMap::new()), texts_of)?);
        }
        let ignored = case.find("ignore").map_or(Ok(&[][..]), list_of)?.iter().map(texts_of);
        let ignored = ignored.filter(|texts| !matches!(texts, Ok(texts) if texts.is_empty()));
        Ok(Self {
            catalog,
            value_property: case.text("value_property"),
            said,
            id_of: None,
            span,
            window: None,
            zone: Zone::utc(),
            group_by: Vec::new(),
            filter,
            ignored: ignored.collect::<Result<_, _>>()?,
        })
    }

    /// The id of an event that its fields make.
    fn id(&self, event: &Case<'_>) -> Result<String, Stop> {
        let names = self.id_of.iter().flatten();
        let texts = names.map(|name| match *name {
            "time" => Ok(instant_of(event, "time")?.to_string()),
            name => Ok(text_of(event, name).unwrap_or_default()),
        });
        Ok(texts.collect::<Result<Vec<String>, Stop>>()?.join("\n"))
    }

    /// Sends the events to a shard, and asks.
    fn answer(&self, events: &[Case<'_>]) -> Result<UsageAnswer, Stop> {
        Ok(self.answer_and_refused(events)?.0)
    }

    /// The same, with how many events say something else than the first one with their id.
    fn answer_and_refused(&self, events: &[Case<'_>]) -> Result<(UsageAnswer, usize), Stop> {
        let question = Question {
            meter: MeterId::new("usage").expect("an id"),
            scope: UsageScope::All,
            span: self.span,
            window: self.window,
            zone: self.zone.clone(),
            group_by: self.group_by.clone(),
            filter: self.filter.clone(),
            shows_empty: false,
        };
        let refused = |_| Stop::Refused;
        let query = UsageQuery::new(question).map_err(refused)?;
        let terms = UsageTerms::of(&self.catalog, &query).map_err(refused)?;
        let mut shard = Shard::new(0);
        let plan = MeteringPlan {
            programs: vec![terms.program().clone()],
            policy: Policy {
                horizon: 40_000 * DAY,
                future_max: 40_000 * DAY,
                pending_per_slot_max: u32::MAX,
            },
            ..MeteringPlan::default()
        };
        assert!(!shard.handle_barrier(0, &Arc::new(plan)), "an empty shard has nothing to fold again");
        let mut fold = UsageFold::new(query, terms);
        let mut builder = BatchBuilder::new("case", "usage", IdMode::Given);
        let mut refused_count = 0;
        for (index, event) in events.iter().enumerate() {
            let Some(event) = self.event_of(index, event)? else { continue };
            builder.push(&event).map_err(|status| Stop::Unsupported(status.to_string()))?;
        }
        if !builder.is_empty() {
            let (frame, key) = (Arc::new(builder.finish(1, 0)), IdentityKey::new(0));
            let batch = PreparedBatch::prepare(frame, None, Timestamp::MIN, key, 1);
            let batch = batch.map_err(|status| Stop::Broken(status.to_string()))?;
            let handled = shard.handle_batch(&batch, &mut |_, verdict| {
                refused_count += usize::from(verdict == Verdict::Conflict);
            });
            handled.map_err(|error| Stop::Broken(error.to_string()))?;
            let mut candidates = Vec::new();
            let logged = LoggedBatch {
                view: &batch.view(),
                refusals: batch.refusals(),
                offset: batch.offset,
                control_offset: 0,
                first_index: 0,
                arrival: None,
            };
            fold.select(logged, key, &mut candidates).map_err(refused)?;
            let mut judge = std::slice::from_ref(&shard);
            judge.judge(candidates, &mut |event| fold.add(event)).map_err(|_| Stop::Refused)?;
        }
        Ok((fold.finish().map_err(refused)?, refused_count))
    }

    /// An event of the product; `None` if the case leaves it out, or it has no value to be counted.
    fn event_of(&self, index: usize, event: &Case<'_>) -> Result<Option<Event>, Stop> {
        let is_ignored = self.ignored.iter().any(|texts| {
            texts.iter().all(|(name, texts)| text_of(event, name).is_some_and(|text| texts.contains(&text)))
        });
        let value = match (event.find("value"), self.value_property) {
            (Some(value), _) => Some(value),
            (None, Some(path)) => at_path(event.find("data"), path),
            (None, None) => None,
        };
        let value = value.and_then(any_text);
        let id = if self.id_of.is_some() { self.id(event)? } else { index.to_string() };
        let mut made = Event::new(EventIdOwned::Text(id), "subject", instant_of(event, "time")?);
        match self.said {
            _ if is_ignored => return Ok(None),
            Said::Nothing => {}
            Said::Number => {
                let Some(number) = value.and_then(|text| number(text).ok()) else { return Ok(None) };
                let number = Decimal::parse(&number.to_string()).map_err(|_| Stop::Refused)?;
                made = made.value("value", number);
            }
            Said::Key => {
                let key = event.find("key").and_then(any_text).or(value);
                let Some(key) = key else { return Ok(None) };
                made = made.dimension(KEY, key);
                if let Some(operation) = event.text("op") {
                    made = made.dimension(OPERATION, operation);
                }
            }
        }
        let grouped = self.group_by.iter().filter_map(|key| match key {
            GroupKey::Dimension(name) => Some(name.to_string()),
            GroupKey::Subject | GroupKey::Source => None,
        });
        let names: BTreeSet<String> = grouped.chain(self.filter.keys().cloned()).collect();
        for name in names {
            if let Some(text) = text_of(event, &name) {
                made = made.dimension(&name, &text);
            }
        }
        Ok(Some(made))
    }
}

/// Names of dimensions that no case has.
const KEY: &str = "$key";
const OPERATION: &str = "$operation";

/// A property of an event, or one of its own fields.
fn text_of(event: &Case<'_>, name: &str) -> Option<String> {
    let properties = event.find("props").and_then(|properties| fields_of(properties).ok());
    let property = properties.and_then(|properties| properties.get(name));
    property.or_else(|| event.find(name)).and_then(any_text).map(str::to_string)
}

/// Texts by name; what has none is left out.
fn texts_of(value: &Value) -> Result<BTreeMap<String, BTreeSet<String>>, Stop> {
    let mut texts = BTreeMap::new();
    for (name, value) in fields_of(value)? {
        let listed = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let listed: BTreeSet<String> = listed.iter().filter_map(any_text).map(str::to_string).collect();
        if !listed.is_empty() {
            texts.insert(name.clone(), listed);
        }
    }
    Ok(texts)
}
