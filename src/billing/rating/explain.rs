//! How a window's amount came about, as a structure and as text for a person.

use std::fmt;

use domain::{Currency, Exact};

use super::measure::SliceMeasure;
use super::models::{Portion, portions};
use super::position::{WindowTerms, position};
use super::status::RatingStatus;

/// One step of an explanation.
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
    /// Units used in the window.
    pub quantity: Exact,
    /// The steps; where the price did not change inside the window they add up to `precise`.
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
pub fn explain(terms: &WindowTerms<'_>, slices: &[SliceMeasure]) -> Result<WindowExplanation, RatingStatus> {
    let lines = position(terms, slices)?;
    let (mut quantity, mut precise, mut rounded) = (Exact::ZERO, Exact::ZERO, 0i128);
    for line in &lines {
        quantity = quantity.add(line.quantity)?;
        precise = precise.add(line.precise)?;
        rounded = rounded.checked_add(line.rounded).ok_or(RatingStatus::AmountMustFit)?;
    }
    let last =
        lines.last().and_then(|line| terms.price.versions().iter().find(|v| v.version == line.price_version));
    let portions = match last {
        None => Vec::new(),
        Some(version) => portions(&version.price, quantity, version.price.flat_at_zero.unwrap_or(true))?
            .into_iter()
            .map(|portion| ExplainedPortion { price_version: version.version, portion })
            .collect(),
    };
    Ok(WindowExplanation { quantity, portions, precise, rounded, currency: terms.currency })
}

impl fmt::Display for WindowExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ExplainedPortion { portion, .. } in &self.portions {
            let Portion { quantity, unit_amount, per, flat_amount, amount, up_to, from, .. } = portion;
            if !quantity.is_zero() || flat_amount.is_zero() {
                let tier = match up_to {
                    Some(up_to) => format!("units {from} to {up_to}"),
                    None if from.is_zero() => "all units".to_string(),
                    None => format!("units above {from}"),
                };
                let per = if *per == 1 { String::new() } else { format!(" per {per}") };
                write!(f, "{tier}: {quantity} at {unit_amount}{per}")?;
                if !flat_amount.is_zero() {
                    write!(f, " plus {flat_amount}")?;
                }
            } else {
                write!(f, "recurring amount {flat_amount}")?;
            }
            writeln!(f, " = {amount}")?;
        }
        let rounded = self.currency.format_minor(self.rounded);
        write!(f, "exactly {} {}, billed {rounded}", self.precise, self.currency)
    }
}
