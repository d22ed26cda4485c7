//! The due index: at which instant each account next changes by silence alone.
//!
//! Owns: window ends, window ends plus grace, changes of prices, starts and ends of subscriptions, as an ordered index over accounts.
//! Leaves to others: what happens then (`cut`).
//!
//! Invariants: after `advance(at)` no account has an instant at or before `at`; an account without commitments has none once the
//! last window of its subscriptions is over, grace included.

use std::collections::{BTreeMap, BTreeSet};

use billing::catalog::Catalog;
use domain::time::Cadence;
use domain::{AccountId, Span, Timestamp};

use crate::owners::{account_and_entity, active_spans_of};
use crate::windows::grids_of_account;

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
    let before_grace = at.plus(-grace).max(Timestamp::MIN);
    let mut instants = Vec::new();
    for active in catalog.subscriptions_of_account(account).flat_map(active_spans_of) {
        instants.push(active.span.until);
        instants.push(active.span.from);
        // A recurring amount that is prorated changes with its price.
        instants.extend(catalog.prices_of_plan(&active.plan).flat_map(|price| price.changes()));
    }
    let mut grids = grids_of_account(catalog, account);
    // A commitment is trued up whether anything is subscribed to or not.
    if catalog.commitments_of_account(account).next().is_some() {
        let months = account_terms.time_zone.grid(Cadence::MONTHS);
        grids.push((months, Span::new(Timestamp::MIN, Timestamp::END)));
    }
    for (grid, life) in grids {
        // The next window end, and the first whose grace is not over: found from the window that `at - grace` lies in.
        for (since, wait) in [(at, 0), (before_grace, grace)] {
            let window = grid.window_of(since.max(life.from));
            if window.from < life.until {
                instants.push(window.until.plus(wait));
            }
        }
    }
    instants.into_iter().filter(|instant| *instant > at).min()
}

#[cfg(test)]
mod tests {
    use billing::catalog::CatalogFile;
    use domain::time::{DAY, HOUR};

    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(&format!("2026-{text}T00:00:00Z")).unwrap()
    }

    /// What an account is due for after an instant, with five days of grace, and a subscription until noon of January 10.
    fn due_after(window: &str, more: &str, instant: Timestamp) -> Option<Timestamp> {
        let text = format!(
            r#"
            catalog = 1
            entity = [{{ id = "inc", currency = "USD", time_zone = "UTC" }}]
            account = [{{ id = "acme", name = "A", entity = "inc", currency = "USD", time_zone = "UTC" }}]
            plan = [{{ id = "pro", currency = "USD" }}]
            price = [{{ id = "fee", plan = "pro", window = "{window}", model = "flat", unit_amount = "1", payment = "in_advance" }}]
            subscription = [{{ id = "s", account = "acme", plan = "pro", from = "2026-01-01T00:00:00Z", until = "2026-01-10T12:00:00Z" }}]
            {more}"#
        );
        let mut catalog = Catalog::default();
        for (offset, resource) in CatalogFile::parse(&text).unwrap().resources().into_iter().enumerate() {
            catalog.apply(resource, offset as u64).unwrap();
        }
        next_due(&catalog, &AccountId::new("acme").unwrap(), 5 * DAY, instant)
    }

    #[test]
    fn an_account_is_due_until_the_grace_of_its_last_window_is_over() {
        let discount = "discount = [{ id = \"d\", account = \"acme\", percent = \"10\", from = \"2026-01-01T00:00:00Z\" }]";
        let commitment = "commitment = [{ id = \"c\", account = \"acme\", shape = \"none\", amount = \"12\", from = \"2026-01-01T00:00:00Z\", until = \"2027-01-01T00:00:00Z\" }]";
        for (window, more, after, due) in [
            ("day", "", at("01-10"), Some(at("01-10").plus(12 * HOUR))),
            ("day", "", at("01-10").plus(12 * HOUR), Some(at("01-11"))),
            ("day", "", at("01-11"), Some(at("01-12"))),
            ("day", "", at("01-15"), Some(at("01-16"))),
            ("day", "", at("01-16"), None),
            ("quarter", "", at("01-11"), Some(at("04-01"))),
            ("quarter", "", at("04-01"), Some(at("04-06"))),
            ("quarter", "", at("04-06"), None),
            // What is taken off is of a month.
            ("day", discount, at("01-16"), Some(at("02-01"))),
            ("day", discount, at("02-06"), None),
            // The fee may belong to the last month of its window.
            ("quarter", discount, at("01-11"), Some(at("02-01"))),
            ("quarter", discount, at("04-06"), None),
            ("day", commitment, at("04-06"), Some(at("05-01"))),
        ] {
            assert_eq!(due_after(window, more, after), due, "{window} {more} after {after}");
        }
    }
}
