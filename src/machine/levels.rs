//! Levels in a window: what was there before it and what happened in it, weighted by time.
//!
//! Owns: the level of each subject and group over all slices before a window's end, and which part of it the subscription
//! pays. Leaves to others: the integral (`measure`), merging cells (`cells`), prices (`billing`).
//!
//! Invariants:
//! - A level belongs to a subject and a group and goes on until an event changes it, over slices, windows and owners. A
//!   subscription pays the time in which the subject is its own and its plan is active; levels of subjects are added.
//! - A level counts up to the instant of the cut: what is ahead is not known yet. So a window is worth more with time, and
//!   all of it at the first cut after its end.

use std::collections::BTreeMap;

use billing::rating::RatingStatus;
use domain::{Exact, Span, Subject, Timestamp};
use engine::shard::cell::Group;
use engine::shard::kept::CellValue;

use crate::cut::{Charge, PricedMeter, Rater};
use crate::owners::{ActiveSpan, Schedules, slice_of};

impl Rater<'_> {
    /// What the levels of a meter add to the weighted sum of a window, per slice and group.
    pub(crate) fn levels_of(
        &self,
        schedules: &mut Schedules,
        charge: &Charge<'_>,
        active: &[&ActiveSpan],
        meter: &PricedMeter<'_>,
    ) -> Result<Vec<(Span, &Group, Exact)>, RatingStatus> {
        let mut found = Vec::new();
        for subject in self.catalog.subjects_of_subscription(charge.subscription) {
            let slices = self.owned_slices(schedules, charge, active, subject);
            if slices.is_empty() {
                continue;
            }
            // All that ever happened, and what of it in the window: only that is limited.
            let mut histories: BTreeMap<&Group, (CellValue, CellValue)> = BTreeMap::new();
            let Span { from, until } = charge.window;
            for cell in self.cells.of_subject(subject, meter.program, Timestamp::MIN, until) {
                let (history, of_window) = histories.entry(cell.group).or_default();
                history.merge(&cell.value);
                if cell.slice_from >= from {
                    of_window.merge(&cell.value);
                }
            }
            for (group, (history, of_window)) in histories {
                meter.check_kept([&of_window].into_iter())?;
                let levels = meter.rule.levels(&history)?;
                for (slice, owned) in &slices {
                    let seen = Span::new(owned.from, owned.until.min(self.cut.at).max(owned.from));
                    let weighted = levels.weighted(seen, charge.window)?;
                    if !weighted.is_zero() {
                        found.push((*slice, group, weighted));
                    }
                }
            }
        }
        Ok(found)
    }

    /// The slices of a subscription in a window where it is active, each with the part in which it owns a subject.
    fn owned_slices(
        &self,
        schedules: &mut Schedules,
        charge: &Charge<'_>,
        active: &[&ActiveSpan],
        subject: &Subject,
    ) -> Vec<(Span, Span)> {
        let bindings = self.catalog.subject(subject.as_str()).expect("the catalog names its own subjects");
        let ours = bindings.spans().into_iter();
        let ours: Vec<Span> = ours
            .filter(|(_, binding)| binding.subscription == *charge.subscription)
            .map(|(span, _)| span)
            .collect();
        let mut slices = Vec::new();
        for active in active {
            let mut from = active.span.from.max(charge.window.from);
            let until = active.span.until.min(charge.window.until);
            while from < until {
                let slice = slice_of(self.catalog, schedules, &charge.account.id, active, from);
                let owned = ours.iter().filter(|span| span.overlaps(slice));
                slices.extend(
                    owned.map(|span| {
                        (slice, Span::new(slice.from.max(span.from), slice.until.min(span.until)))
                    }),
                );
                from = slice.until;
            }
        }
        slices
    }
}
