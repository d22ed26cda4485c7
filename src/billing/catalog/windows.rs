//! Which windows a price has for a subscription, and to which month what it charges belongs.
//!
//! Owns: the cadences of prices, of plans and of subscriptions; the rules of prices with different windows side by side. Leaves to
//! others: where windows lie (`domain::time`), what is rated in them (`rating`).
//!
//! Invariants:
//! - A price's unit and a subscription's anchor never change, so a window is a function of price, subscription and instant.
//! - What a line belongs to is a function of its key: a line that is worth nothing any more belongs where it did.

use domain::time::{BillingUnit, BillingUnits, Cadence};
use domain::{Period, PlanId, Timestamp, Zone};

use super::price::{Price, PriceDiscount, PricingModel, Proration};
use super::resource::{Aggregation, Meter, Subscription};
use super::state::Catalog;
use super::status::Rule;
use super::timeline::{PriceTimeline, SubscriptionTimeline};
use crate::charges::{Component, LineKey};
use crate::rating::account::is_of_charge;
use crate::rating::first_version;
use crate::rating::models::{Flat, Model, Payment};

/// The windows of a unit, counted from an anchor if there is one.
pub fn cadence_of(unit: BillingUnit, anchor: Option<Timestamp>, zone: &Zone) -> Cadence {
    anchor.map_or(Cadence::calendar(unit), |anchor| Cadence::anchored(unit, zone, anchor))
}

impl Catalog {
    /// The different windows that prices of a plan have for a subscription with such an anchor.
    pub fn cadences_of_plan(
        &self,
        plan: &PlanId,
        anchor: Option<Timestamp>,
        zone: &Zone,
    ) -> impl Iterator<Item = Cadence> {
        self.units_of_plan(plan).iter().map(move |unit| cadence_of(unit, anchor, zone))
    }

    /// The different windows that a subscription has, whatever its plan; months, if nothing is priced.
    pub fn cadences_of(
        &self,
        subscription: &SubscriptionTimeline,
        zone: &Zone,
    ) -> impl Iterator<Item = Cadence> {
        let units = subscription.records().iter().map(|record| self.units_of_plan(&record.plan));
        let mut units = units.fold(BillingUnits::default(), BillingUnits::union);
        if units == BillingUnits::default() {
            units.insert(BillingUnit::Month);
        }
        let anchor = subscription.anchor();
        units.iter().map(move |unit| cadence_of(unit, anchor, zone))
    }

    /// Whether in a span, in which a subscription has another plan, a price of that plan counts what this one goes on counting in the same
    /// window: with a measure that only grows, by a version that is in force somewhere in it.
    pub fn goes_on_from(&self, price: &PriceTimeline, plan: &PlanId, span: domain::Span) -> bool {
        let grows = |meter: &Meter| match meter.aggregation {
            Aggregation::Sum
            | Aggregation::Count
            | Aggregation::Each
            | Aggregation::Max
            | Aggregation::WeightedSum
            | Aggregation::Peak => true,
            // Keys that are taken away again.
            Aggregation::Unique => meter.operation.is_none(),
            Aggregation::Min | Aggregation::Latest | Aggregation::Average | Aggregation::Percentile => false,
        };
        if !price.meters().filter_map(|meter| self.meter(meter)).all(grows) {
            return false;
        }
        let mut alike = self.prices_of_plan(plan).filter(|other| price.counts_on(other));
        alike.any(|other| first_version(other, std::iter::once(span)).is_some())
    }

    /// Whether all windows of an account are calendar months, those in which discounts and commitments of accounts count.
    pub fn has_only_months(&self, account: &domain::AccountId, zone: &Zone) -> bool {
        self.subscriptions_of_account(account).all(|subscription| {
            self.cadences_of(subscription, zone).all(|cadence| cadence == Cadence::MONTHS)
        })
    }

    /// The rules between a price and what else its plan has: usage of a meter is counted over one window, and a subscription's
    /// amounts are of one.
    pub(super) fn check_windows_of_price(&self, price: &Price) -> Result<(), Rule> {
        let others: Vec<&PriceTimeline> =
            self.prices_of_plan(&price.plan).filter(|other| other.window() != price.window).collect();
        let shares_meter =
            |other: &&PriceTimeline| other.meters().any(|meter| price.all_meters().any(|own| own == meter));
        if let Some(other) = others.iter().copied().find(|other| shares_meter(other)) {
            return Err(Rule::WindowsMustMatch(format!(
                "price {} counts the same usage over another `window`; prices of one meter and plan have one",
                other.id()
            )));
        }
        let mut bound = self
            .subscriptions_of_plan(&price.plan)
            .filter(|_| !others.is_empty())
            .flat_map(SubscriptionTimeline::records)
            .filter(|record| record.plan == price.plan && has_amounts(record));
        bound.next().map_or(Ok(()), |record| {
            Err(Rule::WindowsMustMatch(format!(
                "subscription {} has an amount over all its prices, which have one `window` then",
                record.id
            )))
        })
    }

    /// The same rule, of a subscription that is put.
    pub(super) fn check_windows_of_subscription(&self, subscription: &Subscription) -> Result<(), Rule> {
        if self.units_of_plan(&subscription.plan).iter().count() > 1 && has_amounts(subscription) {
            return Err(Rule::WindowsMustMatch(
                "the prices of the plan have different windows, so no `minimum`, `maximum` or amount of `discounts` is of all of \
                 them; give it to a price, or use percentages"
                    .to_string(),
            ));
        }
        Ok(())
    }
}

/// Whether terms of a subscription are amounts of one window.
fn has_amounts(subscription: &Subscription) -> bool {
    let is_amount = |discount: &PriceDiscount| matches!(discount, PriceDiscount::Amount(_));
    subscription.minimum.is_some()
        || subscription.maximum.is_some()
        || subscription.discounts.iter().any(is_amount)
}

/// Whether a price's proration has a meaning in its window.
pub(super) fn check_proration(price: &Price) -> Result<(), Rule> {
    let proration = price.proration.unwrap_or_default();
    if proration == Proration::ThirtyDays && price.window != BillingUnit::Month {
        return Err(Rule::WindowMustFit(
            "`proration` by thirty days is of a `window` of a month; use days or seconds",
        ));
    }
    check_parts(std::iter::once(price))
}

/// Whether a part of a recurring amount belongs to a month, whichever versions of its price meet in a window.
pub(super) fn check_parts<'p>(mut versions: impl Iterator<Item = &'p Price> + Clone) -> Result<(), Rule> {
    let is_long = |price: &Price| matches!(price.window, BillingUnit::Quarter | BillingUnit::Year);
    let is_prorated = |price: &Price| price.proration.unwrap_or_default() != Proration::None;
    let is_in_arrears = |price: &Price| price.payment.unwrap_or_default() == Payment::InArrears;
    let has_parts = versions.clone().any(|price| is_long(price) && is_prorated(price));
    if has_parts && versions.any(is_in_arrears) {
        return Err(Rule::WindowMustFit(
            "a recurring amount in arrears of a part of a quarter or year belongs to no single month; charge it in advance \
             (`payment`), or by the month (`window`)",
        ));
    }
    Ok(())
}

/// Where in time a line belongs: what decides which month it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belonging {
    /// An instant of its slice: months of the legal entity and of the account end slices.
    Slice(Timestamp),
    /// The first or the last instant of its window: what holds for all of it.
    Window(Timestamp),
}

impl Belonging {
    /// Of the line of a key, at a price or at none: usage, what covers it and what pays for it to its slice; what is owed in
    /// advance, and what is taken off it, to when it is owed; all else to the end of its window.
    pub fn of(key: &LineKey, price: Option<&PriceTimeline>) -> Self {
        let is_usage = key.component == Component::Covered
            || price.is_some_and(|price| price.model() != PricingModel::Flat);
        let version =
            price.and_then(|price| price.versions().iter().find(|of| of.version == key.price_version));
        let is_in_advance = version.is_some_and(|version| {
            matches!(version.terms.model, Model::Flat(Flat { payment: Payment::InAdvance, .. }))
        });
        let is_of_slice = match key.component {
            Component::Charge | Component::Covered => true,
            Component::Credit => is_of_charge(&key.term),
            _ => false,
        };
        let is_taken_off = matches!(key.component, Component::Discount | Component::Maximum);
        if is_of_slice && (is_usage || is_in_advance && key.slice_from != key.window.from) {
            Belonging::Slice(key.slice_from)
        } else if is_in_advance && (is_of_slice || is_taken_off) {
            Belonging::Window(key.window.from)
        } else {
            Belonging::Window(key.window.until.plus(-1))
        }
    }

    /// The accounting period, in the zones of the legal entity and of the account.
    pub fn period(self, entity: &Zone, account: &Zone) -> Period {
        match self {
            Belonging::Slice(instant) => entity.period_of(instant),
            Belonging::Window(instant) => account.period_of(instant),
        }
    }

    /// The month of the account in which discounts and commitments of the account count it.
    pub fn month(self, account: &Zone) -> domain::Span {
        let (Belonging::Slice(instant) | Belonging::Window(instant)) = self;
        account.month(account.period_of(instant))
    }
}
