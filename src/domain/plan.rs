//! The metering plan: what the engine needs to know of the catalog, and nothing more.
//!
//! Owns: the shape in which `machine` hands meters, slice bounds and policy to `engine`.
//! Leaves to others: how it is compiled (`machine::metering_plan`), how it is executed (`engine::shard`).
//!
//! Invariants:
//! - A plan is immutable; a barrier swaps the whole plan.
//! - Bounds of a schedule are sorted and strictly increasing; spans of a subject are sorted and disjoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{MeterId, Subject};
use crate::time::{Span, Timestamp};

/// How events become one measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aggregation {
    /// The sum of a value property.
    Sum,
    /// The count of events.
    Count,
}

/// What a meter makes of a negative value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NegativeUsage {
    /// The event is quarantined.
    #[default]
    Reject,
    /// The value counts as zero.
    Zero,
    /// The value counts with its sign.
    Signed,
}

/// One meter as the engine executes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterProgram {
    /// Which meter this is.
    pub meter: MeterId,
    /// Events of this type are metered.
    pub event_type: Arc<str>,
    /// How values become a measure.
    pub aggregation: Aggregation,
    /// The value property that is summed; `None` for a count.
    pub value: Option<Arc<str>>,
    /// Dimensions that split the measure into groups, in catalog order.
    pub group_by: Vec<Arc<str>>,
    /// Every named dimension must have one of its texts.
    pub filter: Vec<(Arc<str>, Vec<Arc<str>>)>,
    /// Fraction digits of the measure.
    pub scale: u8,
    /// What becomes of a negative value.
    pub negative_usage: NegativeUsage,
    /// Control-log offset from which on the meter exists: usage under an earlier barrier is not metered by it.
    pub since_control_offset: u64,
}

/// The instants at which slices end for some subjects: sorted, strictly increasing, covering the supported years.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    bounds: Vec<Timestamp>,
}

impl Schedule {
    /// A schedule of the given instants; sorts them and drops repeated ones.
    pub fn new(mut bounds: Vec<Timestamp>) -> Self {
        bounds.push(Timestamp::MIN);
        bounds.push(Timestamp::END);
        bounds.sort_unstable();
        bounds.dedup();
        bounds.retain(|bound| (Timestamp::MIN..=Timestamp::END).contains(bound));
        Self { bounds }
    }

    /// All bounds, in order.
    pub fn bounds(&self) -> &[Timestamp] {
        &self.bounds
    }

    /// The span between two bounds that an instant of the supported range falls into.
    ///
    /// # Panics
    /// If the instant is outside the supported range; such events never reach a schedule.
    pub fn slice_of(&self, instant: Timestamp) -> Span {
        assert!(
            (Timestamp::MIN..Timestamp::END).contains(&instant),
            "an event's time is in the supported years"
        );
        let after = self.bounds.partition_point(|bound| *bound <= instant);
        Span::new(self.bounds[after - 1], self.bounds[after])
    }
}

/// A span in which a subject has an owner, and the schedule that cuts it into slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedSpan {
    /// When the subject is owned.
    pub span: Span,
    /// Where slices end within the span.
    pub schedule: Arc<Schedule>,
}

impl OwnedSpan {
    /// The slice that an instant of this span falls into: between two bounds and inside the span.
    pub fn slice_of(&self, instant: Timestamp) -> Span {
        let slice = self.schedule.slice_of(instant);
        Span::new(slice.from.max(self.span.from), slice.until.min(self.span.until))
    }
}

/// When a subject is owned. Spans are sorted and disjoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectPlan {
    /// The owned spans, in order.
    pub spans: Vec<OwnedSpan>,
}

impl SubjectPlan {
    /// The owned span that an instant falls into.
    #[inline]
    pub fn span_at(&self, instant: Timestamp) -> Option<&OwnedSpan> {
        let after = self.spans.partition_point(|owned| owned.span.from <= instant);
        let owned = self.spans.get(after.checked_sub(1)?)?;
        owned.span.contains(instant).then_some(owned)
    }
}

/// Limits that decide verdicts; part of the control state, so that replay decides the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// An event whose time is earlier than its arrival by more than this is quarantined as `too_old`. Nanoseconds.
    pub horizon: i64,
    /// An event whose time is later than its arrival by more than this is quarantined as `future`. Nanoseconds.
    pub future_max: i64,
    /// Pending events that one source may have in one slot; beyond, they are quarantined as `pending_full`.
    pub pending_per_slot_max: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { horizon: 35 * crate::time::DAY, future_max: crate::time::HOUR, pending_per_slot_max: 256 }
    }
}

/// Everything that a shard needs to decide about events until the next barrier.
#[derive(Clone, Debug, Default)]
pub struct MeteringPlan {
    /// The control-log offset that the plan was compiled at.
    pub control_offset: u64,
    /// All meters, in the order of their ids.
    pub programs: Vec<MeterProgram>,
    /// Owned subjects.
    pub subjects: BTreeMap<Subject, Arc<SubjectPlan>>,
    /// Limits that decide verdicts.
    pub policy: Policy,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::MIN.plus(seconds * crate::time::SECOND)
    }

    #[test]
    fn slices_are_half_open_and_clipped_to_the_owned_span() {
        let schedule = Arc::new(Schedule::new(vec![at(20), at(10), at(20)]));
        let owned = OwnedSpan { span: Span::new(at(5), at(15)), schedule };
        let plan = SubjectPlan { spans: vec![owned] };
        assert_eq!(plan.span_at(at(4)), None);
        assert_eq!(plan.span_at(at(15)), None);
        let slice = |seconds| plan.span_at(at(seconds)).unwrap().slice_of(at(seconds));
        assert_eq!(slice(5), Span::new(at(5), at(10)));
        assert_eq!(slice(10), Span::new(at(10), at(15)));
    }
}
