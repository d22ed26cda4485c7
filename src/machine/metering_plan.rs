//! Compiles the catalog into the metering plan that the engine executes.
//!
//! Owns: meters to programs, ownership over time to owned spans. Leaves to others: executing it (`engine::shard`).
//!
//! Invariants:
//! - All of the plan but what it says that changed is a function of the catalog, the policy and what is forgotten.
//! - Programs stand in the order in which their meters were created, so that their indexes never change.
//! - What did not change since the previous plan is shared with it, and a plan says what did, so that a barrier costs what
//!   changed and not how many subjects there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use billing::catalog::{self, Catalog, Resource, SubscriptionTimeline};
use domain::plan::{
    Condition, MeterProgram, MeteringPlan, NegativeUsage, OwnedSpan, PlanChanges, Policy, SubjectPlan,
};
use domain::time::BillingUnit;
use domain::{MeterId, Span, Subject, SubscriptionId};

use crate::control::ControlState;
use crate::owners::{ActiveSpan, Schedules, active_spans, pieces_between_grants};

/// What of the catalog changed since the plan before.
#[derive(Debug, Default)]
pub(crate) struct Replan {
    /// Whether there is anything to compile.
    pub(crate) is_due: bool,
    /// Subjects whose owned spans may be others.
    subjects: BTreeSet<Subject>,
    /// Whether a plan may cut its slices elsewhere.
    has_new_bounds: bool,
}

impl Replan {
    /// Notes what a resource changes, once the catalog has it.
    pub(crate) fn note(&mut self, catalog: &Catalog, resource: &Resource) {
        self.is_due = true;
        let subjects = &mut self.subjects;
        let mut note = |subscription| {
            subjects.extend(catalog.subjects_of_subscription(subscription).cloned());
        };
        match resource {
            // Zone and legal entity of an account never change, and a new one has no subjects.
            Resource::Entity(_) | Resource::Meter(_) | Resource::Plan(_) | Resource::Account(_) => {}
            Resource::Commitment(_) | Resource::Discount(_) => {}
            Resource::Price(price) => {
                // Calendar months cut slices anyway, and windows cut them once they have a price.
                let is_new = catalog.price(&price.id).is_some_and(|timeline| timeline.versions().len() == 1);
                let has_dates = price.effective_from.is_some();
                let has_windows = is_new && price.window != BillingUnit::Month;
                let is_cut =
                    |s: &&SubscriptionTimeline| has_dates || has_windows || (is_new && s.anchor().is_some());
                if has_dates || is_new {
                    for subscription in catalog.subscriptions_of_plan(&price.plan).filter(is_cut) {
                        note(subscription.id());
                    }
                    self.has_new_bounds = true;
                }
            }
            Resource::Subscription(subscription) => note(&subscription.id),
            Resource::Grant(grant) => {
                for account in catalog.accounts_of_pool(&grant.account) {
                    catalog.subscriptions_of_account(account).for_each(|s| note(s.id()));
                }
            }
            Resource::Subject(binding) => {
                subjects.insert(binding.id.clone());
            }
        }
    }
}

/// Compiles the plan that follows `previous`; `schedules` are those of the plan before.
pub(crate) fn compile(
    control: &ControlState,
    control_offset: u64,
    previous: &MeteringPlan,
    replan: Replan,
    schedules: &mut Schedules,
) -> Arc<MeteringPlan> {
    let (catalog, policy) = (control.catalog(), control.policy());
    let mut meters: Vec<(u64, &catalog::Meter)> = catalog.meters().collect();
    meters.sort_by_key(|(created, _)| *created);
    let programs = meters.into_iter().map(|(created, meter)| program_of(created, meter)).collect();
    if replan.has_new_bounds {
        *schedules = Schedules::default();
    }
    let mut active: BTreeMap<&SubscriptionId, Vec<ActiveSpan>> = BTreeMap::new();
    let mut subjects = previous.subjects.clone();
    let mut changed = Vec::new();
    for subject in replan.subjects {
        let timeline = catalog.subject(subject.as_str()).expect("a noted subject is in the catalog");
        let mut spans = Vec::new();
        for (bound, binding) in timeline.spans() {
            let account = catalog.subscription(&binding.subscription).map(|s| s.account().clone());
            let account = account.expect("the catalog refuses bindings to unknown subscriptions");
            let active = active
                .entry(&binding.subscription)
                .or_insert_with(|| active_spans(catalog, &binding.subscription));
            for active in active.iter().filter(|active| active.span.overlaps(bound)) {
                let span = Span::new(active.span.from.max(bound.from), active.span.until.min(bound.until));
                let schedule = schedules.of(catalog, active, &account);
                let pieces = pieces_between_grants(catalog, &account, span).into_iter();
                spans.extend(pieces.map(|span| OwnedSpan { span, schedule: schedule.clone() }));
            }
        }
        let plan = SubjectPlan { spans };
        if previous.subjects.get(&subject).is_none_or(|before| **before != plan) {
            subjects.insert_mut(subject.clone(), Arc::new(plan));
            changed.push(subject);
        }
    }
    Arc::new(MeteringPlan {
        control_offset,
        programs,
        subjects,
        changes: Some(PlanChanges { since: previous.control_offset, subjects: changed }),
        policy: Policy {
            horizon: policy.horizon,
            future_max: policy.future_max,
            pending_per_slot_max: policy.pending_per_slot_max,
        },
        forgotten: control.forgotten_ids(),
    })
}

/// The plan that would follow `previous`, if it changes anything for subjects that are in that one.
pub(crate) fn refolding(
    control: &ControlState,
    previous: &MeteringPlan,
    replan: Replan,
) -> Option<Arc<MeteringPlan>> {
    let subjects: BTreeSet<Subject> =
        replan.subjects.into_iter().filter(|subject| previous.subjects.contains_key(subject)).collect();
    if subjects.is_empty() {
        return None;
    }
    let replan = Replan { subjects, ..replan };
    let plan = compile(control, previous.control_offset, previous, replan, &mut Schedules::default());
    plan.changes.as_ref().is_some_and(|changes| !changes.subjects.is_empty()).then_some(plan)
}

/// The plan of all that the control log said, as if there were none before.
pub(crate) fn compile_whole(control: &ControlState) -> Arc<MeteringPlan> {
    let subjects = control.catalog().subjects().map(|(subject, _)| subject.clone()).collect();
    let whole = Replan { subjects, ..Replan::default() };
    compile(control, 0, &MeteringPlan::default(), whole, &mut Schedules::default())
}

/// Index of a meter's program in the plan.
pub(crate) fn program_index(plan: &MeteringPlan, meter: &MeterId) -> Option<u32> {
    plan.programs.iter().position(|program| program.meter == *meter).map(|index| index as u32)
}

/// A meter as the engine executes it; `created` is the control offset of its record.
pub(crate) fn program_of(created: u64, meter: &catalog::Meter) -> MeterProgram {
    MeterProgram {
        meter: meter.id.clone(),
        event_type: meter.event_type.as_str().into(),
        aggregation: meter.measure(),
        value: meter.value.as_deref().map(Arc::from),
        key: meter.key.as_deref().map(Arc::from),
        operation: meter.operation.as_deref().map(Arc::from),
        group_by: meter.group_by.iter().map(|name| name.as_str().into()).collect(),
        filter: meter
            .filter
            .iter()
            .flat_map(|(name, test)| {
                let dimension: Arc<str> = name.as_str().into();
                test.tests().into_iter().map(move |test| Condition { dimension: dimension.clone(), test })
            })
            .collect(),
        scale: meter.measured_scale(),
        negative_usage: match meter.negative_usage {
            catalog::NegativeUsage::Reject => NegativeUsage::Reject,
            catalog::NegativeUsage::Zero => NegativeUsage::Zero,
            catalog::NegativeUsage::Signed => NegativeUsage::Signed,
        },
        since_control_offset: created,
    }
}
