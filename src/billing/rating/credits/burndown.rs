//! Burning down entitlements in units: grants that are reset, and overage that the next reset pays at once.
//!
//! Owns: the sweep over one span of usage. Leaves to others: credits in money (`burn`), where overage is billed and never
//! carried.
//!
//! Differs from `burn` in three ways, which is how entitlement systems (OpenMeter) count: a recurrence sets the *same*
//! balance back to its amount and pays the overage so far from it; a grant that merely starts does not, not even when
//! another one recurs; balances are those of grants, not of lots.
//!
//! Grants burn by priority, expiry (none last), place in the list. A void is no expiry: what becomes known of a grant
//! later does not reorder what was drawn before.
//!
//! Invariants: the number of resets does not depend on where the span is cut; a balance is never below zero.

use std::collections::{BTreeMap, BTreeSet};

use domain::{Exact, Span, Timestamp};

use super::sum_of;
use crate::rating::status::RatingStatus;

/// A grant of units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BurndownGrant {
    /// Its name.
    pub id: String,
    /// Lower numbers burn first.
    pub priority: i64,
    /// What it gives, and is reset to.
    pub amount: Exact,
    /// First instant at which it may be used.
    pub effective_at: Timestamp,
    /// Its expiry: first instant at which it may not.
    pub ends_at: Option<Timestamp>,
    /// Reset at anchor + k × this many nanoseconds, inside the grant's life.
    pub recurrence: Option<(Timestamp, i64)>,
    /// Its balance at the start of the span, if it started by then.
    pub start_balance: Exact,
}

/// Usage at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// When.
    pub at: Timestamp,
    /// How much.
    pub amount: Exact,
}

/// What is left after a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Burndown {
    /// Balance of each grant, in the order of the list.
    pub balances: Vec<Exact>,
    /// Usage that no grant covered.
    pub overage: Exact,
    /// First instants of the stretches into which starts, ends and resets cut the span.
    pub segments: Vec<Timestamp>,
    /// Balances at those instants, after what happens at them.
    pub balances_by_segment: Vec<Vec<Exact>>,
}

/// Burns usage down over a span; `overage` is what was not covered before it.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn burndown(
    grants: &[BurndownGrant],
    uses: &[Use],
    span: Span,
    overage: Exact,
) -> Result<Burndown, RatingStatus> {
    burndown_with_voids(grants, &BTreeMap::new(), uses, span, overage)
}

/// As [`burndown`], with grants that are voided: by index, from when on.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn burndown_with_voids(
    grants: &[BurndownGrant],
    voided_at: &BTreeMap<usize, Timestamp>,
    uses: &[Use],
    span: Span,
    overage: Exact,
) -> Result<Burndown, RatingStatus> {
    let order = burn_order(grants);
    let mut lives = grants.to_vec();
    for (index, grant) in lives.iter_mut().enumerate() {
        grant.ends_at = grant.ends_at.into_iter().chain(voided_at.get(&index).copied()).min();
    }
    let grants = &lives;
    let mut state = State { grants, order, balances: vec![Exact::ZERO; grants.len()], overage };
    for (balance, grant) in state.balances.iter_mut().zip(grants) {
        if grant.effective_at <= span.from && grant.ends_at.is_none_or(|end| span.from < end) {
            *balance = grant.start_balance;
        }
    }
    let mut instants: Vec<Timestamp> = grants.iter().flat_map(|grant| grant.changes(span)).collect();
    instants.sort_unstable();
    instants.dedup();
    let mut uses: Vec<Use> = uses.iter().copied().filter(|one| span.contains(one.at)).collect();
    uses.sort_by_key(|one| one.at);
    let mut segments = vec![span.from];
    let mut by_segment = vec![state.balances.clone()];
    let mut rest = uses.into_iter().peekable();
    for instant in instants {
        while let Some(one) = rest.next_if(|one| one.at < instant) {
            state.burn(one)?;
        }
        state.change(instant)?;
        if instant < span.until {
            segments.push(instant);
            by_segment.push(state.balances.clone());
        }
    }
    for one in rest {
        state.burn(one)?;
    }
    Ok(Burndown {
        balances: state.balances,
        overage: state.overage,
        segments,
        balances_by_segment: by_segment,
    })
}

/// Indexes of grants by priority, end (none last), place in the list.
fn burn_order(grants: &[BurndownGrant]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..grants.len()).collect();
    order.sort_by_key(|index| {
        let grant = &grants[*index];
        (grant.priority, grant.ends_at.is_none(), grant.ends_at, *index)
    });
    order
}

impl BurndownGrant {
    fn is_usable(&self, at: Timestamp) -> bool {
        self.effective_at <= at && self.ends_at.is_none_or(|end| at < end)
    }

    /// Whether it is reset at an instant: after its start, inside its life.
    fn resets_at(&self, at: Timestamp) -> bool {
        let Some((anchor, every)) = self.recurrence else { return false };
        let since = at.nanoseconds() - anchor.nanoseconds();
        at > self.effective_at && self.is_usable(at) && since >= 0 && every > 0 && since % every == 0
    }

    /// Instants after the start of a span, and up to its end, at which the grant starts, ends or is reset.
    fn changes(&self, span: Span) -> Vec<Timestamp> {
        let mut changes: Vec<Timestamp> =
            [Some(self.effective_at), self.ends_at].into_iter().flatten().collect();
        if let Some((anchor, every)) = self.recurrence.filter(|(_, every)| *every > 0) {
            let first = self.effective_at.max(span.from).max(anchor);
            let steps = (first.nanoseconds() - anchor.nanoseconds()) / every;
            let end = self.ends_at.unwrap_or(span.until).min(span.until.plus(1));
            let mut next = anchor.plus(steps * every);
            while next < end || next == span.until {
                if self.resets_at(next) {
                    changes.push(next);
                }
                next = next.plus(every);
            }
        }
        changes.retain(|change| span.from < *change && *change <= span.until);
        changes
    }
}

struct State<'a> {
    grants: &'a [BurndownGrant],
    order: Vec<usize>,
    balances: Vec<Exact>,
    overage: Exact,
}

impl State<'_> {
    /// Draws an amount from those that may pay it; gives what was not covered.
    fn draw(&mut self, amount: Exact, may_pay: impl Fn(usize) -> bool) -> Result<Exact, RatingStatus> {
        let mut left = amount;
        for index in self.order.iter().copied() {
            if !left.is_positive() {
                break;
            }
            if may_pay(index) {
                let drawn = self.balances[index].min(left)?;
                self.balances[index] = self.balances[index].subtract(drawn)?;
                left = left.subtract(drawn)?;
            }
        }
        Ok(left)
    }

    fn burn(&mut self, one: Use) -> Result<(), RatingStatus> {
        let grants = self.grants;
        let left = self.draw(one.amount, |index| grants[index].is_usable(one.at))?;
        self.overage = sum_of([self.overage, left])?;
        Ok(())
    }

    /// Ends, starts and resets of an instant; what is reset pays the overage so far at once.
    fn change(&mut self, at: Timestamp) -> Result<(), RatingStatus> {
        let mut reset = BTreeSet::new();
        for (index, grant) in self.grants.iter().enumerate() {
            if grant.ends_at == Some(at) {
                self.balances[index] = Exact::ZERO;
            } else if grant.effective_at == at && grant.is_usable(at) {
                self.balances[index] = grant.amount;
            } else if grant.resets_at(at) {
                self.balances[index] = grant.amount;
                reset.insert(index);
            }
        }
        self.overage = self.draw(self.overage, |index| reset.contains(&index))?;
        Ok(())
    }
}
