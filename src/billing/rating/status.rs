//! Why a charge cannot be computed.

use std::fmt;

use domain::decimal::MANTISSA_MAX;
use domain::{Exact, ExactStatus};

/// Largest magnitude, in minor units, that a window's amount may have at any slice: 10^27.
///
/// Far beyond any bill, and small enough that nothing downstream can overflow: see the assertion below.
pub const AMOUNT_MINOR_MAX: i128 = 10i128.pow(27);

// A line is the difference of two sums, a charge the difference of two lines, and a batch numbers its lines with 32
// bits: so every charge, and every total over a batch, still has the 38 digits of a decimal.
const _: () = assert!(AMOUNT_MINOR_MAX * 4 * (1 << 32) <= MANTISSA_MAX, "totals of a batch fit a decimal");

/// The first broken rule, in order of precedence; the caller adds which charge it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RatingStatus {
    /// A quantity or an amount needs more digits than exact arithmetic has.
    AmountMustFit,
    /// A window is worth more than [`AMOUNT_MINOR_MAX`] minor units, or less than its negative.
    AmountMustBeBillable,
}

impl fmt::Display for RatingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RatingStatus::AmountMustFit => "a quantity or amount needs more than 256 bits (76 digits)",
            RatingStatus::AmountMustBeBillable => {
                "a window is worth at most 10^27 minor units; check the meter's values and the price's `per`"
            }
        })
    }
}

impl std::error::Error for RatingStatus {}

impl From<ExactStatus> for RatingStatus {
    fn from(_: ExactStatus) -> Self {
        RatingStatus::AmountMustFit
    }
}

/// `a − b`, where even the one mantissa without a positive twin is a status.
pub(super) fn difference(a: Exact, b: Exact) -> Result<Exact, RatingStatus> {
    Ok(a.add(b.multiply(Exact::new(-1, 0))?)?)
}
