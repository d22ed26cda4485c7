//! What is taken off several prices together: which part of it each of them bears.
//!
//! Owns: the lines of the parts. Leaves to others: how much is taken (`adjustments`, `discounts`), the arithmetic of shares
//! (`rating::allocation`).
//!
//! An amount is spread in proportion, by largest remainder: over the versions of prices and subscriptions, each of which has
//! a line, so that a line posts as the charge does; then over what is due of each.
//!
//! Invariants: lines add up to what is taken, and none takes more than what was due there. How a month is cut into slices
//! decides no sum; where a price has a discount of its own, it may move a minor unit between versions.

use std::collections::BTreeMap;

use domain::{AccountId, PriceId, Span, SubscriptionId};

use super::{Bill, Reason, sum_of};
use crate::charges::LineKey;
use crate::rating::allocation::spread_discount;
use crate::rating::status::RatingStatus;

/// What a line is of: a subscription, a price of it and which version, and whose it is.
type TakenOff = (Option<SubscriptionId>, Option<PriceId>, u32, AccountId);

impl Bill<'_, '_> {
    /// Takes an amount off dues of one window; of `key` the lines have the component and the term.
    pub(super) fn take_off_prices(
        &mut self,
        taken: i128,
        key: &LineKey,
        window: Span,
        dues: &[usize],
        reason: &Reason,
    ) -> Result<(), RatingStatus> {
        let mut parts: BTreeMap<TakenOff, Vec<usize>> = BTreeMap::new();
        for index in dues {
            let LineKey { account, subscription, price, price_version, .. } = self.dues[*index].key.clone();
            parts.entry((subscription, price, price_version, account)).or_default().push(*index);
        }
        let left = parts.values().map(|part| sum_of(part.iter().map(|due| self.dues[*due].amount)));
        let left = left.collect::<Result<Vec<i128>, RatingStatus>>()?;
        for ((of_part, dues), part) in parts.into_iter().zip(spread_discount(taken, &left)?) {
            if part == 0 {
                continue;
            }
            self.take_off(part, &dues)?;
            let (subscription, price, price_version, account) = of_part;
            let key = LineKey { subscription, price, price_version, account, ..key.clone() };
            self.term_line(key, window, -part, reason.clone())?;
        }
        Ok(())
    }
}
