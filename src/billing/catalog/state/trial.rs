//! Resources on trial: taken to see whether they fit one behind the other, and taken back.
//!
//! Owns: what a resource leaves behind when it goes. Leaves to others: what it changes when it comes (`super`).
//!
//! Many resources that are put together are all taken or none. A copy of the catalog to try them on would cost as much as
//! there are customers.
//!
//! Invariants: a catalog from which everything on trial was taken back, last first, is equal to what it was before.

use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::Arc;

use domain::time::BillingUnits;
use domain::{AccountId, Table, Timestamp};

use super::{Catalog, Change, Resource};
use crate::catalog::PriceTimeline;
use crate::catalog::status::CatalogStatus;

/// A resource on trial.
pub struct OnTrial {
    resource: Resource,
    /// Bounds of slices of the accounts that it may give new ones.
    bounds: Vec<(AccountId, Option<Arc<[Timestamp]>>)>,
}

impl Catalog {
    /// Takes a resource until [`Catalog::take_back`]; nothing if it changes nothing.
    ///
    /// # Errors
    /// As [`Catalog::check`].
    pub fn apply_on_trial(
        &mut self,
        resource: Resource,
        control_offset: u64,
    ) -> Result<(Change, Option<OnTrial>), CatalogStatus> {
        let bounded = match &resource {
            Resource::Account(account) => vec![account.id.clone()],
            Resource::Grant(grant) => self.accounts_of_pool(&grant.account).into_iter().cloned().collect(),
            _ => Vec::new(),
        };
        let bounds = bounded.into_iter().map(|id| {
            let bounds = self.grant_bounds.get(&id).cloned();
            (id, bounds)
        });
        let on_trial = OnTrial { bounds: bounds.collect(), resource: resource.clone() };
        let change = self.apply(resource, control_offset)?;
        Ok((change, (change != Change::Unchanged).then_some(on_trial)))
    }

    /// Takes back what was taken last.
    pub fn take_back(&mut self, last: OnTrial) {
        let OnTrial { resource, bounds } = last;
        for (account, bounds) in bounds {
            match bounds {
                Some(bounds) => self.grant_bounds.insert(account, bounds),
                None => drop(self.grant_bounds.remove(&account)),
            }
        }
        match resource {
            Resource::Entity(entity) => drop(self.entities.remove(&entity.id)),
            Resource::Meter(meter) => drop(self.meters.remove(&meter.id)),
            Resource::Plan(plan) => drop(self.plans.remove(&plan.id)),
            Resource::Account(account) => {
                if pop(&mut self.accounts, &account.id, |versions| versions)
                    && let Some(parent) = &account.parent
                {
                    unlink(&mut self.accounts_by_parent, parent, &account.id);
                }
            }
            Resource::Price(price) => {
                if pop(&mut self.prices, &price.id, |timeline| &mut timeline.versions) {
                    unlink(&mut self.prices_by_plan, &price.plan, &price.id);
                    let units: BillingUnits =
                        self.prices_of_plan(&price.plan).map(PriceTimeline::window).collect();
                    if units == BillingUnits::default() {
                        self.units_by_plan.remove(&price.plan);
                    } else {
                        self.units_by_plan.insert(price.plan.clone(), units);
                    }
                }
            }
            Resource::Subscription(subscription) => {
                let id = &subscription.id;
                if let Some(timeline) = self.subscriptions.get_mut(id) {
                    timeline.offsets.pop();
                }
                if pop(&mut self.subscriptions, id, |timeline| &mut timeline.records) {
                    unlink(&mut self.subscriptions_by_account, &subscription.account, id);
                }
                let rest = self.subscriptions.get(id).into_iter().flat_map(|timeline| &timeline.records);
                if !rest.into_iter().any(|record| record.plan == subscription.plan) {
                    unlink(&mut self.subscriptions_by_plan, &subscription.plan, id);
                }
            }
            Resource::Subject(binding) => {
                let id = &binding.id;
                if let Some(timeline) = self.subjects.get_mut(id) {
                    timeline.offsets.pop();
                }
                pop(&mut self.subjects, id, |timeline| &mut timeline.records);
                let rest = self.subjects.get(id).into_iter().flat_map(|timeline| &timeline.records);
                if !rest.into_iter().any(|record| record.subscription == binding.subscription) {
                    unlink(&mut self.subjects_by_subscription, &binding.subscription, id);
                }
            }
            Resource::Commitment(commitment) => {
                let id = &commitment.id;
                if let Some(timeline) = self.commitments.get_mut(id) {
                    timeline.offsets.pop();
                }
                if pop(&mut self.commitments, id, |timeline| &mut timeline.records) {
                    unlink(&mut self.commitments_by_account, &commitment.account, id);
                }
            }
            Resource::Grant(grant) => {
                if pop(&mut self.grants, &grant.id, |versions| versions) {
                    unlink(&mut self.grants_by_account, &grant.account, &grant.id);
                }
            }
            Resource::Discount(discount) => {
                if pop(&mut self.discounts, &discount.id, |versions| versions) {
                    unlink(&mut self.discounts_by_account, &discount.account, &discount.id);
                }
            }
        }
    }
}

/// Takes the last version away; whether it was the only one.
fn pop<K: Clone + Ord + Hash, T, V>(
    all: &mut Table<K, T>,
    id: &K,
    versions: impl Fn(&mut T) -> &mut Vec<V>,
) -> bool {
    let versions = versions(all.get_mut(id).expect("what is on trial is in the catalog"));
    versions.pop().expect("what is on trial is a version");
    let was_only = versions.is_empty();
    if was_only {
        all.remove(id);
    }
    was_only
}

/// Takes an id from what stands under another one.
fn unlink<K: Clone + Ord + Hash, I: Ord>(all: &mut Table<K, BTreeSet<I>>, under: &K, id: &I) {
    let ids = all.get_mut(under).expect("what is on trial is linked");
    ids.remove(id);
    if ids.is_empty() {
        all.remove(under);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::FILE;
    use super::*;
    use crate::catalog::CatalogFile;

    /// Resources of every kind, and further versions of all that may have some.
    fn resources() -> Vec<Resource> {
        let later = r#"
            catalog = 1
            [[account]]
            id = "acme"
            name = "Acme, renamed"
            entity = "inc"
            currency = "USD"
            time_zone = "America/New_York"
            [[price]]
            id = "pro-calls"
            plan = "pro"
            meter = "calls"
            model = "per_unit"
            unit_amount = "0.02"
            window = "month"
            effective_from = "2026-03-01T00:00:00Z"
            [[plan]]
            id = "max"
            currency = "USD"
            [[subscription]]
            id = "s1"
            account = "acme"
            plan = "max"
            from = "2026-02-01T00:00:00Z"
            [[subscription]]
            id = "s2"
            account = "acme"
            plan = "pro"
            from = "2026-01-01T00:00:00Z"
            [[subject]]
            id = "key 1"
            subscription = "s2"
            from = "2026-02-01T00:00:00Z"
            [[commitment]]
            id = "annual"
            account = "acme"
            shape = "year_end"
            amount = "120000"
            from = "2026-01-01T05:00:00Z"
            until = "2027-01-01T05:00:00Z"
            effective_from = "2026-03-01T05:00:00Z"
            [[grant]]
            id = "wallet"
            account = "acme"
            kind = "paid"
            amount = "5000"
            from = "2026-01-01T05:00:00Z"
            voided_at = "2026-03-01T05:00:00Z"
            [[discount]]
            id = "launch"
            account = "acme"
            percent = "20"
            from = "2026-01-01T05:00:00Z"
            until = "2026-03-01T05:00:00Z"
        "#;
        let of = |text: &str| CatalogFile::parse(text).unwrap().resources();
        let mut all = of(FILE);
        all.extend(of(later));
        all
    }

    #[test]
    fn what_is_taken_back_leaves_the_catalog_as_it_was() {
        let all = resources();
        let mut catalog = Catalog::default();
        for (offset, resource) in all.iter().enumerate() {
            let rest = all[offset..].iter().cloned().zip(offset as u64..);
            let (before, mut on_trial) = (catalog.clone(), Vec::new());
            for (resource, offset) in rest {
                let (change, taken) = catalog.apply_on_trial(resource, offset).unwrap();
                assert_ne!(change, Change::Unchanged);
                on_trial.extend(taken);
            }
            on_trial.into_iter().rev().for_each(|last| catalog.take_back(last));
            assert_eq!(catalog, before, "before resource {offset}");
            catalog.apply(resource.clone(), offset as u64).unwrap();
        }
    }
}
