//! What became of every event, recounted from the usage log with naive code.
//!
//! Owns: verdicts, counters, who waits for an owner, what counts in which meter. Leaves to others: bytes of logs
//! (`auditor`), what it costs (`prices`).
//!
//! The order of rules is that of `schemas/wire.md`: refused, known (duplicate, restamped, conflict), too old, future,
//! what a meter cannot take, unmetered, owned or pending.

use std::collections::BTreeMap;

use domain::Timestamp;
use engine::identity::{IdentityKey, slot_of};
use engine::shard::SourceCounters;
use serde_json::Value;
use wire::verdict::{QuarantineReason, RefusalCode, Verdict};

use crate::actions::Flaw;
use crate::prices::Known;
use crate::producers::{Batch, Id, Sent};

/// A record of the usage log, as the auditor reads it.
#[derive(Clone, Debug)]
pub(crate) enum UsageRecord {
    /// A batch that a producer sent.
    Batch { offset: u64, received_at: Timestamp, batch: usize },
    /// A barrier that names an offset of the control log.
    Barrier { offset: u64, control_offset: u64 },
}

/// An event that counts.
pub(crate) struct Counted {
    pub(crate) sent: Sent,
    pub(crate) identity: u128,
    pub(crate) halves: i64,
    pub(crate) meters: Vec<String>,
}

/// The result.
pub(crate) struct Recount {
    pub(crate) known: Known,
    pub(crate) counted: Vec<Counted>,
    /// By offset of the batch and index in it.
    pub(crate) verdicts: BTreeMap<(u64, u16), Verdict>,
    /// Of all but counted events.
    not_counted: BTreeMap<(&'static str, Verdict), u64>,
}

struct Recounting<'a> {
    key: IdentityKey,
    batches: &'a [Batch],
    control: std::slice::Iter<'a, (u64, Value)>,
    next_control: Option<&'a (u64, Value)>,
    seen: BTreeMap<(&'static str, &'a Id), &'a Sent>,
    /// Events that wait, by source and slot.
    waiting: BTreeMap<(&'static str, usize), u64>,
    result: Recount,
}

/// Recounts the usage log, all of it or up to the barrier at an offset.
pub(crate) fn recount(
    usage: &[UsageRecord],
    control: &[(u64, Value)],
    batches: &[Batch],
    key: IdentityKey,
    until: Option<u64>,
) -> Recount {
    let mut control = control.iter();
    let next_control = control.next();
    let result = Recount {
        known: Known::default(),
        counted: Vec::new(),
        verdicts: BTreeMap::new(),
        not_counted: BTreeMap::new(),
    };
    let (seen, waiting) = (BTreeMap::new(), BTreeMap::new());
    let mut recounting = Recounting { key, batches, control, next_control, seen, waiting, result };
    for record in usage {
        match record {
            UsageRecord::Barrier { offset, control_offset } => {
                recounting.take_barrier(*control_offset);
                if until == Some(*offset) {
                    return recounting.result;
                }
            }
            UsageRecord::Batch { offset, received_at, batch } => {
                recounting.take_batch(*offset, *received_at, *batch);
            }
        }
    }
    assert_eq!(until, None, "the log has the barrier of a cut");
    recounting.result
}

impl<'a> Recounting<'a> {
    fn take_barrier(&mut self, control_offset: u64) {
        while let Some((_, record)) = self.next_control.filter(|(offset, _)| *offset < control_offset) {
            self.result.known.apply(record);
            self.next_control = self.control.next();
        }
        self.waiting.clear();
        for event in &self.result.counted {
            if self.result.known.owner_at(event.sent.subject, event.sent.time).is_none() {
                let place = (event.sent.source, slot_of(event.identity));
                *self.waiting.entry(place).or_default() += 1;
            }
        }
    }

    fn take_batch(&mut self, offset: u64, received_at: Timestamp, batch: usize) {
        let batches = self.batches;
        for (index, sent) in batches[batch].events.iter().enumerate() {
            let verdict = self.verdict_of(sent, received_at);
            self.result.verdicts.insert((offset, index as u16), verdict);
            if !matches!(verdict, Verdict::Accepted | Verdict::Pending) {
                *self.result.not_counted.entry((sent.source, verdict)).or_default() += 1;
            }
        }
    }

    fn verdict_of(&mut self, sent: &'a Sent, received_at: Timestamp) -> Verdict {
        if let Some(refusal) = refusal_of(sent) {
            return Verdict::Rejected(refusal);
        }
        if let Some(first) = self.seen.get(&(sent.source, &sent.id)) {
            return match (is_same_content(first, sent), first.time == sent.time) {
                (false, _) => Verdict::Conflict,
                (true, false) => Verdict::DuplicateRestamped,
                (true, true) => Verdict::Duplicate,
            };
        }
        self.seen.insert((sent.source, &sent.id), sent);
        let known = &self.result.known;
        if sent.time < received_at.plus(-known.horizon) {
            return Verdict::Quarantined(QuarantineReason::TooOld);
        }
        if sent.time > received_at.plus(known.future_max) {
            return Verdict::Quarantined(QuarantineReason::Future);
        }
        let (halves, meters) = match self.measured(sent) {
            Err(reason) => return Verdict::Quarantined(reason),
            Ok((_, meters)) if meters.is_empty() => return Verdict::Unmetered,
            Ok(measured) => measured,
        };
        let identity = identity_of(self.key, sent);
        let verdict = if known.owner_at(sent.subject, sent.time).is_some() {
            Verdict::Accepted
        } else {
            let waiting = self.waiting.entry((sent.source, slot_of(identity))).or_default();
            if *waiting >= known.pending_per_slot_max {
                return Verdict::Quarantined(QuarantineReason::PendingFull);
            }
            *waiting += 1;
            Verdict::Pending
        };
        self.result.counted.push(Counted { sent: sent.clone(), identity, halves, meters });
        verdict
    }

    /// What the meters of the last barrier make of an event: its value in halves, and which of them count it.
    fn measured(&self, sent: &Sent) -> Result<(i64, Vec<String>), QuarantineReason> {
        let mut halves = halves_of(sent);
        let mut taken = Vec::new();
        for meter in &self.result.known.meters {
            let passes = meter.filter.as_ref().is_none_or(|wanted| sent.group == Some(wanted));
            if sent.event_type != "call" || !passes {
                continue;
            }
            if meter.is_sum {
                match (sent.flaw, halves) {
                    (Flaw::Fine, _) => return Err(QuarantineReason::ValueScale),
                    (Flaw::Huge, _) => return Err(QuarantineReason::ValueRange),
                    (_, None) => return Err(QuarantineReason::MissingValue),
                    (_, Some(value)) if value < 0 && meter.negative == "reject" => {
                        return Err(QuarantineReason::NegativeUsage);
                    }
                    (_, Some(value)) if value < 0 && meter.negative == "zero" => halves = Some(0),
                    _ => {}
                }
            }
            taken.push(meter.id.clone());
        }
        Ok((halves.unwrap_or(0), taken))
    }
}

impl Recount {
    /// Counters of a source.
    pub(crate) fn counters(&self) -> BTreeMap<&'static str, SourceCounters> {
        let mut counters: BTreeMap<&'static str, SourceCounters> = BTreeMap::new();
        for ((source, verdict), count) in &self.not_counted {
            for _ in 0..*count {
                counters.entry(source).or_default().count(*verdict);
            }
        }
        for event in &self.counted {
            let is_owned = self.known.owner_at(event.sent.subject, event.sent.time).is_some();
            let verdict = if is_owned { Verdict::Accepted } else { Verdict::Pending };
            counters.entry(event.sent.source).or_default().count(verdict);
        }
        counters
    }
}

fn refusal_of(sent: &Sent) -> Option<RefusalCode> {
    if sent.flaw == Flaw::NoSubject {
        return Some(RefusalCode::SubjectMustFit);
    }
    if sent.time < Timestamp::MIN {
        return Some(RefusalCode::TimeMustBeInRange);
    }
    (sent.flaw == Flaw::LongText).then_some(RefusalCode::DimensionMustFit)
}

fn is_same_content(first: &Sent, again: &Sent) -> bool {
    let content = |sent: &Sent| (sent.event_type, sent.subject, number(sent.value), sent.group);
    content(first) == content(again)
}

/// A value without trailing zeros.
fn number(value: Option<(i128, u8)>) -> Option<(i128, u8)> {
    let (mut mantissa, mut scale) = value?;
    while scale > 0 && mantissa % 10 == 0 {
        (mantissa, scale) = (mantissa / 10, scale - 1);
    }
    Some((mantissa, scale))
}

fn halves_of(sent: &Sent) -> Option<i64> {
    let (mantissa, scale) = sent.value.filter(|_| !matches!(sent.flaw, Flaw::Fine | Flaw::Huge))?;
    Some((mantissa / (5 * 10i128.pow(u32::from(scale) - 1))) as i64)
}

fn identity_of(key: IdentityKey, sent: &Sent) -> u128 {
    let source = key.of_source(sent.source);
    match &sent.id {
        Id::Given(id) => source.identity_of_bytes(id.as_bytes()),
        Id::Sequenced(epoch, sequence) => source.identity_of_sequence(*epoch, *sequence),
    }
}
