//! The position of one price in one window: what it is worth as now known.
//!
//! Owns: the split of a window's amount over its slices, price versions inside a window, silence, rounding.
//! Leaves to others: the amount of a quantity (`models`), the difference to what was issued (`machine::cut`).
//!
//! Invariants:
//! - A function of terms, slices and `as_of`; a previous balance is never an input.
//! - Lines are exact; their rounded amounts telescope, so that they sum to the rounding of the exact sum.
//! - Tiers accumulate over the whole window: the counter goes on through a change of price.
//! - No two lines of a position share (price version, start of slice): that pair is a line's key.
//!
//! *Usage.* Slice `i` with quantity `n_i` after `off_i` units prices `P_v(off_i + n_i) − P_v(off_i)`, where `v` is the
//! version in force at its start. A slice in which no version is in force is not charged, but its units count in
//! `off`. The rounded amount is `R(Σ_{j≤i} precise) − R(Σ_{j<i} precise)`.
//!
//! *The fixed part* of a window is set by the version in force at the first instant at which the subscription is active
//! in it. A version that takes effect later changes what units cost from then on, and the fixed part from the next
//! window on. There are two kinds:
//! - A recurring amount (model `flat`) is owed, in full, once the last active span of the window has ended at `as_of`:
//!   in arrears. A subscription that starts or ends inside the window owes it in full as well; this version does not
//!   prorate. Its slice is the whole window.
//! - The flat amount of a first tier with `flat_at_zero` is owed then too, or as soon as anything was used. It stands at
//!   the start of the first active span: in the line of the slice that starts there, or in a line of its own with an
//!   empty slice and no quantity. Either way its key is the same, whichever slices have usage.
//!
//! *Flat amounts that usage owes* (a later tier's, or a first tier's without `flat_at_zero`) belong to the slice whose
//! units enter the tier.
//!
//! *Zero lines.* A line without quantity, amount and events is left out, but for a recurring amount of zero. A slice
//! whose units are free keeps its line: it says what was used.

use domain::{Currency, Decimal, Exact, Span, Timestamp};

use super::measure::SliceMeasure;
use super::models::{amount, first_flat_amount};
use super::status::{AMOUNT_MINOR_MAX, RatingStatus, difference};
use crate::catalog::{PriceTimeline, PriceVersion, PricingModel};

/// What a position depends on besides usage.
#[derive(Clone, Copy, Debug)]
pub struct WindowTerms<'a> {
    /// The price in all its versions.
    pub price: &'a PriceTimeline,
    /// The tier window.
    pub window: Span,
    /// Where in the window the subscription is active under the price's plan; sorted, disjoint, inside the window.
    pub active: &'a [Span],
    /// Currency that amounts are rounded in.
    pub currency: Currency,
    /// The instant of the cut.
    pub as_of: Timestamp,
}

/// What one slice is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PositionLine {
    /// The version of the price in force at the slice's start.
    pub price_version: u32,
    /// The slice.
    pub slice: Span,
    /// Units used in it.
    pub quantity: Exact,
    /// Its amount, exactly.
    pub precise: Exact,
    /// Its amount in minor units.
    pub rounded: i128,
    /// Events that it counts.
    pub event_count: u64,
    /// Digest of the set of those events.
    pub event_digest: u128,
}

/// The position of a price in a window, in order of time. `slices` are sorted, disjoint and inside the window.
///
/// A window without an active span is worth nothing, whatever its slices say.
///
/// # Errors
/// The first broken rule, in the order in which [`RatingStatus`] declares them.
///
/// # Panics
/// If the slices are not sorted; they come from an ordered map.
pub fn position(terms: &WindowTerms<'_>, slices: &[SliceMeasure]) -> Result<Vec<PositionLine>, RatingStatus> {
    assert!(slices.is_sorted_by(|a, b| a.slice.from < b.slice.from), "slices are in order of time");
    let Some(first) = terms.active.first() else { return Ok(Vec::new()) };

    let mut rounder = Rounder { currency: terms.currency, exact: Exact::ZERO, rounded: 0 };
    let mut lines = Vec::with_capacity(slices.len() + 1);
    let mut fixed = fixed_part(terms, slices);
    if terms.price.model() == PricingModel::Flat {
        if let Some((version, amount)) = fixed {
            lines.push(rounder.line(version, nothing_in(terms.window), amount.into())?);
        }
        return Ok(lines);
    }
    let flat_line = |rounder: &mut Rounder, (version, flat): (&PriceVersion, Decimal)| {
        rounder.line(version, nothing_in(Span::new(first.from, first.from)), flat.into())
    };
    let mut counter = Counter { is_flat_paid: fixed.is_some(), used: Exact::ZERO, priced: None };
    for measure in slices {
        if measure.slice.from > first.from
            && let Some(flat) = fixed.take()
        {
            lines.push(flat_line(&mut rounder, flat)?);
        }
        let version = terms.price.version_at(measure.slice.from);
        let Some((version, usage)) = counter.count(version, measure.quantity)? else { continue };
        let flat = fixed.take_if(|_| measure.slice.from == first.from);
        let precise = flat.map_or(Ok(usage), |(_, flat)| usage.add(flat.into()))?;
        if measure.event_count > 0 || !measure.quantity.is_zero() || !precise.is_zero() {
            lines.push(rounder.line(version, *measure, precise)?);
        }
    }
    if let Some(flat) = fixed {
        lines.push(flat_line(&mut rounder, flat)?);
    }
    Ok(lines)
}

/// The part of a window's amount that does not depend on how much was used, if it is owed by now.
pub(super) fn fixed_part<'a>(
    terms: &WindowTerms<'a>,
    slices: &[SliceMeasure],
) -> Option<(&'a PriceVersion, Decimal)> {
    let (first, last) = (terms.active.first()?, terms.active.last()?);
    let version = terms.price.version_at(first.from)?;
    let has_ended = last.until <= terms.as_of;
    if terms.price.model() == PricingModel::Flat {
        return version.price.unit_amount.filter(|_| has_ended).map(|amount| (version, amount));
    }
    let has_usage = slices.iter().any(|measure| measure.event_count > 0);
    let is_owed = is_flat_at_zero(version) && (has_usage || has_ended);
    first_flat_amount(&version.price).filter(|_| is_owed).map(|flat| (version, flat))
}

fn is_flat_at_zero(version: &PriceVersion) -> bool {
    version.price.flat_at_zero.unwrap_or(true)
}

/// Whether the units of a version owe no flat amount of the first tier, because it is, or is not to be, part of the
/// fixed part. A window pays it once, so a version without `flat_at_zero` does not charge it a second time.
pub(super) fn is_first_flat_fixed(version: &PriceVersion, is_flat_paid: bool) -> bool {
    is_flat_paid || is_flat_at_zero(version)
}

/// Counts units through the window and prices each slice as the difference of two cumulative amounts.
struct Counter {
    is_flat_paid: bool,
    used: Exact,
    /// The cumulative amount of `used` under the version that priced the last slice: what the next one starts from.
    priced: Option<(u32, Exact)>,
}

impl Counter {
    fn count<'a>(
        &mut self,
        version: Option<&'a PriceVersion>,
        quantity: Exact,
    ) -> Result<Option<(&'a PriceVersion, Exact)>, RatingStatus> {
        let before = self.used;
        self.used = before.add(quantity)?;
        let Some(version) = version else {
            self.priced = None;
            return Ok(None);
        };
        let is_flat_fixed = is_first_flat_fixed(version, self.is_flat_paid);
        let from = match self.priced {
            Some((last, priced)) if last == version.version => priced,
            _ => amount(&version.price, before, is_flat_fixed)?,
        };
        let to = amount(&version.price, self.used, is_flat_fixed)?;
        self.priced = Some((version.version, to));
        Ok(Some((version, difference(to, from)?)))
    }
}

fn nothing_in(slice: Span) -> SliceMeasure {
    SliceMeasure { slice, quantity: Exact::ZERO, event_count: 0, event_digest: 0 }
}

/// Rounds the running sum, once per line.
struct Rounder {
    currency: Currency,
    exact: Exact,
    rounded: i128,
}

impl Rounder {
    fn line(
        &mut self,
        version: &PriceVersion,
        measure: SliceMeasure,
        precise: Exact,
    ) -> Result<PositionLine, RatingStatus> {
        self.exact = self.exact.add(precise)?;
        let rounded = self.exact.round_to(self.currency.exponent())?;
        if rounded.unsigned_abs() > AMOUNT_MINOR_MAX.unsigned_abs() {
            return Err(RatingStatus::AmountMustBeBillable);
        }
        let line = PositionLine {
            price_version: version.version,
            slice: measure.slice,
            quantity: measure.quantity,
            precise,
            rounded: rounded - self.rounded,
            event_count: measure.event_count,
            event_digest: measure.event_digest,
        };
        self.rounded = rounded;
        Ok(line)
    }
}
