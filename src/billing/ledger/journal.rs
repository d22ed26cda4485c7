//! Journals: charges summarized per accounting period and currency, as balanced entries.
//!
//! Owns: usage accrual (Dr UnbilledReceivable / Cr Revenue). Leaves to others: when journals are made (`machine`).
//!
//! Invariants: debits equal credits, asserted before a journal exists; a debit or credit is never negative: a negative
//! net swaps sides; ids are unique per entity.

use std::collections::BTreeMap;
use std::fmt;

use domain::{Currency, EntityId, Period};
use serde::{Deserialize, Serialize};

use super::chart::LedgerAccount;
use crate::charges::ChargeLine;

/// One debit or credit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JournalLine {
    /// The ledger account.
    pub ledger_account: LedgerAccount,
    /// Debit, with the currency's fraction digits; zero on a credit.
    pub debit: String,
    /// Credit, likewise.
    pub credit: String,
}

/// A balanced entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Journal {
    /// `{entity}-{period}-{run}-v1`: the ERP's key against posting twice.
    pub external_id: String,
    /// The legal entity.
    pub entity: EntityId,
    /// The book.
    pub ledger: String,
    /// The accounting period.
    pub period: Period,
    /// Currency of all amounts.
    pub currency: Currency,
    /// Posting date, inside the period.
    pub posted_on: String,
    /// Number of the journal within its entity.
    pub run: u64,
    /// Debits and credits.
    pub lines: Vec<JournalLine>,
    /// First and last charge batch that the journal covers.
    pub batches: [u64; 2],
    /// Charge lines that it sums up.
    pub charge_count: u64,
}

/// Why journals cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerStatus {
    /// A sum needs more than 128 bits of minor units.
    AmountMustFit,
}

impl fmt::Display for LedgerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a journal's sum needs more than 128 bits of minor units")
    }
}

impl std::error::Error for LedgerStatus {}

/// Accrues charges of one entity: one journal for each period and currency in which something moved, numbered from
/// `first_run` on in that order.
///
/// # Errors
/// [`LedgerStatus::AmountMustFit`].
pub fn accrue<'a>(
    entity: &EntityId,
    first_run: u64,
    posted_on: &dyn Fn(Period) -> String,
    charges: impl Iterator<Item = &'a ChargeLine>,
    batches: [u64; 2],
) -> Result<Vec<Journal>, LedgerStatus> {
    let mut sums: BTreeMap<(Period, Currency), (u64, BTreeMap<LedgerAccount, i128>)> = BTreeMap::new();
    for charge in charges {
        assert_eq!(charge.entity, *entity, "a run accrues the charges of one legal entity");
        let (count, accounts) = sums.entry((charge.period, charge.currency)).or_default();
        let amount = charge.rounded_minor();
        *count += 1;
        // Debits are positive, credits negative.
        add(accounts.entry(LedgerAccount::UnbilledReceivable).or_default(), amount)?;
        add(accounts.entry(LedgerAccount::revenue_of(charge.posting_class)).or_default(), -amount)?;
    }
    let mut journals = Vec::new();
    for ((period, currency), (charge_count, accounts)) in sums {
        let balance: i128 = accounts.values().sum();
        assert_eq!(balance, 0, "debits equal credits");
        let lines: Vec<JournalLine> = accounts
            .into_iter()
            .filter(|(_, amount)| *amount != 0)
            .map(|(ledger_account, amount)| JournalLine {
                ledger_account,
                debit: currency.format_minor(amount.max(0)),
                credit: currency.format_minor((-amount).max(0)),
            })
            .collect();
        if lines.is_empty() {
            continue;
        }
        let run = first_run + journals.len() as u64;
        journals.push(Journal {
            external_id: format!("{entity}-{period}-{run}-v1"),
            entity: entity.clone(),
            ledger: "main".to_string(),
            period,
            currency,
            posted_on: posted_on(period),
            run,
            lines,
            batches,
            charge_count,
        });
    }
    Ok(journals)
}

fn add(sum: &mut i128, amount: i128) -> Result<(), LedgerStatus> {
    *sum = sum.checked_add(amount).ok_or(LedgerStatus::AmountMustFit)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charges::PostingClass;
    use crate::ledger::trial_balance;
    use domain::{AccountId, Exact, PriceId, Span, SubscriptionId, Timestamp};
    use proptest::prelude::*;

    fn charge(period: &str, currency: &str, minor: i128, class: PostingClass) -> ChargeLine {
        let currency = Currency::from_code(currency).unwrap();
        let span = Span::new(Timestamp::MIN, Timestamp::END);
        ChargeLine {
            batch: 1,
            line: 1,
            account: AccountId::new("a").unwrap(),
            subscription: SubscriptionId::new("s").unwrap(),
            price: PriceId::new("p").unwrap(),
            price_version: 1,
            meter: None,
            group: BTreeMap::new(),
            window: span,
            slice: span,
            quantity_before: Exact::ZERO,
            quantity_after: Exact::ZERO,
            precise: Exact::new(minor, currency.exponent().into()),
            rounded: currency.format_minor(minor),
            currency,
            entity: EntityId::new("inc").unwrap(),
            period: Period::parse(period).unwrap(),
            posting_class: class,
            corrects: None,
            is_final: false,
            event_count: 0,
            event_digest: "0".repeat(32),
        }
    }

    fn journals(charges: &[ChargeLine]) -> Vec<Journal> {
        let entity = EntityId::new("inc").unwrap();
        accrue(&entity, 7, &|period| period.last_day(), charges.iter(), [1, 2]).unwrap()
    }

    #[test]
    fn one_journal_for_each_period_and_currency_and_a_negative_net_swaps_sides() {
        use PostingClass::*;
        let made = journals(&[
            charge("2026-02", "USD", -500, EarnedUsage),
            charge("2026-01", "USD", 1250, EarnedUsage),
            charge("2026-01", "USD", 4900, EarnedSubscription),
            charge("2026-01", "EUR", 100, EarnedUsage),
            charge("2026-03", "USD", 5, EarnedUsage),
            charge("2026-03", "USD", -5, EarnedUsage),
        ]);
        let text: Vec<String> = made
            .iter()
            .map(|journal| {
                let lines: Vec<_> = journal
                    .lines
                    .iter()
                    .map(|l| format!("{} {}/{}", l.ledger_account, l.debit, l.credit))
                    .collect();
                format!(
                    "{} {} {} {}",
                    journal.external_id,
                    journal.posted_on,
                    journal.currency,
                    lines.join(", ")
                )
            })
            .collect();
        assert_eq!(
            text,
            [
                "inc-2026-01-7-v1 2026-01-31 EUR UnbilledReceivable 1.00/0.00, Revenue:Usage 0.00/1.00",
                "inc-2026-01-8-v1 2026-01-31 USD UnbilledReceivable 61.50/0.00, Revenue:Usage 0.00/12.50, Revenue:Subscription 0.00/49.00",
                "inc-2026-02-9-v1 2026-02-28 USD UnbilledReceivable 0.00/5.00, Revenue:Usage 5.00/0.00",
            ]
        );
    }

    proptest! {
        #[test]
        fn journals_balance_and_carry_every_charge(
            charges in prop::collection::vec((1u8..=3, any::<i32>(), any::<bool>(), any::<bool>()), 0..40),
        ) {
            let charges: Vec<_> = charges
                .into_iter()
                .map(|(month, minor, usage, dollars)| {
                    let class = if usage { PostingClass::EarnedUsage } else { PostingClass::EarnedSubscription };
                    charge(&format!("2026-0{month}"), if dollars { "USD" } else { "JPY" }, minor.into(), class)
                })
                .collect();
            let made = journals(&charges);
            let mut receivable: BTreeMap<Currency, i128> = BTreeMap::new();
            for line in trial_balance(&made) {
                if line.ledger_account == LedgerAccount::UnbilledReceivable {
                    *receivable.entry(line.currency).or_default() += line.minor;
                }
            }
            let mut charged: BTreeMap<Currency, i128> = BTreeMap::new();
            for charge in &charges {
                *charged.entry(charge.currency).or_default() += charge.rounded_minor();
            }
            receivable.retain(|_, minor| *minor != 0);
            charged.retain(|_, minor| *minor != 0);
            prop_assert_eq!(receivable, charged);
        }
    }
}
