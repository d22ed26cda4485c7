//! A portion: what one tier, row or rule of a price contributes to an amount.
//!
//! Owns: the fields that an explanation needs. Leaves to others: their wording (`rating::explain`).

use domain::Exact;

use crate::catalog::Proration;
use crate::rating::proration::Ratio;

/// What a portion's amount was computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Units at an amount each.
    Units,
    /// Started packages of so many units.
    Packages {
        /// Units in a package.
        size: Exact,
        /// Packages that are owed.
        count: Exact,
    },
    /// A share of an amount of money, in percent.
    Percent {
        /// The rate.
        rate: Exact,
    },
    /// Units that cost nothing.
    Free,
    /// A recurring amount: the portion's unit amount is for a whole window and all seats, its quantity the seats.
    Recurring {
        /// The share of the window that is owed.
        share: Ratio,
        /// What it is counted in.
        proration: Proration,
    },
    /// An amount that does not depend on how many units there are.
    Fixed,
}

/// What one tier (or the whole price, where it has none) contributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Portion {
    /// Index of the tier.
    pub tier: usize,
    /// Units below the portion.
    pub from: Exact,
    /// Last unit of the tier; open where there is none.
    pub up_to: Option<Exact>,
    /// Units in the portion.
    pub quantity: Exact,
    /// What the units were priced by.
    pub basis: Basis,
    /// Amount for a unit or a package.
    pub unit_amount: Exact,
    /// The most that the tier's units and flat amount may cost together.
    pub cap: Option<Exact>,
    /// Flat amount owed in this portion.
    pub flat_amount: Exact,
    /// What the portion costs, exactly.
    pub amount: Exact,
}

impl Portion {
    /// An amount that is owed whatever was used.
    pub fn fixed(amount: Exact) -> Self {
        Self {
            tier: 0,
            from: Exact::ZERO,
            up_to: None,
            quantity: Exact::ZERO,
            basis: Basis::Fixed,
            unit_amount: Exact::ZERO,
            cap: None,
            flat_amount: amount,
            amount,
        }
    }
}
