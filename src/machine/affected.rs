//! Which accounts a cut rates, and which of their windows.
//!
//! Owns: what changed cells, levels, terms and passed instants reach. Leaves to others: rating it (`cut`), the instants (`due`).
//!
//! Invariants: a window that is worth something else than at the cut before is affected; more windows than needed change
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use billing::catalog::{Account, Catalog};
use domain::{AccountId, Span, Subject, SubscriptionId, Timestamp};
use wire::control::Cut;

use crate::cut::Rater;
use crate::due::DueIndex;
use crate::owners::{account_of, active_spans_of};
use crate::windows::{grids_of, grids_of_plan, life_of};

/// What changed since the last cut.
pub(crate) struct Changed {
    /// Cells by subject: program and first instant of the slice.
    pub(crate) cells: BTreeMap<Subject, BTreeSet<(u32, Timestamp)>>,
    /// Subjects with a level, and from when on it may be worth something else.
    pub(crate) levels: Vec<(Subject, Timestamp)>,
}

/// Which windows of an account are rated.
#[derive(Default)]
pub(crate) struct Affected {
    /// All windows: its terms changed.
    pub(crate) all: bool,
    /// Single windows, by subscription.
    pub(crate) windows: BTreeSet<(SubscriptionId, Span)>,
}

/// Accounts that have a changed cell, a changed term, or a due instant since the last cut.
pub(crate) fn affected_accounts(
    catalog: &Catalog,
    changed: &Changed,
    touched: &BTreeSet<AccountId>,
    due: &DueIndex,
    closed_through: Timestamp,
    cut: &Cut,
) -> BTreeMap<AccountId, Affected> {
    let mut affected: BTreeMap<AccountId, Affected> = BTreeMap::new();
    for (subject, cells) in &changed.cells {
        let Some(timeline) = catalog.subject(subject.as_str()) else { continue };
        // Of the last cell: its subscription, and the span in which all windows are the same.
        let mut last: Option<(&SubscriptionId, Span)> = None;
        for (_, slice_from) in cells {
            let Some(binding) = timeline.at(*slice_from) else { continue };
            let is_known = last.is_some_and(|(subscription, common)| {
                binding.subscription == *subscription && common.contains(*slice_from)
            });
            if is_known {
                continue;
            }
            let Some(subscription) = catalog.subscription(&binding.subscription) else { continue };
            let account = account_of(catalog, subscription.account());
            let windows = &mut affected.entry(account.id.clone()).or_default().windows;
            let mut common = Span::new(Timestamp::MIN, Timestamp::END);
            for grid in grids_of(catalog, subscription, &account.time_zone) {
                let window = grid.window_of(*slice_from);
                windows.insert((binding.subscription.clone(), window));
                common = Span::new(common.from.max(window.from), common.until.min(window.until));
            }
            last = Some((&binding.subscription, common));
        }
    }
    for (subject, since) in &changed.levels {
        let Some(timeline) = catalog.subject(subject.as_str()) else { continue };
        // A level goes on: what it is worth changes with time, and after an event in every window until now.
        for (bound, binding) in timeline.spans() {
            let Some(subscription) = catalog.subscription(&binding.subscription) else { continue };
            let account = account_of(catalog, subscription.account());
            let open = Span::new(bound.from.max(*since), bound.until.min(cut.at.plus(1)));
            for grid in grids_of(catalog, subscription, &account.time_zone) {
                let windows = grid.windows_in(open).map(|window| (binding.subscription.clone(), window));
                affected.entry(account.id.clone()).or_default().windows.extend(windows);
            }
        }
    }
    for account in touched {
        affected.entry(account.clone()).or_default().all = true;
    }
    // From the window on that no cut before made final: a window ends once, and is final once.
    let since = closed_through.plus(-1).max(Timestamp::MIN);
    for account in due.due(cut.at) {
        let terms = account_of(catalog, &account);
        let affected = affected.entry(account.clone()).or_default();
        let open = Span::new(since, cut.at.plus(1));
        for subscription in catalog.subscriptions_of_account(&account) {
            let Some(life) = life_of(subscription) else { continue };
            for grid in grids_of(catalog, subscription, &terms.time_zone) {
                let windows = grid.windows_in(open).filter(|window| window.overlaps(life));
                affected.windows.extend(windows.map(|window| (subscription.id().clone(), window)));
            }
        }
    }
    affected
}

impl Rater<'_> {
    /// The windows of all subscriptions of an account in the months of some windows: a discount of the account ties them
    /// together.
    pub(crate) fn months_of(
        &self,
        account: &AccountId,
        windows: &BTreeSet<(SubscriptionId, Span)>,
    ) -> BTreeSet<(SubscriptionId, Span)> {
        let months: BTreeSet<Span> = windows.iter().map(|(_, window)| *window).collect();
        let subscriptions = self.catalog.subscriptions_of_account(account);
        subscriptions.flat_map(|of| months.iter().map(|month| (of.id().clone(), *month))).collect()
    }

    /// All windows of an account that were charged or have a subscription, besides the affected ones.
    pub(crate) fn windows_of(
        &self,
        account: &Account,
        affected: &Affected,
    ) -> BTreeSet<(SubscriptionId, Span)> {
        let mut windows = affected.windows.clone();
        windows.extend(self.issued.windows_of(&account.id));
        for subscription in self.catalog.subscriptions_of_account(&account.id) {
            // Usage may run ahead of the cut as far as policy lets it; silence may not.
            let subjects = self.catalog.subjects_of_subscription(subscription.id());
            let used = subjects.filter_map(|subject| self.cells.last_slice_of(subject)).max();
            let last = used.map_or(self.cut.at, |used| used.max(self.cut.at));
            for active in active_spans_of(subscription) {
                let seen = Span::new(active.span.from, active.span.until.min(last.plus(1)));
                for grid in grids_of_plan(self.catalog, subscription, &active.plan, &account.time_zone) {
                    windows.extend(grid.windows_in(seen).map(|window| (subscription.id().clone(), window)));
                }
            }
        }
        windows
    }
}
