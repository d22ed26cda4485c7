//! The batches of a client between the builder and the ack, as a state machine without I/O.
//!
//! Owns: their order, where each of them is, how much memory they and the open ones take. Leaves to others: sockets
//! (`connection`), files (`outbox`), waiting (`shared`).
//!
//! ```text
//!  builder ─▶ unstored ─▶ outbox ─▶ spilled (on disk) ─▶ ready ─▶ sent ─▶ acked
//!        └───────────────────┴──── memory has room ────▶┘
//! ```
//!
//! Invariants:
//! - Sequences rise from `sent` over `ready` and `spilled` to `unstored`; a connection sees them rise.
//! - A batch leaves memory only when it is acknowledged or the outbox has it.
//! - While anything is spilled, nothing goes from memory past it.
//! - What is taken fits `memory_bytes_max` beside all that is there; what is read back may pass it by one batch.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use crate::Keeps;
use crate::outbox::Position;

/// What a batch costs in memory besides its frame: its places in lists and its allocations.
pub(crate) const BATCH_BYTES: usize = 512;

/// A finished batch in memory.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) sequence: u64,
    pub(crate) events: usize,
    pub(crate) frame: Bytes,
    /// When it was made, or read back.
    pub(crate) queued_at: Instant,
    /// Where it ends in the outbox.
    pub(crate) stored: Option<Position>,
    /// Whether it may have been sent before.
    pub(crate) is_again: bool,
}

impl Outgoing {
    pub(crate) fn bytes(&self) -> usize {
        self.frame.len() + BATCH_BYTES
    }
}

/// Where a batch is once it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    InMemory,
    OnDisk,
}

pub(crate) struct Queue {
    memory_bytes_max: usize,
    /// What the outbox is for, if there is one.
    keeps: Option<Keeps>,
    unstored: VecDeque<Outgoing>,
    spilled: Option<Spilled>,
    ready: VecDeque<Outgoing>,
    sent: VecDeque<Outgoing>,
    /// Bytes of batches, by where they are; of those that wait for verdicts, and of open ones, as their owners say.
    unstored_bytes: usize,
    ready_bytes: usize,
    sent_bytes: usize,
    undecided_bytes: usize,
    open_bytes: usize,
    open_events: usize,
    /// Bytes that are being read back.
    refilling_bytes: usize,
    /// The last sequence that was given.
    last: u64,
    /// Events of batches that are not acknowledged and not in the outbox, by sequence.
    unkept: BTreeMap<u64, u64>,
    /// Before this everything in the outbox is acknowledged.
    acked_to: Position,
    /// Nothing is sent any more; what is left goes to the outbox.
    is_over: bool,
}

/// Batches that are only on disk.
#[derive(Clone, Copy, Debug)]
struct Spilled {
    /// None of them has a smaller sequence.
    first: u64,
    events: u64,
}

impl Queue {
    pub(crate) fn new(memory_bytes_max: usize, keeps: Option<Keeps>) -> Self {
        Self {
            memory_bytes_max,
            keeps,
            unstored: VecDeque::new(),
            spilled: None,
            ready: VecDeque::new(),
            sent: VecDeque::new(),
            unstored_bytes: 0,
            ready_bytes: 0,
            sent_bytes: 0,
            undecided_bytes: 0,
            open_bytes: 0,
            open_events: 0,
            refilling_bytes: 0,
            last: 0,
            unkept: BTreeMap::new(),
            acked_to: Position::default(),
            is_over: false,
        }
    }

    /// Takes over what an earlier process left: so many batches on disk, which get the first sequences.
    pub(crate) fn recover(&mut self, batches: u64, events: u64) {
        self.last = batches;
        self.spilled = (batches > 0).then_some(Spilled { first: 1, events });
    }

    /// The sequence of the next batch.
    pub(crate) fn next_sequence(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(crate) fn last_sequence(&self) -> u64 {
        self.last
    }

    /// Bytes that may be taken besides those that are there. While anything is spilled, some are kept for reading it back.
    pub(crate) fn room(&self) -> usize {
        let moving = self.ready_bytes + self.sent_bytes + self.undecided_bytes + self.refilling_bytes;
        let kept = if self.spilled.is_some() { self.memory_bytes_max / 4 } else { 0 };
        let taken = self.open_bytes + self.unstored_bytes + moving.max(kept);
        self.memory_bytes_max.saturating_sub(taken)
    }

    /// Whether no event is in memory.
    pub(crate) fn is_empty(&self) -> bool {
        self.batch_bytes() == 0 && self.open_events == 0
    }

    /// Batches that wait to be sent.
    pub(crate) fn ready_count(&self) -> usize {
        self.ready.len() + self.unstored.len()
    }

    /// Bytes of everything in memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.batch_bytes() + self.open_bytes
    }

    fn batch_bytes(&self) -> usize {
        self.unstored_bytes + self.ready_bytes + self.sent_bytes + self.undecided_bytes + self.refilling_bytes
    }

    fn is_half_full(&self) -> bool {
        self.batch_bytes() > self.memory_bytes_max / 2
    }

    /// An open batch has one more event, and so many bytes now.
    pub(crate) fn take_open(&mut self, before: usize, now: usize) {
        self.open_bytes = self.open_bytes + now - before;
        self.open_events += 1;
    }

    /// An open batch gives up its events, and keeps so many bytes.
    pub(crate) fn give_open(&mut self, events: usize, before: usize, now: usize) {
        self.open_bytes = self.open_bytes + now - before;
        self.open_events -= events;
    }

    pub(crate) fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// A batch is acknowledged and stays for its verdicts.
    pub(crate) fn begin_to_decide(&mut self, bytes: usize) {
        self.undecided_bytes += bytes;
    }

    /// Its verdicts came, or do not come any more.
    pub(crate) fn on_decided(&mut self, bytes: usize) {
        self.undecided_bytes -= bytes;
    }

    /// Takes a batch whose sequence is the last one given.
    pub(crate) fn push(&mut self, outgoing: Outgoing) {
        assert_eq!(outgoing.sequence, self.last, "batches are queued in the order of their sequences");
        self.unkept.insert(outgoing.sequence, outgoing.events as u64);
        let is_half_full = self.batch_bytes() + outgoing.bytes() > self.memory_bytes_max / 2;
        let is_written = match self.keeps {
            None => false,
            Some(Keeps::Everything) => true,
            Some(Keeps::Overflow) => is_half_full || self.spilled.is_some() || !self.unstored.is_empty(),
        };
        match is_written {
            true => {
                self.unstored_bytes += outgoing.bytes();
                self.unstored.push_back(outgoing);
            }
            false => self.make_ready(outgoing),
        }
    }

    fn make_ready(&mut self, outgoing: Outgoing) {
        self.ready_bytes += outgoing.bytes();
        self.ready.push_back(outgoing);
    }

    /// The first batches that wait for the outbox.
    pub(crate) fn unstored(&self, bytes_max: usize) -> Vec<Bytes> {
        let mut bytes = 0;
        let fits = |outgoing: &&Outgoing| {
            let is_first = bytes == 0;
            bytes += outgoing.bytes();
            is_first || bytes <= bytes_max
        };
        self.unstored.iter().take_while(fits).map(|outgoing| outgoing.frame.clone()).collect()
    }

    pub(crate) fn has_unstored(&self) -> bool {
        !self.unstored.is_empty()
    }

    /// The first of the unstored batches is in the outbox now; gives where it is, and its events.
    pub(crate) fn on_stored(&mut self, end: Position) -> (Kept, u64) {
        let is_half_full = self.is_half_full();
        let mut outgoing = self.pop_unstored().expect("what was stored waited for it");
        self.unkept.remove(&outgoing.sequence);
        outgoing.stored = Some(end);
        if self.spilled.is_none() && !is_half_full && !self.is_over {
            let events = outgoing.events as u64;
            self.make_ready(outgoing);
            return (Kept::InMemory, events);
        }
        self.spill(&outgoing);
        (Kept::OnDisk, outgoing.events as u64)
    }

    fn pop_unstored(&mut self) -> Option<Outgoing> {
        let outgoing = self.unstored.pop_front()?;
        self.unstored_bytes -= outgoing.bytes();
        Some(outgoing)
    }

    /// Counts a batch that the outbox has and that left memory.
    fn spill(&mut self, outgoing: &Outgoing) {
        let spilled = self.spilled.get_or_insert(Spilled { first: outgoing.sequence, events: 0 });
        spilled.events += outgoing.events as u64;
    }

    /// The outbox takes no more for now: what waits for it is sent from memory, unless something on disk comes first.
    pub(crate) fn on_store_failed(&mut self) {
        if self.spilled.is_none() && !self.is_over {
            while let Some(outgoing) = self.pop_unstored() {
                self.make_ready(outgoing);
            }
        }
    }

    /// Whether batches should be read back: there is room, or nothing is on its way that could make some.
    pub(crate) fn wants_refill(&self) -> bool {
        let is_needed =
            self.spilled.is_some() && !self.is_over && self.ready_bytes <= self.memory_bytes_max / 8;
        let is_idle = self.ready.is_empty() && self.sent.is_empty();
        is_needed && (is_idle || self.memory_bytes() < self.memory_bytes_max)
    }

    /// Bytes that a refill should read, at least one batch; they are kept free until [`Queue::on_refilled`].
    pub(crate) fn begin_refill(&mut self) -> usize {
        let room = self.memory_bytes_max.saturating_sub(self.memory_bytes());
        self.refilling_bytes = room.min(self.memory_bytes_max / 8);
        self.refilling_bytes.max(1)
    }

    /// Takes what was read back; at the end of the outbox nothing is spilled any more. Gives the events that were lost
    /// with damaged records.
    pub(crate) fn on_refilled(&mut self, batches: Vec<Outgoing>, is_at_end: bool) -> u64 {
        self.refilling_bytes = 0;
        for outgoing in batches {
            if let Some(spilled) = &mut self.spilled {
                spilled.first = outgoing.sequence + 1;
                spilled.events = spilled.events.saturating_sub(outgoing.events as u64);
            }
            self.make_ready(outgoing);
        }
        if is_at_end { self.spilled.take().map_or(0, |spilled| spilled.events) } else { 0 }
    }

    /// The next batch to send, if fewer than so many wait for their ack, and take less than half of memory; it stays here
    /// until its ack.
    pub(crate) fn send_next(&mut self, in_flight_max: usize) -> Option<Outgoing> {
        // What waits for acks leaves room for what is read back and for what is recorded.
        let has_room = self.sent.len() < in_flight_max && self.sent_bytes <= self.memory_bytes_max / 2;
        let outgoing = self.ready.pop_front_if(|_| has_room || self.sent.is_empty())?;
        self.ready_bytes -= outgoing.bytes();
        self.sent_bytes += outgoing.bytes();
        self.sent.push_back(Outgoing { is_again: true, ..outgoing.clone() });
        Some(outgoing)
    }

    /// A new connection sends again, in order, what the last one sent.
    pub(crate) fn send_again(&mut self) {
        while let Some(outgoing) = self.sent.pop_back() {
            self.ready.push_front(outgoing);
        }
        self.ready_bytes += std::mem::take(&mut self.sent_bytes);
    }

    /// The ack of a batch; `None` if it is not that of the oldest batch that was sent.
    pub(crate) fn on_acked(&mut self, sequence: u64) -> Option<Outgoing> {
        let outgoing = self.sent.pop_front_if(|oldest| oldest.sequence == sequence)?;
        self.sent_bytes -= outgoing.bytes();
        self.unkept.remove(&sequence);
        if let Some(end) = outgoing.stored {
            self.acked_to = self.acked_to.max(end);
        }
        Some(outgoing)
    }

    /// Before this everything in the outbox is acknowledged.
    pub(crate) fn acked_to(&self) -> Position {
        self.acked_to
    }

    /// The first sequence without an ack.
    pub(crate) fn first_unacked(&self) -> Option<u64> {
        let first = |batches: &VecDeque<Outgoing>| batches.front().map(|outgoing| outgoing.sequence);
        let spilled = self.spilled.map(|spilled| spilled.first);
        first(&self.sent).or(first(&self.ready)).or(spilled).or(first(&self.unstored))
    }

    /// The first sequence that is neither acknowledged nor in the outbox.
    pub(crate) fn first_unkept(&self) -> Option<u64> {
        self.unkept.first_key_value().map(|(sequence, _)| *sequence)
    }

    /// Events without an ack, and those of them that the outbox has.
    pub(crate) fn events_left(&self) -> (u64, u64) {
        let in_memory = self.sent.iter().chain(&self.ready).chain(&self.unstored);
        let spilled = self.spilled.map_or(0, |spilled| spilled.events);
        let unacked = in_memory.map(|outgoing| outgoing.events as u64).sum::<u64>() + spilled;
        (unacked, unacked - self.unkept.values().sum::<u64>())
    }

    /// Nothing is sent any more: what the outbox does not have waits for it.
    pub(crate) fn end(&mut self) {
        if self.is_over {
            return;
        }
        self.is_over = true;
        if self.keeps.is_none() {
            return;
        }
        let mut left: VecDeque<Outgoing> = self.sent.drain(..).chain(self.ready.drain(..)).collect();
        left.append(&mut self.unstored);
        (self.ready_bytes, self.sent_bytes) = (0, 0);
        let (stored, unstored): (VecDeque<_>, VecDeque<_>) =
            left.into_iter().partition(|outgoing| outgoing.stored.is_some());
        // What is stored needs no memory any more; it counts as spilled.
        for outgoing in &stored {
            self.spill(outgoing);
        }
        self.unstored_bytes = unstored.iter().map(Outgoing::bytes).sum();
        self.unstored = unstored;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outgoing(queue: &mut Queue) -> Outgoing {
        let sequence = queue.next_sequence();
        let frame = Bytes::from(vec![0; 1_000 - BATCH_BYTES]);
        Outgoing { sequence, events: 1, frame, queued_at: Instant::now(), stored: None, is_again: false }
    }

    fn push(queue: &mut Queue, count: usize) {
        for _ in 0..count {
            let outgoing = outgoing(queue);
            queue.push(outgoing);
        }
    }

    fn drain(queue: &mut Queue) -> Vec<u64> {
        let mut acked = Vec::new();
        while let Some(sent) = queue.send_next(1) {
            acked.push(queue.on_acked(sent.sequence).unwrap().sequence);
        }
        acked
    }

    fn at(offset: u64) -> Position {
        Position { file: 0, offset }
    }

    #[test]
    fn memory_has_an_end() {
        let mut queue = Queue::new(3_500, None);
        queue.take_open(0, 500);
        push(&mut queue, 3);
        assert_eq!(queue.room(), 0);
        queue.send_next(9).unwrap();
        assert_eq!(queue.room(), 0, "a batch takes memory until its ack");
        queue.on_acked(1).unwrap();
        assert_eq!(queue.room(), 1_000);
        queue.begin_to_decide(1_000);
        assert_eq!(queue.room(), 0, "and until its verdicts, where these are wanted");
        queue.on_decided(1_000);
        queue.give_open(1, 500, 0);
        assert_eq!((queue.room(), queue.memory_bytes()), (1_500, 2_000));
        assert_eq!(queue.events_left(), (2, 0));
    }

    #[test]
    fn acks_come_in_order_and_a_new_connection_sends_again_in_order() {
        let mut queue = Queue::new(10_000, None);
        push(&mut queue, 4);
        assert_eq!((queue.send_next(2).unwrap().sequence, queue.send_next(2).unwrap().sequence), (1, 2));
        assert!(queue.send_next(2).is_none(), "two are in flight");
        assert!(queue.on_acked(2).is_none(), "the first is older");
        queue.send_again();
        let again = queue.send_next(2).unwrap();
        assert!(again.is_again && again.sequence == 1);
        queue.on_acked(1).unwrap();
        assert_eq!(drain(&mut queue), [2, 3, 4]);
        assert_eq!((queue.first_unacked(), queue.memory_bytes()), (None, 0));
    }

    #[test]
    fn what_does_not_fit_half_of_memory_is_read_back_in_its_turn() {
        let mut queue = Queue::new(8_000, Some(Keeps::Everything));
        push(&mut queue, 7);
        let kept: Vec<Kept> = (1..=7).map(|end| queue.on_stored(at(end)).0).collect();
        assert_eq!(
            kept.iter().filter(|kept| **kept == Kept::OnDisk).count(),
            7,
            "all behind the first spilled"
        );
        assert_eq!((queue.first_unkept(), queue.first_unacked()), (None, Some(1)));
        assert_eq!(queue.events_left(), (7, 7));
        assert!(queue.wants_refill());
        push(&mut queue, 1);
        assert_eq!(queue.on_stored(at(8)).0, Kept::OnDisk, "nothing passes what is spilled");
        let mut read = |sequences: std::ops::RangeInclusive<u64>, is_at_end| {
            let batches = sequences.map(|sequence| Outgoing {
                sequence,
                events: 1,
                frame: Bytes::from(vec![0; 1_000 - BATCH_BYTES]),
                queued_at: Instant::now(),
                stored: Some(at(sequence)),
                is_again: false,
            });
            queue.on_refilled(batches.collect(), is_at_end)
        };
        assert_eq!((read(1..=3, false), read(4..=8, true)), (0, 0));
        assert_eq!(drain(&mut queue), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((queue.acked_to(), queue.memory_bytes()), (at(8), 0));
    }

    /// Batches that were sent once filled memory, and the client waited for a server although its outbox had room.
    #[test]
    fn while_nothing_is_acknowledged_an_outbox_takes_what_comes() {
        let mut queue = Queue::new(10_000, Some(Keeps::Everything));
        let mut disk = VecDeque::new();
        for number in 0..200 {
            assert!(queue.room() >= 1_000, "after {number} batches");
            push(&mut queue, 1);
            let stored = queue.unstored.front().unwrap().clone();
            if queue.on_stored(at(number)).0 == Kept::OnDisk {
                disk.push_back(stored);
            }
            while queue.send_next(32).is_some() {}
            if queue.wants_refill() {
                queue.begin_refill();
                let batches = disk.drain(..disk.len().min(2)).collect();
                queue.on_refilled(batches, disk.is_empty());
            }
        }
        queue.send_again();
        assert!(queue.room() >= 1_000 && queue.events_left() == (200, 200));
    }

    /// What was read back lay above all that was taken meanwhile.
    #[test]
    fn reading_back_and_taking_share_what_memory_there_is() {
        let mut queue = Queue::new(16_000, Some(Keeps::Everything));
        queue.recover(100, 100);
        let mut disk: VecDeque<u64> = (1..=100).collect();
        while queue.room() >= 1_000 {
            push(&mut queue, 1);
        }
        assert_eq!(queue.memory_bytes(), 12_000, "a quarter is kept for what is read back");
        for _ in 0..500 {
            if queue.wants_refill() {
                let bytes = queue.begin_refill();
                while queue.room() >= 1_000 {
                    push(&mut queue, 1);
                }
                let batches = disk.drain(..disk.len().min(bytes.div_ceil(1_000))).map(|sequence| Outgoing {
                    sequence,
                    events: 1,
                    frame: Bytes::from(vec![0; 1_000 - BATCH_BYTES]),
                    queued_at: Instant::now(),
                    stored: Some(at(sequence)),
                    is_again: true,
                });
                queue.on_refilled(batches.collect(), disk.is_empty());
            }
            assert!(queue.memory_bytes() <= 17_000, "{}", queue.memory_bytes());
            if let Some(sent) = queue.send_next(4) {
                queue.on_acked(sent.sequence).unwrap();
            }
        }
        assert_eq!((disk.len(), queue.spilled.is_none()), (0, true), "and all of it comes back");
    }

    #[test]
    fn an_outbox_that_fails_does_not_stop_the_client_and_is_not_believed() {
        let mut queue = Queue::new(8_000, Some(Keeps::Everything));
        push(&mut queue, 2);
        queue.on_stored(at(1));
        queue.on_store_failed();
        assert_eq!(queue.first_unkept(), Some(2));
        assert_eq!(drain(&mut queue), [1, 2]);
        assert_eq!(queue.first_unkept(), None);
    }

    #[test]
    fn an_overflow_writes_only_what_memory_has_no_room_for_and_the_rest_at_the_end() {
        let mut queue = Queue::new(8_000, Some(Keeps::Overflow));
        push(&mut queue, 4);
        assert!(!queue.has_unstored());
        push(&mut queue, 2);
        assert_eq!(queue.unstored(usize::MAX).len(), 2);
        queue.on_stored(at(1));
        assert_eq!(queue.events_left(), (6, 1));
        queue.end();
        assert_eq!(queue.unstored(usize::MAX).len(), 5, "all that the outbox does not have");
        for end in 2..=6 {
            assert_eq!(queue.on_stored(at(end)).0, Kept::OnDisk);
        }
        assert_eq!((queue.events_left(), queue.memory_bytes()), ((6, 6), 0));
    }

    #[test]
    fn events_lost_with_damaged_records_are_told_and_hold_nothing_up() {
        let mut queue = Queue::new(8_000, Some(Keeps::Everything));
        queue.recover(3, 3);
        assert_eq!(queue.first_unacked(), Some(1));
        assert_eq!(queue.on_refilled(Vec::new(), true), 3);
        assert_eq!((queue.first_unacked(), queue.events_left()), (None, (0, 0)));
    }
}
