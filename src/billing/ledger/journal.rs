//! Journals: charges summarized per accounting period and currency, as balanced entries.
//!
//! Owns: usage accrual (Dr UnbilledReceivable / Cr Revenue). Leaves to others: when journals are made (`machine`).
//!
//! Invariants:
//! - Debits equal credits: asserted over the sums, and again over the texts of a journal before it leaves.
//! - A debit or credit is never negative: a negative net swaps sides. Zero lines are left out, and with them journals
//!   in which nothing moved.
//! - Ids are unique per entity, because every journal of a run has a number of its own.

use std::collections::BTreeMap;
use std::fmt;

use domain::decimal::MANTISSA_MAX;
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
    /// A debit or credit needs more than the 38 digits of a decimal.
    AmountMustFit,
}

impl fmt::Display for LedgerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a debit or credit has at most 38 digits")
    }
}

impl std::error::Error for LedgerStatus {}

/// Accrues charges of one entity: one journal for each period and currency in which something moved, numbered from
/// `first_run` on in that order.
///
/// # Errors
/// [`LedgerStatus::AmountMustFit`].
///
/// # Panics
/// If a charge is another entity's, or unreadable ([`ChargeLine::is_readable`]).
pub fn accrue<'a>(
    entity: &EntityId,
    first_run: u64,
    posted_on: &dyn Fn(Period) -> String,
    charges: impl Iterator<Item = &'a ChargeLine>,
    batches: [u64; 2],
) -> Result<Vec<Journal>, LedgerStatus> {
    let mut sums: BTreeMap<(Period, Currency), Sums> = BTreeMap::new();
    for charge in charges {
        assert_eq!(charge.entity, *entity, "a run accrues the charges of one legal entity");
        sums.entry((charge.period, charge.currency)).or_default().accrue(charge)?;
    }
    let mut journals = Vec::new();
    for ((period, currency), sums) in sums {
        let lines = sums.lines(currency);
        if lines.is_empty() {
            continue;
        }
        let run = first_run + journals.len() as u64;
        let journal = Journal {
            external_id: format!("{entity}-{period}-{run}-v1"),
            entity: entity.clone(),
            ledger: "main".to_string(),
            period,
            currency,
            posted_on: posted_on(period),
            run,
            lines,
            batches,
            charge_count: sums.charge_count,
        };
        assert_eq!(journal.totals().map(|(debits, credits)| debits - credits), Some(0), "a journal balances");
        journals.push(journal);
    }
    Ok(journals)
}

/// What charges of one period and currency add up to; debits are positive, credits negative.
#[derive(Default)]
struct Sums {
    charge_count: u64,
    accounts: BTreeMap<LedgerAccount, i128>,
}

impl Sums {
    /// Usage accrued in arrears: Dr UnbilledReceivable / Cr Revenue.
    fn accrue(&mut self, charge: &ChargeLine) -> Result<(), LedgerStatus> {
        let amount = charge.rounded_minor();
        self.charge_count += 1;
        self.add(LedgerAccount::UnbilledReceivable, amount)?;
        self.add(LedgerAccount::counter_account_of(charge.posting_class), -amount)
    }

    fn add(&mut self, account: LedgerAccount, amount: i128) -> Result<(), LedgerStatus> {
        let sum = self.accounts.entry(account).or_default();
        *sum = sum.checked_add(amount).ok_or(LedgerStatus::AmountMustFit)?;
        if sum.unsigned_abs() > MANTISSA_MAX.unsigned_abs() {
            Err(LedgerStatus::AmountMustFit)
        } else {
            Ok(())
        }
    }

    fn lines(&self, currency: Currency) -> Vec<JournalLine> {
        let moved = self.accounts.iter().filter(|(_, amount)| **amount != 0);
        let lines = moved.map(|(ledger_account, amount)| JournalLine {
            ledger_account: *ledger_account,
            debit: currency.format_minor((*amount).max(0)),
            credit: currency.format_minor((-amount).max(0)),
        });
        lines.collect()
    }
}

impl Journal {
    /// Debits and credits in minor units, or `None` if a text is not an amount of the currency or a sum does not fit.
    ///
    /// Of a journal that was made here they are equal; whoever reads one back compares them again.
    pub fn totals(&self) -> Option<(i128, i128)> {
        let mut totals = (0i128, 0i128);
        for line in &self.lines {
            totals.0 = totals.0.checked_add(self.currency.parse_minor(&line.debit)?)?;
            totals.1 = totals.1.checked_add(self.currency.parse_minor(&line.credit)?)?;
        }
        Some(totals)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::charges::{Component, EventDigest, PostingClass};
    use crate::ledger::trial_balance;
    use domain::{AccountId, Exact, PriceId, Span, SubscriptionId, Timestamp};
    use proptest::prelude::*;

    pub(crate) fn charge(period: &str, currency: &str, minor: i128, class: PostingClass) -> ChargeLine {
        let currency = Currency::from_code(currency).unwrap();
        let span = Span::new(Timestamp::MIN, Timestamp::END);
        ChargeLine {
            batch: 1,
            line: 1,
            account: AccountId::new("a").unwrap(),
            subscription: Some(SubscriptionId::new("s").unwrap()),
            price: Some(PriceId::new("p").unwrap()),
            price_version: 1,
            component: Component::Charge,
            term: String::new(),
            meter: None,
            group: domain::GroupTexts::NONE,
            window: span,
            slice: span,
            quantity_before: Exact::ZERO,
            quantity_after: Exact::ZERO,
            precise: Exact::new(minor, currency.exponent().into()),
            rounded: currency.amount(minor),
            currency,
            entity: EntityId::new("inc").unwrap(),
            period: Period::parse(period).unwrap(),
            posting_class: class,
            corrects: None,
            is_final: false,
            event_count: 0,
            event_digest: EventDigest(0),
        }
    }

    pub(crate) fn journals(charges: &[ChargeLine]) -> Vec<Journal> {
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

    #[test]
    fn a_sum_beyond_a_decimal_is_refused_and_not_wrapped() {
        let entity = EntityId::new("inc").unwrap();
        let huge = charge("2026-01", "JPY", MANTISSA_MAX, PostingClass::EarnedUsage);
        let one = charge("2026-01", "JPY", 1, PostingClass::EarnedUsage);
        let accrue = |charges: &[ChargeLine]| {
            accrue(&entity, 1, &|period| period.last_day(), charges.iter(), [1, 1]).map(|made| made.len())
        };
        assert_eq!(accrue(std::slice::from_ref(&huge)), Ok(1));
        assert_eq!(accrue(&[huge.clone(), one]), Err(LedgerStatus::AmountMustFit));
        assert_eq!(accrue(&[huge.clone(), huge]), Err(LedgerStatus::AmountMustFit));
    }

    #[test]
    fn charges_that_cancel_make_no_journal_and_take_no_number() {
        use PostingClass::*;
        assert_eq!(journals(&[]), []);
        let made = journals(&[
            charge("2026-01", "USD", 5, EarnedUsage),
            charge("2026-01", "USD", -5, EarnedUsage),
            charge("2026-02", "USD", 0, EarnedUsage),
            charge("2026-03", "USD", 7, EarnedUsage),
            charge("2026-03", "USD", -7, EarnedSubscription),
        ]);
        let ids: Vec<&str> = made.iter().map(|journal| journal.external_id.as_str()).collect();
        assert_eq!(ids, ["inc-2026-03-7-v1"], "what moves between revenue accounts is still a journal");
        let accounts: Vec<_> = made[0].lines.iter().map(|line| (line.ledger_account, &*line.debit)).collect();
        let expected = [(LedgerAccount::RevenueUsage, "0.00"), (LedgerAccount::RevenueSubscription, "0.07")];
        assert_eq!((accounts.as_slice(), made[0].charge_count), (expected.as_slice(), 2));
    }

    #[test]
    fn a_journal_reads_back_and_one_that_does_not_balance_shows() {
        let made = journals(&[charge("2026-01", "USD", 1250, PostingClass::EarnedUsage)]);
        let text = serde_json::to_string(&made[0]).unwrap();
        assert_eq!(
            text,
            r#"{"external_id":"inc-2026-01-7-v1","entity":"inc","ledger":"main","period":"2026-01","currency":"USD","posted_on":"2026-01-31","run":7,"lines":[{"ledger_account":"UnbilledReceivable","debit":"12.50","credit":"0.00"},{"ledger_account":"Revenue:Usage","debit":"0.00","credit":"12.50"}],"batches":[1,2],"charge_count":1}"#
        );
        assert_eq!(serde_json::from_str::<Journal>(&text).unwrap(), made[0]);
        let totals = |text: &str| serde_json::from_str::<Journal>(text).unwrap().totals();
        assert_eq!(totals(&text), Some((1250, 1250)));
        assert_eq!(totals(&text.replacen("12.50", "12.51", 1)), Some((1251, 1250)));
        assert_eq!(totals(&text.replacen("12.50", "12.501", 1)), None);
    }

    proptest! {
        #![proptest_config(crate::testing::cases())]

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
            for (index, journal) in made.iter().enumerate() {
                let (debits, credits) = journal.totals().unwrap();
                prop_assert_eq!(debits, credits);
                prop_assert_eq!(journal.run, 7 + index as u64, "numbers have no gap");
                let amounts = journal.lines.iter().flat_map(|line| [&line.debit, &line.credit]);
                prop_assert!(amounts.into_iter().all(|text| !text.starts_with('-')));
            }
            for difference in crate::ledger::charges_minus_journals(&charges, &made) {
                prop_assert!(difference.difference.is_zero(), "{difference:?}");
            }
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
