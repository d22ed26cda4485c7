//! From a journal back to the charge lines that it sums up.
//!
//! Owns: which lines of its batches are a journal's, and whether they come to what it says.
//! Leaves to others: reading journals and batches (the caller), the sums themselves (`billing::ledger`).
//!
//! Invariants: a journal has the lines of its batches that have its entity, period and currency, and no others.

use std::fmt;

use billing::charges::ChargeLine;
use billing::ledger::{Journal, LedgerAccount};
use domain::EntityId;
use serde_json::{Value, json};

use super::{LinePage, place_json};
use crate::batch::{BatchError, lines_with};

/// The legal entity and the number that the external id of a journal names.
pub fn run_of_external_id(text: &str) -> Option<(EntityId, u64)> {
    let (named, run) = text.strip_suffix("-v1")?.rsplit_once('-')?;
    let (entity, _month) = named.rsplit_once('-').and_then(|(rest, month)| {
        let (entity, year) = rest.rsplit_once('-')?;
        Some((entity, (year, month)))
    })?;
    Some((EntityId::new(entity).ok()?, run.parse().ok()?))
}

/// The charge lines of a journal, in the making.
#[derive(Debug)]
pub struct JournalCharges {
    journal: Journal,
    /// Only lines that went to this account.
    ledger_account: Option<LedgerAccount>,
    page: LinePage,
    needle: String,
    lines: Vec<ChargeLine>,
    has_more: bool,
    count: u64,
    /// Sum in minor units of all lines that went to the account, or of all lines.
    total: i128,
}

impl JournalCharges {
    /// The lines of a journal: all, or those that went to one of its accounts.
    pub fn new(journal: Journal, ledger_account: Option<LedgerAccount>, page: LinePage) -> Self {
        let needle = format!("\"entity\":\"{}\"", journal.entity);
        let (lines, has_more, count, total) = (Vec::new(), false, 0, 0);
        Self { journal, ledger_account, page, needle, lines, has_more, count, total }
    }

    /// Numbers of the batches that have its lines.
    pub fn batches(&self) -> [u64; 2] {
        self.journal.batches
    }

    /// Takes the bytes of the next batch.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn take_batch(&mut self, bytes: &[u8]) -> Result<(), BatchError> {
        for line in lines_with(bytes, std::slice::from_ref(&self.needle))? {
            if !self.has(&line) {
                continue;
            }
            self.count += 1;
            self.total += line.rounded_minor();
            if !self.page.has(line.batch, line.line) {
                continue;
            }
            self.has_more = self.lines.len() == self.page.limit;
            if !self.has_more {
                self.lines.push(line);
            }
        }
        Ok(())
    }

    fn has(&self, line: &ChargeLine) -> bool {
        let journal = &self.journal;
        let is_its =
            (&line.entity, line.period, line.currency) == (&journal.entity, journal.period, journal.currency);
        let goes_to = |account: LedgerAccount| {
            account == LedgerAccount::UnbilledReceivable
                || account == LedgerAccount::counter_account_of(line.posting_class)
        };
        is_its && self.ledger_account.is_none_or(goes_to)
    }

    /// What the journal says of the account, or of its receivable, in minor units: what the lines must come to.
    fn posted(&self) -> i128 {
        let account = self.ledger_account.unwrap_or(LedgerAccount::UnbilledReceivable);
        let line = self.journal.lines.iter().find(|line| line.ledger_account == account);
        let minor = |text: &str| self.journal.currency.parse_minor(text).unwrap_or(0);
        let debit = line.map_or(0, |line| minor(&line.debit) - minor(&line.credit));
        // A charge is a debit of the receivable and a credit of what stands against it.
        if account == LedgerAccount::UnbilledReceivable { debit } else { -debit }
    }

    /// Whether the lines that were taken come to what the journal says.
    pub fn is_whole(&self) -> bool {
        let has_all = self.ledger_account.is_some() || self.count == self.journal.charge_count;
        has_all && self.total == self.posted()
    }

    /// The lines of the page.
    pub fn lines(&self) -> &[ChargeLine] {
        &self.lines
    }

    /// The answer as JSON.
    pub fn to_json(&self) -> Value {
        let next = self.lines.last().filter(|_| self.has_more).map(|last| (last.batch, last.line));
        json!({
            "journal": self.journal, "ledger_account": self.ledger_account, "charge_count": self.count,
            "total": self.journal.currency.format_minor(self.total), "is_whole": self.is_whole(),
            "charges": self.lines, "next": place_json(next),
        })
    }
}

impl fmt::Display for JournalCharges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let journal = &self.journal;
        let [first, last] = journal.batches;
        writeln!(
            f,
            "journal {} · posted {} · batches {first} to {last}",
            journal.external_id, journal.posted_on
        )?;
        for line in &journal.lines {
            writeln!(
                f,
                "    {:<24} debit {} credit {} {}",
                line.ledger_account, line.debit, line.credit, journal.currency
            )?;
        }
        let total = journal.currency.format_minor(self.total);
        let of = self.ledger_account.map(|account| format!(" of {account}")).unwrap_or_default();
        let is_whole =
            if self.is_whole() { "which is what the journal says" } else { "NOT what the journal says" };
        writeln!(f, "\n{} charge lines{of} come to {total} {}, {is_whole}", self.count, journal.currency)?;
        for line in &self.lines {
            write!(f, "    batch {} line {} · {}", line.batch, line.line, line.account)?;
            for named in [
                line.subscription.as_ref().map(ToString::to_string),
                line.price.as_ref().map(ToString::to_string),
            ] {
                named.iter().try_for_each(|named| write!(f, " · {named}"))?;
            }
            writeln!(f, " · {} {} · {} events", line.rounded, line.currency, line.event_count)?;
        }
        if self.has_more {
            let last = self.lines.last().expect("a page that has more behind it has a line");
            writeln!(f, "more: --after {}.{}", last.batch, last.line)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_external_id_names_its_entity_and_run() {
        let read = |text| run_of_external_id(text).map(|(entity, run)| format!("{entity} {run}"));
        assert_eq!(read("acme-inc-2026-01-7-v1"), Some("acme-inc 7".to_string()));
        assert_eq!(read("a-2026-01-12-v1"), Some("a 12".to_string()));
        for text in [
            "",
            "-v1",
            "a-v1",
            "a-2026-01-v1",
            "a-2026-01-x-v1",
            "A-2026-01-1-v1",
            "2026-01-1-v1",
            "a-2026-01-1",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }
}
