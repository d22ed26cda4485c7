//! Usage in windows and groups: events go through a shard and a usage query, as those of a log do.
//!
//! Owns: which event of a case is which event of the product. Leaves to others: what counts (`engine::shard`), windows,
//! groups and filters (`machine::usage_query`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use billing::catalog::{Catalog, Resource, ResourceKind};
use domain::plan::{MeteringPlan, Policy};
use domain::time::{DAY, HOUR, WindowUnit};
use domain::{Decimal, Exact, MeterId, Span, Timestamp, Zone};
use engine::identity::IdentityKey;
use engine::prepared::PreparedBatch;
use engine::shard::Shard;
use machine::usage_query::{
    Counting, GroupKey, Judge, LoggedBatch, Question, UsageAnswer, UsageFold, UsageQuery, UsageScope,
    UsageTerms,
};
use serde_json::{Value, json};
use wire::{BatchBuilder, Event, EventIdOwned, IdMode};

use crate::case::{Case, Stop, fields_of, list_of, number};
use crate::json::any_text;
use crate::metering::at_path;
use crate::time::{instant_of, maybe_instant, span_of};
use crate::values::Values;

pub(crate) fn aggregate(case: &Case<'_>) -> Result<Values, Stop> {
    if case.find("period_floor").is_some() {
        return Err(Stop::Unsupported("bounds that are cut to a peer's resolution".to_string()));
    }
    let from = maybe_instant(case, "from")?.unwrap_or(Timestamp::MIN);
    let span = Span::new(from, maybe_instant(case, "to")?.unwrap_or(Timestamp::END));
    let events = case.rows("events")?;
    let in_range = events.iter().map(|event| Ok(span.contains(instant_of(event, "time")?)));
    let count = in_range.collect::<Result<Vec<bool>, Stop>>()?.into_iter().filter(|is_in| *is_in).count();
    let answer = Asked::of(case, span)?.answer(&events)?;
    Ok(Values::new().with("value", whole(case, &answer)).with("count", count as u64))
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
    let names = case.list("group_by")?.iter().filter_map(any_text);
    let group_by = names.map(|name| GroupKey::Dimension(name.into())).collect();
    let asked = Asked { group_by, ..Asked::of(case, span_of(case, "from", "to")?)? };
    let answer = asked.answer(&case.rows("events")?)?;
    let groups = answer.rows.iter().map(|row| {
        let key: Vec<Option<&str>> = row.group.iter().map(|text| text.as_deref()).collect();
        json!({ "key": key, "value": row.value.map(|value| value.to_string()) })
    });
    Ok(Values::new().with("groups", groups.collect::<Vec<Value>>()))
}

pub(crate) fn filtered(case: &Case<'_>) -> Result<Values, Stop> {
    let answer = Asked::of(case, span_of(case, "from", "to")?)?.answer(&case.rows("events")?)?;
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

/// The value of the whole; a sum of nothing is none.
fn whole(case: &Case<'_>, answer: &UsageAnswer) -> Value {
    let is_none = answer.event_count == 0 && case.text("aggregation") != Some("COUNT");
    if is_none { Value::Null } else { json!(answer.rows[0].value.map(|value| value.to_string())) }
}

/// A usage query, and what leaves events out before it.
struct Asked<'a> {
    catalog: Catalog,
    value_property: Option<&'a str>,
    is_count: bool,
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
        let aggregation = match case.word("aggregation")? {
            "SUM" => "sum",
            "COUNT" => "count",
            aggregation => return Err(Stop::Unsupported(format!("the aggregation {aggregation}"))),
        };
        let is_count = aggregation == "count";
        let mut meter = json!({ "event_type": "usage", "aggregation": aggregation });
        if !is_count {
            meter["value"] = json!("value");
            meter["negative_usage"] = json!("signed");
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
            is_count,
            span,
            window: None,
            zone: Zone::utc(),
            group_by: Vec::new(),
            filter,
            ignored: ignored.collect::<Result<_, _>>()?,
        })
    }

    /// Sends the events to a shard, and asks.
    fn answer(&self, events: &[Case<'_>]) -> Result<UsageAnswer, Stop> {
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
        for (index, event) in events.iter().enumerate() {
            let Some(event) = self.event_of(index, event)? else { continue };
            builder.push(&event).map_err(|status| Stop::Unsupported(status.to_string()))?;
        }
        if !builder.is_empty() {
            let (frame, key) = (Arc::new(builder.finish(1, 0)), IdentityKey::new(0));
            let batch = PreparedBatch::prepare(frame, None, Timestamp::MIN, key, 1);
            let batch = batch.map_err(|status| Stop::Broken(status.to_string()))?;
            shard.handle_batch(&batch, &mut |_, _| {});
            let mut candidates = Vec::new();
            let logged = LoggedBatch {
                view: &batch.view(),
                refusals: batch.refusals(),
                offset: batch.offset,
                control_offset: 0,
                received_at: Timestamp::MIN,
                recorded_at: Timestamp::MIN,
            };
            fold.select(logged, key, &mut candidates).map_err(refused)?;
            let mut judge = std::slice::from_ref(&shard);
            judge.judge(candidates, &mut |event| fold.add(event)).map_err(|_| Stop::Refused)?;
        }
        fold.finish().map_err(refused)
    }

    /// An event of the product; `None` if the case leaves it out, or it has no value to be counted.
    fn event_of(&self, index: usize, event: &Case<'_>) -> Result<Option<Event>, Stop> {
        let properties = event.find("props").map(fields_of).transpose()?;
        let text_of = |name: &str| {
            let property = properties.and_then(|properties| properties.get(name));
            property.or_else(|| event.find(name)).and_then(any_text).map(str::to_string)
        };
        let is_ignored = self.ignored.iter().any(|texts| {
            texts.iter().all(|(name, texts)| text_of(name).is_some_and(|text| texts.contains(&text)))
        });
        let value = match (event.find("value"), self.value_property) {
            (Some(value), _) => Some(value),
            (None, Some(path)) => at_path(event.find("data"), path),
            (None, None) => None,
        };
        let value = value.and_then(any_text).and_then(|text| number(text).ok());
        if is_ignored || (value.is_none() && !self.is_count) {
            return Ok(None);
        }
        let id = EventIdOwned::Text(index.to_string());
        let mut made = Event::new(id, "subject", instant_of(event, "time")?);
        if let Some(value) = value {
            made = made.value("value", Decimal::parse(&value.to_string()).map_err(|_| Stop::Refused)?);
        }
        let grouped = self.group_by.iter().filter_map(|key| match key {
            GroupKey::Dimension(name) => Some(name.to_string()),
            GroupKey::Subject | GroupKey::Source => None,
        });
        let names: BTreeSet<String> = grouped.chain(self.filter.keys().cloned()).collect();
        for name in names {
            if let Some(text) = text_of(&name) {
                made = made.dimension(&name, &text);
            }
        }
        Ok(Some(made))
    }
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
