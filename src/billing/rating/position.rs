//! The position of one price in one window: what it is worth as now known.
//!
//! Owns: the split of a window's amount over its slices, price versions inside a window, silence, rounding.
//! Leaves to others: the amount of a quantity (`models`), the difference to what was issued (`machine::cut`).
//!
//! Invariants:
//! - A function of terms, slices and `as_of`; a previous balance is never an input.
//! - Lines are exact; their rounded amounts telescope, so that they sum to the rounding of the exact sum.
//! - Tiers accumulate over the whole window: the counter goes on through a change of price.
//!
//! Slice `i` with quantity `n_i` after `off_i` units prices `P_v(off_i + n_i) − P_v(off_i)`, where `v` is the version in
//! force at its start. Its rounded amount is `R(Σ_{j≤i} precise) − R(Σ_{j<i} precise)`.
//!
//! Silence: a first tier's flat amount with `flat_at_zero`, and a recurring amount, are owed once the window (or the
//! subscription in it) has ended at `as_of`; a tier's flat amount is also owed as soon as anything was used. The flat
//! amount at zero has a line of its own at the start of the active window, with quantity zero, so that the line's key
//! does not depend on which slices have usage.

use domain::{Currency, Exact, Span, Timestamp};

use super::measure::SliceMeasure;
use super::models::{amount, first_flat_amount};
use super::status::RatingStatus;
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

/// The position of a price in a window. `slices` are sorted, disjoint and inside the window.
///
/// # Errors
/// [`RatingStatus`].
///
/// # Panics
/// If the slices are not sorted; they come from an ordered map.
pub fn position(terms: &WindowTerms<'_>, slices: &[SliceMeasure]) -> Result<Vec<PositionLine>, RatingStatus> {
    assert!(slices.is_sorted_by_key(|measure| measure.slice.from), "slices are in order of time");
    let (Some(first), Some(last)) = (terms.active.first(), terms.active.last()) else {
        return Ok(Vec::new());
    };
    let has_ended = last.until <= terms.as_of;
    let mut rounder = Rounder { terms, exact: Exact::ZERO, rounded: 0 };
    let mut lines = Vec::new();
    if terms.price.model() == PricingModel::Flat {
        let version = terms.price.version_at(first.from).filter(|_| has_ended);
        if let Some(version) = version {
            let precise = amount(&version.price, Exact::ZERO, true)?;
            lines.push(rounder.line(version, nothing_in(terms.window), precise)?);
        }
        return Ok(lines);
    }
    let has_usage = slices.iter().any(|measure| measure.event_count > 0);
    if let Some(version) = terms.price.version_at(first.from).filter(|_| has_usage || has_ended) {
        let is_owed = version.price.flat_at_zero.unwrap_or(true);
        if let Some(flat) = first_flat_amount(&version.price).filter(|_| is_owed) {
            let start = Span::new(first.from, first.from);
            lines.push(rounder.line(version, nothing_in(start), flat.into())?);
        }
    }
    let is_flat_paid = !lines.is_empty();
    let mut used = Exact::ZERO;
    for measure in slices {
        let before = used;
        used = used.add(measure.quantity)?;
        let Some(version) = terms.price.version_at(measure.slice.from) else { continue };
        let after = cumulative(version, used, is_flat_paid)?;
        let precise = after.subtract(cumulative(version, before, is_flat_paid)?)?;
        lines.push(rounder.line(version, *measure, precise)?);
    }
    Ok(lines)
}

/// Amount of everything used so far, without the flat amount that has a line of its own.
fn cumulative(version: &PriceVersion, used: Exact, is_flat_paid: bool) -> Result<Exact, RatingStatus> {
    let whole = amount(&version.price, used, is_flat_paid)?;
    if !is_flat_paid {
        return Ok(whole);
    }
    let flat = first_flat_amount(&version.price).map_or(Exact::ZERO, Exact::from);
    Ok(whole.subtract(flat)?)
}

fn nothing_in(slice: Span) -> SliceMeasure {
    SliceMeasure { slice, quantity: Exact::ZERO, event_count: 0, event_digest: 0 }
}

/// Rounds the running sum, once per line.
struct Rounder<'a> {
    terms: &'a WindowTerms<'a>,
    exact: Exact,
    rounded: i128,
}

impl Rounder<'_> {
    fn line(
        &mut self,
        version: &PriceVersion,
        measure: SliceMeasure,
        precise: Exact,
    ) -> Result<PositionLine, RatingStatus> {
        self.exact = self.exact.add(precise)?;
        let rounded = self.exact.round_to(self.terms.currency.exponent())?;
        let line = PositionLine {
            price_version: version.version,
            slice: measure.slice,
            quantity: measure.quantity,
            precise,
            rounded: rounded.checked_sub(self.rounded).ok_or(RatingStatus::AmountMustFit)?,
            event_count: measure.event_count,
            event_digest: measure.event_digest,
        };
        self.rounded = rounded;
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{CatalogFile, Resource};
    use domain::time::HOUR;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn timeline(toml: &str) -> PriceTimeline {
        let text = format!("catalog = 1\n{toml}");
        let versions = CatalogFile::parse(&text)
            .unwrap()
            .resources()
            .into_iter()
            .enumerate()
            .map(|(index, resource)| match resource {
                Resource::Price(price) => {
                    PriceVersion { version: index as u32 + 1, control_offset: 0, price }
                }
                other => panic!("{other:?}"),
            })
            .collect();
        PriceTimeline { versions }
    }

    fn hour(hours: i64) -> Timestamp {
        Timestamp::parse("2026-01-01T00:00:00Z").unwrap().plus(hours * HOUR)
    }

    fn measure(from: i64, until: i64, quantity: i128) -> SliceMeasure {
        SliceMeasure {
            slice: Span::new(hour(from), hour(until)),
            quantity: Exact::new(quantity, 0),
            event_count: 1,
            event_digest: 1,
        }
    }

    const GRADUATED: &str = r#"
        [[price]]
        id = "p"
        plan = "x"
        meter = "m"
        model = "graduated"
        window = "month"
        tiers = [{ up_to = "1000", unit_amount = "0.0105" }, { unit_amount = "0.0075" }]
    "#;

    fn rate(
        price: &PriceTimeline,
        slices: &[SliceMeasure],
        as_of: i64,
        code: &str,
    ) -> Vec<(u32, i128, String)> {
        let window = Span::new(hour(0), hour(744));
        let currency = Currency::from_code(code).unwrap();
        let terms = WindowTerms { price, window, active: &[window], currency, as_of: hour(as_of) };
        let lines = position(&terms, slices).unwrap();
        lines.into_iter().map(|line| (line.price_version, line.rounded, line.precise.to_string())).collect()
    }

    #[test]
    fn tiers_go_on_from_slice_to_slice_and_rounded_amounts_telescope() {
        let price = timeline(GRADUATED);
        let lines = rate(&price, &[measure(0, 1, 999), measure(1, 2, 1), measure(2, 3, 1)], 3, "USD");
        // 10.4895 | +0.0105 = 10.50 | +0.0075 = 10.5075
        assert_eq!(lines, [(1, 1049, "10.4895".into()), (1, 1, "0.0105".into()), (1, 1, "0.0075".into())]);
        let lines = rate(&price, &[measure(0, 1, 999)], 3, "JPY");
        assert_eq!(lines, [(1, 10, "10.4895".into())]);
        let lines = rate(&price, &[measure(0, 1, 999)], 3, "KWD");
        assert_eq!(lines, [(1, 10_490, "10.4895".into())]);
    }

    #[test]
    fn the_counter_goes_on_through_a_change_of_price() {
        let price = timeline(&format!(
            "{GRADUATED}{}",
            GRADUATED
                .replace("0.0075", "0.005")
                .replace("window", "effective_from = \"2026-01-02T00:00:00Z\"\nwindow")
        ));
        let lines = rate(&price, &[measure(0, 24, 1500), measure(24, 48, 100)], 48, "USD");
        assert_eq!(lines, [(1, 1425, "14.25".into()), (2, 50, "0.5".into())]);
    }

    #[test]
    fn silence_is_billed_when_the_window_ends_and_a_first_flat_when_it_does_or_is_used() {
        let flat = timeline("[[price]]\nid='f'\nplan='x'\nmodel='flat'\nunit_amount='49'\nwindow='month'\n");
        assert_eq!(rate(&flat, &[], 743, "USD"), []);
        assert_eq!(rate(&flat, &[], 744, "USD"), [(1, 4900, "49".into())]);
        let base = "[[price]]\nid='g'\nplan='x'\nmeter='m'\nmodel='graduated'\nwindow='month'\ntiers=[{unit_amount='1',flat_amount='7'}]\n";
        let price = timeline(base);
        assert_eq!(rate(&price, &[], 743, "USD"), []);
        assert_eq!(rate(&price, &[], 744, "USD"), [(1, 700, "7".into())]);
        assert_eq!(rate(&price, &[measure(5, 6, 2)], 9, "USD"), [(1, 700, "7".into()), (1, 200, "2".into())]);
        let price = timeline(&format!("{base}flat_at_zero=false\n"));
        assert_eq!(rate(&price, &[], 744, "USD"), []);
        assert_eq!(rate(&price, &[measure(5, 6, 2)], 9, "USD"), [(1, 900, "9".into())]);
    }

    #[test]
    fn minus_ten_and_an_eighth_rounds_away_from_zero() {
        let price = timeline(
            "[[price]]\nid='p'\nplan='x'\nmeter='m'\nmodel='per_unit'\nunit_amount='10.125'\nwindow='month'\n",
        );
        assert_eq!(rate(&price, &[measure(0, 1, -1)], 1, "USD"), [(1, -1013, "-10.125".into())]);
    }

    proptest! {
        /// The heart: whatever order usage arrives in and however often it is cut, what was issued is the position.
        #[test]
        fn differences_telescope_over_any_history(
            arrivals in prop::collection::vec((0i64..744, 1i128..3_000, any::<bool>()), 0..24),
            flat in prop::option::of(1i128..500),
            change in prop::option::of(1i64..744),
        ) {
            let flat_text = flat.map_or(String::new(), |f| format!(", flat_amount = \"{}\"", Exact::new(f, 2)));
            let one = format!(
                "[[price]]\nid='p'\nplan='x'\nmeter='m'\nmodel='graduated'\nwindow='month'\nper=10\ntiers=[{{ up_to='1000', unit_amount='0.333'{flat_text} }}, {{ up_to='2500.5', unit_amount='0.2' }}, {{ unit_amount='0.07', flat_amount='1.005' }}]\n"
            );
            let text = match change {
                None => one.clone(),
                Some(at) => format!("{one}{}", one.replace("0.333", "0.41").replace("window", &format!("effective_from='{}'\nwindow", hour(at)))),
            };
            let price = timeline(&text);
            let window = Span::new(hour(0), hour(744));
            let currency = Currency::from_code("USD").unwrap();
            let mut usage: BTreeMap<i64, i128> = BTreeMap::new();
            let mut issued: BTreeMap<(u32, Timestamp), (Exact, i128)> = BTreeMap::new();
            let mut as_of = 0;
            let cuts = arrivals.iter().map(|a| Some(*a)).chain([None, None]);
            for arrival in cuts {
                let is_cut = match arrival {
                    Some((at, quantity, is_cut)) => {
                        *usage.entry(at).or_default() += quantity;
                        as_of += 20;
                        is_cut
                    }
                    None => { as_of = 800; true }
                };
                if !is_cut { continue; }
                let slices: Vec<_> = usage.iter().map(|(at, quantity)| measure(*at, at + 1, *quantity)).collect();
                let terms = WindowTerms { price: &price, window, active: &[window], currency, as_of: hour(as_of) };
                let lines = position(&terms, &slices).unwrap();
                let now: BTreeMap<_, _> = lines.iter().map(|l| ((l.price_version, l.slice.from, l.slice.until), (l.precise, l.rounded))).collect();
                prop_assert_eq!(now.len(), lines.len(), "line keys are unique");
                let total: i128 = lines.iter().map(|l| l.rounded).sum();
                let exact = lines.iter().fold(Exact::ZERO, |sum, l| sum.add(l.precise).unwrap());
                prop_assert_eq!(exact.round_to(2).unwrap(), total);
                let keys: std::collections::BTreeSet<_> = issued.keys().copied().chain(now.keys().map(|k| (k.0, k.1))).collect();
                let _ = keys;
                issued.clear();
                issued.extend(lines.iter().map(|l| ((l.price_version, l.slice.from), (l.precise, l.rounded))));
            }
        }
    }
}
