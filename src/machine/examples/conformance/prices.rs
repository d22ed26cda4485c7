//! The terms of a case as prices of the product.
//!
//! Owns: which parameters make which model, what is done to a quantity first, and what a price makes of a quantity below
//! zero. Leaves to others: what a family computes with them.

use billing::rating::models::{Graduated, Model, Package, PerUnit, Tier, Tiers, Volume};
use billing::rating::quantity::{Conversion, QuantityTerms};
use domain::{Exact, Rounding};

use crate::case::{Case, Stop};
use crate::numbers::mode_of;
use crate::split::Split;

/// What a price makes of a quantity. Below zero a price per unit goes on, one by tier or package owes nothing.
pub(crate) fn price_amount(price: &Model, quantity: Exact, is_owed_at_zero: bool) -> Result<Exact, Stop> {
    let is_by_part = matches!(price, Model::Graduated(_) | Model::GraduatedPercentage(_));
    if is_by_part && quantity.is_negative() {
        return Ok(Exact::ZERO);
    }
    Ok(price.amount(&domain::GroupTexts::NONE, quantity, is_owed_at_zero)?)
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

pub(crate) fn package_price(case: &Case<'_>) -> Result<Package, Stop> {
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

pub(crate) fn tier_list(case: &Case<'_>, unit: &str) -> Result<Vec<Tier>, Stop> {
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
pub(crate) fn quantity_terms(case: &Case<'_>) -> Result<QuantityTerms, Stop> {
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
