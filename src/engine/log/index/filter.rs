//! Which keys a stretch of a segment can hold: a filter that never forgets one, and seldom claims one too many.
//!
//! Owns: bits of a filter. Leaves to others: what a key is.
//!
//! ```text
//! filter    lines of 64 bytes; a key sets seven bits of one line
//! ```
//!
//! Invariants: a key that was put in is found; the same keys give the same bits in any order.

const LINE_BYTES: usize = 64;
const BITS_A_KEY: usize = 12;
const BITS_SET: u32 = 7;

/// A filter of keys, which are hashes already.
pub(super) fn filter_of(keys: impl ExactSizeIterator<Item = u64>) -> Vec<u8> {
    let lines = (keys.len() * BITS_A_KEY).div_ceil(LINE_BYTES * 8);
    let mut filter = vec![0; lines * LINE_BYTES];
    for key in keys {
        let line = line_of(&filter, key);
        for bit in bits_of(key) {
            filter[line + bit / 8] |= 1 << (bit % 8);
        }
    }
    filter
}

/// Whether a filter can hold a key.
pub(super) fn may_hold(filter: &[u8], key: u64) -> bool {
    if filter.is_empty() {
        return false;
    }
    let line = line_of(filter, key);
    bits_of(key).all(|bit| filter[line + bit / 8] & (1 << (bit % 8)) != 0)
}

/// Position of the first byte of a key's line.
fn line_of(filter: &[u8], key: u64) -> usize {
    let lines = (filter.len() / LINE_BYTES) as u64;
    (((key >> 32) * lines) >> 32) as usize * LINE_BYTES
}

fn bits_of(key: u64) -> impl Iterator<Item = usize> {
    // The upper half chose the line; mixed, all of it chooses the bits.
    let bits = (key ^ (key >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..BITS_SET).map(move |number| (bits >> (1 + 9 * number)) as usize % (LINE_BYTES * 8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::disk::Seed;

    #[test]
    fn a_key_that_was_put_in_is_found_and_hardly_any_other() {
        for keys in [0_usize, 1, 10, 1_000, 20_000] {
            let mut random = Seed::new(keys as u64 + 7);
            let mut any = || random.below(1 << 53) << 11 | random.below(1 << 11);
            let mut held: Vec<u64> = (0..keys).map(|_| any()).collect();
            let filter = filter_of(held.iter().copied());
            assert!(held.iter().all(|key| may_hold(&filter, *key)));
            held.reverse();
            assert_eq!(filter_of(held.iter().copied()), filter);
            let claimed = (0..10_000).filter(|_| may_hold(&filter, any())).count();
            assert!(claimed < 200, "{claimed} of 10,000 keys that were not put in, of {keys} that were");
        }
    }
}
