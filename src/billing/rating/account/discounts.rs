//! Discounts of an account: what it pays less in a month, over what its subscriptions leave.
//!
//! Owns: the order in which they apply, what each of them is of, and their lines. Leaves to others: the arithmetic
//! (`rating::discount`), how an amount is spread (`rating::allocation`).
//!
//! Discounts apply by priority; of equal ones percentages before amounts, then what started, was created and is named first.
//! Each takes `min(R(value), what is left)` of all that it is of and that is due in the month: charges, and minimums of prices and
//! subscriptions. It is spread in proportion, by largest remainder: over the versions of prices and subscriptions, each of which has a
//! line, so that a line posts as the charge does; then over what is due of each.
//!
//! Invariants: the lines of a discount add up to what it takes, and none takes more than what was due there. How a month is cut
//! into slices decides no line.

use std::collections::BTreeMap;

use domain::{AccountId, PriceId, SubscriptionId, Timestamp};

use super::{Bill, Due, Reason, key_of, sum_of};
use crate::catalog::{AccountDiscount, PriceDiscount};
use crate::charges::{Component, LineKey};
use crate::rating::allocation::spread_discount;
use crate::rating::discount::apply_discounts;
use crate::rating::status::RatingStatus;

/// What a line of a discount is of: a subscription, a price of it and which version, and whose it is.
type TakenOff = (Option<SubscriptionId>, Option<PriceId>, u32, AccountId);

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
        let mut windows: BTreeMap<Timestamp, Vec<usize>> = BTreeMap::new();
        for (index, due) in self.dues.iter().enumerate() {
            windows.entry(due.window.from).or_default().push(index);
        }
        for (window_from, dues) in windows {
            for (_, discount) in discounts.iter().filter(|(_, discount)| discount.holds_in(window_from)) {
                self.account_discount(discount, &dues)?;
            }
        }
        Ok(())
    }

    fn account_discount(&mut self, discount: &AccountDiscount, dues: &[usize]) -> Result<(), RatingStatus> {
        let mut parts: BTreeMap<TakenOff, Vec<usize>> = BTreeMap::new();
        for index in dues {
            let due = &self.dues[*index];
            if self.is_reduced_by(discount, due) {
                let LineKey { account, subscription, price, price_version, .. } = due.key.clone();
                parts.entry((subscription, price, price_version, account)).or_default().push(*index);
            }
        }
        let left = parts.values().map(|part| sum_of(part.iter().map(|due| self.dues[*due].amount)));
        let left = left.collect::<Result<Vec<i128>, RatingStatus>>()?;
        let of = sum_of(left.iter().copied())?;
        let taken = apply_discounts(of, &[self.discount_of(discount.takes())])?.discount;
        let percent = match discount.takes() {
            PriceDiscount::Percent(percent) => Some(percent.into()),
            PriceDiscount::Amount(_) => None,
        };
        for ((of_part, dues), part) in parts.into_iter().zip(spread_discount(taken, &left)?) {
            if part == 0 {
                continue;
            }
            self.take_off(part, &dues)?;
            let ((subscription, price, price_version, account), window) =
                (of_part, self.dues[dues[0]].window);
            let (component, term) = (Component::Discount, discount.id.to_string());
            let key =
                LineKey { subscription, price, price_version, component, term, ..key_of(&account, window) };
            self.term_line(key, window, -part, Reason::AccountDiscount { percent, of, taken })?;
        }
        Ok(())
    }

    fn is_reduced_by(&self, discount: &AccountDiscount, due: &Due) -> bool {
        let is_of_subscription = discount.subscriptions.is_empty()
            || due.key.subscription.as_ref().is_some_and(|id| discount.subscriptions.contains(id));
        let is_of_price = discount.prices.is_empty()
            || due.key.price.as_ref().is_some_and(|id| discount.prices.contains(id));
        is_of_subscription && is_of_price && self.terms.holds_for(&discount.account, &due.key.account)
    }
}
