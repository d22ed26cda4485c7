//! What to do about a mistake, and which fields it is about.
//!
//! Owns: words for people beyond what a rule says of itself. Leaves to others: the rules.

use crate::catalog::agreement::{GrantRollover, RecurrenceEvery};
use crate::catalog::price::PricingModel;
use crate::catalog::resource::Resource;
use crate::catalog::status::Rule;
use crate::nearest::nearest;
use crate::rating::TermsStatus;
use crate::rating::commitment::CommitmentStatus;

/// What to do about a broken rule, where the rule does not say it.
pub(super) fn of_rule(rule: &Rule) -> Option<&'static str> {
    Some(match rule {
        Rule::TextMustFit => "shorten it; leave an empty one out",
        Rule::UntilMustBeAfterFrom => "a span without instants is said by leaving the resource out",
        Rule::ValueMustFitAggregation => {
            "name the value property, or count events with aggregation = \"count\""
        }
        Rule::ScaleMustFit => "lower it",
        Rule::GroupByMustFit => "group by fewer",
        Rule::FilterMustNameTexts => "name one, or take the dimension out",
        Rule::PerMustBePowerOfTen => "scale the amount: 5 for 2 is 2.5 for 1",
        Rule::TermsMustHold(TermsStatus::TiersMustRise) => {
            "order the tiers by `up_to`, and leave it out of the last one only"
        }
        Rule::TermsMustHold(TermsStatus::RowsMustDiffer) => "merge the two rows, or name another text",
        Rule::AmountMustFitCurrency => {
            "round it; an amount for a unit may have more digits, an agreed one may not"
        }
        Rule::RampMustHold(_) => "write each step as { effective_from = \"…\", … }, in order of time",
        Rule::IdMustMatchPath => "leave it out of the body",
        Rule::SeatsMustNotBeNegative => "write how many there are, or leave them out",
        Rule::FieldMustFitAggregation => "leave it out, or change the aggregation",
        Rule::LimitMustFit => "write a number in between, or leave it out",
        Rule::PriceMustFitModel(what) if what.ends_with("is missing") => "add it, or take another model",
        Rule::PriceMustFitModel(what) if !what.contains("leave it out") => {
            "docs/reference/pricing-models.md has an example of each model"
        }
        Rule::TermsMustHold(TermsStatus::PackageSizeMustBePositive) => "write how many units a package has",
        Rule::TermsMustHold(TermsStatus::ConversionFactorMustBePositive) => {
            "write how many units one is, or leave `convert` out"
        }
        Rule::TermsMustHold(TermsStatus::FreeUnitsMustNotBeNegative) => {
            "write how many units are free, or leave `included` out"
        }
        Rule::BoundsMustHold(what) | Rule::DiscountMustHold(what) if what.contains("percent") => {
            match what.contains("either") {
                true => "write one of them",
                false => "write what is taken off, such as percent = \"10\" for a tenth",
            }
        }
        Rule::BoundsMustHold(what) if !what.contains(';') => "raise it, or leave it out",
        Rule::CommitmentMustNameAmount => "write one of them, and with a `quantity` the price of its units",
        Rule::CommitmentMustHold(CommitmentStatus::FactorMustBeAtLeastOne) => {
            "leave it out where overage costs what other usage does; for less, give the price tiers"
        }
        Rule::CommitmentMustHold(CommitmentStatus::AmountMustNotBeNegative) => {
            "write what is committed to; what is taken off is a [[discount]]"
        }
        Rule::CommitmentMustHold(_) => "give it an amount from its `from` on",
        Rule::ThresholdsMustHold(_) => "order them, or write one step as `every`",
        Rule::GrantMustHold => "raise it, or leave out what has no meaning here",
        Rule::TermMustFitWindows => "write the first of a month, at midnight in the account's time zone",
        Rule::SubscriptionMustBeOwn(_) => "take it out, or give the parent of both accounts the agreement",
        Rule::MeterMustKeepEvents => "add a meter with aggregation = \"each\" for it",
        Rule::ParentMustShareTerms => "name its own parent, or leave it out",
        Rule::MeterMustAddUp => "name a meter that does, or grant money",
        Rule::WindowsMustMatch(what) if !what.contains("; ") || what.contains("then") => {
            "give all prices of the plan one `window`, or move the price to another plan"
        }
        Rule::WindowsMustMatch(what) if what.contains("counts the same usage") => {
            "give both one `window`, or move one to another plan"
        }
        Rule::PriceAmountMustHold(what) if what.contains("zero or more") => "raise it, or leave it out",
        Rule::PriceAmountMustHold(_) => "lower it",
        _ => return None,
    })
}

/// The fields that a rule is about, most telling first.
pub(super) fn fields_of(rule: &Rule, resource: Option<&Resource>) -> Vec<String> {
    let fields: &[&str] = match rule {
        Rule::TextMustFit => return texts_of(resource),
        Rule::UntilMustBeAfterFrom => match resource {
            Some(Resource::Commitment(of)) if of.from < of.until => &["effective_from"],
            _ => &["until", "effective_from"],
        },
        Rule::SeatsMustNotBeNegative => &["seats"],
        Rule::ValueMustFitAggregation => &["value", "aggregation"],
        Rule::FieldMustFitAggregation => &["operation", "gauge", "percent", "granule_seconds", "aggregation"],
        Rule::ScaleMustFit => &["scale"],
        Rule::GroupByMustFit => &["group_by"],
        Rule::FilterMustNameTexts => &["filter"],
        Rule::LimitMustFit => &["groups_max", "kept_max"],
        Rule::PerMustBePowerOfTen => &["per"],
        Rule::PriceMustFitModel(what) => return fields_in(what),
        Rule::TermsMustHold(status) => match status {
            TermsStatus::TiersMustRise => &["tiers", "steps", "rows"],
            TermsStatus::PackageSizeMustBePositive => &["package_size", "tiers", "rows"],
            TermsStatus::ConversionFactorMustBePositive => &["convert"],
            TermsStatus::FreeUnitsMustNotBeNegative => &["included"],
            TermsStatus::MinimumMustNotExceedMaximum => &["event_min"],
            TermsStatus::RowsMustDiffer => &["rows"],
        },
        Rule::BoundsMustHold(what) if what.contains("discount") => &["discounts"],
        Rule::BoundsMustHold(_) => &["minimum", "maximum"],
        Rule::ParentMustShareTerms => &["parent"],
        Rule::MeterMustAddUp => &["meter"],
        Rule::ThresholdsMustHold(_) => &["thresholds"],
        Rule::MeterMustKeepEvents => &["meter", "model"],
        Rule::CurrencyMustMatchAccount => &["plan"],
        Rule::SubscriptionMustBeOwn(_) => &["subscriptions"],
        Rule::QuantityMustBePriced(_) => &["quantity", "rows"],
        Rule::CommitmentMustHold(CommitmentStatus::FactorMustBeAtLeastOne) => &["overage_factor"],
        Rule::CommitmentMustHold(_) => &["amount", "quantity"],
        Rule::GrantMustHold => return grant_fields(resource),
        Rule::AmountMustFitCurrency => {
            &["minimum", "maximum", "discounts", "amount", "rollover", "thresholds"]
        }
        Rule::WindowMustFit(_) => &["proration", "window"],
        Rule::WindowsMustMatch(_) => &["window", "minimum", "maximum", "discounts"],
        Rule::TermMustFitWindows => &["from"],
        Rule::MustNotChange(_) => &["id"],
        other => return fields_in(&other.to_string()),
    };
    fields.iter().map(|field| (*field).to_string()).collect()
}

/// The fields of a grant that break its rule.
fn grant_fields(resource: Option<&Resource>) -> Vec<String> {
    let Some(Resource::Grant(grant)) = resource else { return Vec::new() };
    let is_negative = |amount: domain::Decimal| amount.is_negative();
    let rolls_wrong = |rollover: GrantRollover| is_negative(rollover.max) || grant.every.is_none();
    let fields = [
        ("amount", is_negative(grant.amount)),
        ("rollover", grant.rollover.is_some_and(rolls_wrong)),
        ("every", grant.every == Some(RecurrenceEvery::Days(0))),
        ("prices", grant.meter.is_some() && !grant.prices.is_empty()),
    ];
    fields.into_iter().filter(|(_, breaks)| *breaks).map(|(field, _)| field.to_string()).collect()
}

/// Fields of a meter or an account whose text is empty or too long.
fn texts_of(resource: Option<&Resource>) -> Vec<String> {
    let fits = |text: &str| (1..=256).contains(&text.len());
    let fields: Vec<&str> = match resource {
        Some(Resource::Account(_)) => vec!["name"],
        Some(Resource::Meter(meter)) => {
            let filter = meter.filter.iter();
            let mut filter =
                filter.flat_map(|(name, test)| [name.as_str()].into_iter().chain(test.named_texts()));
            let fields = [
                ("event_type", fits(&meter.event_type)),
                ("value", meter.value.as_deref().is_none_or(fits)),
                ("key", meter.key.as_deref().is_none_or(fits)),
                ("operation", meter.operation.as_deref().is_none_or(fits)),
                ("group_by", meter.group_by.iter().all(|text| fits(text))),
                ("filter", filter.all(fits)),
            ];
            fields.into_iter().filter(|(_, fits)| !fits).map(|(field, _)| field).collect()
        }
        _ => Vec::new(),
    };
    fields.into_iter().map(str::to_string).collect()
}

/// The fields that a text names between backticks. Of one that says what is missing only that; parts of tiers, rows and
/// steps stand for the whole list.
fn fields_in(text: &str) -> Vec<String> {
    let inside: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    if text.ends_with("is missing") {
        return inside.last().map(|field| (*field).to_string()).into_iter().collect();
    }
    let lists: &[(&str, &[&str])] = &[
        ("row", &["rows"]),
        ("a step bounds", &["steps"]),
        ("tier", &["tiers", "rows"]),
        ("step", &["tiers"]),
    ];
    let is_in_model = text.contains("of model");
    let list = lists.iter().find(|(word, _)| !is_in_model && text.contains(word));
    list.map_or(&inside[..], |(_, fields)| fields).iter().map(|field| (*field).to_string()).collect()
}

/// The tier at which tiers do not rise, if that is the mistake.
pub(super) fn tier_of(rule: &Rule, resource: Option<&Resource>) -> Option<(&'static str, usize)> {
    let (Rule::TermsMustHold(TermsStatus::TiersMustRise), Some(Resource::Price(price))) = (rule, resource)
    else {
        return None;
    };
    if !matches!(
        price.model,
        PricingModel::Graduated
            | PricingModel::Volume
            | PricingModel::Stairstep
            | PricingModel::GraduatedPercentage
    ) {
        return None;
    }
    let tiers = price.tiers.as_deref()?;
    let (_, closed) = tiers.split_last()?;
    let mut below = domain::Exact::ZERO;
    for (index, tier) in closed.iter().enumerate() {
        match tier.up_to.map(domain::Exact::from) {
            Some(up_to) if up_to > below => below = up_to,
            _ => return Some(("tiers", index)),
        }
    }
    Some(("tiers", tiers.len() - 1))
}

/// The fields that were probably meant by one that is not known.
pub(super) fn meant_fields(message: &str) -> Vec<String> {
    let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`'));
    let near = unknown.map(|(name, rest)| nearest(name, rest.split('`').skip(1).step_by(2)));
    near.into_iter().flatten().map(str::to_string).collect()
}

/// A message of the reader in shorter words, and what to do about it: of a long list of names only those that are near.
pub(super) fn of_message(message: &str) -> (String, Option<String>) {
    let unknown =
        ["unknown field `", "unknown variant `"].iter().find_map(|start| message.strip_prefix(start));
    let Some((name, rest)) = unknown.and_then(|rest| rest.split_once('`')) else {
        return (message.to_string(), None);
    };
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let near = nearest(name, known.iter().copied());
    let what = match message.starts_with("unknown field") {
        true => format!("there is no field `{name}` here"),
        false => format!("`{name}` is not a word that is known here"),
    };
    let remedy = match near.as_slice() {
        [] => format!("known are {}", known.join(", ")),
        near => format!("did you mean {}?", near.join(" or ")),
    };
    (what, Some(remedy))
}
