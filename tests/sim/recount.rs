//! What became of every event, recounted from the usage log and the corrections in the control log with naive code.
//!
//! Owns: verdicts, counters, who waits for an owner, what counts in which meter. Leaves to others: bytes of logs
//! (`auditor`), what it costs (`prices`), what was asked for (`corrections`).
//!
//! The order of rules is that of `schemas/wire.md`: refused, known (duplicate, restamped, conflict), too old, future,
//! what a meter cannot take, unmetered, owned or pending. A correction counts from the barrier on that names a later
//! control offset: the event is taken out of whatever it is in, and judged by its new content, by the meters of its old one,
//! whatever its age is and however many events wait. A released one is judged by the meters of its release. Ids are
//! forgotten from the barrier on behind `ids_forgotten`.

use std::collections::BTreeMap;

use domain::Timestamp;
use engine::identity::{IdentityKey, slot_of};
use engine::shard::SourceCounters;
use serde_json::Value;
use wire::verdict::{QuarantineReason, RefusalCode, Verdict};

use crate::actions::{Flaw, OPERATIONS};
use crate::corrections::{Asked, event_id};
use crate::measures::{Used, passes};
use crate::prices::{Known, Meter};
use crate::producers::{Batch, Id, Sent};

/// A record of the usage log, as the auditor reads it.
#[derive(Clone, Debug)]
pub(crate) enum UsageRecord {
    /// A batch that a producer sent.
    Batch { offset: u64, received_at: Timestamp, batch: usize },
    /// A barrier that names an offset of the control log.
    Barrier { offset: u64, control_offset: u64 },
}

/// All that is recounted.
#[derive(Clone, Copy)]
pub(crate) struct Logged<'a> {
    pub(crate) usage: &'a [UsageRecord],
    pub(crate) control: &'a [(u64, Value)],
    pub(crate) batches: &'a [Batch],
    /// What people asked for, by the actor of the record.
    pub(crate) asked: &'a BTreeMap<String, Asked>,
}

/// The first event with an id, as it stands.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// Offset of its batch, and index there.
    pub(crate) place: (u64, u16),
    pub(crate) received_at: Timestamp,
    /// What it says, by the last correction.
    pub(crate) sent: Sent,
    pub(crate) identity: u128,
    /// As it arrived: that is what a repeat is compared with.
    arrived: Sent,
    was_accepted: bool,
    /// So many of the first meters take it.
    meters: usize,
    pub(crate) stands: Stands,
    /// Kind and reason of the last correction.
    pub(crate) corrected: Option<(String, String)>,
}

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stands {
    /// In these meters, or waiting for an owner; its value in halves.
    Counts {
        halves: i64,
        meters: Vec<String>,
    },
    Unmetered,
    SetAside(QuarantineReason),
    TakenBack,
}

/// An event that counts.
#[derive(Clone, Copy)]
pub(crate) struct Counted<'r> {
    pub(crate) sent: &'r Sent,
    /// Offset of its batch, and index there.
    pub(crate) place: (u64, u16),
    pub(crate) identity: u128,
    pub(crate) halves: i64,
    pub(crate) meters: &'r [String],
}

impl Counted<'_> {
    /// What it says to a meter.
    pub(crate) fn used_of(&self, meter: &Meter) -> Used {
        Used {
            time: self.sent.time,
            place: self.place,
            // What has no value counts as one.
            halves: if meter.measure.has_value() { self.halves } else { 2 },
            key: self.sent.labels.key,
            is_removal: meter.measure.may_lose_keys() && self.sent.labels.operation == Some(OPERATIONS[1]),
        }
    }
}

/// The result.
#[derive(Default)]
pub(crate) struct Recount {
    pub(crate) known: Known,
    /// The one that the last barrier names.
    pub(crate) control_offset: u64,
    /// The events that ids name: the last one that is known, or the last one.
    pub(crate) events: BTreeMap<(&'static str, Id), Event>,
    /// Other events with their ids, which were forgotten when the next one came.
    pub(crate) past: Vec<Event>,
    /// Ids before this offset are forgotten, and what was accepted of them is earlier than the instant.
    forgotten: Option<(u64, Timestamp)>,
    /// By offset of the batch and index in it, as events arrived.
    pub(crate) verdicts: BTreeMap<(u64, u16), Verdict>,
    /// Events that are no first ones, and refused ones.
    others: BTreeMap<(&'static str, Verdict), u64>,
}

struct Recounting<'a> {
    key: IdentityKey,
    logged: Logged<'a>,
    control: std::slice::Iter<'a, (u64, Value)>,
    next_control: Option<&'a (u64, Value)>,
    /// The largest `future_max` so far.
    future_max: i64,
    /// Events that wait, by source and slot.
    waiting: BTreeMap<(&'static str, usize), u64>,
    result: Recount,
}

/// How much of the usage log is recounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// All of it.
    End,
    /// Up to the barrier at an offset.
    Barrier(u64),
    /// Records before an offset.
    Before(u64),
}

/// Recounts the usage log.
pub(crate) fn recount(logged: Logged<'_>, key: IdentityKey, until: Until) -> Recount {
    let mut control = logged.control.iter();
    let next_control = control.next();
    let (waiting, result) = (BTreeMap::new(), Recount::default());
    let mut recounting = Recounting { key, logged, control, next_control, future_max: 0, waiting, result };
    for record in logged.usage {
        let (UsageRecord::Barrier { offset, .. } | UsageRecord::Batch { offset, .. }) = record;
        if matches!(until, Until::Before(before) if *offset >= before) {
            break;
        }
        match record {
            UsageRecord::Barrier { offset, control_offset } => {
                recounting.take_barrier(*control_offset);
                if until == Until::Barrier(*offset) {
                    return recounting.result;
                }
            }
            UsageRecord::Batch { offset, received_at, batch } => {
                recounting.take_batch(*offset, *received_at, *batch);
            }
        }
    }
    assert!(!matches!(until, Until::Barrier(_)), "the log has the barrier of a cut");
    recounting.result
}

impl<'a> Recounting<'a> {
    fn take_barrier(&mut self, control_offset: u64) {
        self.result.control_offset = control_offset;
        while let Some((_, record)) = self.next_control.filter(|(offset, _)| *offset < control_offset) {
            self.result.known.apply(record);
            let kind = record["record"].as_str().and_then(|record| record.strip_prefix("event_"));
            if let Some(kind) = kind {
                self.correct(kind, record);
            }
            self.future_max = self.future_max.max(self.result.known.future_max);
            if record["record"] == "ids_forgotten" {
                self.forget(record);
            }
            self.next_control = self.control.next();
        }
        self.result.name_what_is_known();
        self.waiting.clear();
        for event in self.result.counted() {
            if self.result.known.owner_at(event.sent.subject, event.sent.time).is_none() {
                let place = (event.sent.source, slot_of(event.identity));
                *self.waiting.entry(place).or_default() += 1;
            }
        }
    }

    fn forget(&mut self, record: &Value) {
        let before = record["before"].as_u64().expect("an offset");
        let until: Timestamp = serde_json::from_value(record["arrived_until"].clone()).expect("an instant");
        for logged in self.logged.usage {
            if let UsageRecord::Batch { offset, received_at, .. } = logged {
                assert!(
                    *offset >= before || *received_at <= until,
                    "usage that is forgotten arrived by then"
                );
            }
        }
        assert!(self.result.forgotten.is_none_or(|(last, _)| last < before), "a place goes on");
        let by_arrival = until.plus(self.future_max + 1);
        let happened: Option<Timestamp> =
            serde_json::from_value(record["happened_until"].clone()).expect("an instant, or nothing");
        let last = self.result.forgotten.map_or(Timestamp::MIN, |(_, proven_from)| proven_from);
        let proven_from = happened.map_or(by_arrival, |happened| by_arrival.min(happened.plus(1))).max(last);
        self.result.forgotten = Some((before, proven_from));
        for event in self.result.events.values().chain(&self.result.past) {
            let is_forgotten = event.place.0 < before && !self.result.is_known(event);
            assert!(!is_forgotten || event.sent.time < proven_from, "what is forgotten happened before");
        }
    }

    fn correct(&mut self, kind: &str, record: &Value) {
        let text = |field: &str| record[field].as_str().expect("a text");
        let asked = &self.logged.asked[text("actor")];
        assert_eq!((text("source"), text("id")), (asked.source, event_id(&asked.id).to_string().as_str()));
        let Recount { known, events, past, .. } = &mut self.result;
        let named = events.get_mut(&(asked.source, asked.id.clone())).into_iter();
        // One with its id may have come while the correction was under way.
        let is_meant = |event: &&mut Event| {
            (record["offset"].as_u64(), record["index"].as_u64())
                == (Some(event.place.0), Some(event.place.1.into()))
        };
        let event = named.chain(past.iter_mut().rev()).find(is_meant);
        let event = event.expect("only what arrived is corrected");
        assert_eq!((event.sent.source, &event.sent.id), (asked.source, &asked.id));
        assert_ne!(event.stands, Stands::TakenBack, "what was taken back is not corrected");
        assert_eq!(kind, asked.kind(), "what was asked for is recorded");
        match kind {
            "void" | "discard" => event.stands = Stands::TakenBack,
            _ => {
                event.sent = asked.applied_to(&event.sent);
                if kind == "release" {
                    event.meters = known.meters.len();
                }
                event.stands = stands_of(&event.sent, &known.meters[..event.meters]);
            }
        }
        event.corrected = Some((kind.to_string(), text("reason").to_string()));
    }

    fn take_batch(&mut self, offset: u64, received_at: Timestamp, batch: usize) {
        let batches = self.logged.batches;
        for (index, sent) in batches[batch].events.iter().enumerate() {
            let place = (offset, index as u16);
            let verdict = self.verdict_of(sent, received_at, place);
            self.result.verdicts.insert(place, verdict);
        }
    }

    fn verdict_of(&mut self, sent: &'a Sent, received_at: Timestamp, place: (u64, u16)) -> Verdict {
        if let Some((verdict, told)) = self.other(sent) {
            *self.result.others.entry((sent.source, verdict)).or_default() += 1;
            return told;
        }
        let known = &self.result.known;
        let identity = identity_of(self.key, sent);
        let is_early = self.result.forgotten.is_some_and(|(_, proven_from)| sent.time < proven_from);
        let is_proven = !matches!(sent.id, Id::Given(_)) || !is_early;
        let (verdict, stands) = if sent.time < received_at.plus(-known.horizon) || !is_proven {
            set_aside(QuarantineReason::TooOld)
        } else if sent.time > received_at.plus(known.future_max) {
            set_aside(QuarantineReason::Future)
        } else {
            match stands_of(sent, &known.meters) {
                Stands::SetAside(reason) => set_aside(reason),
                Stands::Counts { .. } if known.owner_at(sent.subject, sent.time).is_none() => {
                    let waiting = self.waiting.entry((sent.source, slot_of(identity))).or_default();
                    if *waiting >= known.pending_per_slot_max {
                        set_aside(QuarantineReason::PendingFull)
                    } else {
                        *waiting += 1;
                        (Verdict::Pending, stands_of(sent, &known.meters))
                    }
                }
                stands @ Stands::Counts { .. } => (Verdict::Accepted, stands),
                stands => (Verdict::Unmetered, stands),
            }
        };
        let (arrived, meters) = (sent.clone(), known.meters.len());
        let id = (sent.source, sent.id.clone());
        let event = Event {
            place,
            received_at,
            sent: sent.clone(),
            identity,
            arrived,
            was_accepted: !matches!(stands, Stands::SetAside(_)),
            meters,
            stands,
            corrected: None,
        };
        self.result.past.extend(self.result.events.insert(id, event));
        verdict
    }

    /// The verdict of an event that is refused, or not the first with its id, and what its sender is told: of a repeat of
    /// an event that is set aside, why that one is.
    fn other(&self, sent: &Sent) -> Option<(Verdict, Verdict)> {
        if let Some(refusal) = refusal_of(sent) {
            return Some((Verdict::Rejected(refusal), Verdict::Rejected(refusal)));
        }
        let event = self.result.events.get(&(sent.source, sent.id.clone()))?;
        let first = self.result.is_known(event).then_some(&event.arrived)?;
        let verdict = match (is_same_content(first, sent), first.time == sent.time) {
            (false, _) => return Some((Verdict::Conflict, Verdict::Conflict)),
            (true, false) => Verdict::DuplicateRestamped,
            (true, true) => Verdict::Duplicate,
        };
        Some(match event.stands {
            Stands::SetAside(reason) => (verdict, Verdict::Quarantined(reason)),
            _ => (verdict, verdict),
        })
    }
}

fn set_aside(reason: QuarantineReason) -> (Verdict, Stands) {
    (Verdict::Quarantined(reason), Stands::SetAside(reason))
}

/// What meters make of content: its value in halves, and which of them count it.
fn stands_of(sent: &Sent, known: &[Meter]) -> Stands {
    let mut halves = halves_of(sent);
    let mut meters = Vec::new();
    for meter in known {
        if sent.event_type != "call" || !passes(&meter.filter, sent) {
            continue;
        }
        if meter.measure.has_key() && sent.labels.key.is_none() {
            return Stands::SetAside(QuarantineReason::MissingValue);
        }
        if meter.measure.has_value() {
            match (sent.flaw, halves) {
                (Flaw::Fine, _) => return Stands::SetAside(QuarantineReason::ValueScale),
                (Flaw::Huge, _) => return Stands::SetAside(QuarantineReason::ValueRange),
                (_, None) => return Stands::SetAside(QuarantineReason::MissingValue),
                (_, Some(value)) if value < 0 && meter.negative == "reject" => {
                    return Stands::SetAside(QuarantineReason::NegativeUsage);
                }
                (_, Some(value)) if value < 0 && meter.negative == "zero" => halves = Some(0),
                _ => {}
            }
        }
        meters.push(meter.id.clone());
    }
    if meters.is_empty() { Stands::Unmetered } else { Stands::Counts { halves: halves.unwrap_or(0), meters } }
}

impl Recount {
    /// An id is forgotten if its event was accepted and nobody corrected it.
    fn is_known(&self, event: &Event) -> bool {
        let may_be_forgotten = matches!(event.sent.id, Id::Given(_)) && event.was_accepted;
        let is_before = self.forgotten.is_some_and(|(before, _)| event.place.0 < before);
        !may_be_forgotten || !is_before || event.corrected.is_some()
    }

    /// An id names the last of its events that is known.
    fn name_what_is_known(&mut self) {
        for at in 0..self.past.len() {
            let id = (self.past[at].sent.source, self.past[at].sent.id.clone());
            let named = &self.events[&id];
            let is_later = self.past[at].place > named.place;
            if self.is_known(&self.past[at]) && (is_later || !self.is_known(named)) {
                let event = self.past[at].clone();
                self.past[at] = self.events.insert(id, event).expect("an id names an event");
            }
        }
    }

    /// Whether an earlier event with the id counts of an event that was set aside.
    pub(crate) fn has_counted_before(&self, event: &Event) -> bool {
        let counts = |earlier: &Event| matches!(earlier.stands, Stands::Counts { .. } | Stands::Unmetered);
        let is_earlier = |earlier: &&Event| earlier.identity == event.identity && earlier.place < event.place;
        let is_set_aside = matches!(event.stands, Stands::SetAside(_));
        is_set_aside && self.past.iter().filter(is_earlier).any(counts)
    }

    fn all(&self) -> impl Iterator<Item = &Event> {
        self.events.values().chain(&self.past)
    }

    /// However often an event came, it counts once.
    pub(crate) fn assert_nothing_counts_twice(&self) {
        let mut found = std::collections::BTreeSet::new();
        for event in self.all().filter(|event| matches!(event.stands, Stands::Counts { .. })) {
            let is_first = found.insert((event.identity, event.arrived.time));
            assert!(is_first, "{:?} counts twice", event.arrived);
        }
    }

    /// Events that count, owned or waiting.
    pub(crate) fn counted(&self) -> Vec<Counted<'_>> {
        let counted = self.all().filter_map(|event| match &event.stands {
            Stands::Counts { halves, meters } => {
                let Event { sent, place, identity, .. } = event;
                Some(Counted { sent, place: *place, identity: *identity, halves: *halves, meters })
            }
            _ => None,
        });
        counted.collect()
    }

    /// Whether an event that counts waits for an owner.
    pub(crate) fn is_waiting(&self, sent: &Sent) -> bool {
        self.known.owner_at(sent.subject, sent.time).is_none()
    }

    /// Counters of a source.
    pub(crate) fn counters(&self) -> BTreeMap<&'static str, SourceCounters> {
        let mut counters: BTreeMap<&'static str, SourceCounters> = BTreeMap::new();
        for ((source, verdict), count) in &self.others {
            for _ in 0..*count {
                counters.entry(source).or_default().count(*verdict);
            }
        }
        for event in self.all() {
            let counters = counters.entry(event.sent.source).or_default();
            match &event.stands {
                Stands::Counts { .. } if self.is_waiting(&event.sent) => counters.pending += 1,
                Stands::Counts { .. } => counters.metered += 1,
                Stands::Unmetered => counters.unmetered += 1,
                Stands::SetAside(reason) => counters.count(Verdict::Quarantined(*reason)),
                Stands::TakenBack => counters.voided += 1,
            }
        }
        counters
    }

    /// Place and wire code of everything that is set aside, in the order of the log: conflicts, and what stands in
    /// quarantine.
    pub(crate) fn set_aside(&self) -> Vec<(u64, u16, u8)> {
        let conflicts = self.verdicts.iter().filter(|(_, verdict)| **verdict == Verdict::Conflict);
        let conflicts = conflicts.map(|(place, verdict)| (place.0, place.1, verdict.code()));
        let quarantined = self.all().filter_map(|event| match event.stands {
            Stands::SetAside(reason) => {
                Some((event.place.0, event.place.1, Verdict::Quarantined(reason).code()))
            }
            _ => None,
        });
        let mut all: Vec<_> = conflicts.chain(quarantined).collect();
        all.sort_unstable();
        all
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

pub(crate) fn is_same_content(first: &Sent, again: &Sent) -> bool {
    let content = |sent: &Sent| (sent.event_type, sent.subject, number(sent.value), sent.labels);
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
