//! Which numbers of sequenced producers arrived.
//!
//! Owns: gaps in the numbers of a run, and how many runs a source had. Leaves to others: whether an event counts.
//!
//! A run of a client mints numbers from 0 on for each of its event types, without gap. So a number that is missing below
//! one that arrived was minted and has not arrived, or was refused with its whole frame. What was minted behind the last
//! one cannot be seen.
//!
//! Invariants: memory goes with runs and gaps, not with events, and is limited.

use std::collections::BTreeMap;

/// Gaps and runs that are remembered.
pub const SEQUENCE_SPANS_MAX: usize = 100_000;

/// Numbers that arrived, by run.
#[derive(Debug, Default)]
pub(super) struct Sequences {
    /// Spans of numbers by run: first number to the one behind the last; disjoint, and never adjacent.
    runs: BTreeMap<u64, BTreeMap<u64, u64>>,
}

/// Numbers of a run that are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The run.
    pub run: u64,
    /// First missing number.
    pub from: u64,
    /// First number that is not missing any more.
    pub until: u64,
}

impl Sequences {
    /// Takes numbers of a run; gives how many more spans are remembered.
    pub(super) fn add(&mut self, run: u64, first: u64, count: u64) -> isize {
        let spans = self.runs.entry(run).or_default();
        let before = spans.len() as isize;
        let (mut from, mut until) = (first, first.saturating_add(count));
        // The span that begins at or before the new one, and all that begin inside it or right behind, are one with it.
        while let Some((start, end)) = spans.range(..=until).next_back().map(|(start, end)| (*start, *end)) {
            if end < from {
                break;
            }
            spans.remove(&start);
            (from, until) = (from.min(start), until.max(end));
        }
        spans.insert(from, until);
        spans.len() as isize - before
    }

    /// How many runs there were.
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Numbers that are missing below one that arrived.
    pub(super) fn gaps(&self) -> impl Iterator<Item = Gap> + '_ {
        self.runs.iter().flat_map(|(run, spans)| {
            let mut missing = 0;
            spans.iter().filter_map(move |(from, until)| {
                let gap = Gap { run: *run, from: missing, until: *from };
                missing = *until;
                (gap.from < gap.until).then_some(gap)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn gaps_are_the_numbers_that_did_not_arrive(
            batches in prop::collection::vec((0..3u64, 0..60u64, 1..8u64), 0..30),
        ) {
            let mut sequences = Sequences::default();
            let mut arrived: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            let mut spans = 0;
            for (run, first, count) in batches {
                spans += sequences.add(run, first, count);
                arrived.entry(run).or_default().extend(first..first + count);
            }
            let found: BTreeSet<(u64, u64)> =
                sequences.gaps().flat_map(|gap| (gap.from..gap.until).map(move |number| (gap.run, number))).collect();
            let expected: BTreeSet<(u64, u64)> = arrived
                .iter()
                .flat_map(|(run, numbers)| {
                    let last = *numbers.last().unwrap();
                    (0..last).filter(|number| !numbers.contains(number)).map(|number| (*run, number))
                })
                .collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(sequences.runs(), arrived.len());
            let remembered: usize = sequences.runs.values().map(BTreeMap::len).sum();
            prop_assert_eq!(spans, remembered as isize);
        }
    }
}
