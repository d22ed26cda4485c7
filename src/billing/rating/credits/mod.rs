//! Credit grants: balances that pay what is due before the customer does.
//!
//! Owns: lots, the order in which they burn, expiry, recurrence, rollover, voids, what closed periods fix, restoring.
//! Leaves to others: which charges are due and which grants may pay them (`rating::account`).
//!
//! A grant is given in *lots*: one, or one at each of its recurrences. A lot is usable for what is due at or after its
//! start and before its end: the next recurrence, the grant's expiry, or its void, whichever comes first. What is due
//! before a grant starts is never back-filled.
//!
//! *Order.* Dues are paid in the order of their instant, then of the list. A due draws `min(balance, due)` from lot after
//! lot by priority, end (none last), start, place in the order of creation, id.
//!
//! *Closed periods.* Draws of a closed period are facts: they are taken from their lots before anything else. If a closed
//! due shrank below its draws, they are given back in reverse order of burning; if it grew, the rest draws on what is
//! usable and left. Where it was split since, its draws stay with its pieces. A rollover that later closed draws relied on stays reserved for them, whatever is voided since.
//!
//! *Rollover.* At a recurrence `min(max, left)` goes on into the next lot; the rest expires.
//!
//! *Void.* From its void on a grant pays nothing and is not given again; past draws stay, the rest is voided. The void is
//! no part of the order: it does not change which lot paid before it.
//!
//! Invariants, asserted for every lot: amount and what rolled into it = draws + what expired + voided + rolled on +
//! balance; no balance is below zero. The result is a function of the final state: it does not depend on the order in
//! which grants are listed, on how usage arrived, or on cuts.

mod burn;

#[cfg(test)]
mod tests;

use domain::{Exact, Timestamp, Zone};

pub use self::burn::{Draw, Drawn, Due, FrozenDraw, LotState, draw};
use super::status::RatingStatus;

/// When a grant is given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recurrence {
    /// At the same civil day of every month; where a month is shorter, at its last.
    Monthly,
    /// Every so many times 24 hours.
    Days(u32),
}

/// A credit grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its name: the last tie-breaker.
    pub id: String,
    /// Lower numbers burn first.
    pub priority: u32,
    /// Place in the order of creation.
    pub created: u64,
    /// What each of its lots gives.
    pub amount: Exact,
    /// First instant at which it may be drawn on, and the anchor of its recurrence.
    pub from: Timestamp,
    /// First instant at which it may not.
    pub until: Option<Timestamp>,
    /// When it is given again.
    pub recurrence: Option<Recurrence>,
    /// The most that is kept of what was left when it is given again.
    pub rollover_max: Exact,
    /// From when on it may not be drawn on any more.
    pub voided_at: Option<Timestamp>,
}

impl Grant {
    /// First instants of its lots up to and including `until`, but at least of so many, and of the one that follows them.
    ///
    /// From its void on a grant is not given again: only closed draws have lots from there.
    fn starts(&self, zone: &Zone, until: Timestamp, at_least: usize) -> (Vec<Timestamp>, Option<Timestamp>) {
        let mut starts = vec![self.from];
        let Some(recurrence) = self.recurrence else { return (starts, None) };
        let end = self.until.unwrap_or(Timestamp::END).min(Timestamp::END);
        for nth in 1.. {
            let next = match recurrence {
                // Always counted from the anchor, so that the 31st comes back after a shorter month.
                Recurrence::Monthly => zone.months_after(self.from, nth).unwrap_or(Timestamp::END),
                Recurrence::Days(days) => self
                    .from
                    .plus(domain::time::DAY.saturating_mul(i64::from(days)).saturating_mul(nth.into())),
            };
            if next >= end {
                break;
            }
            let is_given = next <= until && self.gives_at(next);
            if !is_given && starts.len() >= at_least {
                return (starts, Some(next));
            }
            starts.push(next);
        }
        (starts, None)
    }

    /// Whether a lot that starts at an instant is given: the first always, the others before a void.
    fn gives_at(&self, start: Timestamp) -> bool {
        start == self.from || self.voided_at.is_none_or(|voided| start < voided)
    }

    /// Whether what is left of a lot that ends at an instant is voided. A void just as the grant expires comes too late.
    fn is_voided_by(&self, end_of_lot: Timestamp) -> bool {
        self.voided_at.is_some_and(|at| at <= end_of_lot && self.until.is_none_or(|until| at < until))
    }
}

/// Sum of numbers.
fn sum_of(numbers: impl IntoIterator<Item = Exact>) -> Result<Exact, RatingStatus> {
    let mut sum = Exact::ZERO;
    for number in numbers {
        sum = sum.add(number)?;
    }
    Ok(sum)
}
