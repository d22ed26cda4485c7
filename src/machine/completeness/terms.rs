//! What a catalog says about the completeness of a window: the account's prices, and whose usage they charge.
//!
//! Owns: which events a price charges in a window. Leaves to others: counting them (`super`).
//!
//! Invariants: an event belongs to the part of the subscription that it is charged to, under the plan that was active at
//! its time; in a trial it belongs to none.

use std::collections::BTreeMap;
use std::sync::Arc;

use billing::catalog::{Catalog, PriceTimeline};
use domain::plan::{MeterProgram, MeteringPlan};
use domain::{AccountId, MeterId, Period, PlanId, Span, Subject, SubscriptionId, Timestamp};

use crate::owners::active_spans;
use crate::usage_query::QueryStatus;

/// What is looked at.
#[derive(Clone)]
pub struct CompletenessTerms {
    pub(super) account: AccountId,
    pub(super) window: Span,
    /// Programs of the meters of all prices.
    pub(super) meters: Vec<MeterProgram>,
    /// Subscriptions under the plans that they were active under.
    pub(super) parts: Vec<(SubscriptionId, PlanId)>,
    /// Where in time which subject belongs to which part; sorted and disjoint.
    pub(super) spans: BTreeMap<Subject, Vec<(Span, u32)>>,
    /// Where slices start.
    pub(super) plan: Arc<MeteringPlan>,
    /// Prices of usage, by plan.
    pub(super) prices: BTreeMap<PlanId, Vec<LookedAt>>,
}

/// A price that is looked at.
#[derive(Clone)]
pub(super) struct LookedAt {
    pub(super) price: PriceTimeline,
    /// Indexes of its meters.
    pub(super) meters: Vec<usize>,
}

impl CompletenessTerms {
    /// The terms of an account's month in a catalog, whose metering plan is given.
    ///
    /// # Errors
    /// [`QueryStatus::AccountMustExist`].
    pub fn of(
        catalog: &Catalog,
        plan: Arc<MeteringPlan>,
        account: &AccountId,
        period: Period,
    ) -> Result<Self, QueryStatus> {
        let terms = catalog.account(account).ok_or(QueryStatus::AccountMustExist)?;
        let mut found = Self {
            account: account.clone(),
            window: terms.time_zone.month(period),
            meters: Vec::new(),
            parts: Vec::new(),
            spans: BTreeMap::new(),
            plan,
            prices: BTreeMap::new(),
        };
        for subscription in catalog.subscriptions_of_account(account) {
            found.add_subscription(catalog, subscription.id());
        }
        found.spans.values_mut().for_each(|spans| spans.sort_unstable());
        Ok(found)
    }

    fn add_subscription(&mut self, catalog: &Catalog, subscription: &SubscriptionId) {
        let first_part = self.parts.len();
        for active in active_spans(catalog, subscription) {
            if active.is_trial || !active.span.overlaps(self.window) {
                continue;
            }
            let part = self.part_of(catalog, first_part, subscription, &active.plan);
            let charged =
                Span::new(active.span.from.max(self.window.from), active.span.until.min(self.window.until));
            for subject in catalog.subjects_of_subscription(subscription) {
                let timeline = catalog.subject(subject.as_str()).expect("the catalog names its own subjects");
                for (bound, binding) in timeline.spans() {
                    if binding.subscription == *subscription && bound.overlaps(charged) {
                        let span = Span::new(bound.from.max(charged.from), bound.until.min(charged.until));
                        self.spans.entry(subject.clone()).or_default().push((span, part));
                    }
                }
            }
        }
    }

    /// The part of a subscription whose parts begin at `first_part`, new or known.
    fn part_of(
        &mut self,
        catalog: &Catalog,
        first_part: usize,
        subscription: &SubscriptionId,
        plan: &PlanId,
    ) -> u32 {
        let known = self.parts[first_part..].iter().position(|(_, under)| under == plan);
        let index = known.map_or(self.parts.len(), |index| first_part + index);
        if known.is_none() {
            self.parts.push((subscription.clone(), plan.clone()));
            self.look_at_prices(catalog, plan);
        }
        u32::try_from(index).expect("a catalog has fewer than 2^32 subscriptions")
    }

    fn look_at_prices(&mut self, catalog: &Catalog, plan: &PlanId) {
        if self.prices.contains_key(plan) {
            return;
        }
        let mut prices = Vec::new();
        for price in catalog.prices_of_plan(plan) {
            let meters: Vec<usize> = price.meters().map(|meter| self.meter_of(meter)).collect();
            if !meters.is_empty() {
                prices.push(LookedAt { price: price.clone(), meters });
            }
        }
        self.prices.insert(plan.clone(), prices);
    }

    fn meter_of(&mut self, meter: &MeterId) -> usize {
        if let Some(known) = self.meters.iter().position(|program| program.meter == *meter) {
            return known;
        }
        let program = self.plan.programs.iter().find(|program| program.meter == *meter);
        self.meters.push(program.expect("every meter has a program").clone());
        self.meters.len() - 1
    }

    /// The part that an event of a subject at an instant belongs to, and the first instant of its slice.
    pub(super) fn place_of(
        &self,
        subject: &str,
        spans: &[(Span, u32)],
        time: Timestamp,
    ) -> Option<(u32, Timestamp)> {
        let after = spans.partition_point(|(span, _)| span.from <= time);
        let (span, part) = spans.get(after.checked_sub(1)?)?;
        if !span.contains(time) {
            return None;
        }
        let owned = self.plan.subjects.get(subject)?.span_at(time)?;
        Some((*part, owned.slice_of(time).from))
    }
}
