//! What is shown of an effect, whatever it looks like: in order, summed, and with what should be said about it.
//!
//! Owns: sums, orders and notes. Leaves to others: the effect itself (`machine::WhatIf`), how it looks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use billing::catalog::ResourceKind;
use domain::time::DAY;
use domain::{AccountId, Currency, Period, PriceId, Timestamp, Zone};
use machine::{Effect, usage_period};
use serde_json::Value;

use super::distribution::Distribution;

/// What was asked.
pub(super) struct Question<'a> {
    pub(super) catalog: &'a Path,
    pub(super) data: &'a Path,
    pub(super) at: Timestamp,
    /// Events in the usage log.
    pub(super) events: u64,
    pub(super) period: Option<Period>,
    pub(super) as_if_from: Option<Timestamp>,
}

/// A resource that the file changes.
pub(super) struct Change {
    pub(super) kind: ResourceKind,
    pub(super) id: String,
    pub(super) version: u32,
    pub(super) before: Option<Value>,
    pub(super) after: Value,
    /// From when on a price holds, if it says so.
    pub(super) holds_from: Option<Timestamp>,
}

/// Charged before, and what is added to it, in minor units; or drawn from credits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts {
    pub(super) before: i128,
    pub(super) difference: i128,
}

/// What an account is charged.
pub(super) struct AccountRow {
    pub(super) id: AccountId,
    pub(super) name: String,
    pub(super) currency: Currency,
    pub(super) amounts: Amounts,
    /// What credits pay of the charges: these are more by that.
    pub(super) drawn: Amounts,
    pub(super) lines: u64,
}

impl Amounts {
    fn add(&mut self, other: Self) {
        self.before = sum(self.before, other.before);
        self.difference = sum(self.difference, other.difference);
    }

    /// With what credits pay: the charges themselves.
    pub(super) fn with(mut self, drawn: Self) -> Self {
        self.add(drawn);
        self
    }
}

impl AccountRow {
    /// What is charged before credits pay.
    pub(super) fn charges(&self) -> Amounts {
        self.amounts.with(self.drawn)
    }
}

/// An effect with what it was asked of.
pub(super) struct Comparison<'a> {
    pub(super) question: Question<'a>,
    pub(super) changes: Vec<Change>,
    pub(super) effect: Effect,
    /// By currency, the largest difference first.
    pub(super) accounts: Vec<AccountRow>,
    pub(super) totals: BTreeMap<Currency, Amounts>,
    /// What credits pay, of currencies in which they pay anything.
    pub(super) drawn: BTreeMap<Currency, Amounts>,
    /// Differences by price; none where a line belongs to no single price.
    pub(super) prices: BTreeMap<(Currency, Option<PriceId>), i128>,
    /// Differences that would post to a later period than that of their usage, by the one that they post to.
    pub(super) late: BTreeMap<(Currency, Period), i128>,
    /// Accounts and subscriptions with a line.
    pub(super) affected: (usize, usize),
    pub(super) distribution: Distribution,
    /// What explains an effect that is less than was expected.
    pub(super) notes: Vec<String>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(
        question: Question<'a>,
        changes: Vec<Change>,
        effect: Effect,
        mut names: BTreeMap<AccountId, String>,
    ) -> Self {
        let mut accounts: Vec<AccountRow> = Vec::new();
        let mut totals: BTreeMap<Currency, Amounts> = BTreeMap::new();
        let mut drawn_in: BTreeMap<Currency, Amounts> = BTreeMap::new();
        for (id, account) in &effect.accounts {
            let amounts = Amounts { before: account.before, difference: account.difference };
            let drawn = Amounts { before: account.drawn_before, difference: account.drawn_difference };
            totals.entry(account.currency).or_default().add(amounts);
            if drawn != Amounts::default() {
                drawn_in.entry(account.currency).or_default().add(drawn);
            }
            let name = names.remove(id).unwrap_or_default();
            let (currency, lines) = (account.currency, account.lines);
            accounts.push(AccountRow { id: id.clone(), name, currency, amounts, drawn, lines });
        }
        accounts.sort_by_key(|row| {
            let size = row.amounts.difference.unsigned_abs();
            let before_credits = row.charges().difference.unsigned_abs();
            (row.currency, std::cmp::Reverse((size, before_credits)), row.id.clone())
        });
        let mut prices: BTreeMap<(Currency, Option<PriceId>), i128> = BTreeMap::new();
        let mut late: BTreeMap<(Currency, Period), i128> = BTreeMap::new();
        for line in &effect.lines {
            let minor = line.rounded_minor();
            let of_price = prices.entry((line.currency, line.price.clone())).or_default();
            *of_price = sum(*of_price, minor);
            if line.period != usage_period(line) {
                let posted = late.entry((line.currency, line.period)).or_default();
                *posted = sum(*posted, minor);
            }
        }
        late.retain(|_, minor| *minor != 0);
        let with_lines: BTreeSet<_> = effect.lines.iter().map(|line| &line.account).collect();
        let subscriptions: BTreeSet<_> =
            effect.lines.iter().filter_map(|l| l.subscription.as_ref()).collect();
        let affected = (with_lines.len(), subscriptions.len());
        let charges = accounts.iter().map(AccountRow::charges);
        let distribution = Distribution::of(charges.map(|charges| (charges.before, charges.difference)));
        let notes = notes_of(&question, &changes, &effect);
        Self {
            question,
            changes,
            effect,
            accounts,
            totals,
            prices,
            late,
            affected,
            distribution,
            notes,
            drawn: drawn_in,
        }
    }

    /// Accounts that are charged another amount.
    pub(super) fn changed_accounts(&self) -> usize {
        self.accounts.iter().filter(|row| row.amounts.difference != 0).count()
    }

    /// Accounts whose credits pay another amount.
    pub(super) fn drawn_accounts(&self) -> usize {
        self.accounts.iter().filter(|row| row.drawn.difference != 0).count()
    }

    /// What the distribution is of.
    pub(super) fn charge_text(&self) -> &'static str {
        if self.drawn.is_empty() { "charge" } else { "charge before credits" }
    }

    /// What usage is looked at: `usage of 2026-02`, `all usage`.
    pub(super) fn scope(&self) -> String {
        self.question.period.map_or_else(|| "all usage".to_string(), |period| format!("usage of {period}"))
    }
}

fn sum(one: i128, other: i128) -> i128 {
    one.checked_add(other).expect("sums of amounts that fit a bill fit 128 bits of minor units")
}

fn notes_of(question: &Question<'_>, changes: &[Change], effect: &Effect) -> Vec<String> {
    let mut notes = Vec::new();
    // Months of the accounts' zones end within a day of this one.
    let end = question.period.map_or(question.at, |period| Zone::utc().month(period).until.plus(-DAY));
    let charged: BTreeSet<&str> =
        effect.lines.iter().filter_map(|l| Some(l.price.as_ref()?.as_str())).collect();
    let is_later = |change: &&Change| {
        change.holds_from.is_some_and(|from| from >= end) && !charged.contains(change.id.as_str())
    };
    for change in changes.iter().filter(is_later).take(NOTES_MAX) {
        let from = change.holds_from.map_or_else(String::new, |from| from.to_string());
        let behind = if question.period.is_some() { "the period" } else { "the usage" };
        notes.push(format!(
            "price {} holds from {from}, behind {behind}: --as-if-from shows what it would have meant",
            change.id
        ));
    }
    let is_new_meter = |change: &&Change| change.kind == ResourceKind::Meters;
    for change in changes.iter().filter(is_new_meter).take(NOTES_MAX) {
        notes.push(format!(
            "meter {} is new: it counts only usage that is logged after it, so nothing is charged by it here",
            change.id
        ));
    }
    notes
}

/// Notes of one kind.
const NOTES_MAX: usize = 5;
