//! Control state: what the records of the control log add up to.
//!
//! Owns: catalog, policy, cuts and what they could not rate, seals, journal runs, acks, corrections, what is forgotten, and
//! which accounts a record touched.
//! Leaves to others: rating (`cut`), the metering plan (`metering_plan`), appending records (`control_writer`).
//!
//! Invariants:
//! - Records apply in log order; a record that contradicts the state before it is damage, never skipped.
//! - Numbers of cuts, batches and journals have no gaps; seals chain.

use std::collections::{BTreeMap, BTreeSet};

use billing::catalog::{Catalog, CatalogStatus, Resource, ResourceKind};
use domain::plan::{Forgotten, Policy};
use domain::{AccountId, EntityId, Timestamp};
use engine::identity::IdentityKey;
use serde_json::{Value, json};
use wire::control::{
    ControlRecord, Cut, ForgottenBecause, Genesis, IdsForgotten, JournalRun, JournalSeal, PolicyRecord, Put,
    Seal, Unrated, correction_horizon_default,
};

use crate::corrections::RecordedCorrections;

use crate::metering_plan::Replan;
use crate::snapshots::history_after;

/// Why a record does not follow from the records before it.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The first record must be the genesis, and only it.
    #[error("the control log must start with one genesis record")]
    GenesisMustBeFirst,
    /// A catalog resource does not fit the catalog before it.
    #[error("{kind} {id} does not fit the catalog before it")]
    ResourceMustFit {
        /// Kind as in URL paths.
        kind: String,
        /// Id of the resource.
        id: String,
        /// The broken rule.
        #[source]
        source: CatalogStatus,
    },
    /// A put names an unknown kind of resource.
    #[error("{kind:?} is not a kind of resource")]
    KindMustBeKnown {
        /// The kind.
        kind: String,
    },
    /// A put is numbered otherwise than the catalog numbers it.
    #[error("{kind} {id} is not version {version}")]
    VersionMustFollow {
        /// Kind as in URL paths.
        kind: String,
        /// Id of the resource.
        id: String,
        /// The version that the record claims.
        version: u32,
    },
    /// A cut, seal, run or clock record does not follow the one before it.
    #[error("{record} {number} does not follow the one before it")]
    RecordMustFollow {
        /// What kind of record.
        record: &'static str,
        /// Its number.
        number: u64,
    },
    /// A cut could not rate an account that there is none of.
    #[error("account {account} is not in the catalog")]
    AccountMustExist {
        /// The account.
        account: AccountId,
    },
    /// A seal came for a batch whose content is not there.
    #[error("charge batch {number} is sealed, but its content is missing or differs")]
    SealedBatchMustExist {
        /// Number of the batch.
        number: u64,
    },
    /// A seal came for journals whose content is not there.
    #[error("journal run {run} of {entity} is sealed, but its content is missing or differs")]
    SealedJournalsMustExist {
        /// The legal entity.
        entity: EntityId,
        /// First number of the run.
        run: u64,
    },
}

/// What the control log says.
#[derive(Default)]
pub struct ControlState {
    pub(crate) genesis: Option<Genesis>,
    pub(crate) catalog: Catalog,
    pub(crate) policy: Option<PolicyRecord>,
    pub(crate) epoch: String,
    pub(crate) cuts: u64,
    pub(crate) last_cut: Option<Cut>,
    pub(crate) seals: Vec<Seal>,
    pub(crate) journal_numbers: BTreeMap<EntityId, u64>,
    pub(crate) journaled_batches: BTreeMap<EntityId, u64>,
    pub(crate) last_journal_at: BTreeMap<EntityId, Timestamp>,
    pub(crate) open_journal_run: Option<JournalRun>,
    pub(crate) journal_digest: String,
    pub(crate) journal_seals: u64,
    pub(crate) acked_batch: u64,
    pub(crate) now: Option<Timestamp>,
    /// What the next metering plan changes.
    pub(crate) replan: Replan,
    pub(crate) touched: BTreeSet<AccountId>,
    /// Accounts that the last cut could not rate.
    pub(crate) unrated: BTreeSet<AccountId>,
    /// Whether the last record was a cut, or what it could not rate.
    pub(crate) is_at_cut: bool,
    pub(crate) corrections: RecordedCorrections,
    /// The last record that forgets ids, and the instant before which a forgotten event may have happened.
    pub(crate) forgotten: Option<(IdsForgotten, Timestamp)>,
    pub(crate) forgotten_by_number: u64,
    /// The largest `future_max` of settings that were in force and are not any more.
    pub(crate) future_max_before: i64,
    pub(crate) records: u64,
    /// Offset of the last record.
    pub(crate) last_offset: u64,
    /// Digest of all records applied: see `snapshots`.
    pub(crate) history: [u8; 32],
}

impl ControlState {
    /// The catalog.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The first record.
    pub fn genesis(&self) -> Option<&Genesis> {
        self.genesis.as_ref()
    }

    /// The key of event identities.
    pub(crate) fn identity_key(&self) -> IdentityKey {
        let key = self.genesis.as_ref().and_then(|genesis| IdentityKey::from_hex(&genesis.identity_key));
        key.unwrap_or(IdentityKey::new(0))
    }

    /// Settings in force.
    pub fn policy(&self) -> PolicyRecord {
        self.policy.clone().unwrap_or_else(default_policy)
    }

    /// Rating semantics and time-zone data in force.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The last cut.
    pub fn last_cut(&self) -> Option<&Cut> {
        self.last_cut.as_ref()
    }

    /// All seals, in order of their batches.
    pub fn seals(&self) -> &[Seal] {
        &self.seals
    }

    /// Digest of the last sealed batch; empty before the first.
    pub fn chain_head(&self) -> &str {
        self.seals.last().map_or("", |seal| &seal.digest)
    }

    /// The last batch that billing acknowledged.
    pub fn acked_batch(&self) -> u64 {
        self.acked_batch
    }

    /// The scenario clock's present, where the directory has one.
    pub fn scenario_now(&self) -> Option<Timestamp> {
        self.now
    }

    /// When journals of the entity were last asked for.
    pub fn last_journal_at(&self, entity: &EntityId) -> Option<Timestamp> {
        self.last_journal_at.get(entity).copied()
    }

    /// Digest over all sealed journals; empty before the first.
    pub fn journal_digest(&self) -> &str {
        &self.journal_digest
    }

    /// Journal runs that were sealed.
    pub fn journal_seals(&self) -> u64 {
        self.journal_seals
    }

    /// Offset of the last record applied.
    pub fn last_offset(&self) -> u64 {
        self.last_offset
    }

    /// Digest of all records applied.
    pub fn history(&self) -> [u8; 32] {
        self.history
    }

    /// Corrections of single events.
    pub fn corrections(&self) -> &RecordedCorrections {
        &self.corrections
    }

    /// The last record that forgets ids.
    pub fn forgotten(&self) -> Option<&IdsForgotten> {
        self.forgotten.as_ref().map(|(record, _)| record)
    }

    /// The last record that forgets ids, for people and programs.
    pub fn forgotten_json(&self) -> Value {
        let Some((record, proven_from)) = &self.forgotten else { return Value::Null };
        json!({
            "before": record.before, "arrived_until": record.arrived_until, "because": record.because.as_str(),
            "ids": record.ids, "proven_from": proven_from,
        })
    }

    /// How often ids were forgotten because there were too many.
    pub fn forgotten_by_number(&self) -> u64 {
        self.forgotten_by_number
    }

    /// Which ids shards remember no more from the next barrier on.
    pub fn forgotten_ids(&self) -> Forgotten {
        let forgotten = self.forgotten.as_ref();
        forgotten.map_or_else(Forgotten::default, |(record, proven_from)| Forgotten {
            before: record.before,
            proven_from: *proven_from,
        })
    }

    /// How far ahead of its arrival the time of an accepted event can be, under all settings so far.
    pub(crate) fn future_max_ever(&self) -> i64 {
        self.future_max_before.max(self.policy().future_max)
    }

    /// Records applied.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Takes the next record. Seals of batches and journals need more than this state: the machine checks them first.
    pub(crate) fn apply(&mut self, offset: u64, record: &ControlRecord) -> Result<(), ApplyError> {
        let is_genesis = matches!(record, ControlRecord::Genesis(_));
        if is_genesis != (self.records == 0) {
            return Err(ApplyError::GenesisMustBeFirst);
        }
        self.records += 1;
        self.last_offset = offset;
        self.history = history_after(self.history, offset, record);
        let was_at_cut = std::mem::take(&mut self.is_at_cut);
        match record {
            ControlRecord::Genesis(genesis) => {
                self.epoch = genesis.epoch.clone();
                self.genesis = Some(genesis.clone());
            }
            ControlRecord::Policy(policy) => {
                if policy.grace != self.policy().grace {
                    // Windows may become final at once.
                    self.touched.extend(self.catalog.accounts().map(|account| account.id.clone()));
                }
                self.future_max_before = self.future_max_ever();
                self.policy = Some(policy.clone());
                self.replan.is_due = true;
            }
            ControlRecord::Put(put) => self.apply_put(offset, put)?,
            ControlRecord::Cut(cut) => self.apply_cut(cut)?,
            ControlRecord::Unrated(unrated) => self.apply_unrated(was_at_cut, unrated)?,
            ControlRecord::Seal(seal) => self.apply_seal(seal)?,
            ControlRecord::BatchAck(ack) => self.acked_batch = self.acked_batch.max(ack.batch),
            ControlRecord::JournalRun(run) => self.apply_journal_run(run)?,
            ControlRecord::JournalSeal(seal) => self.apply_journal_seal(seal)?,
            ControlRecord::EventVoid(_)
            | ControlRecord::EventAmend(_)
            | ControlRecord::EventRelease(_)
            | ControlRecord::EventDiscard(_) => {
                if !self.corrections.apply(offset, record) {
                    return Err(ApplyError::RecordMustFollow {
                        record: "correction at offset",
                        number: offset,
                    });
                }
            }
            ControlRecord::IdsForgotten(forgotten) => self.apply_forgotten(forgotten)?,
            ControlRecord::ScenarioClock(clock) => {
                if self.now.is_some_and(|now| clock.now < now) {
                    return Err(ApplyError::RecordMustFollow { record: "scenario clock", number: offset });
                }
                self.now = Some(clock.now);
            }
            ControlRecord::ClockAccepted(_) => {}
            ControlRecord::EpochAccepted(accepted) => self.epoch = accepted.epoch.clone(),
        }
        Ok(())
    }

    fn apply_put(&mut self, offset: u64, put: &Put) -> Result<(), ApplyError> {
        let fits =
            |source| ApplyError::ResourceMustFit { kind: put.kind.clone(), id: put.id.clone(), source };
        let kind = ResourceKind::parse(&put.kind)
            .ok_or_else(|| ApplyError::KindMustBeKnown { kind: put.kind.clone() })?;
        let resource = Resource::from_json(kind, &put.id, put.body.clone()).map_err(fits)?;
        self.touch(&resource);
        let change = self.catalog.apply(resource.clone(), offset).map_err(fits)?;
        if change.version() != Some(put.version) {
            let (kind, id) = (put.kind.clone(), put.id.clone());
            return Err(ApplyError::VersionMustFollow { kind, id, version: put.version });
        }
        self.touch(&resource);
        self.replan.note(&self.catalog, &resource);
        Ok(())
    }

    /// Notes the accounts whose terms the resource is part of; called before and after it applies.
    fn touch(&mut self, resource: &Resource) {
        let catalog = &self.catalog;
        let mut accounts = BTreeSet::new();
        match resource {
            Resource::Entity(_) | Resource::Meter(_) | Resource::Plan(_) => {}
            Resource::Account(account) => {
                accounts.insert(account.id.clone());
            }
            Resource::Price(price) => {
                accounts.extend(catalog.subscriptions_of_plan(&price.plan).map(|s| s.account().clone()));
            }
            Resource::Subscription(subscription) => {
                accounts.insert(subscription.account.clone());
                accounts.extend(catalog.subscription(&subscription.id).map(|s| s.account().clone()));
            }
            Resource::Commitment(commitment) => {
                accounts.insert(commitment.account.clone());
            }
            Resource::Grant(grant) => {
                accounts.insert(grant.account.clone());
            }
            Resource::Discount(discount) => {
                accounts.insert(discount.account.clone());
            }
            Resource::Subject(binding) => {
                let bound = catalog.subject(binding.id.as_str()).into_iter().flat_map(|s| s.subscriptions());
                let ids: Vec<_> = bound.chain([&binding.subscription]).collect();
                accounts.extend(
                    ids.iter().filter_map(|id| catalog.subscription(id)).map(|s| s.account().clone()),
                );
            }
        }
        self.touched.extend(accounts);
    }

    fn apply_cut(&mut self, cut: &Cut) -> Result<(), ApplyError> {
        let follows = cut.number == self.cuts + 1
            && self.last_cut.as_ref().is_none_or(|last| cut.at >= last.at && cut.barrier > last.barrier);
        if !follows {
            return Err(ApplyError::RecordMustFollow { record: "cut", number: cut.number });
        }
        self.cuts = cut.number;
        self.is_at_cut = true;
        self.unrated.clear();
        self.last_cut = Some(cut.clone());
        Ok(())
    }

    /// What a cut could not rate is touched, and so the next cut rates all of it again, until it can.
    fn apply_unrated(&mut self, is_at_cut: bool, unrated: &Unrated) -> Result<(), ApplyError> {
        if !is_at_cut || unrated.cut != self.cuts {
            return Err(ApplyError::RecordMustFollow { record: "unrated", number: unrated.cut });
        }
        self.is_at_cut = true;
        for failure in &unrated.failures {
            if self.catalog.account(&failure.account).is_none() {
                return Err(ApplyError::AccountMustExist { account: failure.account.clone() });
            }
            self.unrated.insert(failure.account.clone());
            self.touched.insert(failure.account.clone());
        }
        Ok(())
    }

    /// An event that was accepted is at most `future_max` ahead of its arrival, and not later than what the record says of
    /// those that it forgets; so those before the place are earlier than what is proven from here on.
    fn apply_forgotten(&mut self, record: &IdsForgotten) -> Result<(), ApplyError> {
        let follows = match &self.forgotten {
            Some((last, _)) => record.before > last.before && record.arrived_until >= last.arrived_until,
            None => record.before > 0,
        };
        if !follows {
            return Err(ApplyError::RecordMustFollow {
                record: "forgotten ids before offset",
                number: record.before,
            });
        }
        let by_arrival = record.arrived_until.plus(self.future_max_ever());
        let latest = record.happened_until.map_or(by_arrival, |happened| happened.min(by_arrival));
        let before = self.forgotten.as_ref().map_or(Timestamp::MIN, |(_, proven_from)| *proven_from);
        let proven_from = latest.plus(1).max(before);
        self.forgotten_by_number += u64::from(record.because == ForgottenBecause::IdsMax);
        self.forgotten = Some((record.clone(), proven_from));
        self.replan.is_due = true;
        Ok(())
    }

    fn apply_seal(&mut self, seal: &Seal) -> Result<(), ApplyError> {
        let follows = seal.batch == self.seals.len() as u64 + 1
            && seal.previous == self.chain_head()
            && seal.cut == self.cuts;
        if !follows {
            return Err(ApplyError::RecordMustFollow { record: "seal", number: seal.batch });
        }
        self.seals.push(seal.clone());
        Ok(())
    }

    fn apply_journal_run(&mut self, run: &JournalRun) -> Result<(), ApplyError> {
        let journaled = self.journaled_batches.get(&run.entity).copied().unwrap_or(0);
        let follows = self.open_journal_run.is_none()
            && run.first_run == self.next_journal_number(&run.entity)
            && run.batches[0] == journaled + 1
            && run.batches[1] >= run.batches[0]
            && run.batches[1] <= self.seals.len() as u64;
        if !follows {
            return Err(ApplyError::RecordMustFollow { record: "journal run", number: run.first_run });
        }
        self.open_journal_run = Some(run.clone());
        Ok(())
    }

    fn apply_journal_seal(&mut self, seal: &JournalSeal) -> Result<(), ApplyError> {
        let run = self
            .open_journal_run
            .take()
            .filter(|run| run.entity == seal.entity && run.first_run == seal.first_run);
        let Some(run) = run else {
            return Err(ApplyError::RecordMustFollow { record: "journal seal", number: seal.first_run });
        };
        *self.journal_numbers.entry(run.entity.clone()).or_default() += seal.journals;
        self.journaled_batches.insert(run.entity.clone(), run.batches[1]);
        self.last_journal_at.insert(run.entity, run.at);
        self.journal_digest = seal.digest.clone();
        self.journal_seals += 1;
        Ok(())
    }

    /// Number of the entity's next journal.
    pub fn next_journal_number(&self, entity: &EntityId) -> u64 {
        self.journal_numbers.get(entity).copied().unwrap_or(0) + 1
    }

    /// The batches whose charges the entity's journals do not cover yet, as a range; `None` if there are none.
    pub fn unjournaled(&self, entity: &EntityId) -> Option<[u64; 2]> {
        let first = self.journaled_batches.get(entity).copied().unwrap_or(0) + 1;
        let last = self.seals.len() as u64;
        (first <= last).then_some([first, last])
    }
}

/// Settings of a directory without a policy record.
pub(crate) fn default_policy() -> PolicyRecord {
    let policy = Policy::default();
    PolicyRecord {
        horizon: policy.horizon,
        future_max: policy.future_max,
        pending_per_slot_max: policy.pending_per_slot_max,
        grace: 5 * domain::time::DAY,
        correction_horizon: correction_horizon_default(),
    }
}
