//! Discounts of an account: what it pays less in a month, over what its subscriptions leave.
//!
//! Owns: the order in which they apply, what each of them is of, and their lines. Leaves to others: the arithmetic
//! (`rating::discount`), how an amount is spread (`rating::allocation`).
//!
//! Discounts apply by priority; of equal ones percentages before amounts, then what started, was created and is named first.
//! Each takes `min(R(value), what is left)` of all that it is of and that is due in the month: charges, and minimums of prices and
//! subscriptions. It is spread over that in proportion, by largest remainder, and has a line for each version of a price and
//! subscription that it was taken off, so that a line posts as the charge does.
//!
//! Invariants: the lines of a discount add up to what it takes, and none takes more than what was due there.

use std::collections::BTreeMap;

use domain::{AccountId, PriceId, SubscriptionId, Timestamp};

use super::{Bill, Due, Reason, key_of, sum_of};
use crate::catalog::{AccountDiscount, PriceDiscount};
use crate::charges::{Component, LineKey};
use crate::rating::allocation::spread_discount;
use crate::rating::discount::apply_discounts;
use crate::rating::status::RatingStatus;

/// What a line of a discount is of: an account's subscription, a price of it, and which version.
type TakenOff = (AccountId, Option<SubscriptionId>, Option<PriceId>, u32);

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
        let dues: Vec<usize> =
            dues.iter().copied().filter(|due| self.is_reduced_by(discount, &self.dues[*due])).collect();
        let left: Vec<i128> = dues.iter().map(|due| self.dues[*due].amount).collect();
        let of = sum_of(left.iter().copied())?;
        let taken = apply_discounts(of, &[self.discount_of(discount.takes())])?.discount;
        if taken == 0 {
            return Ok(());
        }
        let mut taken_off: BTreeMap<TakenOff, (usize, i128)> = BTreeMap::new();
        for (due, taken) in dues.into_iter().zip(spread_discount(taken, &left)?) {
            self.dues[due].amount -= taken;
            let key = &self.dues[due].key;
            let of = (key.account.clone(), key.subscription.clone(), key.price.clone(), key.price_version);
            // Between zero and what is due.
            taken_off.entry(of).or_insert((due, 0)).1 += taken;
        }
        let percent = match discount.takes() {
            PriceDiscount::Percent(percent) => Some(percent.into()),
            PriceDiscount::Amount(_) => None,
        };
        for ((account, subscription, price, price_version), (due, part)) in taken_off {
            if part != 0 {
                let window = self.dues[due].window;
                let (component, term) = (Component::Discount, discount.id.to_string());
                let key = LineKey {
                    subscription,
                    price,
                    price_version,
                    component,
                    term,
                    ..key_of(&account, window)
                };
                let reason = Reason::AccountDiscount { percent, of, taken };
                self.term_line(key, window, -part, reason)?;
            }
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
