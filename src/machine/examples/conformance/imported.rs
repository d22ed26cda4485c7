//! Price lists of other systems, said with the product's models.
//!
//! Owns: how blocks (Kill Bill), increments (CGRateS) and reservations become tiers. Leaves to others: what tiers cost
//! (`billing::rating::models`).

use billing::rating::models::{Basis, Graduated, PerUnit, Tier, Tiers, Volume};
use domain::Exact;

use crate::case::{Case, Stop, fields_of, list_of};
use crate::numbers::{Precision, sum_of};
use crate::prices::{graduated_amount, graduated_price};
use crate::values::Values;

pub(crate) fn killbill(case: &Case<'_>) -> Result<Values, Stop> {
    let blocks = case.list("blocks")?;
    let by_tier = blocks_amounts(case, blocks, case.number("quantity")?)?;
    billed(case, &by_tier).map(|values| values.with("tiers", by_tier.clone()))
}

pub(crate) fn killbill_multi(case: &Case<'_>) -> Result<Values, Stop> {
    let units = fields_of(case.value("units")?)?;
    let quantities = Case::part(fields_of(case.value("quantities")?)?);
    let mut amounts = Vec::new();
    for (unit, blocks) in units {
        amounts.extend(blocks_amounts(case, list_of(blocks)?, quantities.number_or_zero(unit)?)?);
    }
    billed(case, &amounts)
}

fn billed(case: &Case<'_>, amounts: &[Exact]) -> Result<Values, Stop> {
    let precise = sum_of(amounts)?;
    let amount = Precision::of(case)?.round(precise)?.subtract(case.number_or_zero("already_billed")?)?;
    Ok(Values::new().with("amount", amount).with("precise", precise))
}

/// Amounts of the tiers that a quantity enters. A tier is so many blocks wide, sold in blocks; the last one is open.
fn blocks_amounts(
    case: &Case<'_>,
    blocks: &[serde_json::Value],
    quantity: Exact,
) -> Result<Vec<Exact>, Stop> {
    let mut tiers: Vec<Tier> = Vec::new();
    let mut bound = Exact::ZERO;
    for (index, block) in blocks.iter().enumerate() {
        let block = Case::part(fields_of(block)?);
        let (size, width) = (block.number("size")?, block.maybe("max_blocks")?);
        let is_open = index + 1 == blocks.len() || width.is_none_or(Exact::is_negative);
        bound = bound.add(size.multiply(width.unwrap_or(Exact::ZERO))?)?;
        tiers.push(Tier {
            up_to: (!is_open).then_some(bound),
            unit_amount: block.number("price")?,
            flat_amount: Exact::ZERO,
            flat_cap: None,
            package_size: Some(size),
        });
        if is_open {
            break;
        }
    }
    let tiers = Tiers::new(tiers)?;
    if !quantity.is_positive() {
        return Ok(Vec::new());
    }
    match case.word("policy")? {
        "ALL_TIERS" => {
            let portions = Graduated { tiers }.portions(quantity, false)?;
            Ok(portions.iter().map(|portion| portion.amount).collect())
        }
        "TOP_TIER" => Ok(vec![Volume { tiers }.amount(quantity, false)?]),
        policy => Err(Stop::Unsupported(format!("the policy {policy}"))),
    }
}

/// Usage inside an interval is sold in started increments.
pub(crate) fn duration(case: &Case<'_>) -> Result<Values, Stop> {
    let intervals = case.rows("intervals")?;
    let starts =
        intervals.iter().map(|interval| interval.number_or_zero("start")).collect::<Result<Vec<_>, _>>()?;
    let mut tiers = Vec::new();
    // Nothing says what usage before the first interval costs.
    let has_gap = starts.first().is_some_and(|start| start.is_positive());
    if has_gap {
        tiers.push(Tier {
            up_to: starts.first().copied(),
            unit_amount: Exact::ZERO,
            flat_amount: Exact::ZERO,
            flat_cap: None,
            package_size: None,
        });
    }
    for (index, interval) in intervals.iter().enumerate() {
        let increment = interval.number_or_one("increment")?;
        let rate = interval.number("rate")?.divide(interval.number_or_one("rate_unit")?)?;
        tiers.push(Tier {
            up_to: starts.get(index + 1).copied(),
            unit_amount: rate.multiply(increment)?,
            flat_amount: Exact::ZERO,
            flat_cap: None,
            package_size: Some(increment),
        });
    }
    let graduated = Graduated { tiers: Tiers::new(tiers)? };
    let quantity = case.number("quantity")?;
    let (mut amount, mut units, mut increments) = (Exact::ZERO, Exact::ZERO, Vec::new());
    if quantity.is_positive() {
        amount = case.number_or_zero("connect_fee")?;
        for portion in graduated.portions(quantity, false)? {
            amount = amount.add(portion.amount)?;
            if let Basis::Packages { size, count } = portion.basis {
                units = units.add(size.multiply(count)?)?;
                increments.push(count);
            }
        }
    }
    Ok(Values::new().with("amount", amount).with("billed_units", units).with("increments", increments))
}

pub(crate) fn reservation(case: &Case<'_>) -> Result<Values, Stop> {
    let price = PerUnit { unit_amount: case.number("reserved_rate")? };
    let reserved = case.number("reserved_quantity")?;
    let amount = match case.word("flavor")? {
        "capacity" => price.amount(reserved.multiply(case.number_or_one("covered_granules")?)?)?,
        "consumption" => {
            // What is matched leaves the counter of the tiers: the rest starts in the first one.
            let quantity = case.number("quantity")?;
            let rest = graduated_amount(&graduated_price(case)?, quantity.subtract(reserved)?)?;
            price.amount(quantity.min(reserved)?)?.add(rest)?
        }
        flavor => return Err(Stop::Unsupported(format!("a reservation of {flavor}"))),
    };
    Ok(Values::new().with("amount", Precision::of(case)?.round(amount)?))
}
