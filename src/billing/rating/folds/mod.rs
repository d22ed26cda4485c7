//! Folds: from a sequence of dated facts to the one quantity that a price takes.
//!
//! Owns: levels over time, unique keys, granules, percentiles. Leaves to others: sums and counts, which need no sequence
//! (`engine::shard::cell`), and what a quantity costs (`models`).
//!
//! Invariants: exact; a fold is a function of the set of facts and the span, whatever the order in which they arrived; what
//! is carried over a span keeps its sign.

mod granules;
mod levels;
mod percentile;
mod unique;

pub use self::granules::{GranuleFunction, Granules};
pub use self::levels::{Levels, Stretch};
pub use self::percentile::percentile;
pub use self::unique::present_after;
