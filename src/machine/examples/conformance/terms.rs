//! What is agreed around prices: minimum, maximum, commitment.
//!
//! Owns: which amounts of a case make which input of `billing::rating::{spend, commitment, allocation}`. Leaves to others:
//! commitments by window (`windows`), several runs (`runs`).

use std::collections::BTreeMap;

use billing::rating::allocation;
use billing::rating::proration::prorate;
use billing::rating::spend::cap_discount as discount_of;
use domain::Exact;

use crate::bounds::{SpendBounds, bound, bound_final, clamp_amount, shortfall};
use crate::case::{Case, Stop};
use crate::numbers::{Grid, Precision, exponent_of, percent_of, sum_of};
use crate::prices::{inner_price, price_amount, split_of, unit_price};
use crate::proration::ratio_or_whole;
use crate::values::Values;
use crate::window_commitment::WindowCommitment;

pub(crate) fn minmax(case: &Case<'_>) -> Result<Values, Stop> {
    let gross = unit_price(case)?.amount(case.number("quantity")?)?;
    bounded(case, Precision::of(case)?.round(gross)?)
}

pub(crate) fn minmax_gross(case: &Case<'_>) -> Result<Values, Stop> {
    bounded(case, case.number("gross")?)
}

pub(crate) fn minmax_inner(case: &Case<'_>) -> Result<Values, Stop> {
    let gross = price_amount(&inner_price(case)?, case.number("quantity")?, true)?;
    bounded(case, Precision::of(case)?.round(gross)?)
}

/// Percentage discount, then the maximum, then the minimum.
fn bounded(case: &Case<'_>, gross: Exact) -> Result<Values, Stop> {
    let discount = percent_of(gross, case.number_or_zero("percentage_discount")?)?;
    let discounted = gross.subtract(Precision::of(case)?.round(discount)?)?;
    let minimum = if case.flag("ignore_min") { None } else { case.maybe("min_spend")? };
    let maximum = if case.flag("ignore_max") { None } else { case.maybe("max_spend")? };
    let prebilled = case.number_or_zero("prebilled")?;
    let grid = Grid::of([discounted, prebilled].into_iter().chain(minimum).chain(maximum))?;
    let units = |amount: Option<Exact>| amount.map(|amount| grid.units(amount)).transpose();
    let bounds = SpendBounds { minimum: units(minimum)?, maximum: units(maximum)? };
    let bounding = if split_of(case)?.is_final() { bound_final } else { bound };
    let bounded = bounding(bounds, grid.units(prebilled)?, grid.units(discounted)?)?;
    let true_up = grid.amount(bounded.true_up)?;
    let amount = grid.amount(bounded.amount)?;
    // A line whose discount takes all of it stays, to say so; the minimum is a line of its own.
    let lines = usize::from(!gross.is_zero()) + usize::from(!true_up.is_zero());
    Ok(Values::new()
        .with("amount", amount)
        .with("gross", gross)
        .with("discount", gross.subtract(amount.subtract(true_up)?)?)
        .with("true_up", true_up)
        .with("lines", lines))
}

pub(crate) fn cap_discount(case: &Case<'_>) -> Result<Values, Stop> {
    let rounded = |number: Exact| Grid::CENTS.units(Precision::half_away(2).round(number)?);
    let gross = rounded(case.number("gross")?)?;
    let maximum = rounded(case.number("max_spend")?)?;
    let discount = discount_of(maximum, rounded(case.number_or_zero("prebilled")?)?, gross)?;
    Ok(Values::new()
        .with("gross", Grid::CENTS.amount(gross)?)
        .with("discount", Grid::CENTS.amount(discount)?))
}

pub(crate) fn cap_simple(case: &Case<'_>) -> Result<Values, Stop> {
    let amount = unit_price(case)?.amount(case.number("quantity")?)?;
    let amount = clamp_amount(amount, None, case.maybe("max_cost")?)?;
    Ok(Values::new().with("amount", Precision::of(case)?.round(amount)?))
}

pub(crate) fn clamp_cost(case: &Case<'_>) -> Result<Values, Stop> {
    let amount = clamp_amount(case.number("gross")?, case.maybe("min_cost")?, case.maybe("max_cost")?)?;
    Ok(Values::new().with("amount", Precision::of(case)?.round(amount)?))
}

pub(crate) fn true_up(case: &Case<'_>) -> Result<Values, Stop> {
    let precision = Precision::of(case)?;
    let used = case.number_or_zero("used_amount")?;
    let used = if case.flag("round_used_first") { precision.round(used)? } else { used };
    let missing = shortfall(case.number("min_amount")?, ratio_or_whole(case, "proration")?, used)?;
    let amount = missing.multiply(case.number_or_one("conversion_rate")?)?;
    Ok(Values::new().with("true_up", precision.round(amount)?).with("in_pricing_unit", missing))
}

/// Minimum and fee are prorated by one ratio, and each is rounded to whole minor units.
pub(crate) fn commit_ratio(case: &Case<'_>) -> Result<Values, Stop> {
    let minor = Precision::half_away(exponent_of(case)?);
    let ratio = ratio_or_whole(case, "proration")?;
    let due = minor.round(prorate(case.number("min_amount")?, ratio)?)?;
    let used = minor.round(prorate(case.number_or_zero("used_ratio_amount")?, ratio)?)?;
    Ok(Values::new().with("true_up", due.subtract(used)?))
}

pub(crate) fn cumulative_commit(case: &Case<'_>) -> Result<Values, Stop> {
    let name = ["quantity", "gross", "usage"].into_iter().find(|name| case.find(name).is_some());
    let run = committed_run(case, case.number(name.unwrap_or("quantity"))?)?;
    let precision = Precision::of(case)?;
    Ok(Values::new()
        .with("amount", precision.round(run.within.add(run.overage)?)?)
        .with("within_allocation", precision.round(run.within)?)
        .with("overage_line", precision.round(run.overage)?))
}

pub(crate) fn cumulative_commit_alloc(case: &Case<'_>) -> Result<Values, Stop> {
    let is_named = case.value("lines")?.is_object();
    let (names, lines): (Vec<&str>, Vec<Exact>) = match is_named {
        true => case.named_numbers("lines")?.into_iter().unzip(),
        false => (Vec::new(), case.numbers("lines")?),
    };
    let current = case.maybe("quantity")?.filter(|quantity| !quantity.is_zero());
    let current = current.map_or_else(|| sum_of(&lines), Ok)?;
    let run = committed_run(case, current)?;
    let precision = Precision::of(case)?;
    let grid = precision.grid().unwrap_or(Grid::CENTS);
    let within = grid.units(Precision::half_away(grid.place()).round(run.within)?)?;
    let shares = grid.amounts(&allocation::allocate(within, &lines)?)?;
    let values = Values::new()
        .with("amount", precision.round(run.within.add(run.overage)?)?)
        .with("overage_line", precision.round(run.overage)?);
    Ok(match is_named {
        true => values.with("within_allocation", names.into_iter().zip(shares).collect::<BTreeMap<_, _>>()),
        false => values.with("within_allocation", shares),
    })
}

/// What a run adds to a commitment that goes on.
struct CommittedRun {
    within: Exact,
    overage: Exact,
}

fn committed_run(case: &Case<'_>, current: Exact) -> Result<CommittedRun, Stop> {
    let commitment = WindowCommitment {
        committed: case.maybe("commitment")?,
        overage_factor: case.number_or_one("overage_factor")?,
        has_true_up: false,
    };
    let prior = case.number_or_zero("prior")?;
    let (before, after) = (commitment.split(prior)?, commitment.split(prior.add(current)?)?);
    Ok(CommittedRun {
        within: after.utilized.subtract(before.utilized)?,
        overage: after.overage.subtract(before.overage)?,
    })
}

/// Credits are given to the lines of an amount; more of them than there is of it is a contradiction.
pub(crate) fn credits_inner(case: &Case<'_>) -> Result<Values, Stop> {
    let price = match case.text("inner") {
        None => billing::rating::models::Model::Graduated(crate::prices::graduated_price(case)?),
        Some(_) => inner_price(case)?,
    };
    let gross = Precision::of(case)?.round(price_amount(&price, case.number("quantity")?, true)?)?;
    let minimum = if split_of(case)?.is_final() { case.maybe("min_spend")? } else { None };
    let gross = clamp_amount(gross, minimum, case.maybe("max_spend")?)?;
    let credits = if case.find("credits").is_some() { case.numbers("credits")? } else { Vec::new() };
    let amount = gross.subtract(sum_of(&credits)?)?;
    if amount.is_negative() {
        return Err(Stop::Refused);
    }
    Ok(Values::new().with("amount", amount))
}
