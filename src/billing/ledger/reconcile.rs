//! Checks between charges and journals: pure sums and differences.

use std::collections::BTreeMap;

use domain::{Currency, EntityId};

use super::chart::LedgerAccount;
use super::journal::Journal;

/// Balance of one ledger account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialBalanceLine {
    /// The legal entity.
    pub entity: EntityId,
    /// The currency.
    pub currency: Currency,
    /// The ledger account.
    pub ledger_account: LedgerAccount,
    /// Debits minus credits in minor units.
    pub minor: i128,
}

/// Balances of all ledger accounts over some journals, in order of entity, currency and account.
///
/// # Panics
/// If a journal's amounts are not in its currency; journals are checked where they are read.
pub fn trial_balance<'a>(journals: impl IntoIterator<Item = &'a Journal>) -> Vec<TrialBalanceLine> {
    let mut balances: BTreeMap<(EntityId, Currency, LedgerAccount), i128> = BTreeMap::new();
    for journal in journals {
        for line in &journal.lines {
            let parse = |text: &str| {
                journal.currency.parse_minor(text).expect("a journal's amounts are in its currency")
            };
            let key = (journal.entity.clone(), journal.currency, line.ledger_account);
            *balances.entry(key).or_default() += parse(&line.debit) - parse(&line.credit);
        }
    }
    balances
        .into_iter()
        .map(|((entity, currency, ledger_account), minor)| TrialBalanceLine {
            entity,
            currency,
            ledger_account,
            minor,
        })
        .collect()
}
