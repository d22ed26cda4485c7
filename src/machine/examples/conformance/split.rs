//! Progressive runs of a window, as the cases define them.
//!
//! Owns: on which run a recurring amount is owed. Leaves to others: windows that are rated as a whole, as every cut does.

use billing::rating::models::{Flat, Payment};
use domain::Exact;

/// Which part of a window's progressive billing a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
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
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Split::Single | Split::Last)
    }

    /// Whether amounts in advance are due on this run.
    pub(crate) fn is_first(self) -> bool {
        matches!(self, Split::Single | Split::First)
    }
}

/// What a run of a progressively billed window owes.
pub(crate) fn amount_on(flat: &Flat, split: Split) -> Exact {
    let is_due = match flat.payment {
        Payment::InAdvance => split.is_first(),
        Payment::InArrears => split.is_final(),
    };
    if is_due { flat.amount } else { Exact::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recurring_amount_is_owed_on_one_run_of_its_window() {
        use Split::*;
        for (payment, due) in [(Payment::InAdvance, [Single, First]), (Payment::InArrears, [Single, Last])] {
            let flat = Flat { amount: Exact::from_integer(100), payment };
            for split in [Single, First, Middle, Last] {
                let expected = if due.contains(&split) { flat.amount } else { Exact::ZERO };
                assert_eq!(amount_on(&flat, split), expected, "{payment:?} {split:?}");
            }
        }
    }
}
