//! Credit grants of an account: what they pay of what is due.
//!
//! Owns: which lines a grant may pay, in which order they come, and the lines of its draws. Leaves to others: the order
//! in which grants burn, lots, expiry and restoring (`rating::credits`).

use super::Bill;
use crate::rating::status::RatingStatus;

/// The grant that a credit line's term names: `wallet`, `wallet#3` (its third lot), `wallet/minimum` (paid for a minimum).
pub fn grant_of(term: &str) -> &str {
    let end = term.find(['#', '/']).unwrap_or(term.len());
    &term[..end]
}

/// Whether a credit line paid for a charge, and not for what a term added.
pub fn is_of_charge(term: &str) -> bool {
    !term.contains('/')
}

impl Bill<'_, '_> {
    /// Draws what is due from the account's grants.
    pub(super) fn credits(&mut self) -> Result<(), RatingStatus> {
        Ok(())
    }
}
