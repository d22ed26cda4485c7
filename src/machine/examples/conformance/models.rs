//! Prices of a quantity: the pricing models, and what is done to a quantity before it is priced.
//!
//! Owns: the families of one quantity and one price. Leaves to others: which terms make which price (`prices`), prices of
//! single events (`events`), amounts around a price (`terms`), several runs of one window (`runs`).

use std::collections::BTreeMap;

use billing::rating::models::{
    Basis, Capacity, CapacityTier, Flat, Graduated, GraduatedPercentage, Model, Payment, PerUnit, Portion,
    Volume,
};
use billing::rating::quantity::QuantityTerms;
use domain::Exact;

use crate::case::{Case, Stop, list_of, number_of};
use crate::numbers::{Precision, quotient_or_zero, sum_of};
use crate::prices::{
    graduated_amount, graduated_price, inner_price, package_price, price_amount, quantity_terms, split_of,
    tier_list, tiers_of, unit_price,
};
use crate::split::amount_on;
use crate::values::Values;

pub(crate) fn per_unit(case: &Case<'_>) -> Result<Values, Stop> {
    let quantity = case.number("quantity")?;
    let precise = unit_price(case)?.amount(quantity)?;
    let amount = Precision::of(case)?.round(precise)?;
    let full_units = case.maybe("full_units")?.unwrap_or(quantity);
    Ok(Values::new()
        .with("amount", amount)
        .with("precise", precise)
        .with("unit_amount", quotient_or_zero(amount, full_units)?)
        .with("lines", lines_of(amount)))
}

pub(crate) fn grouped_per_unit(case: &Case<'_>) -> Result<Values, Stop> {
    let price = unit_price(case)?;
    grouped(case, |quantity| Ok(price.amount(quantity)?))
}

pub(crate) fn flat(case: &Case<'_>) -> Result<Values, Stop> {
    let payment = match case.text("payment_term") {
        Some("in_advance") => Payment::InAdvance,
        Some("in_arrears") | None => Payment::InArrears,
        Some(term) => return Err(Stop::Unsupported(format!("payment term {term}"))),
    };
    let flat = Flat { amount: case.number("amount")?, payment };
    let split = split_of(case)?;
    let is_due = match payment {
        Payment::InAdvance => split.is_first(),
        Payment::InArrears => split.is_final(),
    };
    let amount = Precision::of(case)?.round(amount_on(&flat, split))?;
    Ok(Values::new().with("amount", amount).with("lines", usize::from(is_due)))
}

pub(crate) fn graduated(case: &Case<'_>) -> Result<Values, Stop> {
    let graduated = graduated_price(case)?;
    let quantity = case.number("quantity")?;
    let units = quantity_terms(case)?.units(quantity)?;
    let amount = Precision::of(case)?.round(graduated_amount(&graduated, units)?)?;
    let entered = rows_of(&graduated, units)?.into_values().map(Row::values).collect::<Vec<_>>();
    Ok(Values::new()
        .with("amount", amount)
        .with("tiers", entered)
        .with("unit_amount", quotient_or_zero(amount, quantity)?)
        .with("billed_units", units)
        .with("units", units)
        .with("lines", lines_of(amount)))
}

pub(crate) fn graduated_delta(case: &Case<'_>) -> Result<Values, Stop> {
    let graduated = graduated_price(case)?;
    let before = case.number_or_zero("pre_quantity")?;
    let after = before.add(case.number("quantity")?)?;
    let difference = graduated_amount(&graduated, after)?.subtract(graduated_amount(&graduated, before)?)?;
    let (rows_before, rows_after) = (rows_of(&graduated, before)?, rows_of(&graduated, after)?);
    let mut changed = Vec::new();
    for tier in 0..graduated.tiers.as_slice().len() {
        let row = |rows: &BTreeMap<usize, Row>| rows.get(&tier).copied().unwrap_or_default();
        let row = row(&rows_after).less(row(&rows_before))?;
        if !row.units.is_zero() || !row.total.is_zero() {
            changed.push(row.values());
        }
    }
    let amount = Precision::of(case)?.round(difference)?;
    Ok(Values::new().with("amount", amount).with("tiers", changed).with("lines", lines_of(amount)))
}

pub(crate) fn volume(case: &Case<'_>) -> Result<Values, Stop> {
    let volume = Volume { tiers: tiers_of(case, "unit_amount")? };
    let quantity = case.number("quantity")?;
    let tier_quantity = case.maybe("tier_quantity")?.unwrap_or(quantity);
    let usage = volume.units_amount(volume.tiers.index_of(tier_quantity)?, quantity)?;
    let amount = Precision::of(case)?.round(volume.amount_by(tier_quantity, quantity, true)?)?;
    Ok(Values::new()
        .with("amount", amount)
        .with("usage", usage)
        .with("flat", volume.flat_amount(tier_quantity, true)?)
        .with("unit_amount_shown", quotient_or_zero(usage, tier_quantity)?)
        .with("lines", lines_of(amount)))
}

pub(crate) fn not_progressive(case: &Case<'_>) -> Result<Values, Stop> {
    let volume = Volume { tiers: tiers_of(case, "unit_amount")? };
    let precise = match split_of(case)?.is_final() {
        true => volume.amount(case.number("quantity")?, true)?,
        false => Exact::ZERO,
    };
    let amount = Precision::of(case)?.round(precise)?;
    Ok(Values::new().with("amount", amount).with("lines", lines_of(amount)))
}

pub(crate) fn package(case: &Case<'_>) -> Result<Values, Stop> {
    let package = package_price(case)?;
    let quantity = case.number("quantity")?;
    Ok(Values::new()
        .with("amount", Precision::of(case)?.round(package.amount(quantity)?)?)
        .with("packages", package.packages(quantity)?)
        .with("paid_units", package.paid_units(quantity)?))
}

pub(crate) fn package_delta(case: &Case<'_>) -> Result<Values, Stop> {
    let package = package_price(case)?;
    let before = case.number_or_zero("pre_quantity")?;
    let after = before.add(case.number("quantity")?)?;
    let difference =
        |of: &dyn Fn(Exact) -> Result<Exact, Stop>| Ok::<_, Stop>(of(after)?.subtract(of(before)?)?);
    let amount = difference(&|quantity| Ok(package.amount(quantity)?))?;
    Ok(Values::new()
        .with("amount", Precision::of(case)?.round(amount)?)
        .with("packages", difference(&|quantity| Ok(package.packages(quantity)?))?)
        .with("paid_units", difference(&|quantity| Ok(package.paid_units(quantity)?))?))
}

pub(crate) fn bucketed(case: &Case<'_>) -> Result<Values, Stop> {
    let price = inner_price(case)?;
    let amounts = case.numbers("buckets")?.into_iter().map(|bucket| {
        let is_owed_at_zero = !matches!(price, Model::Graduated(_));
        price_amount(&price, bucket, is_owed_at_zero)
    });
    let amounts = amounts.collect::<Result<Vec<_>, _>>()?;
    Ok(Values::new().with("amount", Precision::of(case)?.sum(&amounts)?))
}

pub(crate) fn convert(case: &Case<'_>) -> Result<Values, Stop> {
    Ok(Values::new().with("units", quantity_terms(case)?.units(case.number("quantity")?)?))
}

pub(crate) fn converted_unit(case: &Case<'_>) -> Result<Values, Stop> {
    priced_units(case, quantity_terms(case)?.units(case.number("quantity")?)?)
}

pub(crate) fn converted_unit_delta(case: &Case<'_>) -> Result<Values, Stop> {
    let terms = quantity_terms(case)?;
    let before = case.number_or_zero("pre_quantity")?;
    let after = before.add(case.number("quantity")?)?;
    priced_units(case, terms.units(after)?.subtract(terms.units(before)?)?)
}

fn priced_units(case: &Case<'_>, units: Exact) -> Result<Values, Stop> {
    let units = units.subtract(case.number_or_zero("usage_discount")?)?;
    let amount = Precision::of(case)?.round(unit_price(case)?.amount(units)?)?;
    Ok(Values::new().with("amount", amount).with("billed_units", units))
}

pub(crate) fn allowance(case: &Case<'_>) -> Result<Values, Stop> {
    let terms = QuantityTerms { free_units: case.number_or_zero("included")?, ..QuantityTerms::default() };
    let overage = terms.priced(case.number("quantity")?)?.max(Exact::ZERO)?;
    let price = PerUnit { unit_amount: case.number("overage_rate")? };
    let amount = Precision::of(case)?.round(price.amount(overage)?)?;
    Ok(Values::new().with("amount", amount))
}

pub(crate) fn capacity(case: &Case<'_>) -> Result<Values, Stop> {
    let mut tiers = Vec::new();
    for tier in case.rows("tiers")? {
        let bound = |value: &serde_json::Value| (!value.is_null()).then(|| number_of(value)).transpose();
        let up_to = list_of(tier.value("up_to")?)?.iter().map(bound).collect::<Result<_, _>>()?;
        tiers.push(CapacityTier { up_to, amount: tier.number("price")? });
    }
    let capacity = Capacity::new(tiers)?;
    let quantities = case.numbers("quantities")?;
    if quantities.len() != capacity.dimensions() {
        return Err(Stop::Refused);
    }
    let amount = Precision::of(case)?.round(capacity.amount(&quantities)?)?;
    Ok(Values::new().with("amount", amount.subtract(case.number_or_zero("already_billed")?)?))
}

pub(crate) fn graduated_percentage(case: &Case<'_>) -> Result<Values, Stop> {
    let price = GraduatedPercentage::new(tier_list(case, "rate_percent")?)?;
    let price = Model::GraduatedPercentage(price);
    let amount = price_amount(&price, case.number("quantity")?, true)?;
    Ok(Values::new().with("amount", Precision::of(case)?.round(amount)?))
}

pub(crate) fn converted_price(case: &Case<'_>) -> Result<Values, Stop> {
    let in_pricing_unit = unit_price(case)?.amount(case.number("quantity")?)?;
    let amount = in_pricing_unit.multiply(case.number_or_one("conversion_rate")?)?;
    Ok(Values::new()
        .with("in_pricing_unit", in_pricing_unit)
        .with("amount", Precision::of(case)?.round(amount)?))
}

pub(crate) fn grouped_converted(case: &Case<'_>) -> Result<Values, Stop> {
    let (price, rate) = (unit_price(case)?, case.number_or_one("conversion_rate")?);
    let units: Vec<Exact> = case.named_numbers("groups")?.into_iter().map(|(_, units)| units).collect();
    let in_pricing_unit = price.amount(sum_of(&units)?)?;
    let values = grouped(case, |quantity| Ok(price.amount(quantity)?.multiply(rate)?))?;
    Ok(values.with("in_pricing_unit", in_pricing_unit))
}

/// Every group a line of its own: its amount is rounded alone.
pub(crate) fn grouped(
    case: &Case<'_>,
    amount_of: impl Fn(Exact) -> Result<Exact, Stop>,
) -> Result<Values, Stop> {
    let precision = Precision::of(case)?;
    let mut groups = BTreeMap::new();
    for (group, number) in case.named_numbers("groups")? {
        groups.insert(group, precision.round(amount_of(number)?)?);
    }
    let amounts: Vec<Exact> = groups.values().copied().collect();
    Ok(Values::new().with("groups", groups).with("amount", sum_of(&amounts)?))
}

/// Billed lines of an amount: a line of zero is not billed.
pub(crate) fn lines_of(amount: Exact) -> usize {
    usize::from(!amount.is_zero())
}

/// What one tier contributes.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    units: Exact,
    usage: Exact,
    flat: Exact,
    total: Exact,
}

impl Row {
    fn of(portion: &Portion) -> Result<Self, Stop> {
        let counted = match portion.basis {
            Basis::Packages { count, .. } => count,
            _ => portion.quantity,
        };
        Ok(Self {
            units: portion.quantity,
            usage: counted.multiply(portion.unit_amount)?,
            flat: portion.flat_amount,
            total: portion.amount,
        })
    }

    fn less(self, other: Self) -> Result<Self, Stop> {
        Ok(Self {
            units: self.units.subtract(other.units)?,
            usage: self.usage.subtract(other.usage)?,
            flat: self.flat.subtract(other.flat)?,
            total: self.total.subtract(other.total)?,
        })
    }

    fn values(self) -> Values {
        Values::new()
            .with("units", self.units)
            .with("usage", self.usage)
            .with("flat", self.flat)
            .with("total", self.total)
    }
}

/// The tiers that a quantity enters, by index.
fn rows_of(graduated: &Graduated, quantity: Exact) -> Result<BTreeMap<usize, Row>, Stop> {
    if quantity.is_negative() {
        return Ok(BTreeMap::new());
    }
    let portions = graduated.portions(quantity, true)?;
    portions.iter().map(|portion| Ok((portion.tier, Row::of(portion)?))).collect()
}
