//! Discounts, maximum and minimum of a price or a subscription in one window.
//!
//! Owns: their lines, and what they take off what is due. Leaves to others: the arithmetic (`discount`, `spend`).
//!
//! With `g` the sum of rounded charges that count: discounts take `min(R(value), what is left)` in their order; the
//! maximum takes what lies above it; the minimum, once the window is final, adds what is missing to `R(minimum × share)`,
//! where the share is that of the window's days in which the subscription was active. A sum below zero has nothing to
//! take from.
//!
//! Invariants: charges, discounts, maximum and minimum of a window add up to at least the minimum and at most the maximum.

use domain::{Decimal, Exact, Span};

use super::{Bill, Reason, sum_of};
use crate::catalog::PriceDiscount;
use crate::charges::{Component, LineKey};
use crate::rating::discount::{Discount, apply_discounts};
use crate::rating::proration::Ratio;
use crate::rating::spend::{cap_discount, true_up};
use crate::rating::status::RatingStatus;

/// What bounds a sum of charges.
pub(super) struct Bounds<'a> {
    pub(super) discounts: &'a [PriceDiscount],
    pub(super) minimum: Option<Decimal>,
    pub(super) maximum: Option<Decimal>,
    /// The part of the window to which the minimum is prorated.
    pub(super) share: Ratio,
}

impl Bill<'_, '_> {
    /// Applies bounds to everything that became due from `first_due` on.
    pub(super) fn apply(
        &mut self,
        bounds: &Bounds<'_>,
        key: LineKey,
        window: Span,
        first_due: usize,
    ) -> Result<(), RatingStatus> {
        let gross = sum_of(self.dues[first_due..].iter().map(|due| due.amount))?;
        let dues: Vec<usize> = (first_due..self.dues.len()).collect();
        let discounts: Vec<Discount> =
            bounds.discounts.iter().map(|discount| self.discount_of(*discount)).collect();
        let discounted = apply_discounts(gross, &discounts)?;
        let mut left = gross;
        for (index, taken) in discounted.taken.iter().enumerate() {
            if *taken != 0 {
                let (component, term) = (Component::Discount, (index + 1).to_string());
                let reason = match bounds.discounts[index] {
                    PriceDiscount::Percent(percent) => Reason::Percent { percent: percent.into(), of: left },
                    PriceDiscount::Amount(_) => Reason::Amount { of: left },
                };
                self.term_line(LineKey { component, term, ..key.clone() }, window, -taken, reason)?;
                left -= taken;
            }
        }
        self.take_off(discounted.discount, &dues)?;
        if let Some(maximum) = bounds.maximum.map(|maximum| self.minor(maximum)) {
            let taken = cap_discount(maximum, 0, left)?;
            if taken != 0 {
                let reason = Reason::Maximum { maximum, of: left };
                self.term_line(
                    LineKey { component: Component::Maximum, ..key.clone() },
                    window,
                    -taken,
                    reason,
                )?;
                self.take_off(taken, &dues)?;
                left -= taken;
            }
        }
        if let Some(minimum) = bounds.minimum.filter(|_| self.terms.is_final(window)) {
            let minimum = self.minor(minimum);
            let added = true_up(Exact::from_integer(minimum), bounds.share, left)?;
            if added != 0 {
                let reason = Reason::Minimum { minimum, share: bounds.share, billed: left };
                let key = LineKey { component: Component::Minimum, ..key };
                self.term_line(key.clone(), window, added, reason)?;
                self.term_due(key, window, added);
            }
        }
        Ok(())
    }

    /// A discount to rating.
    pub(super) fn discount_of(&self, discount: PriceDiscount) -> Discount {
        match discount {
            PriceDiscount::Percent(percent) => Discount::Percentage(percent.into()),
            PriceDiscount::Amount(amount) => Discount::Fixed(self.minor(amount)),
        }
    }

    /// An agreed amount in minor units.
    pub(super) fn minor(&self, amount: Decimal) -> i128 {
        let minor = amount.mantissa_at(self.terms.currency.exponent());
        minor.expect("the catalog refuses agreed amounts that are not whole minor units")
    }
}
