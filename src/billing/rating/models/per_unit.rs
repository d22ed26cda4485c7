//! Per unit: `q × p / per`.
//!
//! A negative quantity (a signed meter's reversal) gives a negative amount.

use domain::{Decimal, Exact};

use super::Portion;
use crate::catalog::Price;
use crate::rating::status::RatingStatus;

pub(super) fn portions(price: &Price, quantity: Exact) -> Result<Vec<Portion>, RatingStatus> {
    let unit_amount = price.unit_amount.expect("the catalog refuses a per-unit price without amount");
    let amount = quantity.multiply(unit_amount.into())?.divide_by_power_of_ten(price.per_exponent());
    Ok(vec![Portion {
        tier: 0,
        from: Exact::ZERO,
        up_to: None,
        quantity,
        unit_amount,
        per: price.per.unwrap_or(1),
        flat_amount: Decimal::ZERO,
        amount,
    }])
}
