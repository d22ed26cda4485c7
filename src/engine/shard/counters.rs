//! Counters of what became of events, per source.
//!
//! Owns: the equation `received = accepted + duplicate + conflict + quarantined + rejected + voided` and
//! `accepted = metered + unmetered + pending`. A correction moves an event from one of them to another: an event that was
//! taken back, whether it counted or was set aside, is voided. Leaves to others: showing them (`server::observe`).

use wire::verdict::{QuarantineReason, Verdict};

/// What became of the events of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceCounters {
    /// Counted in at least one cell.
    pub metered: u64,
    /// Accepted, but no meter matched.
    pub unmetered: u64,
    /// Accepted and waiting for an owner.
    pub pending: u64,
    /// Same id and content as an earlier event.
    pub duplicate: u64,
    /// Same id and content with another time.
    pub duplicate_restamped: u64,
    /// Same id with other content.
    pub conflict: u64,
    /// Set aside, by reason in the order of [`QuarantineReason::ALL`].
    pub quarantined: [u64; QuarantineReason::ALL.len()],
    /// Refused from the frame alone.
    pub rejected: u64,
    /// Taken back by a person, whatever became of it before.
    pub voided: u64,
}

impl SourceCounters {
    /// Counts one verdict.
    #[inline]
    pub fn count(&mut self, verdict: Verdict) {
        *self.of(verdict) += 1;
    }

    /// Takes one verdict back: another one is counted for the event.
    pub fn uncount(&mut self, verdict: Verdict) {
        *self.of(verdict) -= 1;
    }

    #[inline]
    fn of(&mut self, verdict: Verdict) -> &mut u64 {
        match verdict {
            Verdict::Accepted => &mut self.metered,
            Verdict::Unmetered => &mut self.unmetered,
            Verdict::Pending => &mut self.pending,
            Verdict::Duplicate => &mut self.duplicate,
            Verdict::DuplicateRestamped => &mut self.duplicate_restamped,
            Verdict::Conflict => &mut self.conflict,
            Verdict::Quarantined(reason) => &mut self.quarantined[reason.ordinal()],
            Verdict::Rejected(_) => &mut self.rejected,
        }
    }

    /// Adds the counters of another shard.
    pub fn merge(&mut self, other: &SourceCounters) {
        self.metered += other.metered;
        self.unmetered += other.unmetered;
        self.pending += other.pending;
        self.duplicate += other.duplicate;
        self.duplicate_restamped += other.duplicate_restamped;
        self.conflict += other.conflict;
        for (mine, theirs) in self.quarantined.iter_mut().zip(other.quarantined) {
            *mine += theirs;
        }
        self.rejected += other.rejected;
        self.voided += other.voided;
    }

    /// Events that count once: metered, unmetered or pending.
    pub fn accepted(&self) -> u64 {
        self.metered + self.unmetered + self.pending
    }

    /// Events set aside, whatever the reason.
    pub fn quarantined_total(&self) -> u64 {
        self.quarantined.iter().sum()
    }

    /// Every event that reached the log.
    pub fn received(&self) -> u64 {
        self.accepted()
            + self.duplicate
            + self.duplicate_restamped
            + self.conflict
            + self.quarantined_total()
            + self.rejected
            + self.voided
    }
}
