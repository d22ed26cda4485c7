//! Unique keys: how many different ones there are over time.
//!
//! Owns: sets of keys with additions and removals. Leaves to others: how long each number of keys counts (`levels`), what a
//! key costs.
//!
//! Invariants: adding a key that is there, or removing one that is not, changes nothing.

use std::collections::BTreeSet;

/// How many keys are there after each change, in its order: a key, and whether it goes.
pub fn present_after<K: Ord>(changes: impl IntoIterator<Item = (K, bool)>) -> Vec<u64> {
    let mut present = BTreeSet::new();
    let count_after = |(key, is_removal)| {
        if is_removal {
            present.remove(&key);
        } else {
            present.insert(key);
        }
        present.len() as u64
    };
    changes.into_iter().map(count_after).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_counts_once_from_its_addition_until_its_removal() {
        for (changes, counts) in [
            ("", vec![]),
            ("+a", vec![1]),
            ("+a +b +a -a -b", vec![1, 2, 2, 1, 0]),
            // What is not there cannot go, and may come afterwards.
            ("-a +a -a -a +a", vec![0, 1, 0, 0, 1]),
        ] {
            let changes = changes.split_whitespace().map(|change| (&change[1..], change.starts_with('-')));
            assert_eq!(present_after(changes.clone()), counts, "{:?}", changes.collect::<Vec<_>>());
        }
    }
}
