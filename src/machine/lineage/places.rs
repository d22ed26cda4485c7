//! Where an event counts, as a catalog has it: its owner, its slice, and a key of charge lines for every price.
//!
//! Owns: the same join as a cut's, for a single event. Leaves to others: which event (`super::trail`), what a key is worth
//! (`cut`).

use std::collections::BTreeSet;

use billing::catalog::{Catalog, PricingModel};
use billing::charges::{Component, LineKey};
use domain::plan::MeteringPlan;
use domain::{AccountId, MeterId, PlanId, PriceId, Span, SubscriptionId, Timestamp};
use engine::shard::cell::Group;

use crate::groups::{counted_texts, texts_of_group};
use crate::metering_plan::program_of;
use crate::owners::{Schedules, account_and_entity, active_spans, slice_of};
use crate::windows::window_of;
use domain::GroupTexts;

/// Who owned a subject at an instant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Who pays.
    pub account: AccountId,
    /// To which subscription the subject belonged.
    pub subscription: SubscriptionId,
    /// The plan that it was active under.
    pub plan: PlanId,
    /// Whether nothing was charged yet.
    pub is_trial: bool,
    /// The slice of the instant.
    pub slice: Span,
    /// What the subscription's windows are counted from.
    pub anchor: Option<Timestamp>,
}

/// What becomes of an event at a price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Landing {
    /// It counts in the lines of this key.
    Counts(LineKey),
    /// The subscription is in its trial.
    Trial,
    /// No version of the price is in force at the start of the slice: what is used is free.
    NotAgreed,
    /// No row of the price's matrix fits, and its usage waits for one.
    SetAside,
    /// No row fits, and without one the account is not charged.
    RowMustMatch,
}

/// What a meter takes of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterPlace {
    /// The meter.
    pub meter: MeterId,
    /// Texts of the group-by dimensions.
    pub group: GroupTexts,
    /// What becomes of it at every price of the owner's plan that prices the meter.
    pub prices: Vec<(PriceId, Landing)>,
}

/// Where an event counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventPlace {
    /// Who owned its subject at its time; nobody, if it waits for an owner.
    pub owner: Option<Owner>,
    /// The meters that take it.
    pub meters: Vec<MeterPlace>,
}

impl EventPlace {
    /// The keys of the lines that count the event.
    pub fn keys(&self) -> BTreeSet<LineKey> {
        let landings = self.meters.iter().flat_map(|meter| &meter.prices);
        let counts = |(_, landing): &(PriceId, Landing)| match landing {
            Landing::Counts(key) => Some(key.clone()),
            _ => None,
        };
        landings.filter_map(counts).collect()
    }

    /// The place of an event of a subject at a time, of which the meters of `plan` take these groups.
    pub(crate) fn of(
        catalog: &Catalog,
        plan: &MeteringPlan,
        groups: &[(u32, Group)],
        subject: &str,
        time: Timestamp,
    ) -> Self {
        let owner = owner_at(catalog, subject, time);
        let place_of = |(program, group): &(u32, Group)| {
            let program = &plan.programs[*program as usize];
            let group = texts_of_group(&program.group_by, group);
            let prices = owner.as_ref().map(|owner| prices_of(catalog, owner, &program.meter, &group));
            MeterPlace { meter: program.meter.clone(), group, prices: prices.unwrap_or_default() }
        };
        let meters = groups.iter().map(place_of).collect();
        Self { owner, meters }
    }
}

/// Who owns a subject at an instant.
pub(crate) fn owner_at(catalog: &Catalog, subject: &str, time: Timestamp) -> Option<Owner> {
    let binding = catalog.subject(subject)?.at(time)?;
    let timeline = catalog.subscription(&binding.subscription)?;
    let active = active_spans(catalog, timeline.id());
    let active = active.into_iter().find(|active| active.span.contains(time))?;
    let (account, _) = account_and_entity(catalog, timeline.account());
    let slice = slice_of(catalog, &mut Schedules::default(), &account.id, &active, time);
    Some(Owner {
        account: account.id.clone(),
        subscription: timeline.id().clone(),
        is_trial: active.is_trial,
        plan: active.plan,
        slice,
        anchor: timeline.anchor(),
    })
}

fn prices_of(
    catalog: &Catalog,
    owner: &Owner,
    meter: &MeterId,
    group: &GroupTexts,
) -> Vec<(PriceId, Landing)> {
    let of_meter = |price: &&billing::catalog::PriceTimeline| {
        price.model() != PricingModel::Flat && price.meters().any(|priced| priced == meter)
    };
    let (account, _) = account_and_entity(catalog, &owner.account);
    let zone = &account.time_zone;
    let mut prices = Vec::new();
    for price in catalog.prices_of_plan(&owner.plan).filter(of_meter) {
        let version = price.version_at(owner.slice.from);
        let landing = match (owner.is_trial, version) {
            (true, _) => Landing::Trial,
            (_, None) => Landing::NotAgreed,
            (_, Some(version)) => match counted_texts(price, owner.slice, || group.clone()) {
                Ok(Some(group)) => Landing::Counts(LineKey {
                    account: owner.account.clone(),
                    subscription: Some(owner.subscription.clone()),
                    window: window_of(price, owner.anchor, zone, owner.slice.from),
                    price: Some(price.id().clone()),
                    group,
                    slice_from: owner.slice.from,
                    price_version: version.version,
                    component: Component::Charge,
                    term: String::new(),
                }),
                Ok(None) => Landing::SetAside,
                Err(_) => Landing::RowMustMatch,
            },
        };
        prices.push((price.id().clone(), landing));
    }
    prices
}

/// The meters of a catalog that look at a type of events, as programs; in the order in which they were made.
pub(crate) fn programs_of(catalog: &Catalog, event_type: &str) -> MeteringPlan {
    let mut meters: Vec<_> = catalog.meters().filter(|(_, meter)| meter.event_type == event_type).collect();
    meters.sort_by_key(|(created, _)| *created);
    let programs = meters.into_iter().map(|(created, meter)| program_of(created, meter)).collect();
    MeteringPlan { programs, ..MeteringPlan::default() }
}
