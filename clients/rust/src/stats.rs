//! Counters of a client.
//!
//! Owns: what is counted. Leaves to others: where it is shown. Invariants: counters only rise; recorded and recovered
//! events are acknowledged, waiting, or told by an error.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a client did and holds, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientStats {
    /// Events that were taken.
    pub recorded: u64,
    /// Events that an earlier process left in the outbox.
    pub recovered: u64,
    /// Events in acknowledged batches.
    pub acked: u64,
    /// Events that the server refused, told as [`crate::Acked::refusals`].
    pub refused: u64,
    /// Events that were written to the outbox.
    pub stored: u64,
    /// Of these, events that left memory until their turn came.
    pub spilled: u64,
    /// Events that were sent again, after a lost connection or out of an earlier process's outbox.
    pub resent: u64,
    /// Connections after the first.
    pub reconnects: u64,
    /// Attempts that failed and connections that were lost; [`crate::Client::connection`] says why the last one.
    pub connection_failures: u64,
    /// Bytes of frames handed to connections, sent again included.
    pub bytes: u64,
    /// Writes and syncs of the outbox that failed.
    pub outbox_failures: u64,
    /// Bytes of the outbox that cannot be read; their file is kept with the ending `.damaged`.
    pub outbox_damaged_bytes: u64,
    /// Bytes of batches in memory, open ones included, as [`crate::ClientOptions::memory_bytes_max`] counts them; a gauge.
    pub memory_bytes: u64,
    /// 1 while there is a connection, else 0; a gauge.
    pub connected: u64,
    /// Events in finished batches without an ack; a gauge.
    pub unacked: u64,
    /// Of these, events in the outbox; a gauge.
    pub unacked_stored: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) recorded: AtomicU64,
    pub(crate) recovered: AtomicU64,
    pub(crate) acked: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) stored: AtomicU64,
    pub(crate) spilled: AtomicU64,
    pub(crate) resent: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    pub(crate) connection_failures: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) outbox_failures: AtomicU64,
    pub(crate) outbox_damaged_bytes: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Counters {
    /// The counters; gauges are the queue's.
    pub(crate) fn snapshot(&self) -> ClientStats {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ClientStats {
            recorded: load(&self.recorded),
            recovered: load(&self.recovered),
            acked: load(&self.acked),
            refused: load(&self.refused),
            stored: load(&self.stored),
            spilled: load(&self.spilled),
            resent: load(&self.resent),
            reconnects: load(&self.reconnects),
            connection_failures: load(&self.connection_failures),
            bytes: load(&self.bytes),
            outbox_failures: load(&self.outbox_failures),
            outbox_damaged_bytes: load(&self.outbox_damaged_bytes),
            ..ClientStats::default()
        }
    }
}
