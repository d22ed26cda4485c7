//! Rated charges: the lines that leave in a batch.

mod charge;
mod posting_class;

pub use self::charge::{ChargeLine, Corrects};
pub use self::posting_class::PostingClass;
