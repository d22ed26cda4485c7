//! The metering plan: what the engine needs to know of the catalog, and nothing more.
//!
//! Owns: the shape in which `machine` hands meters, slice bounds and policy to `engine`.
//! Leaves to others: how it is compiled (`machine::metering_plan`), how it is executed (`engine::shard`).
//!
//! Invariants:
//! - A plan is immutable; a barrier swaps the whole plan.
//! - Bounds of a schedule are sorted and strictly increasing; spans of a subject are sorted and disjoint.

use std::cmp::Ordering;
use std::sync::Arc;

use rpds::HashTrieMapSync;

use crate::decimal::Decimal;
use crate::exact::Exact;
use crate::ids::{MeterId, Subject};
use crate::time::{Span, Timestamp};

/// How events become one measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aggregation {
    /// The sum of a value property.
    Sum,
    /// The count of events.
    Count,
    /// The sum over the count.
    Average,
    /// The least value.
    Min,
    /// The greatest value.
    Max,
    /// The value of the event with the greatest time; of one instant the later arrival.
    Latest,
    /// Different keys that were added and not removed since.
    Unique,
    /// A level, weighted by the part of the window in which it held.
    WeightedSum(Gauge),
    /// The value that so many millionths of a percent of the values do not exceed, by nearest rank.
    Percentile {
        /// Above 0 and at most 100,000,000.
        percent_millionths: u32,
    },
    /// The greatest value of every granule of the window, added up.
    Peak {
        /// Nanoseconds of a granule, above zero.
        granule: i64,
    },
    /// The values one by one, for prices of single events; as a quantity their sum.
    Each,
}

impl Aggregation {
    /// What a cell keeps of its events.
    pub fn class(self) -> CellClass {
        match self {
            Aggregation::Sum | Aggregation::Count | Aggregation::Average => CellClass::Additive,
            Aggregation::Min => CellClass::Least,
            Aggregation::Max => CellClass::Greatest,
            Aggregation::Latest => CellClass::Latest,
            Aggregation::Unique => CellClass::Keys,
            Aggregation::WeightedSum(_)
            | Aggregation::Percentile { .. }
            | Aggregation::Peak { .. }
            | Aggregation::Each => CellClass::Events,
        }
    }

    /// Whether what was measured before a window goes on in it.
    pub fn is_carried(self) -> bool {
        matches!(self, Aggregation::WeightedSum(_))
    }

    /// Whether the measure has no fraction.
    pub fn is_whole(self) -> bool {
        matches!(self, Aggregation::Count | Aggregation::Unique)
    }
}

/// How events say what a level is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gauge {
    /// Each adds to it.
    Changes,
    /// Each sets it.
    Levels,
    /// Each adds a key or takes it away: the level is how many there are.
    Keys,
}

/// What a cell keeps of its events, besides their count, the sum of their values and the digest of their set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CellClass {
    /// Nothing more.
    Additive,
    /// The least value.
    Least,
    /// The greatest value.
    Greatest,
    /// The value of the latest event.
    Latest,
    /// The last change of every key.
    Keys,
    /// Time, position and value of every event.
    Events,
}

/// What a filter asks of a dimension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// It has one of these texts.
    OneOf(Vec<Arc<str>>),
    /// It has none of these texts; an event without the dimension passes.
    NoneOf(Vec<Arc<str>>),
    /// It is there, or not.
    Exists(bool),
    /// Its text starts so.
    StartsWith(Arc<str>),
    /// Its text is a number that stands so to another; a text that is no number fails.
    Compares(Comparison, Decimal),
}

/// How a number stands to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Comparison {
    /// Below it.
    Below,
    /// Below or equal.
    AtMost,
    /// Above or equal.
    AtLeast,
    /// Above it.
    Above,
}

impl Comparison {
    /// Whether an order of two numbers is this comparison.
    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Below => order.is_lt(),
            Comparison::AtMost => order.is_le(),
            Comparison::AtLeast => order.is_ge(),
            Comparison::Above => order.is_gt(),
        }
    }
}

impl Test {
    /// Whether a text passes; `None` is an event without the dimension.
    pub fn passes(&self, text: Option<&str>) -> bool {
        let is_in = |texts: &[Arc<str>]| text.is_some_and(|text| texts.iter().any(|one| **one == *text));
        match self {
            Test::OneOf(texts) => is_in(texts),
            Test::NoneOf(texts) => !is_in(texts),
            Test::Exists(is_wanted) => text.is_some() == *is_wanted,
            Test::StartsWith(start) => text.is_some_and(|text| text.starts_with(&**start)),
            Test::Compares(..) => {
                text.and_then(|text| Decimal::parse(text).ok()).is_some_and(|value| self.admits(value))
            }
        }
    }

    /// Whether a number passes: of a value property, which has no text.
    pub fn admits(&self, value: Decimal) -> bool {
        match self {
            Test::Exists(is_wanted) => *is_wanted,
            Test::Compares(comparison, other) => {
                let order = Exact::from(value).compare(Exact::from(*other));
                order.is_ok_and(|order| comparison.holds(order))
            }
            Test::OneOf(_) | Test::NoneOf(_) | Test::StartsWith(_) => false,
        }
    }

    /// Whether the test may be made of a value property, where an event has no dimension of the name.
    pub fn is_of_values(&self) -> bool {
        matches!(self, Test::Exists(_) | Test::Compares(..))
    }
}

/// One condition of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Name of the dimension; [`Test::is_of_values`] says where a value property of this name serves as well.
    pub dimension: Arc<str>,
    /// What is asked of it.
    pub test: Test,
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
    /// The value property that is measured; `None` for a count, which takes every event as one, and for keys.
    pub value: Option<Arc<str>>,
    /// The dimension whose texts are the keys of [`Aggregation::Unique`] and [`Gauge::Keys`].
    pub key: Option<Arc<str>>,
    /// The dimension that says whether a key comes or goes: one with the text `remove` goes.
    pub operation: Option<Arc<str>>,
    /// Dimensions that split the measure into groups, in catalog order.
    pub group_by: Vec<Arc<str>>,
    /// Every condition must hold.
    pub filter: Vec<Condition>,
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
        // They come as a few sorted runs, of days a long one: a stable sort merges them.
        bounds.sort();
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

/// Which ids are remembered no more; part of the control state, so that replay forgets the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    /// Ids of events before this offset of the usage log are forgotten, if they were accepted as they arrived and nobody
    /// corrected them. Others may still come to count otherwise, and are not.
    pub before: u64,
    /// Every forgotten event is earlier: an unknown id with an earlier time may be one of them, and is quarantined as
    /// `too_old`.
    pub proven_from: Timestamp,
}

impl Default for Forgotten {
    fn default() -> Self {
        Self { before: 0, proven_from: Timestamp::MIN }
    }
}

/// Plans by subject. A plan that changes some of them shares the others with the one before.
/// In no order, and found by few reads: a shard looks up every subject once. The hashes are seeded at random, so that nobody can
/// choose texts that share one; nothing iterates, so no outcome depends on them.
pub type SubjectPlans = HashTrieMapSync<Subject, Arc<SubjectPlan>, foldhash::quality::RandomState>;

/// How the subjects of a plan differ from those of the plan before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanChanges {
    /// The control-log offset of the plan before.
    pub since: u64,
    /// All others are as they were.
    pub subjects: Vec<Subject>,
}

/// Everything that a shard needs to decide about events until the next barrier.
#[derive(Clone, Debug, Default)]
pub struct MeteringPlan {
    /// The control-log offset that the plan was compiled at.
    pub control_offset: u64,
    /// All meters, in the order of their ids.
    pub programs: Vec<MeterProgram>,
    /// Owned subjects.
    pub subjects: SubjectPlans,
    /// What the subjects changed; `None` if nobody knows.
    pub changes: Option<PlanChanges>,
    /// Limits that decide verdicts.
    pub policy: Policy,
    /// Ids that are remembered no more.
    pub forgotten: Forgotten,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::MIN.plus(seconds * crate::time::SECOND)
    }

    #[test]
    fn a_test_says_which_texts_pass_and_whether_none_does() {
        let texts = |list: &[&str]| list.iter().map(|text| Arc::from(*text)).collect::<Vec<Arc<str>>>();
        let number = |text| Decimal::parse(text).unwrap();
        let all = [None, Some("a"), Some("ab"), Some("5"), Some("-5.0"), Some("5.1")];
        for (test, passing) in [
            (Test::OneOf(texts(&["a", "5"])), "010100".to_string()),
            (Test::NoneOf(texts(&["a", "5"])), "101011".to_string()),
            (Test::Exists(true), "011111".to_string()),
            (Test::Exists(false), "100000".to_string()),
            (Test::StartsWith("a".into()), "011000".to_string()),
            (Test::Compares(Comparison::Below, number("5")), "000010".to_string()),
            (Test::Compares(Comparison::AtMost, number("5.00")), "000110".to_string()),
            (Test::Compares(Comparison::AtLeast, number("5")), "000101".to_string()),
            (Test::Compares(Comparison::Above, number("5")), "000001".to_string()),
        ] {
            let passed: String = all.iter().map(|text| if test.passes(*text) { '1' } else { '0' }).collect();
            assert_eq!(passed, passing, "{test:?}");
        }
        assert!(Test::Compares(Comparison::Above, number("5")).admits(number("5.01")));
        assert!(!Test::OneOf(texts(&["5"])).is_of_values());
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
