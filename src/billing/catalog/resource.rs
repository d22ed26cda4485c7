//! The resources of the catalog as files and APIs write them.
//!
//! Owns: their fields, and the rules that a resource keeps by itself. Leaves to others: rules between resources
//! (`state`), prices (`price`), how their texts are read
//! (`text`).

use std::collections::{BTreeMap, BTreeSet};

use domain::limits::{
    DECIMAL_FRACTION_DIGITS_MAX, METER_FILTER_TEXTS_MAX, METER_GRANULE_SECONDS, METER_GROUP_BY_MAX,
    METER_GROUPS_MAX_DEFAULT, METER_KEPT_MAX_DEFAULT, METER_LIMIT_MAX, METER_SCALE_DEFAULT, OPAQUE_BYTES_MAX,
    PROPERTY_BYTES_MAX,
};
use domain::plan::{Comparison, Test};
use domain::{
    AccountId, Currency, Decimal, EntityId, Exact, MeterId, PlanId, Subject, SubscriptionId, Timestamp, Zone,
};
use serde::{Deserialize, Deserializer, Serialize};

use super::agreement::{AccountDiscount, Commitment, CreditGrant};
use super::price::{Price, PriceDiscount, check_bounds};
use super::status::{CatalogStatus, Rule};
use super::text;
use crate::rating::progressive::check_thresholds;

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
    /// The account whose commitments and grants hold for this one as well: with its other accounts they are a pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<AccountId>,
    /// Amounts of usage at which billing is asked for an invoice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thresholds: Option<InvoiceThresholds>,
}

/// Amounts of usage at which billing is asked for an invoice before a month is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvoiceThresholds {
    /// Each asks once, when the usage that was ever charged reaches it; they rise.
    #[serde(default, deserialize_with = "text::decimals", skip_serializing_if = "Vec::is_empty")]
    pub amounts: Vec<Decimal>,
    /// The step that repeats after the last of them, or from zero.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub every: Option<Decimal>,
}

impl InvoiceThresholds {
    /// All amounts.
    pub(super) fn all(&self) -> impl Iterator<Item = Option<Decimal>> {
        self.amounts.iter().copied().map(Some).chain([self.every])
    }

    /// The amounts and the step in minor units of a currency.
    ///
    /// # Panics
    /// If an amount is no whole number of minor units; the catalog refuses those.
    pub fn minor(&self, currency: Currency) -> (Vec<i128>, Option<i128>) {
        let minor = |amount: Decimal| {
            let minor = amount.mantissa_at(currency.exponent());
            minor.expect("the catalog refuses agreed amounts that are not whole minor units")
        };
        (self.amounts.iter().copied().map(minor).collect(), self.every.map(minor))
    }
}

/// How events become one measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The sum of a value property.
    Sum,
    /// The count of events.
    Count,
    /// The sum of a value over the count.
    Average,
    /// The least value.
    Min,
    /// The greatest value.
    Max,
    /// The value of the event with the greatest time.
    Latest,
    /// Different keys.
    Unique,
    /// A level, weighted by time.
    WeightedSum,
    /// The value that a percentage of the values do not exceed.
    Percentile,
    /// The greatest value of every granule, added up.
    Peak,
    /// The values one by one.
    Each,
}

/// How events say what a level is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gauge {
    /// Each adds to it.
    #[default]
    Changes,
    /// Each sets it.
    Levels,
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

/// What a filter asks of a dimension: one text, a list of texts, or tests that all must pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FilterTest {
    /// It has this text, or one of these.
    Texts(OneOrMany),
    /// All of these tests pass.
    Tests(Box<FilterTests>),
}

/// Tests of a dimension; those that are left out are not made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterTests {
    /// It has this text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eq: Option<String>,
    /// It does not have this text, or is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ne: Option<String>,
    /// It has one of these texts.
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<String>>,
    /// It has none of these texts, or is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_in: Option<Vec<String>>,
    /// Whether it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exists: Option<bool>,
    /// Its text starts so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// It is a number below this one.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub lt: Option<Decimal>,
    /// It is a number of at most this one.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub lte: Option<Decimal>,
    /// It is a number of at least this one.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub gte: Option<Decimal>,
    /// It is a number above this one.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub gt: Option<Decimal>,
}

impl FilterTest {
    /// A list of texts.
    pub fn texts(texts: &[&str]) -> Self {
        Self::Texts(OneOrMany::Many(texts.iter().map(|text| (*text).to_string()).collect()))
    }

    /// What it asks for, as the engine does; all of them must pass.
    pub fn tests(&self) -> Vec<Test> {
        let shared = |texts: &[String]| texts.iter().map(|text| text.as_str().into()).collect();
        let tests = match self {
            FilterTest::Texts(texts) => return vec![Test::OneOf(shared(texts.as_slice()))],
            FilterTest::Tests(tests) => tests,
        };
        let compares = |comparison| move |number: Decimal| Test::Compares(comparison, number);
        [
            tests.eq.as_ref().map(|text| Test::OneOf(shared(std::slice::from_ref(text)))),
            tests.ne.as_ref().map(|text| Test::NoneOf(shared(std::slice::from_ref(text)))),
            tests.one_of.as_ref().map(|texts| Test::OneOf(shared(texts))),
            tests.not_in.as_ref().map(|texts| Test::NoneOf(shared(texts))),
            tests.exists.map(Test::Exists),
            tests.prefix.as_ref().map(|start| Test::StartsWith(start.as_str().into())),
            tests.lt.map(compares(Comparison::Below)),
            tests.lte.map(compares(Comparison::AtMost)),
            tests.gte.map(compares(Comparison::AtLeast)),
            tests.gt.map(compares(Comparison::Above)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Every text that it names.
    pub fn named_texts(&self) -> Vec<&str> {
        let texts: Vec<&String> = match self {
            FilterTest::Texts(texts) => texts.as_slice().iter().collect(),
            FilterTest::Tests(tests) => {
                let single = [&tests.eq, &tests.ne, &tests.prefix].into_iter().flatten();
                let lists = [&tests.one_of, &tests.not_in].into_iter().flatten().flatten();
                single.chain(lists).collect()
            }
        };
        texts.into_iter().map(String::as_str).collect()
    }

    /// Whether there is a test, and every list of texts has one and not too many.
    fn is_sound(&self) -> bool {
        let list_fits = |length: usize| (1..=METER_FILTER_TEXTS_MAX).contains(&length);
        let fits = |test: &Test| match test {
            Test::OneOf(texts) | Test::NoneOf(texts) => list_fits(texts.len()),
            Test::Exists(_) | Test::StartsWith(_) | Test::Compares(..) => true,
        };
        let tests = self.tests();
        !tests.is_empty() && tests.iter().all(fits)
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
    /// The value property that is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The dimension whose texts are the keys that are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The dimension that says whether a key is added or removed; without it, or with another text than `remove`, a key is
    /// added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// How events say what a level is; `changes`, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gauge: Option<Gauge>,
    /// The percentage of a percentile.
    #[serde(default, deserialize_with = "text::optional_decimal", skip_serializing_if = "Option::is_none")]
    pub percent: Option<Decimal>,
    /// Seconds of a granule of a peak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granule_seconds: Option<u32>,
    /// Dimensions that split the measure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group_by: Vec<String>,
    /// Every named dimension must pass its tests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub filter: BTreeMap<String, FilterTest>,
    /// What becomes of negative values.
    #[serde(default)]
    pub negative_usage: NegativeUsage,
    /// Fraction digits that are kept.
    #[serde(default = "scale_default")]
    pub scale: u8,
    /// Different groups that a subscription may use in one tier window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups_max: Option<u64>,
    /// Events or keys that may be measured one by one in one tier window and group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_max: Option<u64>,
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
    /// What its windows are counted from: the civil day of this instant starts one; of the calendar, if left out.
    #[serde(default, deserialize_with = "text::optional_instant", skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Timestamp>,
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
    /// Discounts of accounts.
    Discounts,
}

impl ResourceKind {
    /// All kinds, in order.
    pub const ALL: [ResourceKind; 10] = [
        ResourceKind::Entities,
        ResourceKind::Accounts,
        ResourceKind::Meters,
        ResourceKind::Plans,
        ResourceKind::Prices,
        ResourceKind::Subscriptions,
        ResourceKind::Subjects,
        ResourceKind::Commitments,
        ResourceKind::Grants,
        ResourceKind::Discounts,
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
            ResourceKind::Discounts => "discounts",
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
            ResourceKind::Discounts => "discount",
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
    /// A discount.
    Discount(Box<AccountDiscount>),
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

impl From<AccountDiscount> for Resource {
    fn from(resource: AccountDiscount) -> Self {
        Resource::Discount(Box::new(resource))
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
            ResourceKind::Discounts => AccountDiscount::deserialize(deserializer)?.into(),
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
            Resource::Discount(resource) => serde_json::to_value(resource),
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
            Resource::Discount(_) => ResourceKind::Discounts,
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
            Resource::Discount(resource) => resource.id.as_str(),
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
            Resource::Discount(discount) => discount.check(),
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
    /// The first broken rule, in the order in which [`Rule`] declares them.
    pub fn check(&self) -> Result<(), Rule> {
        check_text(&self.name, PROPERTY_BYTES_MAX)?;
        let Some(thresholds) = &self.thresholds else { return Ok(()) };
        let amounts: Vec<Exact> = thresholds.amounts.iter().copied().map(Exact::from).collect();
        let every = thresholds.every.map(Exact::from);
        check_thresholds(Exact::ZERO, &amounts, every).map_err(Rule::ThresholdsMustHold)
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
        for text in self.texts() {
            check_text(text, PROPERTY_BYTES_MAX)?;
        }
        self.check_aggregation()?;
        if self.scale > DECIMAL_FRACTION_DIGITS_MAX {
            return Err(Rule::ScaleMustFit);
        }
        let different: BTreeSet<_> = self.group_by.iter().collect();
        if self.group_by.len() > METER_GROUP_BY_MAX || different.len() != self.group_by.len() {
            return Err(Rule::GroupByMustFit);
        }
        if !self.filter.values().all(FilterTest::is_sound) {
            return Err(Rule::FilterMustNameTexts);
        }
        let limits = [self.groups_max, self.kept_max];
        if limits.into_iter().flatten().any(|limit| !(1..=METER_LIMIT_MAX).contains(&limit)) {
            return Err(Rule::LimitMustFit);
        }
        Ok(())
    }

    /// Names and texts that it gives, but for ids and the event type.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let names = [&self.value, &self.key, &self.operation].into_iter().flatten().chain(&self.group_by);
        let filter = self.filter.iter();
        let filter = filter.flat_map(|(name, test)| [name.as_str()].into_iter().chain(test.named_texts()));
        names.map(String::as_str).chain(filter)
    }

    fn check_aggregation(&self) -> Result<(), Rule> {
        let is_level_of_keys = self.is_level_of_keys();
        let has_key = is_level_of_keys || self.aggregation == Aggregation::Unique;
        let has_value = !has_key && self.aggregation != Aggregation::Count;
        if self.value.is_some() != has_value || self.key.is_some() != has_key {
            return Err(Rule::ValueMustFitAggregation);
        }
        let is_of = |aggregation, is_given: bool| !is_given || self.aggregation == aggregation;
        let is_needed = |aggregation, is_given: bool| is_given || self.aggregation != aggregation;
        let fits = (has_key || self.operation.is_none())
            && is_of(Aggregation::WeightedSum, self.gauge.is_some())
            && !(is_level_of_keys && self.gauge.is_some())
            && is_of(Aggregation::Percentile, self.percent.is_some())
            && is_needed(Aggregation::Percentile, self.percent.is_some())
            && is_of(Aggregation::Peak, self.granule_seconds.is_some());
        let granule_fits =
            self.granule_seconds.is_none_or(|seconds| METER_GRANULE_SECONDS.contains(&seconds));
        if !fits || !granule_fits || (self.percent.is_some() && self.percent_millionths().is_none()) {
            return Err(Rule::FieldMustFitAggregation);
        }
        Ok(())
    }

    /// Whether it is a level: how many keys there are.
    fn is_level_of_keys(&self) -> bool {
        self.aggregation == Aggregation::WeightedSum && self.key.is_some()
    }

    /// The percentage of a percentile in millionths of a percent, if it is above 0, at most 100 and has at most six fraction
    /// digits.
    pub fn percent_millionths(&self) -> Option<u32> {
        let percent = self.percent?.normalize();
        let shift = 6u32.checked_sub(u32::from(percent.scale()))?;
        let millionths = percent.mantissa().checked_mul(10i128.pow(shift))?;
        let is_percentage = (1..=100_000_000).contains(&millionths);
        u32::try_from(millionths).ok().filter(|_| is_percentage)
    }

    /// How its events become one measure, as the engine does it.
    ///
    /// # Panics
    /// If the meter breaks its own rules; [`Meter::check`] finds that.
    pub fn measure(&self) -> domain::plan::Aggregation {
        use domain::plan;
        match self.aggregation {
            Aggregation::Sum => plan::Aggregation::Sum,
            Aggregation::Count => plan::Aggregation::Count,
            Aggregation::Average => plan::Aggregation::Average,
            Aggregation::Min => plan::Aggregation::Min,
            Aggregation::Max => plan::Aggregation::Max,
            Aggregation::Latest => plan::Aggregation::Latest,
            Aggregation::Unique => plan::Aggregation::Unique,
            Aggregation::WeightedSum => plan::Aggregation::WeightedSum(match self.gauge {
                None if self.is_level_of_keys() => plan::Gauge::Keys,
                None | Some(Gauge::Changes) => plan::Gauge::Changes,
                Some(Gauge::Levels) => plan::Gauge::Levels,
            }),
            Aggregation::Percentile => plan::Aggregation::Percentile {
                percent_millionths: self.percent_millionths().expect("a checked percentile has a percentage"),
            },
            Aggregation::Peak => plan::Aggregation::Peak {
                granule: i64::from(self.granule_seconds.unwrap_or(3_600)) * domain::time::SECOND,
            },
            Aggregation::Each => plan::Aggregation::Each,
        }
    }

    /// Fraction digits of the values that it measures: what is counted has none.
    pub fn measured_scale(&self) -> u8 {
        if self.measure().is_whole() { 0 } else { self.scale }
    }

    /// Different groups that a subscription may use in one tier window.
    pub fn groups_max(&self) -> u64 {
        self.groups_max.unwrap_or(METER_GROUPS_MAX_DEFAULT)
    }

    /// Events or keys that may be measured one by one in one tier window and group.
    pub fn kept_max(&self) -> u64 {
        self.kept_max.unwrap_or(METER_KEPT_MAX_DEFAULT)
    }
}

fn check_text(text: &str, bytes_max: usize) -> Result<(), Rule> {
    if (1..=bytes_max).contains(&text.len()) { Ok(()) } else { Err(Rule::TextMustFit) }
}

fn check_span(from: Timestamp, until: Option<Timestamp>) -> Result<(), Rule> {
    if until.is_none_or(|until| until > from) { Ok(()) } else { Err(Rule::UntilMustBeAfterFrom) }
}
