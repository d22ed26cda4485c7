//! The dedup index of a shard: which events were seen, with which content, and what became of them.
//!
//! Owns: identity, payload digest, time and position of every event that reached the log.
//! Leaves to others: verdicts that do not come from an event's history (`super::Shard`).
//!
//! Invariants: exact. An identity is 128 bits, keyed; two events with one identity are one event. First seen counts.

use domain::EventPosition;
use domain::limits::SLOTS;
use hashbrown::HashTable;

use crate::identity::slot_of;

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

/// One remembered event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Keyed hash of source and id.
    pub(crate) identity: u128,
    /// Digest of the content that counts.
    pub(crate) payload_digest: u64,
    /// Where the first event with this identity stands.
    pub(crate) position: EventPosition,
    /// Time of that event, in nanoseconds.
    pub(crate) time: i64,
    /// What became of it.
    pub(crate) standing: Standing,
}

/// The index: a table for each slot, so that growing moves a thousandth of it at a time, inside the cache.
/// Memory: 48 bytes an event and the tables' slack.
pub(crate) struct Dedup {
    tables: Box<[HashTable<Seen>]>,
    len: usize,
}

impl Default for Dedup {
    fn default() -> Self {
        Self { tables: (0..SLOTS).map(|_| HashTable::new()).collect(), len: 0 }
    }
}

#[inline]
fn hash_of(identity: u128) -> u64 {
    // The identity is a keyed hash already. Its top bits are the slot, the same for all entries of a table.
    identity as u64
}

impl Dedup {
    /// The event that was seen first with this identity.
    #[inline]
    pub(crate) fn find(&self, identity: u128) -> Option<&Seen> {
        self.tables[slot_of(identity)].find(hash_of(identity), |seen| seen.identity == identity)
    }

    /// The same, to change what became of it.
    pub(crate) fn find_mut(&mut self, identity: u128) -> Option<&mut Seen> {
        self.tables[slot_of(identity)].find_mut(hash_of(identity), |seen| seen.identity == identity)
    }

    /// Remembers a new event.
    #[inline]
    pub(crate) fn insert(&mut self, identity: u128, seen: NewEvent) {
        let entry = Seen {
            identity,
            payload_digest: seen.payload_digest,
            position: seen.position,
            time: seen.time,
            standing: seen.standing,
        };
        self.len += 1;
        self.tables[slot_of(identity)].insert_unique(hash_of(identity), entry, |seen| hash_of(seen.identity));
    }

    /// All remembered events, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Seen> {
        self.tables.iter().flat_map(|table| table.iter())
    }

    /// Events remembered.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// What is remembered of a new event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewEvent {
    /// Digest of the content.
    pub(crate) payload_digest: u64,
    /// Where it stands.
    pub(crate) position: EventPosition,
    /// Its time, in nanoseconds.
    pub(crate) time: i64,
    /// What became of it.
    pub(crate) standing: Standing,
}
