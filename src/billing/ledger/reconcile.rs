//! Checks between charges and journals: pure sums and differences.
//!
//! Owns: the trial balance, and the bridge from charges to revenue. Leaves to others: which batches and runs are
//! compared, and what is done about a difference.
//!
//! Invariants: over the batches that a run covers, the charges of each posting class equal what their revenue account
//! was credited; the bridge has no unexplained row.

use std::collections::BTreeMap;

use domain::{Currency, EntityId, Exact};

use super::chart::LedgerAccount;
use super::journal::Journal;
use crate::charges::ChargeLine;

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
/// If a journal's amounts are not in its currency, or if a balance needs more than 128 bits of minor units; journals
/// are checked where they are read.
pub fn trial_balance<'a>(journals: impl IntoIterator<Item = &'a Journal>) -> Vec<TrialBalanceLine> {
    let mut balances: BTreeMap<(EntityId, Currency, LedgerAccount), i128> = BTreeMap::new();
    for journal in journals {
        for line in &journal.lines {
            let parse = |text: &str| {
                journal.currency.parse_minor(text).expect("a journal's amounts are in its currency")
            };
            let key = (journal.entity.clone(), journal.currency, line.ledger_account);
            let balance = balances.entry(key).or_default();
            let moved = parse(&line.debit).checked_sub(parse(&line.credit));
            *balance = moved.and_then(|moved| balance.checked_add(moved)).expect("balances fit 128 bits");
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

/// One row of the bridge from charges to revenue: charges of a legal entity in a currency, against the revenue account
/// that their posting class is credited to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeLine {
    /// The legal entity.
    pub entity: EntityId,
    /// The currency.
    pub currency: Currency,
    /// The revenue account.
    pub ledger_account: LedgerAccount,
    /// What charges say.
    pub charges: Exact,
    /// What journals credited, less what they debited.
    pub journals: Exact,
    /// Charges less journals: zero, if the journals cover just these charges.
    pub difference: Exact,
}

/// Compares charges with the journals that cover them, per entity, currency and revenue account, in that order.
///
/// # Panics
/// As [`trial_balance`], and if a charge is unreadable ([`ChargeLine::is_readable`]).
pub fn charges_minus_journals<'a>(
    charges: impl IntoIterator<Item = &'a ChargeLine>,
    journals: impl IntoIterator<Item = &'a Journal>,
) -> Vec<BridgeLine> {
    let mut rows: BTreeMap<(EntityId, Currency, LedgerAccount), (Exact, Exact)> = BTreeMap::new();
    let add = |sum: &mut Exact, minor: i128, currency: Currency| {
        let amount = Exact::new(minor, currency.exponent().into());
        *sum = sum.add(amount).expect("sums of 38 digits fit 256 bits");
    };
    for charge in charges {
        let account = LedgerAccount::counter_account_of(charge.posting_class);
        let row = rows
            .entry((charge.entity.clone(), charge.currency, account))
            .or_insert((Exact::ZERO, Exact::ZERO));
        add(&mut row.0, charge.rounded_minor(), charge.currency);
    }
    for line in trial_balance(journals) {
        if line.ledger_account == LedgerAccount::UnbilledReceivable {
            continue;
        }
        let row = rows
            .entry((line.entity, line.currency, line.ledger_account))
            .or_insert((Exact::ZERO, Exact::ZERO));
        add(&mut row.1, -line.minor, line.currency);
    }
    rows.into_iter()
        .map(|((entity, currency, ledger_account), (charges, journals))| {
            let difference = charges.subtract(journals).expect("sums of 38 digits fit 256 bits");
            BridgeLine { entity, currency, ledger_account, charges, journals, difference }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charges::PostingClass::*;
    use crate::ledger::journal::tests::{charge, journals};

    fn bridge(charges: &[ChargeLine], journals: &[Journal]) -> Vec<String> {
        charges_minus_journals(charges, journals)
            .into_iter()
            .map(|row| {
                let (charges, journals, difference) = (row.charges, row.journals, row.difference);
                format!(
                    "{} {} {}: {charges} - {journals} = {difference}",
                    row.entity, row.currency, row.ledger_account
                )
            })
            .collect()
    }

    #[test]
    fn charges_equal_their_journals_per_class_and_a_missing_one_shows() {
        let charges = [
            charge("2026-01", "USD", 1250, EarnedUsage),
            charge("2026-02", "USD", -50, EarnedUsage),
            charge("2026-01", "USD", 4900, EarnedSubscription),
            charge("2026-01", "JPY", 7, EarnedUsage),
        ];
        assert_eq!(
            bridge(&charges, &journals(&charges)),
            [
                "inc JPY Revenue:Usage: 7 - 7 = 0",
                "inc USD Revenue:Usage: 12 - 12 = 0",
                "inc USD Revenue:Subscription: 49 - 49 = 0",
            ]
        );
        assert_eq!(
            bridge(&charges, &journals(&charges[1..])),
            [
                "inc JPY Revenue:Usage: 7 - 7 = 0",
                "inc USD Revenue:Usage: 12 - -0.5 = 12.5",
                "inc USD Revenue:Subscription: 49 - 49 = 0",
            ]
        );
        assert_eq!(bridge(&charges[..1], &[]), ["inc USD Revenue:Usage: 12.5 - 0 = 12.5"]);
        assert_eq!(bridge(&[], &journals(&charges[..1])), ["inc USD Revenue:Usage: 0 - 12.5 = -12.5"]);
        // The same amount under another class is two differences, not none.
        let misposted = [charge("2026-01", "USD", 1250, EarnedSubscription)];
        assert_eq!(
            bridge(&charges[..1], &journals(&misposted)),
            ["inc USD Revenue:Usage: 12.5 - 0 = 12.5", "inc USD Revenue:Subscription: 0 - 12.5 = -12.5"]
        );
    }

    #[test]
    fn a_trial_balance_sums_to_zero_per_entity_and_currency() {
        let charges = [
            charge("2026-01", "USD", 1250, EarnedUsage),
            charge("2026-02", "USD", -3000, EarnedUsage),
            charge("2026-01", "EUR", 100, EarnedSubscription),
        ];
        let lines: Vec<String> = trial_balance(&journals(&charges))
            .into_iter()
            .map(|line| format!("{} {} {}", line.currency, line.ledger_account, line.minor))
            .collect();
        assert_eq!(
            lines,
            [
                "EUR UnbilledReceivable 100",
                "EUR Revenue:Subscription -100",
                "USD UnbilledReceivable -1750",
                "USD Revenue:Usage 1750",
            ]
        );
    }
}
