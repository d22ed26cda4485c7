//! Discounts, maximum and minimum of a price or a subscription in one window.
//!
//! Owns: their lines, and what they take off what is due. Leaves to others: the arithmetic (`discount`, `spend`), how what is
//! taken off several prices is spread (`spread`).
//!
//! With `g` the sum of rounded charges that count: discounts take `min(R(value), what is left)` in their order; the
//! maximum takes what lies above it; the minimum, once the window is final, adds what is missing to `R(minimum × share)`,
//! where the share is that of the window's days in which the subscription was active. A sum below zero has nothing to
//! take from.
//!
//! What a subscription takes off has a line for each version of each price that it is taken off, with a term of its own:
//! `subscription/1` is its first discount, `subscription` its maximum. Its minimum is one line, of no price.
//!
//! Invariants: charges, discounts, maximum and minimum of a window add up to at least the minimum and at most the maximum.

use domain::{Decimal, Exact, Span};

use super::{Bill, Reason, share_of, sum_of};
use crate::catalog::PriceDiscount;
use crate::charges::{Component, LineKey};
use crate::rating::discount::{Discount, apply_discounts};
use crate::rating::spend::{cap_discount, true_up};
use crate::rating::status::RatingStatus;

/// What bounds a sum of charges.
pub(super) struct Bounds<'a> {
    pub(super) discounts: &'a [PriceDiscount],
    pub(super) minimum: Option<Decimal>,
    pub(super) maximum: Option<Decimal>,
    /// Where the window is active: the part of its days to which the minimum is prorated.
    pub(super) active: &'a [Span],
}

impl Bounds<'_> {
    /// Whether they leave everything as it is: most prices and subscriptions have none.
    fn are_none(&self) -> bool {
        self.discounts.is_empty() && self.minimum.is_none() && self.maximum.is_none()
    }
}

impl Bill<'_, '_> {
    /// Applies bounds to everything that became due from `first_due` on; lines have the key but for component and term.
    pub(super) fn apply(
        &mut self,
        bounds: &Bounds<'_>,
        key: impl FnOnce() -> LineKey,
        window: Span,
        first_due: usize,
    ) -> Result<(), RatingStatus> {
        if bounds.are_none() {
            return Ok(());
        }
        let key = key();
        let dues: Vec<usize> = (first_due..self.dues.len()).collect();
        let gross = sum_of(dues.iter().map(|index| self.dues[*index].amount))?;
        let discounts: Vec<Discount> =
            bounds.discounts.iter().map(|discount| self.discount_of(*discount)).collect();
        let discounted = apply_discounts(gross, &discounts)?;
        let of_subscription = key.price.is_none();
        let mut left = gross;
        for (index, taken) in discounted.taken.into_iter().enumerate() {
            let percent = percent_of(bounds.discounts[index]);
            let number = index + 1;
            let term = if of_subscription { format!("subscription/{number}") } else { number.to_string() };
            let reason = Reason::Discount { percent, of: left, taken, order: index };
            let key = LineKey { component: Component::Discount, term, ..key.clone() };
            self.take(taken, key, window, &dues, reason)?;
            left -= taken;
        }
        if let Some(maximum) = bounds.maximum.map(|maximum| self.minor(maximum)) {
            let taken = cap_discount(maximum, 0, left)?;
            let term = if of_subscription { "subscription" } else { "" }.to_string();
            let key = LineKey { component: Component::Maximum, term, ..key.clone() };
            self.take(taken, key, window, &dues, Reason::Maximum { maximum, of: left })?;
            left -= taken;
        }
        if let Some(minimum) = bounds.minimum.filter(|_| self.terms.is_final(window)) {
            let minimum = self.minor(minimum);
            let share = share_of(window, bounds.active, self.terms.zone);
            let added = true_up(Exact::from_integer(minimum), share, left)?;
            if added != 0 {
                let reason = Reason::Minimum { minimum, share, billed: left };
                let key = LineKey { component: Component::Minimum, ..key };
                self.term_line(key.clone(), window, added, reason)?;
                self.term_due(key, window, added);
            }
        }
        Ok(())
    }

    /// Takes an amount off the dues of a window: of a price as one line, of a subscription as one for each price.
    fn take(
        &mut self,
        taken: i128,
        key: LineKey,
        window: Span,
        dues: &[usize],
        reason: Reason,
    ) -> Result<(), RatingStatus> {
        if taken == 0 {
            return Ok(());
        }
        if key.price.is_none() {
            return self.take_off_prices(taken, &key, window, dues, &reason);
        }
        self.term_line(key, window, -taken, reason)?;
        self.take_off(taken, dues)
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

/// The percentage of a discount; without it an amount.
pub(super) fn percent_of(discount: PriceDiscount) -> Option<Exact> {
    match discount {
        PriceDiscount::Percent(percent) => Some(percent.into()),
        PriceDiscount::Amount(_) => None,
    }
}
