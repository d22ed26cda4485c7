//! Commitments of an account over the windows of their term, which are months of the account.
//!
//! Owns: which charges count, in which window, and the lines for overage, shortfall and drawdown. Leaves to others: the
//! arithmetic of the shapes (`rating::commitment`).
//!
//! What counts is what is left of a charge after discounts and maximums, and a minimum of a price that counts. A charge
//! counts in every commitment that names it, in the month that it belongs to, whether another one paid for it or not. What was paid
//! ahead pays for a charge once: commitments that draw do so in the order of their creation, each from what is left, and what finds
//! nothing to pay for stays; what is prepaid counts nothing else. Windows of the term that have not begun count as zero.
//!
//! A committed quantity is one for the term: with `n` windows of its price in the term, and `K` months, it commits each month to
//! `P(quantity / n) × n / K`, what it costs when it is used evenly, flat amounts included, before discounts.
//!
//! Invariants: a window is settled by what is known now; true-ups are owed only for windows that are final.

use domain::time::Cadence;
use domain::{Exact, PriceId, Span};

use super::{Bill, Reason, key_of, sum_of};
use crate::catalog::{Commitment, CommitmentTimeline, PriceTimeline};
use crate::charges::{Component, LineKey};
use crate::rating::commitment::{self, CommitmentVersion, Settlement, Shape, settle};
use crate::rating::position::round_line;
use crate::rating::status::RatingStatus;

impl Bill<'_, '_> {
    /// Settles all commitments.
    pub(super) fn commitments(&mut self) -> Result<(), RatingStatus> {
        let mut commitments = self.terms.commitments.clone();
        commitments.sort_by_key(|commitment| commitment.created());
        let charged: Vec<i128> = self.dues.iter().map(|due| due.amount).collect();
        for commitment in commitments {
            self.commitment(commitment, &charged)?;
        }
        Ok(())
    }

    /// Settles one commitment; `charged` is what was due before any of them.
    fn commitment(&mut self, timeline: &CommitmentTimeline, charged: &[i128]) -> Result<(), RatingStatus> {
        let first = timeline.first();
        let is_prepaid = first.shape == Shape::PrepaidDrawdown;
        let mut windows = self.windows_of(first);
        let unbillable = |_| RatingStatus::CommitmentMustBeBillable;
        let versions = self.versions_of(timeline, &windows).map_err(unbillable)?;
        let window_count = windows.len();
        windows.retain(|window| window.from < timeline.end());
        let (mut base_amounts, mut unpaid) =
            (Vec::with_capacity(windows.len()), Vec::with_capacity(windows.len()));
        let mut counted = Vec::with_capacity(windows.len());
        for window in &windows {
            let dues = self.counted_in(first, *window);
            let base = |index: &usize| if is_prepaid { self.dues[*index].amount } else { charged[*index] };
            base_amounts.push(sum_of(dues.iter().map(base))?);
            unpaid.push(self.unpaid_of(&dues)?);
            counted.push(dues);
        }
        let terms = commitment::Commitment {
            shape: first.shape,
            versions: &versions,
            window_count,
            overage_factor: first.factor(),
            has_true_up: first.true_up.unwrap_or(true),
        };
        let ended_count = windows.iter().take_while(|window| self.terms.is_final(**window)).count();
        let settlements = settle(&terms, &base_amounts, &unpaid, ended_count).map_err(unbillable)?;
        for ((window, dues), settlement) in windows.into_iter().zip(counted).zip(settlements) {
            self.settlement(first, window, &dues, settlement).map_err(unbillable)?;
        }
        Ok(())
    }

    /// What is still to be paid of what counts, less what is given back: another commitment may have paid for some of it.
    fn unpaid_of(&self, dues: &[usize]) -> Result<i128, RatingStatus> {
        sum_of(dues.iter().map(|index| self.dues[*index].amount))
    }

    fn settlement(
        &mut self,
        commitment: &Commitment,
        window: Span,
        dues: &[usize],
        settled: Settlement,
    ) -> Result<(), RatingStatus> {
        let key = |component| LineKey {
            component,
            term: commitment.id.to_string(),
            ..key_of(&commitment.account, window)
        };
        let draw = settled.draw;
        if draw != 0 {
            let reason = Reason::Drawdown { used: settled.base, unused: settled.unused };
            self.term_line(key(Component::Drawdown), window, -draw, reason)?;
            self.take_off(draw.max(0), dues)?;
            self.return_to(draw.min(0), dues);
        }
        let overage = settled.base - settled.utilized;
        let added = [
            (
                Component::Overage,
                settled.overage_surcharge,
                Reason::Overage { overage, factor: commitment.factor() },
            ),
            (
                Component::TrueUp,
                settled.true_up,
                Reason::TrueUp { used: settled.base, missing: settled.true_up },
            ),
        ];
        for (component, amount, reason) in added {
            if amount != 0 {
                let key = key(component);
                self.term_line(key.clone(), window, amount, reason)?;
                self.term_due(key, window, amount);
            }
        }
        Ok(())
    }

    /// What usage below zero gives back to a prepaid amount is settled there, and reverses nothing else.
    fn return_to(&mut self, mut draw: i128, dues: &[usize]) {
        for index in dues {
            let returned = self.dues[*index].amount.min(0).max(draw);
            self.dues[*index].amount -= returned;
            draw -= returned;
        }
        assert_eq!(draw, 0, "no more is given back than usage is below zero");
    }

    /// The months of a term.
    fn windows_of(&self, commitment: &Commitment) -> Vec<Span> {
        let zone = self.terms.zone;
        let mut period = zone.period_of(commitment.from);
        let mut windows = Vec::new();
        loop {
            let window = zone.month(period);
            if window.from >= commitment.until {
                return windows;
            }
            windows.push(window);
            period = period.next();
        }
    }

    /// Indexes of what counts in a month.
    fn counted_in(&self, commitment: &Commitment, month: Span) -> Vec<usize> {
        // The minimum of a recurring price counts as little as its fee.
        let is_of_usage = |price: &PriceId| {
            (self.terms.price)(price).is_some_and(|timeline| timeline.meters().next().is_some())
        };
        let counts = |due: &super::Due| {
            let Some(price) = &due.key.price else { return false };
            let Some(subscription) = &due.key.subscription else { return false };
            let of_price = if commitment.prices.is_empty() {
                due.is_usage || (due.key.component == Component::Minimum && is_of_usage(price))
            } else {
                commitment.prices.contains(price)
            };
            let of_subscription =
                commitment.subscriptions.is_empty() || commitment.subscriptions.contains(subscription);
            let of_account = self.terms.holds_for(&commitment.account, &due.key.account);
            due.belongs.month(self.terms.zone) == month && of_price && of_subscription && of_account
        };
        (0..self.dues.len()).filter(|index| counts(&self.dues[*index])).collect()
    }

    /// The agreed amounts by window: a new one wherever the amount changes.
    fn versions_of(
        &self,
        timeline: &CommitmentTimeline,
        windows: &[Span],
    ) -> Result<Vec<CommitmentVersion>, RatingStatus> {
        let mut versions: Vec<CommitmentVersion> = Vec::new();
        let price = timeline.first().prices.first().and_then(|price| (self.terms.price)(price));
        let has_quantity = timeline.records().iter().any(|record| record.quantity.is_some());
        let quantity_price = price.filter(|_| has_quantity);
        let price_windows = quantity_price.map_or(1, |price| self.price_windows(price, windows));
        for (index, window) in windows.iter().enumerate() {
            let version = timeline.at(window.from).unwrap_or(timeline.first());
            let amount = match (version.amount, version.quantity) {
                (Some(amount), _) => self.minor(amount),
                (None, quantity) => {
                    let quantity = quantity.map_or(Exact::ZERO, Exact::from);
                    self.amount_of_quantity(price, quantity, *window, price_windows)?
                }
            };
            if versions.last().is_none_or(|last| last.amount != amount) {
                versions.push(CommitmentVersion { effective_window: index, amount });
            }
        }
        Ok(versions)
    }

    /// How many windows of a price begin in a term; one, if it is shorter than them.
    fn price_windows(&self, price: &PriceTimeline, windows: &[Span]) -> usize {
        let (Some(first), Some(last)) = (windows.first(), windows.last()) else { return 1 };
        let term = Span::new(first.from, last.until);
        let grid = self.terms.zone.grid(Cadence::calendar(price.window()));
        grid.windows_in(term).filter(|window| window.from >= term.from).count().max(1)
    }

    /// What the units that were committed to cost when they are used evenly, by the price of the window.
    fn amount_of_quantity(
        &self,
        price: Option<&PriceTimeline>,
        quantity: Exact,
        window: Span,
        price_windows: usize,
    ) -> Result<i128, RatingStatus> {
        let Some(version) = price.and_then(|price| price.version_at(window.from)) else { return Ok(0) };
        let count = Exact::from_integer(price_windows as i128);
        let priced = version.terms.quantity.priced(quantity.divide(count)?)?;
        let is_owed = version.terms.flat_at_zero && quantity.is_positive();
        let of_window = version.terms.model.amount(&Default::default(), priced, is_owed)?;
        let amount = of_window.multiply(count)?;
        // Units that cost less than nothing commit to nothing.
        Ok(round_line(amount, version.terms.rounding, self.terms.currency)?.max(0))
    }
}
