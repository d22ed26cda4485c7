//! Commitments by window, and prices of one window.
//!
//! Owns: which windows there are, which terms each has. Leaves to others: what a commitment makes of a cost
//! (`billing::rating::commitment`), what usage costs (`billing::rating::models`).

use billing::rating::models::{Graduated, PerUnit, Tier, Tiers};
use billing::rating::quantity::{Conversion, QuantityTerms};
use domain::time::{DAY, HOUR, SECOND};
use domain::{Exact, Rounding, Timestamp};
use serde_json::Value;

use crate::case::{Case, Stop, fields_of, list_of, number_of, numbers_of};
use crate::json::any_text;
use crate::numbers::{Precision, sum_of};
use crate::prices::unit_price;
use crate::time::{instant_of, span_of, time_of_day};
use crate::values::Values;
use crate::window_commitment::WindowCommitment;

pub(crate) fn window_commit(case: &Case<'_>) -> Result<Values, Stop> {
    let terms = Terms::of(case, Price::PerUnit(unit_price(case)?))?;
    let mut sums = Sums::default();
    for usage in case.numbers("windows")? {
        sums.add(&terms, usage)?;
    }
    sums.values(case)
}

pub(crate) fn window_commit_each(case: &Case<'_>) -> Result<Values, Stop> {
    let mut sums = Sums::default();
    for window in case.list("windows")? {
        let window = case.with(fields_of(window)?);
        sums.add(&Terms::of(&window, Price::PerUnit(unit_price(&window)?))?, window.number("usage")?)?;
    }
    sums.values(case)
}

/// A grid of windows, each with the terms of the part of the day that it begins in.
pub(crate) fn window_commitment(case: &Case<'_>) -> Result<Values, Stop> {
    let grid = span_of(case, "grid_from", "grid_to")?;
    let length = match case.word("window")? {
        "MINUTE" => 60 * SECOND,
        "HOUR" => HOUR,
        "DAY" => DAY,
        window => return Err(Stop::Unsupported(format!("windows of a {window}"))),
    };
    let named = |name: &str| case.find(name).map(fields_of).transpose();
    let line = named("line")?.map_or_else(|| case.clone(), |line| case.with(line));
    let line_terms = Terms::of(&line, Price::of(&line)?)?;
    let mut buckets = Vec::new();
    let listed = case.find("buckets").map(list_of).transpose()?;
    for bucket in listed.unwrap_or_default() {
        let fields = fields_of(bucket)?;
        let bucket = Case::part(fields);
        let price =
            if bucket.find("price").is_some() { Price::of(&bucket)? } else { line_terms.price.clone() };
        let bound =
            |name: &str| time_of_day(bucket.word(name)?).ok_or_else(|| broken("a time of day is HH:MM"));
        let (start, end) = (bound("start")?, bound("end")?);
        // Midnight ends the day as well as it begins one.
        let end = if end == 0 { DAY } else { end };
        buckets.push((start..end, Terms::of(&bucket, price)?));
    }
    let usage = usage_of(case)?;
    let mut sums = Sums::default();
    let mut from = grid.from;
    while from < grid.until {
        let until = from.plus(length);
        let inside = usage.iter().filter(|(at, _)| from <= *at && *at < until).map(|(_, value)| *value);
        let of_day = from.nanoseconds().rem_euclid(DAY);
        let bucket = buckets.iter().find(|(hours, _)| hours.contains(&of_day));
        let terms = bucket.map_or(&line_terms, |(_, terms)| terms);
        sums.add(terms, folded(case, &inside.collect::<Vec<_>>())?)?;
        from = until;
    }
    sums.values(case)
}

/// One window.
pub(crate) fn commitment(case: &Case<'_>) -> Result<Values, Stop> {
    let line = case.find("line").map(fields_of).transpose()?;
    let line = line.map_or_else(|| case.clone(), |line| case.with(line));
    let usage = if case.find("events").is_some() {
        folded(case, &usage_of(case)?.into_iter().map(|(_, value)| value).collect::<Vec<_>>())?
    } else {
        let value = ["usage", "quantity", "values", "value"].iter().find_map(|name| case.find(name));
        match value.ok_or_else(|| broken("there is no usage"))? {
            list @ Value::Array(_) => folded(case, &numbers_of(list)?)?,
            value => number_of(value)?,
        }
    };
    let mut sums = Sums::default();
    sums.add(&Terms::of(&line, Price::of(&line)?)?, usage)?;
    sums.values(case)
}

/// Usage by instant, in order of arrival.
fn usage_of(case: &Case<'_>) -> Result<Vec<(Timestamp, Exact)>, Stop> {
    let name = if case.find("events").is_some() { "events" } else { "usage" };
    let use_of = |event: &Case<'_>| {
        let time = if event.find("time").is_some() { "time" } else { "at" };
        Ok((instant_of(event, time)?, event.number("value")?))
    };
    case.rows(name)?.iter().map(use_of).collect()
}

/// The usage of one window.
fn folded(case: &Case<'_>, values: &[Exact]) -> Result<Exact, Stop> {
    Ok(match case.text("aggregation") {
        None | Some("SUM") => sum_of(values)?,
        Some("COUNT") => Exact::from_integer(values.len() as i128),
        Some("MAX") => match values.split_first() {
            Some((first, rest)) => rest.iter().copied().try_fold(*first, Exact::max)?,
            None => Exact::ZERO,
        },
        Some(aggregation) => return Err(Stop::Unsupported(format!("the aggregation {aggregation}"))),
    })
}

/// What units of a window cost: alike, or by tier, where tiers begin anew in every window.
#[derive(Clone, Debug)]
enum Price {
    PerUnit(PerUnit),
    Tiers(Graduated),
}

impl Price {
    /// The price of a line or bucket: one number, a list of tiers, or an object with either.
    fn of(case: &Case<'_>) -> Result<Self, Stop> {
        let per_unit = |unit_amount| Self::PerUnit(PerUnit { unit_amount });
        let price = ["price", "tiers", "slab", "unit_price", "unit_amount", "unit", "flat"];
        let price =
            price.iter().find_map(|name| case.find(name)).ok_or_else(|| broken("there is no price"))?;
        match price {
            Value::Array(tiers) => Self::of_tiers(tiers),
            Value::Object(fields) => Self::of(&Case::part(fields)),
            _ => Ok(per_unit(number_of(price)?)),
        }
    }

    fn of_tiers(tiers: &[Value]) -> Result<Self, Stop> {
        let tier_of = |tier: &Value| {
            let tier = Case::part(fields_of(tier)?);
            let unit = ["unit", "unit_amount", "price"].iter().find_map(|name| tier.find(name));
            let flat = ["flat", "flat_amount"].iter().find_map(|name| tier.find(name));
            Ok::<_, Stop>(Tier {
                up_to: tier.maybe("up_to")?,
                unit_amount: unit.map_or(Ok(Exact::ZERO), number_of)?,
                flat_amount: flat.map_or(Ok(Exact::ZERO), number_of)?,
                flat_cap: tier.maybe("flat_cap")?,
                package_size: None,
            })
        };
        let tiers = tiers.iter().map(tier_of).collect::<Result<Vec<_>, _>>()?;
        Ok(Self::Tiers(Graduated { tiers: Tiers::new(tiers)? }))
    }

    fn amount(&self, units: Exact) -> Result<Exact, Stop> {
        Ok(match self {
            Price::PerUnit(price) => price.amount(units)?,
            Price::Tiers(price) => price.amount(units.max(Exact::ZERO)?, false)?,
        })
    }
}

/// The price and the commitment of a window.
struct Terms {
    price: Price,
    commitment: WindowCommitment,
}

impl Terms {
    /// The commitment of a line, bucket or window; a quantity is committed to at its price.
    fn of(case: &Case<'_>, price: Price) -> Result<Self, Stop> {
        let agreed = case.find("commitment").and_then(Value::as_object).map(|fields| case.with(fields));
        let names: &[&str] =
            if agreed.is_some() { &["value", "amount", "quantity"] } else { &["commitment"] };
        let terms = agreed.as_ref().unwrap_or(case);
        let committed = names.iter().find_map(|name| terms.find(name)).map(number_of).transpose()?;
        let is_quantity =
            ["commitment_type", "type"].iter().find_map(|name| terms.text(name)) == Some("quantity");
        let committed = match committed {
            Some(units) if is_quantity => Some(price.amount(units)?),
            committed => committed,
        };
        let has_true_up = ["true_up", "true_up_enabled", "has_true_up"].iter().any(|name| terms.flag(name));
        let overage_factor = terms.number_or_one("overage_factor")?;
        Ok(Self { price, commitment: WindowCommitment { committed, overage_factor, has_true_up } })
    }
}

/// What all windows add up to.
#[derive(Default)]
struct Sums {
    by_window: Vec<Exact>,
    utilized: Vec<Exact>,
    overage: Vec<Exact>,
    true_up: Vec<Exact>,
}

impl Sums {
    fn add(&mut self, terms: &Terms, usage: Exact) -> Result<(), Stop> {
        let cost = terms.commitment.split(terms.price.amount(usage)?)?;
        self.by_window.push(cost.amount()?);
        self.utilized.push(cost.utilized);
        self.overage.push(cost.overage);
        self.true_up.push(cost.true_up);
        Ok(())
    }

    fn values(self, case: &Case<'_>) -> Result<Values, Stop> {
        let amount = Precision::of(case)?.sum(&self.by_window)?;
        let true_up = sum_of(&self.true_up)?;
        Ok(Values::new()
            .with("amount", amount)
            .with("total", amount)
            .with("per_window", self.by_window)
            .with("utilized", sum_of(&self.utilized)?)
            .with("overage", sum_of(&self.overage)?)
            .with("true_up", true_up)
            .with("true_up_amount", true_up))
    }
}

/// Every group is priced by the tiers alone.
pub(crate) fn bucketed_tier(case: &Case<'_>) -> Result<Values, Stop> {
    let price = Price::of_tiers(case.list("tiers")?)?;
    let groups = case.named_numbers("groups")?;
    let amounts = groups.iter().map(|(_, value)| price.amount(*value)).collect::<Result<Vec<_>, _>>()?;
    Ok(Values::new().with("total", Precision::of(case)?.sum(&amounts)?))
}

pub(crate) fn unit_rounding(case: &Case<'_>) -> Result<Values, Stop> {
    let rounding = match case.find("rounding").and_then(any_text) {
        Some("UP") => Some(Rounding::Ceiling),
        Some("DOWN") => Some(Rounding::Floor),
        Some("NEAREST") => Some(Rounding::HalfAway),
        None | Some("NONE") => None,
        Some(word) => return Err(Stop::Unsupported(format!("units rounded {word}"))),
    };
    let terms = QuantityTerms {
        conversion: Some(Conversion::Divide(case.number_or_one("quantity_per_unit")?)),
        rounding: rounding.map(|rounding| (rounding, 0)),
        ..QuantityTerms::default()
    };
    let units = terms.units(case.number("quantity")?)?;
    let price = PerUnit { unit_amount: case.number_or_one("unit_price")? };
    Ok(Values::new().with("units", units).with("amount", price.amount(units)?))
}

fn broken(reason: &str) -> Stop {
    Stop::Broken(reason.to_string())
}
