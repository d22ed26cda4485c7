//! The index of one slot: from 32 bits of an identity to the numbers of the entries that may have it.
//!
//! Owns: buckets of one cache line, and how they grow. Leaves to others: the entries, and telling identities with equal
//! tags apart (`super::memtable`).
//!
//! ```text
//! bucket, 64 bytes:  tag u32 x 8 | entry number + 1, u32 x 8     0: free; lanes fill from the first
//! ```
//!
//! A tag's home is the bucket at the same share of the index as the tag has of 2^32, so growing needs no identities and
//! reads and writes in order. A tag whose home is full lies in the next bucket that is not, around the end.
//!
//! Invariants: at most six of eight lanes are used on average, so a search ends; a bucket is never full of free lanes
//! behind a used one; nothing is removed.

/// Lanes of a bucket.
pub(in crate::shard) const LANES: usize = 8;
/// Lanes used of each bucket, on average, when the index grows.
const LANES_USED_MAX: usize = 6;

#[derive(Clone, Default)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u32; LANES],
    numbers: [u32; LANES],
}

const _: () = assert!(size_of::<Bucket>() == 64, "a bucket is one cache line");

/// Where a search ended: a free lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) struct FreeLane {
    bucket: u32,
    lane: u32,
}

/// The index of one slot.
pub(in crate::shard) struct SlotIndex {
    buckets: Vec<Bucket>,
    len: usize,
}

impl SlotIndex {
    /// An empty index.
    pub(in crate::shard) fn new() -> Self {
        Self { buckets: vec![Bucket::default()], len: 0 }
    }

    #[inline]
    fn home(&self, tag: u32) -> usize {
        ((u64::from(tag) * self.buckets.len() as u64) >> 32) as usize
    }

    /// Loads the home of a tag, so that a search soon after finds it in the cache.
    #[inline]
    pub(in crate::shard) fn touch(&self, tag: u32) -> u32 {
        self.buckets[self.home(tag)].numbers[0]
    }

    /// The first number under a tag that `is_it`, or the lane where it would go.
    #[inline]
    pub(in crate::shard) fn find(
        &self,
        tag: u32,
        mut is_it: impl FnMut(u32) -> bool,
    ) -> Result<u32, FreeLane> {
        let mut at = self.home(tag);
        loop {
            let bucket = &self.buckets[at];
            let mut hits = bucket.lanes_with(tag);
            while hits != 0 {
                let number = bucket.numbers[hits.trailing_zeros() as usize];
                if number != 0 && is_it(number - 1) {
                    return Ok(number - 1);
                }
                hits &= hits - 1;
            }
            if bucket.numbers[LANES - 1] == 0 {
                return Err(FreeLane { bucket: at as u32, lane: bucket.used() });
            }
            at = if at + 1 == self.buckets.len() { 0 } else { at + 1 };
        }
    }

    /// Adds a number under a tag, at the lane where its search ended. `growth` is in 64ths of the size.
    #[inline]
    pub(in crate::shard) fn insert(&mut self, free: FreeLane, tag: u32, number: u32, growth: usize) {
        self.len += 1;
        if self.len > self.buckets.len() * LANES_USED_MAX {
            self.grow(growth);
            self.put(tag, number + 1);
            return;
        }
        let bucket = &mut self.buckets[free.bucket as usize];
        let lane = free.lane as usize;
        assert!(bucket.numbers[lane] == 0, "nothing was inserted since the search");
        bucket.tags[lane] = tag;
        bucket.numbers[lane] = number + 1;
    }

    #[cold]
    fn grow(&mut self, growth: usize) {
        let count = self.buckets.len() + 1 + self.buckets.len() * growth / 64;
        let old = std::mem::replace(&mut self.buckets, vec![Bucket::default(); count]);
        for bucket in &old {
            for lane in 0..bucket.used() as usize {
                self.put(bucket.tags[lane], bucket.numbers[lane]);
            }
        }
    }

    #[inline]
    fn put(&mut self, tag: u32, number: u32) {
        let mut at = self.home(tag);
        while self.buckets[at].numbers[LANES - 1] != 0 {
            at = if at + 1 == self.buckets.len() { 0 } else { at + 1 };
        }
        let bucket = &mut self.buckets[at];
        let lane = bucket.used() as usize;
        bucket.tags[lane] = tag;
        bucket.numbers[lane] = number;
    }
}

impl Bucket {
    /// One bit for each lane that has the tag; free lanes may be among them. Written so that it becomes a vector compare.
    #[inline]
    fn lanes_with(&self, tag: u32) -> u32 {
        let mut hits = 0;
        for lane in 0..LANES {
            hits |= u32::from(self.tags[lane] == tag) << lane;
        }
        hits
    }

    #[inline]
    fn used(&self) -> u32 {
        self.numbers.iter().map(|number| u32::from(*number != 0)).sum()
    }
}
