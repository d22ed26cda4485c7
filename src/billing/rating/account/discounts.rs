//! Discounts of an account: what it pays less in a month, over what its subscriptions leave.
//!
//! Owns: the order in which they apply, and what each of them is of. Leaves to others: the arithmetic (`rating::discount`), how
//! an amount is spread over prices, and its lines (`spread`).
//!
//! Discounts apply by priority; of equal ones percentages before amounts, then what started, was created and is named first.
//! Each takes `min(R(value), what is left)` of all that it is of and that belongs to the month: charges, and minimums of prices and
//! subscriptions.
//!
//! Invariants: a discount takes no more than what was due of what it is of.

use std::collections::BTreeMap;

use domain::{Span, Timestamp};

use super::adjustments::percent_of;
use super::{Bill, Due, Reason, key_of, sum_of};
use crate::catalog::AccountDiscount;
use crate::charges::{Component, LineKey};
use crate::rating::discount::apply_discounts;
use crate::rating::status::RatingStatus;

impl Bill<'_, '_> {
    /// Applies the discounts of the account to everything that is due by now.
    pub(super) fn account_discounts(&mut self) -> Result<(), RatingStatus> {
        if self.terms.discounts.is_empty() {
            return Ok(());
        }
        let mut discounts = self.terms.discounts.clone();
        discounts.sort_by_key(|(created, discount)| {
            let is_amount = discount.percent.is_none();
            (discount.priority.unwrap_or(0), is_amount, discount.from, *created, &discount.id)
        });
        let mut windows: BTreeMap<Timestamp, (Span, Vec<usize>)> = BTreeMap::new();
        for (index, due) in self.dues.iter().enumerate() {
            let month = due.belongs.month(self.terms.zone);
            windows.entry(month.from).or_insert_with(|| (month, Vec::new())).1.push(index);
        }
        for (window_from, (window, dues)) in windows {
            for (order, (_, discount)) in discounts.iter().enumerate() {
                if discount.holds_in(window_from) {
                    self.account_discount(discount, order, window, &dues)?;
                }
            }
        }
        Ok(())
    }

    fn account_discount(
        &mut self,
        discount: &AccountDiscount,
        order: usize,
        window: Span,
        dues: &[usize],
    ) -> Result<(), RatingStatus> {
        let reduced: Vec<usize> =
            dues.iter().copied().filter(|due| self.is_reduced_by(discount, &self.dues[*due])).collect();
        let of = sum_of(reduced.iter().map(|due| self.dues[*due].amount))?;
        let taken = apply_discounts(of, &[self.discount_of(discount.takes())])?.discount;
        let reason = Reason::Discount { percent: percent_of(discount.takes()), of, taken, order };
        let (component, term) = (Component::Discount, discount.id.to_string());
        let key = LineKey { component, term, ..key_of(&discount.account, window) };
        self.take_off_prices(taken, &key, window, &reduced, &reason)
    }

    fn is_reduced_by(&self, discount: &AccountDiscount, due: &Due) -> bool {
        let is_of_subscription = discount.subscriptions.is_empty()
            || due.key.subscription.as_ref().is_some_and(|id| discount.subscriptions.contains(id));
        let is_of_price = discount.prices.is_empty()
            || due.key.price.as_ref().is_some_and(|id| discount.prices.contains(id));
        is_of_subscription && is_of_price && self.terms.holds_for(&discount.account, &due.key.account)
    }
}
