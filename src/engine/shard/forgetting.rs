//! An end of remembering: which ids a shard knows no more.
//!
//! Owns: the ids that stay known although the place of their events is forgotten. Leaves to others: what is remembered and
//! what is forgotten of an event (`super::dedup`), who says so (`machine`: a record of the control log).
//!
//! An id is forgotten if its event was accepted as it arrived and nobody corrected it. Such an event is earlier than
//! `proven_from` of the plan, and so whatever comes with its id and its time is set aside. Of any other event that cannot
//! be said: what was set aside may be released at any time, and then counts. So its id is *held*: asked behind what is
//! remembered, and answered as if it were.
//!
//! Invariants: what is held stays held; a held event is before all that is remembered. Of two held events with one
//! identity the later one is held.

use domain::EventPosition;
use wire::verdict::Verdict;

use super::Shard;
use super::dedup::Lookup;
use super::dedup::runs::RunError;

impl Shard {
    /// Forgets what stands before an offset of the log.
    pub(super) fn forget(&mut self, before: u64) {
        let (known_from, from) = (self.dedup.remembered_from(), EventPosition::new(before, 0));
        self.dedup.forget(from);
        let first = self.set_aside.partition_point(|listed| listed.position < known_from);
        let until = self.set_aside.partition_point(|listed| listed.position < from);
        let is_quarantined =
            |verdict: u8| matches!(Verdict::from_code(verdict), Some(Verdict::Quarantined(_)));
        let quarantined = self.set_aside[first..until].iter().filter(|listed| is_quarantined(listed.verdict));
        let mut held: Vec<_> = quarantined.map(|listed| (listed.position, listed.identity)).collect();
        held.extend(self.corrected_in(known_from..from));
        for (position, identity) in held {
            self.hold_if_forgotten(identity, position);
        }
    }

    /// Keeps an id known whose event may come to count, or no more, by what a person says.
    pub(super) fn hold_if_forgotten(&mut self, identity: u128, position: EventPosition) {
        if position < self.dedup.remembered_from() {
            let held = self.held.entry(identity).or_insert(position);
            *held = position.max(*held);
        }
    }

    /// What is known of an identity, or where it would go. Without `in_runs`, it is not among what runs remember.
    #[inline]
    pub(super) fn look_up(&mut self, identity: u128, in_runs: bool) -> Result<Lookup, RunError> {
        let found = self.dedup.look_up(identity, in_runs)?;
        match found {
            Lookup::Unknown(_) if !self.held.is_empty() => Ok(self.look_up_held(identity)?.unwrap_or(found)),
            found => Ok(found),
        }
    }

    fn look_up_held(&self, identity: u128) -> Result<Option<Lookup>, RunError> {
        let Some(position) = self.held.get(&identity) else { return Ok(None) };
        let seen = self.dedup.find_at(identity, *position)?;
        Ok(Some(Lookup::Known(seen.expect("what is held was remembered once"))))
    }

    /// Ids of the index: those that no client numbered, and that are not forgotten.
    pub fn ids(&self) -> u64 {
        self.dedup.len()
    }

    /// Stretches of the usage log, in no order: an offset at which one begins, and how many ids of the index it has.
    pub fn ids_by_offset(&self) -> Vec<(u64, u64)> {
        let stretches = self.dedup.stretches().into_iter();
        stretches.map(|(position, ids)| (position.offset(), ids)).collect()
    }
}
