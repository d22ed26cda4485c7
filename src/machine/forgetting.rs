//! When ids are forgotten, and where: what a record of it is made from.
//!
//! Owns: the horizon of remembering, and the choice of a place where there are too many ids. Leaves to others: what a record
//! means (`control`), where ids and stamps lie (the caller), what a shard does (`engine::shard`).
//!
//! Invariants: an id is remembered at least as long as an event with it may arrive without being too old, unless there are
//! too many ids.

use domain::Timestamp;

use crate::control::ControlState;

impl ControlState {
    /// Usage that arrived by then may be forgotten, if it is remembered for so long: an event that happened within the
    /// horizon is not set aside for it.
    pub fn forgettable_until(&self, now: Timestamp, dedup: i64) -> Timestamp {
        now.plus(-dedup.max(self.policy().horizon + self.future_max_ever() + 1))
    }
}

/// The offset before which ids are to be forgotten, so that at most so many are left; `None` if all are. Stretches are
/// offsets at which a stretch of the log begins, and how many ids it has.
pub fn offset_of_newest(mut stretches: Vec<(u64, u64)>, ids_max: u64) -> Option<u64> {
    stretches.sort_unstable();
    let (mut left, mut offset) = (ids_max, None);
    let mut newest = stretches.into_iter().rev().peekable();
    while let Some((from, mut ids)) = newest.next() {
        // Stretches of other shards that begin here are kept or forgotten with it.
        while let Some((_, more)) = newest.next_if(|(other, _)| *other == from) {
            ids += more;
        }
        let Some(rest) = left.checked_sub(ids) else { break };
        (left, offset) = (rest, Some(from));
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_ids_are_kept_in_whole_stretches() {
        let stretches = vec![(10, 5), (0, 100), (20, 1), (10, 2), (30, 4)];
        for (ids_max, offset) in
            [(200, Some(0)), (112, Some(0)), (111, Some(10)), (12, Some(10)), (11, Some(20)), (4, Some(30))]
        {
            assert_eq!(offset_of_newest(stretches.clone(), ids_max), offset, "{ids_max}");
        }
        assert_eq!(offset_of_newest(stretches, 3), None);
        assert_eq!(offset_of_newest(Vec::new(), 3), None);
    }
}
