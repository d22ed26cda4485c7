//! What a charge is to the books: each has exactly one class.
//!
//! Owns: the classes. Leaves to others: the ledger account of a class (`ledger::chart`).

use serde::{Deserialize, Serialize};

/// The class of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PostingClass {
    /// Earned when used.
    EarnedUsage,
    /// Earned over the window of a recurring amount, charged in arrears.
    EarnedSubscription,
    /// Charged before it is earned: a recurring amount in advance.
    Deferred,
    /// The shortfall of a minimum or a commitment.
    TrueUp,
    /// Usage that was paid for before: it lowers what is owed to the customer.
    PrepaidDraw,
    /// Usage that was given away.
    Promotional,
}
