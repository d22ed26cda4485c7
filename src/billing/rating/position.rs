//! The position of one price in one window: what it is worth as now known.
//!
//! Owns: the split of a window's amount over its slices, price versions inside a window, silence, rounding.
//! Leaves to others: the amount of a quantity (`models`), what is done to a quantity before it is priced (`quantity`),
//! what is agreed around the price (`adjustments`), the difference to what was issued (`machine::cut`).
//!
//! Invariants:
//! - A function of terms, slices and `as_of`; a previous balance is never an input.
//! - Lines are exact; their rounded amounts telescope, so that they sum to the rounding of the exact sum.
//! - Tiers accumulate over the whole window: the counter goes on through a change of price.
//! - No two lines of a position share (price version, start of slice): that pair is a line's key.
//!
//! *Usage.* Slice `i` with quantity `n_i` after `off_i` units prices `P_v(off_i + n_i) − P_v(off_i)`, where `v` is the
//! version in force at its start and `P_v` converts, rounds and frees the cumulative quantity before it prices it. A
//! slice in which no version is in force is not charged, but its units count in `off`; so do those of a slice of another plan whose
//! price counted the same (an upgrade inside the window). The rounded amount is
//! `R(Σ_{j≤i} precise) − R(Σ_{j<i} precise)`.
//! - *Volume* prices every slice at the tier of the window's final total.
//! - *Percentage* prices events in order of time; what is free counts through the window. Events of a slice without a
//!   version are not in the sequence.
//! - *Units that grants cover* are in the quantity of a line and in no counter: the next unit is priced as if they had not
//!   been used.
//! - *Groups that count together* (`tier_scope`) have the units that other groups used before the slice in `off` (`together`).
//! - *Stairstep* and *capacity* charge nothing for units: the whole is the fixed part.
//!
//! *The fixed part* of a window is set by the version in force at the first instant at which the subscription is active
//! in it, of a price that begins later by its first version there. A version that takes effect later changes what units cost from then
//! on, and the fixed part from the next window on; a price that goes on counting from that of another plan has none until then. There
//! are three kinds:
//! - A recurring amount (model `flat`) times the seats of the subscription. Without proration it is owed in full, in
//!   advance from the first active instant of the window, in arrears once the last active span has ended; its slice is
//!   the whole window. With proration every span in which price version and seats stay the same owes its part of the
//!   window, from its start or its end on; the parts add up to the whole.
//! - The flat amount of a first tier with `flat_at_zero` is owed once the last active span has ended at `as_of`, or as
//!   soon as anything was used.
//! - The flat amount of the tier, step or capacity of the final total, likewise; without usage only with `flat_at_zero`.
//!
//! The last two stand at the start of the first active span, or where the price begins: in the line of the slice that starts there, or in a line of
//! its own with an empty slice and no quantity. Either way its key is the same, whichever slices have usage.
//!
//! *Flat amounts that usage owes* (a later tier's, or a first tier's without `flat_at_zero`) belong to the slice whose
//! units enter the tier.
//!
//! *Zero lines.* A line without quantity, amount and events is left out, but for a recurring amount of zero. A slice
//! whose units are free keeps its line: it says what was used.

use domain::{Currency, Exact, GroupTexts, Rounding, Span, Timestamp, Zone};

use super::measure::{Measure, SliceMeasure};
use super::models::{Flat, Model, Payment, PercentageState};
use super::proration::{Basis, Ratio, ratios};
use super::status::{AMOUNT_MINOR_MAX, RatingStatus};
use super::together::Elsewhere;
use crate::catalog::{PriceTimeline, PriceVersion, PricingModel, Proration};

#[cfg(test)]
mod tests;

/// A span in which a subscription is active, and what it has in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveTerm {
    /// When.
    pub span: Span,
    /// Seats: what recurring amounts are multiplied by; none is one.
    pub seats: Option<Exact>,
}

impl From<Span> for ActiveTerm {
    fn from(span: Span) -> Self {
        Self { span, seats: None }
    }
}

/// What a position depends on besides usage.
#[derive(Clone, Copy, Debug)]
pub struct WindowTerms<'a> {
    /// The price in all its versions.
    pub price: &'a PriceTimeline,
    /// The tier window.
    pub window: Span,
    /// Where in the window the subscription is active under the price's plan; sorted, disjoint, inside the window.
    pub active: &'a [ActiveTerm],
    /// Texts of the group-by dimensions; they choose the row of a matrix.
    pub group: &'a GroupTexts,
    /// Zone of the account: its days prorate.
    pub zone: &'a Zone,
    /// Currency that amounts are rounded in.
    pub currency: Currency,
    /// The instant of the cut.
    pub as_of: Timestamp,
    /// Whether the window began under another plan whose price counted what this one goes on counting: slices of that plan are given
    /// as well, and the fixed part is that price's.
    pub is_continued: bool,
    /// What other groups count, where they count together.
    pub elsewhere: Option<&'a Elsewhere>,
}

impl<'a> WindowTerms<'a> {
    /// Units of other groups that count before a slice.
    pub(super) fn before_slice(&self, index: usize) -> Option<Exact> {
        self.elsewhere.map(|elsewhere| elsewhere.before[index])
    }

    /// All that is used in the window, by other groups as well where they count together.
    pub(super) fn total(&self, slices: &[SliceMeasure<'_>]) -> Result<Exact, RatingStatus> {
        let own = total_of(slices)?;
        self.elsewhere.map_or(Ok(own), |elsewhere| Ok(own.add(elsewhere.total)?))
    }

    /// The version that charges a slice: in force at its start, and the subscription active under the price's plan.
    pub(super) fn charging_version(&self, slice: Span) -> Option<&'a PriceVersion> {
        let is_active = self.active.iter().any(|term| term.span.contains(slice.from));
        self.price.version_at(slice.from).filter(|_| is_active)
    }

    /// The version that sets the fixed part, and from when on.
    pub(super) fn first_version(&self) -> Option<(Timestamp, &'a PriceVersion)> {
        first_version(self.price, self.active.iter().map(|term| term.span))
    }
}

/// The first instant of sorted, disjoint spans at which a version of a price is in force, and that version.
pub(crate) fn first_version(
    price: &PriceTimeline,
    mut active: impl Iterator<Item = Span>,
) -> Option<(Timestamp, &PriceVersion)> {
    active.find_map(|span| {
        // Most prices are older than the window.
        if let Some(version) = price.version_at(span.from) {
            return Some((span.from, version));
        }
        let start = price.changes().into_iter().find(|change| span.contains(*change))?;
        price.version_at(start).map(|version| (start, version))
    })
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
pub fn position(
    terms: &WindowTerms<'_>,
    slices: &[SliceMeasure<'_>],
) -> Result<Vec<PositionLine>, RatingStatus> {
    assert!(slices.is_sorted_by(|a, b| a.slice.from < b.slice.from), "slices are in order of time");
    let Some(first) = terms.active.first() else { return Ok(Vec::new()) };

    let mut rounder = Rounder { currency: terms.currency, exact: Exact::ZERO, rounded: 0 };
    let mut lines = Vec::with_capacity(slices.len() + 1);
    if terms.price.model() == PricingModel::Flat {
        for part in recurring_parts(terms)? {
            lines.push(rounder.line(part.version, nothing_in(part.slice), part.seats, part.amount)?);
        }
        return Ok(lines);
    }
    let first_version = terms.first_version();
    let start = first_version.map_or(first.span.from, |(start, _)| start);
    let mut fixed = fixed_part(terms, first_version, slices)?;
    let flat_line = |rounder: &mut Rounder, (version, flat): (&PriceVersion, Exact)| {
        rounder.line(version, nothing_in(Span::new(start, start)), Exact::ZERO, flat)
    };
    let mut counter = Counter::new(terms, slices, fixed.is_some() || terms.is_continued)?;
    for (index, measure) in slices.iter().enumerate() {
        if measure.slice.from > start
            && let Some(flat) = fixed.take()
        {
            lines.push(flat_line(&mut rounder, flat)?);
        }
        let version = terms.charging_version(measure.slice);
        let quantity = measure.measure.quantity()?;
        let before = terms.before_slice(index);
        let Some((version, usage)) = counter.count(version, measure.measure, quantity, before)? else {
            continue;
        };
        let flat = fixed.take_if(|_| measure.slice.from == start);
        let precise = flat.map_or(Ok(usage), |(_, flat)| usage.add(flat))?;
        // Most slices have nothing that is covered: they pay for no addition.
        let used = if measure.covered.is_zero() { quantity } else { quantity.add(measure.covered)? };
        if measure.event_count > 0 || !used.is_zero() || !precise.is_zero() {
            lines.push(rounder.line(version, *measure, used, precise)?);
        }
    }
    if let Some(flat) = fixed {
        lines.push(flat_line(&mut rounder, flat)?);
    }
    Ok(lines)
}

/// A recurring amount's part that is owed by now.
pub(super) struct RecurringPart<'a> {
    pub(super) version: &'a PriceVersion,
    pub(super) slice: Span,
    /// Seats, zero where the subscription has none.
    pub(super) seats: Exact,
    /// The amount of a whole window for all seats, and the share of the window that is owed.
    pub(super) whole: Exact,
    pub(super) share: Ratio,
    pub(super) amount: Exact,
}

/// The parts of a recurring amount that are owed by now, in order of time.
pub(super) fn recurring_parts<'a>(terms: &WindowTerms<'a>) -> Result<Vec<RecurringPart<'a>>, RatingStatus> {
    let (Some((start, version)), Some(last)) = (terms.first_version(), terms.active.last()) else {
        return Ok(Vec::new());
    };
    let Model::Flat(flat) = &version.terms.model else { return Ok(Vec::new()) };
    if version.terms.proration == Proration::None {
        let is_owed = match flat.payment {
            Payment::InAdvance => start <= terms.as_of,
            Payment::InArrears => last.span.until <= terms.as_of,
        };
        let seats = terms.active.iter().find(|term| term.span.contains(start)).and_then(|term| term.seats);
        let part = recurring_part(version, flat, terms.window, seats, Ratio::WHOLE)?;
        return Ok(if is_owed { vec![part] } else { Vec::new() });
    }
    let mut pieces: Vec<(Span, Option<Exact>, &PriceVersion)> = Vec::new();
    for active in terms.active {
        let of_version = pieces_of(terms.price, active.span).into_iter();
        pieces.extend(of_version.map(|(slice, version)| (slice, active.seats, version)));
    }
    let basis = match version.terms.proration {
        Proration::None | Proration::Days => Basis::Days(terms.zone),
        Proration::Seconds => Basis::Seconds,
        Proration::ThirtyDays => Basis::ThirtyDays(terms.zone),
    };
    let slices: Vec<Span> = pieces.iter().map(|(slice, _, _)| *slice).collect();
    let mut parts = Vec::new();
    for ((slice, seats, version), share) in pieces.into_iter().zip(ratios(basis, terms.window, &slices)) {
        let Model::Flat(flat) = &version.terms.model else { continue };
        let is_owed = match flat.payment {
            Payment::InAdvance => slice.from <= terms.as_of,
            Payment::InArrears => slice.until <= terms.as_of,
        };
        if is_owed {
            parts.push(recurring_part(version, flat, slice, seats, share)?);
        }
    }
    Ok(parts)
}

fn recurring_part<'a>(
    version: &'a PriceVersion,
    flat: &Flat,
    slice: Span,
    seats: Option<Exact>,
    share: Ratio,
) -> Result<RecurringPart<'a>, RatingStatus> {
    let whole = flat.amount.multiply(seats.unwrap_or(Exact::ONE))?;
    let amount = whole.multiply(share.value())?;
    Ok(RecurringPart { version, slice, seats: seats.unwrap_or(Exact::ZERO), whole, share, amount })
}

/// A span in pieces with one version in force each.
fn pieces_of(price: &PriceTimeline, span: Span) -> Vec<(Span, &PriceVersion)> {
    let inside = price.changes().into_iter().filter(|change| span.from < *change && *change < span.until);
    let mut pieces = Vec::new();
    let mut from = span.from;
    for until in inside.chain([span.until]) {
        if let Some(version) = price.version_at(from) {
            pieces.push((Span::new(from, until), version));
        }
        from = until;
    }
    pieces
}

/// The part of a usage price's amount that does not depend on single slices, if it is owed by now.
pub(super) fn fixed_part<'a>(
    terms: &WindowTerms<'a>,
    first_version: Option<(Timestamp, &'a PriceVersion)>,
    slices: &[SliceMeasure<'_>],
) -> Result<Option<(&'a PriceVersion, Exact)>, RatingStatus> {
    let (Some((_, version)), Some(last)) = (first_version, terms.active.last()) else { return Ok(None) };
    if terms.is_continued {
        return Ok(None);
    }
    let has_usage = slices.iter().any(|measure| measure.event_count > 0);
    let is_owed = version.terms.flat_at_zero && (has_usage || last.span.until <= terms.as_of);
    let flat = match &version.terms.model {
        Model::Volume(_) | Model::Stairstep(_) => {
            let total = version.terms.quantity.priced(terms.total(slices)?)?;
            match &version.terms.model {
                Model::Volume(model) => model.flat_amount(total, is_owed)?,
                Model::Stairstep(model) => model.amount(total, is_owed)?,
                _ => unreachable!("both models are above"),
            }
        }
        Model::Capacity(model) => {
            let totals = totals_of(slices, model.dimensions())?;
            let is_used = totals.iter().any(|total| total.is_positive());
            if is_owed || is_used { model.amount(&totals)? } else { Exact::ZERO }
        }
        Model::Flat(_) => Exact::ZERO,
        model => model.first_flat_amount(terms.group).filter(|_| is_owed).unwrap_or(Exact::ZERO),
    };
    Ok(Some((version, flat)).filter(|(_, flat)| !flat.is_zero()))
}

/// All that was used in the window.
pub(super) fn total_of(slices: &[SliceMeasure<'_>]) -> Result<Exact, RatingStatus> {
    let mut total = Exact::ZERO;
    for measure in slices {
        total = total.add(measure.measure.quantity()?)?;
    }
    Ok(total)
}

fn totals_of(slices: &[SliceMeasure<'_>], dimensions: usize) -> Result<Vec<Exact>, RatingStatus> {
    let mut totals = vec![Exact::ZERO; dimensions];
    for measure in slices {
        let single = [measure.measure.quantity()?];
        let quantities =
            if let Measure::Dimensions(quantities) = measure.measure { quantities } else { &single };
        for (total, quantity) in totals.iter_mut().zip(quantities) {
            *total = total.add(*quantity)?;
        }
    }
    Ok(totals)
}

/// Whether the units of a version owe no flat amount of the first tier, because it is, or is not to be, part of the
/// fixed part. A window pays it once, so a version without `flat_at_zero` does not charge it a second time.
pub(super) fn is_first_flat_fixed(version: &PriceVersion, is_flat_paid: bool) -> bool {
    is_flat_paid || version.terms.flat_at_zero
}

/// What units cost that do not belong to the fixed part: cumulative, after so many of a window's total.
pub(super) fn units_amount(
    version: &PriceVersion,
    group: &GroupTexts,
    used: Exact,
    total: Exact,
    is_flat_paid: bool,
) -> Result<Exact, RatingStatus> {
    let quantity = &version.terms.quantity;
    match &version.terms.model {
        Model::Flat(_) | Model::Stairstep(_) | Model::Capacity(_) => Ok(Exact::ZERO),
        Model::Volume(model) => {
            let band = model.tiers.index_of(quantity.priced(total)?)?;
            model.units_amount(band, quantity.priced(used)?)
        }
        model => {
            let is_flat_fixed = is_first_flat_fixed(version, is_flat_paid);
            let flat = if is_flat_fixed { model.first_flat_amount(group) } else { None };
            let amount = model.amount(group, quantity.priced(used)?, is_flat_fixed)?;
            Ok(flat.map_or(Ok(amount), |flat| amount.subtract(flat))?)
        }
    }
}

/// Counts units through the window and prices each slice as the difference of two cumulative amounts.
struct Counter<'a> {
    group: &'a GroupTexts,
    is_flat_paid: bool,
    used: Exact,
    total: Exact,
    /// The cumulative amount of `used` under the version that priced the last slice: what the next one starts from, unless other
    /// groups count.
    priced: Option<(u32, Exact)>,
    sequence: PercentageState,
}

impl<'a> Counter<'a> {
    fn new(
        terms: &WindowTerms<'a>,
        slices: &[SliceMeasure<'_>],
        is_flat_paid: bool,
    ) -> Result<Self, RatingStatus> {
        let total = match terms.price.model() {
            PricingModel::Volume => terms.total(slices)?,
            _ => Exact::ZERO,
        };
        Ok(Self {
            group: terms.group,
            is_flat_paid,
            used: Exact::ZERO,
            total,
            priced: None,
            sequence: PercentageState::default(),
        })
    }

    fn count<'v>(
        &mut self,
        version: Option<&'v PriceVersion>,
        measure: Measure<'_>,
        quantity: Exact,
        elsewhere: Option<Exact>,
    ) -> Result<Option<(&'v PriceVersion, Exact)>, RatingStatus> {
        let mut before = self.used;
        self.used = before.add(quantity)?;
        let mut after = self.used;
        if let Some(elsewhere) = elsewhere {
            (before, after) = (before.add(elsewhere)?, after.add(elsewhere)?);
            self.priced = None;
        }
        let Some(version) = version else {
            self.priced = None;
            return Ok(None);
        };
        if let Model::Percentage(model) = &version.terms.model {
            let mut sum = Exact::ZERO;
            let single = [quantity];
            let events = if let Measure::Sequence(values) = measure { values } else { &single };
            for event in events {
                sum = sum.add(model.take(&mut self.sequence, *event)?)?;
            }
            return Ok(Some((version, sum)));
        }
        let amount = |used| units_amount(version, self.group, used, self.total, self.is_flat_paid);
        let from = match self.priced {
            Some((last, priced)) if last == version.version => priced,
            _ if before.is_zero() => Exact::ZERO,
            _ => amount(before)?,
        };
        let to = amount(after)?;
        self.priced = Some((version.version, to));
        Ok(Some((version, to.subtract(from)?)))
    }
}

fn nothing_in(slice: Span) -> SliceMeasure<'static> {
    let measure = Measure::Scalar(Exact::ZERO);
    SliceMeasure { slice, measure, covered: Exact::ZERO, event_count: 0, event_digest: 0 }
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
        measure: SliceMeasure<'_>,
        quantity: Exact,
        precise: Exact,
    ) -> Result<PositionLine, RatingStatus> {
        self.exact = self.exact.add(precise)?;
        let rounded = round_line(self.exact, version.terms.rounding, self.currency)?;
        let line = PositionLine {
            price_version: version.version,
            slice: measure.slice,
            quantity,
            precise,
            rounded: rounded - self.rounded,
            event_count: measure.event_count,
            event_digest: measure.event_digest,
        };
        self.rounded = rounded;
        Ok(line)
    }
}

/// The one rounding of a line: an exact amount in minor units of the currency.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`], then [`RatingStatus::AmountMustBeBillable`].
pub(super) fn round_line(
    precise: Exact,
    rounding: Rounding,
    currency: Currency,
) -> Result<i128, RatingStatus> {
    let rounded = precise.round_to_minor(rounding, currency.exponent()).map_err(|status| {
        let most = Exact::new(AMOUNT_MINOR_MAX, currency.exponent().into());
        match precise.abs().compare(most).is_ok_and(|order| order.is_le()) {
            true => status.into(),
            false => RatingStatus::AmountMustBeBillable,
        }
    })?;
    if rounded.unsigned_abs() > AMOUNT_MINOR_MAX.unsigned_abs() {
        return Err(RatingStatus::AmountMustBeBillable);
    }
    Ok(rounded)
}
