//! When ids are forgotten: after the days that they are remembered for, or when there are too many.
//!
//! Owns: when to look, and finding the place in the usage log. Leaves to others: the record and what it does (`machine`),
//! asking shards (`control`).
//!
//! Forgetting by days happens at most once for every day of usage. Forgetting because there are too many makes an eighth of
//! the room free, and is loud: it takes verdicts away that the days promise.

use std::sync::Arc;

use anyhow::{Context, Result};
use domain::Timestamp;
use domain::time::{DAY, HOUR};
use engine::log::{LogError, LogKind, PlaceFinder, StampedPlace};
use machine::{ControlState, LogPlace, offset_of_newest};
use wire::control::{ForgottenBecause, IdsForgotten};

use crate::directory::DataDirectory;
use crate::shards::IdCounts;

/// Settings of forgetting, and when to look again.
pub struct Forgetting {
    dedup: i64,
    ids_max: u64,
    ids: Arc<IdCounts>,
    next_look: Timestamp,
    /// No place was found for fewer ids than this.
    too_many_from: u64,
}

impl Forgetting {
    /// Remembers ids for so many nanoseconds, and so many of them at most; `ids` is how many there are.
    pub fn new(dedup: i64, ids_max: u64, ids: Arc<IdCounts>) -> Self {
        Self { dedup, ids_max, ids, next_look: Timestamp::MIN, too_many_from: 0 }
    }

    /// The record that forgets what was remembered for its days, if there is anything.
    ///
    /// # Errors
    /// If the usage log cannot be read.
    pub fn is_due(
        &mut self,
        control: &ControlState,
        now: Timestamp,
        directory: &DataDirectory,
        usage_end: u64,
    ) -> Result<Option<IdsForgotten>> {
        if now < self.next_look || self.ids.total() == 0 {
            return Ok(None);
        }
        self.next_look = now.plus(HOUR);
        let until = control.forgettable_until(now, self.dedup);
        let is_early = |last: &IdsForgotten| until < last.arrived_until.plus(DAY);
        if control.forgotten().is_some_and(is_early) {
            return Ok(None);
        }
        let place = place(directory, usage_end, |finder| finder.by_stamp(until.nanoseconds()))?;
        Ok(self.record(control, place, ForgottenBecause::DedupDays))
    }

    /// Whether there are more ids than there may be.
    pub fn are_too_many(&self) -> bool {
        let ids = self.ids.total();
        ids > self.ids_max && ids >= self.too_many_from
    }

    /// The record that makes room for ids; `stretches` says where they are in the log.
    ///
    /// # Errors
    /// If the usage log cannot be read.
    pub fn too_many(
        &mut self,
        control: &ControlState,
        stretches: Vec<(u64, u64)>,
        directory: &DataDirectory,
        usage_end: u64,
    ) -> Result<Option<IdsForgotten>> {
        self.too_many_from = self.ids.total() + self.ids_max / 64 + 1;
        let offset = offset_of_newest(stretches, self.ids_max - self.ids_max / 8).unwrap_or(usage_end);
        let place = place(directory, usage_end, |finder| finder.by_offset(offset))?;
        let Some(record) = self.record(control, place, ForgottenBecause::IdsMax) else { return Ok(None) };
        let usage =
            LogPlace { storage: directory.log(LogKind::Usage)?, options: directory.options(LogKind::Usage) };
        let happened_until = control.latest_forgettable(&usage, record.before).unwrap_or_else(|error| {
            tracing::warn!(
                "when forgotten usage happened is taken from its arrival: it cannot be read: {error}"
            );
            None
        });
        Ok(Some(IdsForgotten { happened_until, ..record }))
    }

    fn record(
        &self,
        control: &ControlState,
        place: Option<StampedPlace>,
        because: ForgottenBecause,
    ) -> Option<IdsForgotten> {
        let StampedPlace { offset: before, recorded_until } = place?;
        let is_new = before > control.forgotten_ids().before;
        let arrived_until = Timestamp::from_nanoseconds(recorded_until);
        let ids = self.ids.total();
        is_new.then_some(IdsForgotten { before, arrived_until, because, ids, happened_until: None })
    }

    /// Says what was forgotten.
    pub fn on_forgotten(&mut self, forgotten: &IdsForgotten, proven_from: Timestamp, now: Timestamp) {
        let IdsForgotten { arrived_until, because, ids, .. } = forgotten;
        match because {
            ForgottenBecause::DedupDays => {
                tracing::info!("ids of events that arrived by {arrived_until} are forgotten");
            }
            ForgottenBecause::IdsMax => {
                self.too_many_from = 0;
                tracing::warn!(
                    "{ids} ids are more than --ids-max ({}): those of events that arrived by {arrived_until} are forgotten \
                     before their {} days are over, and new events before {proven_from} are set aside as too_old",
                    self.ids_max,
                    self.dedup / DAY
                );
                if proven_from > now {
                    tracing::warn!(
                        "that takes events of the present: an event that was forgotten is of a time to come, or --ids-max is far too small"
                    );
                }
            }
        }
    }
}

/// A place in the usage log.
fn place(
    directory: &DataDirectory,
    usage_end: u64,
    find: impl FnOnce(&PlaceFinder<'_>) -> Result<Option<StampedPlace>, LogError>,
) -> Result<Option<StampedPlace>> {
    let log = directory.log(LogKind::Usage)?;
    let finder = PlaceFinder::new(&*log, directory.options(LogKind::Usage), usage_end);
    finder.and_then(|finder| find(&finder)).context("the usage log cannot be read")
}

#[cfg(test)]
mod tests;
