//! Compiles the catalog into the metering plan that the engine executes.
//!
//! Owns: meters to programs, ownership over time to owned spans. Leaves to others: executing it (`engine::shard`).
//!
//! Invariants:
//! - The plan is a function of the catalog, the policy and what is forgotten.
//! - Programs stand in the order in which their meters were created, so that their indexes never change.
//! - What did not change since the previous plan is shared with it, so that a barrier costs what changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use billing::catalog::{self, Catalog};
use domain::plan::{
    Condition, Forgotten, MeterProgram, MeteringPlan, NegativeUsage, OwnedSpan, Policy, SubjectPlan,
};
use domain::{MeterId, Span, SubscriptionId};
use wire::control::PolicyRecord;

use crate::owners::{ActiveSpan, Schedules, active_spans, pieces_between_grants};

/// Compiles the plan.
pub(crate) fn compile(
    catalog: &Catalog,
    policy: &PolicyRecord,
    control_offset: u64,
    forgotten: Forgotten,
    previous: &MeteringPlan,
) -> Arc<MeteringPlan> {
    let mut meters: Vec<(u64, &catalog::Meter)> = catalog.meters().collect();
    meters.sort_by_key(|(created, _)| *created);
    let programs = meters.into_iter().map(|(created, meter)| program_of(created, meter)).collect();
    let mut schedules = Schedules::default();
    let mut active: BTreeMap<SubscriptionId, Vec<ActiveSpan>> = BTreeMap::new();
    let subjects = catalog
        .subjects()
        .map(|(subject, timeline)| {
            let mut spans = Vec::new();
            for (bound, binding) in timeline.spans() {
                let account = catalog.subscription(&binding.subscription).map(|s| s.account().clone());
                let account = account.expect("the catalog refuses bindings to unknown subscriptions");
                let active = active
                    .entry(binding.subscription.clone())
                    .or_insert_with(|| active_spans(catalog, &binding.subscription));
                for active in active.iter().filter(|active| active.span.overlaps(bound)) {
                    let span =
                        Span::new(active.span.from.max(bound.from), active.span.until.min(bound.until));
                    let schedule = schedules.of(catalog, &active.plan, &account);
                    let pieces = pieces_between_grants(catalog, &account, span).into_iter();
                    spans.extend(pieces.map(|span| OwnedSpan { span, schedule: schedule.clone() }));
                }
            }
            let plan = SubjectPlan { spans };
            let shared = previous.subjects.get(subject).filter(|shared| ***shared == plan).cloned();
            (subject.clone(), shared.unwrap_or_else(|| Arc::new(plan)))
        })
        .collect();
    Arc::new(MeteringPlan {
        control_offset,
        programs,
        subjects,
        policy: Policy {
            horizon: policy.horizon,
            future_max: policy.future_max,
            pending_per_slot_max: policy.pending_per_slot_max,
        },
        forgotten,
    })
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
