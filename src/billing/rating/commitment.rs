//! A committed amount over a term: what usage it covers, what lies beyond it, and what is owed for the rest.
//!
//! Owns: the five shapes of a commitment over the windows of its term, and their checks. Leaves to others: what usage
//! costs (a base amount per window, rounded, after discounts), when a window has ended, what a charge line looks like.
//!
//! A term has `K` windows with base amounts `b_1 … b_K` (zero for a window that has not begun) and a commitment `C`, which
//! is split exactly: window `i` and those before it are committed to `P_i = R(i × C / K)`, rounded once, so that the parts
//! `c_i = P_i − P_(i−1)` sum to `C`. `U_i = b_1 + … + b_i`, `k` is the overage factor, `x⁺ = max(x, 0)`. Every window is
//! charged `base + overage_surcharge + true_up − draw`, and a true-up is owed only for windows that have ended.
//!
//! | shape | overage `o_i` of a window | true-up | draw | unused afterwards |
//! |---|---|---|---|---|
//! | none | `(b_i − c_i)⁺` | `(c_i − b_i)⁺` | | |
//! | roll forward | `(b_i − c_i)⁺ − draw` | `(c_i − b_i)⁺`, added to what is unused | `min((b_i − c_i)⁺, unused)` | true-ups less draws |
//! | cumulative | `(U_i − C)⁺ − (U_(i−1) − C)⁺` | `(T_i − unused)⁺` | `(unused − T_i)⁺` | `T_i = (P_e − U_i)⁺` |
//! | year end | as cumulative | `(C − U_K)⁺`, in window `K` | | |
//! | prepaid drawdown | what the balance does not cover | | what it covers | the balance, `C` at first |
//!
//! In cumulative, `P_e` is the commitment of the windows that have ended by then: what is billed up to a window is
//! `max(U_i, P_e)`. A true-up there is a payment ahead of usage, and later usage draws on it first. In windows that have not ended,
//! usage that is taken back owes none: `T_i` is at most what is unused.
//!
//! A draw is at most what of the window's base is still to be paid: where somebody else has paid for it, what was paid ahead stays,
//! and pays for later windows.
//!
//! *Overage* is charged at `k`: its base amount is part of the base, and the surcharge is `R(o × k) − o`. Usage that a
//! draw has paid for is within the commitment, so no factor is due on it. In the shapes that count over the whole term
//! (the last three) surcharges telescope, `R(O_i × (k − 1)) − R(O_(i−1) × (k − 1))`, so a term costs the same however it
//! is cut into windows; in the first two each window is rounded alone, so late usage of one moves no cent of another.
//!
//! *Changes.* A new amount is agreed from a window on, as what the whole term would be committed to at that rate. Earlier
//! windows keep theirs: `P_i = R(Σ_(j≤i) C_j / K)`, and overage of window `i` is measured against
//! `R((Σ_(j≤i) C_j + (K − i) × C_i) / K)`, the term as agreed in that window, with the counter of usage going on as
//! through a change of price. A prepaid amount is money, not a rate: the new one is what has been paid for the term in
//! all, and raises or lowers the balance by the difference. What was drawn stays drawn.
//!
//! *Early end.* A term that ends after `E` of its `K` windows is the first `E` of them: committed to `P_E`, each at the rate that was
//! agreed for `K`, and overage is what the whole term would have as overage. A year end owes `(P_E − U_E)⁺` then; what is left of a
//! prepaid amount is left.
//!
//! *Negative base amounts* take back overage first, then give back to the balance.
//!
//! Invariants:
//! - A function of the final state: late usage is the difference of two results, and nets to zero against a true-up until
//!   the commitment is used up.
//! - Lines and true-up equal the commitment where usage stays below it.
//! - A commitment of zero is a commitment: everything is overage. Without an agreed factor `k` is 1.

use std::fmt;

use domain::Exact;
use serde::{Deserialize, Serialize};

use super::status::RatingStatus;

/// What happens to the part of a commitment that a window did not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Each window stands alone.
    None,
    /// A shortfall that was paid covers overage of later windows in the term.
    RollForward,
    /// Usage and commitment are compared cumulatively: usage ahead of time covers later windows too.
    Cumulative,
    /// Usage is billed as it comes, a shortfall only at the end of the term.
    YearEnd,
    /// The amount was paid in advance, and usage draws from it.
    PrepaidDrawdown,
}

/// An amount agreed from a window on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitmentVersion {
    /// First window that it applies to, from 0.
    pub effective_window: usize,
    /// Amount for the whole term, in minor units.
    pub amount: i128,
}

/// The terms of a commitment.
#[derive(Clone, Copy, Debug)]
pub struct Commitment<'a> {
    /// Its shape.
    pub shape: Shape,
    /// The agreed amounts, by window; the first applies from window 0.
    pub versions: &'a [CommitmentVersion],
    /// Windows of the whole term, also those after an early end.
    pub window_count: usize,
    /// What overage costs, as a multiple of its base amount: 1 or more.
    pub overage_factor: Exact,
    /// Whether a shortfall is charged at all.
    pub has_true_up: bool,
}

/// Why a commitment cannot be agreed; the first broken rule, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommitmentStatus {
    /// There is no version, or the first does not apply from the first window.
    VersionsMustStartAtFirstWindow,
    /// Versions are not in strictly rising order of their window.
    VersionsMustRise,
    /// An amount is below zero.
    AmountMustNotBeNegative,
    /// The overage factor is below 1.
    FactorMustBeAtLeastOne,
}

impl fmt::Display for CommitmentStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CommitmentStatus::VersionsMustStartAtFirstWindow => {
                "a commitment has an amount from its first window on"
            }
            CommitmentStatus::VersionsMustRise => "amounts of a commitment are in order of their windows",
            CommitmentStatus::AmountMustNotBeNegative => "a committed amount is zero or more",
            CommitmentStatus::FactorMustBeAtLeastOne => "an overage factor is 1 or more",
        })
    }
}

impl std::error::Error for CommitmentStatus {}

/// What a commitment makes of one window, in minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// What usage costs.
    pub base: i128,
    /// The part of it that the commitment covers; the rest is overage.
    pub utilized: i128,
    /// What overage costs beyond its base amount.
    pub overage_surcharge: i128,
    /// The shortfall that is owed.
    pub true_up: i128,
    /// What earlier payment covers, and is not charged again.
    pub draw: i128,
    /// What is charged: base, surcharge and true-up, less the draw.
    pub charged: i128,
    /// What is paid ahead of usage after the window; breakage, once the term has ended.
    pub unused: i128,
}

impl Commitment<'_> {
    /// Whether the terms can be agreed.
    ///
    /// # Errors
    /// The first broken rule, in the order in which [`CommitmentStatus`] declares them.
    pub fn check(&self) -> Result<(), CommitmentStatus> {
        if self.versions.first().is_none_or(|version| version.effective_window != 0) {
            return Err(CommitmentStatus::VersionsMustStartAtFirstWindow);
        }
        if !self.versions.is_sorted_by(|a, b| a.effective_window < b.effective_window) {
            return Err(CommitmentStatus::VersionsMustRise);
        }
        if self.versions.iter().any(|version| version.amount < 0) {
            return Err(CommitmentStatus::AmountMustNotBeNegative);
        }
        if self.overage_factor < Exact::ONE {
            return Err(CommitmentStatus::FactorMustBeAtLeastOne);
        }
        Ok(())
    }
}

/// Settles a term: what each window is charged, given the base amounts of all its windows (of those before an early end), of which
/// the first `ended_count` have ended, and what of each is still to be paid.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
///
/// # Panics
/// If [`Commitment::check`] refuses the terms; the catalog has checked them. If there is not one amount for each window.
pub fn settle(
    commitment: &Commitment<'_>,
    base_amounts: &[i128],
    unpaid: &[i128],
    ended_count: usize,
) -> Result<Vec<Settlement>, RatingStatus> {
    assert_eq!(commitment.check(), Ok(()), "the terms of a commitment were checked");
    assert_eq!(base_amounts.len(), unpaid.len(), "each window has a base and what is left of it");
    assert!(base_amounts.len() <= commitment.window_count, "no window is beyond the term");
    let term = Term {
        base_amounts,
        unpaid,
        agreed: &agreed(commitment.versions, commitment.window_count)?,
        ended_count,
        has_true_up: commitment.has_true_up,
    };
    let effects = match commitment.shape {
        Shape::None => term.alone(Rest::Lapses),
        Shape::RollForward => term.alone(Rest::RollsForward),
        Shape::Cumulative => term.cumulative(),
        Shape::YearEnd => term.year_end(),
        Shape::PrepaidDrawdown => term.prepaid_drawdown(),
    }?;
    let mut surcharge = Surcharge::new(commitment)?;
    let windows = base_amounts.iter().zip(effects);
    windows.map(|(base, effects)| effects.settlement(*base, surcharge.of(effects.overage)?)).collect()
}

/// What is agreed for a window, in minor units.
#[derive(Clone, Copy, Debug)]
struct Agreed {
    /// What it is committed to: the parts of a term sum to what the term is committed to.
    part: i128,
    /// What it and all windows before it are committed to.
    promised: i128,
    /// What the whole term is committed to, as agreed in this window.
    whole: i128,
    /// Amount of the version.
    amount: i128,
}

fn agreed(versions: &[CommitmentVersion], window_count: usize) -> Result<Vec<Agreed>, RatingStatus> {
    let count = window_count as i128;
    let mut windows = Vec::with_capacity(window_count);
    let (mut sum, mut promised, mut amount) = (0, 0, 0);
    let mut later = versions.iter().peekable();
    for index in 0..window_count {
        while let Some(version) = later.next_if(|version| version.effective_window <= index) {
            amount = version.amount;
        }
        sum = plus(sum, amount)?;
        let windows_left = count - 1 - index as i128;
        let rest = amount.checked_mul(windows_left).ok_or(RatingStatus::AmountMustFit)?;
        let rounded = |amounts: i128| Exact::ratio(amounts, count)?.round_to(0);
        let until = rounded(sum)?;
        windows.push(Agreed {
            part: minus(until, promised)?,
            promised: until,
            whole: rounded(plus(sum, rest)?)?,
            amount,
        });
        promised = until;
    }
    Ok(windows)
}

/// What happens to the rest of a window that stands alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    Lapses,
    RollsForward,
}

/// All windows of a term.
struct Term<'a> {
    base_amounts: &'a [i128],
    /// What of it is still to be paid.
    unpaid: &'a [i128],
    agreed: &'a [Agreed],
    ended_count: usize,
    has_true_up: bool,
}

/// What a commitment does to a window, before any surcharge.
#[derive(Clone, Copy, Debug, Default)]
struct Effects {
    overage: i128,
    true_up: i128,
    draw: i128,
    unused: i128,
}

impl Term<'_> {
    /// Each window by itself, or with what earlier ones have paid and not used.
    fn alone(&self, rest: Rest) -> Result<Vec<Effects>, RatingStatus> {
        let mut unused = 0;
        let effects_of = |(index, base, agreed): (usize, i128, Agreed)| {
            let beyond = excess(base, agreed.part)?;
            let draw = self.payable(index, beyond.min(unused));
            let true_up = if self.owes_true_up(index) { excess(agreed.part, base)? } else { 0 };
            if rest == Rest::RollsForward {
                unused = plus(unused, true_up)? - draw;
            }
            Ok(Effects { overage: beyond - draw, true_up, draw, unused })
        };
        self.windows().map(effects_of).collect()
    }

    /// What was billed up to a window is the greater of usage and commitment up to it.
    fn cumulative(&self) -> Result<Vec<Effects>, RatingStatus> {
        let (mut used, mut promised, mut unused) = (0, 0, 0);
        let effects_of = |(index, base, agreed): (usize, i128, Agreed)| {
            let used_before = used;
            used = plus(used, base)?;
            let ahead = if self.owes_true_up(index) {
                promised = agreed.promised;
                excess(promised, used)?
            } else {
                excess(promised, used)?.min(unused)
            };
            let true_up = excess(ahead, unused)?;
            let draw = self.payable(index, excess(unused, ahead)?);
            unused = plus(unused, true_up)? - draw;
            let overage = overage_between(used_before, used, agreed.whole)?;
            Ok(Effects { overage, true_up, draw, unused })
        };
        self.windows().map(effects_of).collect()
    }

    /// Usage as it comes; the shortfall in the last window, once the term has ended.
    fn year_end(&self) -> Result<Vec<Effects>, RatingStatus> {
        let mut used = 0;
        let effects_of = |(index, base, agreed): (usize, i128, Agreed)| {
            let used_before = used;
            used = plus(used, base)?;
            let is_last = index + 1 == self.base_amounts.len();
            let is_owed = is_last && self.owes_true_up(index);
            Ok(Effects {
                overage: overage_between(used_before, used, agreed.whole)?,
                true_up: if is_owed { excess(agreed.promised, used)? } else { 0 },
                ..Effects::default()
            })
        };
        self.windows().map(effects_of).collect()
    }

    /// Usage draws from what was paid; what is taken back returns to where it came from, overage first.
    fn prepaid_drawdown(&self) -> Result<Vec<Effects>, RatingStatus> {
        let (mut drawn, mut overage_sum) = (0, 0i128);
        let effects_of = |(_, base, agreed): (usize, i128, Agreed)| {
            let overage =
                if base < 0 { base.max(-overage_sum) } else { excess(base, excess(agreed.amount, drawn)?)? };
            let draw = base - overage;
            overage_sum = plus(overage_sum, overage)?;
            drawn = plus(drawn, draw)?;
            Ok(Effects { overage, true_up: 0, draw, unused: excess(agreed.amount, drawn)? })
        };
        self.windows().map(effects_of).collect()
    }

    fn windows(&self) -> impl Iterator<Item = (usize, i128, Agreed)> {
        let windows = self.base_amounts.iter().zip(self.agreed).enumerate();
        windows.map(|(index, (base, agreed))| (index, *base, *agreed))
    }

    /// A draw, as far as it has something to pay for.
    fn payable(&self, index: usize, draw: i128) -> i128 {
        draw.min(self.unpaid[index].min(self.base_amounts[index]).max(0))
    }

    fn owes_true_up(&self, index: usize) -> bool {
        self.has_true_up && index < self.ended_count
    }
}

impl Effects {
    fn settlement(self, base: i128, overage_surcharge: i128) -> Result<Settlement, RatingStatus> {
        let Effects { overage, true_up, draw, unused } = self;
        let owed = plus(plus(base, overage_surcharge)?, true_up)?;
        let (utilized, charged) = (minus(base, overage)?, minus(owed, draw)?);
        Ok(Settlement { base, utilized, overage_surcharge, true_up, draw, charged, unused })
    }
}

/// Rounds what overage costs beyond its base amount: each window alone, or as the difference of two sums.
struct Surcharge {
    factor_beyond_base: Exact,
    is_telescoping: bool,
    overage: i128,
    rounded: i128,
}

impl Surcharge {
    fn new(commitment: &Commitment<'_>) -> Result<Self, RatingStatus> {
        let factor_beyond_base = commitment.overage_factor.subtract(Exact::ONE)?;
        let is_telescoping = !matches!(commitment.shape, Shape::None | Shape::RollForward);
        Ok(Self { factor_beyond_base, is_telescoping, overage: 0, rounded: 0 })
    }

    fn of(&mut self, overage: i128) -> Result<i128, RatingStatus> {
        let (overage_before, rounded_before) =
            if self.is_telescoping { (self.overage, self.rounded) } else { (0, 0) };
        self.overage = plus(overage_before, overage)?;
        self.rounded = Exact::from_integer(self.overage).multiply(self.factor_beyond_base)?.round_to(0)?;
        minus(self.rounded, rounded_before)
    }
}

/// The part of usage between two cumulative amounts that lies beyond a commitment.
fn overage_between(used_before: i128, used: i128, whole: i128) -> Result<i128, RatingStatus> {
    minus(excess(used, whole)?, excess(used_before, whole)?)
}

/// `(a − b)⁺`
fn excess(a: i128, b: i128) -> Result<i128, RatingStatus> {
    Ok(minus(a, b)?.max(0))
}

fn plus(a: i128, b: i128) -> Result<i128, RatingStatus> {
    a.checked_add(b).ok_or(RatingStatus::AmountMustFit)
}

fn minus(a: i128, b: i128) -> Result<i128, RatingStatus> {
    a.checked_sub(b).ok_or(RatingStatus::AmountMustFit)
}

#[cfg(test)]
mod tests;
