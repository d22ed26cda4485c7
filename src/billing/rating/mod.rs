//! Rating: what usage is worth.
//!
//! Owns: pricing models, positions, explanations. Leaves to others: what was charged before (`machine::issued`).

pub mod account;
pub mod allocation;
pub mod commitment;
pub mod credits;
pub mod discount;
mod explain;
pub mod folds;
mod measure;
pub mod models;
mod position;
pub mod progressive;
pub mod proration;
pub mod quantity;
pub mod spend;
mod status;
mod together;

#[cfg(test)]
mod cadences;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod histories;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod regressions;
#[cfg(test)]
mod shop;

pub use self::explain::{
    ExplainedPortion, ExplainedQuantity, WindowExplanation, explain, grouped, money_text, total_text,
};
pub use self::measure::{Measure, SliceMeasure};
pub(crate) use self::position::first_version;
pub use self::position::{ActiveTerm, PositionLine, WindowTerms, position};
pub use self::status::{AMOUNT_MINOR_MAX, RatingStatus, TermsStatus};
pub use self::together::{Elsewhere, elsewhere};
