//! Which keys a run may have, in memory: what makes a new id cost no disk.
//!
//! Owns: the bits. Leaves to others: being right, since an answer of yes is only a reason to look.
//!
//! ```text
//! filter    lines of 64 bytes, about 32 keys each; the upper half of a key chooses the line, the lower half seven bits
//! ```
//!
//! Keys that come in order touch lines in order, so a filter of any size is made and loaded from front to back.
//!
//! Invariants: a key that was put in is found.

use crc_fast::{CrcAlgorithm, Digest};

/// Bits of the filter for each key.
pub(crate) const BITS_A_KEY: u64 = 16;
const LINE_BITS: u64 = 512;
const BITS_SET: u32 = 7;
/// Lines that are encoded together.
const LINES_TOGETHER: usize = 1 << 14;

#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct Line([u64; 8]);

const _: () = assert!(size_of::<Line>() == 64, "a line is one cache line");

/// A filter.
pub(crate) struct Filter(Vec<Line>);

impl Filter {
    /// A filter for so many keys.
    pub(crate) fn for_keys(keys: u64) -> Self {
        Self(vec![Line::default(); lines_for(keys) as usize])
    }

    /// Bytes of a filter for so many keys.
    pub(crate) fn bytes_for_keys(keys: u64) -> u64 {
        lines_for(keys) * size_of::<Line>() as u64
    }

    /// No filter: nothing may be asked of it.
    pub(crate) fn none() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn lines(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn line_of(&self, key: u128) -> usize {
        (((key >> 64) * self.0.len() as u128) >> 64) as usize
    }

    /// Loads the line of a key, so that a question soon after finds it in the cache.
    #[inline]
    pub(crate) fn touch(&self, key: u128) -> u64 {
        self.0[self.line_of(key)].0[0]
    }

    #[inline]
    pub(crate) fn may_hold(&self, key: u128) -> bool {
        let line = &self.0[self.line_of(key)].0;
        bits_of(key).all(|bit| line[bit / 64] & (1 << (bit % 64)) != 0)
    }

    #[inline]
    pub(crate) fn put(&mut self, key: u128) {
        let line = self.line_of(key);
        for bit in bits_of(key) {
            self.0[line].0[bit / 64] |= 1 << (bit % 64);
        }
    }

    /// Calls `write` with all bytes, in parts; gives their CRC-32C.
    pub(crate) fn save<E>(&self, mut write: impl FnMut(&[u8]) -> Result<(), E>) -> Result<u32, E> {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        let mut bytes = Vec::new();
        for lines in self.0.chunks(LINES_TOGETHER) {
            bytes.clear();
            lines
                .iter()
                .flat_map(|line| line.0)
                .for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
            digest.update(&bytes);
            write(&bytes)?;
        }
        Ok(digest.finalize() as u32)
    }

    /// A filter from bytes that `read` fills in, in parts; gives their CRC-32C.
    pub(crate) fn load<E>(
        lines: usize,
        mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(Self, u32), E> {
        let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
        let mut filter = Self(vec![Line::default(); lines]);
        let mut bytes = vec![0; LINES_TOGETHER.min(lines) * 64];
        for lines in filter.0.chunks_mut(LINES_TOGETHER) {
            let bytes = &mut bytes[..lines.len() * 64];
            read(bytes)?;
            digest.update(bytes);
            let words = bytes.chunks_exact(8).map(|word| word.try_into().map_or(0, u64::from_le_bytes));
            lines.iter_mut().flat_map(|line| &mut line.0).zip(words).for_each(|(to, word)| *to = word);
        }
        Ok((filter, digest.finalize() as u32))
    }
}

fn lines_for(keys: u64) -> u64 {
    (keys * BITS_A_KEY).div_ceil(LINE_BITS).max(1)
}

#[inline]
fn bits_of(key: u128) -> impl Iterator<Item = usize> {
    (0..BITS_SET).map(move |number| (key as u64 >> (9 * number)) as usize % LINE_BITS as usize)
}

const _: () = assert!(BITS_SET * 9 <= 64 && LINE_BITS == 1 << 9, "half a key has the bits");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::disk::Seed;

    #[test]
    fn a_key_that_was_put_in_is_found_and_hardly_any_other() {
        let mut random = Seed::new(7);
        let mut any = || (0..4).fold(0, |key, _| key << 32 | u128::from(random.below(1 << 32)));
        for keys in [1, 100, 50_000] {
            let held: Vec<u128> = (0..keys).map(|_| any()).collect();
            let mut filter = Filter::for_keys(keys);
            held.iter().for_each(|key| filter.put(*key));
            assert!(held.iter().all(|key| filter.may_hold(*key)));
            let claimed = (0..100_000).filter(|_| filter.may_hold(any())).count();
            assert!(claimed < 200, "{claimed} of 100,000 keys that were not put in, of {keys} that were");
            let mut bytes = Vec::new();
            let write = |part: &[u8]| -> Result<(), ()> {
                bytes.extend_from_slice(part);
                Ok(())
            };
            let saved = filter.save(write).unwrap();
            let mut rest = &bytes[..];
            let read = |part: &mut [u8]| -> Result<(), ()> {
                part.copy_from_slice(rest.split_off(..part.len()).ok_or(())?);
                Ok(())
            };
            let (again, loaded) = Filter::load(filter.lines(), read).unwrap();
            assert_eq!((loaded, bytes.len()), (saved, filter.lines() * 64));
            assert!(again.0.iter().zip(&filter.0).all(|(one, other)| one.0 == other.0));
        }
    }
}
