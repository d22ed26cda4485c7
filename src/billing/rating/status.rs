//! Why a charge cannot be computed.

use std::fmt;

use domain::ExactStatus;

/// The first broken rule; the caller adds which charge it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RatingStatus {
    /// A quantity or an amount needs more digits than exact arithmetic has.
    AmountMustFit,
}

impl fmt::Display for RatingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a quantity or amount needs more than 256 bits (76 digits)")
    }
}

impl std::error::Error for RatingStatus {}

impl From<ExactStatus> for RatingStatus {
    fn from(_: ExactStatus) -> Self {
        RatingStatus::AmountMustFit
    }
}
