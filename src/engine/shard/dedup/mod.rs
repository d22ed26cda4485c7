//! The dedup index of a shard: which events were seen, with which content, and what became of them.
//!
//! Owns: identity, payload digest, time and position of every event that reached the log.
//! Leaves to others: verdicts that do not come from an event's history (`super::Shard`).
//!
//! Invariants: exact. An identity is 128 bits, keyed; two events with one identity are one event. First seen counts.

pub(in crate::shard) mod index;
mod memtable;

use domain::EventPosition;

pub(crate) use self::memtable::{Lookup, Memtable as Dedup};

/// What became of the first event with an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Standing {
    /// Counted in a cell.
    Metered,
    /// Accepted, waiting for an owner.
    Pending,
    /// Accepted, but no meter matched.
    Unmetered,
    /// Set aside.
    Quarantined,
}

impl Standing {
    /// The standing of the two bits that it is stored as.
    pub(crate) fn of_bits(bits: u64) -> Option<Self> {
        [Standing::Metered, Standing::Pending, Standing::Unmetered, Standing::Quarantined]
            .into_iter()
            .nth(usize::try_from(bits).ok()?)
    }
}

/// What is remembered of the first event with an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Digest of the content that counts.
    pub(crate) payload_digest: u64,
    /// Where the event stands.
    pub(crate) position: EventPosition,
    /// Its time, in nanoseconds; refused at the edge if it is not between 2000 and 2100.
    pub(crate) time: i64,
    /// What became of it.
    pub(crate) standing: Standing,
}

#[cfg(test)]
mod tests;
