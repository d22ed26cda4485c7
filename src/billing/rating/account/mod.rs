//! The position of an account: what is agreed around the prices of its subscriptions.
//!
//! Owns: the order in which terms apply, and the lines that they make. Leaves to others: what a price makes of usage
//! (`position`), the arithmetic of each term (`discount`, `spend`, `commitment`, `credits`), which windows are rated and
//! what of it was issued before (`machine::cut`).
//!
//! For each window of a subscription, in minor units, each step from what the one before left:
//! 1. *charges*: the position of every price, rounded once a line;
//! 2. of each price: its discounts in their order, then its maximum, then, once the window is final, its minimum;
//! 3. of the subscription: its discounts, maximum and minimum, over all its prices, each of which bears its part ([`spread`]);
//! 4. of the account: its discounts in their order, over all its subscriptions ([`discounts`]);
//! 5. of the account: commitments, over the windows of their term ([`commitments`]);
//! 6. credit grants pay what is left, in order of time ([`credits`]).
//!
//! Grants in units come before all of it: what they cover is not priced ([`units`]).
//!
//! Accounts with one parent are a *pool*: they are rated together, discounts, commitments and grants of the parent hold for all of them,
//! those of another account for itself. Each keeps its own lines: a discount and a draw have the account of what it pays, a shortfall that of
//! the commitment.
//!
//! Invariants:
//! - A function of the final state: of charges, terms, dated facts (voids, draws of closed periods) and the instant. What
//!   was issued of open periods is never an input, so `position − issued` telescopes over any split into cuts.
//! - Every line is whole minor units, and the lines of a window add up to what it costs.
//! - What takes off never takes more than there is: discounts, maximums and draws leave no charge below zero.

mod adjustments;
mod commitments;
mod credits;
mod discounts;
mod explain;
mod spread;
mod units;

#[cfg(test)]
mod tests;

use domain::{AccountId, Currency, Exact, GroupTexts, Span, SubscriptionId, Timestamp, Zone};

use self::adjustments::Bounds;
use super::allocation::spread_discount;
use super::position::{PositionLine, first_version};
use super::proration::{Basis, Ratio, ratios};
use super::status::{AMOUNT_MINOR_MAX, RatingStatus};
use crate::catalog::{
    AccountDiscount, Belonging, CommitmentTimeline, CreditGrant, PriceTimeline, Subscription,
};
use crate::charges::{Component, LineKey};

pub use self::credits::{grant_of, is_of_charge};
pub use self::explain::Reason;
pub use self::units::{CoveredUnits, FrozenUnits, UnitUse, cover_units};

/// One price of one subscription in one window, with its position.
#[derive(Clone, Debug)]
pub struct RatedPrice<'a> {
    /// Who pays.
    pub account: &'a AccountId,
    /// For which subscription.
    pub subscription: &'a SubscriptionId,
    /// The price.
    pub price: &'a PriceTimeline,
    /// The tier window.
    pub window: Span,
    /// Where in the window the subscription is active under the price's plan; sorted and disjoint.
    pub active: Vec<Span>,
    /// The position's lines, each with its group.
    pub lines: Vec<(GroupTexts, PositionLine)>,
}

impl RatedPrice<'_> {
    /// Of which window of which subscription it is.
    fn window_key(&self) -> (&SubscriptionId, Span) {
        (self.subscription, self.window)
    }
}

/// A draw of a credit grant that a closed period has: a fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrozenDraw {
    /// Key of its line.
    pub key: LineKey,
    /// First instant after the slice that it paid for, as that was then.
    pub until: Timestamp,
    /// What it paid, in minor units.
    pub amount: i128,
}

/// What the position of an account, or of a pool of accounts, depends on besides its prices' positions.
pub struct AccountTerms<'a> {
    /// The account whose agreements hold for all that are rated: itself, or the parent of the others.
    pub pool: &'a AccountId,
    /// Currency of its charges.
    pub currency: Currency,
    /// Zone of its windows.
    pub zone: &'a Zone,
    /// The record of a subscription that holds at an instant.
    pub subscription_at: &'a dyn Fn(&SubscriptionId, Timestamp) -> Option<&'a Subscription>,
    /// Its discounts, each with its place in the order of creation.
    pub discounts: Vec<(u64, &'a AccountDiscount)>,
    /// Its commitments.
    pub commitments: Vec<&'a CommitmentTimeline>,
    /// The version of a price, by id: what prices a quantity that was committed to.
    pub price: &'a dyn Fn(&domain::PriceId) -> Option<&'a PriceTimeline>,
    /// Its credit grants, each with its place in the order of creation.
    pub grants: Vec<(u64, &'a CreditGrant)>,
    /// Draws of closed periods.
    pub frozen_draws: Vec<FrozenDraw>,
    /// Whether a window is final: its grace is over, or was once.
    pub is_final: &'a dyn Fn(Span) -> bool,
    /// The instant of the cut.
    pub as_of: Timestamp,
}

impl AccountTerms<'_> {
    fn is_final(&self, window: Span) -> bool {
        (self.is_final)(window)
    }

    /// Whether what an account agreed to holds for another one, or for itself.
    fn holds_for(&self, agreed: &AccountId, account: &AccountId) -> bool {
        agreed == self.pool || agreed == account
    }

    /// The grants that are money.
    fn money_grants(&self) -> impl Iterator<Item = &(u64, &CreditGrant)> {
        self.grants.iter().filter(|(_, grant)| grant.meter.is_none())
    }
}

/// One line of what an account's windows are worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BillLine {
    /// Identity of the line.
    pub key: LineKey,
    /// The tier window.
    pub window: Span,
    /// The slice: of terms, the whole window.
    pub slice: Span,
    /// Units used in it.
    pub quantity: Exact,
    /// Its amount, exactly.
    pub precise: Exact,
    /// Its amount in minor units.
    pub rounded: i128,
    /// Events that it counts.
    pub event_count: u64,
    /// Digest of the set of those events.
    pub event_digest: u128,
    /// How it came about.
    pub reason: Reason,
}

/// What is still to be paid of a line.
struct Due {
    /// Key of the line.
    key: LineKey,
    window: Span,
    /// What decides in which month of the account its discounts and commitments count it.
    belongs: Belonging,
    slice: Span,
    /// From when on credits may pay it.
    at: Timestamp,
    /// Minor units.
    amount: i128,
    /// Whether it is for usage, and not a recurring amount.
    is_usage: bool,
}

/// What an account's windows are worth, in order of their keys.
///
/// Windows without discounts, commitments and grants of the account stand alone: they may be rated a few at a time. With
/// discounts, `prices` must be those of all subscriptions in a month, if all windows are months; otherwise, and with commitments or grants those of all windows of the
/// account from the first term or grant on.
///
/// # Errors
/// [`RatingStatus`].
pub fn account_position(
    terms: &AccountTerms<'_>,
    prices: &[RatedPrice<'_>],
) -> Result<Vec<BillLine>, RatingStatus> {
    let charge_count = prices.iter().map(|price| price.lines.len()).sum();
    let mut bill =
        Bill { terms, lines: Vec::with_capacity(charge_count), dues: Vec::with_capacity(charge_count) };
    let mut prices: Vec<&RatedPrice<'_>> = prices.iter().collect();
    prices.sort_by(|a, b| a.window_key().cmp(&b.window_key()));
    for prices in prices.chunk_by(|a, b| a.window_key() == b.window_key()) {
        bill.window(prices[0].subscription, prices)?;
    }
    bill.account_discounts()?;
    bill.commitments()?;
    bill.credits()?;
    let Bill { mut lines, .. } = bill;
    lines.sort_by(|a, b| a.key.cmp(&b.key));
    assert!(lines.is_sorted_by(|a, b| a.key < b.key), "no two lines of an account share a key");
    assert!(lines.iter().all(|line| line.slice.from == line.key.slice_from), "a key names its line's slice");
    Ok(lines)
}

/// The lines so far, and what of them is still to be paid.
struct Bill<'a, 'b> {
    terms: &'a AccountTerms<'b>,
    lines: Vec<BillLine>,
    dues: Vec<Due>,
}

impl Bill<'_, '_> {
    /// Charges, terms of the prices and terms of the subscription in one window.
    fn window(
        &mut self,
        subscription: &SubscriptionId,
        prices: &[&RatedPrice<'_>],
    ) -> Result<(), RatingStatus> {
        let first_due = self.dues.len();
        let mut window = None;
        let mut active: Vec<Span> = Vec::new();
        for rated in prices {
            window = Some(rated.window);
            active.extend(&rated.active);
            self.price(rated)?;
        }
        let Some(window) = window else { return Ok(()) };
        let Some(first) = active.iter().map(|span| span.from).min() else { return Ok(()) };
        let Some(record) = (self.terms.subscription_at)(subscription, first) else { return Ok(()) };
        let bounds = Bounds {
            discounts: &record.discounts,
            minimum: record.minimum,
            maximum: record.maximum,
            active: &active,
        };
        let Some(account) = prices.first().map(|rated| rated.account) else { return Ok(()) };
        let key = || LineKey { subscription: Some(subscription.clone()), ..key_of(account, window) };
        self.apply(&bounds, key, window, first_due)
    }

    fn price(&mut self, rated: &RatedPrice<'_>) -> Result<(), RatingStatus> {
        let first_due = self.dues.len();
        let is_usage = rated.price.meters().next().is_some();
        // Of the version at the first active instant; of a price that is new in the window, its first one.
        let Some(first) = rated.active.first() else { return Ok(()) };
        let first_version = first_version(rated.price, rated.active.iter().copied());
        let start = first_version.map_or(first.from, |(start, _)| start);
        for (group, line) in &rated.lines {
            let key = LineKey {
                subscription: Some(rated.subscription.clone()),
                price: Some(rated.price.id().clone()),
                price_version: line.price_version,
                group: group.clone(),
                slice_from: line.slice.from,
                ..key_of(rated.account, rated.window)
            };
            self.dues.push(Due {
                belongs: Belonging::of(&key, Some(rated.price)),
                key: key.clone(),
                window: rated.window,
                slice: line.slice,
                // A recurring amount of the whole window is due for the part in which there is a subscription, and a price.
                at: line.slice.from.max(start),
                amount: line.rounded,
                is_usage,
            });
            self.lines.push(BillLine {
                key,
                window: rated.window,
                slice: line.slice,
                quantity: line.quantity,
                precise: line.precise,
                rounded: line.rounded,
                event_count: line.event_count,
                event_digest: line.event_digest,
                reason: Reason::Charge,
            });
        }
        let Some((_, version)) = first_version else { return Ok(()) };
        let bounds = Bounds {
            discounts: &version.price.discounts,
            minimum: version.price.minimum,
            maximum: version.price.maximum,
            active: &rated.active,
        };
        let key = || LineKey {
            subscription: Some(rated.subscription.clone()),
            price: Some(rated.price.id().clone()),
            price_version: version.version,
            ..key_of(rated.account, rated.window)
        };
        self.apply(&bounds, key, rated.window, first_due)
    }

    /// A line of the whole window that came from a term.
    fn term_line(
        &mut self,
        key: LineKey,
        window: Span,
        rounded: i128,
        reason: Reason,
    ) -> Result<(), RatingStatus> {
        self.slice_line(key, window, window, rounded, reason)
    }

    /// A line of a slice that came from a term.
    fn slice_line(
        &mut self,
        key: LineKey,
        window: Span,
        slice: Span,
        rounded: i128,
        reason: Reason,
    ) -> Result<(), RatingStatus> {
        if rounded.unsigned_abs() > AMOUNT_MINOR_MAX.unsigned_abs() {
            return Err(RatingStatus::AmountMustBeBillable);
        }
        let exponent = self.terms.currency.exponent();
        self.lines.push(BillLine {
            key,
            window,
            slice,
            quantity: Exact::ZERO,
            precise: Exact::new(rounded, exponent.into()),
            rounded,
            event_count: 0,
            event_digest: 0,
            reason,
        });
        Ok(())
    }

    /// Something that a term adds: it is due at the end of the window.
    fn term_due(&mut self, key: LineKey, window: Span, amount: i128) {
        self.dues.push(Due {
            key,
            window,
            belongs: Belonging::Window(window.until.plus(-1)),
            slice: window,
            at: window.until.plus(-1),
            amount,
            is_usage: false,
        });
    }

    /// Takes an amount off the given dues, spread in proportion to what is left of them.
    fn take_off(&mut self, amount: i128, dues: &[usize]) -> Result<(), RatingStatus> {
        let subtotals: Vec<i128> = dues.iter().map(|index| self.dues[*index].amount).collect();
        let taken = spread_discount(amount, &subtotals)?;
        for (index, taken) in dues.iter().zip(taken) {
            self.dues[*index].amount -= taken;
        }
        Ok(())
    }
}

/// The key of a line of a whole window and of a whole account.
fn key_of(account: &AccountId, window: Span) -> LineKey {
    LineKey {
        account: account.clone(),
        subscription: None,
        price: None,
        window,
        group: GroupTexts::NONE,
        slice_from: window.from,
        price_version: 0,
        component: Component::Charge,
        term: String::new(),
    }
}

/// The share of the window's days that the given spans have.
fn share_of(window: Span, active: &[Span], zone: &Zone) -> Ratio {
    let mut spans = active.to_vec();
    spans.sort();
    let mut joined: Vec<Span> = Vec::new();
    for span in spans {
        match joined.last_mut() {
            Some(last) if span.from <= last.until => last.until = last.until.max(span.until),
            _ => joined.push(span),
        }
    }
    let parts = ratios(Basis::Days(zone), window, &joined);
    let whole = parts.first().map_or(1, |part| part.denominator);
    Ratio::new(parts.iter().map(|part| part.numerator).sum(), whole)
}

/// The sum of amounts in minor units.
fn sum_of(amounts: impl Iterator<Item = i128>) -> Result<i128, RatingStatus> {
    let mut sum = 0i128;
    for amount in amounts {
        sum = sum.checked_add(amount).ok_or(RatingStatus::AmountMustFit)?;
    }
    Ok(sum)
}
