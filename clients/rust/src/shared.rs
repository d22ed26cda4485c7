//! What the calls of a client, its connection and its outbox have in common.
//!
//! Owns: the open batches, the queue behind one lock, and who is told when it changes. Leaves to others: what they do.
//!
//! Invariants: the lock is never held across an await or I/O; whoever waits sees every change; a batch gets its sequence
//! and its place in the queue in one step.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use wire::event::opaque_fits;
use wire::frame::FLAG_VERDICTS_WANTED;

use crate::queue::{Outgoing, Queue};
use crate::stats::{Counters, add};
use crate::{BatchBuilder, BuilderStatus, ClientError, ClientOptions, Event, EventIdOwned, IdMode};

/// Types of events that one client records.
const EVENT_TYPES_MAX: usize = 256;

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
}

impl Shared {
    pub(crate) fn new(options: ClientOptions) -> Self {
        let keeps = options.outbox.as_ref().map(|outbox| outbox.keeps);
        let state = State {
            builders: HashMap::new(),
            queue: Queue::new(options.memory_bytes_max, keeps),
            failed: None,
            has_connected: false,
            is_closing: false,
            must_stop: false,
            is_driver_done: false,
            is_outbox_done: keeps.is_none(),
            outbox_error: None,
        };
        Self {
            options,
            state: Mutex::new(state),
            changed: Notify::new(),
            work: Notify::new(),
            outbox_work: Condvar::new(),
            counters: Counters::default(),
        }
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
    pub(crate) async fn wait_until<T>(&self, answer: impl Fn(&mut State) -> Option<T>) -> T {
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
    pub(crate) fn take(&self, event_type: &str, event: &Event) -> Result<(), ClientError> {
        let state = &mut *self.lock();
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
            Open { builder: BatchBuilder::new(&self.options.source, event_type, ids), since: None }
        });
        let batch_events_max = self.options.batch_events_max.max(1);
        let pushed = match open.builder.len() < batch_events_max {
            true => open.builder.push(event),
            false => Err(BuilderStatus::BatchMustHaveRoom),
        };
        match pushed {
            Ok(()) => {}
            Err(BuilderStatus::Event(status)) => return Err(status.into()),
            Err(BuilderStatus::BatchMustHaveRoom) if queue.has_room() => {
                self.finish(queue, open);
                if let Err(BuilderStatus::Event(status)) = open.builder.push(event) {
                    return Err(status.into());
                }
            }
            Err(BuilderStatus::BatchMustHaveRoom) => return Err(ClientError::Full),
        }
        open.since.get_or_insert_with(Instant::now);
        add(&self.counters.recorded, 1);
        if open.builder.len() >= batch_events_max && queue.has_room() {
            self.finish(queue, open);
        }
        Ok(())
    }

    /// Makes a batch of the events of a builder; gives its sequence, or `None` if there is no room yet.
    pub(crate) fn send(&self, builder: &mut BatchBuilder) -> Option<Result<u64, ClientError>> {
        let state = &mut *self.lock();
        if let Err(error) = state.check_open() {
            return Some(Err(error));
        }
        if builder.is_empty() {
            return Some(Ok(state.queue.last_sequence()));
        }
        if !state.queue.has_room() || state.queue.ready_count() >= self.options.in_flight_max.max(1) {
            return None;
        }
        add(&self.counters.recorded, builder.len() as u64);
        Some(Ok(self.queue(&mut state.queue, builder)))
    }

    /// Makes a batch of every open batch that is old enough and has room in memory.
    pub(crate) fn finish_aged(&self, age: Duration) {
        let State { builders, queue, .. } = &mut *self.lock();
        for open in builders.values_mut().flatten().flatten() {
            let is_old = open.since.is_some_and(|since| since.elapsed() >= age);
            if is_old && queue.has_room() && !open.builder.is_empty() {
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
        self.queue(queue, &mut open.builder);
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
