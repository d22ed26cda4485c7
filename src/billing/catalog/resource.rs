//! The resources of the catalog as files and APIs write them.
//!
//! Owns: their fields, and the rules that a resource keeps by itself. Leaves to others: rules between resources
//! (`state`), prices (`price`), how their texts are read
//! (`text`).

use std::collections::{BTreeMap, BTreeSet};

use domain::limits::{
    DECIMAL_FRACTION_DIGITS_MAX, METER_GROUP_BY_MAX, METER_SCALE_DEFAULT, OPAQUE_BYTES_MAX,
    PROPERTY_BYTES_MAX,
};
use domain::{
    AccountId, Currency, Decimal, EntityId, MeterId, PlanId, Subject, SubscriptionId, Timestamp, Zone,
};
use serde::{Deserialize, Deserializer, Serialize};

use super::agreement::{Commitment, CreditGrant};
use super::price::{Price, PriceDiscount, check_bounds};
use super::status::{CatalogStatus, Rule};
use super::text;

/// A legal entity: who sells and keeps the books.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entity {
    /// Id; at most 24 characters, because it is part of journal ids.
    pub id: EntityId,
    /// Functional currency.
    pub currency: Currency,
    /// Zone of its accounting periods.
    pub time_zone: Zone,
}

/// An account: who pays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Id.
    pub id: AccountId,
    /// Name for people.
    pub name: String,
    /// The legal entity that it contracts with.
    pub entity: EntityId,
    /// Currency of its charges.
    pub currency: Currency,
    /// Zone of its tier windows.
    pub time_zone: Zone,
}

/// How events become one measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The sum of a value property.
    Sum,
    /// The count of events.
    Count,
}

/// What a meter makes of negative values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NegativeUsage {
    /// The event is quarantined.
    #[default]
    Reject,
    /// The value counts as zero.
    Zero,
    /// The value counts with its sign.
    Signed,
}

/// One text, or a list of them; a list of one text equals that text.
#[derive(Clone, Debug, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One text.
    One(String),
    /// Any of these.
    Many(Vec<String>),
}

impl PartialEq for OneOrMany {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl OneOrMany {
    /// The texts.
    pub fn as_slice(&self) -> &[String] {
        match self {
            OneOrMany::One(text) => std::slice::from_ref(text),
            OneOrMany::Many(texts) => texts,
        }
    }
}

/// A meter: turns events of a type into a measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meter {
    /// Id.
    pub id: MeterId,
    /// Events of this type are metered.
    pub event_type: String,
    /// How.
    pub aggregation: Aggregation,
    /// The value property that is summed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Dimensions that split the measure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group_by: Vec<String>,
    /// Every named dimension must have one of its texts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub filter: BTreeMap<String, OneOrMany>,
    /// What becomes of negative values.
    #[serde(default)]
    pub negative_usage: NegativeUsage,
    /// Fraction digits that are kept.
    #[serde(default = "scale_default")]
    pub scale: u8,
}

fn scale_default() -> u8 {
    METER_SCALE_DEFAULT
}

/// A plan: what is sold, as a set of prices in one currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Id.
    pub id: PlanId,
    /// Currency of its prices.
    pub currency: Currency,
}

/// An account's subscription to a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// Id.
    pub id: SubscriptionId,
    /// Who pays.
    pub account: AccountId,
    /// What is subscribed to.
    pub plan: PlanId,
    /// Seats: what recurring amounts of the plan are multiplied by; once, if left out.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub seats: Option<Decimal>,
    /// First instant.
    #[serde(deserialize_with = "text::instant")]
    pub from: Timestamp,
    /// First instant after it; open-ended if left out.
    #[serde(default, deserialize_with = "text::optional_instant", skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// First instant that is charged: before it, usage and recurring amounts are free; charged at once, if left out.
    #[serde(default, deserialize_with = "text::optional_instant", skip_serializing_if = "Option::is_none")]
    pub trial_until: Option<Timestamp>,
    /// Reductions of what a window of the subscription costs, after those of its prices, in the order in which they apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discounts: Vec<PriceDiscount>,
    /// The least that a window of the subscription costs.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Decimal>,
    /// The most that a window of the subscription costs.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub maximum: Option<Decimal>,
}

/// Who owns a subject from when on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectBinding {
    /// The subject as events name it.
    pub id: Subject,
    /// The subscription that its usage belongs to.
    pub subscription: SubscriptionId,
    /// First instant.
    #[serde(deserialize_with = "text::instant")]
    pub from: Timestamp,
    /// First instant after it; open-ended if left out.
    #[serde(default, deserialize_with = "text::optional_instant", skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Kinds of resources, in the order in which they may refer to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceKind {
    /// Legal entities.
    Entities,
    /// Accounts.
    Accounts,
    /// Meters.
    Meters,
    /// Plans.
    Plans,
    /// Prices.
    Prices,
    /// Subscriptions.
    Subscriptions,
    /// Subjects.
    Subjects,
    /// Commitments.
    Commitments,
    /// Credit grants.
    Grants,
}

impl ResourceKind {
    /// All kinds, in order.
    pub const ALL: [ResourceKind; 9] = [
        ResourceKind::Entities,
        ResourceKind::Accounts,
        ResourceKind::Meters,
        ResourceKind::Plans,
        ResourceKind::Prices,
        ResourceKind::Subscriptions,
        ResourceKind::Subjects,
        ResourceKind::Commitments,
        ResourceKind::Grants,
    ];

    /// The word in URL paths.
    pub fn as_str(self) -> &'static str {
        match self {
            ResourceKind::Entities => "entities",
            ResourceKind::Accounts => "accounts",
            ResourceKind::Meters => "meters",
            ResourceKind::Plans => "plans",
            ResourceKind::Prices => "prices",
            ResourceKind::Subscriptions => "subscriptions",
            ResourceKind::Subjects => "subjects",
            ResourceKind::Commitments => "commitments",
            ResourceKind::Grants => "grants",
        }
    }

    /// The word for one of them, as in catalog files.
    pub fn singular(self) -> &'static str {
        match self {
            ResourceKind::Entities => "entity",
            ResourceKind::Accounts => "account",
            ResourceKind::Meters => "meter",
            ResourceKind::Plans => "plan",
            ResourceKind::Prices => "price",
            ResourceKind::Subscriptions => "subscription",
            ResourceKind::Subjects => "subject",
            ResourceKind::Commitments => "commitment",
            ResourceKind::Grants => "grant",
        }
    }

    /// The kind of a word in a URL path.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// A resource of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A legal entity.
    Entity(Entity),
    /// An account.
    Account(Account),
    /// A meter.
    Meter(Meter),
    /// A plan.
    Plan(Plan),
    /// A price.
    Price(Box<Price>),
    /// A subscription.
    Subscription(Subscription),
    /// A subject's binding.
    Subject(SubjectBinding),
    /// A commitment.
    Commitment(Box<Commitment>),
    /// A credit grant.
    Grant(Box<CreditGrant>),
}

impl From<Entity> for Resource {
    fn from(resource: Entity) -> Self {
        Resource::Entity(resource)
    }
}

impl From<Account> for Resource {
    fn from(resource: Account) -> Self {
        Resource::Account(resource)
    }
}

impl From<Meter> for Resource {
    fn from(resource: Meter) -> Self {
        Resource::Meter(resource)
    }
}

impl From<Plan> for Resource {
    fn from(resource: Plan) -> Self {
        Resource::Plan(resource)
    }
}

impl From<Price> for Resource {
    fn from(resource: Price) -> Self {
        Resource::Price(Box::new(resource))
    }
}

impl From<Subscription> for Resource {
    fn from(resource: Subscription) -> Self {
        Resource::Subscription(resource)
    }
}

impl From<Commitment> for Resource {
    fn from(resource: Commitment) -> Self {
        Resource::Commitment(Box::new(resource))
    }
}

impl From<CreditGrant> for Resource {
    fn from(resource: CreditGrant) -> Self {
        Resource::Grant(Box::new(resource))
    }
}

impl From<SubjectBinding> for Resource {
    fn from(resource: SubjectBinding) -> Self {
        Resource::Subject(resource)
    }
}

impl Resource {
    /// Reads a resource of a kind.
    ///
    /// # Errors
    /// The deserializer's own.
    pub fn read<'de, D: Deserializer<'de>>(kind: ResourceKind, deserializer: D) -> Result<Self, D::Error> {
        Ok(match kind {
            ResourceKind::Entities => Entity::deserialize(deserializer)?.into(),
            ResourceKind::Accounts => Account::deserialize(deserializer)?.into(),
            ResourceKind::Meters => Meter::deserialize(deserializer)?.into(),
            ResourceKind::Plans => Plan::deserialize(deserializer)?.into(),
            ResourceKind::Prices => Price::deserialize(deserializer)?.into(),
            ResourceKind::Subscriptions => Subscription::deserialize(deserializer)?.into(),
            ResourceKind::Subjects => SubjectBinding::deserialize(deserializer)?.into(),
            ResourceKind::Commitments => Commitment::deserialize(deserializer)?.into(),
            ResourceKind::Grants => CreditGrant::deserialize(deserializer)?.into(),
        })
    }

    /// Reads a resource from a JSON body; the body may leave out the id.
    ///
    /// # Errors
    /// [`Rule::BodyMustBeReadable`], then [`Rule::IdMustMatchPath`].
    pub fn from_json(kind: ResourceKind, id: &str, body: serde_json::Value) -> Result<Self, CatalogStatus> {
        let refuse = |rule| CatalogStatus { kind, id: id.to_string(), rule };
        let serde_json::Value::Object(mut fields) = body else {
            return Err(refuse(Rule::BodyMustBeReadable("a resource is a JSON object".to_string())));
        };
        let given = fields.insert("id".to_string(), id.into());
        let body = serde_json::Value::Object(fields);
        let read = Self::read(kind, body);
        let resource = read.map_err(|error| refuse(Rule::BodyMustBeReadable(error.to_string())))?;
        if given.is_some_and(|given| given.as_str() != Some(id)) {
            return Err(refuse(Rule::IdMustMatchPath));
        }
        Ok(resource)
    }

    /// The resource as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Resource::Entity(resource) => serde_json::to_value(resource),
            Resource::Account(resource) => serde_json::to_value(resource),
            Resource::Meter(resource) => serde_json::to_value(resource),
            Resource::Plan(resource) => serde_json::to_value(resource),
            Resource::Price(resource) => serde_json::to_value(resource),
            Resource::Subscription(resource) => serde_json::to_value(resource),
            Resource::Subject(resource) => serde_json::to_value(resource),
            Resource::Commitment(resource) => serde_json::to_value(resource),
            Resource::Grant(resource) => serde_json::to_value(resource),
        }
        .expect("a resource is plain data")
    }

    /// Kind of the resource.
    pub fn kind(&self) -> ResourceKind {
        match self {
            Resource::Entity(_) => ResourceKind::Entities,
            Resource::Account(_) => ResourceKind::Accounts,
            Resource::Meter(_) => ResourceKind::Meters,
            Resource::Plan(_) => ResourceKind::Plans,
            Resource::Price(_) => ResourceKind::Prices,
            Resource::Subscription(_) => ResourceKind::Subscriptions,
            Resource::Subject(_) => ResourceKind::Subjects,
            Resource::Commitment(_) => ResourceKind::Commitments,
            Resource::Grant(_) => ResourceKind::Grants,
        }
    }

    /// Id of the resource.
    pub fn id(&self) -> &str {
        match self {
            Resource::Entity(resource) => resource.id.as_str(),
            Resource::Account(resource) => resource.id.as_str(),
            Resource::Meter(resource) => resource.id.as_str(),
            Resource::Plan(resource) => resource.id.as_str(),
            Resource::Price(resource) => resource.id.as_str(),
            Resource::Subscription(resource) => resource.id.as_str(),
            Resource::Subject(resource) => resource.id.as_str(),
            Resource::Commitment(resource) => resource.id.as_str(),
            Resource::Grant(resource) => resource.id.as_str(),
        }
    }

    /// The rules that a resource keeps by itself.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`Rule`] declares them.
    pub fn check(&self) -> Result<(), Rule> {
        match self {
            Resource::Entity(entity) => entity.check(),
            Resource::Account(account) => account.check(),
            Resource::Meter(meter) => meter.check(),
            Resource::Plan(plan) => plan.check(),
            Resource::Price(price) => price.check(),
            Resource::Subscription(subscription) => subscription.check(),
            Resource::Subject(binding) => binding.check(),
            Resource::Commitment(commitment) => commitment.check(),
            Resource::Grant(grant) => grant.check(),
        }
    }
}

impl Entity {
    /// The rules that an entity keeps by itself: none beyond the types of its fields.
    ///
    /// # Errors
    /// None yet.
    pub fn check(&self) -> Result<(), Rule> {
        Ok(())
    }
}

impl Account {
    /// The rules that an account keeps by itself.
    ///
    /// # Errors
    /// [`Rule::TextMustFit`].
    pub fn check(&self) -> Result<(), Rule> {
        check_text(&self.name, PROPERTY_BYTES_MAX)
    }
}

impl Plan {
    /// The rules that a plan keeps by itself: none beyond the types of its fields.
    ///
    /// # Errors
    /// None yet.
    pub fn check(&self) -> Result<(), Rule> {
        Ok(())
    }
}

impl Subscription {
    /// The rules that a subscription keeps by itself.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`Rule`] declares them.
    pub fn check(&self) -> Result<(), Rule> {
        check_span(self.from, self.until)?;
        if self.seats.is_some_and(Decimal::is_negative) {
            return Err(Rule::SeatsMustNotBeNegative);
        }
        check_bounds(&self.discounts, self.minimum, self.maximum)
    }
}

impl SubjectBinding {
    /// The rules that a binding keeps by itself.
    ///
    /// # Errors
    /// [`Rule::UntilMustBeAfterFrom`].
    pub fn check(&self) -> Result<(), Rule> {
        check_span(self.from, self.until)
    }
}

impl Meter {
    /// The rules that a meter keeps by itself.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`Rule`] declares them.
    pub fn check(&self) -> Result<(), Rule> {
        check_text(&self.event_type, OPAQUE_BYTES_MAX)?;
        let texts = self.filter.values().flat_map(|texts| texts.as_slice());
        for text in self.value.iter().chain(&self.group_by).chain(self.filter.keys()).chain(texts) {
            check_text(text, PROPERTY_BYTES_MAX)?;
        }
        if (self.aggregation == Aggregation::Sum) != self.value.is_some() {
            return Err(Rule::ValueMustFitAggregation);
        }
        if self.scale > DECIMAL_FRACTION_DIGITS_MAX {
            return Err(Rule::ScaleMustFit);
        }
        let different: BTreeSet<_> = self.group_by.iter().collect();
        if self.group_by.len() > METER_GROUP_BY_MAX || different.len() != self.group_by.len() {
            return Err(Rule::GroupByMustFit);
        }
        if self.filter.values().any(|texts| texts.as_slice().is_empty()) {
            return Err(Rule::FilterMustNameTexts);
        }
        Ok(())
    }
}

fn check_text(text: &str, bytes_max: usize) -> Result<(), Rule> {
    if (1..=bytes_max).contains(&text.len()) { Ok(()) } else { Err(Rule::TextMustFit) }
}

fn check_span(from: Timestamp, until: Option<Timestamp>) -> Result<(), Rule> {
    if until.is_none_or(|until| until > from) { Ok(()) } else { Err(Rule::UntilMustBeAfterFrom) }
}
