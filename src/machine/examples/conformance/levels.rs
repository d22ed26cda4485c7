//! Levels over time: weighted sums and folds by granule.
//!
//! Owns: which events make which level, in order of time. Leaves to others: keys and parts of a period (`measures`).

use domain::time::SECOND;
use domain::{Exact, Span, Timestamp};
use serde_json::Value;

use crate::case::{Case, Stop};
use crate::measures::shown;
use crate::numbers::{Precision, quotient_or_zero, sum_of};
use crate::time::{instant_of, span_of};
use crate::values::Values;

pub(crate) fn weighted_sum(case: &Case<'_>) -> Result<Values, Stop> {
    let span = span_of(case, "from", "to")?;
    let levels = Levels::of_changes(case.number_or_zero("initial")?, changes_of(case, "at")?, span)?;
    let units = Precision::of(case)?.round(levels.mean()?)?;
    Ok(Values::new().with("units", units).with("carry", levels.end))
}

pub(crate) fn weighted_sum_of_events(case: &Case<'_>) -> Result<Values, Stop> {
    let span = span_of(case, "from", "to")?;
    let changes = changes_of(case, "time")?;
    let inside: Vec<Exact> =
        changes.iter().filter(|(at, _)| span.contains(*at)).map(|(_, change)| *change).collect();
    let levels = Levels::of_changes(case.number_or_zero("initial")?, changes, span)?;
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

/// A level that held for a while.
struct Stretch {
    from: Timestamp,
    level: Exact,
    nanoseconds: i64,
}

/// Levels over a span, without empty stretches.
struct Levels {
    stretches: Vec<Stretch>,
    end: Exact,
    nanoseconds: i64,
}

impl Levels {
    /// A level to which every change adds at its instant; changes from the end of the span on do not count.
    fn of_changes(initial: Exact, mut changes: Vec<(Timestamp, Exact)>, span: Span) -> Result<Self, Stop> {
        changes.sort_by_key(|(at, _)| *at);
        let mut level = initial;
        let mut steps = Vec::with_capacity(changes.len());
        for (at, change) in changes {
            level = level.add(change)?;
            steps.push((at, level));
        }
        Ok(Self::of_steps(initial, &steps, span))
    }

    /// A level that every step sets at its instant; steps are in order of time.
    fn of_steps(initial: Exact, steps: &[(Timestamp, Exact)], span: Span) -> Self {
        let mut levels = Self { stretches: Vec::new(), end: initial, nanoseconds: length_of(span) };
        let mut from = span.from;
        for (at, level) in steps.iter().filter(|(at, _)| *at < span.until) {
            levels.push(from, (*at).max(from));
            from = (*at).max(from);
            levels.end = *level;
        }
        levels.push(from, span.until.max(from));
        levels
    }

    fn push(&mut self, from: Timestamp, until: Timestamp) {
        let nanoseconds = length_of(Span::new(from, until));
        if nanoseconds > 0 {
            self.stretches.push(Stretch { from, level: self.end, nanoseconds });
        }
    }

    /// Level times nanoseconds.
    fn integral(&self) -> Result<Exact, Stop> {
        let of = |stretch: &Stretch| stretch.level.multiply(Exact::from_integer(stretch.nanoseconds.into()));
        sum_of(&self.stretches.iter().map(of).collect::<Result<Vec<_>, _>>()?)
    }

    fn mean(&self) -> Result<Exact, Stop> {
        quotient_or_zero(self.integral()?, Exact::from_integer(self.nanoseconds.into()))
    }
}

fn changes_of(case: &Case<'_>, time: &str) -> Result<Vec<(Timestamp, Exact)>, Stop> {
    case.rows("events")?.iter().map(|event| Ok((instant_of(event, time)?, event.number("value")?))).collect()
}

fn length_of(span: Span) -> i64 {
    span.until.nanoseconds().saturating_sub(span.from.nanoseconds()).max(0)
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
    events.sort_by_key(|(at, _)| *at);
    // What was seen before the range counts as seen in its first granule, however old it is.
    let granule_of = |at: Timestamp| ((at.nanoseconds() - span.from.nanoseconds()) / granularity).max(0);
    let mut folded = Vec::new();
    for granule in 0.. {
        let from = span.from.plus(granule * granularity);
        let part = Span::new(from, from.plus(granularity).min(span.until));
        if from >= span.until {
            break;
        }
        let before = events.iter().rev().find(|(at, _)| *at < from);
        let carried = before.filter(|(at, _)| hold.is_none_or(|hold| granule - granule_of(*at) <= hold));
        let carried = carried.map_or(Exact::ZERO, |(_, level)| *level);
        let inside: Vec<_> = events.iter().copied().filter(|(at, _)| part.contains(*at)).collect();
        folded.push(match case.word("function")? {
            "peak" => {
                let levels = inside.iter().map(|(_, level)| *level);
                levels.chain([carried]).try_fold(Exact::ZERO, Exact::max)?
            }
            "time_weighted" => Levels::of_steps(carried, &inside, part).mean()?,
            function => return Err(Stop::Unsupported(format!("the fold {function}"))),
        });
    }
    Ok(Values::new().with("units", Precision::of(case)?.sum(&folded)?))
}
