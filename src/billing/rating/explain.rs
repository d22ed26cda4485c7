//! How a window's amount came about, as a structure and as text for a person.
//!
//! Owns: the steps from units to the amount, tier by tier and version by version, and their wording.
//! Leaves to others: the amount itself (`position`).
//!
//! Invariants: the steps of an explanation add up to the exact amount of the position, whatever changed inside the
//! window; asserted before an explanation exists.

use std::fmt;

use domain::{Currency, Exact, Rounding};
use serde_json::{Value, json};

use super::measure::{Measure, SliceMeasure};
use super::models::{Basis, Model, PercentageState, Portion};
use super::position::{
    RecurringPart, WindowTerms, fixed_part, is_first_flat_fixed, position, recurring_parts, total_of,
    units_amount,
};
use super::status::RatingStatus;
use crate::catalog::{PriceVersion, PricingModel, Proration};

/// One step of an explanation: what some units of one tier cost under one version of the price.
///
/// The portion's `from` counts the units below the step itself, which may start inside its tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedPortion {
    /// Version of the price.
    pub price_version: u32,
    /// Its model: the same portion is said in other words.
    pub model: PricingModel,
    /// Units that the price names its amounts for.
    pub per: u64,
    /// The tier and what it contributes.
    pub portion: Portion,
}

/// What a measured quantity became before it was priced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedQuantity {
    /// Version of the price.
    pub price_version: u32,
    /// As it was measured, from the start of the window on; of a group that counts with others, its own.
    pub measured: Exact,
    /// Converted and rounded.
    pub units: Exact,
    /// Units of it that cost nothing.
    pub free_units: Exact,
}

impl ExplainedQuantity {
    fn add(&mut self, more: &ExplainedQuantity) -> Result<(), RatingStatus> {
        self.measured = self.measured.add(more.measured)?;
        self.units = self.units.add(more.units)?;
        self.free_units = self.free_units.add(more.free_units)?;
        Ok(())
    }
}

/// How a window's amount came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowExplanation {
    /// Units that were charged in the window, as they were measured.
    pub quantity: Exact,
    /// What became of them before they were priced, for versions that do something to them.
    pub quantities: Vec<ExplainedQuantity>,
    /// The steps, in order of time and tier; they add up to `precise`.
    pub portions: Vec<ExplainedPortion>,
    /// The amount, exactly.
    pub precise: Exact,
    /// The amount in minor units.
    pub rounded: i128,
    /// Its currency.
    pub currency: Currency,
}

/// Explains the position of a price in a window.
///
/// # Errors
/// [`RatingStatus`].
///
/// # Panics
/// As [`position`].
pub fn explain(
    terms: &WindowTerms<'_>,
    slices: &[SliceMeasure<'_>],
) -> Result<WindowExplanation, RatingStatus> {
    let (mut quantity, mut precise, mut rounded) = (Exact::ZERO, Exact::ZERO, 0i128);
    for line in position(terms, slices)? {
        quantity = quantity.add(line.quantity)?;
        precise = precise.add(line.precise)?;
        // Cannot overflow: these are differences of one running sum, which rating keeps small.
        rounded += line.rounded;
    }
    let mut quantities = Vec::new();
    let portions = steps(terms, slices, &mut quantities)?;
    let mut sum = Exact::ZERO;
    for step in &portions {
        sum = sum.add(step.portion.amount)?;
    }
    assert_eq!(sum, precise, "the steps add up to the amount");
    Ok(WindowExplanation { quantity, quantities, portions, precise, rounded, currency: terms.currency })
}

/// The fixed part, then each run of units under one version, tier by tier.
fn steps(
    terms: &WindowTerms<'_>,
    slices: &[SliceMeasure<'_>],
    quantities: &mut Vec<ExplainedQuantity>,
) -> Result<Vec<ExplainedPortion>, RatingStatus> {
    let mut steps = Vec::new();
    // One way to count holds for all parts of a window: that of its first version.
    let mut proration = None;
    for part in recurring_parts(terms)? {
        let counted_in = *proration.get_or_insert(part.version.terms.proration);
        steps.push(step_of(part.version, recurring_portion(&part, counted_in)));
    }
    let fixed = fixed_part(terms, terms.first_version(), slices)?;
    if let Some((version, amount)) = fixed {
        steps.push(step_of(version, fixed_portion(terms, version, slices, amount)?));
    }
    if terms.active.is_empty() {
        return Ok(steps);
    }
    let mut explainer = Explainer {
        terms,
        total: terms.total(slices)?,
        is_flat_paid: fixed.is_some() || terms.is_continued,
        used: Exact::ZERO,
        sequence: PercentageState::default(),
    };
    let mut rest = slices;
    while let Some(first) = rest.first() {
        let version = terms.charging_version(first.slice);
        let same = |measure: &SliceMeasure<'_>| {
            let other = terms.charging_version(measure.slice);
            other.map(|other| other.version) == version.map(|version| version.version)
        };
        // Between slices of one group others may count.
        let before = terms.before_slice(slices.len() - rest.len());
        let length =
            if before.is_some() { 1 } else { rest.iter().take_while(|measure| same(measure)).count() };
        let (run, after) = rest.split_at(length);
        explainer.run(version, run, before.unwrap_or(Exact::ZERO), &mut steps, quantities)?;
        rest = after;
    }
    Ok(steps)
}

fn step_of(version: &PriceVersion, portion: Portion) -> ExplainedPortion {
    let (model, per) = (version.price.model, version.price.per.unwrap_or(1));
    ExplainedPortion { price_version: version.version, model, per, portion }
}

/// The flat amount that is owed whatever was used; with the cap of its tier, if that is less.
fn fixed_portion(
    terms: &WindowTerms<'_>,
    version: &PriceVersion,
    slices: &[SliceMeasure<'_>],
    amount: Exact,
) -> Result<Portion, RatingStatus> {
    let tier = match &version.terms.model {
        Model::Volume(model) => {
            let total = version.terms.quantity.priced(terms.total(slices)?)?;
            Some(&model.tiers.as_slice()[model.tiers.index_of(total)?])
        }
        model => model.first_tier(terms.group),
    };
    let fixed = Portion::fixed(amount);
    Ok(match tier.filter(|tier| tier.flat_amount != amount) {
        Some(tier) => Portion { cap: tier.flat_cap, flat_amount: tier.flat_amount, ..fixed },
        None => fixed,
    })
}

fn recurring_portion(part: &RecurringPart<'_>, proration: Proration) -> Portion {
    Portion {
        quantity: part.seats,
        basis: Basis::Recurring { share: part.share, proration },
        unit_amount: part.whole,
        amount: part.amount,
        ..Portion::fixed(part.amount)
    }
}

/// Walks through the runs of a window.
struct Explainer<'a> {
    terms: &'a WindowTerms<'a>,
    total: Exact,
    is_flat_paid: bool,
    used: Exact,
    sequence: PercentageState,
}

impl Explainer<'_> {
    /// What the units of a run of slices under one version cost.
    fn run(
        &mut self,
        version: Option<&PriceVersion>,
        run: &[SliceMeasure<'_>],
        elsewhere: Exact,
        steps: &mut Vec<ExplainedPortion>,
        quantities: &mut Vec<ExplainedQuantity>,
    ) -> Result<(), RatingStatus> {
        let own = self.used;
        self.used = own.add(total_of(run)?)?;
        let (from, until) = (own.add(elsewhere)?, self.used.add(elsewhere)?);
        let Some(version) = version else { return Ok(()) };
        let portions = match &version.terms.model {
            Model::Percentage(model) => {
                let before = self.sequence;
                for measure in run {
                    let single = [measure.measure.quantity()?];
                    let events =
                        if let Measure::Sequence(values) = measure.measure { values } else { &single };
                    for event in events {
                        model.take(&mut self.sequence, *event)?;
                    }
                }
                model.portions(&before, &self.sequence)?
            }
            _ => self.units_between(version, from, until)?,
        };
        steps.extend(portions.into_iter().map(|portion| step_of(version, portion)));
        let quantity = &version.terms.quantity;
        if quantity.is_identity() || self.used.is_zero() {
            return Ok(());
        }
        // Where others count in between, a group says what its own units became; else all of the window is said.
        let (measured, low) = match self.terms.elsewhere {
            Some(_) => (total_of(run)?, from),
            None => (self.used, Exact::ZERO),
        };
        let units = quantity.units(until)?.subtract(quantity.units(low)?)?;
        let free_units = units.subtract(quantity.priced(until)?.subtract(quantity.priced(low)?)?)?;
        let said = ExplainedQuantity { price_version: version.version, measured, units, free_units };
        match quantities.last_mut().filter(|_| self.terms.elsewhere.is_some()) {
            Some(last) if last.price_version == said.price_version => last.add(&said)?,
            _ => quantities.push(said),
        }
        Ok(())
    }

    /// What units cost from `from` up to `until`: per tier, the difference of what it contributes.
    fn units_between(
        &self,
        version: &PriceVersion,
        from: Exact,
        until: Exact,
    ) -> Result<Vec<Portion>, RatingStatus> {
        let amount = |used| units_amount(version, self.terms.group, used, self.total, self.is_flat_paid);
        let quantity = &version.terms.quantity;
        let (low, high) = (quantity.priced(from)?, quantity.priced(until)?);
        if let Model::Flat(_) | Model::Stairstep(_) | Model::Capacity(_) = version.terms.model {
            return Ok(Vec::new());
        }
        let rest = amount(until)?.subtract(amount(from)?)?;
        if let Model::Volume(model) = &version.terms.model {
            let band = model.tiers.index_of(quantity.priced(self.total)?)?;
            let tier = &model.tiers.as_slice()[band];
            let basis = match (tier.basis_of(low)?, tier.basis_of(high)?) {
                (Basis::Packages { count: below, .. }, Basis::Packages { size, count }) => {
                    Basis::Packages { size, count: count.subtract(below)? }
                }
                (_, basis) => basis,
            };
            let portion = Portion {
                tier: band,
                up_to: tier.up_to,
                quantity: high.subtract(low)?,
                basis,
                unit_amount: tier.unit_amount,
                cap: tier.flat_cap,
                amount: rest,
                ..Portion::fixed(Exact::ZERO)
            };
            return Ok(Some(portion)
                .filter(|p| !p.quantity.is_zero() || !p.amount.is_zero())
                .into_iter()
                .collect());
        }
        let is_flat_fixed = is_first_flat_fixed(version, self.is_flat_paid);
        let model = &version.terms.model;
        let before = model.portions(self.terms.group, low, is_flat_fixed)?;
        let after = model.portions(self.terms.group, high, is_flat_fixed)?;
        differences(&before, &after)
    }
}

/// Portion by portion, what is after less what was before.
fn differences(before: &[Portion], after: &[Portion]) -> Result<Vec<Portion>, RatingStatus> {
    let is_falling = before.len() > after.len();
    let longer = if is_falling { before } else { after };
    let mut steps = Vec::new();
    for (index, tier) in longer.iter().enumerate() {
        let (before, after) = (before.get(index), after.get(index));
        let minus = |of: fn(&Portion) -> Exact| {
            after.map_or(Exact::ZERO, of).subtract(before.map_or(Exact::ZERO, of))
        };
        let packages = |portion: &Portion| match portion.basis {
            Basis::Packages { count, .. } => count,
            _ => Exact::ZERO,
        };
        let basis = match tier.basis {
            Basis::Packages { size, .. } => Basis::Packages { size, count: minus(packages)? },
            basis => basis,
        };
        let portion = Portion {
            from: tier.from.add(before.map_or(Exact::ZERO, |portion| portion.quantity))?,
            quantity: minus(|portion| portion.quantity)?,
            amount: minus(|portion| portion.amount)?,
            // Owed on both sides or on neither: it belongs to an earlier step.
            flat_amount: minus(|portion| portion.flat_amount)?,
            basis,
            ..tier.clone()
        };
        if !portion.quantity.is_zero() || !portion.amount.is_zero() {
            steps.push(portion);
        }
    }
    Ok(steps)
}

impl fmt::Display for WindowExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first_version = self.portions.first().map(|step| step.price_version);
        let has_versions = self.portions.iter().any(|step| Some(step.price_version) != first_version);
        for quantity in &self.quantities {
            self.write_quantity(f, quantity)?;
        }
        for step in &self.portions {
            if has_versions {
                write!(f, "price version {}: ", step.price_version)?;
            }
            self.write_portion(f, step)?;
        }
        write!(f, "total {}", total_text(self.currency, self.precise, self.rounded))
    }
}

impl WindowExplanation {
    fn write_quantity(&self, f: &mut fmt::Formatter<'_>, quantity: &ExplainedQuantity) -> fmt::Result {
        let text = |number: Exact| grouped(&number.to_string());
        if quantity.units != quantity.measured {
            writeln!(f, "{} measured are {} units", text(quantity.measured), text(quantity.units))?;
        }
        if !quantity.free_units.is_zero() {
            writeln!(f, "{} units are included", text(quantity.free_units))?;
        }
        Ok(())
    }

    fn write_portion(&self, f: &mut fmt::Formatter<'_>, step: &ExplainedPortion) -> fmt::Result {
        let portion = &step.portion;
        let units = portion.quantity.abs();
        let count = grouped(&units.to_string());
        match portion.basis {
            Basis::Recurring { share, proration } => {
                write!(f, "recurring amount")?;
                if !portion.quantity.is_zero() {
                    write!(f, " for {count} {}", plural(units, "seat", "seats"))?;
                }
                if share.numerator != share.denominator {
                    let (part, whole) =
                        (grouped_integer(share.numerator), grouped_integer(share.denominator));
                    let unit = if proration == Proration::Seconds { "seconds" } else { "days" };
                    write!(f, ", {part} of {whole} {unit} of {}", self.money(portion.unit_amount))?;
                }
            }
            Basis::Free if step.model == PricingModel::Percentage => write!(f, "{count} are free")?,
            Basis::Free => write!(f, "{count} {} are free", plural(units, "unit", "units"))?,
            Basis::Percent { .. } if step.model == PricingModel::Dynamic => {
                write!(f, "{count} times {}", grouped(&portion.unit_amount.to_string()))?;
            }
            Basis::Percent { rate } => write!(f, "{}% of {count}", grouped(&rate.to_string()))?,
            Basis::Fixed => f.write_str(fixed_words(step.model))?,
            Basis::Units if portion.quantity.is_zero() => f.write_str(fixed_words(step.model))?,
            Basis::Units if step.model == PricingModel::Percentage => {
                let fee = self.money(portion.unit_amount);
                write!(f, "fee of {fee} for {count} {}", plural(units, "event", "events"))?;
            }
            Basis::Units | Basis::Packages { .. } => self.write_units(f, step)?,
        }
        let has_flat = matches!(portion.basis, Basis::Units | Basis::Packages { .. } | Basis::Percent { .. });
        if has_flat && !portion.quantity.is_zero() && !portion.flat_amount.is_zero() {
            write!(f, " plus {} for the tier", self.money(portion.flat_amount))?;
        }
        if let Some((uncapped, cap)) = capped(portion) {
            let (verb, cap) = (if portion.quantity.is_zero() { "of" } else { "are" }, self.money(cap));
            write!(f, " {verb} {}, but the tier costs at most {cap} in all", self.money(uncapped))?;
        }
        writeln!(f, " = {}", self.money(portion.amount))
    }

    /// `first 1,000 units at 0.10 per 1,000`, or in packages.
    fn write_units(&self, f: &mut fmt::Formatter<'_>, step: &ExplainedPortion) -> fmt::Result {
        let portion = &step.portion;
        let units = portion.quantity.abs();
        let is_only_tier = portion.tier == 0 && portion.up_to.is_none();
        let word = match portion.from.is_zero() {
            _ if portion.quantity.is_negative() => "less ",
            _ if step.model == PricingModel::Volume => self.volume_word(),
            _ if is_only_tier => "",
            true => "first ",
            false => "next ",
        };
        write!(f, "{word}{} {}", grouped(&units.to_string()), plural(units, "unit", "units"))?;
        if let Basis::Packages { size, count } = portion.basis {
            let packages = plural(count, "package", "packages");
            let (size, count) = (grouped(&size.to_string()), grouped(&count.to_string()));
            return write!(f, " in {count} {packages} of {size} at {}", self.money(portion.unit_amount));
        }
        let per = Exact::from_integer(step.per.into());
        let unit_amount = portion.unit_amount.multiply(per).unwrap_or(portion.unit_amount);
        write!(f, " at {}", self.money(unit_amount))?;
        if step.per == 1 { Ok(()) } else { write!(f, " per {}", grouped(&step.per.to_string())) }
    }

    /// Where all units are in one portion, it is said that one tier prices all of them.
    fn volume_word(&self) -> &'static str {
        let with_units = self.portions.iter().filter(|step| !step.portion.quantity.is_zero());
        if with_units.count() == 1 { "all " } else { "" }
    }

    fn money(&self, amount: Exact) -> String {
        money_text(self.currency, amount)
    }
}

impl WindowExplanation {
    /// The steps as JSON: amounts are exact texts, as in `docs/reference/http-api.md`.
    pub fn steps_to_json(&self) -> Vec<Value> {
        self.portions.iter().map(ExplainedPortion::to_json).collect()
    }
}

impl ExplainedPortion {
    fn to_json(&self) -> Value {
        let portion = &self.portion;
        json!({
            "price_version": self.price_version, "tier": portion.tier, "basis": basis_json(portion.basis),
            "quantity": portion.quantity, "unit_amount": portion.unit_amount,
            "flat_amount": portion.flat_amount, "cap": portion.cap,
            "uncapped": capped(portion).map(|(uncapped, _)| uncapped), "amount": portion.amount,
        })
    }
}

fn basis_json(basis: Basis) -> Value {
    match basis {
        Basis::Units => json!({ "units": {} }),
        Basis::Packages { size, count } => json!({ "packages": { "size": size, "count": count } }),
        Basis::Percent { rate } => json!({ "percent": { "rate": rate } }),
        Basis::Free => json!({ "free": {} }),
        Basis::Recurring { share, proration } => json!({ "recurring": {
            "share": share.value(), "part": share.numerator, "whole": share.denominator, "proration": proration,
        } }),
        Basis::Fixed => json!({ "fixed": {} }),
    }
}

/// What a portion would cost without the cap of its tier, and the cap, where that made it less.
fn capped(portion: &Portion) -> Option<(Exact, Exact)> {
    let cap = portion.cap?;
    let count = if let Basis::Packages { count, .. } = portion.basis { count } else { portion.quantity };
    let units = count.multiply(portion.unit_amount).ok()?;
    let uncapped = units.add(portion.flat_amount).ok()?;
    (uncapped != portion.amount).then_some((uncapped, cap))
}

fn grouped_integer(number: u64) -> String {
    grouped(&number.to_string())
}

/// An amount that does not depend on single units, by model.
fn fixed_words(model: PricingModel) -> &'static str {
    match model {
        PricingModel::Stairstep => "step that the total lies in",
        PricingModel::Capacity => "step in which everything fits",
        PricingModel::Percentage => "least and most of single events",
        _ => "flat amount",
    }
}

fn plural(count: Exact, one: &'static str, many: &'static str) -> &'static str {
    if count == Exact::ONE { one } else { many }
}

/// Fraction digits beyond the currency's that are shown of an amount that is no decimal.
const SHOWN_DIGITS: u8 = 4;

/// What is owed and what is billed of it: `12.50 USD`, or `exactly 12.504 USD, billed 12.50 USD`.
pub fn total_text(currency: Currency, precise: Exact, rounded: i128) -> String {
    let exact = if precise.is_decimal() { money_text(currency, precise) } else { precise.to_string() };
    let billed = grouped(&currency.format_minor(rounded));
    if exact == billed {
        return format!("{billed} {currency}");
    }
    format!("exactly {exact} {currency}, billed {billed} {currency}")
}

/// An exact amount with at least the currency's fraction digits: `750.00`, `10.4895`; of one that is no decimal its first
/// digits: `29.032258…`.
pub fn money_text(currency: Currency, amount: Exact) -> String {
    let exponent = currency.exponent();
    if !amount.is_decimal() {
        // Towards zero, so that the digits that are shown are those that it has.
        let rounding = if amount.is_negative() { Rounding::Ceiling } else { Rounding::Floor };
        let shown = amount.round(rounding, i32::from(exponent + SHOWN_DIGITS));
        return shown.map_or_else(|_| amount.to_string(), |shown| format!("{}…", padded(shown, exponent)));
    }
    padded(amount, exponent)
}

fn padded(amount: Exact, exponent: u8) -> String {
    let mut text = amount.to_string();
    let fraction = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let missing = usize::from(exponent).saturating_sub(fraction);
    if missing > 0 {
        if fraction == 0 {
            text.push('.');
        }
        text.extend(std::iter::repeat_n('0', missing));
    }
    grouped(&text)
}

/// A decimal text with its whole digits in groups of three: `-25,000,000.5`.
pub fn grouped(text: &str) -> String {
    if let Some((numerator, denominator)) = text.split_once('/') {
        return format!("{}/{}", grouped(numerator), grouped(denominator));
    }
    let (sign, digits) = text.strip_prefix('-').map_or(("", text), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').map_or((digits, None), |(w, f)| (w, Some(f)));
    let mut out = String::from(sign);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_that_is_no_decimal_shows_its_first_digits_and_its_total_the_fraction() {
        let currency = |code| Currency::from_code(code).unwrap();
        for (code, amount, text) in [
            ("USD", "750", "750.00"),
            ("USD", "-1234567.5", "-1,234,567.50"),
            ("USD", "10.4895", "10.4895"),
            ("USD", "900/31", "29.032258…"),
            ("USD", "-2/3", "-0.666666…"),
            ("JPY", "100000/7", "14,285.7142…"),
            ("JPY", "5", "5"),
        ] {
            assert_eq!(money_text(currency(code), Exact::parse(amount).unwrap()), text);
        }
        let total = |amount, minor| total_text(currency("USD"), Exact::parse(amount).unwrap(), minor);
        assert_eq!(total("12.5", 1_250), "12.50 USD");
        assert_eq!([grouped("12345/7"), grouped("-2469/1400")], ["12,345/7", "-2,469/1,400"]);
        assert_eq!(total("900/31", 2_903), "exactly 900/31 USD, billed 29.03 USD");
    }
}
