//! Why there is no quote: the first broken rule, and the remedy.

use std::fmt;

use domain::DecimalStatus;

use super::metering::SetAside;
use crate::rating::RatingStatus;

/// The first broken rule, in order of precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuoteStatus {
    /// There is no such plan; with the names nearest to it.
    PlanMustExist(String, Vec<String>),
    /// A plan has no price.
    PlanMustHavePrices(String),
    /// There is no such subscription; with the names nearest to it.
    SubscriptionMustExist(String, Vec<String>),
    /// There is no such price; with the names nearest to it.
    PriceMustExist(String, Vec<String>),
    /// A bill has one currency: a price in the first and a price in another.
    CurrenciesMustMatch([(String, domain::Currency); 2]),
    /// A quantity is not a number; with what was written.
    QuantityMustBeDecimal(String, DecimalStatus),
    /// Commas where thousands are separated: one quantity, or a row of them; with what was written.
    QuantityMustHaveNoThousands(String),
    /// A quantity without a meter, and several meters that it could be of.
    QuantityMustNameMeter(Vec<String>),
    /// A quantity of a meter that no price in the quote is of; with those that are.
    MeterMustBePriced(String, Vec<String>),
    /// A meter cannot measure such a quantity.
    QuantityMustFitMeter(String, SetAside),
    /// A dimension that the meter does not group by; with those that it does.
    DimensionMustBeGroupedBy(String, String, Vec<String>),
    /// Something else than `dimension=text` behind an `@`.
    DimensionMustHaveText(String),
    /// The same meter and dimensions twice.
    QuantityMustBeNamedOnce(String),
    /// A row of quantities is the only one.
    RowOfQuantitiesMustBeAlone,
    /// Seats are zero or more.
    SeatsMustNotBeNegative,
    /// A usage file cannot be read; with the line and what is wrong there.
    UsageMustBeReadable(usize, String),
    /// A price cannot be rated; with its id, its group and the rule.
    PriceMustBeRatable(String, String, RatingStatus),
}

impl fmt::Display for QuoteStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuoteStatus::PlanMustExist(id, near) => write_unknown(f, "plan", id, near),
            QuoteStatus::PlanMustHavePrices(id) => {
                write!(f, "the plan {id} has no price; add a [[price]] with plan = \"{id}\"")
            }
            QuoteStatus::SubscriptionMustExist(id, near) => write_unknown(f, "subscription", id, near),
            QuoteStatus::PriceMustExist(id, near) => write_unknown(f, "price", id, near),
            QuoteStatus::CurrenciesMustMatch([(first, one), (second, other)]) => write!(
                f,
                "the price {first} is in {one} and {second} in {other}: a bill has one currency; quote them one by one"
            ),
            QuoteStatus::QuantityMustBeDecimal(text, status) => {
                write!(f, "{text:?} is not a quantity: {status}")
            }
            QuoteStatus::QuantityMustHaveNoThousands(text) => write!(
                f,
                "{text:?} is one quantity, or several in a row; write {} for one, or {:?} for several",
                text.replace(',', ""),
                text.replace(',', ", ")
            ),
            QuoteStatus::QuantityMustNameMeter(meters) => {
                let first = meters.first().map_or("METER", String::as_str);
                write!(
                    f,
                    "say which meter a quantity is of, such as {first}=100; the meters here are {}",
                    list(meters)
                )
            }
            QuoteStatus::MeterMustBePriced(meter, meters) if meters.is_empty() => {
                write!(f, "nothing here is priced by usage of {meter}; leave the quantity out")
            }
            QuoteStatus::MeterMustBePriced(meter, meters) => {
                write!(f, "no price here is of a meter {meter}; the meters here are {}", list(meters))
            }
            QuoteStatus::QuantityMustFitMeter(meter, reason) => {
                write!(f, "the meter {meter} does not measure that: {reason}")
            }
            QuoteStatus::DimensionMustBeGroupedBy(meter, dimension, known) if known.is_empty() => {
                write!(f, "the meter {meter} groups by no dimension, so {dimension} cannot be told apart")
            }
            QuoteStatus::DimensionMustBeGroupedBy(meter, dimension, known) => {
                write!(f, "the meter {meter} does not group by {dimension}; it groups by {}", list(known))
            }
            QuoteStatus::DimensionMustHaveText(text) => {
                write!(f, "{text:?} is not a dimension; write METER=100@DIMENSION=TEXT")
            }
            QuoteStatus::QuantityMustBeNamedOnce(meter) => {
                write!(f, "the quantity of {meter} is given twice for the same dimensions; give their sum")
            }
            QuoteStatus::RowOfQuantitiesMustBeAlone => f.write_str(
                "several quantities in a row, such as 0,100,1000, are bills of their own; leave other quantities out",
            ),
            QuoteStatus::SeatsMustNotBeNegative => f.write_str("seats must be zero or more"),
            QuoteStatus::UsageMustBeReadable(line, what) => write!(f, "usage, line {line}: {what}"),
            QuoteStatus::PriceMustBeRatable(price, group, status) if group.is_empty() => {
                write!(f, "price {price}: {status}")
            }
            QuoteStatus::PriceMustBeRatable(price, group, status) => {
                write!(f, "price {price}, {group}: {status}")
            }
        }
    }
}

impl std::error::Error for QuoteStatus {}

fn write_unknown(f: &mut fmt::Formatter<'_>, kind: &str, id: &str, near: &[String]) -> fmt::Result {
    write!(f, "the catalog has no {kind} {id:?}")?;
    if near.is_empty() { Ok(()) } else { write!(f, "; it has {}", list(near)) }
}

fn list(names: &[String]) -> String {
    names.join(", ")
}
