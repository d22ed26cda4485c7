//! Identities in memory: entries one after the other in the order of arrival, and an index of each slot.
//!
//! Owns: the bytes of an entry. Leaves to others: the buckets (`super::index`).
//!
//! ```text
//! entry, 40 bytes:  identity 16 | payload digest 8 | position 8 | time << 2, standing 8
//! ```
//!
//! A new event costs one line of the index and the next bytes of the entries. Entries never move; an index grows alone,
//! a thousandth of all, and slots grow at different sizes so that no batch meets many that do. (One index with room for all
//! from the start is faster, but its first pages come all at once: 0.1 s of page faults for four million ids.) 51 to 56 bytes an event,
//! by how full the indexes are.
//!
//! Invariants: exact. An entry is found only by all 128 bits of its identity, whatever tags collide; it never changes.

use domain::EventPosition;
use domain::limits::{EVENT_TIME_END, EVENT_TIME_MIN, SLOTS};

use super::index::{FreeLane, SlotIndex};
use super::{Seen, Standing};
use crate::identity::slot_of;

const CHUNK_ENTRIES: usize = 1 << 16;

const _: () =
    assert!(EVENT_TIME_MIN >= 0 && EVENT_TIME_END < 1 << 62, "a time leaves two bits for the standing");

#[derive(Clone, Copy)]
struct Entry {
    identity: [u64; 2],
    payload_digest: u64,
    position: EventPosition,
    time_and_standing: u64,
}

const _: () = assert!(size_of::<Entry>() == 40, "an entry has no padding");

/// Where a new identity goes; good until the next insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vacant {
    identity: u128,
    free: FreeLane,
}

/// The identities in memory.
pub(crate) struct Memtable {
    indexes: Box<[SlotIndex]>,
    chunks: Vec<Vec<Entry>>,
    len: usize,
}

impl Default for Memtable {
    fn default() -> Self {
        Self { indexes: (0..SLOTS).map(|_| SlotIndex::new()).collect(), chunks: Vec::new(), len: 0 }
    }
}

impl Memtable {
    /// Loads what searches for these identities will read, all at once instead of one after the other.
    #[inline]
    pub(crate) fn touch(&self, identities: impl Iterator<Item = u128>) {
        let touched = identities.map(|identity| self.indexes[slot_of(identity)].touch(tag_of(identity)));
        std::hint::black_box(touched.fold(0, |all, one| all | one));
    }

    /// The event with an identity that `is_it`, or where it would go.
    #[inline]
    pub(crate) fn look_up(
        &self,
        identity: u128,
        is_it: impl Fn(EventPosition) -> bool,
    ) -> Result<Seen, Vacant> {
        match self.number_of(identity, is_it) {
            Ok(number) => Ok(self.entry(number).seen()),
            Err(free) => Err(Vacant { identity, free }),
        }
    }

    /// The event with an identity that `is_it`.
    pub(crate) fn find(&self, identity: u128, is_it: impl Fn(EventPosition) -> bool) -> Option<Seen> {
        self.look_up(identity, is_it).ok()
    }

    /// The number of the event with an identity that `is_it`.
    pub(crate) fn find_number(&self, identity: u128, is_it: impl Fn(EventPosition) -> bool) -> Option<usize> {
        self.number_of(identity, is_it).ok().map(|number| number as usize)
    }

    /// Remembers a new event.
    #[inline]
    pub(crate) fn insert(&mut self, vacant: Vacant, seen: Seen) {
        let Vacant { identity, free } = vacant;
        let number = u32::try_from(self.len).expect("fewer than 2^32 entries fit in memory");
        let slot = slot_of(identity);
        // Sizes grow by 44 to 55 percent: slots that began alike soon grow at different times.
        self.indexes[slot].insert(free, tag_of(identity), number, 28 + slot % 8);
        if self.len.is_multiple_of(CHUNK_ENTRIES) {
            self.chunks.push(Vec::with_capacity(CHUNK_ENTRIES));
        }
        self.len += 1;
        self.chunks.last_mut().expect("a chunk with room was just made").push(Entry::new(identity, seen));
    }

    /// A remembered event, by the order of arrival.
    pub(crate) fn at(&self, number: usize) -> (u128, Seen) {
        let entry = &self.chunks[number / CHUNK_ENTRIES][number % CHUNK_ENTRIES];
        (entry.identity(), entry.seen())
    }

    /// Events before a position: entries lie in the order of arrival.
    pub(crate) fn count_before(&self, position: EventPosition) -> usize {
        let (mut from, mut until) = (0, self.len);
        while from < until {
            let middle = from.midpoint(until);
            if self.at(middle).1.position < position {
                from = middle + 1;
            } else {
                until = middle;
            }
        }
        from
    }

    /// Events remembered.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn number_of(&self, identity: u128, is_it: impl Fn(EventPosition) -> bool) -> Result<u32, FreeLane> {
        let halves = halves_of(identity);
        self.indexes[slot_of(identity)].find(tag_of(identity), |number| {
            let entry = self.entry(number);
            entry.identity == halves && is_it(entry.position)
        })
    }

    #[inline]
    fn entry(&self, number: u32) -> &Entry {
        &self.chunks[number as usize / CHUNK_ENTRIES][number as usize % CHUNK_ENTRIES]
    }
}

impl Entry {
    #[inline]
    fn new(identity: u128, seen: Seen) -> Self {
        assert!(
            (EVENT_TIME_MIN..EVENT_TIME_END).contains(&seen.time),
            "other times were refused at the edge"
        );
        Self {
            identity: halves_of(identity),
            payload_digest: seen.payload_digest,
            position: seen.position,
            time_and_standing: (seen.time as u64) << 2 | seen.standing as u64,
        }
    }

    fn identity(&self) -> u128 {
        u128::from(self.identity[1]) << 64 | u128::from(self.identity[0])
    }

    #[inline]
    fn seen(&self) -> Seen {
        let standing = Standing::of_bits(self.time_and_standing & 3).expect("two bits are a standing");
        Seen {
            payload_digest: self.payload_digest,
            position: self.position,
            time: (self.time_and_standing >> 2) as i64,
            standing,
        }
    }
}

/// The identity is a keyed hash, so any of its bits would do; the top ten are the slot.
#[inline]
fn tag_of(identity: u128) -> u32 {
    identity as u32
}

#[inline]
fn halves_of(identity: u128) -> [u64; 2] {
    [identity as u64, (identity >> 64) as u64]
}
