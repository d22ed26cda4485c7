//! Parts of a period, and what an amount is worth for them.
//!
//! Owns: which dates and numbers of a case make which ratio. Leaves to others: ratios themselves
//! (`billing::rating::proration`).

use billing::rating::proration::{Basis, Ratio, prorate as prorated, ratio};
use domain::{Exact, Span, Zone};
use serde_json::Value;

use crate::case::{Case, Stop, list_of, number_of};
use crate::numbers::{Grid, Precision, sum_of};
use crate::time::{instant_of, span_of};
use crate::values::Values;

pub(crate) fn prorate(case: &Case<'_>) -> Result<Values, Stop> {
    let Ratio { numerator, denominator } = ratio_of(case, "ratio")?;
    // A part is at most the whole.
    let amount = prorated(case.number("amount")?, Ratio::new(numerator.min(denominator), denominator))?;
    Ok(Values::new().with("amount", Precision::of(case)?.round(amount)?))
}

pub(crate) fn prorate_periods(case: &Case<'_>) -> Result<Values, Stop> {
    let amount = case.number("amount")?;
    let whole = amount.multiply(case.number_or_zero("whole_periods")?)?;
    let rest =
        if case.find("ratio").is_some() { prorated(amount, ratio_of(case, "ratio")?)? } else { Exact::ZERO };
    Ok(Values::new().with("amount", Precision::of(case)?.round(whole.add(rest)?)?))
}

pub(crate) fn prorate_parts(case: &Case<'_>) -> Result<Values, Stop> {
    let amount = case.number("amount")?;
    let part_of = |ratio: &Value| Ok(prorated(amount, ratio_in(ratio)?)?);
    let parts = case.list("ratios")?.iter().map(part_of).collect::<Result<Vec<_>, Stop>>()?;
    Ok(Values::new().with("amount", Precision::of(case)?.sum_of_rounded(&parts)?))
}

pub(crate) fn prorate_seconds(case: &Case<'_>) -> Result<Values, Stop> {
    let period = span_of(case, "from", "to")?;
    let left = ratio(Basis::Seconds, period, Span::new(instant_of(case, "at")?, period.until));
    let amount = prorated(case.number("amount")?, left)?;
    Ok(Values::new().with("amount", Precision::of(case)?.round(amount)?))
}

/// The old price is given back and the new one charged, each a line that is rounded alone.
pub(crate) fn swap(case: &Case<'_>) -> Result<Values, Stop> {
    let (precision, ratio) = (Precision::of(case)?, ratio_of(case, "ratio")?);
    let line = |amount: Exact| precision.round(prorated(amount, ratio)?);
    let credit = line(case.number_or_zero("old_amount")?)?.negate();
    let charge = line(case.number_or_zero("new_amount")?)?;
    Ok(Values::new().with("credit", credit).with("charge", charge).with("net", sum_of(&[credit, charge])?))
}

/// No more is given back than was paid and not given back before.
pub(crate) fn cap_credit(case: &Case<'_>) -> Result<Values, Stop> {
    let (paid, credited) = (case.number("original_paid")?, case.number_or_zero("previous_credits")?);
    let left = paid.subtract(credited)?.max(Exact::ZERO)?;
    Ok(Values::new().with("credit", case.number("potential")?.max(Exact::ZERO)?.min(left)?))
}

pub(crate) fn units_ratio(case: &Case<'_>) -> Result<Values, Stop> {
    let utc = Zone::utc();
    let basis = match case.word("basis")? {
        "actual_days" => Basis::Days(&utc),
        "seconds" => Basis::Seconds,
        "days_30" => Basis::ThirtyDays(&utc),
        "whole_unit" | "none" => Basis::Whole,
        basis => return Err(Stop::Unsupported(format!("the basis {basis}"))),
    };
    let period = span_of(case, "period_from", "period_to")?;
    let part = ratio(basis, period, span_of(case, "charge_from", "charge_to")?);
    Ok(Values::new().with("units_charged", part.numerator).with("units_in_basis", part.denominator))
}

/// The ratio `[n, d]` that a case names.
pub(crate) fn ratio_of(case: &Case<'_>, name: &str) -> Result<Ratio, Stop> {
    ratio_in(case.value(name)?)
}

/// The ratio that a case names, or the whole.
pub(crate) fn ratio_or_whole(case: &Case<'_>, name: &str) -> Result<Ratio, Stop> {
    case.find(name).map_or(Ok(Ratio::WHOLE), ratio_in)
}

/// A ratio `[n, d]`; numbers with a fraction are brought to whole ones.
pub(crate) fn ratio_in(value: &Value) -> Result<Ratio, Stop> {
    let [numerator, denominator] = list_of(value)? else {
        return Err(Stop::Broken("a ratio has two numbers".to_string()));
    };
    let (numerator, denominator) = (number_of(numerator)?, number_of(denominator)?);
    let grid = Grid::of([numerator, denominator])?;
    let whole = |number: Exact| u64::try_from(grid.units(number)?).map_err(|_| Stop::Refused);
    Ok(Ratio::new(whole(numerator)?, whole(denominator)?))
}
