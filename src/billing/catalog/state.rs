//! The catalog as records build it up: every version of every resource.
//!
//! Owns: rules between resources, versions, look-ups. Leaves to others: the records (`machine::control`).
//!
//! Invariants: what a resource names exists; a version, once taken, never changes; taking a resource again that equals
//! the version it would replace is no change.

use std::collections::{BTreeMap, BTreeSet};

use domain::{AccountId, EntityId, MeterId, PlanId, PriceId, Subject, SubscriptionId};

use super::resource::{Account, Entity, Meter, Plan, Price, Resource, Subscription};
use super::status::{CatalogStatus, Rule};
use super::timeline::{Effective, PriceTimeline, PriceVersion, SubjectTimeline, SubscriptionTimeline};

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

/// All resources in all versions.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    entities: BTreeMap<EntityId, Entity>,
    accounts: BTreeMap<AccountId, (u32, Account)>,
    meters: BTreeMap<MeterId, (u64, Meter)>,
    plans: BTreeMap<PlanId, Plan>,
    prices: BTreeMap<PriceId, PriceTimeline>,
    prices_by_plan: BTreeMap<PlanId, BTreeSet<PriceId>>,
    subscriptions: BTreeMap<SubscriptionId, SubscriptionTimeline>,
    subscriptions_by_account: BTreeMap<AccountId, BTreeSet<SubscriptionId>>,
    subscriptions_by_plan: BTreeMap<PlanId, BTreeSet<SubscriptionId>>,
    subjects: BTreeMap<Subject, SubjectTimeline>,
    subjects_by_subscription: BTreeMap<SubscriptionId, BTreeSet<Subject>>,
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
                Some(before) if before == entity => Ok(Change::Unchanged),
                Some(_) => Err(Rule::MustNotChange("currency and time zone of a legal entity")),
            },
            Resource::Account(account) => self.check_account(account),
            Resource::Meter(meter) => match self.meters.get(&meter.id) {
                None => Ok(Change::Create),
                Some((_, before)) if before == meter => Ok(Change::Unchanged),
                Some(_) => Err(Rule::MustNotChange("the definition of a meter")),
            },
            Resource::Plan(plan) => match self.plans.get(&plan.id) {
                None => Ok(Change::Create),
                Some(before) if before == plan => Ok(Change::Unchanged),
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
        }
    }

    fn check_account(&self, account: &Account) -> Result<Change, Rule> {
        if !self.entities.contains_key(&account.entity) {
            return Err(missing("entity", &account.entity));
        }
        let Some((version, before)) = self.accounts.get(&account.id) else { return Ok(Change::Create) };
        if before == account {
            return Ok(Change::Unchanged);
        }
        let terms = |a: &Account| (a.entity.clone(), a.currency, a.time_zone.clone());
        if terms(before) != terms(account) {
            return Err(Rule::MustNotChange("legal entity, currency and time zone of an account"));
        }
        Ok(Change::NewVersion(version + 1))
    }

    fn check_price(&self, price: &Price) -> Result<Change, Rule> {
        if !self.plans.contains_key(&price.plan) {
            return Err(missing("plan", &price.plan));
        }
        if let Some(meter) = price.meter.as_ref().filter(|meter| !self.meters.contains_key(*meter)) {
            return Err(missing("meter", meter));
        }
        let Some(timeline) = self.prices.get(&price.id) else { return Ok(Change::Create) };
        let first = &timeline.versions[0].price;
        let terms = |p: &Price| (p.plan.clone(), p.meter.clone(), p.model, p.window);
        if terms(first) != terms(price) {
            return Err(Rule::MustNotChange("plan, meter, model and window of a price"));
        }
        // Compared with the newest version of the same effective date: an older date is a version of its own.
        let same_date =
            timeline.versions.iter().rev().find(|v| v.price.effective_from == price.effective_from);
        if same_date.is_some_and(|version| version.price == *price) {
            return Ok(Change::Unchanged);
        }
        Ok(Change::NewVersion(timeline.versions.len() as u32 + 1))
    }

    fn check_subscription(&self, subscription: &Subscription) -> Result<Change, Rule> {
        let Some((_, account)) = self.accounts.get(&subscription.account) else {
            return Err(missing("account", &subscription.account));
        };
        let Some(plan) = self.plans.get(&subscription.plan) else {
            return Err(missing("plan", &subscription.plan));
        };
        if plan.currency != account.currency {
            return Err(Rule::CurrencyMustMatchAccount);
        }
        let Some(timeline) = self.subscriptions.get(&subscription.id) else { return Ok(Change::Create) };
        if *timeline.account() != subscription.account {
            return Err(Rule::MustNotChange("the account of a subscription"));
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
            Resource::Entity(entity) => drop(self.entities.insert(entity.id.clone(), entity)),
            Resource::Account(account) => drop(self.accounts.insert(account.id.clone(), (version, account))),
            Resource::Meter(meter) => drop(self.meters.insert(meter.id.clone(), (control_offset, meter))),
            Resource::Plan(plan) => drop(self.plans.insert(plan.id.clone(), plan)),
            Resource::Price(price) => {
                self.prices_by_plan.entry(price.plan.clone()).or_default().insert(price.id.clone());
                let timeline =
                    self.prices.entry(price.id.clone()).or_insert(PriceTimeline { versions: Vec::new() });
                timeline.versions.push(PriceVersion { version, control_offset, price });
            }
            Resource::Subscription(subscription) => {
                let id = subscription.id.clone();
                self.subscriptions_by_account
                    .entry(subscription.account.clone())
                    .or_default()
                    .insert(id.clone());
                self.subscriptions_by_plan.entry(subscription.plan.clone()).or_default().insert(id.clone());
                let timeline =
                    self.subscriptions.entry(id).or_insert(SubscriptionTimeline { records: Vec::new() });
                timeline.records.push(subscription);
            }
            Resource::Subject(binding) => {
                let subject = binding.id.clone();
                let bound = self.subjects_by_subscription.entry(binding.subscription.clone()).or_default();
                bound.insert(subject.clone());
                let timeline =
                    self.subjects.entry(subject).or_insert(SubjectTimeline { records: Vec::new() });
                timeline.records.push(binding);
            }
        }
        Ok(change)
    }

    /// A legal entity.
    pub fn entity(&self, id: &EntityId) -> Option<&Entity> {
        self.entities.get(id)
    }

    /// All legal entities.
    pub fn entities(&self) -> impl Iterator<Item = &Entity> {
        self.entities.values()
    }

    /// An account.
    pub fn account(&self, id: &AccountId) -> Option<&Account> {
        self.accounts.get(id).map(|(_, account)| account)
    }

    /// All accounts.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values().map(|(_, account)| account)
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
        self.plans.get(id)
    }

    /// All plans.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        self.plans.values()
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

    /// The newest version of a resource, as it would be put.
    pub fn newest(&self, resource: &Resource) -> Option<Resource> {
        match resource {
            Resource::Entity(r) => self.entities.get(&r.id).cloned().map(Resource::Entity),
            Resource::Account(r) => self.account(&r.id).cloned().map(Resource::Account),
            Resource::Meter(r) => self.meter(&r.id).cloned().map(Resource::Meter),
            Resource::Plan(r) => self.plans.get(&r.id).cloned().map(Resource::Plan),
            Resource::Price(r) => {
                self.prices.get(&r.id)?.versions.last().map(|v| Resource::Price(v.price.clone()))
            }
            Resource::Subscription(r) => {
                self.subscriptions.get(&r.id)?.records.last().cloned().map(Resource::Subscription)
            }
            Resource::Subject(r) => self.subjects.get(&r.id)?.records.last().cloned().map(Resource::Subject),
        }
    }
}

/// A record equal to the newest one with the same start changes nothing, so that a file with a history applies twice.
fn change_of<T: PartialEq + Effective>(records: &[T], record: &T) -> Change {
    let same_start = records.iter().rev().find(|known| known.from() == record.from());
    if same_start == Some(record) { Change::Unchanged } else { Change::NewVersion(records.len() as u32 + 1) }
}

fn missing(kind: &str, id: &impl std::fmt::Display) -> Rule {
    Rule::ReferenceMustExist(format!("{kind} {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{CatalogFile, ResourceKind};
    use serde_json::json;

    pub(crate) const FILE: &str = r#"
        catalog = 1
        [[entity]]
        id = "inc"
        currency = "USD"
        time_zone = "America/New_York"
        [[account]]
        id = "acme"
        name = "Acme"
        entity = "inc"
        currency = "USD"
        time_zone = "America/New_York"
        [[meter]]
        id = "calls"
        event_type = "call"
        aggregation = "count"
        [[plan]]
        id = "pro"
        currency = "USD"
        [[plan]]
        id = "euro"
        currency = "EUR"
        [[price]]
        id = "pro-calls"
        plan = "pro"
        meter = "calls"
        model = "per_unit"
        unit_amount = "0.01"
        window = "month"
        [[subscription]]
        id = "s1"
        account = "acme"
        plan = "pro"
        from = "2026-01-01T00:00:00Z"
        [[subject]]
        id = "key 1"
        subscription = "s1"
        from = "2026-01-01T00:00:00Z"
    "#;

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        for (offset, resource) in CatalogFile::parse(FILE).unwrap().resources().into_iter().enumerate() {
            assert_eq!(catalog.apply(resource, offset as u64), Ok(Change::Create));
        }
        catalog
    }

    fn put(kind: ResourceKind, id: &str, body: serde_json::Value) -> Result<Change, &'static str> {
        let resource = Resource::from_json(kind, id, body).map_err(|status| status.rule.name())?;
        catalog().check(&resource).map_err(|status| status.rule.name())
    }

    #[test]
    fn each_broken_rule_has_its_name() {
        use ResourceKind::*;
        let price = |body: serde_json::Value| {
            let mut whole = json!({"plan": "pro", "meter": "calls", "model": "per_unit", "unit_amount": "1", "window": "month"});
            whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
            put(Prices, "p2", whole)
        };
        let sub = |account: &str, plan: &str| {
            put(
                Subscriptions,
                "s2",
                json!({"account": account, "plan": plan, "from": "2026-01-01T00:00:00Z"}),
            )
        };
        let tiers = |tiers: serde_json::Value| {
            price(json!({"model": "graduated", "unit_amount": null, "tiers": tiers}))
        };
        type Outcome = Result<Change, &'static str>;
        let cases: [(Outcome, Outcome); 22] = [
            (price(json!({})), Ok(Change::Create)),
            (price(json!({"unit_amount": 1.5})), Err("body_must_be_readable")),
            (price(json!({"unit_amount": "NaN"})), Err("body_must_be_readable")),
            (price(json!({"colour": "red"})), Err("body_must_be_readable")),
            (price(json!({"id": "other"})), Err("id_must_match_path")),
            (price(json!({"per": 7})), Err("per_must_be_power_of_ten")),
            (price(json!({"per": 0})), Err("per_must_be_power_of_ten")),
            (price(json!({"tiers": []})), Err("price_must_fit_model")),
            (price(json!({"model": "flat"})), Err("price_must_fit_model")),
            (tiers(json!([])), Err("tiers_must_rise")),
            (tiers(json!([{"up_to": "5", "unit_amount": "1"}])), Err("tiers_must_rise")),
            (
                tiers(
                    json!([{"up_to": "5", "unit_amount": "1"}, {"up_to": "5.0", "unit_amount": "1"}, {"unit_amount": "1"}]),
                ),
                Err("tiers_must_rise"),
            ),
            (tiers(json!([{"up_to": "5", "unit_amount": "1"}, {"unit_amount": "1"}])), Ok(Change::Create)),
            (price(json!({"plan": "none"})), Err("reference_must_exist")),
            (price(json!({"meter": "none"})), Err("reference_must_exist")),
            (sub("acme", "euro"), Err("currency_must_match_account")),
            (sub("nobody", "pro"), Err("reference_must_exist")),
            (sub("acme", "pro"), Ok(Change::Create)),
            (
                put(Meters, "m", json!({"event_type": "e", "aggregation": "sum"})),
                Err("value_must_fit_aggregation"),
            ),
            (
                put(Meters, "calls", json!({"event_type": "other", "aggregation": "count"})),
                Err("must_not_change"),
            ),
            (
                put(
                    Subjects,
                    "x",
                    json!({"subscription": "s1", "from": "2026-02-01T00:00:00Z", "until": "2026-02-01T00:00:00Z"}),
                ),
                Err("until_must_be_after_from"),
            ),
            (
                put(Entities, "inc", json!({"currency": "EUR", "time_zone": "Europe/Berlin"})),
                Err("must_not_change"),
            ),
        ];
        for (index, (found, expected)) in cases.into_iter().enumerate() {
            assert_eq!(found, expected, "case {index}");
        }
    }

    #[test]
    fn the_same_again_is_no_change_and_a_new_date_is_a_version() {
        let mut catalog = catalog();
        for resource in CatalogFile::parse(FILE).unwrap().resources() {
            assert_eq!(catalog.apply(resource, 99), Ok(Change::Unchanged));
        }
        let body = json!({"plan": "pro", "meter": "calls", "model": "per_unit", "unit_amount": "0.02", "window": "month", "effective_from": "2026-03-01T00:00:00Z"});
        let dearer = Resource::from_json(ResourceKind::Prices, "pro-calls", body).unwrap();
        assert_eq!(catalog.apply(dearer.clone(), 100), Ok(Change::NewVersion(2)));
        assert_eq!(catalog.apply(dearer, 101), Ok(Change::Unchanged));
        let price = catalog.price(&PriceId::new("pro-calls").unwrap()).unwrap();
        let at = |text: &str| price.version_at(domain::Timestamp::parse(text).unwrap()).unwrap().version;
        assert_eq!((at("2026-02-28T23:59:59Z"), at("2026-03-01T00:00:00Z")), (1, 2));
    }
}
