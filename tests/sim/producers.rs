//! Producers: they make batches, remember every one, and send each until it is acknowledged.
//!
//! Owns: events and frames as they were sent, what was acknowledged where, the network between. Leaves to others: what
//! becomes of events (`recount`), the wire format (`wire`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use domain::Timestamp;
use domain::limits::SLOTS;
use domain::time::HOUR;
use engine::identity::{IdentityKey, slot_of};
use wire::{AlignedBytes, BatchBuilder, IdMode};

use crate::actions::{Again, DIMENSION, Flaw, Labels, NewEvent, Way, When};
use crate::random::Random;

/// Actions after which a producer that got no ack sends again.
const PATIENCE: u64 = 8;

/// An id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Id {
    Given(String),
    Sequenced(u64, u64),
}

/// An event as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) source: &'static str,
    pub(crate) id: Id,
    pub(crate) event_type: &'static str,
    pub(crate) subject: &'static str,
    pub(crate) time: Timestamp,
    /// Mantissa and scale.
    pub(crate) value: Option<(i128, u8)>,
    pub(crate) labels: Labels,
    pub(crate) flaw: Flaw,
}

/// A batch.
pub(crate) struct Batch {
    pub(crate) events: Vec<Sent>,
    pub(crate) frame: Arc<AlignedBytes>,
    /// The producer knows that it is durable.
    is_acked: bool,
    sent_at: u64,
}

/// A batch on the network.
struct Message {
    arrives_at: u64,
    batch: usize,
    loses_ack: bool,
}

#[derive(Default)]
pub(crate) struct Producers {
    /// Bytes that a given id has at least.
    id_bytes: usize,
    /// Ids are of the first and the last slot only, by this key.
    crowded: Option<IdentityKey>,
    pub(crate) batches: Vec<Batch>,
    /// Batches by frame.
    by_frame: BTreeMap<Vec<u8>, usize>,
    messages: Vec<Message>,
    ids: BTreeMap<&'static str, u64>,
    sequence: (u64, u64),
    /// Events in the order in which they were made: batch and index.
    made: Vec<(usize, usize)>,
}

impl Producers {
    /// Producers whose ids have at least so many bytes, and are of two slots if there is a key.
    pub(crate) fn new(id_bytes: usize, crowded: Option<IdentityKey>) -> Self {
        Self { id_bytes, crowded, ..Self::default() }
    }

    /// The next id of a source.
    fn next_id(&mut self, source: &'static str) -> String {
        let number = self.ids.entry(source).or_default();
        loop {
            *number += 1;
            let id = format!("{number:0>width$}", width = self.id_bytes);
            let is_taken = |key: &IdentityKey| {
                let slot = slot_of(key.of_source(source).identity_of_bytes(id.as_bytes()));
                slot == 0 || slot == SLOTS - 1
            };
            if self.crowded.as_ref().is_none_or(is_taken) {
                return id;
            }
        }
    }

    /// Makes a batch and sends it.
    pub(crate) fn produce(
        &mut self,
        source: &'static str,
        event_type: &'static str,
        sequenced: Option<bool>,
        new: &[NewEvent],
        is_first_twice: bool,
        now: Timestamp,
    ) -> usize {
        if sequenced == Some(true) {
            self.sequence = (self.sequence.0 + 1, 0);
        }
        let has_huge = new.iter().any(|event| event.flaw == Flaw::Huge);
        let mut events = Vec::new();
        for event in new {
            let mut event = *event;
            if has_huge && event.flaw == Flaw::Fine {
                event.flaw = Flaw::None; // no column holds both
            }
            let id = match sequenced {
                Some(_) => {
                    self.sequence.1 += 1;
                    Id::Sequenced(self.sequence.0, self.sequence.1)
                }
                None => Id::Given(self.next_id(source)),
            };
            events.push(sent(source, id, event_type, &event, now));
        }
        if is_first_twice && sequenced.is_none() {
            events.push(events[0].clone());
        }
        let fresh = new.len();
        let batch = self.add(events);
        self.made.extend((0..fresh).map(|index| (batch, index)));
        batch
    }

    /// Sends one event again, alone; none if there is none yet.
    pub(crate) fn again(&mut self, nth: u64, again: Again) -> Option<usize> {
        let (batch, index) = *self.made.get(nth.checked_rem(self.made.len() as u64)? as usize)?;
        let mut event = self.batches[batch].events[index].clone();
        match again {
            Again::Same => {}
            Again::Rescaled => event.value = event.value.map(rescaled),
            Again::HoursLater(hours) => event.time = event.time.plus(hours * HOUR),
            Again::OtherValue => {
                event.flaw = if event.flaw == Flaw::NoSubject { event.flaw } else { Flaw::None };
                event.value = Some((event.value.map_or(0, |(mantissa, _)| mantissa / 5 % 1_000 * 5) + 5, 1));
            }
        }
        Some(self.add(vec![event]))
    }

    /// Source and id of one of all events that were made.
    pub(crate) fn nth_made(&self, nth: u64) -> Option<(&'static str, Id)> {
        let (batch, index) = *self.made.get(nth.checked_rem(self.made.len() as u64)? as usize)?;
        let sent = &self.batches[batch].events[index];
        Some((sent.source, sent.id.clone()))
    }

    fn add(&mut self, events: Vec<Sent>) -> usize {
        let number = self.batches.len();
        // The sequence of the envelope is the producer's; it makes every frame different.
        let frame = Arc::new(frame_of(&events, number as u64 + 1));
        self.by_frame.insert(frame.to_vec(), number);
        self.batches.push(Batch { events, frame, is_acked: false, sent_at: 0 });
        number
    }

    /// Puts a batch on the network.
    pub(crate) fn send(&mut self, batch: usize, way: Way, step: u64) {
        self.batches[batch].sent_at = step;
        for copy in 0..u64::from(way.copies) {
            let arrives_at = step + u64::from(way.delay) + 3 * copy;
            self.messages.push(Message { arrives_at, batch, loses_ack: way.loses_ack });
        }
    }

    /// Sends again what nobody acknowledged for long; all of it if nobody is patient any more.
    pub(crate) fn send_again(&mut self, step: u64, is_patient: bool) {
        let way = Way { copies: 1, delay: 0, loses_ack: false };
        let late: Vec<usize> = (0..self.batches.len())
            .filter(|batch| {
                let batch = &self.batches[*batch];
                !batch.is_acked && (!is_patient || step > batch.sent_at + PATIENCE)
            })
            .collect();
        for batch in late {
            self.send(batch, way, step);
        }
    }

    /// What arrives by now, in any order: batch, and whether its ack is lost.
    pub(crate) fn arrivals(&mut self, step: u64, random: &mut Random) -> VecDeque<(usize, bool)> {
        let mut arrived = VecDeque::new();
        let mut index = 0;
        while index < self.messages.len() {
            if self.messages[index].arrives_at > step {
                index += 1;
                continue;
            }
            let message = self.messages.remove(index);
            let place = random.below(arrived.len() as u64 + 1) as usize;
            arrived.insert(place, (message.batch, message.loses_ack));
        }
        arrived
    }

    pub(crate) fn take_ack(&mut self, batch: usize) {
        self.batches[batch].is_acked = true;
    }

    pub(crate) fn are_satisfied(&self) -> bool {
        self.batches.iter().all(|batch| batch.is_acked)
    }

    /// The batch of a frame.
    pub(crate) fn batch_of(&self, frame: &[u8]) -> Option<usize> {
        self.by_frame.get(frame).copied()
    }
}

fn sent(source: &'static str, id: Id, event_type: &'static str, event: &NewEvent, now: Timestamp) -> Sent {
    let value = value_of(event.halves, event.flaw);
    Sent {
        source,
        id,
        event_type,
        subject: event.subject,
        time: event.when.instant(now),
        value,
        labels: event.labels,
        flaw: event.flaw,
    }
}

/// Mantissa and scale of a value.
pub(crate) fn value_of(halves: Option<i64>, flaw: Flaw) -> Option<(i128, u8)> {
    match flaw {
        Flaw::Fine => Some((123, 20)),
        Flaw::Huge => Some((10i128.pow(30), 0)),
        _ => halves.map(|halves| (i128::from(halves) * 5, 1)),
    }
}

impl When {
    /// Seen from an instant.
    pub(crate) fn instant(self, now: Timestamp) -> Timestamp {
        match self {
            When::HoursAgo(hours) => now.plus(-hours * HOUR),
            When::At(time) => time,
        }
    }
}

/// The same number with more digits, where they fit.
fn rescaled((mantissa, scale): (i128, u8)) -> (i128, u8) {
    if scale < 20 { (mantissa * 100, scale + 2) } else { (mantissa, scale) }
}

fn frame_of(events: &[Sent], number: u64) -> AlignedBytes {
    let ids = match events[0].id {
        Id::Given(_) => IdMode::Given,
        Id::Sequenced(epoch, first) => IdMode::Sequenced { epoch, first },
    };
    let mut builder = BatchBuilder::new(events[0].source, events[0].event_type, ids).without_event_checks();
    let long = "x".repeat(300);
    for event in events {
        let id = match &event.id {
            Id::Given(id) => id.as_bytes(),
            Id::Sequenced(..) => &[],
        };
        let subject = if event.flaw == Flaw::NoSubject { "" } else { event.subject };
        let values: Vec<(&str, i128, u8)> =
            event.value.iter().map(|(mantissa, scale)| ("tokens", *mantissa, *scale)).collect();
        let mut dimensions: Vec<(&str, &str)> = event.labels.texts().collect();
        if event.flaw == Flaw::LongText {
            dimensions.retain(|(name, _)| *name != DIMENSION);
            dimensions.push((DIMENSION, &long));
        }
        builder
            .push_parts(id, subject, event.time.nanoseconds(), &values, &dimensions)
            .expect("events of a plan fit one batch");
    }
    builder.finish(number, 0)
}
