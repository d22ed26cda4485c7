//! The thread of an outbox: writes what waits for it, syncs, reads back, takes away.
//!
//! Owns: when each of these happens. Leaves to others: where batches are (`queue`), bytes and files (`super`).
//!
//! Invariants: the only thread that touches the files; a failure is counted, logged and told to whoever asks whether
//! something is stored, and is tried again, in a new file, no sooner than [`RETRY`] later.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use wire::frame::FLAG_VERDICTS_WANTED;
use wire::{AlignedBytes, FRAME_HEADER_BYTES, FrameHeader};

use super::{Outbox, Position, Stored};
use crate::SyncPolicy;
use crate::queue::{Kept, Outgoing};
use crate::shared::{Shared, State};
use crate::stats::add;

/// Pause after a failure.
const RETRY: Duration = Duration::from_millis(500);
/// Acks are noted no more often than this; a crash sends again what was acknowledged since.
const MARK_EVERY: Duration = Duration::from_millis(100);
/// Bytes that are written together.
const GROUP_BYTES: usize = 4 << 20;

pub(crate) struct Keeper<'a> {
    shared: &'a Shared,
    outbox: Outbox,
    sync: SyncPolicy,
    /// Nothing is stored before this, after a failure.
    store_at: Option<Instant>,
    /// Nothing is read back before this, after a failure.
    read_at: Option<Instant>,
    /// Whether what is left was tried once nothing is sent any more.
    is_ending: bool,
    sync_at: Option<Instant>,
    mark_at: Instant,
    marked: Position,
    /// Sequences of recovered batches that were read back.
    recovered: u64,
}

enum Work {
    Store(Vec<Bytes>),
    Refill(usize),
    Mark(Position),
    Sync,
    End(Position),
}

/// Serves the client until nothing is sent any more and nothing is left to store.
pub(crate) fn run(shared: &Shared, outbox: Outbox, sync: SyncPolicy) {
    let now = Instant::now();
    let mut keeper = Keeper {
        shared,
        outbox,
        sync,
        store_at: None,
        read_at: None,
        is_ending: false,
        sync_at: None,
        mark_at: now,
        marked: Position::default(),
        recovered: 0,
    };
    loop {
        match keeper.next_work() {
            Work::Store(frames) => keeper.store(&frames),
            Work::Refill(bytes) => keeper.refill(bytes),
            Work::Mark(acked) => keeper.mark(acked),
            Work::Sync => keeper.sync(),
            Work::End(acked) => {
                if let Err(error) = keeper.outbox.close(acked) {
                    shared.note_outbox_failure(&mut shared.lock(), &error);
                }
                break;
            }
        }
    }
    shared.lock().is_outbox_done = true;
    shared.changed.notify_waiters();
}

impl Keeper<'_> {
    fn next_work(&mut self) -> Work {
        let mut state = self.shared.lock();
        loop {
            let now = Instant::now();
            self.store_at = self.store_at.filter(|at| *at > now);
            self.read_at = self.read_at.filter(|at| *at > now);
            if state.is_driver_done && !std::mem::replace(&mut self.is_ending, state.is_driver_done) {
                self.store_at = None;
            }
            if let Some(work) = self.work_of(&mut state, now) {
                return work;
            }
            let mark_at = (state.queue.acked_to() > self.marked).then_some(self.mark_at);
            let read_at = self.read_at.filter(|_| state.queue.wants_refill());
            let next = [self.store_at, read_at, self.sync_at, mark_at].into_iter().flatten().min();
            state = self.shared.wait_for_outbox_work(state, next.map(|at| at.saturating_duration_since(now)));
        }
    }

    fn work_of(&self, state: &mut State, now: Instant) -> Option<Work> {
        if self.store_at.is_none() && state.queue.has_unstored() {
            return Some(Work::Store(state.queue.unstored(GROUP_BYTES)));
        }
        if self.read_at.is_none() && state.queue.wants_refill() {
            return Some(Work::Refill(state.queue.begin_refill()));
        }
        let acked = state.queue.acked_to();
        if state.is_driver_done {
            // After a failure there is nobody to wait for.
            return Some(Work::End(acked));
        }
        if self.sync_at.is_some_and(|at| at <= now) {
            return Some(Work::Sync);
        }
        (acked > self.marked && self.mark_at <= now).then_some(Work::Mark(acked))
    }

    fn store(&mut self, frames: &[Bytes]) {
        let mut ends = Vec::with_capacity(frames.len());
        let mut failed = None;
        for frame in frames {
            match self.outbox.append(frame) {
                Ok(end) => ends.push(end),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        match self.sync {
            SyncPolicy::EachBatch => {
                if let Err(error) = self.outbox.sync() {
                    ends.clear();
                    failed = Some(error);
                }
            }
            SyncPolicy::Every(interval) if self.outbox.is_dirty() => {
                self.sync_at.get_or_insert(Instant::now() + interval);
            }
            _ => {}
        }
        let mut state = self.shared.lock();
        for end in ends {
            let (kept, events) = state.queue.on_stored(end);
            add(&self.shared.counters.stored, events);
            match kept {
                Kept::InMemory => self.outbox.set_cursor(end),
                Kept::OnDisk => add(&self.shared.counters.spilled, events),
            }
        }
        match failed {
            None => state.outbox_error = None,
            Some(error) => {
                state.queue.on_store_failed();
                self.shared.note_outbox_failure(&mut state, &error);
                self.store_at = Some(Instant::now() + RETRY);
            }
        }
        drop(state);
        self.shared.work.notify_one();
        self.shared.changed.notify_waiters();
    }

    fn refill(&mut self, bytes_max: usize) {
        let (mut batches, mut bytes, mut is_at_end, mut failed) = (Vec::new(), 0, false, None);
        while bytes < bytes_max {
            match self.outbox.read() {
                Ok(Some(stored)) => {
                    bytes += stored.frame.len();
                    batches.push(self.outgoing_of(stored));
                }
                Ok(None) => {
                    is_at_end = true;
                    break;
                }
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        let damaged = self.outbox.damaged_bytes();
        self.shared.counters.outbox_damaged_bytes.fetch_max(damaged, Ordering::Relaxed);
        let mut state = self.shared.lock();
        let lost = state.queue.on_refilled(batches, is_at_end);
        if lost > 0 {
            tracing::error!("{lost} events lay in damaged records of the outbox; the files are kept");
        }
        if let Some(error) = failed {
            self.shared.note_outbox_failure(&mut state, &error);
            self.read_at = Some(Instant::now() + RETRY);
        }
        drop(state);
        self.shared.work.notify_one();
        self.shared.changed.notify_waiters();
    }

    /// A batch of an earlier process gets a sequence and the wishes of this one; its events stay as they are.
    fn outgoing_of(&mut self, stored: Stored) -> Outgoing {
        let Stored { mut frame, end, is_recovered } = stored;
        let mut header = FrameHeader::decode_slice(&frame).expect("a record holds what was checked before");
        if is_recovered {
            self.recovered += 1;
            let flags = if self.shared.options.verdicts { FLAG_VERDICTS_WANTED } else { 0 };
            header = with_sequence(&mut frame, &header, self.recovered, flags);
        }
        Outgoing {
            sequence: header.sequence,
            events: header.count as usize,
            frame: Bytes::from_owner(frame),
            queued_at: Instant::now(),
            stored: Some(end),
            is_again: is_recovered,
        }
    }

    fn mark(&mut self, acked: Position) {
        self.marked = acked;
        self.mark_at = Instant::now() + MARK_EVERY;
        let marked = self.outbox.mark_acked(acked).and_then(|()| self.outbox.remove_acked(acked));
        if let Err(error) = marked {
            self.shared.note_outbox_failure(&mut self.shared.lock(), &error);
        }
    }

    fn sync(&mut self) {
        self.sync_at = None;
        if let Err(error) = self.outbox.sync() {
            self.shared.note_outbox_failure(&mut self.shared.lock(), &error);
        }
    }
}

fn with_sequence(frame: &mut AlignedBytes, header: &FrameHeader, sequence: u64, flags: u32) -> FrameHeader {
    let (head, body) = frame.as_mut_slice().split_at_mut(FRAME_HEADER_BYTES);
    let header = FrameHeader::for_body(header.schema, header.count, sequence, flags, body);
    head.copy_from_slice(&header.encode());
    header
}

impl Shared {
    pub(crate) fn note_outbox_failure(&self, state: &mut State, error: &io::Error) {
        add(&self.counters.outbox_failures, 1);
        if state.outbox_error.is_none() {
            tracing::error!("the outbox fails; batches stay in memory: {error}");
        }
        state.outbox_error = Some(error.to_string());
    }
}
