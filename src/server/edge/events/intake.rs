//! Events of one request on their way into the log: batches by source and type, verdicts back in the request's order.
//!
//! Owns: sorting events into batches, joining verdicts, the summary. Leaves to others: reading bodies (`super`).
//!
//! Invariants: every event of a request gets one outcome; an event is refused alone; nothing is submitted of a request
//! whose body turns out not to be JSON, unless it is a stream of lines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::http::StatusCode;
use domain::Timestamp;
use domain::limits::{EVENT_DIMENSIONS_MAX, EVENT_VALUES_MAX};
use engine::prepared::PreparedBatch;
use serde::{Serialize, Serializer};
use tokio::sync::oneshot;
use wire::cloudevents::{self, BrokenEvent, CloudEvent, CloudEventStatus};
use wire::event::opaque_fits;
use wire::frame::{FRAME_HEADER_BYTES, FrameHeader};
use wire::usage::{EventId, UsageBatch};
use wire::verdict::Verdict;
use wire::{AlignedBytes, BatchBuilder, BuilderStatus, EventStatus, IdMode};

use super::super::Edge;
use super::super::problem::Problem;
use super::EventBudget;
use crate::shares::Share;
use crate::threads::PeerStopped;
use crate::tokens::Token;
use crate::usage_log::IncomingBatch;

/// Failures that an answer lists; all are counted.
pub(super) const FAILURES_LISTED_MAX: usize = 1_000;
/// Batches that events of one body become, which is as many pairs of source and type as they may have.
pub(super) const BATCHES_MAX: usize = 32_768;
/// What a batch takes until its events are judged, however few they are, besides their bytes.
const BATCH_BYTES: usize = 3 << 10;
/// Batches whose memory is taken at once. A body that needs no more takes none for them.
const BATCHES_OF_SHARE: usize = 32;

/// Events of a request that are not submitted yet.
pub(super) struct Intake {
    edge: Arc<Edge>,
    token: Arc<Token>,
    received_at: Timestamp,
    arrived: Instant,
    /// Place of the first event in the whole request.
    first: u64,
    /// Events taken.
    count: u64,
    /// By source, then by type.
    open: BTreeMap<String, BTreeMap<String, OpenBatch>>,
    whole: Vec<WholeBatch>,
    room: Room,
    /// Why no more events are taken.
    stopped: Option<Problem>,
    summary: Summary,
}

/// Memory for batches of events.
struct Room {
    /// Whose share they take.
    lane: Arc<str>,
    /// Those that were begun.
    batches: usize,
    shares: Vec<Share>,
}

/// A batch that still takes events, and the place of each in the request.
struct OpenBatch {
    builder: BatchBuilder,
    places: Vec<u64>,
}

struct WholeBatch {
    frame: Arc<AlignedBytes>,
    places: Vec<u64>,
}

/// An event that does not count, and why.
#[derive(Debug, Serialize)]
pub(super) struct Failure {
    /// Place in the request, from 0; lines without an event have none.
    index: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    source: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    id: String,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

/// What became of the events of a request.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    pub(super) received: u64,
    accepted: u64,
    unmetered: u64,
    pending: u64,
    duplicate: u64,
    duplicate_restamped: u64,
    conflict: u64,
    quarantined: u64,
    rejected: u64,
    /// By their index: the first ones are listed, in whatever order they are found.
    #[serde(serialize_with = "as_list")]
    failures: BTreeMap<u64, Failure>,
    #[serde(skip_serializing_if = "is_zero")]
    failures_left_out: u64,
    /// Rejected before they reached the log.
    #[serde(skip)]
    pub(super) refused: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn as_list<S: Serializer>(failures: &BTreeMap<u64, Failure>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(failures.values())
}

impl Summary {
    /// Whether every event counts, counted before, or was taken back.
    pub(super) fn is_good(&self) -> bool {
        self.failed() == 0
    }

    /// Events that do not count.
    pub(super) fn failed(&self) -> u64 {
        self.conflict + self.quarantined + self.rejected
    }

    /// Adds what became of later events of the same request.
    pub(super) fn add(&mut self, later: Summary) {
        self.received += later.received;
        self.accepted += later.accepted;
        self.unmetered += later.unmetered;
        self.pending += later.pending;
        self.duplicate += later.duplicate;
        self.duplicate_restamped += later.duplicate_restamped;
        self.conflict += later.conflict;
        self.quarantined += later.quarantined;
        self.rejected += later.rejected;
        self.refused += later.refused;
        self.failures_left_out += later.failures_left_out;
        for (index, failure) in later.failures {
            self.list(index, || failure);
        }
    }

    /// Lists a failure, unless enough that come before it are listed; of too many the last one is left out.
    fn list(&mut self, index: u64, failure: impl FnOnce() -> Failure) {
        let is_full = self.failures.len() == FAILURES_LISTED_MAX;
        self.failures_left_out += u64::from(is_full);
        if !is_full || self.failures.last_key_value().is_some_and(|(last, _)| index < *last) {
            self.failures.insert(index, failure());
        }
        if self.failures.len() > FAILURES_LISTED_MAX {
            self.failures.pop_last();
        }
    }

    /// Counts a verdict; `event` is asked for source and id where they are listed.
    fn count(&mut self, verdict: Verdict, index: u64, event: impl FnOnce() -> (String, String)) {
        let counter = match verdict {
            Verdict::Accepted => &mut self.accepted,
            Verdict::Unmetered => &mut self.unmetered,
            Verdict::Pending => &mut self.pending,
            Verdict::Duplicate => &mut self.duplicate,
            Verdict::DuplicateRestamped => &mut self.duplicate_restamped,
            Verdict::Conflict => &mut self.conflict,
            Verdict::Quarantined(_) => &mut self.quarantined,
            Verdict::Rejected(_) => &mut self.rejected,
        };
        *counter += 1;
        if matches!(verdict, Verdict::Conflict | Verdict::Quarantined(_) | Verdict::Rejected(_)) {
            let (verdict, reason) = (verdict.as_str(), verdict.reason());
            self.list(index, || {
                let (source, id) = event();
                Failure { index, source, id, verdict, reason, detail: String::new() }
            });
        }
    }

    /// Counts an event that is refused before it reaches the log, by its source and id.
    fn refuse(&mut self, index: u64, (source, id): (&str, &str), reason: &'static str, detail: String) {
        self.rejected += 1;
        self.refused += 1;
        self.list(index, || {
            let (source, id) = (source.to_string(), id.to_string());
            Failure { index, source, id, verdict: "rejected", reason: Some(reason), detail }
        });
    }
}

impl Intake {
    /// An intake for events that were just read, behind so many others of their request. `lane` is whose memory they take.
    pub(super) fn begin(edge: &Arc<Edge>, token: &Arc<Token>, lane: &Arc<str>, first: u64) -> Self {
        Self {
            edge: edge.clone(),
            token: token.clone(),
            received_at: edge.clock.now(),
            arrived: Instant::now(),
            first,
            count: 0,
            open: BTreeMap::new(),
            whole: Vec::new(),
            room: Room { lane: lane.clone(), batches: 0, shares: Vec::new() },
            stopped: None,
            summary: Summary::default(),
        }
    }

    /// Events of the request taken by this intake and those before it.
    pub(super) fn events_taken(&self) -> u64 {
        self.first + self.count
    }

    /// Takes the event of every line; a line that is not JSON is refused alone, an empty one is nothing.
    pub(super) fn take_lines(&mut self, lines: &[u8]) {
        for line in lines.split(|byte| *byte == b'\n') {
            let line = line.trim_ascii();
            if line.is_empty() {
                continue;
            }
            let Ok(text) = str::from_utf8(line) else {
                self.refuse_line("the line is not UTF-8".to_string());
                continue;
            };
            if text.starts_with('[') {
                let status = CloudEventStatus::EventMustBeObject;
                self.take(Err(BrokenEvent { status, source: "".into(), id: "".into() }));
                continue;
            }
            if let Err(error) = cloudevents::read_structured(text, &mut |event| self.take(event)) {
                self.refuse_line(error.to_string());
            }
        }
    }

    fn refuse_line(&mut self, detail: String) {
        let index = self.next_index();
        self.summary.refuse(index, ("", ""), "line_must_be_json", detail);
    }

    fn next_index(&mut self) -> u64 {
        self.count += 1;
        self.summary.received += 1;
        self.first + self.count - 1
    }

    /// Takes the next event of the request.
    pub(super) fn take(&mut self, event: Result<&CloudEvent<'_>, BrokenEvent<'_>>) {
        let index = self.next_index();
        let event = match event {
            Ok(event) => event,
            Err(BrokenEvent { status, source, id }) => {
                return self.summary.refuse(index, (&source, &id), status.name(), status.to_string());
            }
        };
        let name = (&*event.source, &*event.id);
        if !opaque_fits(event.source.as_bytes()) {
            let detail = "a source has 1 to 256 bytes".to_string();
            return self.summary.refuse(index, name, "source_must_fit", detail);
        }
        if !opaque_fits(event.event_type.as_bytes()) {
            let detail = "a type has 1 to 256 bytes".to_string();
            return self.summary.refuse(index, name, "type_must_fit", detail);
        }
        if !self.token.grants_source(&event.source) {
            let detail = format!("the token {} does not grant source {:?}", self.token.name, event.source);
            return self.summary.refuse(index, name, "source_must_be_granted", detail);
        }
        if !self.open.contains_key(&*event.source)
            && let Err(refusal) = self.edge.usage_queue.sources.admit(&event.source)
        {
            return self.summary.refuse(index, name, "source_must_be_known", refusal.to_string());
        }
        if let Err(status) = self.push(index, event) {
            self.summary.refuse(index, name, status.name(), status.to_string());
        }
    }

    /// The intake, if every event of its body was taken or refused by itself.
    ///
    /// # Errors
    /// Why there was no memory for them.
    pub(super) fn whole(mut self) -> Result<Self, Problem> {
        self.stopped.take().map_or(Ok(self), Err)
    }

    fn push(&mut self, index: u64, event: &CloudEvent<'_>) -> Result<(), EventStatus> {
        if event.values.len() > EVENT_VALUES_MAX {
            return Err(EventStatus::ValuesMustFit);
        }
        if event.dimensions.len() > EVENT_DIMENSIONS_MAX {
            return Err(EventStatus::DimensionsMustFit);
        }
        let mut values = [("", 0, 0); EVENT_VALUES_MAX];
        let mut dimensions = [("", ""); EVENT_DIMENSIONS_MAX];
        for (part, (name, value)) in values.iter_mut().zip(&event.values) {
            *part = (name, value.mantissa(), value.scale());
        }
        for (part, (name, text)) in dimensions.iter_mut().zip(&event.dimensions) {
            *part = (name, text);
        }
        let (values, dimensions) = (&values[..event.values.len()], &dimensions[..event.dimensions.len()]);
        let time = event.time.unwrap_or(self.received_at).nanoseconds();
        if self.stopped.is_some() {
            return Ok(());
        }
        let make_room = || self.room.make(&self.edge.event_budget);
        let open = match open_batch(&mut self.open, &event.source, &event.event_type, make_room) {
            Ok(open) => open,
            Err(problem) => {
                self.stopped = Some(problem);
                return Ok(());
            }
        };
        let push = |builder: &mut BatchBuilder| {
            builder.push_parts(event.id.as_bytes(), &event.subject, time, values, dimensions)
        };
        let pushed = match push(&mut open.builder) {
            Err(BuilderStatus::BatchMustHaveRoom) => {
                self.whole.push(open.finish());
                push(&mut open.builder)
            }
            pushed => pushed,
        };
        match pushed {
            Ok(()) => {
                open.places.push(index);
                Ok(())
            }
            Err(BuilderStatus::Event(status)) => Err(status),
            Err(BuilderStatus::BatchMustHaveRoom) => unreachable!("an empty batch has room for every event"),
        }
    }

    /// Submits all batches and waits for their verdicts.
    ///
    /// # Errors
    /// If the log is not written any more; nothing is known of the events then, and sending them again is harmless.
    pub(super) async fn finish(self) -> Result<Summary, PeerStopped> {
        self.finish_in(Turn::first()).await
    }

    /// The same, once the blocks before have submitted theirs.
    ///
    /// # Errors
    /// As [`Intake::finish`], also if that became of a block before.
    pub(super) async fn finish_in(mut self, turn: Turn) -> Result<Summary, PeerStopped> {
        for open in self.open.values_mut().flat_map(BTreeMap::values_mut) {
            if !open.places.is_empty() {
                self.whole.push(open.finish());
            }
        }
        let prepare = |WholeBatch { frame, places }| {
            let prepared = PreparedBatch::prepare(
                frame.clone(),
                None,
                self.received_at,
                self.edge.identity_key,
                self.edge.shards,
            )
            .expect("a batch that the builder made keeps every rule of batches");
            (prepared, frame, places)
        };
        let batches: Vec<_> = std::mem::take(&mut self.whole).into_iter().map(prepare).collect();
        turn.come.await.map_err(|_| PeerStopped("the usage log"))?;
        let mut waiting = Vec::new();
        for (prepared, frame, places) in batches {
            let (verdicts, codes) = oneshot::channel();
            let source: Arc<str> = Arc::from(prepared.view().source());
            let batch = IncomingBatch {
                prepared,
                producer: self.token.producer(),
                on_durable: Box::new(|_| {}),
                on_verdicts: Some(Box::new(move |codes| {
                    // A caller that went away does not wait.
                    let _ = verdicts.send(codes);
                })),
                arrived: self.arrived,
            };
            self.edge.usage_queue.send(&source, batch).await?;
            waiting.push((frame, places, codes));
        }
        // Who comes next may have gone away.
        let _ = turn.next.send(());
        for (frame, places, codes) in waiting {
            let codes = codes.await.map_err(|_| PeerStopped("a shard"))?;
            for (event, (place, code)) in places.into_iter().zip(codes).enumerate() {
                let verdict = Verdict::from_code(code).expect("shards answer with codes of verdicts");
                self.summary.count(verdict, place, || source_and_id(&frame, event));
            }
        }
        Ok(self.summary)
    }
}

impl Room {
    /// Takes memory for one more batch.
    fn make(&mut self, budget: &EventBudget) -> Result<(), Problem> {
        if self.batches == BATCHES_MAX {
            let detail = format!(
                "events of one body have at most {BATCHES_MAX} pairs of source and type; send them in several"
            );
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "types_must_fit", &detail));
        }
        if self.batches > 0 && self.batches.is_multiple_of(BATCHES_OF_SHARE) {
            self.shares.push(budget.take(&self.lane, BATCHES_OF_SHARE * BATCH_BYTES)?);
        }
        self.batches += 1;
        Ok(())
    }
}

/// The turn of a block of events: blocks of one request reach the log in their order, and wait for verdicts together.
pub(super) struct Turn {
    come: oneshot::Receiver<()>,
    next: oneshot::Sender<()>,
}

impl Turn {
    /// The only turn.
    fn first() -> Self {
        Turns::default().next()
    }
}

/// Gives turns to blocks, one after the other.
pub(super) struct Turns {
    next: oneshot::Receiver<()>,
}

impl Default for Turns {
    fn default() -> Self {
        let (first, next) = oneshot::channel();
        first.send(()).expect("its receiver is here");
        Self { next }
    }
}

impl Turns {
    /// The turn behind those that were given. A turn that ends without having come to its end lets none come behind it.
    pub(super) fn next(&mut self) -> Turn {
        let (next, after) = oneshot::channel();
        Turn { come: std::mem::replace(&mut self.next, after), next }
    }
}

/// The batch of a source and type. Nothing is allocated for those that are there already.
fn open_batch<'a>(
    open: &'a mut BTreeMap<String, BTreeMap<String, OpenBatch>>,
    source: &str,
    event_type: &str,
    make_room: impl FnOnce() -> Result<(), Problem>,
) -> Result<&'a mut OpenBatch, Problem> {
    let is_new = open.get(source).is_none_or(|types| !types.contains_key(event_type));
    if is_new {
        make_room()?;
        let builder = BatchBuilder::new(source, event_type, IdMode::Given);
        let batch = OpenBatch { builder, places: Vec::new() };
        open.entry(source.to_string()).or_default().insert(event_type.to_string(), batch);
    }
    let types = open.get_mut(source).expect("the source was just made");
    Ok(types.get_mut(event_type).expect("the type was just made"))
}

/// Source and id of an event of a batch, as its sender wrote them.
fn source_and_id(frame: &AlignedBytes, event: usize) -> (String, String) {
    let header = FrameHeader::decode_slice(frame).expect("the builder made the frame");
    let batch = UsageBatch::reopen(&header, &frame[FRAME_HEADER_BYTES..]).expect("the frame was checked");
    let id = match batch.id(event) {
        EventId::Bytes(id) => String::from_utf8_lossy(id).into_owned(),
        EventId::Sequenced { .. } => unreachable!("events of requests bring their ids"),
    };
    (batch.source().to_string(), id)
}

impl OpenBatch {
    fn finish(&mut self) -> WholeBatch {
        WholeBatch { frame: Arc::new(self.builder.finish(1, 0)), places: std::mem::take(&mut self.places) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::TOKEN_BODIES_BYTES_MAX;
    use super::*;

    const _: () =
        assert!(BATCHES_MAX * BATCH_BYTES + super::super::super::BODY_BYTES_MAX < TOKEN_BODIES_BYTES_MAX);

    /// A body whose events had a type each cost twenty times its bytes, and only these were counted.
    #[test]
    fn batches_of_few_events_are_paid_for_and_a_body_has_a_limit_of_them() {
        let budget = EventBudget::default();
        let room = || Room { lane: Arc::from("token"), batches: 0, shares: Vec::new() };
        let mut few = room();
        (0..BATCHES_OF_SHARE).for_each(|_| few.make(&budget).unwrap());
        assert_eq!(budget.out(), 0);
        few.make(&budget).unwrap();
        assert_eq!(budget.out(), BATCHES_OF_SHARE * BATCH_BYTES);
        drop(few);
        let mut many = room();
        (0..BATCHES_MAX).for_each(|_| many.make(&budget).unwrap());
        assert_eq!(budget.out(), (BATCHES_MAX - BATCHES_OF_SHARE) * BATCH_BYTES);
        assert!(many.make(&budget).is_err(), "a body has no more");
        drop(many);
        let _held = budget.take(&Arc::from("token"), TOKEN_BODIES_BYTES_MAX).unwrap();
        let mut late = room();
        (0..BATCHES_OF_SHARE).for_each(|_| late.make(&budget).unwrap());
        assert!(late.make(&budget).is_err(), "the token has no memory left");
    }

    #[test]
    fn the_first_failures_are_listed_whenever_they_are_found() {
        let mut summary = Summary::default();
        (500..2_000).for_each(|index| summary.refuse(index, ("s", "id"), "id_must_fit", String::new()));
        let mut asked = 0;
        for index in (0..500).chain(2_000..2_500) {
            summary.count(Verdict::Conflict, index, || {
                asked += 1;
                Default::default()
            });
        }
        assert_eq!(
            (asked, summary.failures.len(), summary.failures_left_out),
            (500, FAILURES_LISTED_MAX, 1_500)
        );
        let listed = serde_json::to_value(&summary).unwrap();
        let indexes = listed["failures"].as_array().unwrap().iter().map(|failure| failure["index"].as_u64());
        assert!(indexes.eq((0..FAILURES_LISTED_MAX as u64).map(Some)));
    }
}
