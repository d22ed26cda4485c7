//! Levels over time: weighted sums and folds by granule.
//!
//! Owns: which events make which level, in order of time. Leaves to others: keys and parts of a period (`measures`).

use billing::rating::folds::{GranuleFunction, Granules, Levels, Stretch};
use domain::time::SECOND;
use domain::{Exact, Timestamp};
use serde_json::Value;

use crate::case::{Case, Stop};
use crate::measures::shown;
use crate::numbers::{Precision, sum_of};
use crate::time::{instant_of, span_of};
use crate::values::Values;

pub(crate) fn weighted_sum(case: &Case<'_>) -> Result<Values, Stop> {
    let span = span_of(case, "from", "to")?;
    let levels = Levels::of_changes(case.number_or_zero("initial")?, &changes_of(case, "at")?, span)?;
    let units = Precision::of(case)?.round(levels.mean()?)?;
    Ok(Values::new().with("units", units).with("carry", levels.end))
}

pub(crate) fn weighted_sum_of_events(case: &Case<'_>) -> Result<Values, Stop> {
    let span = span_of(case, "from", "to")?;
    let changes = changes_of(case, "time")?;
    let inside: Vec<Exact> =
        changes.iter().filter(|(at, _)| span.contains(*at)).map(|(_, change)| *change).collect();
    let levels = Levels::of_changes(case.number_or_zero("initial")?, &changes, span)?;
    let row_of = |stretch: &Stretch| {
        let seconds = seconds_of(stretch.nanoseconds)?;
        Ok(Value::from(vec![stretch.from.to_string(), stretch.level.to_string(), seconds.to_string()]))
    };
    let breakdown = levels.stretches.iter().map(row_of).collect::<Result<Vec<_>, Stop>>()?;
    let (mean, unit_price) = (levels.mean()?, case.number_or_one("unit_price")?);
    let cents = mean.multiply(unit_price)?.multiply(Exact::from_integer(100))?;
    let values = Values::new()
        .with("seconds_weighted", levels.integral()?.divide(Exact::from_integer(SECOND.into()))?)
        .with("variation", sum_of(&inside)?)
        .with("count", inside.len())
        .with("breakdown", breakdown)
        .with("carry_over", levels.end)
        .with("unit_price", unit_price)
        .with("amount_cents", Precision::half_away(0).round(cents)?);
    shown(values, mean)
}

fn changes_of(case: &Case<'_>, time: &str) -> Result<Vec<(Timestamp, Exact)>, Stop> {
    case.rows("events")?.iter().map(|event| Ok((instant_of(event, time)?, event.number("value")?))).collect()
}

fn seconds_of(nanoseconds: i64) -> Result<Exact, Stop> {
    Ok(Exact::ratio(nanoseconds.into(), SECOND.into())?)
}

/// Levels are folded granule by granule; one is carried for so many granules after the one that it was seen in.
pub(crate) fn granule_fold(case: &Case<'_>) -> Result<Values, Stop> {
    let span = span_of(case, "from", "to")?;
    let seconds: i64 = case.integer("granularity_seconds")?.unwrap_or(3_600);
    if seconds <= 0 {
        return Err(Stop::Refused);
    }
    let granularity = seconds.saturating_mul(SECOND);
    let hold: Option<i64> = case.integer("max_hold_granules")?;
    let mut events = Vec::new();
    for event in case.rows("events")? {
        events.push((instant_of(&event, "at")?, event.number("level")?));
    }
    let function = match case.word("function")? {
        "peak" => GranuleFunction::Peak,
        "time_weighted" => GranuleFunction::TimeWeighted,
        function => return Err(Stop::Unsupported(format!("the fold {function}"))),
    };
    let granules = Granules { function, nanoseconds: granularity, hold };
    let folded = granules.fold(&events, span)?;
    Ok(Values::new().with("units", Precision::of(case)?.sum(&folded)?))
}
