//! Grants in units: what an account used of their meters, and what of it they cover.
//!
//! Owns: use by meter, group and slice, gathered from cells; what closed periods covered. Leaves to others: which grant covers
//! what (`billing::rating::account`), what is left to price (`cut`).
//!
//! Invariants: use that no price charges is not covered: before a price begins, in no row of a matrix; a unit is used once, however
//! many prices its meter has.

use std::collections::{BTreeMap, BTreeSet};

use billing::catalog::{Account, Entity, PriceTimeline, PricingModel};
use billing::charges::{Component, LineKey};
use billing::rating::RatingStatus;
use billing::rating::account::{CoveredUnits, FrozenUnits, UnitUse, cover_units};
use domain::{AccountId, Exact, MeterId, Span, Timestamp};
use engine::shard::kept::CellValue;

use crate::cut::{Charge, PooledAccount, PricedMeter, Rater, original_period, texts_of};
use crate::owners::{ActiveSpan, Schedules, active_spans};
use crate::windows::window_of;
use domain::GroupTexts;

/// The key of what a subscription used of a group in a slice.
pub(crate) fn key_of_use(charge: &Charge<'_>, group: GroupTexts, slice_from: Timestamp) -> LineKey {
    LineKey {
        account: charge.account.id.clone(),
        subscription: Some(charge.subscription.clone()),
        price: None,
        window: charge.window,
        group,
        slice_from,
        price_version: 0,
        component: Component::Covered,
        term: String::new(),
    }
}

impl Rater<'_> {
    /// What a pool's grants in units cover in the windows of its accounts: in all of them, if it has such grants.
    pub(crate) fn covered(
        &self,
        schedules: &mut Schedules,
        pool: &[PooledAccount<'_>],
        entity: &Entity,
    ) -> Result<CoveredUnits, RatingStatus> {
        let grants = self.grants_of_pool(pool);
        let meters: BTreeSet<&MeterId> =
            grants.iter().filter_map(|(_, grant)| grant.meter.as_ref()).collect();
        if meters.is_empty() {
            return Ok(CoveredUnits::default());
        }
        let nothing = CoveredUnits::default();
        let mut uses: BTreeMap<(MeterId, LineKey), UnitUse> = BTreeMap::new();
        let mut frozen = Vec::new();
        let windows =
            pool.iter().flat_map(|member| member.windows.iter().map(|window| (member.terms, window)));
        for (account, (subscription, window)) in windows {
            let window = *window;
            let active: Vec<ActiveSpan> = active_spans(self.catalog, subscription)
                .into_iter()
                .filter(|active| active.span.overlaps(window) && !active.is_trial)
                .collect();
            let plans: BTreeSet<_> = active.iter().map(|active| &active.plan).collect();
            let prices = plans.into_iter().flat_map(|plan| self.catalog.prices_of_plan(plan));
            let anchor = active.first().and_then(|active| active.anchor);
            let is_of_window = |price: &&PriceTimeline| {
                price.model() != PricingModel::Capacity
                    && window_of(price, anchor, &account.time_zone, window.from) == window
            };
            for price in prices.filter(is_of_window) {
                let charge = Charge { account, subscription, price, window, covered: &nothing };
                let priced = self.priced_meters(price).into_iter();
                for meter in priced.filter(|meter| meters.contains(&meter.terms.id)) {
                    for one in self.uses_of(schedules, &charge, &active, &meter)? {
                        // Another price of the meter counts the same units.
                        uses.entry((one.meter.clone(), one.key.clone())).or_insert(one);
                    }
                }
            }
        }
        for member in pool {
            frozen.extend(self.frozen_units(member.terms, entity));
        }
        let head = self.catalog.pool_of(&pool[0].terms.id);
        let zone = &pool[0].terms.time_zone;
        cover_units(head, &grants, uses.into_values().collect(), &frozen, zone, self.cut.at)
    }

    /// What was used of a meter under a price, by group and slice.
    fn uses_of(
        &self,
        schedules: &mut Schedules,
        charge: &Charge<'_>,
        active: &[ActiveSpan],
        meter: &PricedMeter<'_>,
    ) -> Result<Vec<UnitUse>, RatingStatus> {
        let mut used: BTreeMap<(GroupTexts, Timestamp), (Span, CellValue)> = BTreeMap::new();
        let own: Vec<&ActiveSpan> =
            active.iter().filter(|active| active.plan == *charge.price.plan()).collect();
        for (slice, cell) in self.cells_of(schedules, charge, &own, meter.program) {
            // What cannot be matched is said by rating.
            let group = texts_of(meter, cell.group);
            if !charge.price.charges(slice.from, &group) {
                continue;
            }
            let (_, value) = used.entry((group, slice.from)).or_insert_with(|| (slice, CellValue::default()));
            value.merge(&cell.value);
        }
        let use_of = |((group, slice_from), (slice, value)): ((GroupTexts, Timestamp), (Span, CellValue))| {
            Ok(UnitUse {
                key: key_of_use(charge, group, slice_from),
                meter: meter.terms.id.clone(),
                window: charge.window,
                slice,
                quantity: meter.rule.sum(&value)?,
            })
        };
        used.into_iter().map(use_of).collect()
    }

    /// What closed periods covered.
    fn frozen_units(&self, account: &Account, entity: &Entity) -> Vec<FrozenUnits> {
        let covered =
            self.issued.of_account(&account.id).filter(|(key, _)| key.component == Component::Covered);
        let closed = covered.filter_map(|(key, worth)| {
            let window = key.window;
            let original = original_period(self.catalog, entity, key);
            let is_closed = self.open_period(entity, original) != original;
            let units = worth.quantity;
            (is_closed && units.is_positive()).then_some((key, window, units))
        });
        let closed: Vec<(&LineKey, Span, Exact)> = closed.collect();
        let ends = self.ends_of_draws(&account.id, closed.iter().map(|(key, ..)| *key));
        let frozen = closed.into_iter().zip(ends).map(|((key, window, units), until)| FrozenUnits {
            key: key.clone(),
            window,
            until,
            units,
        });
        frozen.collect()
    }

    /// Ends of the slices that draws of an account paid for, as they were then: a slice that was charged since by itself is no
    /// part of the one before it.
    pub(crate) fn ends_of_draws<'k>(
        &self,
        account: &AccountId,
        draws: impl Iterator<Item = &'k LineKey>,
    ) -> Vec<Timestamp> {
        let mut slices = None;
        let end_of = |key: &LineKey| {
            let slices = slices.get_or_insert_with(|| self.issued.slices_of(account));
            let of_window = slices.get(&(key.subscription.clone(), key.window));
            let next = of_window.and_then(|of| of.range(key.slice_from.plus(1)..).next().copied());
            let end = self.issued.end_of_draw(key);
            next.map_or(end, |next| next.min(end))
        };
        draws.map(end_of).collect()
    }
}
