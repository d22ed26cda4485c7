//! Which part of a bill a charge line is.
//!
//! Owns: the parts, in the order in which they come about. Leaves to others: their amounts (`rating`).

use serde::{Deserialize, Serialize};

/// The part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// What a price makes of usage, or a recurring amount.
    Charge,
    /// What a discount takes off; below zero.
    Discount,
    /// What a maximum takes off; below zero.
    Maximum,
    /// What a minimum adds.
    Minimum,
    /// What overage beyond a commitment costs more than its base amount.
    Overage,
    /// The shortfall of a commitment.
    TrueUp,
    /// Usage that a commitment paid for before; below zero.
    Drawdown,
    /// What a credit grant pays; below zero.
    Credit,
    /// Units that a credit grant covers before they are priced; without amount.
    Covered,
}
