//! Prices of a quantity: the pricing models, and what is done to a quantity before it is priced.
//!
//! Owns: which terms of a case make which model of the product. Leaves to others: prices of single events (`events`),
//! amounts around a price (`terms`), several runs of one window (`runs`).

use std::collections::BTreeMap;

use billing::rating::models::{
    Basis, Capacity, CapacityTier, Flat, Graduated, GraduatedPercentage, Model, Package, Payment, PerUnit,
    Portion, Split, Tier, Tiers, Volume,
};
use billing::rating::quantity::{Conversion, QuantityTerms};
use domain::{Exact, Rounding};

use crate::case::{Case, Stop, list_of, number_of};
use crate::numbers::{Precision, mode_of, quotient_or_zero, sum_of};
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
    let amount = Precision::of(case)?.round(flat.amount_on(split))?;
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

/// What a price makes of a quantity. Below zero a price per unit goes on, one by tier or package owes nothing.
pub(crate) fn price_amount(price: &Model, quantity: Exact, is_owed_at_zero: bool) -> Result<Exact, Stop> {
    let is_by_part = matches!(price, Model::Graduated(_) | Model::GraduatedPercentage(_));
    if is_by_part && quantity.is_negative() {
        return Ok(Exact::ZERO);
    }
    Ok(price.amount(&BTreeMap::new(), quantity, is_owed_at_zero)?)
}

pub(crate) fn graduated_amount(graduated: &Graduated, quantity: Exact) -> Result<Exact, Stop> {
    if quantity.is_negative() { Ok(Exact::ZERO) } else { Ok(graduated.amount(quantity, true)?) }
}

/// The price that `inner` names.
pub(crate) fn inner_price(case: &Case<'_>) -> Result<Model, Stop> {
    Ok(match case.word("inner")? {
        "per_unit" => Model::PerUnit(unit_price(case)?),
        "package" => Model::Package(package_price(case)?),
        "graduated" => Model::Graduated(graduated_price(case)?),
        "volume" => Model::Volume(Volume { tiers: tiers_of(case, "unit_amount")? }),
        inner => return Err(Stop::Unsupported(format!("a price {inner}"))),
    })
}

pub(crate) fn unit_price(case: &Case<'_>) -> Result<PerUnit, Stop> {
    let unit_amount = case.maybe("unit_amount")?.map_or_else(|| case.number("multiplier"), Ok)?;
    Ok(PerUnit { unit_amount })
}

pub(crate) fn graduated_price(case: &Case<'_>) -> Result<Graduated, Stop> {
    Ok(Graduated { tiers: tiers_of(case, "unit_amount")? })
}

fn package_price(case: &Case<'_>) -> Result<Package, Stop> {
    let is_up = match case.text("package_round") {
        None | Some("up") => true,
        Some("down") => false,
        Some(word) => return Err(Stop::Unsupported(format!("packages rounded {word}"))),
    };
    let (size, amount) = (case.number("package_size")?, case.number("package_amount")?);
    Ok(Package::new(size, amount, case.number_or_zero("free_units")?, is_up)?)
}

/// The tiers of a case, checked, with amounts under a name.
pub(crate) fn tiers_of(case: &Case<'_>, unit: &str) -> Result<Tiers, Stop> {
    Ok(Tiers::new(tier_list(case, unit)?)?)
}

fn tier_list(case: &Case<'_>, unit: &str) -> Result<Vec<Tier>, Stop> {
    let tier_of = |row: &Case<'_>| {
        Ok(Tier {
            up_to: row.maybe("up_to")?,
            unit_amount: row.number_or_zero(unit)?,
            flat_amount: row.number_or_zero("flat_amount")?,
            flat_cap: row.maybe("flat_cap")?,
            package_size: None,
        })
    };
    case.rows("tiers")?.iter().map(tier_of).collect()
}

/// What a case does to a quantity before it is priced. Free units are not among it: some families price a difference.
fn quantity_terms(case: &Case<'_>) -> Result<QuantityTerms, Stop> {
    let conversion = match case.find("convert").and_then(|value| value.as_object()) {
        None => None,
        Some(fields) => {
            let convert = Case::part(fields);
            let factor = convert.number("factor")?;
            Some(match convert.word("op")? {
                "multiply" => Conversion::Multiply(factor),
                "divide" => Conversion::Divide(factor),
                op => return Err(Stop::Unsupported(format!("a conversion {op}"))),
            })
        }
    };
    let rounding: Option<Rounding> = case.text("quantity_round").map_or(Ok(None), mode_of)?;
    let place = case.integer("quantity_precision")?.unwrap_or(0);
    Ok(QuantityTerms {
        conversion,
        rounding: rounding.map(|rounding| (rounding, place)),
        ..QuantityTerms::default()
    })
}

/// Which part of a window's progressive billing a case is.
pub(crate) fn split_of(case: &Case<'_>) -> Result<Split, Stop> {
    Ok(match case.text("split") {
        None | Some("single") => Split::Single,
        Some("first") => Split::First,
        Some("mid") => Split::Middle,
        Some("last") => Split::Last,
        Some(split) => return Err(Stop::Unsupported(format!("a split {split}"))),
    })
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
