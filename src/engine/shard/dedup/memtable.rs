//! Identities in memory: entries one after the other in the order of arrival, and an index of them.
//!
//! Owns: the bytes of an entry. Leaves to others: the buckets (`super::index`).
//!
//! ```text
//! entry, 40 bytes:  identity 16 | payload digest 8 | position 8 | time << 2, standing 8
//! ```
//!
//! A new event costs one line of the index and the next bytes of the entries. Entries never move. An index that is made with
//! room for all that will come does not grow: 51 bytes an event of a full table. One without a limit grows as a whole.
//!
//! Invariants: exact. An entry is found only by all 128 bits of its identity, whatever tags collide; it never changes.

use domain::EventPosition;
use domain::limits::{EVENT_TIME_END, EVENT_TIME_MIN};

use super::index::{FreeLane, TagIndex};
use super::{Seen, Standing};

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
    index: TagIndex,
    chunks: Vec<Vec<Entry>>,
    len: usize,
}

impl Default for Memtable {
    fn default() -> Self {
        Self { index: TagIndex::new(), chunks: Vec::new(), len: 0 }
    }
}

/// Entries that room is made for at once; a larger index grows.
const ROOM_MAX: usize = 1 << 28;
/// 64ths by which an index grows.
const GROWTH: usize = 32;

impl Memtable {
    /// A table for so many entries, or for any number.
    pub(crate) fn with_room(entries: usize) -> Self {
        match entries {
            usize::MAX => Self::default(),
            _ => Self { index: TagIndex::with_room(entries.min(ROOM_MAX)), ..Self::default() },
        }
    }

    /// Loads what searches for these identities will read, all at once instead of one after the other.
    #[inline]
    pub(crate) fn touch(&self, identities: impl Iterator<Item = u128>) {
        let touched = identities.map(|identity| self.index.touch(tag_of(identity)));
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

    /// Remembers a new event.
    #[inline]
    pub(crate) fn insert(&mut self, vacant: Vacant, seen: Seen) {
        let Vacant { identity, free } = vacant;
        let number = u32::try_from(self.len).expect("fewer than 2^32 entries fit in memory");
        self.index.insert(free, tag_of(identity), number, GROWTH);
        if self.len.is_multiple_of(CHUNK_ENTRIES) {
            self.chunks.push(Vec::with_capacity(CHUNK_ENTRIES));
        }
        self.len += 1;
        self.chunks.last_mut().expect("a chunk with room was just made").push(Entry::new(identity, seen));
    }

    /// Buckets of the index.
    #[cfg(test)]
    pub(crate) fn buckets(&self) -> usize {
        self.index.buckets()
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
        self.index.find(tag_of(identity), |number| {
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

/// The identity is a keyed hash, so any of its bits would do but the top ten, which are the slot: a shard has some of them.
#[inline]
fn tag_of(identity: u128) -> u32 {
    identity as u32
}

#[inline]
fn halves_of(identity: u128) -> [u64; 2] {
    [identity as u64, (identity >> 64) as u64]
}
