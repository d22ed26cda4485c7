//! Events that wait for an owner: accepted, remembered, and in no cell yet.
//!
//! Owns: what is kept of a waiting event, and how many a source has in each slot.
//! Leaves to others: when a subject gets an owner (`super::Shard`).
//!
//! Invariants: a count is that of the events kept; a source without waiting events has none. Counts go by slot, so that
//! the limit does not depend on the number of shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::{EventPosition, Timestamp};

use super::fold::Contribution;
use crate::identity::slot_of;

/// An event that waits.
pub(crate) struct PendingEvent {
    /// Who sent it.
    pub(crate) source: Arc<str>,
    /// Its identity.
    pub(crate) identity: u128,
    /// When the usage happened.
    pub(crate) time: Timestamp,
    /// Where it stands in the log.
    pub(crate) position: EventPosition,
    /// What its meters take of it.
    pub(crate) contributions: Vec<Contribution>,
}

/// Waiting events per source and slot.
#[derive(Default)]
pub(crate) struct PendingCounts {
    counts: BTreeMap<(Arc<str>, u16), u32>,
}

impl PendingCounts {
    /// Counts one more event, unless its source has `limit` in the event's slot already.
    pub(crate) fn try_keep(&mut self, source: &Arc<str>, identity: u128, limit: u32) -> bool {
        let key = (source.clone(), slot_of(identity) as u16);
        let count = self.counts.get(&key).copied().unwrap_or(0);
        if count >= limit {
            return false;
        }
        self.counts.insert(key, count + 1);
        true
    }

    /// Counts an event that no longer waits.
    pub(crate) fn release(&mut self, event: &PendingEvent) {
        let key = (event.source.clone(), slot_of(event.identity) as u16);
        let count = self.counts.get_mut(&key).expect("a pending event was counted");
        *count -= 1;
        if *count == 0 {
            self.counts.remove(&key);
        }
    }
}
