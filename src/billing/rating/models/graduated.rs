//! Graduated: each unit at the amount of the tier that it falls into.
//!
//! `S_i = p_i × max(0, min(q, up_i) − lo_i) / per + f_i × [q > lo_i]`, summed over the tiers. Tiers are cumulative and
//! continuous, `(lo, up_to]`: the bound belongs to the lower tier. The first tier also contains 0: its flat amount is
//! owed without usage when the price says so. A negative quantity is priced by the first tier.

use std::cmp::Ordering;

use domain::{Decimal, Exact};

use super::Portion;
use crate::catalog::Price;
use crate::rating::status::{RatingStatus, difference};

pub(super) fn portions(
    price: &Price,
    quantity: Exact,
    is_owed_at_zero: bool,
) -> Result<Vec<Portion>, RatingStatus> {
    let tiers = price.tiers.as_deref().expect("the catalog refuses a graduated price without tiers");
    let mut portions = Vec::new();
    let mut low = Exact::ZERO;
    for (index, tier) in tiers.iter().enumerate() {
        let is_entered = compare(quantity, low)? == Ordering::Greater;
        let is_first = index == 0;
        if !is_entered && !is_first {
            break;
        }
        let top = match tier.up_to {
            Some(up_to) if compare(quantity, up_to.into())? == Ordering::Greater => up_to.into(),
            _ => quantity,
        };
        let inside = difference(top, low)?;
        let has_flat = is_entered || is_owed_at_zero;
        let flat_amount = tier.flat_amount.filter(|_| has_flat).unwrap_or(Decimal::ZERO);
        let units = inside.multiply(tier.unit_amount.into())?.divide_by_power_of_ten(price.per_exponent());
        portions.push(Portion {
            tier: index,
            from: low,
            up_to: tier.up_to,
            quantity: inside,
            unit_amount: tier.unit_amount,
            per: price.per.unwrap_or(1),
            flat_amount,
            amount: units.add(flat_amount.into())?,
        });
        let Some(up_to) = tier.up_to else { break };
        low = up_to.into();
    }
    Ok(portions)
}

fn compare(a: Exact, b: Exact) -> Result<Ordering, RatingStatus> {
    a.partial_cmp(&b).ok_or(RatingStatus::AmountMustFit)
}
