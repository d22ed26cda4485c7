//! What if: rates usage under terms that nobody agreed to yet, and says what they change.
//!
//! A what-if is an ordinary cut that nobody writes. The replayed machine is first cut at an instant, so that usage which
//! came after the last cut is in both sides; then the new terms are put, a barrier folds again what they cut, and a
//! second cut at the same instant is rated. Its lines (position − issued) are the effect: exactly what a server would
//! charge if the terms were put and it cut then.
//!
//! Owns: the order of these steps, and the effect per account. Leaves to others: reading the logs and showing the effect
//! (`server`).
//!
//! Calling order: [`WhatIf::new`], [`WhatIf::put`] for every resource, [`WhatIf::effect`].
//!
//! Invariants:
//! - Nothing is written: records, barriers and seals exist in this machine only, behind the end of the logs.
//! - Terms that are in force already have no effect.

use std::collections::{BTreeMap, BTreeSet};

use billing::catalog::{Catalog, Resource};
use billing::charges::{ChargeLine, Component};
use domain::{AccountId, Currency, Period, Timestamp};
use engine::shard::Shard;
use wire::control::{ControlRecord, RatingFailure};

use crate::machine::{Charged, Machine, PutError};
use crate::replay::{History, ReplayError, Replayer, merge_cells, pass_barrier};

/// A machine at the end of its logs, and the terms that are tried on it.
pub struct WhatIf<'h> {
    machine: Machine,
    shards: Vec<Shard>,
    history: &'h mut dyn History,
    control_end: u64,
    usage_end: u64,
    /// Barriers behind the end of the usage log.
    barriers: u64,
    at: Timestamp,
    /// What was charged before, and what of it could not be computed.
    charged: BTreeMap<(AccountId, Period), Charged>,
    failures_before: Vec<RatingFailure>,
}

/// What terms would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Every account that was charged, or would be, for usage of the periods looked at.
    pub accounts: BTreeMap<AccountId, AccountEffect>,
    /// The lines that the cut would charge for them, in key order.
    pub lines: Vec<ChargeLine>,
    /// Periods that anything was charged for, whether they are looked at or not.
    pub periods: BTreeSet<Period>,
    /// Charges that cannot be computed under the new terms: their accounts are left out of the effect.
    pub failures: Vec<RatingFailure>,
    /// Charges that cannot be computed under the present terms either.
    pub failures_before: Vec<RatingFailure>,
}

/// What terms would change for one account. Amounts are in minor units, and net of what credits pay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountEffect {
    /// Currency of all amounts.
    pub currency: Currency,
    /// What is charged under the present terms.
    pub before: i128,
    /// What the new terms add to it.
    pub difference: i128,
    /// What credits pay under the present terms.
    pub drawn_before: i128,
    /// What they pay more under the new ones.
    pub drawn_difference: i128,
    /// Lines that the cut would charge.
    pub lines: u64,
}

impl<'h> WhatIf<'h> {
    /// Cuts a replayed machine at an instant that is not before its last cut. The usage log was read up to `usage_end`;
    /// `history` reads it again where new terms cut slices.
    ///
    /// # Errors
    /// [`ReplayError::History`].
    pub fn new(
        replayer: Replayer,
        usage_end: u64,
        at: Timestamp,
        history: &'h mut dyn History,
    ) -> Result<Self, ReplayError> {
        assert!(replayer.last_cut_at().is_none_or(|last| last <= at), "time does not go back");
        let control_end = replayer.control_end();
        let Replayer { machine, shards, .. } = replayer;
        let mut what_if = Self {
            machine,
            shards,
            history,
            control_end,
            usage_end,
            barriers: 0,
            at,
            charged: BTreeMap::new(),
            failures_before: Vec::new(),
        };
        // A crash, or a server that is at it, may have left the last cut without its seal.
        if what_if.machine.has_open_cut() {
            what_if.seal_open_cut()?;
        }
        what_if.start_cut()?;
        what_if.seal_open_cut()?;
        what_if.failures_before = what_if.machine.failures().cloned().collect();
        what_if.charged = what_if.machine.charged();
        Ok(what_if)
    }

    /// The catalog with what was put so far.
    pub fn catalog(&self) -> &Catalog {
        self.machine.control().catalog()
    }

    /// Puts a resource, as applying a catalog file does; the version that it becomes, if the catalog did not have it.
    ///
    /// # Errors
    /// [`PutError`]: the catalog refuses it.
    pub fn put(&mut self, resource: &Resource) -> Result<Option<u32>, PutError> {
        let (kind, id) = (resource.kind().as_str(), resource.id());
        let record = self.machine.propose_put(kind, id, resource.to_json(), "what-if")?;
        let Some(record) = record else { return Ok(None) };
        let ControlRecord::Put(put) = &record else { unreachable!("a put is proposed as a put") };
        let version = put.version;
        self.apply(&record);
        Ok(Some(version))
    }

    /// What was put changes of the charges for usage of one accounting period, or of all.
    ///
    /// # Errors
    /// [`ReplayError::History`].
    pub fn effect(mut self, period: Option<Period>) -> Result<Effect, ReplayError> {
        self.barrier()?;
        self.start_cut()?;
        let rated = self.machine.rate_open_cut()?;
        let mut effect = Effect {
            accounts: BTreeMap::new(),
            lines: rated.map(|rated| rated.batch.lines.clone()).unwrap_or_default(),
            periods: self.charged.keys().map(|(_, period)| *period).collect(),
            failures: self.machine.failures().cloned().collect(),
            failures_before: self.failures_before,
        };
        let is_looked_at = |found: Period| period.is_none_or(|period| period == found);
        effect.lines.retain(|line| is_looked_at(usage_period(line)));
        for ((id, period), charged) in &self.charged {
            if is_looked_at(*period) {
                let account = self.machine.control().catalog().account(id);
                let currency = account.expect("accounts are never removed").currency;
                let account = effect.of(id, currency);
                account.before += charged.all;
                account.drawn_before += charged.drawn;
            }
        }
        for line in std::mem::take(&mut effect.lines) {
            let account = effect.of(&line.account, line.currency);
            account.difference += line.rounded_minor();
            if line.component == Component::Credit {
                account.drawn_difference -= line.rounded_minor();
            }
            account.lines += 1;
            effect.lines.push(line);
        }
        Ok(effect)
    }

    /// A barrier behind the end of the logs; gives its offset.
    fn barrier(&mut self) -> Result<u64, ReplayError> {
        // Offsets name bytes of the log; these are of none, only in order. Earlier usage ends where the log ends.
        self.barriers += 1;
        pass_barrier(&mut self.machine, &mut self.shards, self.usage_end, self.control_end, self.history)?;
        Ok(self.usage_end + self.barriers)
    }

    fn start_cut(&mut self) -> Result<(), ReplayError> {
        let barrier = self.barrier()?;
        merge_cells(&mut self.machine, &mut self.shards);
        self.apply(&self.machine.propose_cut(barrier, self.at, "what-if"));
        Ok(())
    }

    fn seal_open_cut(&mut self) -> Result<(), ReplayError> {
        let seal = self.machine.rate_open_cut()?.map(|rated| ControlRecord::Seal(rated.seal));
        let unrated = self.machine.propose_unrated();
        unrated.iter().chain(&seal).for_each(|record| self.apply(record));
        self.machine.close_cut();
        Ok(())
    }

    fn apply(&mut self, record: &ControlRecord) {
        self.machine.apply(self.control_end, record).expect("a proposed record follows");
        self.control_end += 1;
    }
}

impl Effect {
    fn of(&mut self, account: &AccountId, currency: Currency) -> &mut AccountEffect {
        let nothing = AccountEffect {
            currency,
            before: 0,
            difference: 0,
            drawn_before: 0,
            drawn_difference: 0,
            lines: 0,
        };
        self.accounts.entry(account.clone()).or_insert(nothing)
    }
}

/// The accounting period that a line's usage belongs to, whether it posts there or is too late for it.
pub fn usage_period(line: &ChargeLine) -> Period {
    line.corrects.as_ref().map_or(line.period, |corrects| corrects.period)
}
