//! Who owned a subject when, and the spans in which nothing that rating can see changes.
//!
//! Owns: the join of subjects, subscriptions, plans, accounts and entities over time, and the schedule of slices.
//! Leaves to others: what happens in a slice (`engine`), what it costs (`billing`).
//!
//! Invariants: slices of a subscription tile the time in which it is active; each lies in one tier window of every price, one month of
//! the account, one price version of every price, one accounting period, and between two bounds of the account's credit grants.

use std::collections::BTreeMap;
use std::sync::Arc;

use billing::catalog::{Account, Catalog, Entity, SubscriptionTimeline};
use domain::plan::Schedule;
use domain::time::Cadence;
use domain::{AccountId, Exact, PlanId, Span, SubscriptionId, Timestamp};

/// What decides where slices end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ScheduleKey {
    plan: PlanId,
    /// Of a subscription with an anchor: windows that are not of the calendar.
    anchored: Vec<Cadence>,
    account_zone: String,
    entity_zone: String,
}

/// Schedules of a catalog, made once for each plan and pair of zones.
#[derive(Default)]
pub(crate) struct Schedules {
    schedules: BTreeMap<ScheduleKey, Arc<Schedule>>,
    /// What was asked for last: the cells of an account ask for the same many times.
    last: Option<(AccountId, PlanId, Option<Timestamp>, Arc<Schedule>)>,
}

impl Schedules {
    /// The schedule of the plan that is active for an account.
    pub(crate) fn of(
        &mut self,
        catalog: &Catalog,
        active: &ActiveSpan,
        account: &AccountId,
    ) -> Arc<Schedule> {
        let (plan, anchor) = (&active.plan, active.anchor);
        if let Some(last) = &self.last
            && (&last.0, &last.1, last.2) == (account, plan, anchor)
        {
            return last.3.clone();
        }
        let schedule = self.find(catalog, plan, anchor, account);
        self.last = Some((account.clone(), plan.clone(), anchor, schedule.clone()));
        schedule
    }

    fn find(
        &mut self,
        catalog: &Catalog,
        plan: &PlanId,
        anchor: Option<Timestamp>,
        account: &AccountId,
    ) -> Arc<Schedule> {
        let (account, entity) = account_and_entity(catalog, account);
        let zone = &account.time_zone;
        let anchored = anchor.map(|anchor| catalog.cadences_of_plan(plan, Some(anchor), zone));
        let key = ScheduleKey {
            plan: plan.clone(),
            anchored: anchored.into_iter().flatten().collect(),
            account_zone: account.time_zone.name().to_string(),
            entity_zone: entity.time_zone.name().to_string(),
        };
        let schedule = self.schedules.entry(key).or_insert_with(|| {
            let mut bounds = zone.month_starts();
            bounds.extend(entity.time_zone.month_starts());
            for cadence in catalog.cadences_of_plan(plan, anchor, zone) {
                if cadence != Cadence::MONTHS {
                    bounds.extend_from_slice(zone.grid(cadence).starts());
                }
            }
            for price in catalog.prices_of_plan(plan) {
                bounds.extend(price.changes());
            }
            Arc::new(Schedule::new(bounds))
        });
        schedule.clone()
    }
}

/// A span in which a subscription is active under one plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ActiveSpan {
    pub(crate) span: Span,
    pub(crate) plan: PlanId,
    /// What the subscription's windows are counted from.
    pub(crate) anchor: Option<Timestamp>,
    /// Seats that recurring amounts are multiplied by.
    pub(crate) seats: Option<Exact>,
    /// Whether nothing is charged yet.
    pub(crate) is_trial: bool,
}

/// An account that something refers to.
///
/// # Panics
/// If it does not exist; the catalog refuses references to what does not exist.
pub(crate) fn account_of<'a>(catalog: &'a Catalog, account: &AccountId) -> &'a Account {
    catalog.account(account).expect("the catalog refuses references to unknown accounts")
}

/// The account and its legal entity.
///
/// # Panics
/// As [`account_of`].
pub(crate) fn account_and_entity<'a>(catalog: &'a Catalog, account: &AccountId) -> (&'a Account, &'a Entity) {
    let account = account_of(catalog, account);
    let entity = catalog.entity(&account.entity).expect("the catalog refuses references to unknown entities");
    (account, entity)
}

/// When a subscription is active, under which plan and with how many seats; neighbouring spans of the same are joined.
pub(crate) fn active_spans(catalog: &Catalog, subscription: &SubscriptionId) -> Vec<ActiveSpan> {
    catalog.subscription(subscription).map(active_spans_of).unwrap_or_default()
}

/// The same, of a subscription's records.
pub(crate) fn active_spans_of(timeline: &SubscriptionTimeline) -> Vec<ActiveSpan> {
    let mut spans: Vec<ActiveSpan> = Vec::new();
    for (span, version) in timeline.spans() {
        let seats = version.seats.map(Exact::from);
        let charged_from = version.trial_until.map_or(span.from, |until| until.clamp(span.from, span.until));
        let parts =
            [(Span::new(span.from, charged_from), true), (Span::new(charged_from, span.until), false)];
        for (span, is_trial) in parts.into_iter().filter(|(span, _)| span.from < span.until) {
            let active =
                ActiveSpan { span, plan: version.plan.clone(), anchor: version.anchor, seats, is_trial };
            match spans.last_mut() {
                Some(last) if last.goes_on_as(&active) => last.span.until = span.until,
                _ => spans.push(active),
            }
        }
    }
    spans
}

impl ActiveSpan {
    fn goes_on_as(&self, next: &ActiveSpan) -> bool {
        self.span.until == next.span.from
            && (&self.plan, self.seats, self.is_trial) == (&next.plan, next.seats, next.is_trial)
    }
}

/// The slice of a subscription that an instant falls into: between two bounds of its schedule, inside one active span.
pub(crate) fn slice_of(
    catalog: &Catalog,
    schedules: &mut Schedules,
    account: &AccountId,
    active: &ActiveSpan,
    instant: Timestamp,
) -> Span {
    let schedule = schedules.of(catalog, active, account);
    let slice = schedule.slice_of(instant);
    let whole = Span::new(slice.from.max(active.span.from), slice.until.min(active.span.until));
    let bounds = catalog.grant_bounds(account);
    let after = bounds.partition_point(|bound| *bound <= instant);
    let from = after.checked_sub(1).map_or(whole.from, |before| bounds[before].max(whole.from));
    Span::new(from, bounds.get(after).map_or(whole.until, |bound| whole.until.min(*bound)))
}

/// A span in pieces that end at the bounds of the account's credit grants. They are of one account, so they are no part
/// of a schedule that accounts share.
pub(crate) fn pieces_between_grants(catalog: &Catalog, account: &AccountId, span: Span) -> Vec<Span> {
    let inside = catalog.grant_bounds(account).iter().filter(|at| span.from < **at && **at < span.until);
    let mut pieces = Vec::new();
    let mut from = span.from;
    for until in inside.copied().chain([span.until]) {
        pieces.push(Span::new(from, until));
        from = until;
    }
    pieces
}
