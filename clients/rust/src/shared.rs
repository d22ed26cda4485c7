//! What the calls of a client, its connection and its outbox have in common.
//!
//! Owns: the open batches, the queue behind one lock, and who is told when it changes. Leaves to others: what they do.
//!
//! Invariants: the lock is never held across an await or I/O; whoever waits sees every change; a batch gets its sequence
//! and its place in the queue in one step; making a batch of what is open takes no memory that was not counted before.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use wire::event::opaque_fits;
use wire::frame::FLAG_VERDICTS_WANTED;

use crate::queue::{BATCH_BYTES, Outgoing, Queue};
use crate::stats::{Counters, add};
use crate::tls::Secrets;
use crate::{
    BatchBuilder, BuilderStatus, ClientError, ClientOptions, ConnectionState, Event, EventIdOwned, IdMode,
};

/// Types of events that one client records.
const EVENT_TYPES_MAX: usize = 256;
/// Columns grow by doubling: an open batch takes up to twice the bytes of its events.
const OPEN_FACTOR: usize = 2;
/// Part of all memory that open batches may keep for their next events when they are sent.
const KEPT_SHARE: usize = 4;

pub(crate) struct Shared {
    pub(crate) options: ClientOptions,
    state: Mutex<State>,
    /// Something changed that a caller may wait for.
    pub(crate) changed: Notify,
    /// The connection may have something to do.
    pub(crate) work: Notify,
    outbox_work: Condvar,
    pub(crate) counters: Counters,
}

pub(crate) struct State {
    /// Open batches by event type: those whose ids are minted, and those whose ids are given.
    builders: HashMap<String, [Option<Open>; 2]>,
    pub(crate) queue: Queue,
    pub(crate) failed: Option<ClientError>,
    pub(crate) has_connected: bool,
    pub(crate) connection: ConnectionState,
    pub(crate) secrets: Secrets,
    /// No more events are taken; the connection ends when everything is acknowledged.
    pub(crate) is_closing: bool,
    /// The connection ends now.
    pub(crate) must_stop: bool,
    pub(crate) is_driver_done: bool,
    pub(crate) is_outbox_done: bool,
    pub(crate) outbox_error: Option<String>,
}

struct Open {
    builder: BatchBuilder,
    since: Option<Instant>,
    /// Bytes that are counted for it.
    bytes: usize,
}

impl Open {
    /// Counts one more event; what the last batch left is counted already.
    fn count_one(&mut self, queue: &mut Queue) {
        let bytes = OPEN_FACTOR * self.builder.frame_bytes_bound() + BATCH_BYTES;
        let now = self.bytes.max(bytes);
        queue.take_open(std::mem::replace(&mut self.bytes, now), now);
    }

    /// Bytes that its frame may have, if so much more is taken.
    fn frame_bytes_max(&self, room: usize) -> usize {
        (self.bytes + room).saturating_sub(BATCH_BYTES) / OPEN_FACTOR
    }
}

impl Shared {
    pub(crate) fn new(options: ClientOptions) -> Result<Self, ClientError> {
        let keeps = options.outbox.as_ref().map(|outbox| outbox.keeps);
        let state = State {
            builders: HashMap::new(),
            queue: Queue::new(options.memory_bytes_max, keeps),
            failed: None,
            has_connected: false,
            connection: ConnectionState::default(),
            secrets: Secrets::new(&options)?,
            is_closing: false,
            must_stop: false,
            is_driver_done: false,
            is_outbox_done: keeps.is_none(),
            outbox_error: None,
        };
        Ok(Self {
            options,
            state: Mutex::new(state),
            changed: Notify::new(),
            work: Notify::new(),
            outbox_work: Condvar::new(),
            counters: Counters::default(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the state")
    }

    /// Tells everyone who waits that the state changed.
    pub(crate) fn tell(&self) {
        self.changed.notify_waiters();
        self.work.notify_one();
        self.outbox_work.notify_one();
    }

    /// Waits until the state has an answer. Cancelled, it changed nothing.
    pub(crate) async fn wait_until<T>(&self, mut answer: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut changed = std::pin::pin!(self.changed.notified());
        loop {
            // From here no change is missed.
            changed.as_mut().enable();
            if let Some(answer) = answer(&mut self.lock()) {
                return answer;
            }
            changed.as_mut().await;
            changed.set(self.changed.notified());
        }
    }

    pub(crate) fn wait_for_outbox_work<'a>(
        &self,
        state: MutexGuard<'a, State>,
        at_most: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        let unpoisoned = "nothing panics while it holds the state";
        match at_most {
            None => self.outbox_work.wait(state).expect(unpoisoned),
            Some(at_most) => self.outbox_work.wait_timeout(state, at_most).expect(unpoisoned).0,
        }
    }

    /// Takes an event into its open batch, or says why not.
    pub(crate) fn take(&self, state: &mut State, event_type: &str, event: &Event) -> Result<(), ClientError> {
        state.check_open()?;
        if !state.builders.contains_key(event_type) {
            if !opaque_fits(event_type.as_bytes()) {
                return Err(ClientError::EventTypeMustFit);
            }
            if state.builders.len() == EVENT_TYPES_MAX {
                return Err(ClientError::EventTypesMustFit);
            }
            state.builders.insert(event_type.to_string(), [None, None]);
        }
        let is_given = event.id != EventIdOwned::Minted;
        let State { builders, queue, .. } = state;
        let slot = &mut builders.get_mut(event_type).expect("it was just made")[usize::from(is_given)];
        let open = slot.get_or_insert_with(|| {
            let ids = if is_given { IdMode::Given } else { minted() };
            Open { builder: BatchBuilder::new(&self.options.source, event_type, ids), since: None, bytes: 0 }
        });
        let batch_events_max = self.options.batch_events_max.max(1);
        let mut pushed = push(queue, open, batch_events_max, event);
        if pushed == Err(BuilderStatus::BatchMustHaveRoom) && !open.builder.is_empty() {
            self.finish(queue, open);
            pushed = push(queue, open, batch_events_max, event);
        }
        if pushed == Err(BuilderStatus::BatchMustHaveRoom) && queue.is_empty() {
            // One event is taken whatever it needs, so that none waits for ever.
            pushed = open.builder.push(event);
        }
        match pushed {
            Ok(()) => {}
            Err(BuilderStatus::BatchMustHaveRoom) => return Err(ClientError::Full),
            Err(BuilderStatus::Event(status)) => return Err(status.into()),
        }
        open.count_one(queue);
        open.since.get_or_insert_with(Instant::now);
        add(&self.counters.recorded, 1);
        if open.builder.len() >= batch_events_max {
            self.finish(queue, open);
        }
        Ok(())
    }

    /// Makes a batch of the events of a builder; gives its sequence, or `None` if there is no room yet.
    pub(crate) fn send(
        &self,
        state: &mut State,
        builder: &mut BatchBuilder,
    ) -> Option<Result<u64, ClientError>> {
        if let Err(error) = state.check_open() {
            return Some(Err(error));
        }
        if builder.is_empty() {
            return Some(Ok(state.queue.last_sequence()));
        }
        let has_room =
            state.queue.is_empty() || builder.frame_bytes_bound() + BATCH_BYTES <= state.queue.room();
        if !has_room || state.queue.ready_count() >= self.options.in_flight_max.max(1) {
            return None;
        }
        add(&self.counters.recorded, builder.len() as u64);
        Some(Ok(self.queue(&mut state.queue, builder)))
    }

    /// Makes a batch of every open batch that is old enough.
    pub(crate) fn finish_aged(&self, age: Duration) {
        let State { builders, queue, .. } = &mut *self.lock();
        for open in builders.values_mut().flatten().flatten() {
            if open.since.is_some_and(|since| since.elapsed() >= age) {
                self.finish(queue, open);
            }
        }
    }

    /// Makes a batch of every open batch, for a caller that waits for them; gives the last sequence.
    pub(crate) fn finish_all(&self) -> u64 {
        self.finish_all_of(&mut self.lock())
    }

    fn finish_all_of(&self, state: &mut State) -> u64 {
        let State { builders, queue, .. } = state;
        for open in builders.values_mut().flatten().flatten() {
            if !open.builder.is_empty() {
                self.finish(queue, open);
            }
        }
        queue.last_sequence()
    }

    /// Takes no more events; what was taken goes its way.
    pub(crate) fn begin_to_close(&self) {
        let mut state = self.lock();
        // The driver must not see a client that closes before it sees the last batches.
        self.finish_all_of(&mut state);
        state.is_closing = true;
        drop(state);
        self.tell();
    }

    fn finish(&self, queue: &mut Queue, open: &mut Open) {
        open.since = None;
        let is_affordable = queue.open_bytes() <= self.options.memory_bytes_max / KEPT_SHARE
            && queue.room() >= open.builder.frame_bytes_bound() + BATCH_BYTES;
        let left = if is_affordable { open.bytes } else { 0 };
        queue.give_open(open.builder.len(), std::mem::replace(&mut open.bytes, left), left);
        self.queue(queue, &mut open.builder);
        if !is_affordable {
            open.builder.release();
        }
        // Whoever waits for room may find some.
        self.changed.notify_waiters();
    }

    fn queue(&self, queue: &mut Queue, builder: &mut BatchBuilder) -> u64 {
        let (sequence, events) = (queue.next_sequence(), builder.len());
        let flags = if self.options.verdicts { FLAG_VERDICTS_WANTED } else { 0 };
        let frame = Bytes::from_owner(builder.finish(sequence, flags));
        let (stored, is_again) = (None, false);
        queue.push(Outgoing { sequence, events, frame, queued_at: Instant::now(), stored, is_again });
        self.work.notify_one();
        self.outbox_work.notify_one();
        sequence
    }
}

/// Puts an event into an open batch, as far as its events and all memory allow.
fn push(queue: &Queue, open: &mut Open, batch_events_max: usize, event: &Event) -> Result<(), BuilderStatus> {
    if open.builder.len() >= batch_events_max {
        return Err(BuilderStatus::BatchMustHaveRoom);
    }
    let frame_bytes_max = open.frame_bytes_max(queue.room());
    open.builder.push_within(event, frame_bytes_max)
}

impl State {
    pub(crate) fn check_open(&self) -> Result<(), ClientError> {
        match &self.failed {
            Some(failed) => Err(failed.clone()),
            None if self.is_closing => Err(ClientError::Closed),
            None => Ok(()),
        }
    }

    /// Whether nothing up to a sequence waits for its ack.
    pub(crate) fn is_acked(&self, sequence: u64) -> bool {
        self.queue.first_unacked().is_none_or(|first| first > sequence)
    }
}

/// Ids of a run of their own.
fn minted() -> IdMode {
    let mut epoch = [0; 8];
    getrandom::fill(&mut epoch).expect("the operating system gives random bytes");
    IdMode::Sequenced { epoch: u64::from_le_bytes(epoch), first: 0 }
}
