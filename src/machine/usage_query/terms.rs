//! What a catalog says about a query: the meter, and when which subject is looked at.
//!
//! Owns: whose usage it is over time. Leaves to others: the question (`super::question`), the fold (`super`).
//!
//! Invariants: the usage of a subscription is what its cells hold, so spans are those that a subject is bound and the
//! subscription active in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use billing::catalog::Catalog;
use domain::plan::{Condition, MeterProgram, Test};
use domain::{Span, Subject, SubscriptionId, Timestamp};

use super::question::{GroupKey, QueryStatus, UsageQuery, UsageScope};
use crate::metering_plan::program_of;
use crate::owners::active_spans;

/// What a catalog says about a query: the meter, and when which subject is looked at.
#[derive(Clone, Debug)]
pub struct UsageTerms {
    pub(super) program: MeterProgram,
    pub(super) owned: Owned,
}

/// Whose usage is looked at.
#[derive(Clone, Debug)]
pub(super) enum Owned {
    /// All subjects.
    All,
    /// Some, at any time.
    Subjects(BTreeSet<Subject>),
    /// Sorted, disjoint spans by subject.
    Spans(BTreeMap<Subject, Vec<Span>>),
}

impl UsageTerms {
    /// The terms of a query in a catalog.
    ///
    /// # Errors
    /// What the query names does not exist.
    pub fn of(catalog: &Catalog, query: &UsageQuery) -> Result<Self, QueryStatus> {
        let question = &query.question;
        let meter = catalog.meters().find(|(_, meter)| meter.id == question.meter);
        let (created, meter) = meter.ok_or(QueryStatus::MeterMustExist)?;
        if meter.measure().is_carried() {
            return Err(QueryStatus::MeterMustNotBeLevel);
        }
        let mut spans = BTreeMap::new();
        let owned = match &question.scope {
            UsageScope::All => Owned::All,
            UsageScope::Subjects(subjects) => Owned::Subjects(subjects.clone()),
            UsageScope::Subscription(subscription) => {
                catalog.subscription(subscription).ok_or(QueryStatus::SubscriptionMustExist)?;
                collect_spans(catalog, subscription, &mut spans);
                Owned::Spans(spans)
            }
            UsageScope::Account(account) => {
                catalog.account(account).ok_or(QueryStatus::AccountMustExist)?;
                for subscription in catalog.subscriptions_of_account(account) {
                    collect_spans(catalog, subscription.id(), &mut spans);
                }
                spans.values_mut().for_each(|spans| spans.sort_unstable());
                Owned::Spans(spans)
            }
        };
        let mut program = program_of(created, meter);
        let dimensions = question.group_by.iter().filter_map(|key| match key {
            GroupKey::Dimension(name) => Some(name.clone()),
            GroupKey::Subject | GroupKey::Source => None,
        });
        program.group_by = dimensions.collect();
        program.filter.extend(question.filter.iter().map(|(name, texts)| {
            let texts = texts.iter().map(|text| Arc::from(text.as_str())).collect();
            Condition { dimension: Arc::from(name.as_str()), test: Test::OneOf(texts) }
        }));
        Ok(Self { program, owned })
    }

    /// The meter, with the filters and groups that are asked for.
    pub fn program(&self) -> &MeterProgram {
        &self.program
    }
}

/// Adds when which subject belongs to a subscription that is active. Bindings of a subject do not overlap, nor do active
/// spans of a subscription, so the spans of a subject do not either.
fn collect_spans(catalog: &Catalog, subscription: &SubscriptionId, spans: &mut BTreeMap<Subject, Vec<Span>>) {
    let active = active_spans(catalog, subscription);
    for subject in catalog.subjects_of_subscription(subscription) {
        let timeline = catalog.subject(subject.as_str()).expect("the catalog names its own subjects");
        let bound = timeline.spans().into_iter().filter(|(_, binding)| binding.subscription == *subscription);
        for (bound, _) in bound {
            let overlapping = active.iter().map(|active| active.span).filter(|span| span.overlaps(bound));
            let both =
                overlapping.map(|span| Span::new(span.from.max(bound.from), span.until.min(bound.until)));
            spans.entry(subject.clone()).or_default().extend(both);
        }
    }
}

/// When the usage of one subject is looked at.
#[derive(Clone, Copy)]
pub(super) enum Looked<'a> {
    /// Never.
    Never,
    /// At any time.
    Always,
    /// In sorted, disjoint spans.
    In(&'a [Span]),
}

impl Owned {
    /// All subjects that are ever looked at; `None` if these are all there are.
    pub(super) fn subjects(&self) -> Option<Vec<&str>> {
        match self {
            Owned::All => None,
            Owned::Subjects(subjects) => Some(subjects.iter().map(Subject::as_str).collect()),
            Owned::Spans(spans) => Some(spans.keys().map(Subject::as_str).collect()),
        }
    }

    /// When a subject is looked at.
    pub(super) fn of(&self, subject: &str) -> Looked<'_> {
        match self {
            Owned::All => Looked::Always,
            Owned::Subjects(subjects) if subjects.contains(subject) => Looked::Always,
            Owned::Subjects(_) => Looked::Never,
            Owned::Spans(spans) => spans.get(subject).map_or(Looked::Never, |spans| Looked::In(spans)),
        }
    }
}

impl Looked<'_> {
    #[inline]
    pub(super) fn is_at(self, instant: Timestamp) -> bool {
        match self {
            Looked::Never => false,
            Looked::Always => true,
            Looked::In(spans) => {
                let after = spans.partition_point(|span| span.from <= instant);
                after.checked_sub(1).is_some_and(|before| spans[before].contains(instant))
            }
        }
    }
}
