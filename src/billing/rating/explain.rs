//! How a window's amount came about, as a structure and as text for a person.
//!
//! Owns: the steps from units to the amount, tier by tier and version by version, and their wording.
//! Leaves to others: the amount itself (`position`).
//!
//! Invariants: the steps of an explanation add up to the exact amount of the position, whatever changed inside the
//! window; asserted before an explanation exists.

use std::fmt;

use domain::{Currency, Decimal, Exact};

use super::measure::SliceMeasure;
use super::models::{Portion, portions};
use super::position::{WindowTerms, fixed_part, is_first_flat_fixed, position};
use super::status::{RatingStatus, difference};
use crate::catalog::{PriceVersion, PricingModel};

/// One step of an explanation: what some units of one tier cost under one version of the price.
///
/// The portion's `from` counts the units below the step itself, which may start inside its tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedPortion {
    /// Version of the price.
    pub price_version: u32,
    /// The tier and what it contributes.
    pub portion: Portion,
}

/// How a window's amount came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowExplanation {
    /// Units that were charged in the window.
    pub quantity: Exact,
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
pub fn explain(terms: &WindowTerms<'_>, slices: &[SliceMeasure]) -> Result<WindowExplanation, RatingStatus> {
    let (mut quantity, mut precise, mut rounded) = (Exact::ZERO, Exact::ZERO, 0i128);
    for line in position(terms, slices)? {
        quantity = quantity.add(line.quantity)?;
        precise = precise.add(line.precise)?;
        // Cannot overflow: these are differences of one running sum, which rating keeps small.
        rounded += line.rounded;
    }
    let portions = steps(terms, slices)?;
    let mut sum = Exact::ZERO;
    for step in &portions {
        sum = sum.add(step.portion.amount)?;
    }
    assert_eq!(sum, precise, "the steps add up to the amount");
    Ok(WindowExplanation { quantity, portions, precise, rounded, currency: terms.currency })
}

/// The fixed part, then each run of units under one version, tier by tier.
fn steps(terms: &WindowTerms<'_>, slices: &[SliceMeasure]) -> Result<Vec<ExplainedPortion>, RatingStatus> {
    let mut steps = Vec::new();
    let fixed = fixed_part(terms, slices);
    if let Some((version, amount)) = fixed {
        steps.push(ExplainedPortion { price_version: version.version, portion: fixed_portion(amount) });
    }
    if terms.active.is_empty() || terms.price.model() == PricingModel::Flat {
        return Ok(steps);
    }
    let mut run: Option<(&PriceVersion, Exact)> = None;
    let mut used = Exact::ZERO;
    for measure in slices {
        let version = terms.price.version_at(measure.slice.from);
        let is_same = matches!((&run, version), (Some((last, _)), Some(version)) if same(last, version));
        if !is_same {
            steps.extend(portions_between(run.take(), used, fixed.is_some())?);
            run = version.map(|version| (version, used));
        }
        used = used.add(measure.quantity)?;
    }
    steps.extend(portions_between(run, used, fixed.is_some())?);
    Ok(steps)
}

fn same(a: &PriceVersion, b: &PriceVersion) -> bool {
    a.version == b.version
}

fn fixed_portion(amount: Decimal) -> Portion {
    Portion {
        tier: 0,
        from: Exact::ZERO,
        up_to: None,
        quantity: Exact::ZERO,
        unit_amount: Decimal::ZERO,
        per: 1,
        flat_amount: amount,
        amount: amount.into(),
    }
}

/// What the units of a run cost: per tier, the difference of what it contributes after and before.
fn portions_between(
    run: Option<(&PriceVersion, Exact)>,
    until: Exact,
    is_flat_paid: bool,
) -> Result<Vec<ExplainedPortion>, RatingStatus> {
    let Some((version, from)) = run else { return Ok(Vec::new()) };
    let is_flat_fixed = is_first_flat_fixed(version, is_flat_paid);
    let before = portions(&version.price, from, is_flat_fixed)?;
    let after = portions(&version.price, until, is_flat_fixed)?;
    let is_falling = before.len() > after.len();
    let longer = if is_falling { &before } else { &after };
    let mut steps = Vec::new();
    for (index, tier) in longer.iter().enumerate() {
        let (before, after) = (before.get(index), after.get(index));
        let minus = |of: fn(&Portion) -> Exact| {
            difference(after.map_or(Exact::ZERO, of), before.map_or(Exact::ZERO, of))
        };
        let flat_after = after.map_or(Decimal::ZERO, |portion| portion.flat_amount);
        let flat_before = before.map_or(Decimal::ZERO, |portion| portion.flat_amount);
        let flat_amount = match (flat_after.is_zero(), flat_before.is_zero()) {
            (false, true) => flat_after,
            (true, false) => Decimal::new(-flat_before.mantissa(), flat_before.scale())
                .map_err(|_| RatingStatus::AmountMustFit)?,
            // Owed on both sides or on neither: it belongs to an earlier step.
            _ => Decimal::ZERO,
        };
        let portion = Portion {
            from: tier.from.add(before.map_or(Exact::ZERO, |portion| portion.quantity))?,
            quantity: minus(|portion| portion.quantity)?,
            amount: minus(|portion| portion.amount)?,
            flat_amount,
            ..tier.clone()
        };
        if !portion.quantity.is_zero() || !portion.amount.is_zero() {
            steps.push(ExplainedPortion { price_version: version.version, portion });
        }
    }
    Ok(steps)
}

impl fmt::Display for WindowExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first_version = self.portions.first().map(|step| step.price_version);
        let has_versions = self.portions.iter().any(|step| Some(step.price_version) != first_version);
        for ExplainedPortion { price_version, portion } in &self.portions {
            if has_versions {
                write!(f, "price version {price_version}: ")?;
            }
            self.write_portion(f, portion)?;
        }
        let exact = self.money(self.precise);
        let billed = grouped(&self.currency.format_minor(self.rounded));
        if exact == billed {
            write!(f, "total {billed} {}", self.currency)
        } else {
            write!(
                f,
                "total exactly {exact} {currency}, billed {billed} {currency}",
                currency = self.currency
            )
        }
    }
}

impl WindowExplanation {
    fn write_portion(&self, f: &mut fmt::Formatter<'_>, portion: &Portion) -> fmt::Result {
        let amount = self.money(portion.amount);
        if portion.quantity.is_zero() {
            return writeln!(f, "flat amount = {amount}");
        }
        let is_only_tier = portion.tier == 0 && portion.up_to.is_none();
        let word = match portion.from.is_zero() {
            _ if portion.quantity.is_negative() => "less ",
            _ if is_only_tier => "",
            true => "first ",
            false => "next ",
        };
        let units = portion.quantity.to_string();
        let units = grouped(units.trim_start_matches('-'));
        write!(f, "{word}{units} units at {}", grouped(&portion.unit_amount.to_string()))?;
        if portion.per != 1 {
            write!(f, " per {}", grouped(&portion.per.to_string()))?;
        }
        if !portion.flat_amount.is_zero() {
            write!(f, " plus {} for the tier", self.money(portion.flat_amount.into()))?;
        }
        writeln!(f, " = {amount}")
    }

    /// An exact amount with at least the currency's fraction digits: `750.00`, `10.4895`.
    fn money(&self, amount: Exact) -> String {
        let mut text = amount.to_string();
        let fraction = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        let missing = usize::from(self.currency.exponent()).saturating_sub(fraction);
        if missing > 0 {
            if fraction == 0 {
                text.push('.');
            }
            text.extend(std::iter::repeat_n('0', missing));
        }
        grouped(&text)
    }
}

/// A decimal text with its whole digits in groups of three: `-25,000,000.5`.
fn grouped(text: &str) -> String {
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
