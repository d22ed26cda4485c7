//! Things numbered in the order in which they came, and found by a hash: subjects and cells.
//!
//! Owns: the numbering, and where the things lie. Leaves to others: what they are, and telling two of one hash apart.
//!
//! Searches come in groups: first all homes are touched, then all candidates, then each search finds what it reads in the
//! cache. One after the other, a search waits for the memory twice.
//!
//! Invariants: a thing keeps its number; growing moves one part of the index, and no thing behind the first chunk.

use std::hint::black_box;
use std::ops::{Index, IndexMut};

use super::dedup::index::{FreeLane, SlotIndex};

/// Things that lie together.
const CHUNK: usize = 1 << 12;
/// Searches that are touched together.
pub(crate) const TOGETHER: usize = 64;
/// Parts of the index, which grow one by one.
const PARTS: usize = 64;

/// Things in the order in which they came.
pub(crate) struct Chunks<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
}

/// Numbered things.
pub(crate) struct Numbered<T> {
    things: Chunks<T>,
    parts: Box<[SlotIndex]>,
}

/// Where a new thing goes; good until the next one is added.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vacant {
    hash: u64,
    free: FreeLane,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0 }
    }
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { things: Chunks::default(), parts: (0..PARTS).map(|_| SlotIndex::new()).collect() }
    }
}

impl<T> Chunks<T> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }

    /// The one that came last.
    pub(crate) fn last(&self) -> Option<&T> {
        self.chunks.last()?.last()
    }

    /// Adds one; gives its number.
    pub(crate) fn push(&mut self, thing: T) -> u32 {
        let number = u32::try_from(self.len).expect("fewer than 2^32 fit in memory");
        if self.len.is_multiple_of(CHUNK) {
            self.chunks.push(Vec::with_capacity(if self.len == 0 { 0 } else { CHUNK }));
        }
        self.chunks.last_mut().expect("a chunk with room was just made").push(thing);
        self.len += 1;
        number
    }

    /// How many at the beginning `is_before`, if those that are come first.
    pub(crate) fn partition_point(&self, is_before: impl Fn(&T) -> bool) -> usize {
        let chunk = self.chunks.partition_point(|chunk| chunk.first().is_some_and(&is_before));
        let Some(chunk) = chunk.checked_sub(1) else { return 0 };
        chunk * CHUNK + self.chunks[chunk].partition_point(is_before)
    }
}

impl<T> Numbered<T> {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.things.len
    }

    /// All, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.things.iter()
    }

    /// All, by number.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.things.chunks.iter_mut().flatten()
    }

    /// The thing of a number.
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.things.chunks.get_mut(number as usize / CHUNK)?.get_mut(number as usize % CHUNK)
    }

    /// Loads what tells whether a hash has a candidate.
    #[inline]
    fn touch_home(&self, hash: u64) -> u32 {
        self.parts[part_of(hash)].touch(tag_of(hash))
    }

    /// The number of the first thing that may be the one of a hash.
    #[inline]
    fn candidate(&self, hash: u64) -> Option<u32> {
        self.parts[part_of(hash)].find(tag_of(hash), |_| true).ok()
    }

    /// Loads what searches for up to [`TOGETHER`] hashes will read: `touch` reads of each candidate what there is to load.
    ///
    /// Loops that do little more than load: the processor then waits for as many loads together as it can.
    #[inline]
    pub(crate) fn touch(&self, hashes: impl Iterator<Item = u64> + Clone, touch: impl Fn(&T) -> u64) {
        black_box(hashes.clone().map(|hash| self.touch_home(hash)).fold(0, |all, one| all | one));
        let mut candidates = [0; TOGETHER];
        let mut count = 0;
        for number in hashes.filter_map(|hash| self.candidate(hash)) {
            candidates[count] = number;
            count += 1;
        }
        let candidates = &candidates[..count];
        black_box(candidates.iter().fold(0, |all, number| all | touch(&self[*number])));
    }

    /// The number of the thing under a hash that `is_it`, or where it would go.
    #[inline]
    pub(crate) fn find(&self, hash: u64, is_it: impl Fn(&T) -> bool) -> Result<u32, Vacant> {
        let found = self.parts[part_of(hash)].find(tag_of(hash), |number| is_it(&self[number]));
        found.map_err(|free| Vacant { hash, free })
    }

    /// Adds a thing where its search ended; gives its number.
    pub(crate) fn add(&mut self, vacant: Vacant, thing: T) -> u32 {
        let number = self.things.push(thing);
        let part = part_of(vacant.hash);
        // Sizes grow by 44 to 55 percent: parts that began alike soon grow at different times.
        self.parts[part].insert(vacant.free, tag_of(vacant.hash), number, 28 + part % 8);
        number
    }
}

impl<T> Index<u32> for Chunks<T> {
    type Output = T;

    #[inline]
    fn index(&self, number: u32) -> &T {
        &self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for Chunks<T> {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}

impl<T> Index<u32> for Numbered<T> {
    type Output = T;

    #[inline]
    fn index(&self, number: u32) -> &T {
        &self.things[number]
    }
}

impl<T> IndexMut<u32> for Numbered<T> {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.things[number]
    }
}

#[inline]
fn part_of(hash: u64) -> usize {
    (hash >> 58) as usize
}

const _: () = assert!(PARTS == 1 << (64 - 58), "a part is told by the bits that are left");

#[inline]
fn tag_of(hash: u64) -> u32 {
    (hash >> 26) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_are_found_whatever_hashes_they_share_and_keep_their_numbers() {
        // A hash of few values: many things share one, and others share its tag in another part.
        let hash_of = |thing: u64| (thing % 97) << 30 | (thing % 3) << 58;
        let mut numbered: Numbered<u64> = Numbered::default();
        for thing in 0..10_000 {
            let vacant = numbered.find(hash_of(thing), |other| *other == thing).unwrap_err();
            assert_eq!(u64::from(numbered.add(vacant, thing)), thing);
        }
        assert_eq!(numbered.len(), 10_000);
        for thing in 0..10_000 {
            let number = numbered.find(hash_of(thing), |other| *other == thing).unwrap();
            assert_eq!(numbered[number], thing);
            assert_eq!(hash_of(numbered[numbered.candidate(hash_of(thing)).unwrap()]), hash_of(thing));
        }
        assert!(numbered.find(u64::MAX, |_| true).is_err() && numbered.candidate(u64::MAX).is_none());
        assert!(numbered.iter().copied().eq(0..10_000));
        for point in [0, 1, CHUNK as u64 - 1, CHUNK as u64, CHUNK as u64 + 1, 9_999, 10_000] {
            assert_eq!(numbered.things.partition_point(|thing| *thing < point) as u64, point);
        }
    }
}
