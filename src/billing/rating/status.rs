//! Why a charge cannot be computed.

use std::fmt;

use domain::ExactStatus;
use domain::decimal::MANTISSA_MAX;

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
    /// A subscription uses more different groups of a meter in a window than the meter's `groups_max`.
    GroupsMustFit,
    /// A window has more events or keys to be measured one by one than the meter's `kept_max`.
    KeptMustFit,
    /// Usage has dimensions that no row of its price names, and the price has no default row.
    RowMustMatch,
    /// A window is worth more than [`AMOUNT_MINOR_MAX`] minor units, or less than its negative.
    AmountMustBeBillable,
    /// The same of what a commitment asks for.
    CommitmentMustBeBillable,
}

impl fmt::Display for RatingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RatingStatus::AmountMustFit => "a quantity or amount needs more than 256 bits (76 digits)",
            RatingStatus::GroupsMustFit => {
                "usage has more different groups than `groups_max` of its meter; group by fewer dimensions in a new meter"
            }
            RatingStatus::KeptMustFit => {
                "more events or keys are to be measured one by one than `kept_max` of the meter; measure them with a new meter"
            }
            RatingStatus::RowMustMatch => {
                "usage fits no row of the price; add a row for it, or a default row without dimensions"
            }
            RatingStatus::AmountMustBeBillable => {
                "a window is worth at most 10^27 minor units; check the meter's values and the price's `per`"
            }
            RatingStatus::CommitmentMustBeBillable => {
                "a commitment asks for more than 10^27 minor units; check its `quantity` and `overage_factor`"
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

/// Terms that contradict themselves: found when they are checked, not when a bill runs. In order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TermsStatus {
    /// Tiers rise strictly from above zero, the last one is open, and there are 1 to 256.
    TiersMustRise,
    /// A package has units.
    PackageSizeMustBePositive,
    /// A unit is converted by a factor above zero.
    ConversionFactorMustBePositive,
    /// Free units are zero or more.
    FreeUnitsMustNotBeNegative,
    /// A minimum is at most the maximum.
    MinimumMustNotExceedMaximum,
    /// No two rows of a matrix name the same texts, and there is at least one.
    RowsMustDiffer,
}

impl TermsStatus {
    /// Stable name of the rule, for APIs.
    pub fn name(self) -> &'static str {
        match self {
            TermsStatus::TiersMustRise => "tiers_must_rise",
            TermsStatus::PackageSizeMustBePositive => "package_size_must_be_positive",
            TermsStatus::ConversionFactorMustBePositive => "conversion_factor_must_be_positive",
            TermsStatus::FreeUnitsMustNotBeNegative => "free_units_must_not_be_negative",
            TermsStatus::MinimumMustNotExceedMaximum => "minimum_must_not_exceed_maximum",
            TermsStatus::RowsMustDiffer => "rows_must_differ",
        }
    }
}

impl fmt::Display for TermsStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TermsStatus::TiersMustRise => {
                "tiers need strictly rising `up_to`, and a last tier without one; 1 to 256 of them"
            }
            TermsStatus::PackageSizeMustBePositive => "package_size must be above zero",
            TermsStatus::ConversionFactorMustBePositive => "a conversion factor must be above zero",
            TermsStatus::FreeUnitsMustNotBeNegative => "included units must be zero or more",
            TermsStatus::MinimumMustNotExceedMaximum => {
                "the minimum is above the maximum: no amount could keep both; lower one of them"
            }
            TermsStatus::RowsMustDiffer => {
                "a matrix needs at least one row, and no two that name the same texts"
            }
        })
    }
}

impl std::error::Error for TermsStatus {}
