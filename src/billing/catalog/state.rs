//! The catalog as records build it up: every version of every resource.
//!
//! Owns: rules between resources, versions, look-ups. Leaves to others: the records (`machine::control`).
//!
//! Invariants: what a resource names exists; a version, once taken, never changes; taking a resource again that equals
//! the version it would replace is no change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::time::BillingUnits;
use domain::{
    AccountId, CommitmentId, Currency, Decimal, DiscountId, EntityId, GrantId, MeterId, PlanId, PriceId,
    Subject, SubscriptionId, Table, Timestamp,
};

use super::agreement::{AccountDiscount, Commitment, CreditGrant};
use super::price::{Price, PriceDiscount, PricingModel};
use super::resource::{
    Account, Aggregation, Entity, InvoiceThresholds, Meter, Plan, Resource, ResourceKind, Subscription,
};
use super::status::{CatalogStatus, Rule};
use super::timeline::{
    CommitmentTimeline, Effective, PriceTimeline, PriceVersion, SubjectTimeline, SubscriptionTimeline,
};
use super::windows::check_parts;
use crate::rating::AMOUNT_MINOR_MAX;

/// What taking a resource changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The catalog has it already.
    Unchanged,
    /// It is new.
    Create,
    /// It becomes this version.
    NewVersion(u32),
}

impl Change {
    /// The version that is made, if any.
    pub fn version(self) -> Option<u32> {
        match self {
            Change::Unchanged => None,
            Change::Create => Some(1),
            Change::NewVersion(version) => Some(version),
        }
    }
}

/// A version of a resource, and the record that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// Number of the version, from 1 in record order.
    pub version: u32,
    /// Offset of its record in the control log.
    pub control_offset: u64,
    /// The resource.
    pub resource: Resource,
}

/// All resources in all versions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    entities: BTreeMap<EntityId, (u64, Entity)>,
    accounts: Table<AccountId, Vec<(u64, Account)>>,
    accounts_by_parent: Table<AccountId, BTreeSet<AccountId>>,
    meters: BTreeMap<MeterId, (u64, Meter)>,
    plans: BTreeMap<PlanId, (u64, Plan)>,
    prices: Table<PriceId, PriceTimeline>,
    prices_by_plan: Table<PlanId, BTreeSet<PriceId>>,
    /// Units of the windows that a plan's prices have.
    units_by_plan: Table<PlanId, BillingUnits>,
    subscriptions: Table<SubscriptionId, SubscriptionTimeline>,
    subscriptions_by_account: Table<AccountId, BTreeSet<SubscriptionId>>,
    subscriptions_by_plan: Table<PlanId, BTreeSet<SubscriptionId>>,
    subjects: Table<Subject, SubjectTimeline>,
    subjects_by_subscription: Table<SubscriptionId, BTreeSet<Subject>>,
    commitments: Table<CommitmentId, CommitmentTimeline>,
    commitments_by_account: Table<AccountId, BTreeSet<CommitmentId>>,
    grants: Table<GrantId, Vec<(u64, CreditGrant)>>,
    grants_by_account: Table<AccountId, BTreeSet<GrantId>>,
    grant_bounds: Table<AccountId, Arc<[Timestamp]>>,
    discounts: Table<DiscountId, Vec<(u64, AccountDiscount)>>,
    discounts_by_account: Table<AccountId, BTreeSet<DiscountId>>,
}

impl Catalog {
    /// What taking the resource would change.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`Rule`] declares them.
    pub fn check(&self, resource: &Resource) -> Result<Change, CatalogStatus> {
        resource.check().and_then(|()| self.check_between(resource)).map_err(|rule| CatalogStatus {
            kind: resource.kind(),
            id: resource.id().to_string(),
            rule,
        })
    }

    fn check_between(&self, resource: &Resource) -> Result<Change, Rule> {
        match resource {
            Resource::Entity(entity) => match self.entities.get(&entity.id) {
                None => Ok(Change::Create),
                Some((_, before)) if before == entity => Ok(Change::Unchanged),
                Some(_) => Err(Rule::MustNotChange("currency and time zone of a legal entity")),
            },
            Resource::Account(account) => self.check_account(account),
            Resource::Meter(meter) => match self.meters.get(&meter.id) {
                None => Ok(Change::Create),
                Some((_, before)) if before == meter => Ok(Change::Unchanged),
                Some(_) => {
                    Err(Rule::MustNotChange("the definition of a meter (usage is counted by it already)"))
                }
            },
            Resource::Plan(plan) => match self.plans.get(&plan.id) {
                None => Ok(Change::Create),
                Some((_, before)) if before == plan => Ok(Change::Unchanged),
                Some(_) => Err(Rule::MustNotChange("the currency of a plan")),
            },
            Resource::Price(price) => self.check_price(price),
            Resource::Subscription(subscription) => self.check_subscription(subscription),
            Resource::Subject(binding) => {
                if !self.subscriptions.contains_key(&binding.subscription) {
                    return Err(missing("subscription", &binding.subscription));
                }
                let Some(timeline) = self.subjects.get(&binding.id) else { return Ok(Change::Create) };
                Ok(change_of(&timeline.records, binding))
            }
            Resource::Commitment(commitment) => self.check_commitment(commitment),
            Resource::Grant(grant) => self.check_grant(grant),
            Resource::Discount(discount) => self.check_discount(discount),
        }
    }

    fn check_commitment(&self, commitment: &Commitment) -> Result<Change, Rule> {
        let account = self.account(&commitment.account).ok_or(missing("account", &commitment.account))?;
        let bounds =
            [Some(commitment.from), Some(commitment.until), commitment.effective_from, commitment.ended_at];
        check_windows(account, bounds)?;
        check_currency(account.currency, [commitment.amount])?;
        self.check_scope(&commitment.account, &commitment.subscriptions, &commitment.prices)?;
        let Some(timeline) = self.commitments.get(&commitment.id) else { return Ok(Change::Create) };
        let fixed = |c: &Commitment| {
            let scope = (c.subscriptions.clone(), c.prices.clone());
            (c.account.clone(), c.shape, c.from, c.until, c.quantity.is_some(), c.true_up, c.factor(), scope)
        };
        if fixed(timeline.first()) != fixed(commitment) {
            return Err(Rule::MustNotChange(
                "all of a commitment but its amount, its quantity and when it ended",
            ));
        }
        let same_date = timeline.records.iter().rev().find(|r| r.holds_from() == commitment.holds_from());
        if same_date == Some(commitment) {
            return Ok(Change::Unchanged);
        }
        Ok(Change::NewVersion(timeline.records.len() as u32 + 1))
    }

    fn check_grant(&self, grant: &CreditGrant) -> Result<Change, Rule> {
        let account = self.account(&grant.account).ok_or(missing("account", &grant.account))?;
        match &grant.meter {
            None => {
                let rollover = grant.rollover.map(|rollover| rollover.max);
                check_currency(account.currency, [Some(grant.amount), rollover])?;
            }
            Some(id) => {
                let meter = self.meter(id).ok_or(missing("meter", id))?;
                if !matches!(meter.aggregation, Aggregation::Sum | Aggregation::Count) {
                    return Err(Rule::MeterMustAddUp);
                }
            }
        }
        self.check_scope(&grant.account, &grant.subscriptions, &grant.prices)?;
        let Some(versions) = self.grants.get(&grant.id) else { return Ok(Change::Create) };
        let (_, before) = versions.last().expect("a grant has at least one version");
        if before == grant {
            return Ok(Change::Unchanged);
        }
        if (CreditGrant { voided_at: None, ..before.clone() })
            != (CreditGrant { voided_at: None, ..grant.clone() })
        {
            return Err(Rule::MustNotChange("all of a credit grant but when it is voided"));
        }
        Ok(Change::NewVersion(versions.len() as u32 + 1))
    }

    fn check_discount(&self, discount: &AccountDiscount) -> Result<Change, Rule> {
        let account = self.account(&discount.account).ok_or(missing("account", &discount.account))?;
        check_windows(account, [Some(discount.from), discount.until])?;
        check_currency(account.currency, [discount.amount])?;
        self.check_scope(&discount.account, &discount.subscriptions, &discount.prices)?;
        let Some(versions) = self.discounts.get(&discount.id) else { return Ok(Change::Create) };
        let (_, before) = versions.last().expect("a discount has at least one version");
        if before == discount {
            return Ok(Change::Unchanged);
        }
        let fixed = |discount: &AccountDiscount| AccountDiscount { until: None, ..discount.clone() };
        if fixed(before) != fixed(discount) {
            return Err(Rule::MustNotChange("all of a discount but its end"));
        }
        Ok(Change::NewVersion(versions.len() as u32 + 1))
    }

    /// Whether subscriptions are those of the account or of its pool, and prices exist.
    fn check_scope(
        &self,
        account: &AccountId,
        subscriptions: &[SubscriptionId],
        prices: &[PriceId],
    ) -> Result<(), Rule> {
        if let Some(unknown) = subscriptions.iter().find(|id| !self.subscriptions.contains_key(*id)) {
            return Err(missing("subscription", unknown));
        }
        if let Some(unknown) = prices.iter().find(|id| !self.prices.contains_key(*id)) {
            return Err(missing("price", unknown));
        }
        let is_own = |id: &&SubscriptionId| {
            self.subscription(id)
                .is_some_and(|s| s.account() == account || self.pool_of(s.account()) == account)
        };
        match subscriptions.iter().find(|id| !is_own(id)) {
            Some(foreign) => Err(Rule::SubscriptionMustBeOwn(foreign.to_string())),
            None => Ok(()),
        }
    }

    fn check_account(&self, account: &Account) -> Result<Change, Rule> {
        check_currency(account.currency, account.thresholds.iter().flat_map(InvoiceThresholds::all))?;
        if !self.entities.contains_key(&account.entity) {
            return Err(missing("entity", &account.entity));
        }
        if let Some(parent) = &account.parent {
            let parent = self.account(parent).ok_or(missing("account", parent))?;
            let terms = |a: &Account| (a.entity.clone(), a.currency, a.time_zone.clone());
            if parent.id == account.id || parent.parent.is_some() || terms(parent) != terms(account) {
                return Err(Rule::ParentMustShareTerms);
            }
        }
        let Some(versions) = self.accounts.get(&account.id) else { return Ok(Change::Create) };
        let (_, before) = versions.last().expect("an account has at least one version");
        if before == account {
            return Ok(Change::Unchanged);
        }
        let terms = |a: &Account| (a.entity.clone(), a.currency, a.time_zone.clone(), a.parent.clone());
        if terms(before) != terms(account) {
            return Err(Rule::MustNotChange("legal entity, currency, time zone and parent of an account"));
        }
        Ok(Change::NewVersion(versions.len() as u32 + 1))
    }

    fn check_price(&self, price: &Price) -> Result<Change, Rule> {
        let Some(plan) = self.plans.get(&price.plan).map(|(_, plan)| plan) else {
            return Err(missing("plan", &price.plan));
        };
        check_currency(plan.currency, amounts_of(&price.discounts).chain([price.minimum, price.maximum]))?;
        if let Some(meter) = price.all_meters().find(|meter| !self.meters.contains_key(*meter)) {
            return Err(missing("meter", meter));
        }
        let keeps_events = |meter: &MeterId| self.meters[meter].1.aggregation == Aggregation::Each;
        if price.model == PricingModel::Percentage && !price.all_meters().all(keeps_events) {
            return Err(Rule::MeterMustKeepEvents);
        }
        let Some(timeline) = self.prices.get(&price.id) else {
            return self.check_windows_of_price(price).map(|()| Change::Create);
        };
        let first = &timeline.versions[0].price;
        if first.plan != price.plan || !first.counts_like(price) {
            return Err(Rule::MustNotChange(
                "plan, meter, model, unit, package size, window and scope of tiers of a price",
            ));
        }
        // Compared with the newest version of the same effective date: an older date is a version of its own.
        let same_date =
            timeline.versions.iter().rev().find(|v| v.price.effective_from == price.effective_from);
        if same_date.is_some_and(|version| version.price == *price) {
            return Ok(Change::Unchanged);
        }
        check_parts(timeline.versions.iter().map(|version| &version.price).chain([price]))?;
        Ok(Change::NewVersion(timeline.versions.len() as u32 + 1))
    }

    fn check_subscription(&self, subscription: &Subscription) -> Result<Change, Rule> {
        let Some(account) = self.account(&subscription.account) else {
            return Err(missing("account", &subscription.account));
        };
        let Some(plan) = self.plan(&subscription.plan) else {
            return Err(missing("plan", &subscription.plan));
        };
        if plan.currency != account.currency {
            return Err(Rule::CurrencyMustMatchAccount);
        }
        let bounds = [subscription.minimum, subscription.maximum];
        check_currency(account.currency, amounts_of(&subscription.discounts).chain(bounds))?;
        self.check_windows_of_subscription(subscription)?;
        let Some(timeline) = self.subscriptions.get(&subscription.id) else { return Ok(Change::Create) };
        if *timeline.account() != subscription.account {
            return Err(Rule::MustNotChange("the account of a subscription"));
        }
        if timeline.anchor() != subscription.anchor {
            return Err(Rule::MustNotChange("the anchor of a subscription"));
        }
        Ok(change_of(&timeline.records, subscription))
    }

    /// Takes a resource; its record stands at `control_offset`.
    ///
    /// # Errors
    /// As [`Catalog::check`]; nothing is changed then.
    pub fn apply(&mut self, resource: Resource, control_offset: u64) -> Result<Change, CatalogStatus> {
        let change = self.check(&resource)?;
        let Some(version) = change.version() else { return Ok(change) };

        // From here taking it must succeed.
        match resource {
            Resource::Entity(entity) => {
                self.entities.insert(entity.id.clone(), (control_offset, entity));
            }
            Resource::Account(account) => {
                if let Some(parent) = &account.parent {
                    self.accounts_by_parent.get_or_default(parent.clone()).insert(account.id.clone());
                    if version == 1 {
                        self.grant_bounds.insert(account.id.clone(), self.grant_bounds(parent).into());
                    }
                }
                self.accounts.get_or_default(account.id.clone()).push((control_offset, account));
            }
            Resource::Meter(meter) => {
                self.meters.insert(meter.id.clone(), (control_offset, meter));
            }
            Resource::Plan(plan) => {
                self.plans.insert(plan.id.clone(), (control_offset, plan));
            }
            Resource::Price(price) => {
                self.prices_by_plan.get_or_default(price.plan.clone()).insert(price.id.clone());
                self.units_by_plan.get_or_default(price.plan.clone()).insert(price.window);
                let timeline = self
                    .prices
                    .get_or_insert_with(price.id.clone(), || PriceTimeline { versions: Vec::new() });
                let taken = PriceVersion::new(version, control_offset, *price);
                timeline.versions.push(taken.expect("a price is checked before it is taken"));
            }
            Resource::Subscription(subscription) => {
                let id = subscription.id.clone();
                self.subscriptions_by_account.get_or_default(subscription.account.clone()).insert(id.clone());
                self.subscriptions_by_plan.get_or_default(subscription.plan.clone()).insert(id.clone());
                let empty = || SubscriptionTimeline { records: Vec::new(), offsets: Vec::new() };
                let timeline = self.subscriptions.get_or_insert_with(id, empty);
                timeline.records.push(subscription);
                timeline.offsets.push(control_offset);
            }
            Resource::Subject(binding) => {
                let subject = binding.id.clone();
                let bound = self.subjects_by_subscription.get_or_default(binding.subscription.clone());
                bound.insert(subject.clone());
                let empty = || SubjectTimeline { records: Vec::new(), offsets: Vec::new() };
                let timeline = self.subjects.get_or_insert_with(subject, empty);
                timeline.records.push(binding);
                timeline.offsets.push(control_offset);
            }
            Resource::Commitment(commitment) => {
                let (id, account) = (commitment.id.clone(), commitment.account.clone());
                self.commitments_by_account.get_or_default(account).insert(id.clone());
                let empty = || CommitmentTimeline { records: Vec::new(), offsets: Vec::new() };
                let timeline = self.commitments.get_or_insert_with(id, empty);
                timeline.records.push(*commitment);
                timeline.offsets.push(control_offset);
            }
            Resource::Grant(grant) => {
                let (id, account) = (grant.id.clone(), grant.account.clone());
                let zone = &self.account(&account).expect("a grant is of an account").time_zone;
                // A void that is moved stays a bound: slices only get finer.
                let of_grant =
                    if version == 1 { grant.bounds(zone) } else { grant.void_bound().into_iter().collect() };
                if !of_grant.is_empty() {
                    let children = self.accounts_by_parent.get(&account).into_iter().flatten().cloned();
                    for account in std::iter::once(account.clone()).chain(children).collect::<Vec<_>>() {
                        let mut bounds = of_grant.clone();
                        bounds.extend(self.grant_bounds(&account));
                        bounds.sort_unstable();
                        bounds.dedup();
                        self.grant_bounds.insert(account, bounds.into());
                    }
                }
                self.grants_by_account.get_or_default(account).insert(id.clone());
                self.grants.get_or_default(id).push((control_offset, *grant));
            }
            Resource::Discount(discount) => {
                let (id, account) = (discount.id.clone(), discount.account.clone());
                self.discounts_by_account.get_or_default(account).insert(id.clone());
                self.discounts.get_or_default(id).push((control_offset, *discount));
            }
        }
        Ok(change)
    }

    /// A legal entity.
    pub fn entity(&self, id: &EntityId) -> Option<&Entity> {
        self.entities.get(id).map(|(_, entity)| entity)
    }

    /// All legal entities.
    pub fn entities(&self) -> impl Iterator<Item = &Entity> {
        self.entities.values().map(|(_, entity)| entity)
    }

    /// An account.
    pub fn account(&self, id: &AccountId) -> Option<&Account> {
        self.accounts.get(id)?.last().map(|(_, account)| account)
    }

    /// The account whose agreements hold for this one as well: its parent, or itself.
    pub fn pool_of<'a>(&'a self, account: &'a AccountId) -> &'a AccountId {
        self.account(account).and_then(|account| account.parent.as_ref()).unwrap_or(account)
    }

    /// The accounts of a pool, in order: the parent, and those that name it.
    pub fn accounts_of_pool<'a>(&'a self, pool: &'a AccountId) -> Vec<&'a AccountId> {
        let mut accounts = vec![pool];
        accounts.extend(self.accounts_by_parent.get(pool).into_iter().flatten());
        accounts.sort_unstable();
        accounts
    }

    /// All accounts.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values().filter_map(|versions| versions.last()).map(|(_, account)| account)
    }

    /// A meter.
    pub fn meter(&self, id: &MeterId) -> Option<&Meter> {
        self.meters.get(id).map(|(_, meter)| meter)
    }

    /// All meters with the control-log offset of their creation.
    pub fn meters(&self) -> impl Iterator<Item = (u64, &Meter)> {
        self.meters.values().map(|(offset, meter)| (*offset, meter))
    }

    /// A plan.
    pub fn plan(&self, id: &PlanId) -> Option<&Plan> {
        self.plans.get(id).map(|(_, plan)| plan)
    }

    /// All plans.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.plans.values().map(|(_, plan)| plan)
    }

    /// A price.
    pub fn price(&self, id: &PriceId) -> Option<&PriceTimeline> {
        self.prices.get(id)
    }

    /// All prices.
    pub fn prices(&self) -> impl Iterator<Item = &PriceTimeline> {
        self.prices.values()
    }

    /// The prices of a plan.
    pub fn prices_of_plan(&self, plan: &PlanId) -> impl Iterator<Item = &PriceTimeline> {
        self.prices_by_plan.get(plan).into_iter().flatten().map(|id| &self.prices[id])
    }

    /// Units of the windows of a plan's prices.
    pub fn units_of_plan(&self, plan: &PlanId) -> BillingUnits {
        self.units_by_plan.get(plan).copied().unwrap_or_default()
    }

    /// A subscription.
    pub fn subscription(&self, id: &SubscriptionId) -> Option<&SubscriptionTimeline> {
        self.subscriptions.get(id)
    }

    /// All subscriptions.
    pub fn subscriptions(&self) -> impl Iterator<Item = &SubscriptionTimeline> {
        self.subscriptions.values()
    }

    /// The subscriptions of an account.
    pub fn subscriptions_of_account(
        &self,
        account: &AccountId,
    ) -> impl Iterator<Item = &SubscriptionTimeline> {
        self.subscriptions_by_account.get(account).into_iter().flatten().map(|id| &self.subscriptions[id])
    }

    /// The subscriptions that were ever to a plan.
    pub fn subscriptions_of_plan(&self, plan: &PlanId) -> impl Iterator<Item = &SubscriptionTimeline> {
        self.subscriptions_by_plan.get(plan).into_iter().flatten().map(|id| &self.subscriptions[id])
    }

    /// A subject.
    pub fn subject(&self, subject: &str) -> Option<&SubjectTimeline> {
        self.subjects.get(subject)
    }

    /// All subjects.
    pub fn subjects(&self) -> impl Iterator<Item = (&Subject, &SubjectTimeline)> {
        self.subjects.iter()
    }

    /// The subjects that were ever bound to a subscription.
    pub fn subjects_of_subscription(&self, subscription: &SubscriptionId) -> impl Iterator<Item = &Subject> {
        self.subjects_by_subscription.get(subscription).into_iter().flatten()
    }

    /// The commitments of an account.
    pub fn commitments_of_account(&self, account: &AccountId) -> impl Iterator<Item = &CommitmentTimeline> {
        self.commitments_by_account.get(account).into_iter().flatten().map(|id| &self.commitments[id])
    }

    /// The credit grants of an account, each with the control-log offset of its creation.
    pub fn grants_of_account(&self, account: &AccountId) -> impl Iterator<Item = (u64, &CreditGrant)> {
        self.grants_by_account.get(account).into_iter().flatten().map(|id| {
            let versions = &self.grants[id];
            let (newest, first) = (versions.last(), versions.first());
            (first.expect("a grant has a version").0, &newest.expect("a grant has a version").1)
        })
    }

    /// Instants at which lots of the credit grants of an account and its parent start, expire or were ever voided, sorted and
    /// each once: bounds of slices.
    pub fn grant_bounds(&self, account: &AccountId) -> &[Timestamp] {
        self.grant_bounds.get(account).map_or(&[], |bounds| bounds)
    }

    /// The discounts of an account, each with the control-log offset of its creation.
    pub fn discounts_of_account(&self, account: &AccountId) -> impl Iterator<Item = (u64, &AccountDiscount)> {
        self.discounts_by_account.get(account).into_iter().flatten().map(|id| {
            let versions = &self.discounts[id];
            let (newest, first) = (versions.last(), versions.first());
            (first.expect("a discount has a version").0, &newest.expect("a discount has a version").1)
        })
    }

    /// A credit grant.
    pub fn grant(&self, id: &str) -> Option<&CreditGrant> {
        self.grants.get(id)?.last().map(|(_, grant)| grant)
    }

    /// All versions of a resource, oldest first; empty if there is none.
    pub fn versions(&self, kind: ResourceKind, id: &str) -> Vec<Versioned> {
        match kind {
            ResourceKind::Entities => {
                self.entities.get(id).map_or_else(Vec::new, |(at, r)| vec![version_of(0, *at, r)])
            }
            ResourceKind::Accounts => {
                let versions = self.accounts.get(id).into_iter().flatten().enumerate();
                versions.map(|(index, (at, r))| version_of(index, *at, r)).collect()
            }
            ResourceKind::Meters => {
                self.meters.get(id).map_or_else(Vec::new, |(at, r)| vec![version_of(0, *at, r)])
            }
            ResourceKind::Plans => {
                self.plans.get(id).map_or_else(Vec::new, |(at, r)| vec![version_of(0, *at, r)])
            }
            ResourceKind::Prices => {
                let versions = self.prices.get(id).into_iter().flat_map(PriceTimeline::versions).enumerate();
                versions.map(|(index, v)| version_of(index, v.control_offset, &v.price)).collect()
            }
            ResourceKind::Subscriptions => {
                self.subscriptions.get(id).map_or_else(Vec::new, |t| versions_of(&t.records, &t.offsets))
            }
            ResourceKind::Subjects => {
                self.subjects.get(id).map_or_else(Vec::new, |t| versions_of(&t.records, &t.offsets))
            }
            ResourceKind::Commitments => {
                self.commitments.get(id).map_or_else(Vec::new, |t| versions_of(&t.records, &t.offsets))
            }
            ResourceKind::Grants => {
                let versions = self.grants.get(id).into_iter().flatten().enumerate();
                versions.map(|(index, (at, r))| version_of(index, *at, r)).collect()
            }
            ResourceKind::Discounts => {
                let versions = self.discounts.get(id).into_iter().flatten().enumerate();
                versions.map(|(index, (at, r))| version_of(index, *at, r)).collect()
            }
        }
    }

    /// The newest version of a resource, as it would be put.
    pub fn newest(&self, resource: &Resource) -> Option<Resource> {
        self.versions(resource.kind(), resource.id()).pop().map(|versioned| versioned.resource)
    }
}

/// Whether instants are the starts of months in the account's zone.
fn check_windows(account: &Account, bounds: impl IntoIterator<Item = Option<Timestamp>>) -> Result<(), Rule> {
    let zone = &account.time_zone;
    let is_bound = |instant: Timestamp| zone.month(zone.period_of(instant)).from == instant;
    if bounds.into_iter().flatten().all(is_bound) { Ok(()) } else { Err(Rule::TermMustFitWindows) }
}

/// Whether agreed amounts are whole minor units, and no more than a window may be worth.
fn check_currency(
    currency: Currency,
    amounts: impl IntoIterator<Item = Option<Decimal>>,
) -> Result<(), Rule> {
    let fits = |amount: Decimal| {
        let minor = amount.mantissa_at(currency.exponent());
        minor.is_some_and(|minor| minor.unsigned_abs() <= AMOUNT_MINOR_MAX.unsigned_abs())
    };
    if amounts.into_iter().flatten().all(fits) { Ok(()) } else { Err(Rule::AmountMustFitCurrency) }
}

/// The amounts of discounts that are amounts.
fn amounts_of(discounts: &[PriceDiscount]) -> impl Iterator<Item = Option<Decimal>> {
    discounts.iter().map(|discount| match discount {
        PriceDiscount::Amount(amount) => Some(*amount),
        PriceDiscount::Percent(_) => None,
    })
}

fn version_of<T: Clone + Into<Resource>>(index: usize, control_offset: u64, resource: &T) -> Versioned {
    Versioned { version: index as u32 + 1, control_offset, resource: resource.clone().into() }
}

fn versions_of<T: Clone + Into<Resource>>(records: &[T], offsets: &[u64]) -> Vec<Versioned> {
    let versions = records.iter().zip(offsets).enumerate();
    versions.map(|(index, (record, offset))| version_of(index, *offset, record)).collect()
}

/// A record equal to the newest one with the same start changes nothing, so that a file with a history applies twice.
fn change_of<T: PartialEq + Effective>(records: &[T], record: &T) -> Change {
    let same_start = records.iter().rev().find(|known| known.from() == record.from());
    if same_start == Some(record) { Change::Unchanged } else { Change::NewVersion(records.len() as u32 + 1) }
}

fn missing(kind: &str, id: &impl std::fmt::Display) -> Rule {
    Rule::ReferenceMustExist(format!("{kind} {id}"))
}

mod admission;
mod trial;

pub use self::trial::OnTrial;

#[cfg(test)]
pub(super) mod tests;
