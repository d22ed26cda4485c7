//! Corrections of single events: which a person may make, and what the control log says of them.
//!
//! Owns: the rules of void, amend, release and discard; which corrections the next barrier brings; what a count of the log
//! as of a control state leaves out and adds.
//! Leaves to others: what a correction changes in a shard (`engine::shard`), finding events (the caller), records
//! (`wire::correction`).
//!
//! Invariants:
//! - A correction counts from the first barrier on that names the control log behind it; a query as of an earlier one
//!   does not see it.
//! - What counts instead of an event follows from its last correction and the meters alone.
//! - A void is the last correction of its event.
//! - A correction that was made before, with the same content and reason, makes no record.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use domain::plan::{CellClass, MeterProgram, MeteringPlan};
use domain::{Decimal, EventPosition, Subject, Timestamp};
use engine::identity::{EventName, IdentityKey};
use engine::prepared::PreparedBatch;
use engine::shard::recount::is_metered;
use engine::shard::{Change, Correction, EventStanding, FoundEvent};
use wire::AlignedBytes;
use wire::control::ControlRecord;
use wire::correction::{ContentStatus, EventContent, EventRestated, EventTakenBack, REASON_BYTES_MAX};
use wire::event::EventIdOwned;
use wire::frame::decode_frame;
use wire::usage::UsageBatch;
use wire::verdict::QuarantineReason;

use crate::control::ControlState;
use crate::machine::Machine;
use crate::replay::History;
use crate::usage_log::UsageRecordError;

/// What a person asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CorrectionKind {
    /// The event counts no more, whatever became of it.
    Void,
    /// The event counts with other content.
    Amend(Amendment),
    /// The event, which was set aside, is judged again, but not by its age.
    Release,
    /// The event, which was set aside, stays so for good.
    Discard,
}

impl CorrectionKind {
    /// The word in paths and answers.
    pub fn as_str(&self) -> &'static str {
        match self {
            CorrectionKind::Void => "void",
            CorrectionKind::Amend(_) => "amend",
            CorrectionKind::Release => "release",
            CorrectionKind::Discard => "discard",
        }
    }
}

/// What is to replace the content of an event; what is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Amendment {
    /// Another subject.
    pub subject: Option<String>,
    /// Another time.
    pub time: Option<Timestamp>,
    /// All values.
    pub values: Option<BTreeMap<String, Decimal>>,
    /// All dimensions.
    pub dimensions: Option<BTreeMap<String, String>>,
}

/// A correction that a person asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CorrectionRequest {
    /// Source of the event.
    pub source: String,
    /// Its id.
    pub id: EventIdOwned,
    /// What is asked for.
    pub kind: CorrectionKind,
    /// Who asks.
    pub actor: String,
    /// Why.
    pub reason: String,
}

/// The event that a correction is about, as the usage log and its shard know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownEvent {
    /// What it said when it arrived.
    pub content: EventContent,
    /// When it arrived.
    pub received_at: Timestamp,
    /// Where it stands.
    pub found: FoundEvent,
}

impl Machine {
    /// Subjects whose usage a correction of an event reads again from the log, all of it: what they have of a meter that keeps more
    /// than sums is folded anew.
    pub fn folded_again_by(&self, request: &CorrectionRequest, known: &KnownEvent) -> BTreeSet<Subject> {
        let event_type = &*known.content.event_type;
        let is_folded = |program: &MeterProgram| {
            &*program.event_type == event_type && program.aggregation.class() != CellClass::Additive
        };
        if !self.plan().programs.iter().any(is_folded) {
            return BTreeSet::new();
        }
        let corrections = self.control().corrections();
        let last = corrections.of(&request.source, &request.id, known.found.position).last();
        let before = last.and_then(|last| restated_of(&last.record)).map(|last| &last.content.subject);
        let after = match &request.kind {
            CorrectionKind::Amend(amendment) => amendment.subject.as_ref(),
            _ => None,
        };
        let named = [Some(&known.content.subject), before, after];
        named.into_iter().flatten().filter_map(|name| Subject::new(name).ok()).collect()
    }
}

impl KnownEvent {
    /// Reads an event that a shard knows again from the log.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub fn read(history: &mut dyn History, found: FoundEvent) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let mut read = None;
        history.read_batches(&BTreeSet::from([found.position.offset()]), &mut |batch| {
            let content = EventContent::of(&batch.view(), usize::from(found.position.index()));
            read = Some((content, batch.received_at));
        })?;
        let offset = found.position.offset();
        let (content, received_at) = read.ok_or(UsageRecordError::RecordMustBeReadable { offset })?;
        Ok(Self { content, received_at, found })
    }
}

/// Why a correction is not made, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CorrectionStatus {
    /// The reason is empty or longer than 1,024 bytes.
    ReasonMustFit,
    /// No event with this source and id is in the log.
    EventMustBeKnown,
    /// The event was taken back.
    EventMustNotBeVoided,
    /// The event arrived longer ago than corrections reach.
    EventMustBeWithinCorrectionHorizon,
    /// An earlier event with this id, which was forgotten when this one came, counts: this one may be it.
    EventMustNotCountAlready,
    /// Only an event that was set aside can be released or discarded.
    EventMustBeInQuarantine,
    /// A meter cannot take the event as it is, however often it is judged.
    EventMustBeAmended(QuarantineReason),
    /// The new content breaks a rule of events.
    ContentMustFit(ContentStatus),
}

impl CorrectionStatus {
    /// The code in answers.
    pub fn name(self) -> &'static str {
        match self {
            CorrectionStatus::ReasonMustFit => "reason_must_fit",
            CorrectionStatus::EventMustBeKnown => "event_must_be_known",
            CorrectionStatus::EventMustNotBeVoided => "event_must_not_be_voided",
            CorrectionStatus::EventMustBeWithinCorrectionHorizon => "event_must_be_within_correction_horizon",
            CorrectionStatus::EventMustNotCountAlready => "event_must_not_count_already",
            CorrectionStatus::EventMustBeInQuarantine => "event_must_be_in_quarantine",
            CorrectionStatus::EventMustBeAmended(_) => "event_must_be_amended",
            CorrectionStatus::ContentMustFit(_) => "content_must_fit",
        }
    }
}

impl fmt::Display for CorrectionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CorrectionStatus::ReasonMustFit => write!(f, "a reason has 1 to {REASON_BYTES_MAX} bytes"),
            CorrectionStatus::EventMustBeKnown => {
                f.write_str("no event with this source and id is in the log")
            }
            CorrectionStatus::EventMustNotBeVoided => {
                f.write_str("the event was taken back; send what is right under a new id")
            }
            CorrectionStatus::EventMustBeWithinCorrectionHorizon => {
                f.write_str("the event arrived longer ago than corrections reach")
            }
            CorrectionStatus::EventMustNotCountAlready => f.write_str(
                "an earlier event with this id counts: discard this one, or send what is right under a new id",
            ),
            CorrectionStatus::EventMustBeInQuarantine => {
                f.write_str("the event was not set aside; void or amend it")
            }
            CorrectionStatus::EventMustBeAmended(reason) => {
                write!(f, "a meter cannot take the event as it is ({reason}); amend it")
            }
            CorrectionStatus::ContentMustFit(status) => fmt::Display::fmt(status, f),
        }
    }
}

impl Error for CorrectionStatus {}

/// A correction in the control log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedCorrection {
    /// Offset of its record: it counts from the barrier on that names a later one.
    pub control_offset: u64,
    /// The record.
    pub record: ControlRecord,
}

/// Place, source and id of an event: an id that was forgotten may have come again, elsewhere.
type Event = (EventPosition, String, String);

/// Corrections by their event, in order, and where those are that count with other content.
#[derive(Clone, Default)]
struct Recorded {
    by_event: BTreeMap<Event, Vec<RecordedCorrection>>,
    /// By the subject of their last content.
    by_subject: BTreeMap<String, BTreeSet<EventPosition>>,
}

impl Recorded {
    /// The corrections of events at a place; damage aside, there is one event at most.
    fn at(&self, position: EventPosition) -> impl Iterator<Item = &[RecordedCorrection]> {
        let from = (position, String::new(), String::new());
        let found = self.by_event.range(from..).take_while(move |(event, _)| event.0 == position);
        found.map(|(_, corrections)| corrections.as_slice())
    }

    fn add(&mut self, event: Event, recorded: RecordedCorrection) {
        let position = event.0;
        let after = restated_of(&recorded.record).map(|restated| restated.content.subject.clone());
        let corrections = self.by_event.entry(event).or_default();
        let before = corrections.last().and_then(|last| restated_of(&last.record));
        if let Some(before) = before
            && let Some(positions) = self.by_subject.get_mut(&before.content.subject)
        {
            positions.remove(&position);
            if positions.is_empty() {
                self.by_subject.remove(&before.content.subject);
            }
        }
        corrections.push(recorded);
        if let Some(after) = after {
            self.by_subject.entry(after).or_default().insert(position);
        }
    }
}

/// What the control log says of corrections.
#[derive(Default)]
pub struct RecordedCorrections {
    /// Shared with counts of the log that run beside.
    recorded: Arc<Recorded>,
    /// The records that no barrier brought yet.
    waiting: Vec<ControlRecord>,
    last_offset: Option<u64>,
}

impl RecordedCorrections {
    /// The corrections of an event, in order.
    pub fn of(&self, source: &str, id: &EventIdOwned, position: EventPosition) -> &[RecordedCorrection] {
        let event = (position, source.to_string(), id.to_string());
        self.recorded.by_event.get(&event).map_or(&[], Vec::as_slice)
    }

    /// Offset of the last record that corrects an event.
    pub fn last_offset(&self) -> Option<u64> {
        self.last_offset
    }

    /// Takes a record that corrects an event; whether it follows from those before it.
    pub(crate) fn apply(&mut self, control_offset: u64, record: &ControlRecord) -> bool {
        let (source, id) = match record {
            ControlRecord::EventVoid(taken) | ControlRecord::EventDiscard(taken) => {
                (&taken.source, &taken.id)
            }
            ControlRecord::EventAmend(restated) | ControlRecord::EventRelease(restated) => {
                if restated.content.check().is_err() {
                    return false;
                }
                (&restated.source, &restated.id)
            }
            _ => unreachable!("the record corrects an event"),
        };
        let Ok(read) = id.parse::<EventIdOwned>() else { return false };
        let position = position_of(record);
        if self.of(source, &read, position).last().is_some_and(|last| is_taken_back(&last.record)) {
            return false;
        }
        let recorded = RecordedCorrection { control_offset, record: record.clone() };
        let event = (position, source.clone(), read.to_string());
        Arc::make_mut(&mut self.recorded).add(event, recorded);
        self.waiting.push(record.clone());
        self.last_offset = Some(control_offset);
        true
    }

    /// What the next barrier brings to each of so many shards.
    pub(crate) fn take_waiting(&mut self, key: IdentityKey, shards: usize) -> Arc<[Vec<Correction>]> {
        let mut of_shards = vec![Vec::new(); shards];
        for record in self.waiting.drain(..) {
            let correction = correction_of(&record, key);
            of_shards[correction.event.shard(shards)].push(correction);
        }
        of_shards.into()
    }

    /// The record that a correction makes at the end of the control log; `None` if it was made before. `known` is the event,
    /// if there is one.
    pub(crate) fn propose(
        &self,
        request: CorrectionRequest,
        known: Option<&KnownEvent>,
        control_end: u64,
        now: Timestamp,
        horizon: i64,
    ) -> Result<Option<ControlRecord>, CorrectionStatus> {
        let CorrectionRequest { source, id, kind, actor, reason } = request;
        if !(1..=REASON_BYTES_MAX).contains(&reason.len()) {
            return Err(CorrectionStatus::ReasonMustFit);
        }
        let known = known.ok_or(CorrectionStatus::EventMustBeKnown)?;
        let earlier = self.of(&source, &id, known.found.position);
        let last = earlier.last().map(|last| &last.record);
        if last.is_some_and(|last| is_repeated(last, &kind, &reason, known.found.standing)) {
            return Ok(None);
        }
        if last.is_some_and(is_taken_back) {
            return Err(CorrectionStatus::EventMustNotBeVoided);
        }
        if known.received_at < now.plus(-horizon) {
            return Err(CorrectionStatus::EventMustBeWithinCorrectionHorizon);
        }
        let FoundEvent { position, standing, meters_at, counted_before, .. } = known.found;
        let may_count = matches!(kind, CorrectionKind::Amend(_) | CorrectionKind::Release);
        if may_count && counted_before.is_some() {
            return Err(CorrectionStatus::EventMustNotCountAlready);
        }
        let (content, meters_at) = match last.and_then(restated_of) {
            Some(restated) => (&restated.content, restated.meters_at),
            None => (&known.content, meters_at),
        };
        let (id, offset, index) = (id.to_string(), position.offset(), position.index());
        let restated = |content, meters_at| EventRestated {
            source: source.clone(),
            id: id.clone(),
            offset,
            index,
            content,
            meters_at,
            actor: actor.clone(),
            reason: reason.clone(),
        };
        let taken_back = || EventTakenBack {
            source: source.clone(),
            id: id.clone(),
            offset,
            index,
            actor: actor.clone(),
            reason: reason.clone(),
        };
        Ok(Some(match (kind, standing) {
            (CorrectionKind::Void, _) => ControlRecord::EventVoid(taken_back()),
            (CorrectionKind::Amend(amendment), _) => {
                let amended = amendment.applied_to(content);
                amended.check().map_err(CorrectionStatus::ContentMustFit)?;
                if amended == *content {
                    return Ok(None);
                }
                ControlRecord::EventAmend(restated(amended, meters_at))
            }
            (CorrectionKind::Release, EventStanding::Quarantined(reason)) => {
                if !may_pass_when_judged_again(reason) {
                    return Err(CorrectionStatus::EventMustBeAmended(reason));
                }
                ControlRecord::EventRelease(restated(content.clone(), control_end))
            }
            (CorrectionKind::Discard, EventStanding::Quarantined(_)) => {
                ControlRecord::EventDiscard(taken_back())
            }
            (CorrectionKind::Release | CorrectionKind::Discard, _) => {
                return Err(CorrectionStatus::EventMustBeInQuarantine);
            }
        }))
    }
}

impl Amendment {
    fn applied_to(self, content: &EventContent) -> EventContent {
        let Amendment { subject, time, values, dimensions } = self;
        EventContent {
            event_type: content.event_type.clone(),
            subject: subject.unwrap_or_else(|| content.subject.clone()),
            time: time.unwrap_or(content.time),
            values: values.unwrap_or_else(|| content.values.clone()),
            dimensions: dimensions.unwrap_or_else(|| content.dimensions.clone()),
        }
    }
}

fn is_taken_back(record: &ControlRecord) -> bool {
    matches!(record, ControlRecord::EventVoid(_) | ControlRecord::EventDiscard(_))
}

pub(crate) fn restated_of(record: &ControlRecord) -> Option<&EventRestated> {
    match record {
        ControlRecord::EventAmend(restated) | ControlRecord::EventRelease(restated) => Some(restated),
        _ => None,
    }
}

/// An amendment is compared by its content, later: it names what is to change. What was released and amended into
/// something that a meter cannot take is set aside again.
fn is_repeated(last: &ControlRecord, kind: &CorrectionKind, reason: &str, standing: EventStanding) -> bool {
    match (last, kind) {
        (ControlRecord::EventVoid(taken), CorrectionKind::Void)
        | (ControlRecord::EventDiscard(taken), CorrectionKind::Discard) => taken.reason == reason,
        (ControlRecord::EventRelease(released), CorrectionKind::Release) => {
            released.reason == reason && !matches!(standing, EventStanding::Quarantined(_))
        }
        _ => false,
    }
}

/// A meter never changes, so that what it could not take it cannot take.
fn may_pass_when_judged_again(reason: QuarantineReason) -> bool {
    matches!(reason, QuarantineReason::TooOld | QuarantineReason::Future | QuarantineReason::PendingFull)
}

fn correction_of(record: &ControlRecord, key: IdentityKey) -> Correction {
    let (source, id) = match record {
        ControlRecord::EventVoid(taken) | ControlRecord::EventDiscard(taken) => (&taken.source, &taken.id),
        ControlRecord::EventAmend(restated) | ControlRecord::EventRelease(restated) => {
            (&restated.source, &restated.id)
        }
        _ => unreachable!("the record corrects an event"),
    };
    let change = restated_of(record).map_or(Change::TakeBack, |restated| {
        let frame = Arc::new(frame_of(restated));
        let content = PreparedBatch::prepare(frame, None, Timestamp::MIN, key, 1);
        Change::Restate { content: content.expect("a built frame is sound"), meters_at: restated.meters_at }
    });
    Correction {
        source: source.as_str().into(),
        event: name_of(key, source, &read_id(id)),
        position: position_of(record),
        change,
    }
}

fn position_of(record: &ControlRecord) -> EventPosition {
    corrected_position(record).expect("the record corrects an event")
}

/// Where the event is that a record corrects, if it is such a record.
pub(crate) fn corrected_position(record: &ControlRecord) -> Option<EventPosition> {
    let (offset, index) = match record {
        ControlRecord::EventVoid(taken) | ControlRecord::EventDiscard(taken) => (taken.offset, taken.index),
        ControlRecord::EventAmend(restated) | ControlRecord::EventRelease(restated) => {
            (restated.offset, restated.index)
        }
        _ => return None,
    };
    Some(EventPosition::new(offset, index))
}

fn frame_of(restated: &EventRestated) -> AlignedBytes {
    let frame = restated.content.to_frame(&restated.source, &read_id(&restated.id));
    frame.expect("content was checked when it was applied")
}

fn read_id(id: &str) -> EventIdOwned {
    id.parse().expect("an id was read when it was applied")
}

/// An event, as shards are asked for it.
///
/// # Panics
/// If the id is still to be minted: such an event is in no log.
pub fn name_of(key: IdentityKey, source: &str, id: &EventIdOwned) -> EventName {
    let source = key.of_source(source);
    match id {
        EventIdOwned::Text(id) => source.name_of_bytes(id.as_bytes()),
        EventIdOwned::Sequenced { epoch, sequence } => source.name_of_sequence(*epoch, *sequence),
        EventIdOwned::Minted => unreachable!("an event in the log has its id"),
    }
}

/// The corrections that a control state knows, and its meters: what a count of the log leaves out, and what it adds.
#[derive(Default)]
pub struct KnownCorrections {
    recorded: Arc<Recorded>,
    plan: Arc<MeteringPlan>,
}

impl KnownCorrections {
    /// What a control state knows, whose metering plan is given.
    pub fn of(state: &ControlState, plan: Arc<MeteringPlan>) -> Self {
        Self { recorded: state.corrections.recorded.clone(), plan }
    }

    /// Whether what arrived does not count any more.
    #[inline]
    pub(crate) fn has(&self, position: EventPosition) -> bool {
        !self.recorded.by_event.is_empty() && self.recorded.at(position).next().is_some()
    }

    /// Where events are that count with the content of a correction, whose subject is one of these; or all of them.
    pub(crate) fn restated_of(&self, subjects: Option<&[&str]>) -> Vec<EventPosition> {
        let by_subject = &self.recorded.by_subject;
        match subjects {
            None => by_subject.values().flatten().copied().collect(),
            Some(subjects) => {
                subjects.iter().filter_map(|subject| by_subject.get(*subject)).flatten().copied().collect()
            }
        }
    }

    /// The events at one of these places, as they count: those that all their meters take.
    pub(crate) fn restated_at(&self, position: EventPosition) -> impl Iterator<Item = RestatedEvent> {
        let last =
            self.recorded.at(position).filter_map(|corrections| restated_of(&corrections.last()?.record));
        last.filter_map(move |restated| {
            let event = RestatedEvent { frame: frame_of(restated), position, meters_at: restated.meters_at };
            is_metered(&self.plan, event.meters_at, &event.view(), 0).then_some(event)
        })
    }
}

/// An event that counts with the content of a correction.
pub(crate) struct RestatedEvent {
    frame: AlignedBytes,
    /// Where it arrived.
    pub(crate) position: EventPosition,
    /// The meters that existed at this control offset take it.
    pub(crate) meters_at: u64,
}

impl RestatedEvent {
    /// A batch of the event alone.
    pub(crate) fn view(&self) -> UsageBatch<'_> {
        let (header, body) = decode_frame(&self.frame).expect("a built frame is sound");
        UsageBatch::reopen(&header, body).expect("a built frame is sound")
    }
}
