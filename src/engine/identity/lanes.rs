//! SipHash-1-3 of eight messages at once: the hashes of `siphasher`, with one message in each lane of wide registers.
//!
//! Owns: the rounds, side by side. Leaves to others: what is hashed and with which key (`super`).
//!
//! Eight messages have equally many bytes, so that all lanes take the same steps. `multiversion` compiles the functions for
//! AVX-512 and AVX2 besides, and chooses by what the processor has; the result is the same.
//!
//! Invariants: each lane is the hash of its message as the specification of SipHash has it; tests compare it with the
//! library that hashes one message.

use multiversion::multiversion;

/// Messages that are hashed together.
pub(crate) const LANES: usize = 8;

/// One word of each message.
type Words = [u64; LANES];

struct State {
    v0: Words,
    v1: Words,
    v2: Words,
    v3: Words,
}

impl State {
    #[inline(always)]
    fn new(key: [u64; 2], is_wide: bool) -> Self {
        let [k0, k1] = key;
        let wide = if is_wide { 0xee } else { 0 };
        Self {
            v0: [k0 ^ 0x736f_6d65_7073_6575; LANES],
            v1: [k1 ^ 0x646f_7261_6e64_6f6d ^ wide; LANES],
            v2: [k0 ^ 0x6c79_6765_6e65_7261; LANES],
            v3: [k1 ^ 0x7465_6462_7974_6573; LANES],
        }
    }

    #[inline(always)]
    fn round(&mut self) {
        let Self { v0, v1, v2, v3 } = self;
        for lane in 0..LANES {
            v0[lane] = v0[lane].wrapping_add(v1[lane]);
            v2[lane] = v2[lane].wrapping_add(v3[lane]);
            v1[lane] = v1[lane].rotate_left(13) ^ v0[lane];
            v3[lane] = v3[lane].rotate_left(16) ^ v2[lane];
            v0[lane] = v0[lane].rotate_left(32);
            v2[lane] = v2[lane].wrapping_add(v1[lane]);
            v0[lane] = v0[lane].wrapping_add(v3[lane]);
            v1[lane] = v1[lane].rotate_left(17) ^ v2[lane];
            v3[lane] = v3[lane].rotate_left(21) ^ v0[lane];
            v2[lane] = v2[lane].rotate_left(32);
        }
    }

    #[inline(always)]
    fn take(&mut self, words: &Words) {
        for (v3, word) in self.v3.iter_mut().zip(words) {
            *v3 ^= word;
        }
        self.round();
        for (v0, word) in self.v0.iter_mut().zip(words) {
            *v0 ^= word;
        }
    }

    #[inline(always)]
    fn finish(&mut self) -> Words {
        for _ in 0..3 {
            self.round();
        }
        std::array::from_fn(|lane| self.v0[lane] ^ self.v1[lane] ^ self.v2[lane] ^ self.v3[lane])
    }

    #[inline(always)]
    fn finish_64(mut self) -> Words {
        for v2 in &mut self.v2 {
            *v2 ^= 0xff;
        }
        self.finish()
    }

    #[inline(always)]
    fn finish_128(mut self) -> [u128; LANES] {
        for v2 in &mut self.v2 {
            *v2 ^= 0xee;
        }
        let low = self.finish();
        for v1 in &mut self.v1 {
            *v1 ^= 0xdd;
        }
        let high = self.finish();
        std::array::from_fn(|lane| u128::from(high[lane]) << 64 | u128::from(low[lane]))
    }
}

/// The last word of a message: its last bytes and how many bytes it has.
#[inline(always)]
fn last_word(tail: u64, bytes: usize) -> u64 {
    tail | (bytes as u64 & 0xff) << 56
}

/// 128-bit hashes of ids of `bytes` bytes each, with a zero byte behind each.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(crate) fn hashes_of_ids(key: [u64; 2], ids: &[&[u8]; LANES], bytes: usize) -> [u128; LANES] {
    let ids = ids.map(|id| &id[..bytes]);
    let word_at = |id: &[u8], at: usize| {
        // Behind the id there are zeros.
        let rest = id.get(at..).unwrap_or_default();
        rest.first_chunk().map_or_else(
            || rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
            |word| u64::from_le_bytes(*word),
        )
    };
    let mut state = State::new(key, true);
    let whole_words = (bytes + 1) / 8;
    for word in 0..whole_words {
        state.take(&ids.map(|id| word_at(id, word * 8)));
    }
    state.take(&ids.map(|id| last_word(word_at(id, whole_words * 8), bytes + 1)));
    state.finish_128()
}

/// 128-bit hashes of messages of 17 bytes: two words and `last`.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(crate) fn hashes_of_pairs(key: [u64; 2], first: u64, second: &[u64; LANES], last: u8) -> [u128; LANES] {
    let mut state = State::new(key, true);
    state.take(&[first; LANES]);
    state.take(second);
    state.take(&[last_word(last.into(), 17); LANES]);
    state.finish_128()
}

/// 64-bit hashes of numbers: a mantissa and a scale, 17 bytes.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(crate) fn hashes_of_numbers(
    key: [u64; 2],
    mantissas: &[i128; LANES],
    scales: &[u8; LANES],
) -> [u64; LANES] {
    let mut state = State::new(key, false);
    state.take(&mantissas.map(|mantissa| mantissa as u64));
    state.take(&mantissas.map(|mantissa| (mantissa >> 64) as u64));
    state.take(&scales.map(|scale| last_word(scale.into(), 17)));
    state.finish_64()
}
