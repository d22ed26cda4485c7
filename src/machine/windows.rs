//! The billing windows of subscriptions and accounts.
//!
//! Owns: which grids of windows a subscription's prices have, and from when until when; months of an account in which its
//! agreements count. Leaves to others: where windows lie (`domain::time`), which of them a cut rates (`affected`).
//!
//! Invariants: whatever is charged lies in a window that is found here; with months only, an account's windows are its months
//! from its first subscription to the end of its last.

use billing::catalog::{Catalog, PriceTimeline, SubscriptionTimeline, cadence_of};
use domain::time::{BillingGrid, Cadence};
use domain::{AccountId, PlanId, Span, Timestamp, Zone};

use crate::owners::account_of;

/// The grids of the windows of a subscription, whatever its plan.
pub(crate) fn grids_of(
    catalog: &Catalog,
    subscription: &SubscriptionTimeline,
    zone: &Zone,
) -> impl Iterator<Item = BillingGrid> {
    catalog.cadences_of(subscription, zone).map(|cadence| zone.grid(cadence))
}

/// The grids of the windows of a subscription under one plan.
pub(crate) fn grids_of_plan(
    catalog: &Catalog,
    subscription: &SubscriptionTimeline,
    plan: &PlanId,
    zone: &Zone,
) -> impl Iterator<Item = BillingGrid> {
    let cadences = catalog.cadences_of_plan(plan, subscription.anchor(), zone);
    cadences.map(|cadence| zone.grid(cadence))
}

/// The window of a price that an instant falls into, of a subscription with such an anchor.
pub(crate) fn window_of(
    price: &PriceTimeline,
    anchor: Option<Timestamp>,
    zone: &Zone,
    instant: Timestamp,
) -> Span {
    match cadence_of(price.window(), anchor, zone) {
        Cadence::MONTHS => zone.month(zone.period_of(instant)),
        cadence => zone.grid(cadence).window_of(instant),
    }
}

/// When a subscription is active, from its first span to its last; nothing if it never is.
pub(crate) fn life_of(subscription: &SubscriptionTimeline) -> Option<Span> {
    let spans = subscription.spans();
    let mut active = spans.iter().map(|(span, _)| *span).filter(|span| span.from < span.until);
    let first = active.next()?;
    Some(Span::new(first.from, active.next_back().unwrap_or(first).until))
}

/// The grids of an account's windows, each with the span in which it has them. Its months, in which discounts and commitments count,
/// are windows of the whole account; what a discount takes off may belong to the last month of a window.
pub(crate) fn grids_of_account(catalog: &Catalog, account: &AccountId) -> Vec<(BillingGrid, Span)> {
    let zone = &account_of(catalog, account).time_zone;
    let has_discounts = catalog.discounts_of_account(account).next().is_some();
    let mut has_months = has_discounts || catalog.commitments_of_account(account).next().is_some();
    let mut found = Vec::new();
    let mut whole: Option<Span> = None;
    for subscription in catalog.subscriptions_of_account(account) {
        let Some(life) = life_of(subscription) else { continue };
        let mut until = life.until;
        for grid in grids_of(catalog, subscription, zone) {
            if has_discounts {
                until = until.max(grid.window_of(life.until.plus(-1)).until);
            }
            match grid.cadence() {
                Cadence::MONTHS => has_months = true,
                _ => found.push((grid, life)),
            }
        }
        whole = Some(whole.map_or(Span::new(life.from, until), |whole| {
            Span::new(whole.from.min(life.from), whole.until.max(until))
        }));
    }
    found.extend(whole.filter(|_| has_months).map(|whole| (zone.grid(Cadence::MONTHS), whole)));
    found
}
