//! Batches for benches: "64-byte events" of a thousand subjects, and the plan that meters them.
//!
//! Owns: what an event of a bench is. Leaves to others: what is measured.

use std::sync::Arc;

use domain::plan::{
    Aggregation, MeterProgram, MeteringPlan, NegativeUsage, OwnedSpan, Schedule, SubjectPlan,
};
use domain::{MeterId, Span, Subject, Timestamp, Zone};
use wire::{AlignedBytes, BatchBuilder};

/// Events of a batch.
pub(crate) const EVENTS: u64 = 4_096;
/// Subjects of all events.
pub(crate) const SUBJECTS: usize = 1_000;

/// The time of the first event.
pub(crate) fn start() -> Timestamp {
    Timestamp::parse("2026-01-15T00:00:00Z").expect("a constant instant")
}

/// Names of the subjects.
pub(crate) fn subjects() -> Vec<String> {
    (0..SUBJECTS).map(|number| format!("key-{number:06}")).collect()
}

/// A batch of "64-byte events": a 16-character id, a subject, a time, one value, two dimensions.
pub(crate) fn frame(builder: &mut BatchBuilder, subjects: &[String], first: u64) -> AlignedBytes {
    for number in first..first + EVENTS {
        let id = if builder.next_sequence().is_some() { String::new() } else { format!("{number:016x}") };
        let subject = &subjects[(number.wrapping_mul(2_654_435_761) % SUBJECTS as u64) as usize];
        let value = [("units", i128::from(number % 99_999), 2)];
        let dimensions = [("model", if number % 3 == 0 { "large" } else { "small" }), ("region", "eu")];
        let time = start().nanoseconds() + number as i64;
        builder.push_parts(id.as_bytes(), subject, time, &value, &dimensions).expect("the batch has room");
    }
    builder.finish(first + 1, 0)
}

/// One meter, and months for every subject.
pub(crate) fn plan(subjects: &[String]) -> Arc<MeteringPlan> {
    let schedule = Arc::new(Schedule::new(Zone::utc().month_starts()));
    let owned = OwnedSpan { span: Span::new(Timestamp::MIN, Timestamp::END), schedule };
    let subject_plan = Arc::new(SubjectPlan { spans: vec![owned] });
    let subjects = subjects
        .iter()
        .map(|subject| (Subject::new(subject).expect("a short subject"), subject_plan.clone()))
        .collect();
    let program = MeterProgram {
        meter: MeterId::new("units").expect("an id"),
        event_type: "usage".into(),
        aggregation: Aggregation::Sum,
        value: Some("units".into()),
        key: None,
        operation: None,
        group_by: vec!["model".into()],
        filter: Vec::new(),
        scale: 18,
        negative_usage: NegativeUsage::Reject,
        since_control_offset: 0,
    };
    Arc::new(MeteringPlan { programs: vec![program], subjects, ..MeteringPlan::default() })
}
