//! Events that wait for an owner: accepted, remembered, and in no cell yet.
//!
//! Owns: what is kept of a waiting event, and how many a source has in each slot.
//! Leaves to others: when a subject gets an owner (`super::Shard`).
//!
//! Invariants: a count is that of the events kept; a source without waiting events has none. Counts go by slot, so that
//! the limit does not depend on the number of shards. Whether an event waits is known without a look at any subject.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Where they stand in the log: an id that was forgotten may wait twice.
    positions: BTreeSet<EventPosition>,
}

impl PendingCounts {
    /// Counts one more event, unless its source has `limit` in the event's slot already.
    pub(crate) fn try_keep(
        &mut self,
        source: &Arc<str>,
        (identity, position): (u128, EventPosition),
        limit: u32,
    ) -> bool {
        let key = (source.clone(), slot_of(identity) as u16);
        let count = self.counts.get(&key).copied().unwrap_or(0);
        if count >= limit {
            return false;
        }
        self.counts.insert(key, count + 1);
        assert!(self.positions.insert(position), "an event waits once");
        true
    }

    /// Whether no event waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Whether the event at a position waits.
    pub(crate) fn has(&self, position: EventPosition) -> bool {
        self.positions.contains(&position)
    }

    /// Counts an event that no longer waits.
    pub(crate) fn release(&mut self, event: &PendingEvent) {
        let key = (event.source.clone(), slot_of(event.identity) as u16);
        let count = self.counts.get_mut(&key).expect("a pending event was counted");
        *count -= 1;
        assert!(self.positions.remove(&event.position), "a pending event has its place");
        if *count == 0 {
            self.counts.remove(&key);
        }
    }
}
