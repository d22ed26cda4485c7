//! Effective-dated look-ups.
//!
//! Owns: which version of a price, subscription or binding holds at an instant. Leaves to others: which records there
//! are (`state`), and what happens at the instants where another one takes over (`machine`).
//!
//! Invariants: looking up an instant and looking up the span that it lies in say the same.
//!
//! - A *price* at t: the version with the greatest `effective_from` at or before t; of equals, the newest record.
//! - A *subscription* or *binding* at t: the same choice by `from` decides; it holds if t is before its `until`. So a
//!   record holds until another one starts or its own `until` ends it; a record with the same `from` replaces it, and
//!   one that is put later for an earlier time leaves what starts behind it alone.

use domain::time::BillingUnit;
use domain::{AccountId, GroupTexts, MeterId, PlanId, PriceId, Span, Subject, SubscriptionId, Timestamp};

use super::agreement::Commitment;
use super::price::{Price, PriceTerms, PricingModel};
use super::resource::{SubjectBinding, Subscription};
use super::status::Rule;
use crate::rating::RatingStatus;
use crate::rating::models::{Model, RowMatch};

/// A version of a price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceVersion {
    /// Number of the version, from 1 in record order.
    pub version: u32,
    /// Offset of its record in the control log.
    pub control_offset: u64,
    /// The price.
    pub price: Price,
    /// The price in narrow types.
    pub terms: PriceTerms,
}

impl PriceVersion {
    /// A version of a price.
    ///
    /// # Errors
    /// As [`Price::check`].
    pub fn new(version: u32, control_offset: u64, price: Price) -> Result<Self, Rule> {
        let terms = price.terms()?;
        Ok(Self { version, control_offset, price, terms })
    }

    fn effective_from(&self) -> Timestamp {
        self.price.effective_from.unwrap_or(Timestamp::MIN)
    }
}

/// All versions of a price, in record order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceTimeline {
    pub(crate) versions: Vec<PriceVersion>,
}

impl PriceTimeline {
    fn first(&self) -> &Price {
        &self.versions.first().expect("a timeline has at least one version").price
    }

    /// Id of the price.
    pub fn id(&self) -> &PriceId {
        &self.first().id
    }

    /// The plan that it belongs to; the same in all versions.
    pub fn plan(&self) -> &PlanId {
        &self.first().plan
    }

    /// The meter that it prices; the same in all versions.
    pub fn meter(&self) -> Option<&MeterId> {
        self.first().meter.as_ref()
    }

    /// The span over which it counts; the same in all versions.
    pub fn window(&self) -> BillingUnit {
        self.first().window
    }

    /// All meters that it prices, more than one for a capacity; the same in all versions.
    pub fn meters(&self) -> impl Iterator<Item = &MeterId> {
        self.first().all_meters()
    }

    /// Whether it may go on counting, inside a window, what a price of another plan counted: what no version of a price changes is the
    /// same in both. A recurring amount, steps and single events are not counted on.
    pub(super) fn counts_on(&self, other: &PriceTimeline) -> bool {
        let (own, other) = (self.first(), other.first());
        let has_counter = !matches!(
            own.model,
            PricingModel::Flat | PricingModel::Stairstep | PricingModel::Capacity | PricingModel::Percentage
        );
        has_counter && own.counts_like(other)
    }

    /// Whether all groups of its meter count together; the same in all versions.
    pub fn counts_groups_together(&self) -> bool {
        self.first().counts_groups_together()
    }

    /// Whether usage of a group is charged at an instant: before a price begins, and in no row of a matrix, it is free.
    pub fn charges(&self, instant: Timestamp, group: &GroupTexts) -> bool {
        match self.version_at(instant).map(|version| &version.terms.model) {
            None => false,
            Some(Model::Matrix(matrix)) => matches!(matrix.row_of(group), Ok(RowMatch::Row(_))),
            Some(_) => true,
        }
    }

    /// The group that usage of a group counts in at an instant: of a matrix, the row that it takes. `None` if it is set
    /// aside until a version of the price has a row for it.
    ///
    /// # Errors
    /// [`RatingStatus::RowMustMatch`].
    pub fn counted_group(
        &self,
        instant: Timestamp,
        group: GroupTexts,
    ) -> Result<Option<GroupTexts>, RatingStatus> {
        let Some(Model::Matrix(matrix)) = self.version_at(instant).map(|version| &version.terms.model) else {
            return Ok(Some(group));
        };
        Ok(match matrix.row_of(&group)? {
            RowMatch::Row(row) => Some(matrix.rows()[row].dimensions.clone()),
            RowMatch::Free => Some(group),
            RowMatch::SetAside => None,
        })
    }

    /// Its model; the same in all versions.
    pub fn model(&self) -> PricingModel {
        self.first().model
    }

    /// All versions, in record order.
    pub fn versions(&self) -> &[PriceVersion] {
        &self.versions
    }

    /// The version in force at an instant.
    pub fn version_at(&self, instant: Timestamp) -> Option<&PriceVersion> {
        let started = self.versions.iter().filter(|version| version.effective_from() <= instant);
        started.max_by_key(|version| (version.effective_from(), version.version))
    }

    /// Instants at which another version comes into force, sorted and each once: bounds of slices.
    pub fn changes(&self) -> Vec<Timestamp> {
        let mut changes: Vec<Timestamp> =
            self.versions.iter().filter_map(|version| version.price.effective_from).collect();
        changes.sort_unstable();
        changes.dedup();
        changes
    }
}

/// Something that holds from one instant until another.
pub(crate) trait Effective {
    fn from(&self) -> Timestamp;
    fn until(&self) -> Option<Timestamp>;
}

impl Effective for Subscription {
    fn from(&self) -> Timestamp {
        self.from
    }
    fn until(&self) -> Option<Timestamp> {
        self.until
    }
}

impl Effective for SubjectBinding {
    fn from(&self) -> Timestamp {
        self.from
    }
    fn until(&self) -> Option<Timestamp> {
        self.until
    }
}

/// The record that holds at an instant: the last that started decides, of equals the newest.
pub(crate) fn holding_at<T: Effective>(records: &[T], instant: Timestamp) -> Option<&T> {
    // Of equal keys `max_by_key` gives the last one: the newest.
    let started =
        records.iter().filter(|record| record.from() <= instant).max_by_key(|record| record.from())?;
    started.until().is_none_or(|until| instant < until).then_some(started)
}

/// Sorted, disjoint spans in which one record holds; each record holds in at most one.
pub(crate) fn spans_of<T: Effective>(records: &[T]) -> Vec<(Span, &T)> {
    let mut deciding: Vec<usize> = (0..records.len()).collect();
    deciding.sort_by_key(|index| (records[*index].from(), *index));
    // In order of start, each decides until the next one starts. Of those with the same start all but the newest decide
    // over nothing, and fall out as empty.
    let starts = deciding.iter().skip(1).map(|index| records[*index].from()).chain([Timestamp::END]);
    let spans = deciding.iter().zip(starts).map(|(index, next)| {
        let record = &records[*index];
        (Span::new(record.from(), record.until().map_or(next, |until| until.min(next))), record)
    });
    spans.filter(|(span, _)| span.from < span.until).collect()
}

/// All records of a subscription, in record order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionTimeline {
    pub(crate) records: Vec<Subscription>,
    /// Offset of each record in the control log.
    pub(crate) offsets: Vec<u64>,
}

impl SubscriptionTimeline {
    fn first(&self) -> &Subscription {
        self.records.first().expect("a timeline has at least one record")
    }

    /// Id of the subscription.
    pub fn id(&self) -> &SubscriptionId {
        &self.first().id
    }

    /// Who pays; the same in all records.
    pub fn account(&self) -> &AccountId {
        &self.first().account
    }

    /// What its windows are counted from; the same in all records.
    pub fn anchor(&self) -> Option<Timestamp> {
        self.first().anchor
    }

    /// The record that holds at an instant.
    pub fn at(&self, instant: Timestamp) -> Option<&Subscription> {
        holding_at(&self.records, instant)
    }

    /// Sorted, disjoint spans in which one record holds.
    pub fn spans(&self) -> Vec<(Span, &Subscription)> {
        spans_of(&self.records)
    }

    /// All records, in record order.
    pub fn records(&self) -> &[Subscription] {
        &self.records
    }
}

/// All versions of a commitment, in record order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitmentTimeline {
    pub(crate) records: Vec<Commitment>,
    /// Offset of each record in the control log.
    pub(crate) offsets: Vec<u64>,
}

impl CommitmentTimeline {
    /// The first version: what must not change is the same in all.
    pub fn first(&self) -> &Commitment {
        self.records.first().expect("a timeline has at least one record")
    }

    /// Its place in the order of creation.
    pub fn created(&self) -> u64 {
        *self.offsets.first().expect("a timeline has at least one record")
    }

    /// First instant at which it does not hold any more: what the version that is in force last says.
    pub fn end(&self) -> Timestamp {
        // Of equal keys `max_by_key` gives the last one: the newest.
        let last = self.records.iter().max_by_key(|record| record.holds_from());
        let last = last.expect("a timeline has at least one record");
        last.ended_at.unwrap_or(last.until)
    }

    /// The version that holds in a window: of those in force by its first instant the latest, of equals the newest.
    pub fn at(&self, window_from: Timestamp) -> Option<&Commitment> {
        let started = self.records.iter().filter(|record| record.holds_from() <= window_from);
        // Of equal keys `max_by_key` gives the last one: the newest.
        started.max_by_key(|record| record.holds_from())
    }

    /// All versions, in record order.
    pub fn records(&self) -> &[Commitment] {
        &self.records
    }
}

/// All bindings of a subject, in record order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubjectTimeline {
    pub(crate) records: Vec<SubjectBinding>,
    /// Offset of each record in the control log.
    pub(crate) offsets: Vec<u64>,
}

impl SubjectTimeline {
    /// The subject.
    pub fn id(&self) -> &Subject {
        &self.records.first().expect("a timeline has at least one record").id
    }

    /// The binding that holds at an instant.
    pub fn at(&self, instant: Timestamp) -> Option<&SubjectBinding> {
        holding_at(&self.records, instant)
    }

    /// Sorted, disjoint spans in which one binding holds.
    pub fn spans(&self) -> Vec<(Span, &SubjectBinding)> {
        spans_of(&self.records)
    }

    /// Subscriptions that the subject was ever bound to.
    pub fn subscriptions(&self) -> impl Iterator<Item = &SubscriptionId> {
        self.records.iter().map(|record| &record.subscription)
    }

    /// All bindings, in record order.
    pub fn records(&self) -> &[SubjectBinding] {
        &self.records
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::MIN.plus(hours * domain::time::HOUR)
    }

    fn binding(name: &str, from: i64, until: Option<i64>) -> SubjectBinding {
        SubjectBinding {
            id: Subject::new("x").unwrap(),
            subscription: SubscriptionId::new(name).unwrap(),
            from: at(from),
            until: until.map(at),
        }
    }

    #[test]
    fn a_new_record_replaces_the_old_ones_from_its_start_and_an_until_ends_them() {
        let records = [binding("a", 1, None), binding("b", 5, None), binding("b", 5, Some(9))];
        let owner = |hours| holding_at(&records, at(hours)).map(|binding| binding.subscription.to_string());
        assert_eq!(
            [0, 1, 4, 5, 8, 9, 20].map(owner),
            [None, Some("a".into()), Some("a".into()), Some("b".into()), Some("b".into()), None, None]
        );
    }

    #[test]
    fn a_span_ends_where_another_record_starts_or_where_its_own_ends() {
        type Records<'a> = &'a [(i64, Option<i64>)];
        type Spans<'a> = &'a [(i64, i64, usize)];
        let cases: [(Records<'_>, Spans<'_>); 8] = [
            (&[], &[]),
            (&[(1, None)], &[(1, END, 0)]),
            // A record takes over from its start on, and leaves alone what starts behind it.
            (&[(1, None), (5, None)], &[(1, 5, 0), (5, END, 1)]),
            (&[(5, None), (1, None)], &[(1, 5, 1), (5, END, 0)]),
            (&[(5, None), (1, Some(3))], &[(1, 3, 1), (5, END, 0)]),
            // An end leaves a gap; nothing older comes back.
            (&[(1, None), (5, Some(9))], &[(1, 5, 0), (5, 9, 1)]),
            // The same start again replaces: this is how an open record is ended.
            (&[(1, None), (1, Some(9))], &[(1, 9, 1)]),
            (&[(1, Some(3)), (5, None), (7, Some(8))], &[(1, 3, 0), (5, 7, 1), (7, 8, 2)]),
        ];
        for (records, expected) in cases {
            let records: Vec<_> = records
                .iter()
                .enumerate()
                .map(|(n, (from, until))| binding(&n.to_string(), *from, *until))
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(from, until, index)| {
                    let until = if *until == END { Timestamp::END } else { at(*until) };
                    (Span::new(at(*from), until), &records[*index])
                })
                .collect();
            assert_eq!(spans_of(&records), expected);
        }
        let at_the_end = SubjectBinding { from: Timestamp::END, ..binding("late", 1, None) };
        assert_eq!(spans_of(&[at_the_end]), []);
    }

    const END: i64 = i64::MAX;

    proptest! {
        #![proptest_config(crate::testing::cases())]

        #[test]
        fn spans_say_the_same_as_looking_up_every_instant(
            records in prop::collection::vec((0..20i64, prop::option::of(1..10i64)), 0..9),
        ) {
            let records: Vec<_> = records
                .into_iter()
                .enumerate()
                .map(|(n, (from, hours))| binding(&n.to_string(), from, hours.map(|hours| from + hours)))
                .collect();
            let spans = spans_of(&records);
            for pair in spans.windows(2) {
                prop_assert!(pair[0].0.until <= pair[1].0.from, "sorted and disjoint");
            }
            for hours in 0..40 {
                let by_span = spans.iter().find(|(span, _)| span.contains(at(hours))).map(|(_, record)| *record);
                prop_assert_eq!(by_span, holding_at(&records, at(hours)));
            }
        }
    }
}
