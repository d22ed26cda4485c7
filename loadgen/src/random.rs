//! Reproducible numbers, and drawing by weight in constant time.
//!
//! Invariants: a seed gives the same numbers on every run.

/// A small generator (xorshift*).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self(mix(mix(seed) ^ stream) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        below(self.next(), bound)
    }
}

/// A number below a bound out of one of 64 bits.
pub(crate) fn below(number: u64, bound: u64) -> u64 {
    ((u128::from(number) * u128::from(bound)) >> 64) as u64
}

/// Shuffles the bits of a number; no two numbers give the same one.
pub(crate) fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Zipf shares of `count` items, drawn by an alias table (Walker, Vose): one look-up, however many items there are.
pub(crate) struct Zipf {
    /// Below this, of 2^32, a column is its own item; above, the other one.
    columns: Vec<(u32, u32)>,
}

impl Zipf {
    /// Shares need no exactness, only reproducibility: they decide who is picked, not what is counted.
    pub(crate) fn new(count: u32, exponent: f64) -> Self {
        let weights: Vec<f64> = (1..=count).map(|rank| f64::from(rank).powf(-exponent)).collect();
        let scale = f64::from(count) / weights.iter().sum::<f64>();
        let mut left: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
        let mut columns: Vec<(u32, u32)> = (0..count).map(|item| (u32::MAX, item)).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) =
            (0..count).partition(|item| left[*item as usize] < 1.0);
        while let (Some(less), Some(more)) = (small.pop(), large.last().copied()) {
            columns[less as usize] = ((left[less as usize] * 4_294_967_296.0) as u32, more);
            left[more as usize] -= 1.0 - left[less as usize];
            if left[more as usize] < 1.0 {
                large.pop();
                small.push(more);
            }
        }
        Self { columns }
    }

    pub(crate) fn draw(&self, random: &mut Random) -> u32 {
        let number = random.next();
        let column = below(number, self.columns.len() as u64) as u32;
        let (own_below, other) = self.columns[column as usize];
        // The low bits are independent of the column, which the high bits chose.
        if (number as u32) < own_below { column } else { other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_shares_of_zipf() {
        for (count, exponent) in [(1, 1.0), (2, 0.0), (10, 1.0), (100, 2.0), (1_000, 0.5)] {
            let zipf = Zipf::new(count, exponent);
            let mut random = Random::new(7, 0);
            let draws = 200_000;
            let mut drawn = vec![0u32; count as usize];
            for _ in 0..draws {
                drawn[zipf.draw(&mut random) as usize] += 1;
            }
            let total: f64 = (1..=count).map(|rank| f64::from(rank).powf(-exponent)).sum();
            for (rank, count) in (1..).zip(&drawn) {
                let expected = f64::from(draws) * f64::from(rank).powf(-exponent) / total;
                let deviation = (f64::from(*count) - expected).abs() / expected.max(1.0).sqrt();
                assert!(deviation < 6.0, "rank {rank}: {count} of {expected}");
            }
        }
    }

    #[test]
    fn streams_of_a_seed_differ() {
        let first = |seed, stream| Random::new(seed, stream).next();
        assert_eq!(first(1, 2), first(1, 2));
        assert!(first(1, 2) != first(1, 3) && first(1, 2) != first(2, 2));
    }
}
