//! The machine: control state, merged cells, issued lines, and the cuts and journal runs that connect them.
//!
//! Owns: the state between records, and what may be proposed as the next record. Leaves to others: appending records
//! durably (`server`), feeding logs (`replay`).
//!
//! Calling order: `apply` for every control record in log order. After a cut record, `handle_reports` of every shard
//! came before it, and then either `rate_open_cut` (a new cut) or `load_batch` (a sealed one), then `close_cut`. What
//! `rate_open_cut` could not rate becomes records of the log (`propose_unrated`) before the cut is closed.
//! After a journal-run record, `derive_open_journals` or `load_journals`, then its seal.
//!
//! Invariants: one cut and one journal run are open at most; a seal applies only to content that is staged and hashes
//! to the sealed digest.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use billing::catalog::{Catalog, CatalogStatus, Change, Resource, ResourceKind};
use billing::charges::Component;
use billing::ledger::LedgerStatus;
use domain::plan::MeteringPlan;
use domain::{AccountId, Currency, EntityId, Period, Span, Timestamp};
use engine::shard::cell::CellReport;
use engine::shard::spill::SpillError;
use wire::canonical::digest_of;
use wire::control::{
    ControlRecord, Cut, FAILURES_MAX, JournalRun, JournalSeal, Put, RatingFailure, Seal, Unrated,
};

use crate::affected::{Changed, affected_accounts};
use crate::batch::{Batch, BatchHead, chain_digest, sums_of, totals_of};
use crate::cells::Cells;
use crate::control::{ApplyError, ControlState};
use crate::control_writer::{NewBarrier, PutOutcome, RESOURCE_BYTES_MAX};
use crate::corrections::{CorrectionRequest, CorrectionStatus, KnownCorrections, KnownEvent};
use crate::cut::{CutOutcome, RateError, Rater, SetAside, original_period};
use crate::due::DueIndex;
use crate::explanation::ExplainedWindow;
use crate::invoicing::{InvoiceStanding, Invoicing};
use crate::issued::Issued;
use crate::journals::JournalBatch;
use crate::metering_plan::{self, Replan};
use crate::owners::{Schedules, account_and_entity};
use crate::windows::grids_of_account;

/// Why a resource was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The URL names no kind of resource.
    #[error("{kind:?} is not a kind of resource")]
    KindMustBeKnown {
        /// The kind.
        kind: String,
    },
    /// The resource breaks a rule of the catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogStatus),
    /// The resource is larger than a record may be.
    #[error("{kind} {id} takes more than {RESOURCE_BYTES_MAX} bytes; make it smaller")]
    RecordMustFit {
        /// Kind as in URL paths.
        kind: String,
        /// Id of the resource.
        id: String,
    },
}

/// What sealed batches charged, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Charged {
    /// Everything, less what credits paid.
    pub(crate) all: i128,
    /// What credits paid.
    pub(crate) drawn: i128,
}

/// What a cut charges, to be stored and sealed.
#[derive(Clone, Debug)]
pub struct RatedBatch {
    /// The batch.
    pub batch: Arc<Batch>,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What makes it final.
    pub seal: Seal,
}

/// What resources that are put together make, before any of it is recorded.
#[derive(Default)]
pub struct ProposedPuts {
    /// Of those that the catalog does not have.
    pub(crate) records: Vec<ControlRecord>,
    pub(crate) outcomes: Vec<PutOutcome>,
    /// The plan behind them, if subjects that had an owner before have another one or other slices: the shards may have
    /// to fold them again.
    pub refolding: Option<Arc<MeteringPlan>>,
}

/// What the server and the simulator drive.
pub struct Machine {
    shards: usize,
    control: ControlState,
    plan: Arc<MeteringPlan>,
    /// Those of the plan.
    schedules: Schedules,
    cells: Cells,
    issued: Issued,
    invoicing: Invoicing,
    due: DueIndex,
    finals: BTreeMap<(AccountId, Span), u64>,
    /// Windows that ended by then were final, and periods closed, at an earlier cut.
    closed_through: Timestamp,
    open_cut: Option<OpenCut>,
    staged: Option<(String, Arc<Batch>)>,
    staged_journals: Option<(String, JournalBatch)>,
    /// Batches with lines of the entity that no journals cover yet.
    unposted: BTreeMap<EntityId, Vec<Arc<Batch>>>,
    unacked: BTreeMap<u64, (Timestamp, BTreeMap<Currency, i128>)>,
    /// Of the last cut: found by rating it, or said by the log.
    failures: BTreeMap<AccountId, RatingFailure>,
    set_aside: Vec<SetAside>,
}

struct OpenCut {
    cut: Cut,
    touched: BTreeSet<AccountId>,
}

impl Machine {
    /// An empty machine for so many shards.
    pub fn new(shards: usize) -> Self {
        Self {
            shards,
            control: ControlState::default(),
            plan: Arc::default(),
            schedules: Schedules::default(),
            cells: Cells::new(shards),
            issued: Issued::default(),
            invoicing: Invoicing::default(),
            due: DueIndex::default(),
            finals: BTreeMap::new(),
            closed_through: Timestamp::from_nanoseconds(i64::MIN),
            open_cut: None,
            staged: None,
            staged_journals: None,
            unposted: BTreeMap::new(),
            unacked: BTreeMap::new(),
            failures: BTreeMap::new(),
            set_aside: Vec::new(),
        }
    }

    /// What the control log says.
    pub fn control(&self) -> &ControlState {
        &self.control
    }

    /// Charges that could not be computed at the last cut: one of each account that stays out, in order of accounts.
    pub fn failures(&self) -> impl ExactSizeIterator<Item = &RatingFailure> {
        self.failures.values()
    }

    /// Why the last cut could not rate an account; `None` if it could, or did not have to.
    pub fn failure_of(&self, account: &AccountId) -> Option<&RatingFailure> {
        self.failures.get(account)
    }

    /// Usage of the windows that the last cut rated which fits no row of its price.
    pub fn set_aside(&self) -> &[SetAside] {
        &self.set_aside
    }

    /// The metering plan of the last barrier.
    pub fn plan(&self) -> &Arc<MeteringPlan> {
        &self.plan
    }

    pub(crate) fn issued(&self) -> &Issued {
        &self.issued
    }

    /// The batch with which the last of an account's windows that share an instant with a span became final, once all are.
    pub(crate) fn final_batch(&self, account: &AccountId, span: Span) -> Option<u64> {
        let mut last = None;
        for (grid, life) in grids_of_account(&self.control.catalog, account) {
            let shared = Span::new(life.from.max(span.from), life.until.min(span.until));
            for window in grid.windows_in(shared) {
                last = last.max(Some(self.finals.get(&(account.clone(), window)).copied()?));
            }
        }
        last
    }

    /// What sealed batches charged, in minor units: per account and accounting period that the usage belongs to.
    pub(crate) fn charged(&self) -> BTreeMap<(AccountId, Period), Charged> {
        let catalog = &self.control.catalog;
        let mut charged: BTreeMap<(AccountId, Period), Charged> = BTreeMap::new();
        for (key, worth) in self.issued.lines() {
            let (_, entity) = account_and_entity(catalog, &key.account);
            let period = original_period(catalog, entity, key);
            let sums = charged.entry((key.account.clone(), period)).or_default();
            sums.all += worth.rounded;
            if key.component == Component::Credit {
                sums.drawn -= worth.rounded;
            }
        }
        charged
    }

    /// Merged cells, issued lines: what the machine holds in memory.
    pub fn sizes(&self) -> (usize, usize) {
        (self.cells.len(), self.issued.len())
    }

    /// Batches that billing did not acknowledge yet: the instant of their cut, and rounded amounts per currency.
    pub fn unacked(&self) -> &BTreeMap<u64, (Timestamp, BTreeMap<Currency, i128>)> {
        &self.unacked
    }

    /// The next instant at which an account changes by silence alone.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.next()
    }

    /// Whether a cut is open.
    pub fn has_open_cut(&self) -> bool {
        self.open_cut.is_some()
    }

    /// The metering plan of the catalog as it is; `control_offset` is the end of the applied control log.
    fn metering_plan(&mut self, control_offset: u64) -> Arc<MeteringPlan> {
        let replan = std::mem::take(&mut self.control.replan);
        if replan.is_due {
            let Self { control, plan, schedules, .. } = self;
            *plan = metering_plan::compile(control, control_offset, plan, replan, schedules);
            debug_assert!(
                metering_plan::compile_whole(control).subjects == plan.subjects,
                "what a record changes in the plan is noted"
            );
        }
        self.plan.clone()
    }

    /// What the next barrier brings into force; `control_offset` is the end of the applied control log.
    pub fn new_barrier(&mut self, control_offset: u64, is_cut: bool) -> NewBarrier {
        let key = self.control.identity_key();
        NewBarrier {
            control_offset,
            plan: self.metering_plan(control_offset),
            corrections: self.control.corrections.take_waiting(key, self.shards),
            is_cut,
            snapshot: None,
        }
    }

    /// The record that a correction of an event makes at the end of the control log; `None` if it was made before. `known`
    /// is the event, if there is one.
    ///
    /// # Errors
    /// [`CorrectionStatus`].
    pub fn propose_correction(
        &self,
        request: CorrectionRequest,
        known: Option<&KnownEvent>,
        control_end: u64,
        now: Timestamp,
    ) -> Result<Option<ControlRecord>, CorrectionStatus> {
        let horizon = self.control.policy().correction_horizon;
        self.control.corrections.propose(request, known, control_end, now, horizon)
    }

    /// The corrections that the last barrier knows, for counting the log.
    pub fn known_corrections(&self) -> KnownCorrections {
        KnownCorrections::of(&self.control, self.plan.clone())
    }

    /// The record that a new version of a resource makes; `None` if the catalog has it already.
    ///
    /// # Errors
    /// [`PutError`].
    pub fn propose_put(
        &self,
        kind: &str,
        id: &str,
        body: serde_json::Value,
        actor: &str,
    ) -> Result<Option<ControlRecord>, PutError> {
        propose_put(&self.control.catalog, kind, id, body, actor)
    }

    /// The records that resources make, in order: all or none. Each is checked against the catalog with those before it; the
    /// catalog is as it was when the call returns.
    ///
    /// # Errors
    /// [`PutError`], of the first one that is not taken.
    pub fn propose_puts(
        &mut self,
        resources: Vec<(String, String, serde_json::Value)>,
        actor: &str,
    ) -> Result<ProposedPuts, PutError> {
        let catalog = &mut self.control.catalog;
        let (mut proposed, mut on_trial) = (ProposedPuts::default(), Vec::new());
        let mut replan = Replan::default();
        let mut propose = |(kind, id, body): (String, String, serde_json::Value)| -> Result<(), PutError> {
            let Some((resource, put)) = checked_put(catalog, &kind, &id, body, actor)? else {
                proposed.outcomes.push(PutOutcome { kind, id, version: None });
                return Ok(());
            };
            // No rule reads the offset of a record.
            let (_, taken) = catalog.apply_on_trial(resource.clone(), 0)?;
            on_trial.extend(taken);
            replan.note(catalog, &resource);
            let outcome = PutOutcome { kind, id, version: Some(put.version) };
            let record = ControlRecord::Put(put);
            if record.encode().len() > RESOURCE_BYTES_MAX {
                return Err(PutError::RecordMustFit { kind: outcome.kind, id: outcome.id });
            }
            proposed.records.push(record);
            proposed.outcomes.push(outcome);
            Ok(())
        };
        let outcome = resources.into_iter().try_for_each(&mut propose);
        if outcome.is_ok() {
            proposed.refolding = metering_plan::refolding(&self.control, &self.plan, replan);
        }
        while let Some(last) = on_trial.pop() {
            self.control.catalog.take_back(last);
        }
        outcome.map(|()| proposed)
    }

    /// The record of the next cut at a barrier.
    pub fn propose_cut(&self, barrier: u64, at: Timestamp, reason: &str) -> ControlRecord {
        let at = self.control.last_cut.as_ref().map_or(at, |last| at.max(last.at));
        ControlRecord::Cut(Cut { number: self.control.cuts + 1, barrier, at, reason: reason.to_string() })
    }

    /// The record of a journal run of an entity; `None` if nothing was charged since its last one.
    pub fn propose_journal_run(
        &self,
        entity: &EntityId,
        at: Timestamp,
        reason: &str,
    ) -> Option<ControlRecord> {
        self.unposted.get(entity).filter(|batches| !batches.is_empty())?;
        let batches = self.control.unjournaled(entity)?;
        Some(ControlRecord::JournalRun(JournalRun {
            entity: entity.clone(),
            first_run: self.control.next_journal_number(entity),
            batches,
            at,
            reason: reason.to_string(),
        }))
    }

    /// Takes the next record of the control log.
    ///
    /// # Errors
    /// [`ApplyError`]: the record does not follow, or seals content that is not staged.
    pub fn apply(&mut self, offset: u64, record: &ControlRecord) -> Result<(), ApplyError> {
        match record {
            ControlRecord::Cut(cut) => {
                assert!(self.open_cut.is_none(), "a cut is closed before the next one opens");
                self.control.apply(offset, record)?;
                (self.failures, self.set_aside) = (BTreeMap::new(), Vec::new());
                let touched = std::mem::take(&mut self.control.touched);
                self.open_cut = Some(OpenCut { cut: cut.clone(), touched });
            }
            ControlRecord::Unrated(unrated) => {
                self.control.apply(offset, record)?;
                let said = unrated.failures.iter().map(|failure| (failure.account.clone(), failure.clone()));
                self.failures.extend(said);
            }
            ControlRecord::Seal(seal) => {
                let missing = ApplyError::SealedBatchMustExist { number: seal.batch };
                let (digest, batch) = self.staged.take().ok_or(missing)?;
                if digest != seal.digest || batch.head.number != seal.batch {
                    return Err(ApplyError::SealedBatchMustExist { number: seal.batch });
                }
                self.control.apply(offset, record)?;
                self.issue(&batch);
            }
            ControlRecord::JournalSeal(seal) => {
                let missing = || ApplyError::SealedJournalsMustExist {
                    entity: seal.entity.clone(),
                    run: seal.first_run,
                };
                let (digest, journals) = self.staged_journals.take().ok_or_else(missing)?;
                if digest != seal.digest || journals.journals.len() as u64 != seal.journals {
                    return Err(missing());
                }
                self.control.apply(offset, record)?;
                if let Some(batches) = self.unposted.get_mut(&seal.entity) {
                    batches.retain(|batch| batch.head.number > journals.run.batches[1]);
                }
            }
            ControlRecord::BatchAck(ack) => {
                self.control.apply(offset, record)?;
                self.unacked.retain(|batch, _| *batch > ack.batch);
            }
            _ => self.control.apply(offset, record)?,
        }
        Ok(())
    }

    /// Takes the cells that a shard changed since its last report.
    pub fn handle_reports(&mut self, shard: usize, reports: Vec<CellReport>) {
        self.cells.handle_reports(&self.plan, shard, reports);
    }

    /// Rates the open cut; gives the batch to be stored and sealed, or `None` if nothing differs from what was issued.
    /// The batch is staged for its seal.
    ///
    /// # Errors
    /// [`SpillError`]; the machine is of no use any more.
    pub fn rate_open_cut(&mut self) -> Result<Option<RatedBatch>, SpillError> {
        let open = self.open_cut.as_ref().expect("a cut is open when it is rated");
        let changed =
            Changed { cells: self.cells.take_changed(), levels: self.cells.take_levels(self.closed_through) };
        let catalog = &self.control.catalog;
        let affected =
            affected_accounts(catalog, &changed, &open.touched, &self.due, self.closed_through, &open.cut);
        let number = self.control.seals.len() as u64 + 1;
        let outcome = self.rater(&open.cut).rate(&affected)?;
        self.failures =
            outcome.failures.into_iter().map(|failure| (failure.account.clone(), failure)).collect();
        self.set_aside = outcome.set_aside;
        if outcome.lines.is_empty() && outcome.window_finals.is_empty() {
            return Ok(None);
        }
        let invoice_requests = self.invoicing.requests(&self.control.catalog, &outcome.lines);
        let head = BatchHead {
            number,
            cut: open.cut.number,
            at: open.cut.at,
            barrier: open.cut.barrier,
            epoch: self.control.epoch.clone(),
            previous: self.control.chain_head().to_string(),
            lines: outcome.lines.len() as u64,
            window_finals: outcome.window_finals.len() as u64,
            invoice_requests: invoice_requests.len() as u64,
            totals: totals_of(&outcome.lines),
        };
        let CutOutcome { lines, window_finals, .. } = outcome;
        let batch = Batch { head, lines, window_finals, invoice_requests };
        let bytes = batch.encode();
        let digest = chain_digest(&batch.head.previous, &bytes);
        let seal = Seal {
            batch: number,
            cut: batch.head.cut,
            digest: digest.clone(),
            previous: batch.head.previous.clone(),
            epoch: batch.head.epoch.clone(),
            lines: batch.head.lines,
        };
        let batch = Arc::new(batch);
        self.staged = Some((digest, batch.clone()));
        Ok(Some(RatedBatch { batch, bytes, seal }))
    }

    /// The records that say what the open cut could not rate, without what the log says already: a crash may have come
    /// behind some of them.
    pub fn propose_unrated(&self) -> Vec<ControlRecord> {
        let open = self.open_cut.as_ref().expect("a cut is open when it is rated");
        let is_new = |failure: &&RatingFailure| !self.control.unrated.contains(&failure.account);
        let new: Vec<RatingFailure> = self.failures.values().filter(is_new).cloned().collect();
        new.chunks(FAILURES_MAX)
            .map(|failures| {
                ControlRecord::Unrated(Unrated { cut: open.cut.number, failures: failures.to_vec() })
            })
            .collect()
    }

    /// Where an account with invoice thresholds stands, as of the last cut.
    pub fn invoice_standing(&self, account: &AccountId) -> Option<InvoiceStanding> {
        self.invoicing.standing(self.control.catalog.account(account)?)
    }

    /// How an account's windows that start in a span came about, as of the last cut.
    ///
    /// # Errors
    /// [`RateError`].
    pub fn explain(&self, account: &AccountId, windows: Span) -> Result<Vec<ExplainedWindow>, RateError> {
        let Some(cut) = self.control.last_cut.as_ref() else { return Ok(Vec::new()) };
        if self.control.catalog.account(account).is_none() {
            return Ok(Vec::new());
        }
        self.rater(cut).explain(account, windows)
    }

    /// Windows and periods that ended by then are final at a cut; never less than at the cuts before, whatever the grace
    /// became.
    fn final_through(&self, cut: &Cut) -> Timestamp {
        cut.at.plus(-self.control.policy().grace).max(self.closed_through)
    }

    fn rater<'a>(&'a self, cut: &'a Cut) -> Rater<'a> {
        Rater {
            catalog: &self.control.catalog,
            plan: &self.plan,
            cells: &self.cells,
            issued: &self.issued,
            finals: &self.finals,
            cut,
            closed_through: self.closed_through,
            final_through: self.final_through(cut),
            batch: self.control.seals.len() as u64 + 1,
            set_aside: RefCell::default(),
        }
    }

    /// Stages a stored batch of a sealed cut instead of rating it again.
    pub fn load_batch(&mut self, digest: String, batch: Batch) {
        self.forget_changed();
        self.staged = Some((digest, Arc::new(batch)));
    }

    /// What changed until a cut is rated or loaded by it.
    fn forget_changed(&mut self) {
        let _ = self.cells.take_changed();
        let _ = self.cells.take_levels(self.closed_through);
    }

    /// Ends the open cut: its seal was applied, or there was nothing to seal.
    pub fn close_cut(&mut self) {
        let open = self.open_cut.take().expect("a cut is open when it is closed");
        assert!(self.staged.is_none(), "a rated cut is sealed before it is closed");
        self.forget_changed();
        self.closed_through = self.final_through(&open.cut);
        let grace = self.control.policy().grace;
        self.due.advance(&self.control.catalog, grace, open.cut.at, &open.touched);
    }

    fn issue(&mut self, batch: &Arc<Batch>) {
        for line in &batch.lines {
            self.issued.issue(line).expect("a sealed line was a difference of positions that fit");
        }
        self.invoicing.issue(batch);
        let entities: BTreeSet<&EntityId> = batch.lines.iter().map(|line| &line.entity).collect();
        for entity in entities {
            self.unposted.entry(entity.clone()).or_default().push(batch.clone());
        }
        for window in &batch.window_finals {
            self.finals.insert((window.account.clone(), window.window), batch.head.number);
        }
        let totals = sums_of(&batch.lines).expect("the totals of a sealed batch fit");
        self.unacked.insert(batch.head.number, (batch.head.at, totals));
    }

    /// Derives the journals of the open run; staged for their seal.
    ///
    /// # Errors
    /// [`LedgerStatus`].
    pub fn derive_open_journals(&mut self) -> Result<(JournalBatch, JournalSeal), LedgerStatus> {
        let run = self.control.open_journal_run.clone().expect("a journal run is open when it is derived");
        let entity = self.control.catalog.entity(&run.entity).expect("a run names an entity of the catalog");
        let batches = self.unposted.get(&run.entity).into_iter().flatten();
        let covered = batches.filter(|batch| (run.batches[0]..=run.batches[1]).contains(&batch.head.number));
        let lines = covered.flat_map(|batch| &batch.lines).filter(|line| line.entity == run.entity);
        let journals = JournalBatch::derive(&run, entity, lines)?;
        let digest = chain_digest(&self.control.journal_digest, &journals.encode());
        let seal = JournalSeal {
            entity: run.entity.clone(),
            first_run: run.first_run,
            journals: journals.journals.len() as u64,
            digest: digest.clone(),
        };
        self.staged_journals = Some((digest, journals.clone()));
        Ok((journals, seal))
    }

    /// Stages stored journals of a sealed run instead of deriving them again.
    pub fn load_journals(&mut self, digest: String, journals: JournalBatch) {
        self.staged_journals = Some((digest, journals));
    }

    /// The journal run that is asked for and not sealed yet.
    pub fn open_journal_run(&self) -> Option<&JournalRun> {
        self.control.open_journal_run.as_ref()
    }

    /// The open cut.
    pub fn open_cut(&self) -> Option<&Cut> {
        self.open_cut.as_ref().map(|open| &open.cut)
    }
}

/// The record that a new version of a resource makes; `None` if the catalog has it already.
///
/// # Errors
/// [`PutError`].
pub fn propose_put(
    catalog: &Catalog,
    kind: &str,
    id: &str,
    body: serde_json::Value,
    actor: &str,
) -> Result<Option<ControlRecord>, PutError> {
    let checked = checked_put(catalog, kind, id, body, actor)?;
    Ok(checked.map(|(_, put)| ControlRecord::Put(put)))
}

/// A resource that the catalog takes, and its record; `None` if the catalog has it already.
fn checked_put(
    catalog: &Catalog,
    kind: &str,
    id: &str,
    body: serde_json::Value,
    actor: &str,
) -> Result<Option<(Resource, Put)>, PutError> {
    let known =
        ResourceKind::parse(kind).ok_or_else(|| PutError::KindMustBeKnown { kind: kind.to_string() })?;
    let resource = Resource::from_json(known, id, body)?;
    let version = match catalog.admit(&resource)? {
        Change::Unchanged => return Ok(None),
        Change::Create => 1,
        Change::NewVersion(version) => version,
    };
    let body = resource.to_json();
    let digest = digest_of(&body).expect("a resource has no floats");
    let put =
        Put { kind: kind.to_string(), id: id.to_string(), version, digest, body, actor: actor.to_string() };
    Ok(Some((resource, put)))
}
