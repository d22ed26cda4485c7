//! Which runs are merged.
//!
//! Owns: the choice. Leaves to others: merging (`super::work`).
//!
//! Runs stand in the order of the log, so only neighbours are merged, and the newest ones. At most [`RUNS_SETTLED`] are
//! left, and an entry is written as seldom as that allows: n tables are in runs of C(a, 4), C(b, 3), C(c, 2) and C(d, 1)
//! tables with a > b > c > d, which sum to n in just one way; a run that is smaller than its share is merged with all that
//! are newer (the binomial transform of Bentley and Saxe, 1980).
//!
//! Runs of the past are asked one at a time, so there may be more of them: each is at least twice as large as the next.

use std::ops::Range;

/// Runs that are left when nothing is to be merged.
pub(crate) const RUNS_SETTLED: usize = 4;
/// Runs that there are at most, while a merge is under way.
pub(crate) const RUNS_MAX: usize = 8;

/// The runs to be merged, of those with so many entries, oldest first. `table` is what a table has, and no run gets more
/// than `entries_max`.
pub(crate) fn runs_to_merge(sizes: &[u64], table: u64, entries_max: u64) -> Option<Range<usize>> {
    let in_tables = |entries: u64| (entries + table / 2) / table;
    let mut rest = in_tables(sizes.iter().sum());
    let mut from = sizes.len();
    for (index, size) in sizes.iter().enumerate() {
        let share = RUNS_SETTLED.checked_sub(index).map_or(0, |choose| largest_binomial(rest, choose as u64));
        rest -= share;
        if in_tables(*size) < share || index + 1 == RUNS_SETTLED {
            from = index;
            break;
        }
    }
    while sizes.get(from..).is_some_and(|merged| merged.iter().sum::<u64>() > entries_max) {
        from += 1;
    }
    (from + 2 <= sizes.len()).then_some(from..sizes.len())
}

/// The largest C(n, choose) that is not larger than a number; 0 for none.
fn largest_binomial(number: u64, choose: u64) -> u64 {
    if choose <= 1 {
        return number;
    }
    let (mut n, mut binomial, mut last) = (choose, 1, 0);
    while binomial <= number {
        last = binomial;
        n += 1;
        binomial = binomial * n / (n - choose);
    }
    last
}

/// The runs of the past to be merged.
pub(crate) fn past_to_merge(sizes: &[u64], entries_max: u64) -> Option<Range<usize>> {
    let [.., older, newer] = sizes else { return None };
    (*older < 2 * newer && older + newer <= entries_max).then_some(sizes.len() - 2..sizes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tables: u64, choose: &dyn Fn(&[u64]) -> Option<Range<usize>>) -> (usize, u64) {
        let (mut sizes, mut written, mut most) = (Vec::new(), 0_u64, 0);
        for _ in 0..tables {
            sizes.push(10);
            written += 10;
            while let Some(range) = choose(&sizes) {
                let merged = sizes[range.clone()].iter().sum();
                written += merged;
                sizes.splice(range, [merged]);
            }
            most = most.max(sizes.len());
        }
        assert_eq!(sizes.iter().sum::<u64>(), tables * 10, "nothing vanishes");
        (most, written / (tables * 10))
    }

    #[test]
    fn four_runs_are_left_and_an_entry_is_written_seldom() {
        let choose = |sizes: &[u64]| runs_to_merge(sizes, 10, u64::MAX);
        for (tables, times) in [(4, 1), (64, 3), (1_000, 8), (10_000, 16)] {
            assert_eq!(check(tables, &choose), (RUNS_SETTLED, times), "{tables} tables");
        }
    }

    #[test]
    fn runs_of_the_past_are_few() {
        let (most, times) = check(1_000, &|sizes| past_to_merge(sizes, u64::MAX));
        assert!(most <= 11 && times <= 11, "{most} runs, written {times} times");
    }

    #[test]
    fn a_run_never_gets_more_entries_than_its_index_counts() {
        assert_eq!(runs_to_merge(&[60, 50, 30, 5, 5], 10, 1_000), Some(0..5));
        assert_eq!(runs_to_merge(&[60, 50, 30, 5, 5], 10, 100), Some(1..5));
        assert_eq!(runs_to_merge(&[60, 50, 60, 41, 60], 10, 100), None);
        assert_eq!(runs_to_merge(&[10, 10, 10], 10, 100), None);
        assert_eq!(past_to_merge(&[60, 50], 100), None);
    }

    #[test]
    fn runs_of_any_sizes_become_few() {
        for sizes in [[1, 1, 1, 1, 1], [70, 3, 500, 2, 1], [500, 300, 200, 90, 80], [0, 0, 9, 0, 0]] {
            let range = runs_to_merge(&sizes, 10, u64::MAX).expect("five are too many");
            assert!(sizes.len() - range.len() < RUNS_SETTLED);
        }
    }
}
