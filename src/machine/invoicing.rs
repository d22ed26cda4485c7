//! Progressive invoices: which accounts passed a threshold, and what was asked for before.
//!
//! Owns: what usage of each account was ever charged, as sealed batches add it up. Leaves to others: thresholds
//! (`billing::rating::progressive`), which lines count (`billing::charges`), invoices, which are billing's.
//!
//! Invariants: a function of sealed batches; a batch that is loaded asks for what it asked when it was rated.

use billing::catalog::{Account, Catalog};
use billing::charges::{ChargeLine, InvoiceRequest};
use billing::rating::progressive::{Progress, Thresholds};
use domain::{AccountId, Currency, Table};
use serde_json::json;

use crate::batch::Batch;

/// Usage that was charged, by account.
#[derive(Default)]
pub(crate) struct Invoicing {
    accounts: Table<AccountId, Asked>,
}

#[derive(Clone, Copy, Default)]
struct Asked {
    progress: Progress,
    /// The batch that last asked for an invoice.
    last_batch: Option<u64>,
}

impl Invoicing {
    /// What lines, in order of accounts, ask for.
    pub(crate) fn requests(&self, catalog: &Catalog, lines: &[ChargeLine]) -> Vec<InvoiceRequest> {
        let request_of = |(account, usage): (&AccountId, i128)| {
            let account = catalog.account(account).expect("a line's account is in the catalog");
            let (amounts, every) = account.thresholds.as_ref()?.minor(account.currency);
            let thresholds = Thresholds { fixed: &amounts, recurring: every };
            let progress = self.accounts.get(&account.id).map_or(Progress::default(), |asked| asked.progress);
            let usage = sum(progress.amount, usage);
            let bill = progress.bill_at(&thresholds, usage).expect("sums of minor units of a batch fit");
            let text = |minor: i128| account.currency.format_minor(minor);
            Some(InvoiceRequest {
                account: account.id.clone(),
                currency: account.currency,
                threshold: text(thresholds.last_reached(usage)?),
                usage: text(usage),
                amount: text(bill?),
            })
        };
        usage_of(lines).filter_map(request_of).collect()
    }

    /// Takes a sealed batch.
    pub(crate) fn issue(&mut self, batch: &Batch) {
        let mut asked = batch.invoice_requests.iter().peekable();
        for (account, usage) in usage_of(&batch.lines) {
            let is_asked = asked.next_if(|request| request.account == *account).is_some();
            let known = self.accounts.get_or_default(account.clone());
            known.progress.advance(sum(known.progress.amount, usage), is_asked);
            if is_asked {
                known.last_batch = Some(batch.head.number);
            }
        }
    }

    /// Where an account with thresholds stands.
    pub(crate) fn standing(&self, account: &Account) -> Option<InvoiceStanding> {
        let (amounts, every) = account.thresholds.as_ref()?.minor(account.currency);
        let asked = self.accounts.get(&account.id).copied().unwrap_or_default();
        let Asked { progress, last_batch } = asked;
        Some(InvoiceStanding {
            currency: account.currency,
            usage: progress.amount,
            since_last: progress.amount.saturating_sub(progress.billed),
            next: Thresholds { fixed: &amounts, recurring: every }.next_above(progress.highest),
            last_batch,
        })
    }
}

/// Where an account stands between two thresholds; amounts are minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvoiceStanding {
    /// Currency of all amounts.
    pub currency: Currency,
    /// Usage that was ever charged.
    pub usage: i128,
    /// What of it was charged since the last request, or ever.
    pub since_last: i128,
    /// The threshold that is reached next.
    pub next: Option<i128>,
    /// The batch that last asked for an invoice.
    pub last_batch: Option<u64>,
}

impl InvoiceStanding {
    /// As JSON: amounts are texts.
    pub fn to_json(self) -> serde_json::Value {
        let money = |minor: i128| self.currency.format_minor(minor);
        json!({
            "usage": money(self.usage), "since_last": money(self.since_last), "next": self.next.map(money),
            "last_batch": self.last_batch,
        })
    }
}

impl std::fmt::Display for InvoiceStanding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let money = |minor: i128| self.currency.format_minor(minor);
        write!(f, "usage charged so far: {} {}", money(self.usage), self.currency)?;
        match self.last_batch {
            Some(batch) => {
                write!(f, ", {} since batch {batch} asked for an invoice", money(self.since_last))?
            }
            None => write!(f, ", no invoice was asked for")?,
        }
        match self.next {
            Some(next) => write!(f, "; the next one at {}", money(next)),
            None => Ok(()),
        }
    }
}

/// What lines that count towards a threshold add to each account, in order.
fn usage_of(lines: &[ChargeLine]) -> impl Iterator<Item = (&AccountId, i128)> {
    lines.chunk_by(|a, b| a.account == b.account).map(|lines| {
        let counted = lines.iter().filter(|line| line.counts_towards_threshold());
        (&lines[0].account, counted.map(ChargeLine::rounded_minor).fold(0, sum))
    })
}

fn sum(a: i128, b: i128) -> i128 {
    a.checked_add(b).expect("sums of what was charged fit 128 bits of minor units")
}
