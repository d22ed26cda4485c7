//! Agreements of an account beyond its subscriptions: discounts, commitments and credit grants, as files and APIs write them.
//!
//! Owns: their fields, and the rules that they keep by themselves. Leaves to others: rules between resources (`state`),
//! what they make of charges (`rating::commitment`, `rating::credits`, `rating::account`).

use domain::{
    AccountId, CommitmentId, Decimal, DiscountId, Exact, GrantId, MeterId, PriceId, SubscriptionId,
    Timestamp, Zone,
};
use serde::{Deserialize, Serialize};

use super::price::{PriceDiscount, check_bounds};
use super::status::Rule;
use super::text;
use crate::rating::commitment::{CommitmentStatus, Shape};
use crate::rating::credits::{Grant, Recurrence, draw};

/// A discount: what an account pays less in each window, over what its subscriptions leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountDiscount {
    /// Id: not a number, since those are the discounts of a price or subscription.
    pub id: DiscountId,
    /// Whose it is.
    pub account: AccountId,
    /// A share in percent of what earlier discounts left.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub percent: Option<Decimal>,
    /// Instead of a share: an amount in each window, in the account's currency, at most what is left.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub amount: Option<Decimal>,
    /// Lower numbers apply first, 0 if left out; of equal ones percentages do, then what started and was made first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// First instant: the start of a month in the account's zone.
    #[serde(deserialize_with = "text::instant")]
    pub from: Timestamp,
    /// First instant after it, likewise; open-ended if left out.
    #[serde(default, deserialize_with = "text::optional_instant", skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Subscriptions that it is of; all of the account if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscriptions: Vec<SubscriptionId>,
    /// Prices that it is of; all if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prices: Vec<PriceId>,
}

impl AccountDiscount {
    /// Whether it holds in a window.
    pub fn holds_in(&self, window_from: Timestamp) -> bool {
        self.from <= window_from && self.until.is_none_or(|until| window_from < until)
    }

    /// What it takes.
    ///
    /// # Panics
    /// If it has neither a share nor an amount; [`AccountDiscount::check`] finds that.
    pub fn takes(&self) -> PriceDiscount {
        match (self.percent, self.amount) {
            (Some(percent), _) => PriceDiscount::Percent(percent),
            (None, amount) => PriceDiscount::Amount(amount.expect("a checked discount takes something")),
        }
    }

    /// The rules that a discount keeps by itself.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`Rule`] declares them.
    pub fn check(&self) -> Result<(), Rule> {
        if self.until.is_some_and(|until| until <= self.from) {
            return Err(Rule::UntilMustBeAfterFrom);
        }
        if self.percent.is_some() == self.amount.is_some() {
            return Err(Rule::DiscountMustHold("a discount has either a `percent` or an `amount`"));
        }
        if check_bounds(&[self.takes()], None, None).is_err() {
            return Err(Rule::DiscountMustHold(
                "a discount has a `percent` of 0 to 100, or an `amount` of zero or more",
            ));
        }
        if self.id.as_str().bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Rule::DiscountMustHold(
                "the `id` of a discount is not a number; numbers are those of a price or subscription",
            ));
        }
        Ok(())
    }
}

/// A commitment: an amount that an account agreed to spend over a term of whole windows.
///
/// Pooled over the subscriptions that it names, or over all of the account. A new version with a later `effective_from`
/// changes the amount from that window on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commitment {
    /// Id.
    pub id: CommitmentId,
    /// Who committed.
    pub account: AccountId,
    /// What happens to what a window does not use.
    pub shape: Shape,
    /// The amount for the whole term, in the account's currency.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub amount: Option<Decimal>,
    /// Instead of an amount: units for the whole term, priced by the one price that the commitment names.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub quantity: Option<Decimal>,
    /// First instant of the term: the start of a month in the account's zone.
    #[serde(deserialize_with = "text::instant")]
    pub from: Timestamp,
    /// First instant after the term, likewise.
    #[serde(deserialize_with = "text::instant")]
    pub until: Timestamp,
    /// First instant of the month from which on it holds no more: an early end of the term.
    #[serde(default, deserialize_with = "text::optional_instant", skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// What overage costs, as a multiple: 1 if left out.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub overage_factor: Option<Decimal>,
    /// Whether a shortfall is charged; true if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub true_up: Option<bool>,
    /// Subscriptions whose charges count; all of the account if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscriptions: Vec<SubscriptionId>,
    /// Prices whose charges count; every price of usage if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prices: Vec<PriceId>,
    /// First instant of the window from which on this version holds; from the start of the term, if left out.
    #[serde(default, deserialize_with = "text::optional_instant", skip_serializing_if = "Option::is_none")]
    pub effective_from: Option<Timestamp>,
}

impl Commitment {
    /// From when on this version holds.
    pub fn holds_from(&self) -> Timestamp {
        self.effective_from.unwrap_or(self.from)
    }

    /// What overage costs, as a multiple.
    pub fn factor(&self) -> Exact {
        self.overage_factor.map_or(Exact::ONE, Exact::from)
    }

    /// The rules that a commitment keeps by itself.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`Rule`] declares them.
    pub fn check(&self) -> Result<(), Rule> {
        let is_outside = |at: Timestamp| at < self.from || at > self.until;
        if self.until <= self.from
            || self.effective_from.is_some_and(|from| from < self.from || from >= self.until)
            || self.ended_at.is_some_and(is_outside)
        {
            return Err(Rule::UntilMustBeAfterFrom);
        }
        if self.amount.is_some() == self.quantity.is_some() {
            return Err(Rule::CommitmentMustNameAmount);
        }
        if self.quantity.is_some() && self.prices.len() != 1 {
            return Err(Rule::CommitmentMustNameAmount);
        }
        if self.amount.or(self.quantity).is_some_and(Decimal::is_negative) {
            return Err(Rule::CommitmentMustHold(CommitmentStatus::AmountMustNotBeNegative));
        }
        if self.factor() < Exact::ONE {
            return Err(Rule::CommitmentMustHold(CommitmentStatus::FactorMustBeAtLeastOne));
        }
        Ok(())
    }
}

/// What a credit grant is to the books.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantKind {
    /// Paid for: a draw is earned from a liability.
    Paid,
    /// Given away: a draw is less revenue.
    Promotional,
}

/// How often a grant is given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecurrenceEvery {
    /// At the same day of every month in the account's zone; where a month is shorter, at its last.
    Month,
    /// Every so many days.
    Days(u32),
}

impl RecurrenceEvery {
    /// The same to rating.
    pub(crate) fn recurrence(self) -> Recurrence {
        match self {
            RecurrenceEvery::Month => Recurrence::Monthly,
            RecurrenceEvery::Days(days) => Recurrence::Days(days),
        }
    }
}

/// What is kept of a balance when its grant is given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRollover {
    /// At most this much.
    #[serde(deserialize_with = "text::decimal")]
    pub max: Decimal,
}

/// A credit grant: a balance that pays charges before the customer does, or units that it covers before they are priced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreditGrant {
    /// Id.
    pub id: GrantId,
    /// Whose it is.
    pub account: AccountId,
    /// Paid for or given away.
    pub kind: GrantKind,
    /// The amount, in the account's currency, or in units of the meter.
    #[serde(deserialize_with = "text::decimal")]
    pub amount: Decimal,
    /// The meter whose units it covers before they are priced; without it the grant is money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meter: Option<MeterId>,
    /// Lower numbers are drawn first; 0 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// First instant at which usage may draw on it.
    #[serde(deserialize_with = "text::instant")]
    pub from: Timestamp,
    /// Its expiry: first instant at which usage may not; never, if left out.
    #[serde(default, deserialize_with = "text::optional_instant", skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Given again at these instants, until it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<RecurrenceEvery>,
    /// What is kept then of what was left; nothing, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollover: Option<GrantRollover>,
    /// Subscriptions that it pays for; all of the account if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subscriptions: Vec<SubscriptionId>,
    /// Prices that it pays for; all if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prices: Vec<PriceId>,
    /// From when on it may not be drawn any more; past draws stay.
    #[serde(default, deserialize_with = "text::optional_instant", skip_serializing_if = "Option::is_none")]
    pub voided_at: Option<Timestamp>,
}

impl CreditGrant {
    /// Instants at which it is given, given again and expires, whether it is voided or not, and its void: bounds of slices.
    pub fn bounds(&self, zone: &Zone) -> Vec<Timestamp> {
        let grant = Grant { voided_at: None, ..self.to_grant(0, |_| Exact::ZERO) };
        let drawn = draw(&[grant], &[], zone, Timestamp::END).expect("nothing is given, and nothing due");
        drawn.lots.iter().flat_map(|lot| [lot.from, lot.until]).chain(self.void_bound()).collect()
    }

    /// Its void, if it lies where it may be drawn.
    pub fn void_bound(&self) -> Option<Timestamp> {
        self.voided_at.filter(|at| self.from < *at && self.until.is_none_or(|until| *at < until))
    }

    /// The same to rating; `amount_of` says what an amount is in the unit in which it is drawn.
    pub(crate) fn to_grant(&self, created: u64, amount_of: impl Fn(Decimal) -> Exact) -> Grant {
        Grant {
            id: self.id.to_string(),
            priority: self.priority.unwrap_or(0),
            created,
            amount: amount_of(self.amount),
            from: self.from,
            until: self.until,
            recurrence: self.every.map(RecurrenceEvery::recurrence),
            rollover_max: self.rollover.map_or(Exact::ZERO, |rollover| amount_of(rollover.max)),
            voided_at: self.voided_at,
        }
    }

    /// The rules that a grant keeps by itself.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`Rule`] declares them.
    pub fn check(&self) -> Result<(), Rule> {
        if self.until.is_some_and(|until| until <= self.from) {
            return Err(Rule::UntilMustBeAfterFrom);
        }
        let rollover_max = self.rollover.map(|rollover| rollover.max);
        let is_negative = [Some(self.amount), rollover_max].into_iter().flatten().any(Decimal::is_negative);
        let rolls_nowhere = self.rollover.is_some() && self.every.is_none();
        let prices_units = self.meter.is_some() && !self.prices.is_empty();
        if is_negative || rolls_nowhere || prices_units || self.every == Some(RecurrenceEvery::Days(0)) {
            return Err(Rule::GrantMustHold);
        }
        Ok(())
    }
}
