//! Where threads meet without a queue: verdicts that all shards fill in, where the durable log ends, and whether a snapshot is
//! being made.
//!
//! Owns: the atomics, and the orders by which one thread sees what another one wrote. Leaves to others: what the threads do
//! (`shards`, `usage_log`, `snapshots`, `runs`); every other way from thread to thread is a queue of a library.
//!
//! `models/` compiles this file once more, over the atomics of loom, and tries every order in which threads can meet.
//!
//! Invariants: verdicts of a batch are sent once, and all of them; what stands before the end of the log is durable for
//! whoever reads the end.

use crate::sync::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Mutex, Ordering};

/// Gets one wire code per event of a batch.
pub type OnVerdicts = Box<dyn FnOnce(Vec<u8>) + Send>;

/// Verdicts of a batch, filled by all shards; the last one sends them.
pub struct VerdictSlots {
    codes: Vec<AtomicU8>,
    shards_left: AtomicUsize,
    send: Mutex<Option<OnVerdicts>>,
}

impl VerdictSlots {
    /// Slots for so many events and shards; `send` gets one wire code per event.
    pub fn new(events: usize, shards: usize, send: OnVerdicts) -> Self {
        Self {
            codes: (0..events).map(|_| AtomicU8::new(0)).collect(),
            shards_left: AtomicUsize::new(shards),
            send: Mutex::new(Some(send)),
        }
    }

    /// Takes the code of an event, from its shard alone.
    pub fn put(&self, event: u16, code: u8) {
        self.codes[usize::from(event)].store(code, Ordering::Relaxed);
    }

    /// A shard has put the codes of all its events.
    pub fn finish_shard(&self) {
        // The last shard sees the codes of all others: each wrote them before its own decrement.
        if self.shards_left.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let codes = self.codes.iter().map(|code| code.load(Ordering::Relaxed)).collect();
        if let Some(send) = self.send.lock().expect("nothing panics while it holds the slots").take() {
            send(codes);
        }
    }
}

/// Offset behind the last durable record of a log.
pub struct DurableEnd(AtomicU64);

impl Default for DurableEnd {
    fn default() -> Self {
        Self(AtomicU64::new(0))
    }
}

impl DurableEnd {
    /// Everything before an offset is durable.
    pub fn publish(&self, offset: u64) {
        self.0.store(offset, Ordering::Release);
    }

    /// The offset that was published last.
    pub fn offset(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Whether somebody is at something.
pub struct Busy(AtomicBool);

impl Default for Busy {
    fn default() -> Self {
        Self(AtomicBool::new(false))
    }
}

impl Busy {
    /// From now on, before anything of it can be seen.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// No more; whoever sees that sees what was done.
    pub fn end(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether it began and did not end.
    pub fn is_now(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
