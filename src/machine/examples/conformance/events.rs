//! Prices of single events: percentage, dynamic, matrix, and seats that come and go.
//!
//! Owns: which events of a case make which input of a model. Leaves to others: prices of a quantity (`models`).

use billing::rating::models::{
    Dynamic, Graduated, Matrix, PerUnit, Percentage, Row, RowMatch, RowPrice, Tier, Tiers, Unmatched,
};
use domain::{Exact, GroupTexts};
use serde_json::Value;

use crate::case::{Case, Stop, fields_of};
use crate::json::any_text;
use crate::models::grouped;
use crate::numbers::{Precision, quotient_or_zero, sum_of};
use crate::prices::graduated_price;
use crate::values::Values;

pub(crate) fn percentage(case: &Case<'_>) -> Result<Values, Stop> {
    let terms = Percentage {
        rate: case.number_or_zero("rate_percent")?.divide_by_power_of_ten(2),
        fixed_amount: case.number_or_zero("fixed_amount")?,
        free_events: case.integer("free_events")?,
        free_amount: case.maybe("free_amount")?,
        event_min: case.maybe("per_transaction_min")?,
        event_max: case.maybe("per_transaction_max")?,
    };
    let (state, owed) = terms.amounts(&case.numbers("events")?)?;
    Ok(Values::new()
        .with("amount", Precision::of(case)?.round(state.amount)?)
        .with("per_event", owed)
        .with("free_units", state.free_units)
        .with("paid_units", state.paid_units)
        .with("free_events", state.free_events)
        .with("paid_events", state.paid_events)
        .with("fixed", state.fixed)
        .with("percentage", state.percentage))
}

pub(crate) fn dynamic(case: &Case<'_>) -> Result<Values, Stop> {
    let price = Dynamic { multiplier: case.number_or_one("multiplier")? };
    let events = case.rows("events")?;
    let of =
        |name: &str| events.iter().map(|event| event.number_or_zero(name)).collect::<Result<Vec<_>, _>>();
    let amount = Precision::of(case)?.round(price.amount(sum_of(&of("amount")?)?)?)?;
    let units = sum_of(&of("units")?)?;
    Ok(Values::new().with("amount", amount).with("unit_amount", quotient_or_zero(amount, units)?))
}

pub(crate) fn dynamic_grouped(case: &Case<'_>) -> Result<Values, Stop> {
    let price = Dynamic { multiplier: case.number_or_one("multiplier")? };
    grouped(case, |amount| Ok(price.amount(amount)?))
}

/// Rows are tried in the order of the list. One that names the same texts as an earlier row never gets anything, and the
/// product refuses it, so it is left out and shown with zero.
pub(crate) fn matrix(case: &Case<'_>) -> Result<Values, Stop> {
    let mut rows: Vec<Row> = Vec::new();
    let mut places = Vec::new();
    for row in case.rows("rows")? {
        let dimensions = texts_of(row.value("match")?)?;
        let price = RowPrice::PerUnit(PerUnit { unit_amount: row.number("unit_amount")? });
        let is_new = rows.iter().all(|row| row.dimensions != dimensions);
        places.push(is_new.then_some(rows.len()));
        if is_new {
            rows.push(Row { dimensions, price });
        }
    }
    let matrix = Matrix::in_listed_order(rows, Unmatched::Zero)?;
    let mut units = vec![Exact::ZERO; matrix.rows().len()];
    for event in case.rows("events")? {
        if let RowMatch::Row(row) = matrix.row_of(&texts_of(event.value("dims")?)?)? {
            units[row] = units[row].add(event.number("units")?)?;
        }
    }
    let amount_of = |place: &Option<usize>| match place {
        Some(row) => Ok(matrix.rows()[*row].amount(units[*row], true)?),
        None => Ok(Exact::ZERO),
    };
    let by_row = places.iter().map(amount_of).collect::<Result<Vec<_>, Stop>>()?;
    Ok(Values::new().with("amount", Precision::of(case)?.round(sum_of(&by_row)?)?).with("by_row", by_row))
}

/// Each event moves a position over the tiers. What the way costs for full units, over its length, prices the prorated
/// units; flat amounts are owed for every tier that the position was ever in.
pub(crate) fn prorated_graduated(case: &Case<'_>) -> Result<Values, Stop> {
    if case.text("inner").is_some_and(|inner| inner != "graduated") {
        return Err(Stop::Unsupported("prorated seats of another price".to_string()));
    }
    let price = graduated_price(case)?;
    let units_only = with_tiers(&price, |tier| Tier { flat_amount: Exact::ZERO, flat_cap: None, ..tier })?;
    let flats_only = with_tiers(&price, |tier| Tier { unit_amount: Exact::ZERO, flat_cap: None, ..tier })?;
    let (mut position, mut highest, mut sum) = (Exact::ZERO, Exact::ZERO, Exact::ZERO);
    for event in case.rows("events")? {
        let (full, prorated) = (event.number("full")?, event.number("prorated")?);
        let next = position.add(full)?;
        // Over a way up both differences are positive, over a way down both are negative.
        let way = units_only.amount(next, false)?.subtract(units_only.amount(position, false)?)?;
        sum = sum.add(quotient_or_zero(way, full)?.multiply(prorated)?)?;
        position = next;
        highest = highest.max(position)?;
    }
    let owed = sum.add(flats_only.amount(highest, true)?)?.max(Exact::ZERO)?;
    Ok(Values::new().with("amount", Precision::of(case)?.round(owed)?))
}

fn with_tiers(price: &Graduated, change: impl Fn(Tier) -> Tier) -> Result<Graduated, Stop> {
    let tiers = price.tiers.as_slice().iter().cloned().map(change).collect();
    Ok(Graduated { tiers: Tiers::new(tiers)? })
}

/// Texts by name; a number or a flag is its text.
fn texts_of(value: &Value) -> Result<GroupTexts, Stop> {
    let text_of = |value: &Value| any_text(value).map_or_else(|| value.to_string(), str::to_string);
    Ok(fields_of(value)?.iter().map(|(name, value)| (name.clone(), text_of(value))).collect())
}
