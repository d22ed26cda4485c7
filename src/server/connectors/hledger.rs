//! Journals as an hledger file that `hledger check --strict` accepts.
//!
//! Owns: declarations of accounts and commodities, one transaction a journal. Leaves to others: the entries.

use std::collections::BTreeSet;
use std::fmt::Write;

use billing::ledger::{Journal, LedgerAccount};

/// The text of an hledger file. Accounts are `{root}:{entity}:{ledger account}`.
pub fn export(journals: &[Journal]) -> String {
    let mut text = String::new();
    let commodities: BTreeSet<_> = journals.iter().map(|journal| journal.currency).collect();
    for currency in commodities {
        // A commodity directive shows a decimal mark, also where the currency has no minor unit.
        let sample = currency.format_minor(1_000 * 10i128.pow(currency.exponent().into()));
        let mark = if currency.exponent() == 0 { "." } else { "" };
        let _ = writeln!(text, "commodity {sample}{mark} {currency}");
    }
    let accounts: BTreeSet<String> = journals
        .iter()
        .flat_map(|journal| journal.lines.iter().map(|line| name_of(journal, line.ledger_account)))
        .collect();
    for account in accounts {
        let _ = writeln!(text, "account {account}");
    }
    let mut ordered: Vec<&Journal> = journals.iter().collect();
    ordered.sort_by_key(|journal| (&journal.posted_on, &journal.external_id));
    for journal in ordered {
        let [first, last] = journal.batches;
        let _ = writeln!(
            text,
            "\n{} ({}) usage accrual {}  ; batches:{first}-{last}",
            journal.posted_on, journal.external_id, journal.period
        );
        for line in &journal.lines {
            let is_debit = line.debit.bytes().any(|byte| (b'1'..=b'9').contains(&byte));
            let amount = if is_debit { line.debit.clone() } else { format!("-{}", line.credit) };
            let _ = writeln!(
                text,
                "    {}  {amount} {}",
                name_of(journal, line.ledger_account),
                journal.currency
            );
        }
    }
    text
}

fn name_of(journal: &Journal, account: LedgerAccount) -> String {
    let root = match account {
        LedgerAccount::UnbilledReceivable => "assets",
        LedgerAccount::RevenueUsage
        | LedgerAccount::RevenueSubscription
        | LedgerAccount::RevenueTrueUp
        | LedgerAccount::RevenuePromotional => "revenues",
        LedgerAccount::DeferredRevenue | LedgerAccount::CustomerCredits => "liabilities",
    };
    format!("{root}:{}:{account}", journal.entity)
}
