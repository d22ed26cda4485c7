//! The due index: at which instant each account next changes by silence alone.
//!
//! Owns: window ends, window ends plus grace, changes of prices, starts and ends of subscriptions, as an ordered index over accounts.
//! Leaves to others: what happens then (`cut`).
//!
//! Invariants: after `advance(at)` no account has an instant at or before `at`; an account without subscriptions and
//! commitments has none.

use std::collections::{BTreeMap, BTreeSet};

use billing::catalog::Catalog;
use domain::time::Cadence;
use domain::{AccountId, Timestamp};

use crate::owners::{account_and_entity, active_spans_of};
use crate::windows::grids_of;

/// The index.
#[derive(Default)]
pub(crate) struct DueIndex {
    by_instant: BTreeMap<Timestamp, BTreeSet<AccountId>>,
    by_account: BTreeMap<AccountId, Timestamp>,
}

impl DueIndex {
    /// Accounts with an instant at or before `at`.
    pub(crate) fn due(&self, at: Timestamp) -> BTreeSet<AccountId> {
        self.by_instant.range(..=at).flat_map(|(_, accounts)| accounts.iter().cloned()).collect()
    }

    /// The earliest instant of any account.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.by_instant.keys().next().copied()
    }

    /// Sets the next instant after `at` of the given accounts and of those that were due.
    pub(crate) fn advance(
        &mut self,
        catalog: &Catalog,
        grace: i64,
        at: Timestamp,
        touched: &BTreeSet<AccountId>,
    ) {
        let mut accounts = self.due(at);
        accounts.extend(touched.iter().cloned());
        for account in accounts {
            if let Some(before) = self.by_account.remove(&account) {
                let waiting = self.by_instant.get_mut(&before).expect("both maps name the same accounts");
                waiting.remove(&account);
                if waiting.is_empty() {
                    self.by_instant.remove(&before);
                }
            }
            if let Some(next) = next_due(catalog, &account, grace, at) {
                self.by_instant.entry(next).or_default().insert(account.clone());
                self.by_account.insert(account, next);
            }
        }
    }
}

/// First instant after `at` at which the account changes by silence alone.
fn next_due(catalog: &Catalog, account: &AccountId, grace: i64, at: Timestamp) -> Option<Timestamp> {
    catalog.account(account)?;
    let (account_terms, _) = account_and_entity(catalog, account);
    let zone = &account_terms.time_zone;
    let before_grace = at.plus(-grace).max(Timestamp::MIN);
    let mut grids = BTreeMap::new();
    let mut instants = Vec::new();
    for subscription in catalog.subscriptions_of_account(account) {
        grids.extend(grids_of(catalog, subscription, zone).into_iter().map(|grid| (grid.cadence(), grid)));
        for active in active_spans_of(subscription) {
            instants.push(active.span.until);
            instants.push(active.span.from);
            // A recurring amount that is prorated changes with its price.
            instants.extend(catalog.prices_of_plan(&active.plan).flat_map(|price| price.changes()));
        }
    }
    // A commitment is trued up whether anything is subscribed to or not.
    let has_months = catalog.commitments_of_account(account).next().is_some()
        || (!instants.is_empty() && catalog.discounts_of_account(account).next().is_some());
    if has_months {
        grids.insert(Cadence::MONTHS, zone.grid(Cadence::MONTHS));
    }
    if instants.is_empty() && !has_months {
        return None;
    }
    for grid in grids.into_values() {
        instants.push(grid.window_of(at).until);
        // The first window end whose grace is not over: found from the window that `at - grace` lies in.
        instants.push(grid.window_of(before_grace).until.plus(grace));
    }
    instants.into_iter().filter(|instant| *instant > at).min()
}
