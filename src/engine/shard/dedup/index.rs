//! An index: from 32 bits of a hash, its tag, to the numbers of the entries that may have it.
//!
//! Owns: buckets of one cache line, and how they grow. Leaves to others: the entries, and telling those with equal tags
//! apart.
//!
//! ```text
//! bucket, 64 bytes:  tag u32 x 8 | entry number + 1, u32 x 8     0: free; lanes fill from the first
//! ```
//!
//! A tag's home is the bucket at the same share of the index as the tag has of 2^32, so growing needs no hashes and
//! reads and writes in order. A tag whose home is full lies in the next bucket that is not, around the end.
//!
//! Invariants: at most six of eight lanes are used on average, so a search ends; a bucket is never full of free lanes
//! behind a used one; nothing is removed.

/// Lanes of a bucket.
pub(in crate::shard) const LANES: usize = 8;
/// Lanes used of each bucket, on average, when the index grows.
const LANES_USED_MAX: usize = 6;

/// Words of a bucket: tags, then numbers.
const WORDS: usize = 2 * LANES;
const BUCKET_BYTES: usize = WORDS * size_of::<u32>();

const _: () = assert!(BUCKET_BYTES == 64, "a bucket is one cache line");

/// Where a search ended: a free lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) struct FreeLane {
    bucket: u32,
    lane: u32,
}

/// An index.
pub(in crate::shard) struct TagIndex {
    /// Buckets, from a cache line on.
    words: Vec<u32>,
    /// Words before the first bucket.
    skipped: usize,
    buckets: usize,
    len: usize,
}

impl TagIndex {
    /// An empty index.
    pub(in crate::shard) fn new() -> Self {
        Self::of_buckets(1)
    }

    fn of_buckets(buckets: usize) -> Self {
        // Of single words, because zeros of these come from the allocator, which knows whether memory is zero already.
        let words = vec![0; (buckets + 1) * WORDS];
        let skipped = words.as_ptr().align_offset(BUCKET_BYTES);
        assert!(skipped < WORDS, "a vector of words can be aligned");
        Self { words, skipped, buckets, len: 0 }
    }

    #[inline]
    fn bucket(&self, at: usize) -> Bucket<'_> {
        let words = &self.words[self.skipped + at * WORDS..];
        let words: &[u32; WORDS] = words.first_chunk().expect("there is room for a last bucket");
        let (tags, numbers) = words.split_first_chunk().expect("half of the words are tags");
        Bucket { tags, numbers: numbers.first_chunk().expect("the other half are numbers") }
    }

    #[inline]
    fn set(&mut self, at: usize, lane: usize, tag: u32, number: u32) {
        let from = self.skipped + at * WORDS + lane;
        (self.words[from], self.words[from + LANES]) = (tag, number);
    }

    #[inline]
    fn home(&self, tag: u32) -> usize {
        ((u64::from(tag) * self.buckets as u64) >> 32) as usize
    }

    /// Loads the home of a tag, so that a search soon after finds it in the cache.
    #[inline]
    pub(in crate::shard) fn touch(&self, tag: u32) -> u32 {
        self.bucket(self.home(tag)).numbers[0]
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
            let bucket = self.bucket(at);
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
            at = self.after(at);
        }
    }

    /// Adds a number under a tag, at the lane where its search ended. `growth` is in 64ths of the size.
    #[inline]
    pub(in crate::shard) fn insert(&mut self, free: FreeLane, tag: u32, number: u32, growth: usize) {
        self.len += 1;
        if self.len > self.buckets * LANES_USED_MAX {
            self.grow(growth);
            self.put(tag, number + 1);
            return;
        }
        let (bucket, lane) = (free.bucket as usize, free.lane as usize);
        assert!(self.bucket(bucket).numbers[lane] == 0, "nothing was inserted since the search");
        self.set(bucket, lane, tag, number + 1);
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        if at + 1 == self.buckets { 0 } else { at + 1 }
    }

    #[cold]
    fn grow(&mut self, growth: usize) {
        let count = self.buckets + 1 + self.buckets * growth / 64;
        let old = std::mem::replace(self, Self { len: self.len, ..Self::of_buckets(count) });
        for bucket in (0..old.buckets).map(|at| old.bucket(at)) {
            for lane in 0..bucket.used() as usize {
                self.put(bucket.tags[lane], bucket.numbers[lane]);
            }
        }
    }

    #[inline]
    fn put(&mut self, tag: u32, number: u32) {
        let mut at = self.home(tag);
        while self.bucket(at).numbers[LANES - 1] != 0 {
            at = self.after(at);
        }
        self.set(at, self.bucket(at).used() as usize, tag, number);
    }
}

#[derive(Clone, Copy)]
struct Bucket<'a> {
    tags: &'a [u32; LANES],
    numbers: &'a [u32; LANES],
}

impl Bucket<'_> {
    /// One bit for each lane that has the tag; free lanes may be among them. Written so that it becomes a vector compare.
    #[inline]
    fn lanes_with(self, tag: u32) -> u32 {
        let mut hits = 0;
        for lane in 0..LANES {
            hits |= u32::from(self.tags[lane] == tag) << lane;
        }
        hits
    }

    #[inline]
    fn used(self) -> u32 {
        self.numbers.iter().map(|number| u32::from(*number != 0)).sum()
    }
}
