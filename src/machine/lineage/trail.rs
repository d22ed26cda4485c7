//! Follows an event through the control log: what it says at every cut, and which lines count it then.
//!
//! Owns: one pass over the records, and what is kept of it. Leaves to others: where an event counts (`super::places`),
//! reading the log (the caller).
//!
//! Invariants: a cut sees the catalog and the corrections of the records before it, and the usage before its barrier.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use billing::charges::LineKey;
use domain::EventPosition;
use engine::log::LogReader;
use engine::shard::recount::groups_of;
use wire::control::{ControlRecord, Cut, JournalRun, RatingFailure};
use wire::correction::EventContent;
use wire::event::EventIdOwned;
use wire::frame::decode_frame;
use wire::usage::UsageBatch;

use super::places::{EventPlace, owner_at, programs_of};
use super::story::{PassedBatch, SealedRun, Story};
use crate::control::{ApplyError, ControlState};
use crate::corrections::{RecordedCorrection, restated_of};
use crate::recovery::LogPlace;
use crate::usage_query::ScanError;

/// An event as it arrived.
#[derive(Clone, Debug)]
pub struct ArrivedEvent {
    /// Its source.
    pub source: String,
    /// Its id.
    pub id: EventIdOwned,
    /// Where the first event with its id is in the usage log.
    pub position: EventPosition,
    /// What it said.
    pub content: EventContent,
    /// Whether it was accepted and a meter took it.
    pub is_accepted: bool,
    /// The meters that existed at this control offset were known when it arrived.
    pub meters_at: u64,
}

/// A pass over the control log with an event in mind.
pub struct Trail {
    event: ArrivedEvent,
    state: ControlState,
    /// Where the event counts; `None` if a record came that may have changed it.
    place: Option<Arc<EventPlace>>,
    /// The last cut, and what the event counted in there.
    at_cut: Option<(Cut, Arc<BTreeSet<LineKey>>)>,
    batches: VecDeque<PassedBatch>,
    runs: Vec<SealedRun>,
    open_run: Option<JournalRun>,
    failures: Vec<RatingFailure>,
}

impl Trail {
    /// The trail of an event through an empty log.
    pub fn new(event: ArrivedEvent) -> Self {
        Self {
            event,
            state: ControlState::default(),
            place: None,
            at_cut: None,
            batches: VecDeque::new(),
            runs: Vec::new(),
            open_run: None,
            failures: Vec::new(),
        }
    }

    /// Takes all records of a control log up to and with the one at `last`. `is_awaited` is asked at every record.
    ///
    /// # Errors
    /// [`ScanError`].
    pub fn read(
        &mut self,
        control: &LogPlace,
        last: u64,
        is_awaited: &dyn Fn() -> bool,
    ) -> Result<(), ScanError> {
        let mut reader = LogReader::open(&*control.storage, control.options, 0, Some(last + 1))?;
        while let Some(record) = reader.next()? {
            if !is_awaited() {
                return Err(ScanError::Abandoned);
            }
            let offset = record.offset;
            let read = ControlRecord::decode(record.payload);
            let read = read.map_err(|source| ScanError::Control { offset, source: source.into() })?;
            let taken = self.take(offset, &read);
            taken.map_err(|source| ScanError::Control { offset, source: source.into() })?;
        }
        Ok(())
    }

    /// Takes the next record of the control log.
    ///
    /// # Errors
    /// [`ApplyError`]: the record does not follow.
    pub fn take(&mut self, offset: u64, record: &ControlRecord) -> Result<(), ApplyError> {
        self.state.apply(offset, record)?;
        match record {
            ControlRecord::Put(_)
            | ControlRecord::EventVoid(_)
            | ControlRecord::EventAmend(_)
            | ControlRecord::EventRelease(_)
            | ControlRecord::EventDiscard(_) => self.place = None,
            ControlRecord::Cut(cut) => {
                let is_known = self.event.position.offset() < cut.barrier;
                let keys = if is_known { self.place().keys() } else { BTreeSet::new() };
                self.at_cut = Some((cut.clone(), Arc::new(keys)));
                self.failures.clear();
            }
            ControlRecord::Unrated(unrated) => self.failures.extend(unrated.failures.iter().cloned()),
            ControlRecord::Seal(seal) => {
                let (cut, keys) = self.at_cut.as_ref().expect("a seal follows its cut");
                let is_first = self.batches.is_empty();
                if !(is_first && keys.is_empty()) {
                    self.batches.push_back(PassedBatch {
                        number: seal.batch,
                        digest: seal.digest.clone(),
                        cut: cut.clone(),
                        keys: keys.clone(),
                    });
                }
            }
            ControlRecord::JournalRun(run) => self.open_run = Some(run.clone()),
            ControlRecord::JournalSeal(_) => {
                let run = self.open_run.take().expect("a seal of journals follows their run");
                self.runs.push(SealedRun { index: self.runs.len(), run });
            }
            _ => {}
        }
        Ok(())
    }

    /// What the event comes to at the end of the log.
    pub fn finish(mut self) -> Story {
        let place = self.place();
        let corrections = self.corrections().to_vec();
        let content = match self.last_correction() {
            None => Some(self.event.content.clone()),
            Some(last) => restated_of(&last.record).map(|restated| restated.content.clone()),
        };
        // A void leaves nothing that counts; whose the usage was is still known.
        let said = content.as_ref().unwrap_or(&self.event.content);
        let owner = owner_at(self.state.catalog(), &said.subject, said.time);
        Story::new(super::story::Passed {
            place: EventPlace { owner, meters: place.meters.clone() },
            content,
            corrections,
            batches: self.batches,
            runs: self.runs,
            failures: self.failures,
            at_cut: self.at_cut,
            event: self.event,
        })
    }

    /// Corrections of the event, in order.
    fn corrections(&self) -> &[RecordedCorrection] {
        let event = &self.event;
        self.state.corrections().of(&event.source, &event.id, event.position)
    }

    fn last_correction(&self) -> Option<&RecordedCorrection> {
        self.corrections().last()
    }

    /// Where the event counts by the records so far.
    fn place(&mut self) -> Arc<EventPlace> {
        if self.place.is_none() {
            self.place = Some(Arc::new(self.find_place()));
        }
        self.place.clone().expect("it was just found")
    }

    fn find_place(&self) -> EventPlace {
        let event = &self.event;
        let (content, meters_at) = match self.last_correction() {
            None if event.is_accepted => (&event.content, event.meters_at),
            None => return EventPlace::default(),
            Some(last) => match restated_of(&last.record) {
                Some(restated) => (&restated.content, restated.meters_at),
                None => return EventPlace::default(),
            },
        };
        let catalog = self.state.catalog();
        let plan = programs_of(catalog, &content.event_type);
        let frame = content.to_frame(&event.source, &event.id).expect("content that counts keeps the rules");
        let (header, body) = decode_frame(&frame).expect("a built frame is sound");
        let batch = UsageBatch::reopen(&header, body).expect("a built frame is sound");
        // What a meter cannot take is set aside again.
        let groups = groups_of(&plan, meters_at, &batch, 0).unwrap_or_default();
        EventPlace::of(catalog, &plan, &groups, &content.subject, content.time)
    }
}
