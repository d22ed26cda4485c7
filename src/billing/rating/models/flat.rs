//! Flat: a recurring amount for each window in which the subscription is active, whatever was used.
//!
//! Owed in arrears and in full; proration is not part of this model yet.

use domain::{Decimal, Exact};

use super::Portion;
use crate::catalog::Price;

pub(super) fn portions(price: &Price) -> Vec<Portion> {
    let amount = price.unit_amount.expect("the catalog refuses a flat price without amount");
    vec![Portion {
        tier: 0,
        from: Exact::ZERO,
        up_to: None,
        quantity: Exact::ZERO,
        unit_amount: Decimal::ZERO,
        per: 1,
        flat_amount: amount,
        amount: amount.into(),
    }]
}
