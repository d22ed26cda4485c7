//! Flat: a recurring amount for each window in which the subscription is active, whatever was used.
//!
//! Owed in advance (at the start of the window, or of the subscription inside it) or in arrears (when the last active
//! span of the window has ended), in full or for the part of the window in which it holds: see `position`.
//!
//! Source: recurring charges of every billing system; OpenMeter's flat price with its payment terms.

use domain::Exact;
use serde::{Deserialize, Serialize};

use super::portion::Portion;

/// When a recurring amount is owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payment {
    /// At the start of what it is for.
    InAdvance,
    /// At the end.
    #[default]
    InArrears,
}

/// A recurring amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flat {
    /// For a whole window, and one of what the subscription has.
    pub amount: Exact,
    /// When it is owed.
    pub payment: Payment,
}

impl Flat {
    /// How the amount of a whole window comes about.
    pub fn portions(&self) -> Vec<Portion> {
        vec![Portion::fixed(self.amount)]
    }
}
