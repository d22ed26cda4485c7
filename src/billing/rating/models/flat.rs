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

/// Which part of a window's progressive billing a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The only run of its window.
    Single,
    /// The first of several.
    First,
    /// One between.
    Middle,
    /// The last.
    Last,
}

impl Split {
    /// Whether amounts in arrears, minimums and whole-window prices are due on this run.
    pub fn is_final(self) -> bool {
        matches!(self, Split::Single | Split::Last)
    }

    /// Whether amounts in advance are due on this run.
    pub fn is_first(self) -> bool {
        matches!(self, Split::Single | Split::First)
    }
}

impl Flat {
    /// What a run of a progressively billed window owes.
    pub fn amount_on(&self, split: Split) -> Exact {
        let is_due = match self.payment {
            Payment::InAdvance => split.is_first(),
            Payment::InArrears => split.is_final(),
        };
        if is_due { self.amount } else { Exact::ZERO }
    }

    /// How the amount of a whole window comes about.
    pub fn portions(&self) -> Vec<Portion> {
        vec![Portion::fixed(self.amount)]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tiers::tests::exact;
    use super::*;

    #[test]
    fn a_recurring_amount_is_owed_on_one_run_of_its_window() {
        use Split::*;
        for (payment, due) in [(Payment::InAdvance, [Single, First]), (Payment::InArrears, [Single, Last])] {
            let flat = Flat { amount: exact("100"), payment };
            for split in [Single, First, Middle, Last] {
                let expected = if due.contains(&split) { exact("100") } else { Exact::ZERO };
                assert_eq!(flat.amount_on(split), expected, "{payment:?} {split:?}");
            }
        }
    }
}
