//! Wallets: balances without dates, paid from in the order of a list.
//!
//! Owns: paying in order, which wallet takes the rest, rollover. Leaves to others: lots over time (`burn`).
//!
//! Invariants: nothing is converted back from a rounded amount; payments never exceed the balance or the due, unless a
//! wallet is there to absorb the rest.

use std::fmt;

use domain::{Exact, ExactStatus};

use crate::rating::status::RatingStatus;

/// Why credits cannot be taken off a due. In order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreditStatus {
    /// A sum needs more digits than exact arithmetic has.
    AmountMustFit,
    /// Credits add up to at most what is due: a due never becomes negative.
    CreditsMustNotExceedDue,
}

impl fmt::Display for CreditStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CreditStatus::AmountMustFit => "a sum of credits needs more than 256 bits (76 digits)",
            CreditStatus::CreditsMustNotExceedDue => "allocated credits must not exceed what is due",
        })
    }
}

impl std::error::Error for CreditStatus {}

impl From<ExactStatus> for CreditStatus {
    fn from(_: ExactStatus) -> Self {
        CreditStatus::AmountMustFit
    }
}

/// What is left of a due once credits were allocated to it.
///
/// # Errors
/// The first broken rule, in the order in which [`CreditStatus`] declares them.
pub fn after_credits(due: Exact, allocations: &[Exact]) -> Result<Exact, CreditStatus> {
    let mut left = due;
    for allocation in allocations {
        left = left.subtract(*allocation)?;
    }
    if left.is_negative() {
        return Err(CreditStatus::CreditsMustNotExceedDue);
    }
    Ok(left)
}

/// What each wallet pays of a due, in order; a wallet below `least` pays nothing.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn pay_in_order(due: Exact, wallets: &[Exact], least: Exact) -> Result<Vec<Exact>, RatingStatus> {
    let mut left = due.max(Exact::ZERO)?;
    let mut paid = Vec::with_capacity(wallets.len());
    for wallet in wallets {
        let pays = if wallet.compare(least)?.is_lt() {
            Exact::ZERO
        } else {
            (*wallet).max(Exact::ZERO)?.min(left)?
        };
        left = left.subtract(pays)?;
        paid.push(pays);
    }
    Ok(paid)
}

/// What each wallet pays of a due, in order, where a wallet that is topped up by a threshold absorbs the rest, and the
/// last one always does.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn cascade(due: Exact, wallets: &[Exact], topped_up: &[usize]) -> Result<Vec<Exact>, RatingStatus> {
    let mut left = due;
    let mut paid = Vec::with_capacity(wallets.len());
    for (index, wallet) in wallets.iter().enumerate() {
        let absorbs = topped_up.contains(&index) || index + 1 == wallets.len();
        let pays = if absorbs { left } else { (*wallet).max(Exact::ZERO)?.min(left)? };
        left = left.subtract(pays)?;
        paid.push(pays);
    }
    Ok(paid)
}

/// What of a balance goes on at a reset: `min(max, max(min, balance))`, less the overage that is carried.
///
/// # Errors
/// [`RatingStatus::AmountMustFit`].
pub fn roll_over(
    balance: Exact,
    min: Exact,
    max: Exact,
    carried_overage: Exact,
) -> Result<Exact, RatingStatus> {
    Ok(balance.max(min)?.min(max)?.subtract(carried_overage)?)
}
