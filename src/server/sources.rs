//! Sources that the server knows, and how many there may be: each is counted by itself for ever.
//!
//! Owns: whether another one may come. Leaves to others: what is counted of each (`engine::shard`).
//!
//! Invariants: a source that has an event in the log is never refused, whatever the limit is since; nothing is refused that
//! is in the log. A source that was let in counts until the next start, also if its batch never reached the log.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};

/// The sources that are known.
#[derive(Clone)]
pub struct Sources(Arc<Known>);

struct Known {
    max: usize,
    hasher: RandomState,
    /// Keyed hashes: a collision, which nobody can make, lets one more in.
    hashes: Mutex<HashSet<u64>>,
}

/// Why a source is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there are {0} sources already, the most that the server takes (--sources-max); send with one of them"
)]
pub struct SourceMustBeKnown(pub usize);

impl Sources {
    /// Those that are in the log, and how many there may be.
    pub fn new<'a>(max: usize, known: impl Iterator<Item = &'a str>) -> Self {
        let hasher = RandomState::new();
        let hashes = known.map(|source| hasher.hash_one(source)).collect();
        Self(Arc::new(Known { max, hasher, hashes: Mutex::new(hashes) }))
    }

    /// Lets a source in if it is known or there is room for another one.
    ///
    /// # Errors
    /// [`SourceMustBeKnown`].
    pub fn admit(&self, source: &str) -> Result<(), SourceMustBeKnown> {
        let hash = self.0.hasher.hash_one(source);
        let mut hashes = self.0.hashes.lock().expect("nothing panics while it holds the sources");
        if hashes.len() >= self.0.max && !hashes.contains(&hash) {
            return Err(SourceMustBeKnown(self.0.max));
        }
        hashes.insert(hash);
        Ok(())
    }

    /// How many there are, and how many there may be.
    pub fn count(&self) -> (usize, usize) {
        (self.0.hashes.lock().expect("nothing panics while it holds the sources").len(), self.0.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_sources_come_in_as_there_may_be_and_known_ones_always() {
        let sources = Sources::new(3, ["a", "b"].into_iter());
        for (source, is_admitted) in
            [("a", true), ("c", true), ("d", false), ("c", true), ("b", true), ("d", false)]
        {
            assert_eq!(sources.admit(source).is_ok(), is_admitted, "{source}");
        }
        assert_eq!(sources.count(), (3, 3));
        // The limit was lowered.
        let sources = Sources::new(1, ["a", "b"].into_iter());
        assert_eq!((sources.admit("a"), sources.admit("b")), (Ok(()), Ok(())));
        assert_eq!(sources.admit("c"), Err(SourceMustBeKnown(1)));
    }
}
