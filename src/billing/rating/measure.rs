//! What was measured in a slice.

use domain::{Exact, ExactStatus, Span};

/// The merged measure of a slice, by class of aggregation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure<'a> {
    /// One quantity.
    Scalar(Exact),
    /// The values of single events, in order of their time.
    Sequence(&'a [Exact]),
    /// One quantity for each meter of the price.
    Dimensions(&'a [Exact]),
}

impl Measure<'_> {
    /// The quantity: of a sequence its sum, of several meters the first.
    ///
    /// # Errors
    /// [`ExactStatus::AmountMustFit`].
    pub fn quantity(self) -> Result<Exact, ExactStatus> {
        match self {
            Measure::Scalar(quantity) => Ok(quantity),
            Measure::Sequence(values) => values.iter().try_fold(Exact::ZERO, |sum, value| sum.add(*value)),
            Measure::Dimensions(quantities) => Ok(quantities.first().copied().unwrap_or(Exact::ZERO)),
        }
    }
}

/// The merged measure of one meter and group in one slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceMeasure<'a> {
    /// The slice.
    pub slice: Span,
    /// What was measured, without the units that grants cover.
    pub measure: Measure<'a>,
    /// Units that grants cover: they are no part of what is priced.
    pub covered: Exact,
    /// Events that it counts.
    pub event_count: u64,
    /// Digest of the set of those events.
    pub event_digest: u128,
}
