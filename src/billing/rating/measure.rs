//! What was measured in a slice.

use domain::{Exact, Span};

/// The merged measure of one meter and group in one slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SliceMeasure {
    /// The slice.
    pub slice: Span,
    /// The quantity.
    pub quantity: Exact,
    /// Events that it counts.
    pub event_count: u64,
    /// Digest of the set of those events.
    pub event_digest: u128,
}
