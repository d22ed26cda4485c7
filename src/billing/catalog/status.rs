//! Why a resource is not taken: the rule that it broke, in order of precedence, and the remedy.
//!
//! Owns: the rules' order, their stable names and what is said of them. Leaves to others: keeping them (`resource` for
//! what a resource keeps by itself, `state` for what lies between resources).

use std::fmt;

use super::resource::ResourceKind;
use crate::rating::TermsStatus;
use crate::rating::commitment::CommitmentStatus;
use crate::rating::progressive::ThresholdStatus;

/// A rule of the catalog, in order of precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// `ramps` is no list of dated steps in order of time; the text says why.
    RampMustHold(String),
    /// The body is not what the kind of resource looks like; the text says where.
    BodyMustBeReadable(String),
    /// The id in the body differs from the one in the path.
    IdMustMatchPath,
    /// A text is empty or longer than 256 bytes.
    TextMustFit,
    /// `until` is not after `from`.
    UntilMustBeAfterFrom,
    /// Seats are zero or more.
    SeatsMustNotBeNegative,
    /// Keys need a key, a count has neither value nor key, and every other measure has a value.
    ValueMustFitAggregation,
    /// `operation` is of meters with a key, `gauge` of a weighted sum of values, `percent` and `granule_seconds` of one aggregation.
    FieldMustFitAggregation,
    /// A meter keeps at most 28 fraction digits.
    ScaleMustFit,
    /// At most eight different group-by dimensions.
    GroupByMustFit,
    /// A filter names at least one text.
    FilterMustNameTexts,
    /// A limit of a meter is 1 to 10^8.
    LimitMustFit,
    /// `per` is a power of ten up to 10^12.
    PerMustBePowerOfTen,
    /// The model needs or does not know a field; the text says which.
    PriceMustFitModel(String),
    /// The price's terms contradict themselves; the status says how.
    TermsMustHold(TermsStatus),
    /// Discounts, a minimum or a maximum that cannot be kept; the text says which.
    BoundsMustHold(&'static str),
    /// A term has no meaning in the price's window; the text says why.
    WindowMustFit(&'static str),
    /// A discount of an account cannot be granted; the text says why.
    DiscountMustHold(&'static str),
    /// A commitment has an amount, or a quantity and the one price that prices it.
    CommitmentMustNameAmount,
    /// A commitment's terms contradict themselves; the status says how.
    CommitmentMustHold(CommitmentStatus),
    /// Thresholds of an account cannot be used; the status says why.
    ThresholdsMustHold(ThresholdStatus),
    /// A grant's amounts are zero or more, its rollover has something to roll into, and it recurs after whole days.
    GrantMustHold,
    /// A commitment or discount starts, changes and ends with a month.
    TermMustFitWindows,
    /// An amount has more fraction digits than its currency, or more minor units than can be billed.
    AmountMustFitCurrency,
    /// A resource that this one names does not exist; the text says which.
    ReferenceMustExist(String),
    /// A percentage prices single events, which only a meter of aggregation `each` keeps.
    MeterMustKeepEvents,
    /// A parent has no parent itself, and the legal entity, currency and time zone of the account.
    ParentMustShareTerms,
    /// Units that are covered one after the other are of a meter that adds up: a sum or a count.
    MeterMustAddUp,
    /// A subscription that is named is of the account or of its pool; the text says which is not.
    SubscriptionMustBeOwn(String),
    /// A subscription's plan is priced in another currency than its account pays in.
    CurrencyMustMatchAccount,
    /// Windows that differ where one is needed; the text says where.
    WindowsMustMatch(String),
    /// What cannot change without a new id; the text says what.
    MustNotChange(&'static str),
    /// An amount of a price is no more than can be billed, and a cap or a free amount not below zero; the text says where and what. Of
    /// what is new.
    PriceAmountMustHold(String),
    /// A row of a matrix prices a quantity that is committed to; the text says of which commitment and price. Of what is new.
    QuantityMustBePriced(String),
}

/// A resource was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogStatus {
    /// Kind of the resource.
    pub kind: ResourceKind,
    /// Id of the resource.
    pub id: String,
    /// The first broken rule.
    pub rule: Rule,
}

impl Rule {
    /// Stable name of the rule, for APIs.
    pub fn name(&self) -> &'static str {
        match self {
            Rule::RampMustHold(_) => "ramp_must_hold",
            Rule::BodyMustBeReadable(_) => "body_must_be_readable",
            Rule::IdMustMatchPath => "id_must_match_path",
            Rule::TextMustFit => "text_must_fit",
            Rule::UntilMustBeAfterFrom => "until_must_be_after_from",
            Rule::SeatsMustNotBeNegative => "seats_must_not_be_negative",
            Rule::ValueMustFitAggregation => "value_must_fit_aggregation",
            Rule::FieldMustFitAggregation => "field_must_fit_aggregation",
            Rule::ScaleMustFit => "scale_must_fit",
            Rule::GroupByMustFit => "group_by_must_fit",
            Rule::FilterMustNameTexts => "filter_must_name_texts",
            Rule::LimitMustFit => "limit_must_fit",
            Rule::PerMustBePowerOfTen => "per_must_be_power_of_ten",
            Rule::PriceMustFitModel(_) => "price_must_fit_model",
            Rule::TermsMustHold(status) => status.name(),
            Rule::BoundsMustHold(_) => "bounds_must_hold",
            Rule::DiscountMustHold(_) => "discount_must_hold",
            Rule::CommitmentMustNameAmount => "commitment_must_name_amount",
            Rule::CommitmentMustHold(_) => "commitment_must_hold",
            Rule::ThresholdsMustHold(_) => "thresholds_must_hold",
            Rule::GrantMustHold => "grant_must_hold",
            Rule::WindowMustFit(_) => "window_must_fit",
            Rule::TermMustFitWindows => "term_must_fit_windows",
            Rule::AmountMustFitCurrency => "amount_must_fit_currency",
            Rule::ReferenceMustExist(_) => "reference_must_exist",
            Rule::SubscriptionMustBeOwn(_) => "subscription_must_be_own",
            Rule::MeterMustKeepEvents => "meter_must_keep_events",
            Rule::ParentMustShareTerms => "parent_must_share_terms",
            Rule::MeterMustAddUp => "meter_must_add_up",
            Rule::CurrencyMustMatchAccount => "currency_must_match_account",
            Rule::WindowsMustMatch(_) => "windows_must_match",
            Rule::MustNotChange(_) => "must_not_change",
            Rule::PriceAmountMustHold(_) => "price_amount_must_hold",
            Rule::QuantityMustBePriced(_) => "quantity_must_be_priced",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::RampMustHold(what) | Rule::BodyMustBeReadable(what) => f.write_str(what),
            Rule::IdMustMatchPath => f.write_str("the id in the body must equal the one in the path"),
            Rule::TextMustFit => f.write_str("a text has 1 to 256 bytes"),
            Rule::UntilMustBeAfterFrom => f.write_str("until must be after from, and `ended_at` from one to the other"),
            Rule::SeatsMustNotBeNegative => f.write_str("seats must be zero or more"),
            Rule::ValueMustFitAggregation => {
                f.write_str("`unique` needs `key`, `weighted_sum` either `value` or `key`, `count` has neither, and every other aggregation needs `value`")
            }
            Rule::FieldMustFitAggregation => f.write_str(
                "`operation` is of meters with a `key`, `gauge` of a `weighted_sum` of values, `percent` (above 0, at most 100, six fraction \
                 digits) of `percentile`, which needs it, and `granule_seconds` (60 to 86,400) of `peak`",
            ),
            Rule::ScaleMustFit => f.write_str("a meter keeps at most 28 fraction digits"),
            Rule::GroupByMustFit => f.write_str("a meter groups by at most 8 different dimensions"),
            Rule::FilterMustNameTexts => {
                f.write_str("a filter names a dimension and at least one test, and a list has 1 to 1,000 texts")
            }
            Rule::LimitMustFit => f.write_str("`groups_max` and `kept_max` are 1 to 100,000,000"),
            Rule::PerMustBePowerOfTen => f.write_str("per must be 1, 10, 100, ... up to 10^12"),
            Rule::PriceMustFitModel(what) => f.write_str(what),
            Rule::TermsMustHold(status) => status.fmt(f),
            Rule::BoundsMustHold(what) => f.write_str(what),
            Rule::DiscountMustHold(what) => f.write_str(what),
            Rule::CommitmentMustNameAmount => f.write_str(
                "a commitment names an `amount`, or a `quantity` and in `prices` the one price that prices it",
            ),
            Rule::CommitmentMustHold(status) => status.fmt(f),
            Rule::ThresholdsMustHold(status) => status.fmt(f),
            Rule::GrantMustHold => f.write_str(
                "amounts of a grant are zero or more, `rollover` needs `every`, `days` are 1 or more, and a grant in units \
                 of a `meter` names no `prices`",
            ),
            Rule::WindowMustFit(what) => f.write_str(what),
            Rule::TermMustFitWindows => f.write_str(
                "a commitment or discount starts, changes and ends at the first instant of a month in the account's time zone",
            ),
            Rule::AmountMustFitCurrency => {
                f.write_str("an agreed amount has at most the fraction digits of its currency and 10^27 minor units")
            }
            Rule::ReferenceMustExist(what) => write!(f, "{what} does not exist; put it first"),
            Rule::SubscriptionMustBeOwn(id) => {
                write!(f, "subscription {id} is neither of the account nor of an account of its pool")
            }
            Rule::MeterMustKeepEvents => f.write_str(
                "a percentage prices each event by itself; its meter needs the aggregation `each`, which keeps them",
            ),
            Rule::ParentMustShareTerms => f.write_str(
                "the `parent` of an account has no parent itself, and the same legal entity, currency and time zone",
            ),
            Rule::MeterMustAddUp => f.write_str(
                "a grant covers units one by one; its meter needs the aggregation `sum` or `count`",
            ),
            Rule::CurrencyMustMatchAccount => f.write_str(
                "the plan is priced in another currency than the account pays in; use a plan in its currency",
            ),
            Rule::WindowsMustMatch(what) => f.write_str(what),
            Rule::MustNotChange(what) => write!(f, "{what} cannot change; use a new id"),
            Rule::PriceAmountMustHold(what) => f.write_str(what),
            Rule::QuantityMustBePriced(what) => write!(
                f,
                "{what} has no row for it; add a row without dimensions, or commit to an amount"
            ),
        }
    }
}

impl fmt::Display for CatalogStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.kind.singular(), self.id, self.rule)
    }
}

impl std::error::Error for CatalogStatus {}
